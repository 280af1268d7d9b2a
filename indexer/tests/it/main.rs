//! The indexer, from outside: one binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod arch;
mod crawl;
mod database;
mod explain;
mod faults;
mod files;
mod killed;
mod rpm;
mod signed;
mod support;
mod workflow;
