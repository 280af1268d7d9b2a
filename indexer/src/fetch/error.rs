//! Why a download failed. Whether another attempt makes sense is in the type.

use nfdrop_db::Reason;
use reqwest::Url;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

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
    /// It redirects in circles, too often, or from https to http.
    #[error("{url} is redirected in a way that is not followed: {detail}")]
    Redirected {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Nothing is asked of this host for a while.
    #[error(
        "{url} was not asked for: the last {failures} requests to {host} failed, so it is left alone \
         for {} s; try again later",
        rest.as_secs()
    )]
    Resting {
        /// What was not asked for.
        url: String,
        /// With its port.
        host: String,
        /// One after the other.
        failures: u32,
        /// For how long in all.
        rest: Duration,
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

pub(super) fn transient(url: &Url, detail: &dyn fmt::Display) -> FetchError {
    FetchError::Transient { url: url.to_string(), detail: detail.to_string(), retry_after: None }
}

/// A request that did not end: refused, timed out, cut off. A failed TLS handshake is not told apart;
/// trying that again is harmless.
pub(super) fn broken(url: &Url, error: &reqwest::Error) -> FetchError {
    let detail = causes(error);
    if error.is_redirect() {
        return FetchError::Redirected { url: url.to_string(), detail };
    }
    transient(url, &detail)
}

/// The library says "error sending request" and keeps the cause behind it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
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

pub(super) fn cache_error(path: &Path, error: &io::Error) -> FetchError {
    let detail = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{error}; make room there, or name another place with --cache")
        }
        _ => error.to_string(),
    };
    FetchError::Cache { path: path.to_owned(), detail }
}
