//! From kernel packages to attach plans: source, package, image, function, plan, store.

#[cfg(feature = "crawl")]
pub mod crawl;
pub mod explain;
#[cfg(feature = "crawl")]
pub mod export;
#[cfg(feature = "crawl")]
pub mod fetch;
pub mod image;
#[cfg(feature = "crawl")]
pub mod kernel;
#[cfg(feature = "crawl")]
pub mod listing;
pub mod package;
pub mod resolve;
#[cfg(feature = "crawl")]
pub mod signing;
#[cfg(feature = "crawl")]
pub mod source;
#[cfg(feature = "crawl")]
pub mod stats;
