//! Why files cannot be picked out of a package.

use super::super::ar::ArError;
use std::io;

/// Why files cannot be picked out of a package; reading all of it may do.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is made in another way.
    #[error("nothing can be picked out of the package: {0}")]
    Shape(#[from] Shape),
}

/// What is not as expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shape {
    /// Not `debian-binary`, `control.tar`, `data.tar.xz` in this order.
    #[error("it is no Debian package with a control.tar and a data.tar.xz")]
    Members,
    /// There are no `md5sums`, or no such files in them, or several.
    #[error("its md5sums do not list exactly one of each file that is wanted")]
    Sums,
    /// Not one xz stream.
    #[error("its data.tar.xz is not a single xz stream")]
    NotXz,
    /// The index cannot be used.
    #[error("the index of its data.tar.xz is broken or does not fit")]
    Index,
    /// There is nothing to leave out.
    #[error("its data.tar.xz has one block")]
    OneBlock,
    /// A block in which no header was found.
    #[error("its data.tar has no member where one should begin")]
    Header,
    /// The file is not where the order of paths says.
    #[error("its data.tar is not sorted by path, or has another file than its md5sums say")]
    Other,
}

impl From<ArError> for PickError {
    fn from(error: ArError) -> Self {
        match error {
            ArError::Read(error) => Self::Read(error),
            ArError::Magic(_) | ArError::Header => Shape::Members.into(),
        }
    }
}
