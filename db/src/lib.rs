//! The records every part of nfdrop shares: build-ids, attach plans, the record around a plan, its
//! proof and the provenance of a build, with strict parsing and canonical bytes. Behind the feature `sqlite`
//! the store that keeps them.
//!
//! The client uses this crate without `sqlite`.

pub mod arch;
pub mod body;
pub mod build_id;
pub mod hex;
pub mod listing;
pub mod plan;
pub mod proof;
pub mod provenance;
pub mod record;
pub mod release;
pub mod render;
#[cfg(any(test, feature = "test-util"))]
pub mod sample;
#[cfg(test)]
mod samples;
#[cfg(feature = "sqlite")]
pub mod store;
pub mod withdrawal;

pub use arch::{Arch, Reg};
pub use build_id::{BuildId, BuildIdError};
pub use hex::HexBytes;
pub use listing::{Listing, ListingError};
pub use plan::{
    BitField, Condition, Cost, Event, Evidence, FnOffset, Layout, LayoutSource, Location, Method,
    Plan, PlanError, Probe, SCHEMA, SYMBOL, Share,
};
pub use proof::{
    Drops, LeftOut, Machine, Observed, Part, Proof, ProofError, ProofResult, SCENARIO, SetProbe,
};
pub use provenance::Provenance;
pub use record::{Newer, Permanence, Reason, Record, RecordError, Status};
pub use release::{KernelRelease, Series};
#[cfg(feature = "sqlite")]
pub use store::{Store, StoreError};
pub use withdrawal::Withdrawal;
