//! What a database lives through: crawls that are killed while it is served, disks that are full.

use super::{
    crawl::{Place, build_id, mirror, reads, run},
    support::{
        done, indexer,
        mirror::{Mirror, Point, Server},
    },
};
use nfdrop_db::Store;
use nfdrop_server::{App, Database, serve, serve::Limits};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

/// The command says that the database is sound.
fn is_sound(db: &Path, when: &str) {
    let output = indexer(&["db", "check", "--db"]).arg(db).output().unwrap();
    let (code, stdout, stderr) = done(&output);
    assert_eq!(code, 0, "{when}: {stdout}{stderr}");
}

/// A server over a database, and clients that ask it without a pause.
struct Served {
    runtime: Runtime,
    url: String,
    answered: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    _shutdown: oneshot::Sender<()>,
}

impl Served {
    /// `known` has a plan from the start.
    fn start(db: &Path, known: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let database = Database::open(db).unwrap();
        let (shutdown, ended) = oneshot::channel::<()>();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(database.clone().follow());
        let service = nfdrop_server::service::Service::from(App::new(database, None));
        let shutdown_done = async move { drop(ended.await) };
        runtime.spawn(serve(listener, service, None, Limits::default(), shutdown_done));
        let mut front = Self {
            runtime,
            url,
            answered: Arc::default(),
            wrong: Arc::default(),
            stop: Arc::default(),
            clients: Vec::new(),
            _shutdown: shutdown,
        };
        // Fails only where it has been done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for path in [format!("/buildid/{known}/plan"), "/v1/kernels".into(), "/healthz".into()] {
            let url = format!("{}{path}", front.url);
            let (answered, wrong) = (Arc::clone(&front.answered), Arc::clone(&front.wrong));
            let (stop, http) = (Arc::clone(&front.stop), reqwest::Client::new());
            front.clients.push(front.runtime.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let whole = async {
                        let answer = http.get(&url).send().await?.error_for_status()?;
                        answer.bytes().await
                    };
                    match whole.await {
                        Ok(_) => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => wrong.lock().unwrap().push(format!("{url}: {error:?}")),
                    }
                }
            }));
        }
        front
    }

    /// Waits until this build has a plan, which has come with the last crawl.
    fn has(&self, build: &str) {
        let url = format!("{}/buildid/{build}/plan", self.url);
        let status = async || reqwest::get(&url).await.unwrap().status();
        while self.runtime.block_on(status()) != 200 {
            assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
        }
    }

    /// How many were answered; none was without its answer.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            self.runtime.block_on(client).unwrap();
        }
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
        self.answered.load(Ordering::SeqCst)
    }
}

/// Where a crawl is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// At this point of this request to the mirror.
    At(usize, Point),
    /// When it has said so many lines.
    Lines(usize),
}

impl Kill {
    fn run(self, mut command: Command, mirror: &Server) {
        match self {
            Self::At(number, point) => {
                let child = Arc::new(Mutex::new(None::<Child>));
                let (victim, (sender, killed)) = (Arc::clone(&child), mpsc::channel::<()>());
                let sender = Mutex::new(sender);
                mirror.at_every_point(move |n, p| {
                    if (n, p) == (number, point)
                        && let Some(child) = victim.lock().unwrap().as_mut()
                    {
                        child.kill().unwrap();
                        let _ = sender.lock().unwrap().send(());
                    }
                });
                // Held until the child is there to be killed.
                let mut slot = child.lock().unwrap();
                *slot = Some(command.stderr(Stdio::null()).spawn().unwrap());
                drop(slot);
                killed.recv().unwrap();
                let status = child.lock().unwrap().as_mut().unwrap().wait().unwrap();
                assert_eq!(status.code(), None, "{self:?}: it ended before it was killed");
            }
            Self::Lines(count) => {
                let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
                let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
                assert!(lines.nth(count - 1).is_some(), "{self:?}");
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        mirror.at_every_point(|_, _| {});
    }
}

#[test]
fn crawls_are_killed_while_the_database_is_served_and_nobody_notices() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let whole = Place::new();
    let (code, stderr) = run(whole.crawl(&mirror, &server.url, &["--jobs", "2"]));
    assert_eq!(code, 0, "{stderr}");
    let content = whole.content();
    let first = ["--filter", r"^6\.12\.1-"];
    let begin = |place: &Place| {
        let (code, stderr) = run(place.crawl(&mirror, &server.url, &first));
        assert_eq!(code, 0, "{stderr}");
        server.at_every_point(|_, _| {});
    };
    let place = Place::new();
    begin(&place);
    let output = place.crawl(&mirror, &server.url, &["--jobs", "2"]).output().unwrap();
    let (requests, lines) = (server.log().len(), done(&output).2.lines().count());
    // Packages are the last that is asked for; results are what it says last, but for the summary.
    let mut kills: Vec<_> =
        (0..4).map(|n| Kill::At(requests - 1 - n, [Point::Within, Point::Behind][n % 2])).collect();
    kills.extend((3..lines.min(12)).step_by(2).map(Kill::Lines));
    let known = build_id(1).to_string();
    for kill in kills {
        let place = Place::new();
        begin(&place);
        let front = Served::start(&place.db(), &known);
        kill.run(place.crawl(&mirror, &server.url, &["--jobs", "2"]), &server);
        is_sound(&place.db(), &format!("{kill:?}"));
        let (code, stderr) = run(place.crawl(&mirror, &server.url, &["--jobs", "2"]));
        assert_eq!(code, 0, "{kill:?}: {stderr}");
        front.has(&build_id(3).to_string());
        assert!(front.end() > 0);
        assert_eq!(place.content(), content, "{kill:?}");
    }
}

/// A small file system of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and said so, where this machine does not let it be mounted.
    #[expect(clippy::print_stderr, reason = "who runs the tests should know what was left out")]
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(folder.path());
        match command.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                eprintln!("not run: a tmpfs cannot be mounted, which takes root: {other:?}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Leaves so much room.
    fn fill(&self, room: u64) {
        let mut file = File::create(self.ballast()).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
        let length = file.metadata().unwrap().len();
        file.set_len(length - room).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// A crawl of all with database and cache in these places.
fn crawl(mirror: &Mirror, url: &str, db: &Path, cache: &Path, more: &[&str]) -> (i32, String) {
    let archive = format!("debian={url}");
    let mut command = indexer(&["crawl", "--mirror", &archive, "--keyring", &mirror.keyring()]);
    run({
        command.arg("--db").arg(db).arg("--cache").arg(cache).args(more);
        command
    })
}

#[test]
fn a_full_disk_stops_a_crawl_with_a_sentence_and_room_lets_it_go_on() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let whole = Place::new();
    assert_eq!(run(whole.crawl(&mirror, &server.url, &[])).0, 0);
    let content = whole.content();
    let folder = tempfile::tempdir().unwrap();
    let first = ["--filter", r"^6\.12\.1-"];
    for full in ["database", "cache"] {
        let Some(disk) = Disk::mount() else { return };
        let place = |what: &str| {
            let on = if what == full { disk.0.path() } else { folder.path() };
            on.join(format!("{what} {full}"))
        };
        let (db, cache) = (place("database"), place("cache"));
        let (code, stderr) = crawl(&mirror, &server.url, &db, &cache, &first);
        assert_eq!(code, 0, "{stderr}");
        let record = || Store::open_read_only(&db).unwrap().record(&build_id(1)).unwrap().unwrap();
        let before = record();
        // Less than the packages take, which are small here; more than the database's log has to have.
        disk.fill(if full == "cache" { 8 << 10 } else { 64 << 10 });
        let (code, stderr) = crawl(&mirror, &server.url, &db, &cache, &[]);
        assert_eq!(code, 1, "{full}: {stderr}");
        let db_says = format!(
            "error: no space left for the database {}; it is intact: free some space and start again",
            db.display()
        );
        let says: &[&str] = match full {
            "database" => &[&db_says],
            _ => &["fetch_failed: the cache ", "cannot be used: No space left on device"],
        };
        reads(&stderr, says);
        is_sound(&db, full);
        assert_eq!(record(), before, "what was stored stays");
        disk.empty();
        let (code, stderr) = crawl(&mirror, &server.url, &db, &cache, &[]);
        assert_eq!(code, 0, "{full}: {stderr}");
        is_sound(&db, full);
        assert_eq!(Store::open_read_only(&db).unwrap().content_dump().unwrap(), content, "{full}");
    }
}
