//! A checked record in the format asked for.

use crate::{
    failure::{Failure, Refusal},
    lookup::Found,
};
use clap::ValueEnum;
use nfdrop_db::{PlanError, render};

/// How a plan is printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PlanFormat {
    /// For people
    Text,
    /// The record as the server hands it out, and a line feed
    Json,
    /// A bpftrace script
    Bpftrace,
    /// Lines for tracefs's `kprobe_events`
    KprobeEvents,
}

/// What is printed; nothing where a script is asked for and there is no plan to make one of.
pub fn show(found: &Found, format: PlanFormat) -> Result<Vec<u8>, Failure> {
    let refused = |why: PlanError| Failure::Refused {
        origin: found.origin.clone(),
        why: Refusal::Record(why.into()),
    };
    let text = match (format, &found.record.plan) {
        (PlanFormat::Text, _) => render::text(&found.record),
        (PlanFormat::Json, _) => return Ok([&found.bytes[..], b"\n"].concat()),
        (PlanFormat::Bpftrace, Some(plan)) => render::bpftrace(plan).map_err(refused)?,
        (PlanFormat::KprobeEvents, Some(plan)) => render::kprobe_events(plan).map_err(refused)?,
        (PlanFormat::Bpftrace | PlanFormat::KprobeEvents, None) => return Ok(vec![]),
    };
    Ok(text.into_bytes())
}
