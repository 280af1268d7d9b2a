//! What there is, and which of it is wanted.

use crate::{
    fetch::{DownloadReporter, Fetcher},
    source::{
        debian::{self, KernelSet, SuiteIndex},
        mirror::{self, Archive, SuiteOutcome},
    },
};
use regex::Regex;
use std::{sync::Arc, time::SystemTime};

/// What the archives offer.
#[derive(Debug)]
pub struct Survey {
    /// Every suite that may exist; see [`SuiteOutcome::result`].
    pub suites: Vec<SuiteOutcome>,
    /// The kernels that the suites list together.
    pub kernels: Vec<KernelSet>,
}

/// Reads all suites of the archives.
pub async fn survey(
    fetcher: &Fetcher,
    archives: &[Archive],
    now: SystemTime,
    reporter: &Arc<dyn DownloadReporter>,
) -> Survey {
    let suites = mirror::read_all(fetcher, archives, now, reporter).await;
    let read = suites.iter().filter_map(|outcome| outcome.result.as_ref().ok()?.as_ref());
    let indices: Vec<SuiteIndex> = read.map(|suite| suite.index.clone()).collect();
    Survey { kernels: debian::kernels(&indices), suites }
}

/// Which kernels are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Matches the release (`6.1.0-56-cloud-amd64`) or the flavour (`cloud-amd64`).
    pub filter: Option<Regex>,
    /// Of every series and flavour the newest only.
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
            debian::newest_per_series(kernels, matches)
        } else {
            kernels.iter().filter(|kernel| matches(kernel)).collect()
        };
        wanted.reverse();
        wanted.truncate(self.limit.unwrap_or(usize::MAX));
        wanted
    }
}
