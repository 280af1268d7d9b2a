//! Against a server on the loopback interface that answers byte for byte what a test says, broken
//! answers included.

use super::*;
use crate::package::RandomAccess as _;
use nfdrop_db::Reason;
use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
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

#[tokio::test]
async fn redirects_end() {
    let circle = "Location: /file\r\nContent-Length: 0\r\n";
    let server = Server::answering(move |_, _| response("302 Found", circle, b"")).await;
    let bench = bench();
    let error = bench.fetch(&server.download()).await.unwrap_err();
    assert!(matches!(error, FetchError::Redirected { .. }), "{error}");
    assert_eq!((error.reason(), server.requests().len()), (Reason::FetchFailed, 6));
    let error = bench.fetcher.small(&server.url, 10).await.unwrap_err().to_string();
    let error = error.replace(&server.url, "URL");
    insta::assert_snapshot!(error, @"URL is redirected in a way that is not followed: error following redirect for url (URL): more than 5 redirects");
    // One that leads somewhere is followed.
    let moved = Server::answering(|number, head| match number {
        0 => response("301 Moved", "Location: /elsewhere\r\nContent-Length: 0\r\n", b""),
        _ => ranged(head, "\"a\""),
    })
    .await;
    assert_eq!(bench.fetch(&moved.download()).await.unwrap(), content());
}

#[tokio::test]
async fn an_answer_keeps_a_pace() {
    let server = Server::answering(|_, head| ranged(head, "\"a\"")).await;
    let bench = bench_with(|options| {
        options.patience = Duration::ZERO;
        options.lowest_rate = u64::MAX;
    });
    let error = bench.fetcher.small(&server.url, 1 << 20).await.unwrap_err();
    assert!(matches!(&error, FetchError::Transient { detail, .. } if detail.contains("too slow")));
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_host_that_fails_is_left_alone() {
    let server = Server::answering(|_, _| response("500 No", "Content-Length: 0\r\n", b"")).await;
    let hour = Duration::from_hours(1);
    let bench = bench_with(|options| (options.tolerance, options.rest) = (7, hour));
    assert!(bench.fetch(&server.download()).await.is_err());
    let error = bench.fetcher.small(&server.url, 9).await.unwrap_err();
    let failures = |error: &FetchError| match error {
        FetchError::Resting { failures, .. } => *failures,
        _ => 0,
    };
    assert_eq!((failures(&error), server.requests().len()), (7, 7), "{error}");
    let host = server.url.trim_start_matches("http://").trim_end_matches("/file");
    let text = error.to_string().replace(host, "HOST");
    insta::assert_snapshot!(text, @"http://HOST/file was not asked for: the last 7 requests to HOST failed, so it is left alone for 3600 s; try again later");
    // Other hosts are none of its business.
    let other = Server::answering(|_, head| ranged(head, "\"a\"")).await;
    assert!(bench.fetcher.small(&other.url, 1 << 20).await.is_ok());
}

#[tokio::test]
async fn a_host_that_recovers_is_asked_again() {
    let server = Server::answering(|number, head| match number {
        0..3 => response("500 No", "Content-Length: 0\r\n", b""),
        _ => ranged(head, "\"a\""),
    })
    .await;
    let bench = bench_with(|options| {
        (options.tolerance, options.rest, options.retries) = (3, Duration::ZERO, 0);
    });
    for _ in 0..3 {
        assert!(bench.fetcher.small(&server.url, 1 << 20).await.is_err());
    }
    assert_eq!(bench.fetcher.small(&server.url, 1 << 20).await.unwrap(), content());
}

/// Answers with content number n until it is asked for another version than that.
fn versioned(current: &Arc<AtomicUsize>) -> impl Fn(usize, &str) -> Vec<u8> + use<> {
    let current = Arc::clone(current);
    move |_, head| {
        let now = current.load(Ordering::SeqCst);
        if head.contains(&format!("if-none-match: \"{now}\"")) {
            return response("304 Not Modified", "", b"");
        }
        response("200 OK", &format!("Content-Length: 1\r\nETag: \"{now}\"\r\n"), &[now as u8])
    }
}

#[tokio::test]
async fn what_is_known_by_url_is_asked_for_again_but_not_sent_again() {
    let current = Arc::new(AtomicUsize::new(7));
    let server = Server::answering(versioned(&current)).await;
    let bench = bench();
    let small = async || {
        let content = bench.fetcher.small(&server.url, 10).await.unwrap();
        bench.fetcher.trust(&server.url).unwrap();
        content
    };
    // What nobody trusts is not kept.
    assert_eq!(bench.fetcher.small(&server.url, 10).await.unwrap(), [7]);
    assert_eq!((small().await, small().await), (vec![7], vec![7]));
    assert!(!server.requests()[1].contains("if-none-match"));
    assert!(server.requests()[2].contains("if-none-match: \"7\""));
    // Another process knows it too, and a new version is taken.
    let other = fetcher(bench.cache.path(), |_| {});
    assert_eq!(other.small(&server.url, 10).await.unwrap(), [7]);
    current.store(8, Ordering::SeqCst);
    assert_eq!((small().await, small().await), (vec![8], vec![8]));
    // What is damaged is not used.
    for file in fs::read_dir(bench.cache.path().join("indices")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(small().await, [8]);
    assert!(!server.requests().last().unwrap().contains("if-none-match"));
}

#[tokio::test]
async fn unchanged_is_no_answer_to_who_knows_nothing() {
    let server = Server::answering(|_, _| response("304 Not Modified", "", b"")).await;
    let bench = bench();
    let error = bench.fetcher.small(&server.url, 10).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { status: 304, .. }), "{error}");
    let error = bench.fetcher.unverified(&server.url, 10, &Silent).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { status: 304, .. }), "{error}");
}

#[tokio::test]
async fn a_file_of_unknown_hash_is_fetched_once_per_version() {
    let current = Arc::new(AtomicUsize::new(1));
    let server = Server::answering(versioned(&current)).await;
    let (bench, endings) = (bench(), Endings::default());
    let fetch = async || {
        let file = bench.fetcher.unverified(&server.url, 10, &endings).await.unwrap();
        bench.fetcher.trust(&server.url).unwrap();
        file
    };
    let first = fetch().await;
    assert_eq!((first.size, &fs::read(&first.path).unwrap()[..]), (1, &[1][..]));
    assert_eq!(first.sha256[..], Sha256::digest([1])[..]);
    assert_eq!(fetch().await, first);
    current.store(2, Ordering::SeqCst);
    let second = fetch().await;
    assert_eq!(fs::read(&second.path).unwrap(), [2]);
    // One that is damaged or gone is fetched anew.
    fs::write(&second.path, [3]).unwrap();
    assert_eq!((fetch().await, fs::read(&second.path).unwrap()), (second.clone(), vec![2]));
    fs::remove_file(&second.path).unwrap();
    assert_eq!((fetch().await, fs::read(&second.path).unwrap()), (second, vec![2]));
    let (fetched, cached) = (Ending::Fetched, Ending::Cached);
    assert_eq!(*endings.0.lock().unwrap(), [fetched, cached, fetched, fetched, fetched]);
}

#[tokio::test]
async fn a_file_of_unknown_hash_is_bounded_continued_and_local() {
    let server = Server::answering(|number, head| match number {
        0 => ok("ETag: \"a\"\r\n", &content()[..40_000]),
        _ => ranged(head, "\"a\""),
    })
    .await;
    let bench = bench();
    let file = bench.fetcher.unverified(&server.url, 100_000, &Silent).await.unwrap();
    assert_eq!(fs::read(&file.path).unwrap(), content());
    assert!(server.requests()[1].contains("range: bytes=40000-\r\n"));
    let error = bench.fetcher.unverified(&server.url, 99_999, &Silent).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { max: 99_999, .. }), "{error}");
    let url = Url::from_file_path(&file.path).unwrap();
    let local = bench.fetcher.unverified(url.as_str(), 100_000, &Silent).await.unwrap();
    assert_eq!(local.sha256, file.sha256);
}

/// What a server with range support answers to a request for a part.
fn part(head: &str, etag: &str) -> Vec<u8> {
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")).unwrap();
    let (from, to) = range.split_once('-').unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let (all, bytes) = (content().len(), content()[from..=to].to_vec());
    let headers = format!(
        "Content-Range: bytes {from}-{to}/{all}\r\nContent-Length: {}\r\nETag: {etag}\r\n",
        bytes.len()
    );
    response("206 Partial Content", &headers, &bytes)
}

/// Two parts of a file: its beginning and something behind what is fetched first.
fn two_parts(remote: &Remote) -> Option<[Vec<u8>; 2]> {
    let read = |range| {
        let mut bytes = Vec::new();
        remote.part(range).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    assert_eq!(remote.size().unwrap(), 100_000);
    Some([read(10..20)?, read(90_000..200_000)?])
}

#[tokio::test]
async fn parts_are_fetched_and_nothing_else() {
    let server = Server::answering(|number, head| match number {
        1 => response("503 Busy", "Content-Length: 0\r\n", b""),
        _ => part(head, "\"a\""),
    })
    .await;
    let (bench, endings) = (bench(), Endings::default());
    let parts = bench.fetcher.parts(&server.download(), &endings, two_parts).await.unwrap();
    let expected = [content()[10..20].to_vec(), content()[90_000..].to_vec()];
    assert_eq!(parts, Some(expected));
    let requests = server.requests();
    assert!(requests[0].contains("range: bytes=0-65535\r\n"), "{requests:?}");
    assert!(requests[2].contains("range: bytes=90000-99999\r\n"), "{requests:?}");
    assert!(requests[2].contains("if-range: \"a\"\r\n"), "{requests:?}");
    assert_eq!((requests.len(), &endings.0.lock().unwrap()[..]), (3, &[Ending::Fetched][..]));
}

#[tokio::test]
async fn parts_need_no_version() {
    // A weak one is none: it does not say that bytes are the same.
    let server = Server::answering(|_, head| part(head, "W/\"a\"")).await;
    let parts = bench().fetcher.parts(&server.download(), &Silent, two_parts).await.unwrap();
    assert_eq!(parts, Some([content()[10..20].to_vec(), content()[90_000..].to_vec()]));
    assert!(!server.requests().concat().contains("if-range"), "{:?}", server.requests());
}

#[tokio::test]
async fn no_parts_of_what_cannot_be_trusted_to_be_one_file() {
    type Answer = fn(usize, &str) -> Vec<u8>;
    let range = |range: &'static str, etag: &str| {
        let headers = format!("Content-Range: {range}\r\nETag: {etag}\r\n");
        response("206 Partial Content", &headers, &content()[..65_536])
    };
    let mistaken = [
        range("bytes 0-65535/100001", "\"a\""),
        range("bytes 0-65535/*", "\"a\""),
        range("bytes 1-65536/100000", "\"a\""),
        response("206 Partial Content", "ETag: \"a\"\r\n", &content()[..65_536]),
        ok("ETag: \"a\"\r\n", &content()),
        response("416 No", "Content-Length: 0\r\n", b""),
    ];
    for answer in mistaken {
        let text = String::from_utf8_lossy(&answer[..50]).into_owned();
        let server = Server::answering(move |_, _| answer.clone()).await;
        let parts = bench().fetcher.parts(&server.download(), &Silent, two_parts).await.unwrap();
        assert_eq!((parts, server.requests().len()), (None, 1), "{text}");
    }
    let changes: [Answer; 3] = [
        |number, head| part(head, if number == 0 { "\"a\"" } else { "\"b\"" }),
        |number, head| if number == 0 { part(head, "\"a\"") } else { ok("", &content()) },
        |number, head| match number {
            0 => part(head, "\"a\""),
            _ => response("206 Partial Content", "Content-Range: bytes 9-9/10\r\n", b"9"),
        },
    ];
    for change in changes {
        let server = Server::answering(change).await;
        let parts = bench().fetcher.parts(&server.download(), &Silent, two_parts).await.unwrap();
        assert_eq!((parts, server.requests().len()), (None, 2));
    }
    let gone = Server::answering(|_, _| response("404 No", "Content-Length: 0\r\n", b"")).await;
    let error = bench().fetcher.parts(&gone.download(), &Silent, two_parts).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn a_full_disk_is_told() {
    let error = error::cache_error(Path::new("/cache"), &io::ErrorKind::StorageFull.into());
    let text = error.to_string();
    insta::assert_snapshot!(text, @"the cache /cache cannot be used: no storage space; make room there, or name another place with --cache");
}
