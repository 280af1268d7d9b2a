//! `make bench-crawl`: what a crawl of the kernels in the cache costs from the first byte to the stored
//! plan, and beside it what it costs to take the two files out of the same packages with dpkg-deb and
//! tar. Packages come from a server on the loopback interface into an empty cache. Prints figures and
//! never fails because of them, as `make bench`.
//!
//! Either side is a process of its own that is waited for, so that its CPU time is the system's word:
//! user and system, all threads, of all its children. As many kernels are under way at a time as there
//! are processors, on either side.

#![expect(clippy::print_stdout, reason = "the figures are this program's data")]

mod common;

use anyhow::Context as _;
use common::{Cached, cached, percent, stored};
use nfdrop_db::{KernelRelease, Store, hex, store::Outcome};
use nfdrop_indexer::{
    analysis::{Bodies, analyse},
    crawl,
    fetch::{Download, Fetcher, Options, Silent, default_cache},
};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Flavours, and what a kernel of each may take.
const GOALS: [(&str, Duration); 2] =
    [("cloud-amd64", Duration::from_millis(1200)), ("amd64", Duration::from_millis(1600))];
/// Resident, in MiB.
const MEMORY_GOAL: u64 = 600;
/// Ticks in a second: the kernel's interface has 100 on every machine that kernels here are for.
const USER_HZ: u64 = 100;
/// Has this program do the work of a crawl, and be measured from outside.
const WORK: &str = "work";
/// The other side, of one package and one place to write to.
const PEER: &str = r#"dpkg-deb --fsys-tarfile "$1" |
    tar -x -C "$2" --wildcards '*/nf_tables.ko*' '*/vmlinuz*' 2>/dev/null || true"#;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if arguments.next().as_deref() == Some(WORK) {
        return work(&arguments.collect::<Vec<_>>());
    }
    let cache = default_cache().context("there is no cache: set HOME or NFDROP_CACHE_PATH")?;
    let packages = cache.join("packages");
    let kernels = cached(&packages);
    let url = serve(packages)?;
    let jobs = thread::available_parallelism()?.get();
    println!("from the first byte to the stored plan, {jobs} kernels at a time\n");
    println!(
        "{:<12} {:>7} {:>12} {:>8} {:>8} {:>6} {:>8}   {:>12} {:>8}   {:>8} {:>8}",
        "flavour",
        "kernels",
        "CPU s/kernel",
        "of goal",
        "s",
        "busy",
        "MiB",
        "dpkg CPU s/k",
        "s",
        "CPU",
        "time"
    );
    for (name, goal) in GOALS {
        let kernels: Vec<_> =
            kernels.iter().filter(|k| KernelRelease(&k.release).flavour() == name).collect();
        if kernels.is_empty() {
            println!("{name:<12} {:>7}", 0);
            continue;
        }
        let (ours, output) = measured(|| crawled(&url, jobs, &kernels))?;
        let (theirs, ()) = measured(|| unpacked(jobs, &kernels))?;
        let each = |cost: &Cost| cost.cpu / u32::try_from(kernels.len()).unwrap_or(1);
        let share = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let processors = ours.wall * u32::try_from(jobs).unwrap_or(1);
        println!(
            "{name:<12} {:>7} {:>12.3} {:>8} {:>8.2} {:>6} {:>8}   {:>12.3} {:>8.2}   {:>8.2} {:>8.2}",
            kernels.len(),
            each(&ours).as_secs_f64(),
            percent(each(&ours), goal),
            ours.wall.as_secs_f64(),
            percent(ours.cpu, processors),
            output.trim(),
            each(&theirs).as_secs_f64(),
            theirs.wall.as_secs_f64(),
            share(ours.cpu, theirs.cpu),
            share(ours.wall, theirs.wall),
        );
    }
    println!(
        "\nbusy: CPU time of the time that all processors had\ngoals: {:.1} and {:.1} s of CPU a kernel, {MEMORY_GOAL} MiB resident, and both last columns, \
         which are shares of what dpkg-deb and tar take, below 1",
        GOALS[0].1.as_secs_f64(),
        GOALS[1].1.as_secs_f64()
    );
    Ok(())
}

/// What children took.
struct Cost {
    cpu: Duration,
    wall: Duration,
}

fn measured<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Cost, T)> {
    let (cpu, begun) = (children()?, Instant::now());
    let result = run()?;
    Ok((Cost { cpu: children()?.saturating_sub(cpu), wall: begun.elapsed() }, result))
}

/// CPU time of all children that were waited for: cutime and cstime, see `proc_pid_stat(5)`.
fn children() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name of the program may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat has no name")?;
    let mut fields = fields.split(' ').skip(13);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks().zip(ticks()).context("/proc/self/stat has no times")?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 1000 / USER_HZ))
}

/// Serves a folder's files.
fn serve(folder: PathBuf) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // Who hangs up has what it wanted.
            thread::spawn(move || answer(&stream, &folder));
        }
    });
    Ok(url)
}

fn answer(mut stream: &TcpStream, folder: &Path) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut file = File::open(folder.join(request.split(['/', ' ']).nth(2)?)).ok()?;
    let size = file.metadata().ok()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n")
        .ok()?;
    std::io::copy(&mut file, &mut stream).ok().map(|_| ())
}

/// This side: another process of this program. Its most resident memory, in MiB.
fn crawled(url: &str, jobs: usize, kernels: &[&Cached]) -> anyhow::Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(WORK).arg(url).arg(jobs.to_string());
    for kernel in kernels {
        command.arg(&kernel.image).arg(kernel.modules.as_ref().unwrap_or(&kernel.image));
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "the crawl has failed");
    Ok(String::from_utf8(output.stdout)?)
}

/// The other side.
fn unpacked(jobs: usize, kernels: &[&Cached]) -> anyhow::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build()?;
    let run = |kernel: &Cached| -> anyhow::Result<()> {
        for package in [Some(&kernel.image), kernel.modules.as_ref()].into_iter().flatten() {
            let folder = tempfile::tempdir()?;
            let mut command = Command::new("sh");
            command.args(["-c", PEER, "sh"]).arg(package).arg(folder.path());
            anyhow::ensure!(command.status()?.success(), "dpkg-deb has failed");
        }
        Ok(())
    };
    pool.install(|| {
        use rayon::prelude::*;
        kernels.par_iter().try_for_each(|kernel| run(kernel))
    })
}

/// What a crawl does with kernels: fetch, check, unpack, analyse, store; packages are named by hash.
fn work(arguments: &[String]) -> anyhow::Result<()> {
    let [url, jobs, packages @ ..] = arguments else { anyhow::bail!("no arguments") };
    let folder = tempfile::tempdir()?;
    let store = Store::create_or_open(folder.path().join("bench.sqlite"))?;
    let fetcher = Fetcher::new(Options::new(folder.path().join("cache")))?;
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(jobs.parse()?).build()?);
    let bodies = Arc::new(Bodies::with_listings());
    let download = |path: &str| -> anyhow::Result<Download> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let sha256 = hex::decode(name).and_then(|hash| hash.try_into().ok());
        let sha256 = sha256.context("a package that is not named by its hash")?;
        Ok(Download { url: format!("{url}/{name}"), size: fs::metadata(path)?.len(), sha256 })
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for pair in packages.chunks_exact(2) {
            let downloads = [download(&pair[0])?, download(&pair[1])?];
            let (fetcher, store) = (fetcher.clone(), store.clone());
            let (pool, bodies) = (Arc::clone(&pool), Arc::clone(&bodies));
            tasks.spawn(async move {
                let image = fetcher.verified(&downloads[0], &Silent).await?;
                let modules = if downloads[0] == downloads[1] {
                    None
                } else {
                    Some(fetcher.verified(&downloads[1], &Silent).await?)
                };
                let (sender, receiver) = tokio::sync::oneshot::channel();
                pool.spawn(move || {
                    let _ = sender.send(plan(&image, modules.as_deref(), &bodies, &store));
                });
                receiver.await?
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        anyhow::Ok(())
    })?;
    let mut status = String::new();
    File::open("/proc/self/status")?.read_to_string(&mut status)?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    println!("{}", most.context("/proc/self/status has no VmHWM")? / 1024);
    Ok(())
}

fn plan(
    image: &Path,
    modules: Option<&Path>,
    bodies: &Bodies,
    store: &Store,
) -> anyhow::Result<()> {
    let unpacked = crawl::unpack(image, modules)?;
    let analysis = analyse(unpacked.files(), bodies, |_| None);
    let record = analysis.record().context("no record")?;
    anyhow::ensure!(record.plan.is_some(), "no plan: {:?}", record.detail);
    let release = unpacked.release.context("no release")?;
    let input = analysis.input.context("the resolver did not run")?;
    let mut put = stored(&release, record, input, analysis.vmlinux_build_id);
    if let Outcome::Build(build) = &mut put.outcome {
        build.listing = analysis.listing;
    }
    store.put_kernel(&put)?;
    Ok(())
}
