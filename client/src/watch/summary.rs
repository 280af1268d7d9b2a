//! What is said at the end and on SIGUSR1: what was seen, and what was not.

use super::COUNTS;
use crate::attach::{Counters, Witnessed};

/// What became of the events that the client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fate {
    /// Written to stdout.
    pub printed: u64,
    /// Not asked for.
    pub filtered: u64,
    /// Neither, as stdout did not take them, or nobody wanted more.
    pub unprinted: u64,
}

/// `fate`: where drops are printed each by itself. `sample`: one of so many is. `going_on`: the ring
/// may hold more, and what was not printed may still be.
pub(super) fn summary(
    counters: &Counters,
    fate: Option<Fate>,
    sample: u32,
    going_on: bool,
) -> String {
    let Counters { rule_drops, policy_drops, lost, left_out, uncounted, missed, .. } = counters;
    let drops = counters.drops();
    let fate = match fate {
        Some(Fate { printed, filtered, unprinted }) => {
            let sampled = if sample > 1 {
                format!(", {left_out} left out by --sample")
            } else {
                String::new()
            };
            let unprinted = match (unprinted, going_on) {
                (0, _) => String::new(),
                (_, true) => {
                    format!(", {unprinted} wait for stdout to be read, besides those in the ring")
                }
                (_, false) => format!(", {unprinted} not printed"),
            };
            format!(
                "{printed} printed, {filtered} filtered out{sampled}, {lost} lost in the \
                 ring{unprinted}"
            )
        }
        None => format!("{uncounted} beyond the {COUNTS} rules that are counted"),
    };
    let share = match counters.witnessed {
        Some(Witnessed { attributed, of }) => {
            format!("attributed {attributed} of {of} packets freed as dropped by netfilter")
        }
        None => "this kernel does not tell how many netfilter dropped".to_owned(),
    };
    format!(
        "summary: {drops} drops seen, {rule_drops} by rules and {policy_drops} by policies; {fate}; \
         {missed} missed by the kprobes; {share}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_was_seen_is_somewhere() {
        let counters = Counters {
            rule_drops: 90,
            policy_drops: 10,
            lost: 7,
            left_out: 50,
            witnessed: Some(Witnessed { attributed: 100, of: 101 }),
            ..Counters::default()
        };
        let fate = Fate { printed: 30, filtered: 8, unprinted: 5 };
        insta::assert_snapshot!(summary(&counters, Some(fate), 2, false), @"summary: 100 drops seen, 90 by rules and 10 by policies; 30 printed, 8 filtered out, 50 left out by --sample, 7 lost in the ring, 5 not printed; 0 missed by the kprobes; attributed 100 of 101 packets freed as dropped by netfilter");
        let fate = Fate { unprinted: 0, ..fate };
        insta::assert_snapshot!(summary(&Counters::default(), Some(fate), 1, true), @"summary: 0 drops seen, 0 by rules and 0 by policies; 30 printed, 8 filtered out, 0 lost in the ring; 0 missed by the kprobes; this kernel does not tell how many netfilter dropped");
        let fate = Fate { unprinted: 3, ..fate };
        let text = summary(&counters, Some(fate), 1, true);
        assert!(text.contains("lost in the ring, 3 wait for stdout to be read, besides"), "{text}");
        let text = summary(&counters, None, 1, false);
        assert!(text.contains("; 0 beyond the 8192 rules that are counted; "), "{text}");
    }
}
