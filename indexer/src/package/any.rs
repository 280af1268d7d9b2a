//! A package of any format that is known, told by its first bytes: names are nobody's word.

use super::{
    ar, deb,
    members::{KernelFiles, Limits, Wanted},
    rpm,
};
use nfdrop_db::Reason;
use std::io::{self, Read};

/// Bytes that tell formats apart.
const START: u64 = 8;

/// A format of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Debian's.
    Deb,
    /// Of Fedora, Red Hat, SUSE and many others.
    Rpm,
}

impl Format {
    /// The format of what begins with these bytes; `None`: no package.
    pub fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(ar::MAGIC) {
            Some(Self::Deb)
        } else if start.starts_with(rpm::MAGIC) {
            Some(Self::Rpm)
        } else {
            None
        }
    }
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("not a package: it begins with {0:02x?}, expected a .deb or .rpm")]
    Unknown(Vec<u8>),
    /// Why a .deb is.
    #[error(transparent)]
    Deb(#[from] deb::DebError),
    /// Why an .rpm is.
    #[error(transparent)]
    Rpm(#[from] rpm::RpmError),
}

impl PackageError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        Reason::MalformedPackage
    }
}

/// Takes the wanted kernel files out of a package. The reader should be cheap to read from: a file.
pub fn unpack(
    mut reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, PackageError> {
    let mut start = Vec::new();
    reader.by_ref().take(START).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let whole = start.as_slice().chain(reader);
    match format {
        Some(Format::Deb) => Ok(deb::kernel_files(whole, wanted, limits)?),
        Some(Format::Rpm) => Ok(rpm::kernel_files(whole, wanted, limits)?),
        None => Err(PackageError::Unknown(start)),
    }
}
