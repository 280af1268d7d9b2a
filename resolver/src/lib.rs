//! From the bytes of a kernel file to the attach plan of `nft_do_chain`, or the reason why there is none.
//!
//! ```text
//! image → Function → resolve → plan or reason
//!                  ↘ explain → annotated listing
//! ```
//!
//! Pure: bytes in, value out. Networks, packages, databases and threads stand around it, in the other crates.

pub mod arch;
mod clean;
pub mod explain;
pub mod image;
pub mod kernel;
pub mod resolve;
