//! What is exported is what the server says: the same paths with the same bytes, on disk, in an object store,
//! and from nginx, of which the client cannot tell the difference.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use nfdrop_db::{Record, Store, sample};
use nfdrop_tests::programs::{program, tool};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};
use tempfile::TempDir;

const RESOLVED: &str = "0484cf000102030405060708090a0b0c0d0e0f10";
const UNRESOLVED: &str = "1111111111111111111111111111111111111111";
const UNKNOWN: &str = "2222222222222222222222222222222222222222";

struct Data {
    folder: TempDir,
    store: Store,
}

impl Data {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(folder.path().join("db")).unwrap();
        let data = Self { folder, store };
        data.add(sample::resolved(RESOLVED.parse().unwrap()), "6.12.117+deb13-cloud-amd64");
        data.add(sample::unresolved(UNRESOLVED.parse().unwrap()), "5.10.0-46-cloud-amd64");
        data
    }

    fn add(&self, record: Record, release: &str) {
        self.store.put_kernel(&sample::kernel(record, release)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self, place: &str, environment: &[(&str, &str)]) -> Output {
        let mut command = program("nfdrop-indexer").unwrap();
        command.arg("export").arg(place).arg("--db").arg(self.path("db"));
        command.args(["--host", "plans.example"]).envs(environment.iter().copied());
        command.current_dir(self.folder.path()).output().unwrap()
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A process that is ended when dropped.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn server(data: &Data) -> Self {
        let mut command = program("nfdrop-server").unwrap();
        command.arg("--db").arg(data.path("db")).args(["--listen", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect(&line).to_owned();
        Self { child, address }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: plans.example\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = format!("content-length: {}", answer.len() - end - 4);
        assert!(head.to_lowercase().contains(&length), "{path}: {head}");
        (status, answer[end + 4..].to_vec())
    }
}

/// Every file below a directory.
fn tree(directory: &Path) -> BTreeMap<String, (Vec<u8>, u64)> {
    fn walk(root: &Path, directory: &Path, files: &mut BTreeMap<String, (Vec<u8>, u64)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let inode = fs::metadata(&path).unwrap().ino();
                files.insert(name, (fs::read(&path).unwrap(), inode));
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(directory, directory, &mut files);
    files
}

#[test]
fn files_are_what_the_server_says_and_only_what_changed_is_written_again() {
    let data = Data::new();
    let first = said(&data.export("out", &[]));
    assert!(first.contains("2 builds; 14 files written, 0 unchanged, 0 deleted"), "{first}");
    let before = tree(&data.path("out"));
    let server = Running::server(&data);
    for (file, (bytes, _)) in &before {
        let path = match file.as_str() {
            "index.json" => continue,
            "index.html" => "/".to_owned(),
            file => format!("/{}", file.trim_end_matches(".html")),
        };
        assert_eq!(server.get(&path), (200, bytes.clone()), "{file}");
    }
    for file in ["plan", "provenance", "nfdrop.bt", "kprobe_events"] {
        assert!(before.contains_key(&format!("buildid/{RESOLVED}/{file}")), "{file}");
    }
    assert!(!before.contains_key(&format!("buildid/{UNRESOLVED}/nfdrop.bt")));

    let again = said(&data.export("out", &[]));
    assert!(again.contains("0 files written, 14 unchanged, 0 deleted"), "{again}");
    assert_eq!(tree(&data.path("out")), before, "nothing is written where nothing is new");

    data.add(sample::resolved(UNKNOWN.parse().unwrap()), "6.12.118-cloud-amd64");
    let third = said(&data.export("out", &[]));
    assert!(third.contains("3 builds; "), "{third}");
    let after = tree(&data.path("out"));
    assert!(after.contains_key(&format!("buildid/{UNKNOWN}/plan")));
    let plan = format!("buildid/{RESOLVED}/plan");
    assert_eq!(after[&plan], before[&plan], "the same file");

    // A proof is two more files, of which one needs a key, and changes two pages and the coverage.
    let proof = sample::proof(&sample::resolved(UNKNOWN.parse().unwrap()));
    data.store.put_proof(&proof).unwrap();
    let proven = said(&data.export("out", &[]));
    let files = tree(&data.path("out"));
    assert_eq!(files[&format!("buildid/{UNKNOWN}/proof")].0, proof.to_bytes(), "{proven}");
    assert!(!files.contains_key(&format!("buildid/{UNKNOWN}/proof.minisig")), "no key, {proven}");
    assert!(!files.contains_key(&format!("buildid/{RESOLVED}/proof")), "not booted, {proven}");
    assert_eq!(files[&plan], before[&plan], "the same file");

    // What is no longer answered goes.
    let connection = rusqlite::Connection::open(data.path("db")).unwrap();
    let record = sample::unresolved(RESOLVED.parse().unwrap()).to_bytes();
    let sql = "UPDATE builds SET status = 'unresolved', reason = 'no_site', record = ?1, \
               changed = 1000 WHERE build_id = ?2";
    assert_eq!(connection.execute(sql, (record, RESOLVED)).unwrap(), 1);
    let fourth = said(&data.export("out", &[]));
    assert!(fourth.contains("2 deleted"), "{fourth}");
    assert!(!tree(&data.path("out")).contains_key(&format!("buildid/{RESOLVED}/nfdrop.bt")));
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let data = Data::new();
    fs::create_dir(data.path("out")).unwrap();
    fs::write(data.path("out/index.json"), r#"{"of":"another program"}"#).unwrap();
    let output = data.export("out", &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.starts_with("error: index.json there is not nfdrop's"), "{text}");
    assert_eq!(tree(&data.path("out")).len(), 1);
    for place in ["ftp://a/b", "s3://"] {
        assert_eq!(data.export(place, &[]).status.code(), Some(1), "{place}");
    }
}

/// An S3 server that keeps its objects in files: buckets are directories of `folder`. Ends with the test.
fn object_store(folder: &Path, [id, secret]: [&str; 2]) -> String {
    let mut builder = S3ServiceBuilder::new(FileSystem::new(folder).unwrap());
    builder.set_auth(SimpleAuth::from_single(id, secret));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let io = TokioIo::new(socket);
                tokio::spawn(http1::Builder::new().serve_connection(io, service.clone()));
            }
        });
    });
    format!("http://{address}")
}

#[test]
fn an_object_store_gets_the_same_files() {
    let data = Data::new();
    let (bucket, key) = (data.path("objects/bucket"), ["id", "secret"]);
    fs::create_dir_all(&bucket).unwrap();
    let endpoint = object_store(&data.path("objects"), key);
    let environment = |secret| {
        [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", key[0]),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ]
    };
    let export = || said(&data.export("s3://bucket/some/plans", &environment(key[1])));
    let content = |directory: &Path| -> BTreeMap<String, Vec<u8>> {
        tree(directory).into_iter().map(|(file, (bytes, _))| (file, bytes)).collect()
    };
    let place = bucket.join("some/plans");

    assert!(export().contains("2 builds; 14 files written, 0 unchanged, 0 deleted"));
    said(&data.export("out", &[]));
    assert_eq!(content(&place), content(&data.path("out")));
    assert!(export().contains("0 files written, 14 unchanged, 0 deleted"));

    data.add(sample::resolved(UNKNOWN.parse().unwrap()), "6.12.118+deb13-cloud-amd64");
    said(&data.export("out", &[]));
    let third = export();
    assert!(third.contains("3 builds; ") && third.contains(" 0 deleted"), "{third}");
    assert!(!third.contains(" 0 unchanged"), "{third}");
    assert_eq!(content(&place), content(&data.path("out")));

    // What it cannot write is told, and what to do.
    let refused = data.export("s3://bucket/some/plans", &environment("wrong"));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("SignatureDoesNotMatch") && told.contains("index.json"), "{told}");
    assert_eq!(content(&place), content(&data.path("out")));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn from_nginx_the_client_gets_the_same() {
    let Some(nginx) = tool("nginx", "usr/sbin/nginx") else {
        assert_eq!(
            env::var("NFDROP_OFFLINE").as_deref(),
            Ok("1"),
            "nginx: run ci/install-deps test"
        );
        return;
    };
    let data = Data::new();
    said(&data.export("out", &[]));
    let port = free_port();
    let (folder, ours) = (data.folder.path().display(), env!("CARGO_MANIFEST_DIR"));
    let configuration = format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n\
         events {{}}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n\
           uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
           server {{ listen 127.0.0.1:{port}; root {folder}/out; include {ours}/../docs/nginx.conf; }}\n\
         }}\n"
    );
    fs::write(data.path("nginx.conf"), configuration).unwrap();
    let child = Command::new(nginx)
        .arg("-e")
        .arg(data.path("error.log"))
        .arg("-c")
        .arg(data.path("nginx.conf"))
        .spawn()
        .unwrap();
    let mut host = Running { child, address: format!("127.0.0.1:{port}") };
    while TcpStream::connect(&host.address).is_err() {
        let ended = host.child.try_wait().unwrap();
        let log = || fs::read_to_string(data.path("error.log")).unwrap_or_default();
        assert!(ended.is_none(), "nginx has ended: {}", log());
        std::thread::yield_now();
    }
    let server = Running::server(&data);
    let client = |address: &str, id: &str, format: &str| {
        let mut command = program("nfdrop-client").unwrap();
        let url = format!("http://{address}");
        command.args(["plan", "--server", &url, "--build-id", id, "--format", format]);
        let output = command.env("NFDROP_CACHE_PATH", data.path("none/none")).output().unwrap();
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).replace(address, "ADDRESS").replace(&url, "URL")
        };
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for (id, code) in [(RESOLVED, 0), (UNRESOLVED, 2), (UNKNOWN, 2)] {
        for format in ["json", "text", "bpftrace"] {
            let (ours, theirs) =
                (client(&server.address, id, format), client(&host.address, id, format));
            assert_eq!(ours.0, Some(code), "{id} {format}: {ours:?}");
            assert_eq!(ours, theirs, "{id} {format}");
        }
    }
    for path in ["/", "/kernels", "/unresolved", &format!("/build/{RESOLVED}"), "/v1/coverage"] {
        assert_eq!(host.get(path), server.get(path), "{path}");
    }
    assert_eq!(host.get("/buildid/../../db").0, 400);
    assert_eq!(host.get(&format!("/buildid/{UNKNOWN}/plan")).0, 404);
}
