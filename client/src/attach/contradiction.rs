//! What a right plan never sees, as the BPF program notes it where it happens: `struct contradiction` of
//! `client/bpf/nfdrop.bpf.c`, in the machine's byte order.

use super::Witnessed;
use nfdrop_db::{
    BuildId,
    plan::{Event, FnOffset, Plan},
};
use std::fmt;

const NAME: usize = 64;
/// Bytes of a `struct contradiction`.
pub(super) const SIZE: usize = 5 * 8 + 2 * NAME;

/// A plan that does not fit what was seen with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// Of the plan.
    pub build_id: BuildId,
    /// Version of the resolver that made the plan.
    pub analyzer: String,
    /// What was seen.
    pub seen: Seen,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// At a probe.
    AtProbe {
        /// What it reports.
        event: Event,
        /// Where it is.
        offset: FnOffset,
        /// What it saw.
        what: Odd,
    },
    /// Far fewer packets were freed for netfilter than the probes reported.
    Freed(Witnessed),
}

/// What no drop has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Odd {
    /// A pointer that is none, or cannot be read.
    Address {
        /// To what.
        of: &'static str,
        /// Its value.
        value: u64,
    },
    /// A family that netfilter does not have, of a table or a hook.
    Family {
        /// Of what.
        of: &'static str,
        /// Its number.
        value: u64,
    },
    /// A hook that no family has.
    Hook(u64),
    /// A policy that does not drop.
    Policy {
        /// Of the chain.
        table: String,
        /// Of the chain.
        chain: String,
        /// `NF_ACCEPT` is 1.
        value: u64,
    },
}

/// The plan's kinds of pointers, in the order of the program's.
const POINTERS: [&str; 6] = ["pktinfo", "packet", "hook state", "base chain", "table", "rule"];

/// What one processor has noted; `None`: nothing, or nothing that is known here.
pub(super) fn decode(bytes: &[u8; SIZE], plan: &Plan) -> Option<Contradiction> {
    let word = |number: usize| {
        let word = bytes[8 * number..].first_chunk().copied();
        u64::from_ne_bytes(word.unwrap_or_default())
    };
    let (kind, index, of, value) = (word(0), word(1), word(2), word(3));
    let of = POINTERS.get(usize::try_from(of).ok()?).copied()?;
    let name = |at: usize| super::record::name(&bytes[at..at + NAME]);
    let what = match kind {
        1 => Odd::Address { of, value },
        2 => Odd::Family { of, value },
        3 => Odd::Hook(value),
        4 => Odd::Policy { table: name(40), chain: name(40 + NAME), value },
        _ => return None,
    };
    let probe = plan.probes.get(usize::try_from(index).ok()?)?;
    let seen = Seen::AtProbe { event: probe.event, offset: probe.offset, what };
    Some(Contradiction::of(plan, seen))
}

impl Contradiction {
    pub(super) fn of(plan: &Plan, seen: Seen) -> Self {
        let (build_id, analyzer) = (plan.build_id.clone(), plan.evidence.analyzer.clone());
        Self { build_id, analyzer, seen }
    }
}

/// Fewer are never suspicious: they may be under way.
const UNDER_WAY: u64 = 64;

/// Whether so many drops cannot have been drops. The kernel frees what nf_tables drops with a reason of its
/// own; what is shared with a capture, or was queued to a program, is freed otherwise, which is never
/// most of it but where `other_ways` says so.
pub(super) fn are_too_many(witnessed: Witnessed, other_ways: bool) -> bool {
    !other_ways && witnessed.attributed > UNDER_WAY + 4 * witnessed.of
}

impl std::error::Error for Contradiction {}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.seen {
            Seen::AtProbe { event, offset, what } => {
                write!(f, "the {event} probe at nft_do_chain{offset} ")?;
                match what {
                    Odd::Address { of, value } => {
                        write!(f, "found {value:#x} as the address of the {of}, where nothing is")
                    }
                    Odd::Family { of, value } => {
                        write!(f, "found a {of} of family {value}, which netfilter does not have")
                    }
                    Odd::Hook(value) => {
                        write!(f, "found hook {value}, which netfilter does not have")
                    }
                    Odd::Policy { table, chain, value } => {
                        let policy =
                            if *value == 1 { "accept".to_owned() } else { value.to_string() };
                        // Not every plan tells where names of tables are.
                        let table =
                            if table.is_empty() { table } else { &format!(" in table {table}") };
                        write!(
                            f,
                            "reported drops by the policy of chain {chain}{table}, whose policy is \
                             {policy}"
                        )
                    }
                }
            }
            Seen::Freed(Witnessed { attributed, of }) => write!(
                f,
                "the probes reported {attributed} drops, and the kernel freed {of} packets as dropped by \
                 netfilter"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::sample;

    fn noted(words: [u64; 5], table: &str, chain: &str) -> Option<String> {
        let mut bytes = [0; SIZE];
        for (to, word) in bytes.chunks_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[40..][..table.len()].copy_from_slice(table.as_bytes());
        bytes[40 + NAME..][..chain.len()].copy_from_slice(chain.as_bytes());
        let plan = sample::plan(BuildId::from_bytes(&[1; 20]).unwrap());
        decode(&bytes, &plan).map(|contradiction| contradiction.to_string())
    }

    #[test]
    fn says_what_contradicts_what() {
        assert_eq!(noted([0; 5], "", ""), None);
        let policy = noted([4, 1, 3, 1, 9], "filter", "input").unwrap();
        insta::assert_snapshot!(policy, @"the policy_drop probe at nft_do_chain+0x5bc reported drops by the policy of chain input in table filter, whose policy is accept");
        let rule = noted([1, 0, 5, 0x10, 0], "", "").unwrap();
        insta::assert_snapshot!(rule, @"the rule_drop probe at nft_do_chain+0x3fe found 0x10 as the address of the rule, where nothing is");
        let family = noted([2, 0, 4, 37, 0], "", "").unwrap();
        insta::assert_snapshot!(family, @"the rule_drop probe at nft_do_chain+0x3fe found a table of family 37, which netfilter does not have");
        let hook = noted([3, 0, 2, 200, 0], "", "").unwrap();
        insta::assert_snapshot!(hook, @"the rule_drop probe at nft_do_chain+0x3fe found hook 200, which netfilter does not have");
    }

    #[test]
    fn ignores_what_this_program_does_not_write() {
        for words in [[9, 0, 0, 0, 0], [1, 16, 0, 0, 0], [1, 0, 6, 0, 0]] {
            assert_eq!(noted(words, "", ""), None, "{words:?}");
        }
    }

    #[test]
    fn many_more_reports_than_freed_packets_are_suspicious() {
        let many = |attributed, of| are_too_many(Witnessed { attributed, of }, false);
        assert!(many(149, 8), "as Debian's 6.1.0-0.deb11.51-amd64 had it");
        assert!(many(65, 0) && !many(64, 0));
        assert!(!many(1_000, 900) && !many(40_000, 10_000));
        assert!(!are_too_many(Witnessed { attributed: 1_000, of: 0 }, true));
    }
}
