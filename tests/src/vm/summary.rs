//! What the client says of itself, when it is asked and when it ends.

use anyhow::{Context, Error, Result};
use std::str::FromStr;

/// The numbers of the client's summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Drops by rules and policies.
    pub seen: u64,
    /// Those that were printed.
    pub printed: u64,
    /// Those for which the ring had no room.
    pub lost: u64,
    /// Those that were not asked for, as only one of several is to be printed.
    pub left_out: u64,
    /// Those that stdout did not take, or not yet.
    pub unprinted: u64,
    /// Runs of the programs that the kernel left out.
    pub missed: u64,
    /// Packets that the kernel freed as dropped by netfilter, where it tells.
    pub freed: Option<u64>,
}

impl FromStr for Summary {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> =
            text.split([' ', ',', ';', '\n']).filter(|word| !word.is_empty()).collect();
        let before = |phrase: &[&str]| {
            let at = words.windows(phrase.len()).position(|window| window == phrase)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        let count =
            |phrase: &[&str]| before(phrase).with_context(|| format!("no {phrase:?} in {text:?}"));
        Ok(Self {
            seen: count(&["drops", "seen"])?,
            printed: count(&["printed"])?,
            lost: count(&["lost", "in", "the", "ring"])?,
            left_out: before(&["left", "out", "by"]).unwrap_or(0),
            unprinted: before(&["not", "printed"]).or(before(&["wait", "for"])).unwrap_or(0),
            missed: count(&["missed", "by", "the", "kprobes"])?,
            freed: before(&["packets", "freed"]),
        })
    }
}

impl Summary {
    /// What does not add up.
    pub fn differences(&self, phase: &str) -> Vec<String> {
        let Self { seen, printed, lost, missed, freed, left_out, unprinted } = *self;
        let mut differences = Vec::new();
        if seen != printed + lost + left_out + unprinted {
            differences.push(format!("{phase}: does not add up: {self:?}"));
        }
        if (lost > 0) != matches!(phase, "flood" | "blocked") {
            differences.push(format!("{phase}: {lost} lost"));
        }
        if (unprinted > 0) != (phase == "blocked") {
            differences.push(format!("{phase}: {unprinted} not printed"));
        }
        if (left_out > 0) != (phase == "sample") {
            differences.push(format!("{phase}: {left_out} left out"));
        }
        if missed > 0 {
            differences.push(format!("{phase}: {missed} missed"));
        }
        if freed.is_some_and(|freed| freed != seen) {
            differences.push(format!("{phase}: {seen} seen, but the kernel freed {freed:?}"));
        }
        differences
    }
}
