//! What there is, and which of it is wanted.

use crate::source::{
    self, Reader, Repository, SuiteOutcome,
    kernel::{KernelSet, newest_per_series},
};
use regex::Regex;

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
        wanted.truncate(self.limit.unwrap_or(usize::MAX));
        wanted
    }
}
