//! Proofs: the kernel that a package holds is booted, its plan is attached, packets are dropped, and what the
//! probes saw is compared with what the rules counted.
//!
//! ```text
//! run       → packages, by what the database says of them, from the crawl's cache or fetched again, hashes checked
//! kernel    → image and modules
//! programs  → the client and nft of this machine, with their libraries
//! initramfs → a file system of these, and of guest/init.c
//! machine   → QEMU; what the guest writes, line by line
//! guest     → the scenario's report → Proof
//! ```
//!
//! Nothing in the guest comes from the distribution but kernel and modules, so that it works for any.

mod guest;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod programs;
pub mod run;

pub use guest::{Programs, prove};
