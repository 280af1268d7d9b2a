//! What the self-test prints.

use crate::failure::Failure;
use nfdrop_db::{BuildId, plan::SYMBOL, proof::Observed};
use std::fmt;

/// A self-test that came to an end.
#[derive(Debug)]
pub struct Finished {
    /// What was found.
    pub observed: Observed,
    /// The plan's.
    pub build_id: BuildId,
    /// Where the plan comes from.
    pub origin: String,
    /// What is wrong with the plan; `None` where it holds.
    pub failure: Option<Failure>,
}

impl Finished {
    /// JSON in one line, with a line feed.
    ///
    /// # Panics
    /// Never: it has string keys only.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.observed).expect("plain data") + "\n"
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { observed, build_id, origin, failure } = self;
        writeln!(f, "build {build_id}, plan from {origin}")?;
        let parts: Vec<_> = observed.parts.iter().map(|part| part.name()).collect();
        if !parts.is_empty() {
            writeln!(f, "ran: {}", parts.join(", "))?;
        }
        for left_out in &observed.left_out {
            writeln!(f, "left out: {}: {}", left_out.part, left_out.why)?;
        }
        let Observed { seen, expected, missed, .. } = observed;
        writeln!(
            f,
            "seen: {} drops by rules of {}, {} by policies of {}; {missed} missed",
            seen.rule_drop, expected.rule_drop, seen.policy_drop, expected.policy_drop
        )?;
        for probe in &observed.probes {
            let says = match &*probe.kernel_says {
                "" => "the kernel says nothing of it",
                says => says,
            };
            writeln!(f, "probe: {SYMBOL}{} {}, {says}", probe.offset, probe.cost)?;
        }
        writeln!(f, "the plan {}", if failure.is_none() { "holds" } else { "does not hold" })
    }
}
