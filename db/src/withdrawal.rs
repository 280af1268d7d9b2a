//! Plans that turned out to be wrong. They are not served, exported, signed or attached: wherever a plan
//! is checked, it is checked for this too.
//!
//! The next withdrawal is a line of [`WITHDRAWN`]. Databases that have not been through it are refused
//! until a writer has opened them (`nfdrop-indexer db migrate`, or a crawl).

use crate::{Plan, Reg};
use std::fmt;

/// Plans that are no longer to be used.
#[derive(Clone, Copy)]
pub struct Withdrawal {
    /// The first analyzer whose plans are not concerned.
    pub fixed_in: &'static str,
    /// The day it was published, as `2026-12-01`.
    pub date: &'static str,
    /// What is wrong with them, in plain words.
    pub why: &'static str,
    /// Whether a plan of an older analyzer is concerned.
    pub concerns: fn(&Plan) -> bool,
}

/// All of them, the oldest first. Entries are only added, at the end.
pub const WITHDRAWN: &[Withdrawal] = &[Withdrawal {
    fixed_in: "0.2.0",
    date: "2026-12-01",
    why: "a condition reads memory through a register that the function has not set on every path, so \
          the probe may report packets that were accepted",
    concerns: reads_through_a_register,
}];

/// Whether a condition reads memory behind a register that is not the stack pointer. `rbp` counts:
/// those analyzers did not make sure that it was the frame pointer at the site.
fn reads_through_a_register(plan: &Plan) -> bool {
    let conditions = plan.probes.iter().flat_map(|probe| &probe.when);
    conditions.into_iter().any(|when| when.value.deref.is_some() && when.value.reg != Reg::Rsp)
}

/// Orders versions of the analyzer: their numbers as numbers, then the text. What is no version comes
/// first.
pub fn analyzer_rank(version: &str) -> (Vec<u64>, &str) {
    let numbers = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    (numbers.map(|number| number.parse().unwrap_or(u64::MAX)).collect(), version)
}

impl Plan {
    /// Why this plan must not be used, if it was withdrawn.
    pub fn withdrawn(&self) -> Option<&'static Withdrawal> {
        self.withdrawn_since(0)
    }

    /// As [`Plan::withdrawn`], by the entries of [`WITHDRAWN`] from this one on.
    pub(crate) fn withdrawn_since(&self, first: usize) -> Option<&'static Withdrawal> {
        let rank = analyzer_rank(&self.evidence.analyzer).0;
        let is_older = |fixed_in: &str| rank < analyzer_rank(fixed_in).0;
        let mut entries = WITHDRAWN.iter().skip(first);
        entries.find(|entry| is_older(entry.fixed_in) && (entry.concerns)(self))
    }
}

/// `withdrawn on 2026-12-01: …; analyzer 0.2.0 and later do not make such plans`
impl fmt::Display for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fixed_in, date, why, .. } = self;
        write!(f, "withdrawn on {date}: {why}; analyzers from {fixed_in} on make no such plans")
    }
}

impl fmt::Debug for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The same entry of the table.
impl PartialEq for Withdrawal {
    fn eq(&self, other: &Self) -> bool {
        (self.fixed_in, self.date, self.why) == (other.fixed_in, other.date, other.why)
    }
}

impl Eq for Withdrawal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Condition, Location, PlanError, samples};

    fn plan(analyzer: &str, value: Location) -> Plan {
        let mut plan = samples::plan();
        analyzer.clone_into(&mut plan.evidence.analyzer);
        plan.probes[1].when = vec![Condition { value, mask: 0xff, equals: 0 }];
        plan
    }

    #[test]
    fn old_plans_that_read_through_a_register_are_withdrawn() {
        for reg in [Reg::Rax, Reg::Rdi, Reg::Rbp] {
            let plan = plan("0.1.0", Location::memory(reg, -16));
            let withdrawal = plan.withdrawn().unwrap();
            assert_eq!(plan.validate(), Err(PlanError::Withdrawn(withdrawal)));
        }
        assert!(plan("no version", Location::memory(Reg::Rax, -16)).withdrawn().is_some());
    }

    #[test]
    fn other_plans_are_not() {
        for value in [Location::reg(Reg::Rax), Location::memory(Reg::Rsp, 8)] {
            assert_eq!(plan("0.1.0", value).withdrawn(), None);
        }
        for analyzer in ["0.2.0", "0.10.0", "1.0.0"] {
            let plan = plan(analyzer, Location::memory(Reg::Rax, -16));
            assert_eq!(plan.withdrawn(), None, "{analyzer}");
            assert_eq!(plan.validate(), Ok(()));
        }
    }

    #[test]
    fn the_table_is_in_order_and_says_what_to_expect() {
        assert!(WITHDRAWN.is_sorted_by_key(|entry| entry.date));
        insta::assert_snapshot!(WITHDRAWN[0], @"withdrawn on 2026-12-01: a condition reads memory through a register that the function has not set on every path, so the probe may report packets that were accepted; analyzers from 0.2.0 on make no such plans");
    }
}
