//! A package of any format that is known, told by its first bytes: names are nobody's word.

use super::{
    apk, ar, deb,
    members::{KernelFiles, Limits, Wanted},
    pacman,
    random::RandomAccess,
    rpm,
};
use nfdrop_db::Reason;
use std::io::{self, Read};

/// Bytes that tell formats apart: a block of zstd, whose first byte is there when all of it is, and its
/// headers.
pub const START: u64 = 160 << 10;

/// A format of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Debian's.
    Deb,
    /// Of Fedora, Red Hat, SUSE and many others.
    Rpm,
    /// Of Arch. An apk that nobody signed looks like it, and is read alike.
    Pacman,
    /// Of Alpine.
    Apk,
}

impl Format {
    /// The format of what begins with these bytes, up to [`START`] of them; `None`: no package.
    pub fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(ar::MAGIC) {
            Some(Self::Deb)
        } else if start.starts_with(rpm::MAGIC) {
            Some(Self::Rpm)
        } else if apk::is_signed(start) {
            Some(Self::Apk)
        } else if pacman::is_tar(start) {
            Some(Self::Pacman)
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
    #[error("not a package: it begins with {0:02x?}, expected a .deb, .rpm, .pkg.tar or .apk")]
    Unknown(Vec<u8>),
    /// Why a .deb is.
    #[error(transparent)]
    Deb(#[from] deb::DebError),
    /// Why an .rpm is.
    #[error(transparent)]
    Rpm(#[from] rpm::RpmError),
    /// Why a package of pacman is.
    #[error(transparent)]
    Pacman(#[from] pacman::PacmanError),
    /// Why an .apk is.
    #[error(transparent)]
    Apk(#[from] apk::ApkError),
}

impl PackageError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        Reason::MalformedPackage
    }
}

/// Takes the wanted kernel files out of a package.
pub fn unpack(
    source: &dyn RandomAccess,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, PackageError> {
    let mut start = Vec::new();
    source.part(0..START).read_to_end(&mut start)?;
    let whole = || -> io::Result<_> { Ok(source.part(0..source.size()?)) };
    match Format::of(&start) {
        Some(Format::Deb) => Ok(deb::kernel_files_at(source, wanted, limits)?),
        Some(Format::Rpm) => Ok(rpm::kernel_files(whole()?, wanted, limits)?),
        Some(Format::Pacman) => Ok(pacman::kernel_files(whole()?, wanted, limits)?),
        Some(Format::Apk) => Ok(apk::kernel_files(whole()?, wanted, limits)?),
        None => {
            start.truncate(8);
            Err(PackageError::Unknown(start))
        }
    }
}
