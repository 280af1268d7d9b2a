//! apt repositories: InRelease, its signature, the index it lists. Thin: every decision is taken by
//! the pure modules below.

pub mod config;
pub mod debian;
pub mod packages;
pub mod release;

use super::{
    Reader, Repository, Suite, SuiteError,
    kernel::{Package, SuiteIndex, Trust},
    keys::KeyFiles,
    openpgp::{self, Keyring, MAX_MESSAGE, SignatureError, Signed},
};
use crate::fetch::Download;
use config::AptConfig;
use packages::IndexError;
use release::{Compression, Index, Release};
use std::{collections::BTreeSet, fs::File, path::PathBuf};

/// An archive of Debian's, as apt's configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The catalogue's entry: `debian-security`.
    pub source: &'static str,
    /// Its URL, without a slash at the end: `http://mirror.example/debian`.
    pub base: String,
    /// Whose signatures count.
    pub keys: KeyFiles,
}

/// Debian's archives, as found in apt's configuration.
#[derive(Debug, Default)]
pub struct Discovered {
    /// At most one for each source.
    pub archives: Vec<Archive>,
    /// What was skipped, for people.
    pub warnings: Vec<String>,
}

/// Debian's archives among the entries of apt's configuration: those whose signed Release file says
/// so, whatever the URL looks like.
pub async fn discover(reader: &Reader, config: &AptConfig) -> Discovered {
    let mut discovered = Discovered::default();
    discovered.warnings.extend(config.warnings.iter().map(ToString::to_string));
    let mut settled = BTreeSet::new();
    for entry in config.entries.iter().filter(|entry| !entry.suite.ends_with('/')) {
        if settled.contains(&entry.uri) {
            continue;
        }
        let warn =
            |why: &dyn std::fmt::Display| format!("{} {}: {why}; skipped", entry.uri, entry.suite);
        let keyring = match entry.signed_by.openpgp(&reader.root) {
            Ok(keyring) => keyring,
            Err(error) => {
                discovered.warnings.push(warn(&error));
                continue;
            }
        };
        match read_release(reader, &entry.uri, &entry.suite, Some(&keyring)).await {
            Ok(Some((release, _))) => {
                settled.insert(&entry.uri);
                let source = debian::source_of(&release.origin, &release.label);
                let Some(source) = source else { continue };
                if discovered.archives.iter().any(|archive| archive.source == source) {
                    discovered.warnings.push(warn(&format!("a second mirror of {source}")));
                    continue;
                }
                let (base, keys) = (entry.uri.clone(), entry.signed_by.clone());
                discovered.archives.push(Archive { source, base, keys });
            }
            Ok(None) => {}
            Err(error) => discovered.warnings.push(warn(&error)),
        }
    }
    discovered
}

/// Reads the kernel packages of a suite at a mirror; `None`: the mirror does not offer it.
pub(super) async fn read_suite(
    reader: &Reader,
    repository: &Repository,
    base: &str,
) -> Result<Option<Suite>, SuiteError> {
    read_suite_of(reader, repository, base, debian::PREFIX).await
}

/// Reads those packages of a suite whose names begin with `prefix`.
pub async fn read_suite_of(
    reader: &Reader,
    repository: &Repository,
    base: &str,
    prefix: &str,
) -> Result<Option<Suite>, SuiteError> {
    let Repository { suite, arch, .. } = repository;
    let release = if repository.unverified {
        read_release(reader, base, suite, None).await?
    } else {
        let keyring = repository.keys.openpgp(&reader.root)?;
        read_release(reader, base, suite, Some(&keyring)).await?
    };
    let Some((release, signed_by)) = release else { return Ok(None) };
    let url = release_url(base, suite);
    let mut packages = Vec::new();
    for component in &repository.components {
        let indices = release.packages(component, arch);
        let indices = indices.map_err(|error| SuiteError::malformed(url.clone(), error))?;
        packages.extend(read_packages(reader, base, suite, &indices, prefix).await?);
    }
    let trust = match &signed_by {
        Some(signed_by) => Trust::Index { signed_by: signed_by.clone() },
        None => Trust::Nothing,
    };
    let index = SuiteIndex { suite: suite.clone(), base: base.to_owned(), trust, packages };
    let stale_since = release.stale_since(reader.now);
    Ok(Some(Suite { stale_since, ..Suite::new(index, signed_by) }))
}

fn release_url(base: &str, suite: &str) -> String {
    format!("{base}/dists/{suite}/InRelease")
}

/// The Release file, and who signed it: in `InRelease`, which holds both, else `Release` and the
/// signature `Release.gpg` beside it. Without a keyring nothing is checked.
async fn read_release(
    reader: &Reader,
    base: &str,
    suite: &str,
    keyring: Option<&Keyring>,
) -> Result<Option<(Release, Option<String>)>, SuiteError> {
    let mut url = release_url(base, suite);
    let inline = optional(reader, &url).await?;
    let signature = |url: &str, error| SuiteError::Signature { url: url.to_owned(), error };
    let (text, signed_by) = match (inline, keyring) {
        (Some(message), Some(keyring)) => {
            let signed = keyring.verify(&message, reader.now);
            let Signed { text, signed_by } = signed.map_err(|error| signature(&url, error))?;
            (text, Some(signed_by))
        }
        (Some(message), None) => (openpgp::clear_text(&message), None),
        (None, _) => {
            url = format!("{base}/dists/{suite}/Release");
            let Some(text) = optional(reader, &url).await? else { return Ok(None) };
            let signed_by = match keyring {
                None => None,
                Some(keyring) => {
                    let beside = optional(reader, &format!("{url}.gpg")).await?;
                    let beside = beside.ok_or(SignatureError::NoSignature);
                    let signed = beside
                        .and_then(|beside| keyring.verify_detached(&beside, &text[..], reader.now));
                    Some(signed.map_err(|error| signature(&url, error))?)
                }
            };
            (text, signed_by)
        }
    };
    let release = Release::parse(&text);
    let release = release.map_err(|error| SuiteError::malformed(url.clone(), error))?;
    // A mirror could answer with the signed file of another, older suite.
    if ![&release.codename, &release.suite].iter().any(|name| *name == suite) {
        let (expected, found) = (suite.to_owned(), release.codename);
        return Err(SuiteError::OtherSuite { url, expected, found });
    }
    if signed_by.is_some() {
        reader.fetcher.trust(&url)?;
    }
    Ok(Some((release, signed_by)))
}

/// A file that need not be there.
async fn optional(reader: &Reader, url: &str) -> Result<Option<Vec<u8>>, SuiteError> {
    match reader.fetcher.small(url, MAX_MESSAGE).await {
        Err(error) if error.is_not_found() => Ok(None),
        file => Ok(Some(file?)),
    }
}

/// Reads the first spelling of the index that the mirror has. A signed table may list more than a
/// mirror offers: other compressions, and `by-hash` where only the field was copied.
async fn read_packages(
    reader: &Reader,
    base: &str,
    suite: &str,
    indices: &[Index],
    prefix: &str,
) -> Result<Vec<Package>, SuiteError> {
    let mut missing = SuiteError::Aborted("no index is listed".to_owned());
    for index in indices {
        for path in index.by_hash.iter().chain([&index.path]) {
            let url = format!("{base}/dists/{suite}/{path}");
            let (size, sha256) = (index.hash.size, index.hash.sha256);
            let download = Download { url: url.clone(), size, sha256 };
            match reader.fetcher.verified(&download, reader.reporter.as_ref()).await {
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
    read.map_err(|error| SuiteError::malformed(url, error))
}

#[cfg(test)]
mod tests;
