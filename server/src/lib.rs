//! nfdrop's server: hands out attach plans by build-id.
//!
//! One endpoint, one file: [`endpoints`] is a router that can be read aloud. The database is only
//! read, every request anew, so what a crawl adds is served at once. Answers are either an
//! [`Answer`](answer::Answer), which knows how long it may be kept, or an [`Error`](error::Error),
//! which says what is wrong and what to do. [`serve`] stands around the router and bounds what a
//! stranger can use up: connections, header size, time.

pub mod answer;
pub mod build_id;
pub mod cli;
pub mod database;
pub mod endpoints;
pub mod error;
pub mod pages;
pub mod serve;

pub use database::Database;
pub use endpoints::router;
pub use serve::serve;
