//! Repositories of rpms: `repodata/repomd.xml`, what it lists, and the packages' own signatures.

mod signature;

pub use signature::{RpmSignatureError, verify};
