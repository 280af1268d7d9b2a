//! Packages: from a download to the kernel files in it. Pure: any reader in, bytes out; nothing is
//! ever written to disk and no path of an archive is used as one.

mod any;
pub mod apk;
mod ar;
mod collect;
mod deb;
mod decoder;
mod members;
pub mod pacman;
mod pick;
mod pkginfo;
mod random;
pub mod rpm;
pub(crate) mod tarball;

pub use any::{Format, PackageError, START, unpack};
pub use apk::ApkError;
pub use ar::ArError;
pub use collect::collect;
pub use deb::{DebError, kernel_files, kernel_files_at, pick_kernel_files, with_data};
pub use members::{KernelFiles, Kind, Limits, MembersError, NamedBytes, Wanted};
pub use pacman::PacmanError;
pub use pick::{PickError, Shape};
pub use pkginfo::{PkgInfo, PkgInfoError};
pub use random::RandomAccess;

pub(crate) use decoder::{decoder, suffix_of, xz_decoder};
pub(crate) use pkginfo::is_word;
