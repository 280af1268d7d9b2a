//! Why a file is not a function. Every variant says what was expected and what was found, in a
//! sentence for people, and maps to the reason a record carries.

use super::{btf::BtfError, compress::CompressError, extract::ExtractError};
use nfdrop_db::Reason;

/// Why there is no [`super::Function`] in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No `nft_do_chain`, or nothing that tells where it is.
    #[error("no function nft_do_chain: {0}")]
    NoSymbol(String),
    /// An ELF object for another machine.
    #[error("expected an x86-64 object, found one for {0}")]
    UnsupportedArch(String),
    /// Not what it should be, or broken; in a whole sentence.
    #[error("{0}")]
    Malformed(String),
    /// Decompression failed.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// The BTF is broken.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The extract is broken.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// Module and vmlinux are of different releases, so the BTF of one says nothing of the other.
    #[error("the module is of release {module}, the vmlinux of {vmlinux}: give the matching one")]
    OtherRelease {
        /// Of the module.
        module: String,
        /// Of the vmlinux.
        vmlinux: String,
    },
}

impl ImageError {
    /// As the record says it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoSymbol(_) => Reason::NoSymbol,
            Self::UnsupportedArch(_) | Self::Extract(ExtractError::Architecture(_)) => {
                Reason::UnsupportedArch
            }
            Self::Malformed(_)
            | Self::Compress(_)
            | Self::Btf(_)
            | Self::Extract(_)
            | Self::OtherRelease { .. } => Reason::MalformedImage,
        }
    }
}
