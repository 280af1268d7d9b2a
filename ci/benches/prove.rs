//! How long it takes to prove a plan, from the packages in the cache to the proof, and how much memory this
//! process, QEMU and both together have at most: the kernels that `make run` has stored, under emulation on one
//! processor.
//!
//! `NFDROP_DB` names another database, whose packages the cache has to have.

#![expect(clippy::print_stdout, reason = "a bench prints figures")]

use anyhow::{Context as _, Result};
use nfdrop_ci::prove::{
    machine::{Accel, Qemu},
    programs,
    run::{self, Prover, Selection},
};
use nfdrop_db::Store;
use nfdrop_indexer::fetch::{Fetcher, Options, default_cache};
use std::{
    env, fs, mem,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

fn main() -> Result<()> {
    // `cargo test --benches` runs it too.
    if !env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let Some(database) = database().filter(|path| path.is_file()) else {
        println!("prove: there is no database; `make run` makes one");
        return Ok(());
    };
    // A copy: its proofs are not this bench's to replace.
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("nfdrop.sqlite");
    fs::copy(&database, &copy)?;
    let store = Store::create_or_open(&copy)?;
    let client = release("nfdrop-client")?;
    let nft = programs::find("nft").context("nft is not installed: ci/install-deps")?;
    let prover = Prover {
        qemu: Qemu::new(Path::new("qemu-system-x86_64"), Accel::Tcg)?,
        programs: run::programs(&client, &nft)?,
        fetcher: Fetcher::new(Options::new(default_cache().context("set HOME")?))?,
        jobs: 1,
    };
    println!("prove, QEMU {} (tcg), one at a time", prover.qemu.version);
    println!("{:>7} {:>8} {:>8} {:>8}  kernel", "s", "own MiB", "QEMU MiB", "together");
    let (most, done) = (Mutex::new([0; 3]), AtomicBool::new(false));
    let builds = run::select(&store, &Selection::Open)?;
    thread::scope(|scope| {
        scope.spawn(|| watch(&done, &most));
        let tally = prover.run(&store, &builds, |one| {
            let result = match &one.outcome {
                Ok(proof) => proof.result.to_string(),
                Err(error) => format!("{error:#}"),
            };
            let [own, qemu, both] =
                mem::take(&mut *most.lock().unwrap_or_else(PoisonError::into_inner));
            let (took, name) = (one.took.as_secs_f64(), &one.name);
            let [own, qemu, both] = [own, qemu, both].map(|kib| kib >> 10);
            println!("{took:>7.1} {own:>8} {qemu:>8} {both:>8}  {name} {result}");
        });
        done.store(true, Ordering::Relaxed);
        tally.map(drop)
    })
}

/// As `make run` has it.
fn database() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("NFDROP_DB")
        .or_else(|| Some(variable("XDG_DATA_HOME")?.join("nfdrop/nfdrop.sqlite")))
        .or_else(|| Some(variable("HOME")?.join(".local/share/nfdrop/nfdrop.sqlite")))
}

/// A program of the release build, beside this bench.
fn release(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let program = own.ancestors().nth(2).context("no target directory")?.join(name);
    anyhow::ensure!(program.is_file(), "{} is missing: make bench builds it", program.display());
    Ok(program)
}

/// The memory that a process has, in KiB: `VmRSS` of `proc(5)`.
fn resident(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Notes the most that this process, QEMU, and both at once have, in KiB: looked at again and again.
fn watch(done: &AtomicBool, most: &Mutex<[u64; 3]>) {
    while !done.load(Ordering::Relaxed) {
        let own = resident(Path::new("/proc/self")).unwrap_or(0);
        let qemu = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            name.starts_with("qemu-system")
        });
        let qemu = qemu.filter_map(|entry| resident(&entry.path())).max().unwrap_or(0);
        let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
        for (most, now) in most.iter_mut().zip([own, qemu, own + qemu]) {
            *most = now.max(*most);
        }
        drop(most);
        thread::sleep(Duration::from_millis(20));
    }
}
