//! The crawl: surveys the suites, picks kernels, and takes each from its packages to the database.
//!
//! ```text
//! survey → select → known? → fetch (tokio) → unpack, analyse (rayon) → store (one writer)
//! ```
//!
//! Each kernel is stored as soon as it is done, on its own, and what is stored needs no work again.
//! So a crawl may be killed anywhere: the next one goes on, and ends with the same content. In
//! memory are at most as many kernels as there are jobs; all else that is under way lies in the
//! cache.

mod select;
mod summary;
mod verify;
mod work;

pub use select::{Selection, Shard, ShardError, Survey, survey};
pub use summary::{Spent, Summary};
pub use work::{Unpacked, unpack};

use crate::{
    analysis::Bodies,
    fetch::{Download, DownloadReporter, DownloadStatus, Ending, Fetcher},
    source::{
        Repository,
        kernel::{KernelSet, Listing, PackageRef, PackageSet, Trust},
        listed,
    },
};
use nfdrop_db::{
    Plan, Reason, Record, Store, StoreError, hex,
    store::{Accept, Kernel, KernelOutcome, Known, Outcome, Package, Source},
};
use nfdrop_resolver::resolve::ANALYZER;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;
use work::{Built, Worked};

/// Kernels whose packages are fetched while others are being analysed.
const AHEAD: usize = 4;

/// Is told how a crawl goes.
pub trait CrawlReporter: DownloadReporter {
    /// So many kernels were selected.
    fn selected(&self, kernels: usize);
    /// One of them is done.
    fn done(&self, kernel: &KernelSet, end: &End);
}

/// What became of a kernel in this crawl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// There was nothing to do.
    Known(Known),
    /// There is a plan now.
    Resolved(Box<Plan>),
    /// There is no plan, now or until the packages or the analyzer change.
    Unresolved(Reason, String),
    /// It could not be fetched or verified; the next crawl tries again.
    Failed(Reason, String),
    /// A defect of this program; nothing is stored, the next crawl tries again.
    Internal(String),
}

/// Why a crawl cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CrawlError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The threads cannot be started.
    #[error("the worker threads cannot be started: {0}; try fewer with --jobs")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// What a crawl works with.
#[derive(Clone)]
pub struct Crawl {
    /// Where packages come from.
    pub fetcher: Fetcher,
    /// Where results go.
    pub store: Store,
    /// Kernels that are analysed at a time.
    pub jobs: usize,
    /// Whether only the needed parts of packages are fetched where that is possible. Then nobody
    /// compares their hashes, and their provenance says so.
    pub partial: bool,
    /// Is told how it goes.
    pub reporter: Arc<dyn CrawlReporter>,
}

impl Crawl {
    /// Takes the selected kernels of the survey to the database. Once `stop` is ready nothing new is
    /// begun, what is under way is dropped, and what is done has been stored.
    pub async fn run(
        &self,
        survey: &Survey,
        selection: &Selection,
        stop: impl Future<Output = ()>,
    ) -> Result<Summary, CrawlError> {
        let mut summary = Summary::new(survey);
        summary.lost = lost(survey, &self.store.sources()?);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.jobs)
            .thread_name(|index| format!("analyse-{index}"))
            // The kernel in question ends as `End::Internal`.
            .panic_handler(|_| {})
            .build()?;
        let shared = Arc::new(work::Worker {
            fetcher: self.fetcher.clone(),
            store: self.store.clone(),
            bodies: Bodies::with_listings(),
            pool,
            now: SystemTime::now(),
            partial: self.partial,
        });
        let selected = selection.apply(&survey.kernels);
        self.reporter.selected(selected.len());
        summary.selected(&selected);
        let mut waiting = selected.into_iter();
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            while tasks.len() < self.jobs + AHEAD
                && let Some(kernel) = waiting.next()
            {
                // Writes are short, and nothing else runs on this thread.
                if let Some(end) = self.without_work(kernel)? {
                    self.end(kernel, end, Spent::default(), &mut summary);
                    continue;
                }
                let (shared, kernel) = (Arc::clone(&shared), kernel.clone());
                let inner = Arc::clone(&self.reporter) as Arc<dyn DownloadReporter>;
                tasks.spawn(async move {
                    let (counter, begun) =
                        (Counter { inner, bytes: Arc::default() }, Instant::now());
                    let worked = shared.work(&kernel, &counter).await;
                    let bytes = counter.bytes.load(Ordering::Relaxed);
                    (kernel, worked, Spent { bytes, time: begun.elapsed() })
                });
            }
            tokio::select! {
                biased;
                task = tasks.join_next() => match task {
                    None => break,
                    Some(Ok((kernel, worked, spent))) => {
                        let end = self.put(&kernel, worked)?;
                        self.end(&kernel, end, spent, &mut summary);
                    }
                    // A panic outside the analysis: the message is on stderr already.
                    Some(Err(error)) => summary.internal.push(error.to_string()),
                },
                () = &mut stop => {
                    summary.interrupted = true;
                    break;
                }
            }
        }
        // Last, so that what was lost is told by the next crawl if this one does not get to the end.
        if !summary.interrupted {
            let known = self.store.sources()?;
            for source in sources(survey, &known) {
                self.store.put_source(&source)?;
            }
        }
        Ok(summary)
    }

    fn end(&self, kernel: &KernelSet, end: End, spent: Spent, summary: &mut Summary) {
        self.reporter.done(kernel, &end);
        summary.end(kernel, end, spent);
    }

    /// Settles a kernel that nothing has to be fetched for.
    fn without_work(&self, kernel: &KernelSet) -> Result<Option<End>, StoreError> {
        if let PackageSet::Incomplete { missing, .. } = &kernel.packages {
            let detail = format!(
                "the indices list no {} in version {}",
                missing.join(", no "),
                kernel.version.as_str()
            );
            let reason = Reason::IncompletePackageSet;
            return self.put(kernel, Worked::Failed(reason, detail)).map(Some);
        }
        let mut known = None;
        for stored in kernels_of(kernel, None) {
            known = self.store.put_known(&stored, accept(kernel, self.partial), now())?;
            if known.is_none() {
                return Ok(None);
            }
        }
        Ok(known.map(End::Known))
    }

    /// Stores what became of a kernel.
    fn put(&self, kernel: &KernelSet, worked: Worked) -> Result<End, StoreError> {
        let outcome = match &worked {
            Worked::Internal(detail) => return Ok(End::Internal(detail.clone())),
            Worked::Built(built) => Outcome::Build(Box::new(built.build.clone())),
            Worked::Failed(reason, detail) => {
                let (reason, detail) = (*reason, detail.clone());
                Outcome::Failed { reason, detail, analyzer: ANALYZER.to_owned() }
            }
        };
        let built = match &worked {
            Worked::Built(built) => Some(built.as_ref()),
            _ => None,
        };
        for stored in kernels_of(kernel, built) {
            let (outcome, indexed_at) = (outcome.clone(), now());
            self.store.put_kernel(&KernelOutcome { kernel: stored, outcome, indexed_at })?;
        }
        if built.and_then(|built| built.release.as_ref()).is_some_and(|r| *r != kernel.release) {
            for guessed in kernels_of(kernel, None) {
                self.store.forget_failure(&guessed)?;
            }
        }
        Ok(match worked {
            Worked::Internal(detail) => End::Internal(detail),
            Worked::Failed(reason @ (Reason::FetchFailed | Reason::VerificationFailed), detail) => {
                End::Failed(reason, detail)
            }
            Worked::Failed(reason, detail) => End::Unresolved(reason, detail),
            Worked::Built(built) => match built.build.record {
                Record { plan: Some(plan), .. } => End::Resolved(Box::new(plan)),
                Record { reason, detail, .. } => {
                    // A record without a plan has a reason.
                    let reason = reason.unwrap_or(Reason::MalformedImage);
                    End::Unresolved(reason, detail.unwrap_or_default())
                }
            },
        })
    }

    /// Whether the kernel's outcome is known, without writing anything.
    pub fn is_known(store: &Store, kernel: &KernelSet, partial: bool) -> Result<bool, StoreError> {
        for stored in kernels_of(kernel, None) {
            if store.known(&stored, accept(kernel, partial))?.is_none() {
                return Ok(false);
            }
        }
        Ok(kernel.packages.is_complete())
    }
}

/// Which known outcome of a kernel will do.
fn accept(kernel: &KernelSet, partial: bool) -> Accept<'static> {
    let nothing = |listing: &Listing| matches!(listing.trust, Trust::Nothing);
    let packages = kernel.packages.found();
    let unsigned = packages.iter().any(|package| package.listings.iter().any(nothing));
    Accept { analyzer: ANALYZER, unsigned, transport_only: partial }
}

/// The kernel as the database has it: once in every suite that lists it. `built`: what its packages
/// told of themselves.
fn kernels_of(kernel: &KernelSet, built: Option<&Built>) -> Vec<Kernel> {
    let packages = kernel.packages.found();
    let release = built.and_then(|built| built.release.as_ref()).unwrap_or(&kernel.release);
    let in_suite = |suite: &String| {
        let listing = |package: &PackageRef| {
            let here = package.listings.iter().find(|listing| listing.suite == *suite);
            // A part of it may be listed in another suite only.
            here.or(package.listings.first()).cloned()
        };
        let listed = packages.iter().filter_map(|package| Some((package, listing(package)?)));
        let checked = |name: &str| built?.packages.iter().find(|checked| checked.name == name);
        let package = |(package, listing): (&&PackageRef, Listing)| {
            let checked = checked(&package.name);
            let sha256 = checked.map(|checked| checked.sha256).or(package.sha256);
            Package {
                name: package.name.clone(),
                url: listing.url,
                sha256: sha256.map(|sha256| hex::encode(&sha256)),
                by_hash: package.sha256.is_some(),
                transport_only: checked.is_some_and(|checked| checked.transport_only),
            }
        };
        // The parts may be of repositories with different keys, or without one: somebody vouches for
        // the kernel where somebody does for each of them.
        let signers: Option<Vec<String>> = packages
            .iter()
            .map(|package| match listing(package).map(|listing| listing.trust) {
                Some(Trust::Index { signed_by }) => Some(signed_by),
                _ => checked(&package.name)?.signed_by.clone(),
            })
            .collect();
        let signed_by = signers.and_then(|signers| signers.into_iter().next_back());
        Kernel {
            distro: kernel.distro.clone(),
            suite: suite.clone(),
            release: release.clone(),
            version: kernel.version.as_str().to_owned(),
            arch: packages.first().map_or_else(String::new, |package| package.arch.clone()),
            signed_by,
            packages: listed.map(package).collect(),
        }
    };
    kernel.suites.iter().map(in_suite).collect()
}

/// What is wrong with suites that were read: known ones that no mirror offers any more, and those that
/// list markedly fewer kernels than when they were last crawled. A mirror that is half synchronised, or
/// a distribution that moved, looks the same as one with nothing new.
pub fn lost(survey: &Survey, known: &[Source]) -> Vec<(String, String)> {
    let listed = listed(&survey.kernels);
    let mut lost = Vec::new();
    for outcome in &survey.suites {
        let Repository { source, distro, suite, arch, .. } = &outcome.repository;
        let before = known.iter().find(|k| (&k.distro, &k.suite, &k.arch) == (distro, suite, arch));
        let Some(before) = before else { continue };
        let why = match &outcome.result {
            Ok(None) => {
                let listed = match before.kernels {
                    0 => String::new(),
                    kernels => format!(", and it listed {kernels} kernels"),
                };
                format!(
                    "no mirror offers it any more{listed}; if it has moved, name the place in the \
                     catalogue or with --mirror {source}=URL"
                )
            }
            Ok(Some(_)) => {
                let now = listed.get(&(distro.as_str(), suite.as_str())).copied().unwrap_or(0);
                let now = Source { kernels: now as u64, ..before.clone() };
                if !now.has_shrunk(before.kernels) {
                    continue;
                }
                format!(
                    "it lists {} kernels, and listed {} when it was last crawled; what is known \
                     stays, look at the mirror",
                    now.kernels, before.kernels
                )
            }
            Err(_) => continue,
        };
        lost.push((format!("{distro} {suite}"), why));
    }
    lost
}

/// What the suites looked like. One that was there before and is not any more lists nothing now: a gate
/// that compares two databases has to see that.
fn sources(survey: &Survey, known: &[Source]) -> impl Iterator<Item = Source> {
    let listed = listed(&survey.kernels);
    survey.suites.iter().filter_map(move |outcome| {
        let Repository { distro, suite, arch, .. } = &outcome.repository;
        let is_known = || {
            let mut known = known.iter();
            known.any(|k| (&k.distro, &k.suite, &k.arch) == (distro, suite, arch))
        };
        let (signed_by, failure) = match &outcome.result {
            Ok(None) if is_known() => (None, None),
            Ok(None) => return None,
            Ok(Some(suite)) => (suite.signed_by.clone(), None),
            Err(error) => (None, Some((error.reason(), error.to_string()))),
        };
        let kernels = listed.get(&(distro.as_str(), suite.as_str())).copied().unwrap_or(0);
        Some(Source {
            distro: distro.clone(),
            suite: suite.clone(),
            arch: arch.clone(),
            index_sha256: None,
            kernels: kernels as u64,
            signed_by,
            failure,
            stale_since: None,
            crawled_at: now(),
        })
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Counts what comes over the network.
struct Counter {
    inner: Arc<dyn DownloadReporter>,
    bytes: Arc<AtomicU64>,
}

struct Counted {
    inner: Box<dyn DownloadStatus>,
    bytes: Arc<AtomicU64>,
    /// Of this download, so far.
    progress: u64,
}

impl DownloadReporter for Counter {
    fn start(&self, download: &Download) -> Box<dyn DownloadStatus> {
        let (inner, bytes) = (self.inner.start(download), Arc::clone(&self.bytes));
        Box::new(Counted { inner, bytes, progress: 0 })
    }
}

impl DownloadStatus for Counted {
    fn progress(&mut self, bytes: u64) {
        self.progress = bytes;
        self.inner.progress(bytes);
    }

    fn end(self: Box<Self>, ending: Ending) {
        if ending != Ending::Cached {
            self.bytes.fetch_add(self.progress, Ordering::Relaxed);
        }
        self.inner.end(ending);
    }
}
