//! pacman's repositories: Arch.
//!
//! A repository is a database, `core.db`, and the packages that it lists beside it. Arch signs
//! packages and not databases, others sign both: with `core.db.sig` the index vouches for the packages,
//! without it each package's own signature does, which older databases hold and newer ones leave in a
//! file beside the package. Old packages are in an archive without a database, see [`archive`].
//!
//! A package is a kernel whole. Its release is only a guess until it is unpacked.

pub mod archive;
pub mod db;
pub(super) mod version;

use super::{
    Reader, Repository, Suite, SuiteError,
    kernel::{KernelSet, Package, PackageRef, PackageSignature, SuiteIndex, Trust, merge, sort},
    openpgp::{Keyring, MAX_SIGNATURE},
    version::Version,
};
use crate::{
    fetch::FetchError,
    package::{PacmanError, pacman},
};
use std::{io::Read, sync::Arc};

/// Kernel packages, and what the releases of their kernels end with.
const NAMES: [&str; 4] = ["linux", "linux-lts", "linux-zen", "linux-hardened"];
/// Most bytes of a database; Arch's largest has 9 MB.
const MAX_DATABASE: usize = 64 << 20;
/// Most bytes of a page of the archive.
const MAX_PAGE: usize = 16 << 20;

/// Whether this is the name of a package's file, and so leads nowhere else.
fn is_file(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"@._+:~-".contains(&c);
    let stem = ["", ".zst", ".xz", ".gz"].iter().find_map(|suffix| {
        name.strip_suffix(suffix).and_then(|name| name.strip_suffix(".pkg.tar"))
    });
    name.len() <= 255
        && stem.is_some_and(|stem| {
            stem.starts_with(|c: char| c.is_ascii_alphanumeric()) && stem.bytes().all(plain)
        })
}

/// Reads the kernel packages of a repository at a mirror; `None`: the mirror does not offer it.
pub(super) async fn read_suite(
    reader: &Reader,
    repository: &Repository,
    base: &str,
) -> Result<Option<Suite>, SuiteError> {
    let url = format!("{base}/{}.db", repository.suite);
    let database = match reader.fetcher.small(&url, MAX_DATABASE).await {
        Err(error) if error.is_not_found() => return Ok(None),
        database => database?,
    };
    let signature = beside(reader, &url).await?;
    let mut signed_by = None;
    let trust = if repository.unverified {
        Trust::Nothing
    } else {
        let keys = repository.keys.openpgp(&reader.root)?;
        if let Some(signature) = signature {
            let verified = keys.verify_detached(&signature, &database[..], reader.now);
            let key =
                verified.map_err(|error| SuiteError::Signature { url: url.clone(), error })?;
            reader.fetcher.trust(&url)?;
            reader.fetcher.trust(&format!("{url}{}", archive::SIGNATURE))?;
            signed_by = Some(key.clone());
            Trust::Index { signed_by: key }
        } else {
            Trust::Package(PackageSignature::Listed { keys: Arc::new(keys) })
        }
    };
    let read = tokio::task::spawn_blocking(move || db::read(&database, &NAMES)).await;
    let read = read.map_err(|error| SuiteError::Aborted(error.to_string()))?;
    let packages = read.map_err(|error| SuiteError::malformed(url, error))?;
    let trust = match trust {
        // A package without a signature in the database has one beside it, and then all have.
        Trust::Package(PackageSignature::Listed { keys })
            if packages.iter().any(|package| package.signature.is_none()) =>
        {
            Trust::Package(beside_packages(keys))
        }
        trust => trust,
    };
    Ok(Some(suite(repository, base, trust, packages, signed_by)))
}

/// Reads the pages of the archive that are about kernels; `None`: there are none at this mirror.
pub(super) async fn read_archive(
    reader: &Reader,
    repository: &Repository,
    base: &str,
) -> Result<Option<Suite>, SuiteError> {
    let mut packages = Vec::new();
    let mut found = false;
    for name in NAMES {
        let folder = format!("{}/{name}/", &name[..1]);
        let url = format!("{base}/{folder}");
        let page = match reader.fetcher.small(&url, MAX_PAGE).await {
            Err(error) if error.is_not_found() => continue,
            page => page?,
        };
        found = true;
        let page = String::from_utf8_lossy(&page);
        let read = archive::read(&page, &folder, name, &repository.arch);
        packages.extend(read.map_err(|error| SuiteError::malformed(url, error))?);
    }
    if !found {
        return Ok(None);
    }
    let trust = if repository.unverified {
        Trust::Nothing
    } else {
        Trust::Package(beside_packages(Arc::new(repository.keys.openpgp(&reader.root)?)))
    };
    Ok(Some(suite(repository, base, trust, packages, None)))
}

fn suite(
    repository: &Repository,
    base: &str,
    trust: Trust,
    packages: Vec<Package>,
    signed_by: Option<String>,
) -> Suite {
    let (suite, base) = (repository.suite.clone(), base.to_owned());
    let index = SuiteIndex { suite, base, trust, packages };
    Suite::new(index, signed_by)
}

fn beside_packages(keys: Arc<Keyring>) -> PackageSignature {
    PackageSignature::Beside { suffix: archive::SIGNATURE, keys }
}

/// The detached signature of a file, if there is one.
async fn beside(reader: &Reader, url: &str) -> Result<Option<Vec<u8>>, FetchError> {
    match reader.fetcher.small(&format!("{url}{}", archive::SIGNATURE), MAX_SIGNATURE).await {
        Err(error) if error.is_not_found() => Ok(None),
        signature => signature.map(Some),
    }
}

/// The kernels that the indices offer, each once, ascending by series, flavour and version. A package
/// that a database and the archive list is one: the database knows more of it.
pub fn kernels(distro: &str, arch: &str, indices: &[SuiteIndex]) -> Vec<KernelSet> {
    let (known, archived): (Vec<_>, Vec<_>) =
        merge(indices, arch).into_iter().partition(|package| package.sha256.is_some());
    let mut packages: Vec<PackageRef> = known.into_iter().map(Arc::unwrap_or_clone).collect();
    for package in archived.into_iter().map(Arc::unwrap_or_clone) {
        let same = |known: &&mut PackageRef| {
            known.name == package.name && known.version == package.version
        };
        match packages.iter_mut().find(same) {
            Some(known) => known.listings.extend(package.listings),
            None => packages.push(package),
        }
    }
    let kernel = |package: PackageRef| {
        let flavour = flavour(&package.name).to_owned();
        let release = release(&flavour, package.version.as_str());
        KernelSet::whole(distro, Arc::new(package), release, flavour)
    };
    let mut kernels: Vec<_> = packages.into_iter().map(kernel).collect();
    sort(&mut kernels);
    kernels
}

/// What a package is named after: of `linux-lts` it is `lts`, of `linux` nothing.
fn flavour(name: &str) -> &str {
    name.strip_prefix("linux").unwrap_or(name).trim_start_matches('-')
}

/// What `uname -r` prints, as far as a version tells: of `6.2.10.arch1-1` it is `6.2.10-arch1-1`, and
/// packages named after a flavour have that at the end.
fn release(flavour: &str, version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    let (version, build) = version.rsplit_once('-').unwrap_or((version, ""));
    let numbers: Vec<&str> = version
        .split('.')
        .take_while(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
        .collect();
    let words: Vec<&str> = version.split('.').skip(numbers.len()).collect();
    let mut release = numbers.join(".");
    if numbers.len() == 2 {
        // The kernel's own version has three numbers.
        release.push_str(".0");
    }
    let words = [release, words.join("."), build.to_owned(), flavour.to_owned()];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

/// Why a package is not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It does not say what it is.
    #[error(transparent)]
    Package(#[from] PacmanError),
    /// It says that it is another one: signed, but not this.
    #[error("the package is {found}, expected {expected}")]
    Other {
        /// Name, version and architecture as listed.
        expected: String,
        /// As the package has them.
        found: String,
    },
}

/// Whether a package is the one that is listed. A signature vouches for the bytes, and a mirror could
/// answer with those of another package that the same key signed.
pub fn check_identity(package: impl Read, listed: &PackageRef) -> Result<(), IdentityError> {
    let info = pacman::info(package)?;
    let version = Version::pacman(&info.version);
    if (&info.name, &info.arch) == (&listed.name, &listed.arch) && version == listed.version {
        return Ok(());
    }
    let expected = format!("{} {} {}", listed.name, listed.version, listed.arch);
    let found = format!("{} {} {}", info.name, info.version, info.arch);
    Err(IdentityError::Other { expected, found })
}

#[cfg(test)]
mod tests;
