//! The gate. It compares a database with the one before it, and says whether what was crawled may be
//! published: a new kernel that cannot be resolved, a plan that has changed or anything that was lost stops
//! it.
//!
//! ```text
//! two inventories → compare → findings ┐
//!                     allow file       ┴→ Verdict → report: text, GitHub, JUnit, SARIF, markdown
//! ```
//!
//! Everything between reading two databases and printing is pure: no clock, no environment.

pub mod allow;
pub mod compare;
pub mod finding;
pub mod pages;
pub mod prove;
pub mod report;
pub mod verdict;

pub use allow::{AllowError, AllowList};
pub use compare::{Comparison, compare};
pub use finding::{Finding, Kind, Outcome, Subject};
pub use verdict::Verdict;
