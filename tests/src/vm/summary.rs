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
            missed: count(&["missed", "by", "the", "kprobes"])?,
            freed: before(&["packets", "freed"]),
        })
    }
}

impl Summary {
    /// What does not add up.
    pub fn differences(&self, phase: &str) -> Vec<String> {
        let Self { seen, printed, lost, missed, freed } = *self;
        let mut differences = Vec::new();
        if seen != printed + lost {
            differences
                .push(format!("{phase}: {seen} seen are not {printed} printed and {lost} lost"));
        }
        if (lost > 0) != (phase == "flood") {
            differences.push(format!("{phase}: {lost} lost"));
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
