//! Against a server on the loopback interface that answers byte for byte what a test says, broken
//! answers included.

use super::*;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{Barrier, Notify},
};

/// One connection, one request, one answer.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets the number of the request, from 0, and its head in lower case.
    async fn start<F>(answer: impl Fn(usize, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Vec<u8>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap().to_lowercase();
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(head.clone());
                        log.len() - 1
                    };
                    let answer = answer(number, head).await;
                    // The client may have gone: that is its right.
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { url, requests }
    }

    /// As `start`, for answers that need not wait.
    async fn answering(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |number, head| std::future::ready(answer(number, &head))).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn download(&self) -> Download {
        Download { url: self.url.clone(), ..wanted() }
    }
}

fn content() -> Vec<u8> {
    (0..100_000u32).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect()
}

fn wanted() -> Download {
    let content = content();
    let sha256 = Sha256::digest(&content).into();
    Download { url: String::new(), size: content.len() as u64, sha256 }
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// 200 with a Content-Length of the whole and this body.
fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = content().len();
    response("200 OK", &format!("Content-Length: {length}\r\n{headers}"), body)
}

/// What a server with range support answers.
fn ranged(head: &str, etag: &str) -> Vec<u8> {
    let content = content();
    let etag_header = format!("ETag: {etag}\r\n");
    let line =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
    match (line("range: bytes="), line("if-range: ")) {
        (Some(range), Some(tag)) if tag == etag => {
            let from: usize = range.trim_end_matches('-').parse().unwrap();
            let rest = &content[from..];
            let (last, all, length) = (content.len() - 1, content.len(), rest.len());
            let headers = format!(
                "Content-Range: bytes {from}-{last}/{all}\r\nContent-Length: {length}\r\n{etag_header}"
            );
            response("206 Partial Content", &headers, rest)
        }
        _ => ok(&etag_header, &content),
    }
}

struct Bench {
    fetcher: Fetcher,
    cache: tempfile::TempDir,
}

fn bench() -> Bench {
    bench_with(|_| {})
}

fn bench_with(change: impl Fn(&mut Options)) -> Bench {
    let cache = tempfile::tempdir().unwrap();
    let fetcher = fetcher(cache.path(), change);
    Bench { fetcher, cache }
}

fn fetcher(cache: &Path, change: impl Fn(&mut Options)) -> Fetcher {
    let mut options = Options::new(cache.to_owned());
    options.pause = Duration::from_millis(1);
    change(&mut options);
    Fetcher::new(options).unwrap()
}

impl Bench {
    async fn fetch(&self, download: &Download) -> Result<Vec<u8>, FetchError> {
        self.fetcher.verified(download, &Silent).await.map(|path| fs::read(path).unwrap())
    }

    fn files(&self, directory: &str) -> usize {
        fs::read_dir(self.cache.path().join(directory)).unwrap().count()
    }
}

#[derive(Clone, Default)]
struct Endings(Arc<Mutex<Vec<Ending>>>);

impl DownloadReporter for Endings {
    fn start(&self, _: &Download) -> Box<dyn DownloadStatus> {
        Box::new(self.clone())
    }
}

impl DownloadStatus for Endings {
    fn progress(&mut self, _: u64) {}
    fn end(self: Box<Self>, ending: Ending) {
        self.0.lock().unwrap().push(ending);
    }
}

#[tokio::test]
async fn fetches_once_and_checks_what_it_has() {
    let server = Server::answering(|_, head| ranged(head, "\"a\"")).await;
    let bench = bench();
    let endings = Endings::default();
    let fetch = async || bench.fetcher.verified(&server.download(), &endings).await.unwrap();
    let path = fetch().await;
    assert_eq!(fs::read(&path).unwrap(), content());
    assert!(server.requests()[0].contains("user-agent: nfdrop-indexer/"));
    fetch().await;
    assert_eq!(server.requests().len(), 1);
    // A damaged file is not used.
    let mut damaged = content();
    damaged[7] ^= 1;
    fs::write(&path, damaged).unwrap();
    fetch().await;
    assert_eq!(fs::read(&path).unwrap(), content());
    assert_eq!(server.requests().len(), 2);
    assert_eq!(*endings.0.lock().unwrap(), [Ending::Fetched, Ending::Cached, Ending::Fetched]);
    assert_eq!((bench.files("packages"), bench.files("partial")), (1, 0));
}

#[tokio::test]
async fn continues_where_the_connection_broke() {
    let server = Server::answering(|number, head| match number {
        0 => ok("ETag: \"a\"\r\n", &content()[..40_000]),
        _ => ranged(head, "\"a\""),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert!(
        requests[1].contains("range: bytes=40000-\r\n") && requests[1].contains("if-range: \"a\"")
    );
}

#[tokio::test]
async fn continues_what_another_process_began() {
    let server = Server::answering(|number, head| match number {
        0 => ok("Last-Modified: x\r\n", &content()[..30_000]),
        _ => ranged(head, "x"),
    })
    .await;
    let bench = bench_with(|options| options.retries = 0);
    let error = bench.fetch(&server.download()).await.unwrap_err();
    assert!(matches!(error, FetchError::Transient { .. }), "{error}");
    assert_eq!(error.reason(), Reason::FetchFailed);
    let other = fetcher(bench.cache.path(), |_| {});
    other.verified(&server.download(), &Silent).await.unwrap();
    assert!(server.requests()[1].contains("range: bytes=30000-\r\n"));
}

#[tokio::test]
async fn starts_again_when_the_file_changed() {
    // If-Range does not fit: the server sends the whole.
    let server = Server::answering(|number, head| match number {
        0 => ok("ETag: \"a\"\r\n", &content()[..40_000]),
        _ => ranged(head, "\"b\""),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn starts_again_when_the_range_is_another() {
    let server = Server::answering(|number, head| match number {
        0 => ok("ETag: \"a\"\r\n", &content()[..40_000]),
        1 => response("206 Partial Content", "Content-Range: bytes 0-9/10\r\n", b"0123456789"),
        _ => ranged(head, "\"a\""),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    assert!(!server.requests()[2].contains("range:"));
}

#[tokio::test]
async fn starts_again_when_what_it_had_was_wrong() {
    let server = Server::answering(|number, head| match number {
        0 => ok("ETag: \"a\"\r\n", &vec![0; 40_000]),
        _ => ranged(head, "\"a\""),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn does_not_continue_without_a_validator() {
    let server = Server::answering(|number, _| match number {
        0 => ok("ETag: W/\"weak\"\r\n", &content()[..40_000]),
        _ => ok("", &content()),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    assert!(!server.requests()[1].contains("range:"));
}

#[tokio::test]
async fn tries_again_when_the_server_is_busy() {
    let server = Server::answering(|number, head| match number {
        0 => response("503 Busy", "Content-Length: 0\r\n", b""),
        1 => response("429 Slow", "Retry-After: 0\r\nContent-Length: 0\r\n", b""),
        _ => ranged(head, "\"a\""),
    })
    .await;
    assert_eq!(bench().fetch(&server.download()).await.unwrap(), content());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn gives_up_in_the_end_or_when_told_to_come_back_later() {
    let busy = Server::answering(|_, _| response("500 No", "Content-Length: 0\r\n", b"")).await;
    assert!(bench().fetch(&busy.download()).await.is_err());
    assert_eq!(busy.requests().len(), 5);
    let later = "Retry-After: 3600\r\nContent-Length: 0\r\n";
    let later = Server::answering(move |_, _| response("503 No", later, b"")).await;
    let error = bench().fetch(&later.download()).await.unwrap_err();
    let hour = Some(Duration::from_hours(1));
    assert!(matches!(error, FetchError::Transient { retry_after, .. } if retry_after == hour));
    assert_eq!(later.requests().len(), 1);
}

#[tokio::test]
async fn tells_wrong_content_from_failed_transport() {
    let mut altered = content();
    altered[50_000] ^= 1;
    let cases: Vec<(Vec<u8>, Reason)> = vec![
        (ok("", &altered), Reason::VerificationFailed),
        (response("200 OK", "", &[content(), vec![0]].concat()), Reason::VerificationFailed),
        (response("200 OK", "", &content()[..10]), Reason::VerificationFailed),
        (response("404 No", "Content-Length: 0\r\n", b""), Reason::FetchFailed),
        (response("410 No", "Content-Length: 0\r\n", b""), Reason::FetchFailed),
        (response("403 No", "Content-Length: 0\r\n", b""), Reason::FetchFailed),
    ];
    let mut messages = Vec::new();
    for (answer, reason) in cases {
        let server = Server::answering(move |_, _| answer.clone()).await;
        let bench = bench();
        let error = bench.fetch(&server.download()).await.unwrap_err();
        messages.push(error.to_string().replace(&server.url, "URL"));
        assert_eq!(error.reason(), reason, "{error}");
        assert_eq!(server.requests().len(), 1, "{error}");
        assert_eq!(bench.files("packages"), 0);
    }
    insta::assert_snapshot!(messages.join("\n"), @r#"
    URL has SHA-256 d9689ac17ce9e4ca818e1b33d9ceb156bce411877285b52b777a4860824653f4, expected 4b5479a255c44228c1a4a459d314a1e7dd2b2493ae5cb99322f01d558bc45790
    URL has more than 100000 bytes, the most that is accepted
    URL has 10 bytes, expected 100000
    URL does not exist (status 404)
    URL does not exist (status 410)
    URL is refused (status 403)
    "#);
}

#[tokio::test]
async fn keeps_to_its_connections_per_host() {
    // Answers only in pairs: with fewer connections this would never end, with more `most` tells.
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (barrier, seen) = (Arc::new(Barrier::new(2)), Arc::clone(&most));
    let server = Server::start(move |_, _| {
        let (open, seen, barrier) = (Arc::clone(&open), Arc::clone(&seen), Arc::clone(&barrier));
        async move {
            seen.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            barrier.wait().await;
            open.fetch_sub(1, Ordering::SeqCst);
            response("200 OK", "Content-Length: 2\r\n", b"ok")
        }
    })
    .await;
    let bench = bench_with(|options| options.per_host = 2);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (fetcher, url) = (bench.fetcher.clone(), server.url.clone());
        tasks.spawn(async move { fetcher.small(&url, 10).await.unwrap() });
    }
    assert!(tasks.join_all().await.iter().all(|bytes| bytes == b"ok"));
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn two_who_want_the_same_fetch_it_once() {
    let server = Server::answering(|_, head| ranged(head, "\"a\"")).await;
    let bench = bench();
    let download = server.download();
    let (one, two) = tokio::join!(bench.fetch(&download), bench.fetch(&download));
    assert_eq!((one.unwrap(), two.unwrap()), (content(), content()));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_abandoned_download_ends_too() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let server = Server::start(move |_, _| {
        tell.notify_one();
        std::future::pending()
    })
    .await;
    let (bench, endings, download) = (bench(), Endings::default(), server.download());
    tokio::select! {
        _ = bench.fetcher.verified(&download, &endings) => panic!("nobody answers"),
        () = arrived.notified() => {}
    }
    assert_eq!(*endings.0.lock().unwrap(), [Ending::Cancelled]);
}

#[tokio::test]
async fn reads_local_mirrors() {
    let bench = bench();
    let file = bench.cache.path().join("file.deb");
    fs::write(&file, content()).unwrap();
    let url = Url::from_file_path(&file).unwrap().to_string();
    let download = Download { url: url.clone(), ..wanted() };
    assert_eq!(bench.fetch(&download).await.unwrap(), content());
    assert_eq!(bench.fetcher.small(&url, 100_000).await.unwrap(), content());
    let error = bench.fetcher.small(&url, 99_999).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { max: 99_999, .. }), "{error}");
    let error = bench.fetcher.small(&format!("{url}x"), 1).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    for wrong in ["", "no url", "ftp://mirror.example/x", "file://mirror.example/x"] {
        let error = bench.fetcher.small(wrong, 1).await.unwrap_err();
        assert!(matches!(error, FetchError::Url { .. }), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn small_files_are_bounded_and_retried() {
    let server = Server::answering(|number, _| match number {
        0 => response("200 OK", "Content-Length: 4\r\n", b"ab"),
        _ => response("200 OK", "", b"abcd"),
    })
    .await;
    let bench = bench();
    assert_eq!(bench.fetcher.small(&server.url, 4).await.unwrap(), b"abcd");
    let error = bench.fetcher.small(&server.url, 3).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { max: 3, .. }), "{error}");
}
