//! Repositories of rpms: `repodata/repomd.xml`, what it lists, and the packages' own signatures.

mod checksum;
mod location;
pub mod primary;
pub mod repomd;
mod signature;
mod xml;

pub use checksum::{Checksum, ChecksumError};
pub use location::LocationError;
pub use signature::{RpmSignatureError, verify};
pub use xml::XmlError;
