//! The server, from outside: one binary, so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod browser;
mod described;
mod federation;
mod http;
mod https;
mod limits;
mod pages;
mod process;
mod proof;
mod signed;
mod support;
