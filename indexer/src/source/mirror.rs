//! Reads a Debian mirror: InRelease, its signature, the index it lists. Thin: every decision is
//! taken by the pure modules beside it.

use super::{
    apt_config::{AptConfig, SignedBy},
    debian::{ARCH, ArchiveKind, COMPONENT, PREFIX, SuiteIndex},
    openpgp::{Keyring, KeyringError, MAX_MESSAGE, SignatureError, Signed},
    packages::{self, IndexError, Package},
    release::{Compression, Index, Release, ReleaseError},
};
use crate::fetch::{Download, DownloadReporter, FetchError, Fetcher};
use nfdrop_db::Reason;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio::task::JoinSet;

/// Debian's own keyring, which apt falls back to.
const DEBIAN_KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";
/// Longest keyring read, in bytes.
const MAX_KEYRING: u64 = 16 << 20;

/// An archive and the keys its indices are checked with.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Which one.
    pub kind: ArchiveKind,
    /// Its URL, without a slash at the end: `http://mirror.example/debian`.
    pub base: String,
    /// Whose signatures count.
    pub keyring: Keyring,
}

/// Debian's archives, as found in apt's configuration.
#[derive(Debug, Default)]
pub struct Discovered {
    /// At most one of each kind.
    pub archives: Vec<Archive>,
    /// What was skipped or is not there, for people.
    pub warnings: Vec<String>,
}

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadKeyringError {
    /// It cannot be read.
    #[error("the keyring {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{}: {error}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyringError,
    },
    /// The key block in the entry itself.
    #[error("the key block in Signed-By: {0}")]
    Embedded(KeyringError),
    /// There are no keys at all.
    #[error(
        "no keyring found; install the package debian-archive-keyring or name one with Signed-By"
    )]
    None,
}

/// Why a suite that exists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its signature does not hold.
    #[error("{url}: {error}")]
    Signature {
        /// Of the InRelease file.
        url: String,
        /// Why.
        error: SignatureError,
    },
    /// Its Release file cannot be used.
    #[error("{url}: {error}")]
    Release {
        /// Of the InRelease file.
        url: String,
        /// Why.
        error: ReleaseError,
    },
    /// A good signature on another suite's Release file.
    #[error("{url} is signed for {found}, expected {expected}")]
    OtherSuite {
        /// Of the InRelease file.
        url: String,
        /// As asked for.
        expected: String,
        /// As signed.
        found: String,
    },
    /// Its index cannot be used.
    #[error("{url}: {error}")]
    Index {
        /// Of the index.
        url: String,
        /// Why.
        error: IndexError,
    },
    /// The work on it was broken off.
    #[error("reading the index was broken off: {0}")]
    Aborted(String),
}

impl SuiteError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Aborted(_) => Reason::FetchFailed,
            _ => Reason::VerificationFailed,
        }
    }
}

/// A suite that was read and verified.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Its kernel packages.
    pub index: SuiteIndex,
    /// When its Release file was made.
    pub date: SystemTime,
    /// Since when its Release file should have been replaced; see [`super::release`].
    pub stale_since: Option<SystemTime>,
}

/// What became of one suite.
#[derive(Debug)]
pub struct SuiteOutcome {
    /// Of which archive.
    pub archive: ArchiveKind,
    /// `trixie-backports`.
    pub suite: String,
    /// `None`: the mirror does not offer it.
    pub result: Result<Option<Suite>, SuiteError>,
}

/// The keys of an entry, those of Debian and apt where it names none. Files are looked for below
/// `root`, which is `/` but in tests and containers.
pub fn load_keyring(root: &Path, signed_by: &SignedBy) -> Result<Keyring, LoadKeyringError> {
    let mut keyring = Keyring::default();
    if let Some(block) = &signed_by.embedded {
        keyring.add(block.as_bytes()).map_err(LoadKeyringError::Embedded)?;
        return Ok(keyring);
    }
    for path in &signed_by.files {
        let path = root.join(path.strip_prefix("/").unwrap_or(path));
        add_file(&mut keyring, &path)?;
    }
    if !signed_by.files.is_empty() {
        return Ok(keyring.only(&signed_by.fingerprints));
    }
    for path in trusted_files(root) {
        // One file that is broken must not take the others away; a signature by its keys will be
        // reported as by an unknown key.
        if let Err(error) = add_file(&mut keyring, &path) {
            tracing::warn!("{error}; skipped");
        }
    }
    if keyring.is_empty() {
        return Err(LoadKeyringError::None);
    }
    Ok(keyring.only(&signed_by.fingerprints))
}

fn trusted_files(root: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<_> = fs::read_dir(root.join("etc/apt/trusted.gpg.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gpg" || e == "asc"))
        .collect();
    parts.sort();
    let whole = ["etc/apt/trusted.gpg", DEBIAN_KEYRING].map(|path| root.join(path));
    parts.extend(whole.into_iter().filter(|path| path.exists()));
    parts
}

fn add_file(keyring: &mut Keyring, path: &Path) -> Result<(), LoadKeyringError> {
    let unreadable = |error| LoadKeyringError::Read { path: path.to_owned(), error };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_KEYRING {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let wrong = |error| LoadKeyringError::Keys { path: path.to_owned(), error };
    keyring.add(&bytes).map_err(wrong)
}

/// Debian's archives among the entries of apt's configuration: those whose signed Release file says
/// so, whatever the URL looks like.
pub async fn discover(
    fetcher: &Fetcher,
    config: &AptConfig,
    root: &Path,
    now: SystemTime,
) -> Discovered {
    let mut discovered = Discovered::default();
    discovered.warnings.extend(config.warnings.iter().map(ToString::to_string));
    let mut settled = BTreeSet::new();
    for entry in config.entries.iter().filter(|entry| !entry.suite.ends_with('/')) {
        if settled.contains(&entry.uri) {
            continue;
        }
        let warn =
            |why: &dyn std::fmt::Display| format!("{} {}: {why}; skipped", entry.uri, entry.suite);
        let keyring = match load_keyring(root, &entry.signed_by) {
            Ok(keyring) => keyring,
            Err(error) => {
                discovered.warnings.push(warn(&error));
                continue;
            }
        };
        match read_release(fetcher, &entry.uri, &entry.suite, &keyring, now).await {
            Ok(Some((release, _))) => {
                settled.insert(&entry.uri);
                let Some(kind) = ArchiveKind::of(&release.origin, &release.label) else { continue };
                if discovered.archives.iter().any(|archive| archive.kind == kind) {
                    discovered.warnings.push(warn(&format!("a second mirror of the {kind}")));
                    continue;
                }
                discovered.archives.push(Archive { kind, base: entry.uri.clone(), keyring });
            }
            Ok(None) => {}
            Err(error) => discovered.warnings.push(warn(&error)),
        }
    }
    for kind in [ArchiveKind::Main, ArchiveKind::Security] {
        if !discovered.archives.iter().any(|archive| archive.kind == kind) {
            discovered.warnings.push(format!(
                "apt's configuration has no Debian {kind}, its kernels are not crawled; name it \
                 with --mirror"
            ));
        }
    }
    discovered
}

/// Reads every suite that the archives may have, in the order of archives and candidates.
pub async fn read_all(
    fetcher: &Fetcher,
    archives: &[Archive],
    now: SystemTime,
    reporter: &Arc<dyn DownloadReporter>,
) -> Vec<SuiteOutcome> {
    let mut tasks = JoinSet::new();
    let mut outcomes = Vec::new();
    for archive in archives {
        let shared = Arc::new(archive.clone());
        for suite in archive.kind.candidates() {
            let (fetcher, archive) = (fetcher.clone(), Arc::clone(&shared));
            let (reporter, place) = (Arc::clone(reporter), outcomes.len());
            outcomes.push(SuiteOutcome {
                archive: archive.kind,
                suite: suite.clone(),
                // Stays only if the task panics.
                result: Err(SuiteError::Aborted("internal error".to_owned())),
            });
            tasks.spawn(async move {
                (place, read_suite(&fetcher, &archive, &suite, now, reporter.as_ref()).await)
            });
        }
    }
    while let Some(task) = tasks.join_next().await {
        match task {
            Ok((place, result)) => outcomes[place].result = result,
            Err(error) => tracing::error!("{error}"),
        }
    }
    outcomes
}

/// Reads the kernel packages of one suite; `None`: the mirror does not offer it.
pub async fn read_suite(
    fetcher: &Fetcher,
    archive: &Archive,
    suite: &str,
    now: SystemTime,
    reporter: &dyn DownloadReporter,
) -> Result<Option<Suite>, SuiteError> {
    read_suite_of(fetcher, archive, suite, PREFIX, now, reporter).await
}

/// Reads those packages of one suite whose names begin with `prefix`.
pub async fn read_suite_of(
    fetcher: &Fetcher,
    archive: &Archive,
    suite: &str,
    prefix: &str,
    now: SystemTime,
    reporter: &dyn DownloadReporter,
) -> Result<Option<Suite>, SuiteError> {
    let release = read_release(fetcher, &archive.base, suite, &archive.keyring, now).await?;
    let Some((release, signed_by)) = release else { return Ok(None) };
    let url = release_url(&archive.base, suite);
    let indices = release.packages(COMPONENT, ARCH);
    let indices = indices.map_err(|error| SuiteError::Release { url, error })?;
    let base = &archive.base;
    let packages = read_packages(fetcher, base, suite, &indices, prefix, reporter).await?;
    let (suite, base) = (suite.to_owned(), archive.base.clone());
    let stale_since = release.stale_since(now);
    let index = SuiteIndex { suite, base, signed_by, packages };
    Ok(Some(Suite { index, date: release.date, stale_since }))
}

fn release_url(base: &str, suite: &str) -> String {
    format!("{base}/dists/{suite}/InRelease")
}

/// The verified Release file and who signed it.
async fn read_release(
    fetcher: &Fetcher,
    base: &str,
    suite: &str,
    keyring: &Keyring,
    now: SystemTime,
) -> Result<Option<(Release, String)>, SuiteError> {
    let url = release_url(base, suite);
    let message = match fetcher.small(&url, MAX_MESSAGE).await {
        Err(error) if error.is_not_found() => return Ok(None),
        message => message?,
    };
    let signed = keyring.verify(&message, now);
    let Signed { text, signed_by } =
        signed.map_err(|error| SuiteError::Signature { url: url.clone(), error })?;
    let release = Release::parse(&text);
    let release = release.map_err(|error| SuiteError::Release { url: url.clone(), error })?;
    // A mirror could answer with the signed file of another, older suite.
    if ![&release.codename, &release.suite].iter().any(|name| *name == suite) {
        let (expected, found) = (suite.to_owned(), release.codename);
        return Err(SuiteError::OtherSuite { url, expected, found });
    }
    Ok(Some((release, signed_by)))
}

/// Reads the first spelling of the index that the mirror has. A signed table may list more than a
/// mirror offers: other compressions, and `by-hash` where only the field was copied.
async fn read_packages(
    fetcher: &Fetcher,
    base: &str,
    suite: &str,
    indices: &[Index],
    prefix: &str,
    reporter: &dyn DownloadReporter,
) -> Result<Vec<Package>, SuiteError> {
    let mut missing = SuiteError::Aborted("no index is listed".to_owned());
    for index in indices {
        for path in index.by_hash.iter().chain([&index.path]) {
            let url = format!("{base}/dists/{suite}/{path}");
            let (size, sha256) = (index.hash.size, index.hash.sha256);
            let download = Download { url: url.clone(), size, sha256 };
            match fetcher.verified(&download, reporter).await {
                Ok(path) => {
                    return read_index(url, path, index.compression, prefix.to_owned()).await;
                }
                Err(error) if error.is_not_found() => missing = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(missing)
}

async fn read_index(
    url: String,
    path: PathBuf,
    compression: Compression,
    prefix: String,
) -> Result<Vec<Package>, SuiteError> {
    let read = move || -> Result<Vec<Package>, IndexError> {
        packages::read(packages::decompress(File::open(path)?, compression)?, &prefix)
    };
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|error| SuiteError::Aborted(error.to_string()))?;
    read.map_err(|error| SuiteError::Index { url, error })
}

#[cfg(test)]
mod tests;
