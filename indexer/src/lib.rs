//! From repositories of kernel packages to stored attach plans: source, fetch, package, crawl. What a kernel's
//! bytes hold is `nfdrop-resolver`'s to find out.

pub mod analysis;
pub mod crawl;
pub mod fetch;
pub mod listing;
pub mod package;
pub mod signing;
pub mod source;
pub mod stats;
