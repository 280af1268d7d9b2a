//! How long it takes to prove a plan, from the packages in the cache to the proof, and how much memory, of this
//! process and of QEMU: the kernels that `make run` has stored, under emulation on one processor.
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
    env, fs,
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
    println!("{:>7} {:>10} {:>10}  kernel", "s", "own MiB", "QEMU MiB");
    for build in run::select(&store, &Selection::Open)? {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| peak_of_qemu(&done));
            let tried = Mutex::new(None);
            let tally = prover.run(&store, std::slice::from_ref(&build), |one| {
                let result = match &one.outcome {
                    Ok(proof) => proof.result.to_string(),
                    Err(error) => format!("{error:#}"),
                };
                let line = format!("{} {result}", one.name);
                *tried.lock().unwrap_or_else(PoisonError::into_inner) = Some((one.took, line));
            });
            done.store(true, Ordering::Relaxed);
            let qemu = watcher.join().unwrap_or(0);
            let own = peak(Path::new("/proc/self")).unwrap_or(0);
            if let Some((took, line)) = tried.into_inner().unwrap_or_else(PoisonError::into_inner) {
                let took = took.as_secs_f64();
                println!("{took:>7.1} {:>10} {:>10}  {line}", own >> 10, qemu >> 10);
            }
            tally.map(drop)
        })?;
    }
    Ok(())
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

/// The most memory that a process has had, in KiB: `VmHWM` of `proc(5)`.
fn peak(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The same of the QEMU that runs meanwhile, which is gone at the end: looked at again and again.
fn peak_of_qemu(done: &AtomicBool) -> u64 {
    let mut most = 0;
    while !done.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.starts_with("qemu-system") {
                most = most.max(peak(&entry.path()).unwrap_or(0));
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    most
}
