//! Who vouches for a package that was fetched. Where the index does, its hash was compared on the way;
//! else the package's own signature is checked here, before anything in it is looked at.

use crate::source::{
    apk,
    kernel::{Listing, PackageRef, PackageSignature, Trust},
    openpgp::{Keyring, SignatureError},
    pacman::{self, IdentityError},
    rpm_md::{self, RpmSignatureError},
};
use std::{fs::File, io, path::Path, time::SystemTime};

/// Why nobody vouches for a package.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The index should have held a signature, or one should have lain beside the package.
    #[error(
        "there is no signature of the package, and the index is not signed either; to take it all the \
         same, name its source with --allow-unverified"
    )]
    Missing,
    /// A signed index that says too little.
    #[error("the index is signed, but does not say which SHA-256 the package has")]
    NoHash,
    /// A detached signature.
    #[error("the package's signature: {0}")]
    Detached(#[from] SignatureError),
    /// It is another one than the index lists.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An .apk.
    #[error(transparent)]
    Apk(#[from] apk::CheckError),
    /// One in an RPM.
    #[error("the package's signature: {0}")]
    Rpm(#[from] RpmSignatureError),
}

/// The fingerprint of the key that vouches for the package at `path`; `None`: nothing does, and that
/// was allowed. `beside`: the signature that lay beside it.
pub(super) fn verify(
    path: &Path,
    package: &PackageRef,
    listing: &Listing,
    beside: Option<&[u8]>,
    now: SystemTime,
) -> Result<Option<String>, VerifyError> {
    let detached = |signature: Option<&[u8]>, keys: &Keyring| {
        let signature = signature.ok_or(VerifyError::Missing)?;
        Ok::<_, VerifyError>(keys.verify_detached(signature, File::open(path)?, now)?)
    };
    let signed_by = match &listing.trust {
        Trust::Index { .. } if package.sha256.is_none() => return Err(VerifyError::NoHash),
        Trust::Index { signed_by } => return Ok(Some(signed_by.clone())),
        Trust::Nothing => return Ok(None),
        Trust::Package(PackageSignature::Listed { keys }) => {
            detached(listing.signature.as_deref(), keys)?
        }
        Trust::Package(PackageSignature::Beside { keys, .. }) => detached(beside, keys)?,
        Trust::Package(PackageSignature::Apk { signed_by, keys }) => {
            let control = listing.signature.as_deref().ok_or(VerifyError::Missing)?;
            apk::check(File::open(path)?, package, control, keys)?;
            return Ok(Some(signed_by.clone()));
        }
        Trust::Package(PackageSignature::Rpm { keys }) => {
            return Ok(Some(rpm_md::check(File::open(path)?, package, keys, now)?));
        }
    };
    // The key signed many packages.
    pacman::check_identity(File::open(path)?, package)?;
    Ok(Some(signed_by))
}
