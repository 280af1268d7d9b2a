//! apk's repositories: Alpine.
//!
//! An index, `APKINDEX.tar.gz`, is signed and has the hash of each package's control stream, which has
//! the hash of its data stream. So the index vouches for packages, as apk sees it; a package's own
//! signature is looked at too, and if it is by a known key, it has to be good.
//!
//! The hash in the index is SHA-1, and so is what Alpine signs with: see [`keys`].
//!
//! A package is a kernel whole. Its release is only a guess until it is unpacked.

pub mod index;
pub mod keys;
pub mod rsa;
pub(super) mod version;

use super::{
    Reader, Repository, Suite, SuiteError,
    kernel::{KernelSet, PackageRef, PackageSignature, SuiteIndex, Trust, merge, sort},
    version::Version,
};
use crate::package::apk::{Apk, ApkError};
use keys::{ApkSignatureError, Keys};
use nfdrop_db::{Reason, hex};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::{io::Read, sync::Arc};

/// Kernel packages.
const NAMES: [&str; 7] = [
    "linux-lts",
    "linux-virt",
    "linux-stable",
    "linux-edge",
    "linux-vanilla",
    "linux-hardened",
    "linux-virthardened",
];
/// Most bytes of an index; Alpine's largest has 2 MB.
const MAX_INDEX: usize = 64 << 20;

/// Reads the kernel packages of a repository at a mirror; `None`: the mirror does not offer it.
pub(super) async fn read_suite(
    reader: &Reader,
    repository: &Repository,
    base: &str,
) -> Result<Option<Suite>, SuiteError> {
    let url = format!("{base}/APKINDEX.tar.gz");
    let bytes = match reader.fetcher.small(&url, MAX_INDEX).await {
        Err(error) if error.is_not_found() => return Ok(None),
        bytes => bytes?,
    };
    let index = index::take_apart(&bytes);
    let index = index.map_err(|error| SuiteError::malformed(url.clone(), error))?;
    let mut signed_by = None;
    let trust = if repository.unverified {
        Trust::Nothing
    } else {
        let keys = Arc::new(Keys::load(&repository.keys, &reader.root, repository.weak)?);
        let key = keys.verify(&index.signatures, &index.signed);
        let key = key.map_err(|error| SuiteError::malformed(url.clone(), error))?;
        reader.fetcher.trust(&url)?;
        signed_by = Some(key.clone());
        Trust::Package(PackageSignature::Apk { signed_by: key, keys })
    };
    let read = tokio::task::spawn_blocking(move || index::read(&index.signed, &NAMES)).await;
    let read = read.map_err(|error| SuiteError::Aborted(error.to_string()))?;
    let packages = read.map_err(|error| SuiteError::malformed(url, error))?;
    let (suite, base) = (repository.suite.clone(), base.to_owned());
    let index = SuiteIndex { suite, base, trust, packages };
    Ok(Some(Suite::new(index, signed_by)))
}

/// The kernels that the indices offer, each once, ascending by series, flavour and version.
pub fn kernels(distro: &str, arch: &str, indices: &[SuiteIndex]) -> Vec<KernelSet> {
    let kernel = |package: Arc<PackageRef>| {
        let flavour = package.name.strip_prefix("linux-").unwrap_or_default().to_owned();
        let release = release(package.version.as_str(), &flavour);
        KernelSet::whole(distro, package, release, flavour)
    };
    let mut kernels: Vec<_> = merge(indices, arch).into_iter().map(kernel).collect();
    sort(&mut kernels);
    kernels
}

/// What `uname -r` prints, as far as a version tells: of `6.12.13-r0` it is `6.12.13-0-lts`.
fn release(version: &str, flavour: &str) -> String {
    let (version, revision) = version.rsplit_once("-r").unwrap_or((version, "0"));
    format!("{}-{revision}-{flavour}", version.replace('_', "-"))
}

/// Why a package is not the one that an index vouches for.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is refused, or its files are not those that it vouches for.
    #[error(transparent)]
    Package(#[from] ApkError),
    /// It says that it is another one.
    #[error("the package is {found}, expected {expected}")]
    Other {
        /// Name, version and architecture as listed.
        expected: String,
        /// As the package has them.
        found: String,
    },
    /// It has another control stream than the one that is listed.
    #[error("the control stream has the hash {found}, expected {expected}")]
    Control {
        /// As listed.
        expected: String,
        /// What there is.
        found: String,
    },
    /// Its own signature, by a known key, does not hold.
    #[error(transparent)]
    Signature(#[from] ApkSignatureError),
}

impl CheckError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Package(error) => error.reason(),
            _ => Reason::VerificationFailed,
        }
    }
}

/// Whether a package is the listed one, with the listed hash of its control stream. Reads all of it.
pub fn check(
    package: impl Read,
    listed: &PackageRef,
    control: &[u8],
    keys: &Keys,
) -> Result<(), CheckError> {
    let apk = Apk::open(package)?;
    let algorithm = if control.len() == 20 { &SHA1_FOR_LEGACY_USE_ONLY } else { &SHA256 };
    let found = digest(algorithm, &apk.head.control);
    if found.as_ref() != control {
        let (expected, found) = (hex::encode(control), hex::encode(found.as_ref()));
        return Err(CheckError::Control { expected, found });
    }
    let info = &apk.head.info;
    if (&info.name, &info.arch) != (&listed.name, &listed.arch)
        || Version::apk(&info.version) != listed.version
    {
        let expected = format!("{} {} {}", listed.name, listed.version, listed.arch);
        let found = format!("{} {} {}", info.name, info.version, info.arch);
        return Err(CheckError::Other { expected, found });
    }
    if let Err(error @ ApkSignatureError::Bad { .. }) =
        keys.verify(&apk.head.signatures, &apk.head.control)
    {
        return Err(error.into());
    }
    Ok(apk.check_data()?)
}

#[cfg(test)]
mod tests;
