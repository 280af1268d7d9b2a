//! Findings and what people accept of them, on a day.

use crate::{
    allow::{AllowList, Allowed},
    compare::Comparison,
    finding::{Finding, Outcome},
};
use std::fmt::Write as _;
use time::Date;

/// What the gate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What counts, the worst first. With the entry that accepted it until it expired.
    pub findings: Vec<(Finding, Option<Allowed>)>,
    /// What is accepted, and by which entry.
    pub allowed: Vec<(Finding, Allowed)>,
    /// Entries that accept nothing that was found.
    pub unused: Vec<Allowed>,
    /// The comparison, its findings taken out.
    pub comparison: Comparison,
}

impl Verdict {
    /// Judges on this day, in UTC.
    pub fn new(mut comparison: Comparison, allow: &AllowList, today: Date) -> Self {
        let found = std::mem::take(&mut comparison.findings);
        let unused = allow.unused(&found).into_iter().cloned().collect();
        let (mut findings, mut allowed) = (Vec::new(), Vec::new());
        for finding in found {
            match allow.find(&finding).map(|index| allow.entries[index].clone()) {
                Some(entry) if today <= entry.expires => allowed.push((finding, entry)),
                expired => findings.push((finding, expired)),
            }
        }
        Self { findings, allowed, unused, comparison }
    }

    /// The worst of what counts.
    pub fn outcome(&self) -> Outcome {
        let outcomes = self.findings.iter().map(|(finding, _)| finding.kind.outcome());
        outcomes.max().unwrap_or(Outcome::Pass)
    }

    /// One sentence.
    pub fn headline(&self) -> String {
        let number = |outcome, one: &str, many: &str| {
            let of = |(finding, _): &&(Finding, _)| finding.kind.outcome() == outcome;
            match self.findings.iter().filter(of).count() {
                0 => None,
                1 => Some(format!("1 {one}")),
                count => Some(format!("{count} {many}")),
            }
        };
        let parts = [
            number(Outcome::Worse, "thing got worse", "things got worse"),
            number(
                Outcome::Unresolved,
                "new kernel cannot be resolved",
                "new kernels cannot be resolved",
            ),
            number(Outcome::Unproven, "plan was not seen to work", "plans were not seen to work"),
            number(Outcome::Unfinished, "thing could not be read", "things could not be read"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            let new = self.comparison.new_resolved.len();
            return match new {
                0 => "nothing new without a plan, nothing lost".to_owned(),
                1 => "1 new kernel, resolved; nothing lost".to_owned(),
                _ => format!("{new} new kernels, all resolved; nothing lost"),
            };
        }
        parts.join(", ")
    }

    /// What there is, in a sentence.
    pub fn numbers(&self) -> String {
        let Comparison { builds, before, new_resolved, now_resolved, proven_again, .. } =
            &self.comparison;
        let plural = if builds.0 == 1 { "" } else { "s" };
        let mut text = format!("{} build{plural}, {} with a plan", builds.0, builds.1);
        match before {
            Some((all, with)) => {
                let _ = write!(text, "; the baseline has {all}, {with} with a plan");
            }
            None => text += "; there is no baseline: everything is new",
        }
        for (count, what) in [
            (new_resolved.len(), "new with a plan"),
            (now_resolved.len(), "had no plan and have one now"),
            (*proven_again, "proven again by another analyzer"),
            (self.comparison.still_unresolved, "without a plan as before"),
            (self.comparison.booted, "proven on their kernel"),
        ] {
            if count > 0 {
                let _ = write!(text, "; {count} {what}");
            }
        }
        text
    }
}
