//! What the tests of several crates and the fuzz targets make: kernel files of a function from the corpus, and
//! repositories of packages, made and signed with the distributions' own tools.
//!
//! Everything in here panics where something is missing: it is called by tests only.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test ends where something is missing"
)]

pub mod apk;
pub mod btf;
pub mod elf;
pub mod pacman;
pub mod rpm;
