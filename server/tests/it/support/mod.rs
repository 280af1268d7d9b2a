//! The real binary over a real database, on a free port of the loopback interface.

use nfdrop_db::{BuildId, Record, Store, sample};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A build with a plan.
pub(crate) const RESOLVED: &str = "0484cf000102030405060708090a0b0c0d0e0f10";
/// A build without one.
pub(crate) const UNRESOLVED: &str = "1111111111111111111111111111111111111111";
/// A build in no package.
pub(crate) const UNKNOWN: &str = "2222222222222222222222222222222222222222";

pub(crate) fn id(hex: &str) -> BuildId {
    hex.parse().unwrap()
}

/// A client; reqwest wants to be told how TLS is done, even where there is none.
pub(crate) fn client() -> reqwest::Client {
    // Fails only where it has been done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A database with one build of each kind.
pub(crate) struct Data {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
}

impl Data {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(directory.path().join("kernels.sqlite")).unwrap();
        let data = Self { directory, store };
        data.add(sample::resolved(id(RESOLVED)), "6.12.117+deb13-cloud-amd64");
        data.add(sample::unresolved(id(UNRESOLVED)), "5.10.0-46-cloud-amd64");
        data
    }

    pub(crate) fn add(&self, record: Record, release: &str) {
        self.store.put_kernel(&sample::kernel(record, release)).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("kernels.sqlite")
    }
}

/// A running server, ended when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) stderr: BufReader<ChildStderr>,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(data: &Data) -> Self {
        Self::with(data, &[])
    }

    /// With these arguments too.
    pub(crate) fn with(data: &Data, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nfdrop-server"))
            .arg("--db")
            .arg(data.path())
            .args(arguments)
            .args(if arguments.contains(&"--listen") {
                &[][..]
            } else {
                &["--listen", "127.0.0.1:0"]
            })
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // Already a Server: it is ended even when it does not start well.
        let mut server = Self { child, stderr, address: String::new() };
        let mut line = String::new();
        // Behind what it complains about.
        while !line.starts_with("listening") {
            line.clear();
            assert_ne!(server.stderr.read_line(&mut line).unwrap(), 0, "it ended");
        }
        let line = line.replace("https://", "http://");
        let address = line.trim().strip_prefix("listening on http://");
        address.expect(&line).clone_into(&mut server.address);
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends these bytes as they are, for what no HTTP library would send; all that comes back.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
