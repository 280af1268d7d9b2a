//! The client's binary against servers on the loopback interface, on machines made of a directory.

#![expect(clippy::unwrap_used, reason = "a test ends where something is amiss")]

mod answers;
mod cache;
mod doctor;
mod fleet;
mod hostile;
mod https;
mod machine;
mod program;
mod selftest;
mod servers;
mod signed;
