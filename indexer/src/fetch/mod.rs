//! Downloads: the only part of the indexer that speaks to the network.
//!
//! A package is wanted by its SHA-256, which a signed index gave, so the cache is named by content
//! and can be shared, copied and cut off at any time: `packages/<sha256>` exists only whole, what is
//! under way is in `partial/` and is continued, by another process too. A file of the cache is used
//! after its hash was checked again. Of a file that is known by its URL only the server is asked
//! whether it has another version now.
//!
//! Everything ends: a host has few connections and rests after many failures, a request has few
//! attempts, an answer has to keep a pace, and a redirect leads to few others.

mod cache;
mod error;
mod hosts;
mod http;
mod known;
mod parts;
mod report;

pub use error::FetchError;
pub use parts::Remote;
pub use report::{DownloadReporter, DownloadStatus, Ending, Silent};

use nfdrop_db::hex;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use cache::Partial;
use error::{broken, causes, transient};
use hosts::Hosts;
use http::{Pace, accept, text, validator};
use known::{Known, Version};
use report::Status;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, HeaderMap, IF_RANGE, RANGE},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A server that wants a longer pause is one to come back to another time.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Most URLs whose content is remembered until it is found to be good.
const MAX_UNTRUSTED: usize = 64;
/// Most bytes of them together.
const MAX_UNTRUSTED_BYTES: usize = 64 << 20;

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
    /// For an answer of any size, beyond the time that `lowest_rate` leaves it.
    pub patience: Duration,
    /// In bytes per second, over a whole answer.
    pub lowest_rate: u64,
    /// After so many failures in a row a host is left alone.
    pub tolerance: u32,
    /// For how long it is.
    pub rest: Duration,
}

impl Options {
    /// Four connections per host, four retries, at least 10 kB a second, five minutes of rest after
    /// twenty failures.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            per_host: 4,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 4,
            pause: Duration::from_millis(500),
            patience: Duration::from_secs(30),
            lowest_rate: 10_000,
            tolerance: 20,
            rest: Duration::from_mins(5),
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

/// A file that was fetched without its hash being known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    /// In the cache.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// As computed here.
    pub sha256: [u8; 32],
}

/// Fetches files. Clones share connections and limits.
#[derive(Debug, Clone)]
pub struct Fetcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: reqwest::Client,
    options: Options,
    hosts: Hosts,
    /// What was fetched and not found to be good yet, by URL.
    untrusted: Mutex<HashMap<Url, Known>>,
}

/// What an answer was.
enum Answer {
    /// All of the file is there, with this SHA-256 and, if the server says it, of this version.
    Whole([u8; 32], Option<Version>),
    /// The version that is known already.
    Unchanged,
}

impl Fetcher {
    /// Creates the cache's directories too.
    pub fn new(options: Options) -> Result<Self, FetchError> {
        cache::create(&options.cache)?;
        // Fails only where it has been done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = http::client(&options).map_err(|error| {
            FetchError::Client(format!("{}: are ca-certificates installed?", causes(&error)))
        })?;
        let hosts = Hosts::new(&options);
        let untrusted = Mutex::default();
        Ok(Self(Arc::new(Inner { client, options, hosts, untrusted })))
    }

    /// A small file that nothing is known of beforehand, at most `max` bytes. What was sent before,
    /// and [trusted](Fetcher::trust), is taken from the cache where the server says that it still is
    /// the same.
    pub async fn small(&self, url: &str, max: usize) -> Result<Vec<u8>, FetchError> {
        let url = parse(url)?;
        if url.scheme() == "file" {
            let mut whole = Vec::new();
            let read = open(&url)?.take(max as u64 + 1).read_to_end(&mut whole);
            read.map_err(|error| transient(&url, &error))?;
            let too_large = FetchError::TooLarge { url: url.to_string(), max: max as u64 };
            return if whole.len() > max { Err(too_large) } else { Ok(whole) };
        }
        let mut pauses = self.pauses();
        loop {
            let permit = self.0.hosts.permit(&url).await?;
            let small = permit.note(self.small_once(&url, max).await);
            drop(permit);
            match small {
                Err(error) => pauses.wait(error).await?,
                whole => return whole,
            }
        }
    }

    async fn small_once(&self, url: &Url, max: usize) -> Result<Vec<u8>, FetchError> {
        let cache = &self.0.options.cache;
        // One that was cut to nothing has no content to go by.
        let known = Known::read(cache, url, max as u64).filter(|known| !known.content.is_empty());
        let headers = known.as_ref().map(|known| known.version.headers()).unwrap_or_default();
        let response = self.send(url, headers).await?;
        if response.status() == StatusCode::NOT_MODIFIED
            && let Some(known) = known
        {
            return Ok(known.content);
        }
        let mut response = accept(url, response)?;
        let version = Version::of(response.headers());
        let (mut content, mut pace) = (Vec::new(), Pace::new(&self.0.options));
        while let Some(bytes) = pace.chunk(url, &mut response).await? {
            let bytes = bytes.as_ref();
            if bytes.len() > max - content.len() {
                return Err(FetchError::TooLarge { url: url.to_string(), max: max as u64 });
            }
            content.extend_from_slice(bytes);
        }
        // What was trusted before stays remembered: it is not for an answer that nobody has verified to
        // have it forgotten.
        let Some(version) = version else { return Ok(content) };
        let (sha256, size) = (Sha256::digest(&content).into(), content.len() as u64);
        let known = Known { version, sha256, size, content: content.clone() };
        self.distrust(url, known);
        Ok(content)
    }

    /// Keeps what was last fetched of a URL, now that its signature was checked: the server is then
    /// asked for another version only. What was spoilt on its way must not be kept, since it came
    /// with the right version, and would never be replaced.
    pub fn trust(&self, url: &str) -> Result<(), FetchError> {
        let url = parse(url)?;
        let known = self.untrusted().remove(&url);
        known.map_or(Ok(()), |known| known.write(&self.0.options.cache, &url))
    }

    /// What was last [trusted](Fetcher::trust) of a URL, at most `max` bytes.
    pub fn trusted(&self, url: &str, max: usize) -> Option<Vec<u8>> {
        let known = Known::read(&self.0.options.cache, &parse(url).ok()?, max as u64)?;
        Some(known.content).filter(|content| !content.is_empty())
    }

    fn distrust(&self, url: &Url, known: Known) {
        let mut untrusted = self.untrusted();
        // Who never trusts anything has it fetched every time.
        let kept: usize = untrusted.values().map(|known| known.content.len()).sum();
        if untrusted.len() >= MAX_UNTRUSTED || kept + known.content.len() > MAX_UNTRUSTED_BYTES {
            untrusted.clear();
        }
        if known.content.len() <= MAX_UNTRUSTED_BYTES {
            untrusted.insert(url.clone(), known);
        }
    }

    fn untrusted(&self) -> MutexGuard<'_, HashMap<Url, Known>> {
        self.0.untrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the cache seems to have the file, so that nothing would have to be fetched.
    pub fn has(&self, download: &Download) -> bool {
        let path = cache::whole(&self.0.options.cache, &download.sha256);
        fs::metadata(path).is_ok_and(|file| file.len() == download.size)
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
        let result = self.verified_inner(&url, download, &mut status).await;
        status.end_with(result)
    }

    async fn verified_inner(
        &self,
        url: &Url,
        download: &Download,
        status: &mut Status,
    ) -> Result<(PathBuf, Ending), FetchError> {
        let cache = self.0.options.cache.clone();
        let (size, sha256) = (download.size, download.sha256);
        let mut partial = match blocking(move || cache::open(&cache, size, sha256)).await? {
            cache::Opened::Whole(path) => return Ok((path, Ending::Cached)),
            cache::Opened::Partial(partial) => partial,
        };
        self.complete(url, &mut partial, None, status).await?;
        let path = blocking(move || partial.keep(&sha256)).await?;
        Ok((path, Ending::Fetched))
    }

    /// The path of the checked file of this SHA-256, of which nothing else is known, at most `max` bytes:
    /// from the cache where that has it, else fetched.
    pub async fn by_hash(
        &self,
        url: &str,
        sha256: [u8; 32],
        max: u64,
        reporter: &dyn DownloadReporter,
    ) -> Result<PathBuf, FetchError> {
        let path = cache::whole(&self.0.options.cache, &sha256);
        if let Ok(size) = fs::metadata(&path).map(|file| file.len()) {
            let download = Download { url: url.to_owned(), size, sha256 };
            return self.verified(&download, reporter).await;
        }
        let fetched = self.unverified(url, max, reporter).await?;
        if fetched.sha256 == sha256 {
            return Ok(fetched.path);
        }
        let (expected, found) = (hex::encode(&sha256), hex::encode(&fetched.sha256));
        Err(FetchError::HashMismatch { url: url.to_owned(), expected, found })
    }

    /// A file of which neither size nor hash is known beforehand, at most `max` bytes. As with
    /// [`Fetcher::small`] one that was [trusted](Fetcher::trust) is fetched again only if the server
    /// has another version.
    pub async fn unverified(
        &self,
        url: &str,
        max: u64,
        reporter: &dyn DownloadReporter,
    ) -> Result<Unverified, FetchError> {
        let parsed = parse(url)?;
        let download = Download { url: url.to_owned(), size: 0, sha256: [0; 32] };
        let mut status = Status::start(reporter, &download);
        let result = self.unverified_inner(&parsed, max, &mut status).await;
        status.end_with(result)
    }

    async fn unverified_inner(
        &self,
        url: &Url,
        max: u64,
        status: &mut Status,
    ) -> Result<(Unverified, Ending), FetchError> {
        let (cache, key) = (self.0.options.cache.clone(), url.clone());
        let (mut partial, known) = blocking(move || {
            let partial = cache::open_unknown(&cache, &known::key(&key), max)?;
            let known = Known::read(&cache, &key, 0).filter(|known| known.size <= max);
            let file = known.map(|Known { version, sha256, size, .. }| {
                (version, Unverified { path: cache::whole(&cache, &sha256), size, sha256 })
            });
            let is_there = |(_, file): &(Version, Unverified)| {
                cache::is_whole(&file.path, file.size, file.sha256).unwrap_or(false)
            };
            Ok((partial, file.filter(is_there)))
        })
        .await?;
        let known_version = known.as_ref().map(|(version, _)| version);
        let answer = self.complete(url, &mut partial, known_version, status).await?;
        let (sha256, version) = match (answer, known) {
            (Answer::Whole(sha256, version), _) => (sha256, version),
            (Answer::Unchanged, Some((_, file))) => return Ok((file, Ending::Cached)),
            (Answer::Unchanged, None) => return Err(transient(url, &"status 304 unasked for")),
        };
        let size = partial.len();
        match version {
            Some(version) => {
                self.distrust(url, Known { version, sha256, size, content: Vec::new() });
            }
            None => Known::remove(&self.0.options.cache, url),
        }
        let path = blocking(move || partial.keep(&sha256)).await?;
        Ok((Unverified { path, size, sha256 }, Ending::Fetched))
    }

    /// Fetches until the file is there.
    async fn complete(
        &self,
        url: &Url,
        partial: &mut Partial,
        known: Option<&Version>,
        status: &mut Status,
    ) -> Result<Answer, FetchError> {
        let mut pauses = self.pauses();
        loop {
            match self.complete_once(url, partial, known, status).await {
                Err(error) => pauses.wait(error).await?,
                answer => return answer,
            }
        }
    }

    /// Continues the file to its end and checks it.
    async fn complete_once(
        &self,
        url: &Url,
        partial: &mut Partial,
        known: Option<&Version>,
        status: &mut Status,
    ) -> Result<Answer, FetchError> {
        let resumed = partial.len() > 0;
        let mut version = None;
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
        } else if !partial.is_long_enough() {
            let permit = self.0.hosts.permit(url).await?;
            let received = self.receive(url, partial, known, status).await;
            match permit.note(received)? {
                Some(found) => version = found,
                None => return Ok(Answer::Unchanged),
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
            Ok(sha256) => Ok(Answer::Whole(sha256, version)),
        }
    }

    /// Appends the rest of the file. Its version; `None`: it is the known one.
    async fn receive(
        &self,
        url: &Url,
        partial: &mut Partial,
        known: Option<&Version>,
        status: &mut Status,
    ) -> Result<Option<Option<Version>>, FetchError> {
        let Some(mut response) = self.request(url, partial, known).await? else { return Ok(None) };
        let version = Version::of(response.headers());
        status.progress(partial.len());
        let mut pace = Pace::new(&self.0.options);
        while let Some(bytes) = pace.chunk(url, &mut response).await? {
            // Writing to the page cache is not worth a thread; fsync is, see Partial::keep.
            partial.append(url, bytes.as_ref())?;
            status.progress(partial.len());
        }
        Ok(Some(version))
    }

    /// Asks for the rest of the file where that is safe, else for all of it. `None`: it is of the
    /// known version.
    async fn request(
        &self,
        url: &Url,
        partial: &mut Partial,
        known: Option<&Version>,
    ) -> Result<Option<Response>, FetchError> {
        let from = partial.len();
        let mut headers = HeaderMap::new();
        let mut expected = None;
        if from > 0
            && let Some(total) = partial.total()
            && let Some(validator) = partial.validator().and_then(|v| v.parse().ok())
            && let Ok(range) = format!("bytes={from}-").parse()
        {
            headers.insert(RANGE, range);
            headers.insert(IF_RANGE, validator);
            expected = Some(format!("bytes {from}-{}/{total}", total - 1));
        } else if let Some(known) = known {
            headers = known.headers();
        }
        let response = self.send(url, headers).await?;
        let status = response.status();
        if let Some(expected) = expected
            && status == StatusCode::PARTIAL_CONTENT
        {
            let found = text(response.headers(), CONTENT_RANGE);
            if found.as_deref() == Some(&expected) {
                return Ok(Some(response));
            }
            partial.restart(None)?;
            let found = found.unwrap_or_default();
            return Err(transient(url, &format!("range {found:?}, expected {expected:?}")));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            partial.restart(None)?;
            return Err(transient(url, &"the server has no such range"));
        }
        if status == StatusCode::NOT_MODIFIED && known.is_some() {
            return Ok(None);
        }
        let response = accept(url, response)?;
        partial.restart(validator(response.headers()))?;
        partial.announce(response.content_length());
        Ok(Some(response))
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response, FetchError> {
        let request = self.0.client.get(url.clone()).headers(headers);
        request.send().await.map_err(|error| broken(url, &error))
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

/// Runs what waits for the disk or for a lock.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| FetchError::Client(error.to_string()))?
}

#[cfg(test)]
mod tests;
