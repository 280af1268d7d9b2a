//! Sources: which kernels a distribution's repository offers. Parsing and verification take bytes
//! and are pure; [`mirror`] is the thin part that fetches.

pub mod apt_config;
pub mod date;
pub mod debian;
pub mod mirror;
pub mod openpgp;
pub mod packages;
pub mod release;
pub mod rpm_md;
pub mod version;
