//! Where a build comes from. Kept apart from the record, since packages are added later while the
//! record's bytes stay.

use crate::BuildId;
use serde::{Deserialize, Serialize};

/// One package that holds a build. Unlike a plan it may gain members, and readers pass over those
/// they do not know.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// `debian`.
    pub distro: String,
    /// `bookworm-security`.
    pub suite: String,
    /// Name of the package that holds the module, or the image where nf_tables is built in.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// As `uname -r` prints it.
    pub release: String,
    /// The distribution's name of the architecture, `amd64`.
    pub arch: String,
    /// Where the package was fetched.
    pub url: String,
    /// Of the package, lower-case hex.
    pub sha256: String,
    /// Fingerprint of the key that signed the index, upper-case hex; `None`: not verified.
    pub signed_by: Option<String>,
    /// Of the kernel image of the same package set.
    pub vmlinux_build_id: Option<BuildId>,
    /// Whether only parts of the package were fetched, so that nobody has compared its hash.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transport_only: bool,
    /// Seconds since 1970 at which this entry was first stored.
    pub indexed_at: u64,
}
