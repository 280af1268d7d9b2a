//! Packages: from a download to the kernel files in it. Pure: any reader in, bytes out; nothing is
//! ever written to disk and no path of an archive is used as one.

mod any;
mod ar;
mod deb;
mod decoder;
mod members;
pub mod rpm;
mod tarball;

pub use any::{Format, PackageError, unpack};
pub use ar::ArError;
pub use deb::{DebError, kernel_files, with_data};
pub use members::{KernelFiles, Kind, Limits, MembersError, NamedBytes, Wanted};

#[cfg(feature = "crawl")]
pub(crate) use decoder::{decoder, suffix_of, xz_decoder};
