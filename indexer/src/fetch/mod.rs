//! Downloads: the only part of the indexer that speaks to the network.
//!
//! A package is wanted by its SHA-256, which a signed index gave, so the cache is named by content
//! and can be shared, copied and cut off at any time: `packages/<sha256>` exists only whole, what is
//! under way is in `partial/` and is continued, by another process too. A file of the cache is used
//! after its hash was checked again.

mod cache;
mod report;

pub use report::{DownloadReporter, DownloadStatus, Ending, Silent};

use crate::source::date;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use cache::Partial;
use nfdrop_db::{Reason, hex};
use report::Status;
use reqwest::{
    Response, StatusCode, Url,
    header::{
        ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE,
        RETRY_AFTER,
    },
};
use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const USER_AGENT: &str = concat!("nfdrop-indexer/", env!("CARGO_PKG_VERSION"));
/// A server that wants a longer pause is one to come back to another time.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cache's directory, created where it is missing.
    pub cache: PathBuf,
    /// Most connections to one host at a time.
    pub per_host: usize,
    /// For a connection to be established.
    pub connect_timeout: Duration,
    /// For the next bytes to arrive.
    pub read_timeout: Duration,
    /// How often a request that failed in passing is made again.
    pub retries: usize,
    /// Pause before the first of these; it doubles every time.
    pub pause: Duration,
}

impl Options {
    /// Four connections per host, four retries.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            per_host: 4,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 4,
            pause: Duration::from_millis(500),
        }
    }
}

/// `$NFDROP_CACHE_PATH`, else `$XDG_CACHE_HOME/nfdrop`, else `~/.cache/nfdrop`; `None` without any
/// of them.
pub fn default_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable("NFDROP_CACHE_PATH")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("nfdrop")))
        .or_else(|| Some(variable("HOME")?.join(".cache/nfdrop")))
}

/// A file to fetch whose content is known from a signed index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `http`, `https` or `file`.
    pub url: String,
    /// In bytes.
    pub size: u64,
    /// Of the file.
    pub sha256: [u8; 32],
}

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not a URL, or of a kind that is not fetched.
    #[error("{url:?} cannot be fetched: {detail}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The server says that there is no such file.
    #[error("{url} does not exist (status {status})")]
    NotFound {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// The server refuses, and will do so again.
    #[error("{url} is refused (status {status})")]
    Refused {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
    },
    /// It may work another time; it was tried several times.
    #[error("{url} failed: {detail}; try again later")]
    Transient {
        /// What was asked for.
        url: String,
        /// The last failure.
        detail: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Other bytes than the signed index says.
    #[error("{url} has SHA-256 {found}, expected {expected}")]
    HashMismatch {
        /// What was fetched.
        url: String,
        /// Lower-case hex.
        expected: String,
        /// Lower-case hex.
        found: String,
    },
    /// Fewer bytes than the signed index says.
    #[error("{url} has {found} bytes, expected {expected}")]
    WrongSize {
        /// What was fetched.
        url: String,
        /// In bytes.
        expected: u64,
        /// In bytes.
        found: u64,
    },
    /// More bytes than the signed index says, or than such a file may have.
    #[error("{url} has more than {max} bytes, the most that is accepted")]
    TooLarge {
        /// What was fetched.
        url: String,
        /// In bytes.
        max: u64,
    },
    /// The cache cannot be used.
    #[error("the cache {} cannot be used: {detail}", path.display())]
    Cache {
        /// File or directory.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
}

impl FetchError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::HashMismatch { .. } | Self::WrongSize { .. } | Self::TooLarge { .. } => {
                Reason::VerificationFailed
            }
            _ => Reason::FetchFailed,
        }
    }

    /// Whether the server says that there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Fetches files. Clones share connections and limits.
#[derive(Debug, Clone)]
pub struct Fetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    options: Options,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Fetcher {
    /// Creates the cache's directories too.
    pub fn new(options: Options) -> Result<Self, FetchError> {
        cache::create(&options.cache)?;
        // Fails only where it has been done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .build()
            .map_err(|error| FetchError::Client(causes(&error)))?;
        Ok(Self(Arc::new(Inner { client, options, hosts: Mutex::default() })))
    }

    /// A small file that nothing is known of beforehand, at most `max` bytes.
    pub async fn small(&self, url: &str, max: usize) -> Result<Vec<u8>, FetchError> {
        let mut pauses = self.pauses();
        loop {
            match self.small_once(&parse(url)?, max).await {
                Err(error) => pauses.wait(error).await?,
                whole => return whole,
            }
        }
    }

    async fn small_once(&self, url: &Url, max: usize) -> Result<Vec<u8>, FetchError> {
        let too_large = || FetchError::TooLarge { url: url.to_string(), max: max as u64 };
        let mut whole = Vec::new();
        if url.scheme() == "file" {
            let read = open(url)?.take(max as u64 + 1).read_to_end(&mut whole);
            read.map_err(|error| transient(url, &error))?;
            return if whole.len() > max { Err(too_large()) } else { Ok(whole) };
        }
        let _permit = self.permit(url).await;
        let mut response = accept(url, self.send(url, HeaderMap::new()).await?)?;
        while let Some(bytes) = response.chunk().await.map_err(|e| broken(url, &e))? {
            if bytes.len() > max - whole.len() {
                return Err(too_large());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// The path of the whole and checked file in the cache, after fetching it where it is not there.
    /// Exactly one [`Ending`] is reported, also when the future is dropped.
    pub async fn verified(
        &self,
        download: &Download,
        reporter: &dyn DownloadReporter,
    ) -> Result<PathBuf, FetchError> {
        let url = parse(&download.url)?;
        let mut status = Status::start(reporter, download);
        match self.verified_inner(&url, download, &mut status).await {
            Ok((path, ending)) => {
                status.end(ending);
                Ok(path)
            }
            Err(error) => {
                status.end(Ending::Failed);
                Err(error)
            }
        }
    }

    async fn verified_inner(
        &self,
        url: &Url,
        download: &Download,
        status: &mut Status,
    ) -> Result<(PathBuf, Ending), FetchError> {
        let cache = self.0.options.cache.clone();
        let (size, sha256) = (download.size, download.sha256);
        let opened = tokio::task::spawn_blocking(move || cache::open(&cache, size, sha256));
        let mut partial = match opened.await.map_err(|e| FetchError::Client(e.to_string()))?? {
            cache::Opened::Whole(path) => return Ok((path, Ending::Cached)),
            cache::Opened::Partial(partial) => partial,
        };
        let mut pauses = self.pauses();
        loop {
            match self.verified_once(url, &mut partial, status).await {
                Ok(()) => break,
                Err(error) => pauses.wait(error).await?,
            }
        }
        let keep = tokio::task::spawn_blocking(move || partial.keep());
        let path = keep.await.map_err(|e| FetchError::Client(e.to_string()))??;
        Ok((path, Ending::Fetched))
    }

    /// Continues the file to its end and checks it.
    async fn verified_once(
        &self,
        url: &Url,
        partial: &mut Partial,
        status: &mut Status,
    ) -> Result<(), FetchError> {
        let resumed = partial.len() > 0;
        if url.scheme() == "file" {
            partial.restart(None)?;
            let (mut file, mut buffer) = (open(url)?, vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer).map_err(|error| transient(url, &error))? {
                    0 => break,
                    read => partial.append(url, &buffer[..read])?,
                }
                status.progress(partial.len());
            }
        } else if partial.len() < partial.size || partial.size == 0 {
            let _permit = self.permit(url).await;
            let mut response = self.request(url, partial).await?;
            status.progress(partial.len());
            while let Some(bytes) = response.chunk().await.map_err(|e| broken(url, &e))? {
                // Writing to the page cache is not worth a thread; fsync is, see Partial::keep.
                partial.append(url, &bytes)?;
                status.progress(partial.len());
            }
        }
        match partial.check(url) {
            // What was there from another time may have been the wrong part.
            Err(error) if resumed => {
                partial.restart(None)?;
                Err(transient(url, &error))
            }
            Err(error) => {
                partial.restart(None)?;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Asks for the rest of the file where that is safe, else for all of it.
    async fn request(&self, url: &Url, partial: &mut Partial) -> Result<Response, FetchError> {
        let from = partial.len();
        let mut headers = HeaderMap::new();
        if from > 0
            && let Some(validator) = partial.validator().and_then(|v| v.parse().ok())
            && let Ok(range) = format!("bytes={from}-").parse()
        {
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, validator);
        }
        let asked = !headers.is_empty();
        let response = self.send(url, headers).await?;
        let status = response.status();
        if asked && status == StatusCode::PARTIAL_CONTENT {
            let expected = format!("bytes {from}-{}/{}", partial.size - 1, partial.size);
            let found = text(response.headers(), CONTENT_RANGE);
            if found.as_deref() == Some(&expected) {
                return Ok(response);
            }
            partial.restart(None)?;
            let found = found.unwrap_or_default();
            return Err(transient(url, &format!("range {found:?}, expected {expected:?}")));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            partial.restart(None)?;
            return Err(transient(url, &"the server has no such range"));
        }
        let response = accept(url, response)?;
        partial.restart(validator(response.headers()))?;
        Ok(response)
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response, FetchError> {
        let request = self.0.client.get(url.clone()).headers(headers);
        request.send().await.map_err(|error| broken(url, &error))
    }

    async fn permit(&self, url: &Url) -> Option<OwnedSemaphorePermit> {
        let host =
            format!("{}:{:?}", url.host_str().unwrap_or_default(), url.port_or_known_default());
        let semaphore = {
            let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(self.0.options.per_host.max(1)));
            Arc::clone(hosts.entry(host).or_insert_with(new))
        };
        // Fails only for a closed semaphore; this one never is.
        semaphore.acquire_owned().await.ok()
    }

    fn pauses(&self) -> Pauses {
        let builder = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.0.options.pause)
            .with_max_delay(MAX_PAUSE)
            .with_max_times(self.0.options.retries);
        Pauses(Box::new(builder.build()))
    }
}

/// Pauses between attempts: longer every time, and not all workers at once.
struct Pauses(Box<dyn Iterator<Item = Duration> + Send>);

impl Pauses {
    /// Returns after a pause if another attempt makes sense, else the error.
    async fn wait(&mut self, error: FetchError) -> Result<(), FetchError> {
        let FetchError::Transient { retry_after, url, detail } = &error else { return Err(error) };
        let asked = retry_after.unwrap_or_default();
        match self.0.next() {
            Some(pause) if asked <= MAX_PAUSE => {
                tracing::debug!("{url}: {detail}; trying again");
                tokio::time::sleep(pause.max(asked)).await;
                Ok(())
            }
            _ => Err(error),
        }
    }
}

fn parse(url: &str) -> Result<Url, FetchError> {
    let wrong = |detail: &str| FetchError::Url { url: url.to_owned(), detail: detail.to_owned() };
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    match parsed.scheme() {
        "http" | "https" | "file" => Ok(parsed),
        _ => Err(wrong("expected http, https or file")),
    }
}

fn open(url: &Url) -> Result<fs::File, FetchError> {
    let wrong = || FetchError::Url { url: url.to_string(), detail: "not a local path".to_owned() };
    let path: PathBuf = url.to_file_path().map_err(|()| wrong())?;
    fs::File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FetchError::NotFound { url: url.to_string(), status: 404 },
        _ => FetchError::Url { url: url.to_string(), detail: error.to_string() },
    })
}

/// The response, if it holds the whole file.
fn accept(url: &Url, response: Response) -> Result<Response, FetchError> {
    let status = response.status();
    let (name, number) = (url.to_string(), status.as_u16());
    match status {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Err(FetchError::NotFound { url: name, status: number })
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(busy(name, &response)),
        _ if status.is_server_error() => Err(busy(name, &response)),
        _ => Err(FetchError::Refused { url: name, status: number }),
    }
}

fn busy(url: String, response: &Response) -> FetchError {
    let retry_after = text(response.headers(), RETRY_AFTER).and_then(|value| {
        let seconds = value.parse().ok().map(Duration::from_secs);
        seconds.or_else(|| date::parse(&value)?.duration_since(SystemTime::now()).ok())
    });
    FetchError::Transient { url, detail: format!("status {}", response.status()), retry_after }
}

fn transient(url: &Url, detail: &dyn std::fmt::Display) -> FetchError {
    FetchError::Transient { url: url.to_string(), detail: detail.to_string(), retry_after: None }
}

/// A request that did not end: refused, timed out, cut off. A failed redirect or TLS handshake is
/// not told apart; trying those again is harmless.
fn broken(url: &Url, error: &reqwest::Error) -> FetchError {
    transient(url, &causes(error))
}

/// The library says "error sending request" and keeps the cause behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What If-Range takes: a strong `ETag`, else Last-Modified (RFC 9110, 13.1.5). `None` where the
/// server does not serve ranges.
fn validator(headers: &HeaderMap) -> Option<String> {
    if text(headers, ACCEPT_RANGES).is_some_and(|ranges| ranges == "none") {
        return None;
    }
    let etag = text(headers, ETAG).filter(|tag| tag.starts_with('"'));
    etag.or_else(|| text(headers, LAST_MODIFIED)).filter(|value| value.len() <= 256)
}

fn cache_error(path: &Path, error: &io::Error) -> FetchError {
    FetchError::Cache { path: path.to_owned(), detail: error.to_string() }
}

fn hex32(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

#[cfg(test)]
mod tests;
