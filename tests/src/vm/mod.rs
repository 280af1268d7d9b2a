//! Real kernels: Debian's, booted in QEMU without hardware acceleration, from an initramfs made of
//! Debian's packages.
//!
//! ```text
//! mirror    → kernel and programs, by the signed indices, in the indexer's cache
//! function  → of a kernel no more than nft_do_chain
//! choice    → the kernels that are booted, by their function's body
//! scenario  → packets, and what has to become of each
//! machine   → the run, of busybox, nft, perl, modules, the plan and tests/guest; what the guest says, in sections
//! verdict   → what the probes saw against what the rules counted against what was sent
//! drops     → every word of the client's against frames, devices and listings
//! reload    → the same where rules were replaced meanwhile
//! endings   → what the client leaves behind, and what it refuses
//! told      → what it says of drops that it does not print
//! ```

pub mod choice;
pub mod client;
pub mod cost;
pub mod drops;
pub mod endings;
pub mod frames;
pub mod function;
pub mod listing;
pub mod machine;
pub mod mirror;
pub mod reload;
pub mod scenario;
pub mod sites;
pub mod summary;
pub mod told;
pub mod verdict;
