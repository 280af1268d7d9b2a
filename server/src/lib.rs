//! nfdrop's server: hands out attach plans by build-id.
//!
//! ```text
//! connection → serve → service ─ plan in memory ───────────────────→ Answer → encoding
//!                            └─→ router → endpoint → query → SQLite ↗
//!                                            └─→ upstream ─────────↗
//! ```
//!
//! One endpoint, one file: [`endpoints`] is a router that can be read aloud. The database is only
//! read: all records are held in memory ([`snapshot`]), and [`database`] keeps up with what a crawl
//! adds. [`ahead`] compresses them before anybody asks. Answers are either an
//! [`Answer`](answer::Answer), which knows how long it may be kept, or an [`Error`](error::Error),
//! which says what is wrong and what to do. [`serve`] stands around it all and bounds what a
//! stranger can use up: connections, header size, time.

pub mod ahead;
pub mod answer;
pub mod app;
pub mod build_id;
pub mod cli;
pub mod database;
pub mod encoding;
pub mod endpoints;
pub mod error;
pub mod export;
pub mod metrics;
pub mod overview;
pub mod pages;
pub mod serve;
pub mod service;
pub mod snapshot;
pub mod tls;
pub mod upstream;

pub use app::App;
pub use database::Database;
pub use serve::serve;
