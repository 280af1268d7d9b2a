//! From kernel packages to attach plans: source, package, image, function, plan, store.

pub mod crawl;
pub mod fetch;
pub mod image;
pub mod kernel;
pub mod listing;
pub mod package;
pub mod resolve;
pub mod source;
