//! Parts of a file that is on a server: who needs two blocks of a package does not fetch the others.
//!
//! The hash of the package is then compared by nobody. What vouches for the bytes is the transport,
//! that the server says they are of a file of the size that the signed index says, and that this file
//! is the same one from the first part to the last (If-Range; where a server tells nothing of versions,
//! that what is taken out of some parts has the checksums that others list). So whoever keeps what is made
//! of them has to keep this too.

use super::{
    Download, DownloadReporter, Ending, FetchError, Fetcher,
    error::transient,
    http::{self, Pace, refusal},
    parse,
    report::Status,
};
use crate::package::RandomAccess;
use reqwest::{
    StatusCode, Url,
    header::{CONTENT_RANGE, HeaderMap, IF_RANGE, RANGE},
};
use std::{
    io::{self, Read},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::runtime::Handle;

/// The first part, which has a package's headers and its list of files, and the first one of
/// every further place.
const FIRST: u64 = 64 << 10;
/// Each further part is twice as long as the one before, up to this.
const LARGEST: u64 = 4 << 20;

/// A file on a server that serves ranges.
#[derive(Debug)]
pub struct Remote {
    fetcher: Fetcher,
    runtime: Handle,
    url: Url,
    size: u64,
    /// Of the version that all parts are of, where the server tells.
    validator: Option<String>,
    /// What it begins with.
    head: Vec<u8>,
    /// How many bytes of it were fetched.
    received: AtomicU64,
}

/// Bytes, and what the server says of the version they are of.
type Part = (Vec<u8>, Option<String>);

impl Fetcher {
    /// Has `read` read parts of a file, on a thread that may wait. `None` where that cannot be, the
    /// server serving no ranges, or where `read` says so: then the whole file is needed.
    ///
    /// Nobody compares the hash: what comes out is verified by the transport only.
    pub async fn parts<T: Send + 'static>(
        &self,
        download: &Download,
        reporter: &dyn DownloadReporter,
        read: impl FnOnce(&Remote) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, FetchError> {
        let url = parse(&download.url)?;
        if url.scheme() == "file" {
            return Ok(None);
        }
        let Some(remote) = self.remote(url, download.size).await? else { return Ok(None) };
        let mut status = Status::start(reporter, download);
        let reading = tokio::task::spawn_blocking(move || {
            let result = read(&remote);
            (result, remote.received.into_inner())
        });
        let (result, fetched) =
            reading.await.map_err(|error| FetchError::Client(error.to_string()))?;
        status.progress(fetched);
        // Without a result it is begun again as a whole.
        status.end(if result.is_some() { Ending::Fetched } else { Ending::Cancelled });
        Ok(result)
    }

    async fn remote(&self, url: Url, size: u64) -> Result<Option<Remote>, FetchError> {
        let range = 0..FIRST.min(size);
        let Some((head, validator)) = self.part(&url, range, size, None).await? else {
            return Ok(None);
        };
        let (fetcher, runtime) = (self.clone(), Handle::current());
        let received = AtomicU64::new(head.len() as u64);
        Ok(Some(Remote { fetcher, runtime, url, size, validator, head, received }))
    }

    /// A part of a file of this size; `None` where the server does not serve it, or of another
    /// version only.
    async fn part(
        &self,
        url: &Url,
        range: Range<u64>,
        size: u64,
        validator: Option<&str>,
    ) -> Result<Option<Part>, FetchError> {
        let mut pauses = self.pauses();
        loop {
            let permit = self.0.hosts.permit(url).await?;
            let part = permit.note(self.part_once(url, range.clone(), size, validator).await);
            drop(permit);
            match part {
                Err(error) => pauses.wait(error).await?,
                part => return part,
            }
        }
    }

    async fn part_once(
        &self,
        url: &Url,
        range: Range<u64>,
        size: u64,
        validator: Option<&str>,
    ) -> Result<Option<Part>, FetchError> {
        let Range { start, end } = range;
        let mut headers = HeaderMap::new();
        let last = end.saturating_sub(1);
        if let Ok(range) = format!("bytes={start}-{last}").parse() {
            headers.insert(RANGE, range);
        }
        if let Some(validator) = validator.and_then(|validator| validator.parse().ok()) {
            headers.insert(IF_RANGE, validator);
        }
        let mut response = self.send(url, headers).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(None),
            _ => return Err(refusal(url, &response)),
        }
        // A server that cannot count is not one to fetch parts from.
        if http::text(response.headers(), CONTENT_RANGE)
            != Some(format!("bytes {start}-{last}/{size}"))
        {
            return Ok(None);
        }
        let found = http::validator(response.headers());
        if validator.is_some() && found.is_some() && found.as_deref() != validator {
            return Ok(None);
        }
        let (mut bytes, mut pace) = (Vec::new(), Pace::new(&self.0.options));
        while let Some(chunk) = pace.chunk(url, &mut response).await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() as u64 > end - start {
                return Ok(None);
            }
        }
        if bytes.len() as u64 != end - start {
            let detail = format!("{} bytes of the {} of a range", bytes.len(), end - start);
            return Err(transient(url, &detail));
        }
        Ok(Some((bytes, found)))
    }
}

impl RandomAccess for Remote {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn part(&self, range: Range<u64>) -> Box<dyn Read + Send + '_> {
        let rest = range.start..range.end.min(self.size);
        Box::new(Parts { remote: self, rest, next: FIRST, part: Vec::new(), read: 0 })
    }
}

/// Reads on, part by part.
struct Parts<'a> {
    remote: &'a Remote,
    /// What is not there yet.
    rest: Range<u64>,
    /// How much to fetch next.
    next: u64,
    part: Vec<u8>,
    /// How much of the part was read.
    read: usize,
}

impl Read for Parts<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read == self.part.len() && self.rest.start < self.rest.end {
            self.fetch()?;
        }
        let read = (&self.part[self.read..]).read(out)?;
        self.read += read;
        Ok(read)
    }
}

impl Parts<'_> {
    fn fetch(&mut self) -> io::Result<()> {
        let Remote { fetcher, runtime, url, size, validator, head, received } = self.remote;
        let Range { start, end } = self.rest;
        self.read = 0;
        if let Some(head) = head.get(start as usize..).filter(|head| !head.is_empty()) {
            self.part = head[..head.len().min((end - start) as usize)].to_vec();
        } else {
            let range = start..end.min(start + self.next);
            let part = fetcher.part(url, range, *size, validator.as_deref());
            let part = runtime.block_on(part).map_err(io::Error::other)?;
            let changed = || io::Error::other(format!("{url} has changed meanwhile"));
            self.part = part.ok_or_else(changed)?.0;
            received.fetch_add(self.part.len() as u64, Ordering::Relaxed);
            self.next = LARGEST.min(self.next * 2);
        }
        self.rest.start += self.part.len() as u64;
        Ok(())
    }
}
