//! nfdrop's client: finds out which build of nf_tables runs, fetches its plan, checks it, keeps it,
//! attaches it and names what is dropped; `doctor` says what attaching would need, and [`fleet`] which of
//! many kernels there are plans for.
//!
//! The way of a plan: [`running`] (build-id, from [`notes`]) → [`lookup`] ([`cache`], then each
//! [`server`]) → checks of `nfdrop-db` → [`show`], or [`attach`]. The way of a drop: ring buffer of
//! [`attach`] → [`event`] → [`names`] → [`filter`] → [`output`]; drops that the kernel counts go through
//! [`counts`] and [`metrics`]. [`watch`] is the run; [`selftest`] is another, with drops of its own. Whatever ends it early is a [`failure::Failure`],
//! which knows its message and exit code.

pub mod attach;
pub mod cache;
pub mod cli;
pub mod counts;
pub mod doctor;
pub mod event;
pub mod failure;
pub mod filter;
pub mod fleet;
pub mod host;
pub mod lookup;
pub mod metrics;
pub mod names;
pub mod notes;
pub mod output;
pub mod packet;
pub mod running;
pub mod selftest;
pub mod server;
pub mod show;
pub mod signature;
pub mod terminal;
pub mod watch;
