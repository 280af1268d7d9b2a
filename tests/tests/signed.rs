//! Plans signed from end to end: the indexer makes a key and signs what it stores, the server, which has
//! no key, hands out both over HTTP, the client takes what is signed and nothing else, and Debian's
//! `minisign` says so too.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_db::{BuildId, Record, Store};
use nfdrop_tests::{corpus_dir, programs::program};
use rusqlite::Connection;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};
use tempfile::TempDir;

/// What is asked for, and another that is there.
const KERNELS: [&str; 2] = ["debian-6.12.117+deb13-cloud-amd64", "debian-7.2.13+deb14-cloud-amd64"];

/// A run of a program: exit code, stdout, stderr.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A key, and a database that was filled with it.
struct Indexed {
    folder: TempDir,
    ids: Vec<BuildId>,
}

impl Indexed {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

static INDEXED: LazyLock<Indexed> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let indexer = |arguments: &[&str]| {
        let mut command = program("nfdrop-indexer").unwrap();
        run(command.args(arguments).current_dir(folder.path()))
    };
    for key in ["nfdrop.key", "other.key"] {
        let (code, stdout, stderr) = indexer(&["keygen", key]);
        assert_eq!((code, stdout.lines().count()), (0, 1), "{stderr}");
    }
    let files = KERNELS.map(|name| corpus_dir().join(format!("{name}.json")));
    let files = files.each_ref().map(|path| path.to_str().unwrap());
    let (code, stdout, stderr) =
        indexer(&["add", files[0], files[1], "--db", "signed", "--sign-key", "nfdrop.key"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let ids = stdout.lines().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect();
    Indexed { folder, ids }
});

/// The database, changed.
fn changed(name: &str, change: impl FnOnce(&Connection, &BuildId, &BuildId)) -> PathBuf {
    let path = INDEXED.path(name);
    fs::copy(INDEXED.path("signed"), &path).unwrap();
    let connection = Connection::open(&path).unwrap();
    change(&connection, &INDEXED.ids[0], &INDEXED.ids[1]);
    connection.close().unwrap();
    path
}

/// The server over a database, until it is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(database: &Path) -> Self {
        let mut command = program("nfdrop-server").unwrap();
        command.arg("--db").arg(database).args(["--listen", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let mut server = Self { child, address: String::new() };
        let address = line.trim().strip_prefix("listening on http://").expect(&line);
        address.clone_into(&mut server.address);
        server
    }

    /// The body of an answer, which has to be 200 and as long as it says.
    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let (head, body) = answer.split_at(end + 4);
        let head = String::from_utf8(head.to_vec()).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        body.to_vec()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client, which trusts this key, asks this server for the first kernel's plan.
fn ask(server: &Server, key: &str) -> (i32, String, String) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = program("nfdrop-client").unwrap();
    command.env("NFDROP_CACHE_PATH", cache.path());
    command.args(["plan", "--build-id", &INDEXED.ids[0].to_string(), "--pubkey"]);
    command.arg(INDEXED.path(key)).args(["--server", &format!("http://{}", server.address)]);
    run(&mut command)
}

#[test]
fn a_signed_plan_is_taken() {
    let server = Server::start(&INDEXED.path("signed"));
    let (code, stdout, stderr) = ask(&server, "nfdrop.pub");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("nft_do_chain+0x"), "{stdout}");
    // And of a fleet: a plan that hosts would not take does not cover them.
    let hosts = INDEXED.path("hosts");
    let [first, second] = &INDEXED.ids[..] else { panic!("two builds") };
    fs::write(&hosts, format!("{first}\n{second}\n{second}\n")).unwrap();
    for (key, code, says) in [
        ("nfdrop.pub", 0, "3 of 3 hosts are covered"),
        ("other.pub", 2, "0 of 3 hosts are covered"),
    ] {
        let mut command = program("nfdrop-client").unwrap();
        command.arg("plan").arg("--hosts").arg(&hosts).arg("--pubkey").arg(INDEXED.path(key));
        let ended = run(command.args(["--server", &format!("http://{}", server.address)]));
        assert!(ended.0 == code && ended.2.starts_with(says), "{ended:?}");
    }
}

#[test]
fn anything_else_is_refused_with_a_sentence() {
    let tampered = changed("tampered", |connection, id, _| {
        let store = Store::open_read_only(INDEXED.path("signed")).unwrap();
        let bytes = store.record(id).unwrap().unwrap();
        let mut record = Record::parse_canonical(&bytes).unwrap();
        // The same plan, as valid as before, for the instruction beside.
        record.plan.as_mut().unwrap().probes[0].offset.0 += 1;
        let sql = "UPDATE builds SET record = ?2 WHERE build_id = ?1";
        assert_eq!(connection.execute(sql, (id.to_string(), record.to_bytes())).unwrap(), 1);
    });
    let moved = changed("moved", |connection, id, other| {
        let sql = "UPDATE builds SET signature = (SELECT signature FROM builds WHERE build_id = ?2) \
                   WHERE build_id = ?1";
        assert_eq!(connection.execute(sql, (id.to_string(), other.to_string())).unwrap(), 1);
    });
    let unsigned = changed("unsigned", |connection, _, _| {
        assert_eq!(connection.execute("UPDATE builds SET signature = NULL", ()).unwrap(), 2);
    });
    let not_one = "its signature is not one of";
    for (database, key, says) in [
        (&tampered, "nfdrop.pub", not_one),
        (&moved, "nfdrop.pub", not_one),
        (&INDEXED.path("signed"), "other.pub", not_one),
        (&unsigned, "nfdrop.pub", "it is not signed, and only plans signed with"),
    ] {
        let (code, stdout, stderr) = ask(&Server::start(database), key);
        assert_eq!((code, stdout.as_str()), (3, ""), "{}: {stderr}", database.display());
        assert!(stderr.contains(says), "{}: {stderr}", database.display());
    }
    // The owner finds what was moved without any key, and the key mends it.
    let problems = Store::open_read_only(&moved).unwrap().check().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    for database in [&moved, &unsigned] {
        let mut command = program("nfdrop-indexer").unwrap();
        command.arg("sign").arg("--db").arg(database);
        command.env("NFDROP_SIGN_KEY", INDEXED.path("nfdrop.key"));
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        let (code, _, stderr) = ask(&Server::start(database), "nfdrop.pub");
        assert_eq!((code, stderr.as_str()), (0, ""));
    }
}

#[test]
fn minisign_verifies_what_is_fetched() {
    let server = Server::start(&INDEXED.path("signed"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let id = &INDEXED.ids[0];
    for name in ["plan", "plan.minisig"] {
        fs::write(path(name), server.get(&format!("/buildid/{id}/{name}"))).unwrap();
    }
    let verify = |key: &str| {
        let mut command = Command::new("minisign");
        command.arg("-V").arg("-p").arg(INDEXED.path(key));
        run(command.arg("-m").arg(path("plan")).arg("-x").arg(path("plan.minisig")))
    };
    let (code, stdout, stderr) = verify("nfdrop.pub");
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains(&format!("Trusted comment: nfdrop plan of build {id}\n")), "{stdout}");
    assert_ne!(verify("other.pub").0, 0);
    let mut plan = fs::read(path("plan")).unwrap();
    *plan.last_mut().unwrap() ^= 1;
    fs::write(path("plan"), plan).unwrap();
    assert_ne!(verify("nfdrop.pub").0, 0);
}

#[test]
fn a_key_of_minisigns_own_signs_plans() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut generate = Command::new("minisign");
    generate.arg("-G").arg("-p").arg(path("own.pub")).arg("-s").arg(path("own.key"));
    // It asks for the password and its repetition, on stdin where there is no terminal.
    let mut child = generate.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\nsecret\n").unwrap();
    assert!(child.wait().unwrap().success());
    let database = changed("own", |_, _, _| ());
    let mut command = program("nfdrop-indexer").unwrap();
    command.arg("sign").arg("--db").arg(&database).arg("--sign-key").arg(path("own.key"));
    let (code, stdout, stderr) = run(command.env("NFDROP_SIGN_PASSWORD", "secret"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.ends_with(": 2 builds, 2 signed now\n"), "{stdout}");
    fs::copy(path("own.pub"), INDEXED.path("own.pub")).unwrap();
    let server = Server::start(&database);
    assert_eq!(ask(&server, "own.pub").0, 0);
    assert_eq!(ask(&server, "nfdrop.pub").0, 3, "it is signed anew");
}
