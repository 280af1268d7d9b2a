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

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::{
        Cost,
        plan::FnOffset,
        proof::{Drops, LeftOut, Part, SetProbe},
    };

    fn finished(missing: u64) -> Finished {
        let expected = Drops { rule_drop: 154, policy_drop: 33 };
        let seen = Drops { rule_drop: 154 - missing, ..expected };
        let probe = |offset, cost, says: &str| SetProbe {
            offset: FnOffset(offset),
            cost,
            kernel_says: says.to_owned(),
        };
        let observed = Observed {
            scenario: 1,
            parts: vec![Part::Base, Part::Policy],
            left_out: vec![LeftOut { part: Part::Veth, why: "it is not loaded".to_owned() }],
            expected,
            seen,
            missed: 0,
            probes: vec![
                probe(0x3fe, Cost::Optimized, "[OPTIMIZED]"),
                probe(0x5bc, Cost::Trap, ""),
            ],
            contradictions: vec![],
        };
        let build_id: BuildId = "0484cf00".parse().unwrap();
        let failure = observed.contradiction().map(|sentence| Failure::Disproven {
            build_id: build_id.clone(),
            analyzer: "0.2.0".to_owned(),
            sentence,
        });
        Finished { observed, build_id, origin: "plan.json".to_owned(), failure }
    }

    #[test]
    fn what_people_read() {
        insta::assert_snapshot!(finished(0), @"
        build 0484cf00, plan from plan.json
        ran: base, policy
        left out: veth: it is not loaded
        seen: 154 drops by rules of 154, 33 by policies of 33; 0 missed
        probe: nft_do_chain+0x3fe optimized, [OPTIMIZED]
        probe: nft_do_chain+0x5bc trap, the kernel says nothing of it
        the plan holds
        ");
        let failed = finished(1);
        assert!(failed.to_string().ends_with("\nthe plan does not hold\n"));
        let failure = failed.failure.unwrap();
        assert_eq!(failure.code(), 3);
        insta::assert_snapshot!(failure, @"
        plan contradicted: 153 drops by rules and 33 by policies were seen of 154 and 33, 0 hits were missed
        do not use it: report this with build-id 0484cf00 and analyzer 0.2.0, and run the self-test again when the server has another plan
        ");
    }

    #[test]
    fn what_programs_read_is_one_line_of_what_was_observed() {
        let finished = finished(0);
        let json = finished.json();
        assert_eq!(json.find('\n'), Some(json.len() - 1));
        assert_eq!(serde_json::from_str::<Observed>(&json).unwrap(), finished.observed);
    }
}
