//! Real kernels: Debian's, booted in QEMU without hardware acceleration, from an initramfs made of
//! Debian's packages.
//!
//! ```text
//! mirror    → kernel and programs, by the signed indices, in the indexer's cache
//! initramfs → busybox, nft, perl, the kernel's modules, the plan, tests/guest
//! scenario  → packets, and what has to become of each
//! machine   → the run; what the guest says, in sections
//! verdict   → what the probes saw against what the rules counted against what was sent
//! ```

pub mod frames;
pub mod initramfs;
pub mod machine;
pub mod mirror;
pub mod scenario;
pub mod sites;
pub mod verdict;
