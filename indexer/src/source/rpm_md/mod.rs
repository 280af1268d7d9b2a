//! Repositories of rpms: `repodata/repomd.xml`, the index of packages that it names, and the packages'
//! own signatures. Thin: every decision is taken by the pure modules below.
//!
//! Most distributions sign `repomd.xml`, and what it lists needs no signature more. Where there is no
//! signature beside it (Fedora, Oracle), each package has to be signed itself: then the index
//! is only believed in what it says of where packages are. So a mirror that withholds the signature
//! gains nothing.

mod checksum;
pub mod database;
pub mod kernels;
mod location;
mod mirrors;
pub mod primary;
pub mod repomd;
mod signature;
mod xml;

pub use checksum::{Checksum, ChecksumError};
pub use location::LocationError;
pub use signature::{RpmSignatureError, check, verify};
pub use xml::XmlError;

use super::{
    Asked, Reader, Repository, Suite, SuiteError,
    kernel::{Package, PackageSignature, SuiteIndex, Trust},
    keys::LoadKeysError,
    openpgp::{Keyring, MAX_SIGNATURE},
};
use crate::{
    fetch::{Download, FetchError},
    package::{decoder, suffix_of},
};
use repomd::{Index, MAX_REPOMD};
use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Largest index that is fetched into memory, in bytes: where there is no SHA-256 of it, or no size.
const MAX_IN_MEMORY: usize = 256 << 20;

/// Largest index that is fetched at all, in bytes; Fedora's has 30 MB.
const MAX_INDEX: u64 = 1 << 30;

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It cannot be read.
    #[error("the index cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is not the one that `repomd.xml` lists.
    #[error("the index is not the one that is listed, which has {0}")]
    Other(Checksum),
    /// It has not as many bytes as listed.
    #[error("the index has {found} bytes, expected {expected}")]
    Size {
        /// As listed.
        expected: u64,
        /// As fetched.
        found: u64,
    },
    /// It is longer than any when unpacked.
    #[error("the index has more than {0} bytes when decompressed")]
    TooLong(u64),
    /// One in XML.
    #[error(transparent)]
    Primary(#[from] primary::PrimaryError),
    /// One that is a database.
    #[error(transparent)]
    Database(#[from] database::DatabaseError),
}

/// Reads the kernel packages of a repository, or of the first usable one of a list of mirrors; `None`:
/// there is none at this URL.
pub(super) async fn read_suite(
    reader: &Reader,
    repository: &Repository,
    url: &str,
) -> Result<Option<Suite>, SuiteError> {
    if !mirrors::is_list(url) {
        return read_base(reader, repository, url).await;
    }
    let list = match reader.fetcher.small(url, mirrors::MAX_LIST).await {
        Err(error) if error.is_not_found() => return Ok(None),
        list => list?,
    };
    let bases = mirrors::read(&list).map_err(|error| SuiteError::malformed(url, error))?;
    let mut asked = Asked::none();
    for base in bases {
        let read = read_base(reader, repository, &base).await;
        if let Some(suite) = asked.answered(&base, read) {
            return Ok(Some(suite));
        }
    }
    asked.no_mirror_left()
}

async fn read_base(
    reader: &Reader,
    repository: &Repository,
    base: &str,
) -> Result<Option<Suite>, SuiteError> {
    let url = format!("{base}/repodata/repomd.xml");
    let before = reader.fetcher.trusted(&url, MAX_REPOMD);
    let repomd = match reader.fetcher.small(&url, MAX_REPOMD).await {
        Err(error) if error.is_not_found() => return Ok(None),
        repomd => repomd?,
    };
    let keys = keys(reader, repository)?;
    let mut signed_by = None;
    if let Some(keys) = &keys {
        signed_by = verify_repomd(reader, keys, &url, &repomd).await?;
    }
    let index =
        repomd::primary(&repomd).map_err(|error| SuiteError::malformed(url.as_str(), error))?;
    let older = before.and_then(|before| older(&index, &before));
    // What is remembered is the newest, whatever mirrors say in between.
    if signed_by.is_some() && older.is_none() {
        reader.fetcher.trust(&url)?;
        reader.fetcher.trust(&signature_of(&url))?;
    }
    let packages = read_index(reader, base, index).await?;
    // What downloads are compared with; without it the index says nothing of what is in a package.
    if !packages.iter().all(|package| package.sha256.is_some()) {
        signed_by = None;
    }
    let trust = match (&signed_by, keys) {
        (Some(key), _) => Trust::Index { signed_by: key.clone() },
        (None, Some(keys)) => Trust::Package(PackageSignature::Rpm { keys: Arc::new(keys) }),
        (None, None) => Trust::Nothing,
    };
    let (suite, base) = (repository.suite.clone(), base.to_owned());
    let index = SuiteIndex { suite, base, trust, packages };
    Ok(Some(Suite { older, ..Suite::new(index, signed_by) }))
}

fn signature_of(url: &str) -> String {
    format!("{url}.asc")
}

/// An old index has a good signature too. What it says is true, but it hides what is newer.
fn older(index: &Index, before: &[u8]) -> Option<[SystemTime; 2]> {
    let before = repomd::primary(before).ok()?.timestamp?;
    let now = index.timestamp.filter(|now| *now < before)?;
    let time = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Some([time(now)?, time(before)?])
}

/// Whose signatures count; `None`: nobody's have to. apt's own keys are not for these.
fn keys(reader: &Reader, repository: &Repository) -> Result<Option<Keyring>, LoadKeysError> {
    let named = !repository.keys.files.is_empty() || repository.keys.embedded.is_some();
    if repository.unverified {
        return Ok(None);
    }
    if named { repository.keys.openpgp(&reader.root).map(Some) } else { Err(LoadKeysError::None) }
}

/// Who signed `repomd.xml`; `None`: there is no signature.
async fn verify_repomd(
    reader: &Reader,
    keys: &Keyring,
    url: &str,
    repomd: &[u8],
) -> Result<Option<String>, SuiteError> {
    let beside = signature_of(url);
    let signature = match reader.fetcher.small(&beside, MAX_SIGNATURE).await {
        Err(error) if error.is_not_found() => return Ok(None),
        signature => signature?,
    };
    match keys.verify_detached(&signature, repomd, reader.now) {
        Ok(signed_by) => Ok(Some(signed_by)),
        Err(error) => Err(SuiteError::Signature { url: beside, error }),
    }
}

/// An index that was fetched and checked.
enum Fetched {
    File(PathBuf),
    Memory(Vec<u8>),
}

async fn read_index(reader: &Reader, base: &str, index: Index) -> Result<Vec<Package>, SuiteError> {
    let url = format!("{base}/{}", index.path);
    let fetched = fetch(reader, &url, &index).await?;
    let read = tokio::task::spawn_blocking(move || match fetched {
        Fetched::File(path) => read_packages(&index, File::open(&path)?, path.parent()),
        Fetched::Memory(bytes) => {
            check_index(&index, &bytes)?;
            read_packages(&index, &bytes[..], None)
        }
    });
    let read = read.await.map_err(|error| SuiteError::Aborted(error.to_string()))?;
    read.map_err(|error| SuiteError::malformed(url, error))
}

async fn fetch(reader: &Reader, url: &str, index: &Index) -> Result<Fetched, FetchError> {
    if let (Some(size), Some(sha256)) = (index.size, index.checksum.sha256()) {
        if size > MAX_INDEX {
            return Err(FetchError::TooLarge { url: url.to_owned(), max: MAX_INDEX });
        }
        let download = Download { url: url.to_owned(), size, sha256 };
        let path = reader.fetcher.verified(&download, reader.reporter.as_ref()).await?;
        return Ok(Fetched::File(path));
    }
    Ok(Fetched::Memory(reader.fetcher.small(url, MAX_IN_MEMORY).await?))
}

fn check_index(index: &Index, bytes: &[u8]) -> Result<(), IndexError> {
    let found = bytes.len() as u64;
    match index.size {
        Some(expected) if expected != found => Err(IndexError::Size { expected, found }),
        _ if !index.checksum.is_of(bytes) => Err(IndexError::Other(index.checksum)),
        _ => Ok(()),
    }
}

/// The kernel packages of an index, compressed or not. A database needs a file, which is made in
/// `directory`, else where the system has temporary ones.
fn read_packages(
    index: &Index,
    reader: impl Read,
    directory: Option<&Path>,
) -> Result<Vec<Package>, IndexError> {
    let mut reader = BufReader::new(reader);
    let suffix = suffix_of(reader.fill_buf()?);
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);
    let mut reader = decoder(suffix, reader).ok_or_else(unknown)??;
    if index.kind == "primary" {
        return Ok(primary::read(reader, kernels::is_wanted)?);
    }
    let mut file = match directory {
        Some(directory) => tempfile::NamedTempFile::new_in(directory)?,
        None => tempfile::NamedTempFile::new()?,
    };
    let max = database::MAX_DATABASE;
    if io::copy(&mut reader.by_ref().take(max + 1), file.as_file_mut())? > max {
        return Err(IndexError::TooLong(max));
    }
    Ok(database::read(file.path(), kernels::is_wanted)?)
}
