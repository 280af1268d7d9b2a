//! What there is, and which of it is wanted.

use crate::source::{
    self, Reader, Repository, SuiteOutcome,
    kernel::{KernelSet, newest_per_series},
};
use regex::Regex;
use sha2::{Digest as _, Sha256};
use std::str::FromStr;

/// What repositories offer.
#[derive(Debug)]
pub struct Survey {
    /// Every suite that may exist; see [`SuiteOutcome::result`].
    pub suites: Vec<SuiteOutcome>,
    /// The kernels that the suites list together.
    pub kernels: Vec<KernelSet>,
}

/// Reads all these repositories.
pub async fn survey(reader: &Reader, repositories: &[Repository]) -> Survey {
    let suites = reader.read_all(repositories).await;
    Survey { kernels: source::kernels(&suites), suites }
}

/// Which kernels are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Matches the release (`6.1.0-56-cloud-amd64`) or the flavour (`cloud-amd64`).
    pub filter: Option<Regex>,
    /// Of every distribution, series and flavour the newest only.
    pub newest: bool,
    /// At most so many, the newest series first.
    pub limit: Option<usize>,
    /// Of all that is left a part, the same in every crawl.
    pub shard: Option<Shard>,
}

/// One of several parts of a crawl, each for a machine: `2/8`. Which part a kernel belongs to hangs on
/// its distribution, release and version alone, so shards never overlap, whatever the mirrors answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: u32,
    /// How many there are.
    of: u32,
}

/// Not two numbers with a slash between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no shard, expected one such as `2/8`: the second of eight")]
pub struct ShardError(String);

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (number, of) = text.split_once('/')?;
            let shard = Self { number: number.parse().ok()?, of: of.parse().ok()? };
            (1..=shard.of).contains(&shard.number).then_some(shard)
        };
        parse().ok_or_else(|| ShardError(text.to_owned()))
    }
}

impl Shard {
    fn holds(self, kernel: &KernelSet) -> bool {
        let mut hash = Sha256::new();
        for part in [&kernel.distro, &kernel.release, kernel.version.as_str()] {
            hash.update(part);
            hash.update([0]);
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
        u32::from_be_bytes([a, b, c, d]) % self.of == self.number - 1
    }
}

impl Selection {
    /// The wanted ones among these, the newest series first.
    pub fn apply<'a>(&self, kernels: &'a [KernelSet]) -> Vec<&'a KernelSet> {
        let matches = |kernel: &KernelSet| {
            let either = |filter: &Regex| {
                filter.is_match(&kernel.release) || filter.is_match(&kernel.flavour)
            };
            self.filter.as_ref().is_none_or(either)
        };
        let mut wanted: Vec<_> = if self.newest {
            newest_per_series(kernels, matches)
        } else {
            kernels.iter().filter(|kernel| matches(kernel)).collect()
        };
        wanted.sort_by_key(|kernel| kernel.series);
        wanted.reverse();
        wanted.retain(|kernel| self.shard.is_none_or(|shard| shard.holds(kernel)));
        wanted.truncate(self.limit.unwrap_or(usize::MAX));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{kernel::PackageSet, version::Version};

    #[test]
    fn every_kernel_is_in_one_shard() {
        let kernel = |number: u32| {
            let release = format!("6.12.{number}-amd64");
            KernelSet {
                distro: "debian".to_owned(),
                suites: Vec::new(),
                series: "6.12".parse().unwrap(),
                flavour: "amd64".to_owned(),
                version: Version::dpkg(release.as_str()),
                release,
                packages: PackageSet::Incomplete { found: Vec::new(), missing: Vec::new() },
            }
        };
        let kernels: Vec<_> = (0..200).map(kernel).collect();
        let shard = |text: &str| {
            let selection = Selection { shard: text.parse().ok(), ..Selection::default() };
            selection.apply(&kernels).iter().map(|k| k.release.clone()).collect::<Vec<_>>()
        };
        let shards = ["1/3", "2/3", "3/3"].map(shard);
        assert!(shards.iter().all(|shard| (40..100).contains(&shard.len())), "{shards:?}");
        let mut all = shards.concat();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 200);
        assert_eq!(shard("1/1").len(), 200);
        for wrong in ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
