//! A Debian mirror on the loopback interface: packages made with dpkg-deb, an index, a signed
//! `InRelease`, and a server that can end the client at any request.

use md5::{Digest as _, Md5};
use nfdrop_db::hex;
use sequoia_openpgp::{
    Cert,
    cert::CertBuilder,
    packet::{
        Key,
        key::{SecretParts, UnspecifiedRole},
    },
    policy::StandardPolicy,
    serialize::{
        Serialize as _,
        stream::{Message, Signer},
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A package to be made.
pub(crate) struct Deb {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    pub(crate) depends: String,
    /// Paths without a slash in front.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// A mirror's directory, and the key its indices are signed with.
pub(crate) struct Mirror {
    pub(crate) root: tempfile::TempDir,
    cert: Cert,
    /// By suite.
    packages: Vec<(String, String)>,
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let user = Some("Archive <archive@mirror.example>");
        let (cert, _) = CertBuilder::general_purpose(user).generate().unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut key = Vec::new();
        cert.serialize(&mut key).unwrap();
        fs::write(root.path().join("keyring.gpg"), key).unwrap();
        Self { root, cert, packages: Vec::new() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(crate) fn keyring(&self) -> String {
        self.path("keyring.gpg").to_str().unwrap().to_owned()
    }

    /// Makes a package and lists it in a suite.
    pub(crate) fn add(&mut self, suite: &str, deb: &Deb) {
        let Deb { name, version, depends, files } = deb;
        let tree = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let depends =
            if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{depends}\
             Maintainer: Nobody <nobody@mirror.example>\nDescription: a kernel\n"
        );
        write("DEBIAN/control", control.as_bytes());
        let mut sums = String::new();
        for (path, bytes) in files {
            write(path, bytes);
            writeln!(sums, "{}  {path}", hex::encode(&Md5::digest(bytes))).unwrap();
        }
        write("DEBIAN/md5sums", sums.as_bytes());
        let file = format!("pool/{name}_{version}_amd64.deb");
        let path = self.path(&file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let made = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "-z0", "--build"])
            .args([tree.path(), &path])
            // A package that two suites list is made twice, and has to be the same both times.
            .env("SOURCE_DATE_EPOCH", "1600000000")
            .output()
            .expect("dpkg-deb is there on every Debian");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let bytes = fs::read(&path).unwrap();
        let (size, hash) = (bytes.len(), hex::encode(&Sha256::digest(&bytes)));
        let stanza = format!("{control}Filename: {file}\nSize: {size}\nSHA256: {hash}\n\n");
        match self.packages.iter_mut().find(|(known, _)| known == suite) {
            Some((_, index)) => index.push_str(&stanza),
            None => self.packages.push((suite.to_owned(), stanza)),
        }
    }

    /// Forgets all packages of a suite but this one.
    pub(crate) fn keep(&mut self, suite: &str, package: &str) {
        let (_, index) = self.packages.iter_mut().find(|(known, _)| known == suite).unwrap();
        let start = format!("Package: {package}\n");
        let kept = index.split_inclusive("\n\n").filter(|stanza| stanza.starts_with(&start));
        *index = kept.collect();
    }

    /// Of the key that signs.
    pub(crate) fn fingerprint(&self) -> String {
        self.cert.fingerprint().to_hex()
    }

    /// Replaces a suite's `InRelease` by `Release` and `Release.gpg`.
    pub(crate) fn detach(&self, suite: &str) {
        let path = |name: &str| self.path(&format!("dists/{suite}/{name}"));
        let message = fs::read(path("InRelease")).unwrap();
        fs::remove_file(path("InRelease")).unwrap();
        let text = nfdrop_indexer::source::openpgp::clear_text(&message);
        fs::write(path("Release"), &text).unwrap();
        let mut signature = Vec::new();
        let signer =
            Signer::new(Message::new(&mut signature), self.key().into_keypair().unwrap()).unwrap();
        let mut message = signer.detached().build().unwrap();
        message.write_all(&text).unwrap();
        message.finalize().unwrap();
        fs::write(path("Release.gpg"), signature).unwrap();
    }

    /// Signs the index of every suite.
    pub(crate) fn publish(&self) {
        for (suite, index) in &self.packages {
            self.sign(suite, index, "");
        }
    }

    /// Signs a suite's index, with further fields in its Release file.
    pub(crate) fn publish_with(&self, suite: &str, fields: &str) {
        let (_, index) = self.packages.iter().find(|(known, _)| known == suite).unwrap();
        self.sign(suite, index, fields);
    }

    fn key(&self) -> Key<SecretParts, UnspecifiedRole> {
        let policy = StandardPolicy::new();
        let keys = self.cert.keys().unencrypted_secret().with_policy(&policy, None);
        keys.supported().for_signing().next().unwrap().key().clone()
    }

    fn sign(&self, suite: &str, index: &str, fields: &str) {
        let directory = self.path(&format!("dists/{suite}"));
        fs::create_dir_all(directory.join("main/binary-amd64")).unwrap();
        fs::write(directory.join("main/binary-amd64/Packages"), index).unwrap();
        let mut text = format!(
            "Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\n\
             Date: Sat, 21 Nov 2020 00:53:03 UTC\n{fields}SHA256:\n"
        );
        let hash = hex::encode(&Sha256::digest(index));
        writeln!(text, " {hash} {} main/binary-amd64/Packages", index.len()).unwrap();
        let mut release = Vec::new();
        let signer =
            Signer::new(Message::new(&mut release), self.key().into_keypair().unwrap()).unwrap();
        let mut message = signer.cleartext().build().unwrap();
        message.write_all(text.as_bytes()).unwrap();
        message.finalize().unwrap();
        fs::write(directory.join("InRelease"), release).unwrap();
    }
}

/// Where in an answer the client is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Nothing was sent.
    Before,
    /// A part of the body was sent.
    Within,
    /// All was sent.
    Behind,
}

/// Called at every point of every request, with its number.
type Hook = Box<dyn Fn(usize, Point) + Send + Sync>;

/// Serves a directory over HTTP/1.1, one request a connection.
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    requests: AtomicUsize,
    hook: Mutex<Arc<Hook>>,
    /// Paths that were asked for.
    log: Mutex<Vec<String>>,
}

impl Server {
    pub(crate) fn new(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hook: Hook = Box::new(|_, _| {});
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            requests: AtomicUsize::new(0),
            hook: Mutex::new(Arc::new(hook)),
            log: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that was killed closes its end.
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Self { url, shared }
    }

    /// Counts requests from zero again, and calls this at every point.
    pub(crate) fn at_every_point(&self, hook: impl Fn(usize, Point) + Send + Sync + 'static) {
        self.shared.requests.store(0, Ordering::SeqCst);
        self.shared.log.lock().unwrap().clear();
        *self.shared.hook.lock().unwrap() = Arc::new(Box::new(hook));
    }

    /// What was asked for since [`Server::at_every_point`].
    pub(crate) fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next()?.ok()?;
        let mut asked = HashMap::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            asked.insert(name.to_lowercase(), value.to_owned());
        }
        let path = request.split(' ').nth(1)?.trim_start_matches('/').replace("%2B", "+");
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        self.log.lock().unwrap().push(path.clone());
        let hook = Arc::clone(&self.hook.lock().unwrap());
        hook(number, Point::Before);
        let (status, headers, body) = self.answer(&path, &asked);
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\
             {headers}Accept-Ranges: bytes\r\n\r\n"
        )
        .ok()?;
        let (first, second) = body.split_at(length / 2);
        stream.write_all(first).ok()?;
        hook(number, Point::Within);
        stream.write_all(second).ok()?;
        hook(number, Point::Behind);
        Some(())
    }

    /// Status, headers and body: of a file, a part of it, or that it is the one the client has.
    fn answer(&self, path: &str, asked: &HashMap<String, String>) -> (&str, String, Vec<u8>) {
        let mut file = self.root.join(path);
        if file.is_dir() {
            file.push("index.html");
        }
        let Ok(body) = fs::read(file) else {
            return ("404 Not Found", String::new(), Vec::new());
        };
        let version = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..8]));
        let header = format!("ETag: {version}\r\n");
        if asked.get("if-none-match") == Some(&version) {
            return ("304 Not Modified", header, Vec::new());
        }
        let same = asked.get("if-range").is_none_or(|other| *other == version);
        let range = asked.get("range").and_then(|range| range.strip_prefix("bytes="));
        let Some((from, to)) = range.and_then(|range| range.split_once('-')).filter(|_| same)
        else {
            return ("200 OK", header, body);
        };
        let from: usize = from.parse().unwrap();
        let to = to.parse().unwrap_or(body.len() - 1);
        let header = format!("{header}Content-Range: bytes {from}-{to}/{}\r\n", body.len());
        ("206 Partial Content", header, body[from..=to].to_vec())
    }
}
