//! What the cache remembers of URLs whose content nobody knows beforehand: the server's word for the
//! version it sent (`ETag`, Last-Modified), so that asking again costs an answer without a body.
//!
//! `indices/<sha256 of the URL>` has it in five lines, and behind them, of a small file, the content.
//! One that is damaged, or of another URL, is as good as none.

use super::{FetchError, cache, http};
use nfdrop_db::hex;
use reqwest::{
    Url,
    header::{ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// Bytes of what is said about the content.
const MAX_HEAD: u64 = 8 << 10;

/// What was sent for a URL at an earlier time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) version: Version,
    /// Of the content.
    pub(super) sha256: [u8; 32],
    pub(super) size: u64,
    /// Of a small file.
    pub(super) content: Vec<u8>,
}

/// The server's word for a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

impl Version {
    /// `None` where the server says nothing of that kind.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let plain = |name| http::text(headers, name).filter(|value| value.len() <= 256);
        let version = Self { etag: plain(ETAG), modified: plain(LAST_MODIFIED) };
        (version.etag.is_some() || version.modified.is_some()).then_some(version)
    }

    /// Asks for another version than this.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let etag = self.etag.as_ref().map(|value| (IF_NONE_MATCH, value));
        let modified = self.modified.as_ref().map(|value| (IF_MODIFIED_SINCE, value));
        if let Some((name, value)) = etag.or(modified)
            && let Ok(value) = value.parse()
        {
            headers.insert(name, value);
        }
        headers
    }
}

pub(super) fn key(url: &Url) -> String {
    hex::encode(&Sha256::digest(url.as_str()))
}

fn path(cache: &Path, url: &Url) -> PathBuf {
    cache.join("indices").join(key(url))
}

impl Known {
    /// What is remembered of a URL, at most `max` bytes of content.
    pub(super) fn read(cache: &Path, url: &Url, max: u64) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(path(cache, url)).ok()?;
        file.take(MAX_HEAD + max + 1).read_to_end(&mut bytes).ok()?;
        let mut fields = bytes.splitn(6, |byte| *byte == b'\n');
        let mut next = || String::from_utf8(fields.next()?.to_vec()).ok();
        let (found, sha256, size, etag, modified) = (next()?, next()?, next()?, next()?, next()?);
        let content = fields.next()?.to_vec();
        let sha256: [u8; 32] = hex::decode(&sha256)?.try_into().ok()?;
        let is_intact = content.is_empty() || Sha256::digest(&content)[..] == sha256;
        if found != url.as_str() || content.len() as u64 > max || !is_intact {
            return None;
        }
        let some = |value: String| Some(value).filter(|value| !value.is_empty());
        let version = Version { etag: some(etag), modified: some(modified) };
        Some(Self { version, sha256, size: size.parse().ok()?, content })
    }

    pub(super) fn write(&self, cache: &Path, url: &Url) -> Result<(), FetchError> {
        let Self { version: Version { etag, modified }, sha256, size, content } = self;
        let (etag, modified) = (etag.as_deref(), modified.as_deref());
        let (etag, modified) = (etag.unwrap_or_default(), modified.unwrap_or_default());
        let head = format!("{url}\n{}\n{size}\n{etag}\n{modified}\n", hex::encode(sha256));
        cache::put(&path(cache, url), &[head.as_bytes(), content].concat())
    }

    /// Forgets a URL whose server sends no word of the version any more.
    pub(super) fn remove(cache: &Path, url: &Url) {
        let _ = fs::remove_file(path(cache, url));
    }
}
