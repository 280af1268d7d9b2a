//! `make bench-server`: how many questions a second the server answers, beside a bare axum handler that
//! returns the same bytes from memory and Debian's debuginfod, with the same load (wrk) on the same machine
//! in the same run. Prints figures and never fails because of them, as `make bench`.
//!
//! The bare handler has a map of all bodies by build-id, and nothing else to do: that of a million builds
//! misses the processor's caches as often as the server's records do. With one body for whatever is asked
//! it would measure the caches.
//!
//! The databases are made up: every build has a body of its own, so that nothing is shared but layouts, of
//! which there is one for twenty builds. They are kept for the next run below the cache of this project.

#![expect(clippy::print_stdout, reason = "the figures are this program's data")]

use anyhow::{Context as _, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::{Path as PathOf, State},
    http::{StatusCode, header},
    routing::get,
};
use nfdrop_db::{BuildId, FnOffset, Record, Store, sample};
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, ErrorKind::WouldBlock, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const SMALL: u64 = 1_000;
const LARGE: u64 = 1_000_000;
/// Seconds of each measurement.
const SECONDS: u32 = 4;
/// How often server and bare handler take turns. A machine that others share has its moods: only what was
/// measured at the same time can be compared.
const TURNS: usize = 5;
/// How often it is looked how well-behaved clients fare beside hostile ones.
const ROUNDS: usize = 8;
/// Connections under full load.
const CONNECTIONS: u32 = 64;
/// The number of a build that is in no database, as load.lua asks for.
const UNKNOWN: u64 = 1_000_000_000;
/// Mean milliseconds that connections pause between two questions below full load.
const PAUSE: u32 = 5;
const SERVER: &str = env!("CARGO_BIN_EXE_nfdrop-server");

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let part = arguments.next();
    if part.as_deref() == Some("bare") {
        let builds = arguments.next().context("how many builds?")?.parse()?;
        return bare(builds, arguments.next().context("what of others?")?);
    }
    let cache = env::var_os("NFDROP_CACHE_PATH").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache/nfdrop"));
    let cache = cache.or_else(home).context("there is no cache: set HOME or NFDROP_CACHE_PATH")?;
    fs::create_dir_all(&cache)?;
    println!("{:<34} {:>10} {:>9} {:>9}", "", "answers/s", "p50 µs", "p99 µs");
    let small = database(&cache, SMALL)?;
    if part.as_deref() == Some("hostile") {
        return hostile(&small);
    }
    let large = database(&cache, LARGE)?;
    let mut reference = None;
    for (path, builds) in [(&small, SMALL), (&large, LARGE)] {
        let start = Instant::now();
        let server = start_server(path)?;
        let ready = start.elapsed().as_secs_f64();
        let resident = server.resident()?;
        println!("nfdrop-server, {builds} builds, ready after {ready:.1} s, {resident} MiB");
        let bare = start_bare(&server, builds)?;
        println!("bare axum handler, the same bodies, {} MiB", bare.resident()?);
        for number in (0..builds).step_by(builds as usize / 100) {
            let ask = |of: &Running| body(&of.address, &format!("/buildid/{}/plan", id(number)?));
            ensure!(ask(&server)? == ask(&bare)?, "other bodies: remove {}", path.display());
        }
        server.wait_until_idle()?;
        let count = builds.to_string();
        for kind in ["hit", "same", "miss"] {
            let (load, of_bare) =
                in_turns(&server, &bare, [CONNECTIONS; 2], &[kind, &count, "0"], |load| load.rate)?;
            line(&format!("  {}", name(kind)), &load, Some(&of_bare));
            line("    the bare handler", &of_bare, None);
            if kind != "hit" {
                continue;
            }
            if builds == LARGE {
                at_half(&server, &bare, &count, [load.rate, of_bare.rate])?;
            }
            reference = reference.or(Some(of_bare));
        }
        let batch = load(&server.address, &["batch", &count, "0"], 4)?;
        println!(
            "  {:<32} {:>10.0} ids a second",
            "batch of 10,000, status only",
            batch.rate * 10_000.0
        );
        println!("  {:<32} {:>10} MiB", "resident after that", server.resident()?);
    }
    debuginfod(&reference.context("nothing was measured")?)?;
    hostile(&small)
}

fn start_server(database: &Path) -> anyhow::Result<Running> {
    Running::start(
        Command::new(SERVER).arg("--db").arg(database).args(["--listen", "127.0.0.1:0"]),
        "listening on http://",
    )
}

/// Says of builds that it does not know what the server says of one.
fn start_bare(server: &Running, builds: u64) -> anyhow::Result<Running> {
    let unknown = body(&server.address, &format!("/buildid/{}/plan", id(UNKNOWN)?))?;
    let mut command = Command::new(env::current_exe()?);
    Running::start(command.args(["bare", &builds.to_string(), &unknown]), "listening on ")
}

/// Hits at half of what server and bare handler did at full load, each of its own.
fn at_half(server: &Running, bare: &Running, builds: &str, full: [f64; 2]) -> anyhow::Result<()> {
    let script = ["hit", builds, &PAUSE.to_string()];
    let mut connections = [0; 2];
    for ((asked, full), connections) in [server, bare].into_iter().zip(full).zip(&mut connections) {
        let fewest = full / 2.0 * f64::from(PAUSE) / 1000.0;
        let mut wanted = fewest;
        // An answer and wrk's timer take their time too: how many it takes is found by trying. Where the
        // machine has become slower since, no number would do.
        for _ in 0..3 {
            let tried = load(&asked.address, &script, wanted.ceil() as u32)?;
            wanted = (wanted * full / 2.0 / tried.rate).clamp(fewest / 2.0, fewest * 2.0);
        }
        *connections = wanted.ceil() as u32;
    }
    let loads: [Load; 2] = in_turns(server, bare, connections, &script, |load| load.p99)?.into();
    for ((who, load), full) in ["hits", "  the bare handler"].into_iter().zip(loads).zip(full) {
        let share = 100.0 * load.rate / full;
        line(&format!("  {who}, {share:.0} % of its load"), &load, None);
    }
    Ok(())
}

/// Well-behaved clients beside others that are not.
fn hostile(database: &Path) -> anyhow::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most)?;
    let server = start_server(database)?;
    let script = ["hit", "1000", "2"];
    let alone = load(&server.address, &script, 16)?;
    line("16 clients that pause, alone", &alone, None);
    let before = server.resident()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacks: [fn(&str, &AtomicBool); 5] = [idle, slow_heads, slow_bodies, garbage, paths];
        for attack in attacks {
            let (address, stop) = (&server.address, &stop);
            scope.spawn(move || attack(address, stop));
        }
        let measured = (0..ROUNDS).map(|_| {
            let load = load(&server.address, &script, 16)?;
            line("  beside hostile ones", &load, None);
            println!("  {:<32} {:>10} MiB", "resident", server.resident()?);
            Ok(())
        });
        let measured: anyhow::Result<()> = measured.collect();
        stop.store(true, Relaxed);
        measured
    })?;
    println!("  {:<32} {before:>10} MiB", "resident before");
    Ok(())
}

/// Five thousand connections on which nothing is said; those that are closed are opened again.
fn idle(address: &str, stop: &AtomicBool) {
    let mut open: Vec<TcpStream> = vec![];
    while !stop.load(Relaxed) {
        while open.len() < 5_000
            && let Ok(stream) = TcpStream::connect(address)
        {
            let _ = stream.set_nonblocking(true);
            open.push(stream);
        }
        open.retain(
            |stream| matches!(stream.peek(&mut [0]), Err(error) if error.kind() == WouldBlock),
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Heads and bodies that come a byte at a time.
fn trickle(address: &str, stop: &AtomicBool, begin: &str, more: &str) {
    let mut open: Vec<TcpStream> = vec![];
    while !stop.load(Relaxed) {
        while open.len() < 300
            && let Ok(mut stream) = TcpStream::connect(address)
        {
            let _ = stream.write_all(begin.as_bytes());
            open.push(stream);
        }
        open.retain_mut(|stream| stream.write_all(more.as_bytes()).is_ok());
        thread::sleep(Duration::from_millis(100));
    }
}

fn slow_heads(address: &str, stop: &AtomicBool) {
    trickle(address, stop, "GET / HTTP/1.1\r\nhost: a\r\nx: ", "y");
}

fn slow_bodies(address: &str, stop: &AtomicBool) {
    let begin = "POST /v1/plans HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    trickle(address, stop, begin, " ");
}

fn send(address: &str, bytes: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 4096]);
    }
    thread::sleep(Duration::from_millis(1));
}

/// Huge heads, and what is no HTTP, one behind the other.
fn garbage(address: &str, stop: &AtomicBool) {
    let huge = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let pipelined =
        "GET /healthz/live HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50) + "\u{0}\u{1}garbage\r\n\r\n";
    while !stop.load(Relaxed) {
        send(address, huge.as_bytes());
        send(address, pipelined.as_bytes());
        send(address, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    }
}

fn paths(address: &str, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        for path in [
            "/buildid/../../etc/passwd",
            "/buildid/%00/plan",
            "/buildid/ZZ/plan",
            "//",
            "/search?q=%ff",
        ] {
            send(
                address,
                format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes(),
            );
        }
    }
}

fn name(kind: &str) -> &'static str {
    match kind {
        "hit" => "hits",
        "same" => "hits that are known (304)",
        _ => "misses",
    }
}

/// The same questions to the server and to the bare handler, one after the other, on so many connections:
/// of either the turn that is the median.
fn in_turns(
    server: &Running,
    bare: &Running,
    connections: [u32; 2],
    script: &[&str],
    by: fn(&Load) -> f64,
) -> anyhow::Result<(Load, Load)> {
    let mut turns = [vec![], vec![]];
    for _ in 0..TURNS {
        for ((turns, asked), connections) in turns.iter_mut().zip([server, bare]).zip(connections) {
            turns.push(load(&asked.address, script, connections)?);
        }
    }
    let [server, bare] = turns.map(|mut turns| {
        turns.sort_by(|a, b| by(a).total_cmp(&by(b)));
        turns.swap_remove(TURNS / 2)
    });
    Ok((server, bare))
}

/// What wrk has measured.
struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn line(what: &str, load: &Load, reference: Option<&Load>) {
    print!("{what:<34} {:>10.0} {:>9} {:>9}", load.rate, load.p50, load.p99);
    if let Some(reference) = reference {
        print!("   {:.2} of the bare handler", load.rate / reference.rate);
    }
    println!();
}

fn load(address: &str, script: &[&str], connections: u32) -> anyhow::Result<Load> {
    let threads = connections.min(2);
    let output = Command::new("wrk")
        .args(["-t", &threads.to_string(), "-c", &connections.to_string()])
        .args(["-d", &SECONDS.to_string(), "--timeout", "10"])
        .args(["-s", concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load.lua")])
        .arg(format!("http://{address}"))
        .arg("--")
        .args(script)
        .output()
        .context("wrk: Debian's package has it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let numbers: Vec<f64> = result
        .with_context(|| format!("wrk says {text}{}", String::from_utf8_lossy(&output.stderr)))?
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [requests, micros, p50, p99, _, broken] = numbers[..] else {
        anyhow::bail!("wrk says {text}")
    };
    ensure!(broken == 0.0, "{broken} connections broke: {text}");
    Ok(Load { rate: requests / (micros / 1e6), p50, p99 })
}

/// A server that is ended when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    /// Its address is what stands behind `prefix` in the first line of stderr that has it.
    fn start(command: &mut Command, prefix: &str) -> anyhow::Result<Self> {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut running = Self { child, address: String::new() };
        for line in BufReader::new(stderr).lines() {
            if let Some(address) = line?.strip_prefix(prefix) {
                address.clone_into(&mut running.address);
                return Ok(running);
            }
        }
        anyhow::bail!("a server has ended")
    }

    /// Until it has nothing left to compress that nobody has asked for.
    fn wait_until_idle(&self) -> anyhow::Result<()> {
        let ticks = || -> anyhow::Result<u64> {
            let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
            let (_, fields) = stat.rsplit_once(") ").context("no command")?;
            // User's and system's time: the 14th and the 15th, of which the command was the second.
            Ok(fields.split(' ').skip(11).take(2).flat_map(str::parse::<u64>).sum())
        };
        let mut before = ticks()?;
        loop {
            thread::sleep(Duration::from_millis(500));
            let after = ticks()?;
            if after <= before + 1 {
                return Ok(());
            }
            before = after;
        }
    }

    /// MiB.
    fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()).context("no VmRSS")?;
        Ok(kib.parse::<u64>()? >> 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side: axum as its documentation shows it, with the bytes of as many records in memory.
#[tokio::main]
async fn bare(builds: u64, unknown: String) -> anyhow::Result<()> {
    let made = (0..builds).into_par_iter().map(|number| {
        let body = record(number).to_bytes().into_boxed_slice();
        Ok((id(number)?.to_string(), Bytes::from(body)))
    });
    let bodies: HashMap<String, Bytes> = made.collect::<anyhow::Result<_>>()?;
    let held = Arc::new((bodies, Bytes::from(unknown)));
    let router = Router::new().route("/buildid/{hex}/plan", get(answer)).with_state(held);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stderr(), "listening on {}", listener.local_addr()?)?;
    axum::serve(listener, router).await?;
    Ok(())
}

async fn answer(
    PathOf(hex): PathOf<String>,
    State(held): State<Arc<(HashMap<String, Bytes>, Bytes)>>,
) -> (StatusCode, [(header::HeaderName, &'static str); 1], Bytes) {
    let (bodies, unknown) = &*held;
    let (status, body) = match bodies.get(&hex) {
        Some(body) => (StatusCode::OK, body),
        None => (StatusCode::NOT_FOUND, unknown),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body.clone())
}

/// As `load.lua` makes it.
fn id(number: u64) -> anyhow::Result<BuildId> {
    Ok(format!("{:08x}{number:032x}", mixed(number)).parse()?)
}

fn mixed(number: u64) -> u64 {
    number.wrapping_mul(2_654_435_761) % (1 << 32)
}

/// A record as a real one is in its size, and like no other in its body.
fn record(number: u64) -> Record {
    let id = id(number).unwrap_or_else(|_| unreachable!("40 digits"));
    if number % 50 == 49 {
        return sample::unresolved(id);
    }
    let mut plan = sample::plan(id);
    plan.symbol_size = 0x10000;
    plan.body_sha256.0[..8].copy_from_slice(&number.to_be_bytes());
    plan.probes[0].offset = FnOffset((number % 0x3fff) as u32 + 1);
    plan.probes[1].offset = FnOffset((number % 0x3fff) as u32 + 0x4000);
    for member in 0..27 {
        plan.layout.offsets.insert(
            format!("some_struct_{member}.a_member"),
            ((number / 20 + member) % 4096) as u32,
        );
    }
    Record::resolved(plan)
}

fn database(cache: &Path, builds: u64) -> anyhow::Result<PathBuf> {
    let path = cache.join(format!("bench-3-{builds}.sqlite"));
    if path.exists() {
        return Ok(path);
    }
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let store = Store::create_or_open(&new)?;
    let start = Instant::now();
    let kernel = |number: u64| {
        sample::kernel(record(number), &format!("6.{}.{number}-bench-amd64", number % 20))
    };
    // In the order of their ids, so that pages of the file are written once.
    let mut numbers: Vec<u64> = (0..builds).collect();
    numbers.sort_by_cached_key(|number| mixed(*number));
    for page in numbers.chunks(10_000) {
        let page: Vec<_> = page.iter().map(|number| kernel(*number)).collect();
        store.put_kernels(&page)?;
    }
    store.finish()?;
    drop(store);
    println!("{builds} builds made in {:.1} s", start.elapsed().as_secs_f64());
    fs::rename(new, &path)?;
    Ok(path)
}

/// Debian's debuginfod, asked for an executable that is as small as a plan.
fn debuginfod(reference: &Load) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("small.s");
    fs::write(&source, ".globl _start\n_start: mov $60, %eax\n syscall\n")?;
    let files = folder.path().join("files");
    fs::create_dir(&files)?;
    let built = Command::new("cc")
        .args(["-nostdlib", "-static", "-s", "-Wl,--build-id=sha1", "-Wl,-z,noseparate-code", "-o"])
        .args([files.join("small"), source])
        .status()?;
    ensure!(built.success(), "cc has failed");
    let notes = Command::new("readelf").arg("-n").arg(files.join("small")).output()?;
    let notes = String::from_utf8_lossy(&notes.stdout).into_owned();
    let id = notes.split("Build ID: ").nth(1).and_then(|text| text.split_whitespace().next());
    let id = id.with_context(|| format!("no build-id in {notes}"))?.to_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let log = File::create(folder.path().join("log"))?;
    let child = Command::new("debuginfod")
        .args(["-F", "-d", ":memory:", "-p", &port.to_string()])
        .arg(&files)
        .env("HOME", folder.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let Ok(child) = child else {
        println!("debuginfod is not there: Debian's package has it");
        return Ok(());
    };
    let server = Running { child, address: format!("127.0.0.1:{port}") };
    let path = format!("/buildid/{id}/executable");
    let start = Instant::now();
    while !has(&server.address, &path) {
        ensure!(start.elapsed() < Duration::from_mins(1), "debuginfod has indexed nothing");
        thread::sleep(Duration::from_millis(100));
    }
    let size = fs::metadata(files.join("small"))?.len();
    let peer = load(&server.address, &["fixed", "1", "0", &path], CONNECTIONS)?;
    line(&format!("debuginfod, a file of {size} bytes"), &peer, Some(reference));
    println!("a bare handler is {:.1} times debuginfod", reference.rate / peer.rate);
    Ok(())
}

fn has(address: &str, path: &str) -> bool {
    ask(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The body of a JSON answer.
fn body(address: &str, path: &str) -> anyhow::Result<String> {
    let answer = ask(address, path)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.contains("content-type: application/json"), "{head}");
    Ok(body.to_owned())
}

fn ask(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
