//! Sources: which kernels the repositories of a distribution offer.
//!
//! ```text
//! catalogue → Repository → index of its kind, verified → SuiteIndex ┐
//!             Repository → …                                        ├→ kernels, by the rules of
//!             Repository → …                                        ┘  the distribution's family
//! ```
//!
//! A kind of repository ([`Kind`]) is a directory here: pure parsers, and one thin module that
//! fetches. It turns a [`Repository`] into a [`Suite`], and says which of the packages of all suites
//! of a distribution make up kernels. Everything behind that knows [`kernel`]'s types only.

pub mod apk;
pub mod apt;
pub mod catalogue;
pub mod date;
pub mod kernel;
pub mod keys;
pub mod openpgp;
pub mod pacman;
pub mod rpm_md;
pub mod version;

use crate::fetch::{DownloadReporter, FetchError, Fetcher};
use kernel::{KernelSet, SuiteIndex};
use keys::{KeyFiles, LoadKeysError};
use nfdrop_db::Reason;
use openpgp::SignatureError;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};
use tokio::task::JoinSet;

/// How a repository is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Debian, Ubuntu.
    Apt,
    /// Fedora, Red Hat and its kin, SUSE, Amazon, Azure Linux, Photon.
    RpmMd,
    /// Arch: a database, named after the suite.
    Pacman,
    /// Arch's archive of old packages, which has no database.
    PacmanArchive,
    /// Alpine.
    Apk,
}

impl Kind {
    /// Kinds whose suites list parts of the same kernels are one family.
    fn family(self) -> Self {
        if self == Self::PacmanArchive { Self::Pacman } else { self }
    }
}

/// A repository to read: one suite of one distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Name of the catalogue's entry: `debian-security`.
    pub source: String,
    /// As it is written in records: `debian`.
    pub distro: String,
    /// `trixie-security`, `41-updates`; unique in its distribution.
    pub suite: String,
    /// How it is laid out.
    pub kind: Kind,
    /// The distribution's name of the architecture: `amd64`, `x86_64`.
    pub arch: String,
    /// Parts of the repository that hold kernels; apt only.
    pub components: Vec<String>,
    /// Where it is, without a slash at the end; the first that has it is read.
    pub urls: Vec<String>,
    /// Whose signatures count.
    pub keys: KeyFiles,
    /// Whether signatures that rest on SHA-1 count, and are marked; apk only.
    pub weak: bool,
    /// Whether what nothing vouches for is let in, and marked.
    pub unverified: bool,
}

/// What readers work with.
#[derive(Clone)]
pub struct Reader {
    /// Fetches indices.
    pub fetcher: Fetcher,
    /// The time signatures have to hold at.
    pub now: SystemTime,
    /// Where paths of keys begin: `/` but in tests and containers.
    pub root: PathBuf,
    /// Is told of large downloads.
    pub reporter: Arc<dyn DownloadReporter>,
}

/// A suite that was read and verified.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Its kernel packages.
    pub index: SuiteIndex,
    /// Fingerprint of the key that signed the index, upper-case hex; `None`: the packages are signed
    /// instead, or nothing is.
    pub signed_by: Option<String>,
    /// Since when the index should have been replaced, where it says so and that has passed.
    pub stale_since: Option<SystemTime>,
    /// When the index was made, and when one was that was read there before, where that is newer.
    pub older: Option<[SystemTime; 2]>,
    /// Mirrors that were asked before the one that was read, and why they would not do.
    pub failed_mirrors: Vec<FailedMirror>,
}

/// A mirror that was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedMirror {
    /// The repository's URL there.
    pub url: String,
    /// In words.
    pub why: String,
}

impl Suite {
    fn new(index: SuiteIndex, signed_by: Option<String>) -> Self {
        Self { index, signed_by, stale_since: None, older: None, failed_mirrors: Vec::new() }
    }
}

/// Asks mirrors in order until one has the suite; where some fail and none has it, the first failure is
/// told, and where one has it, all of them.
struct Asked {
    failures: Vec<(String, SuiteError)>,
}

impl Asked {
    fn none() -> Self {
        Self { failures: Vec::new() }
    }

    /// `Some`: nobody has to be asked any more.
    fn answered(&mut self, url: &str, answer: Result<Option<Suite>, SuiteError>) -> Option<Suite> {
        match answer {
            Ok(Some(mut suite)) => {
                let failed = |(url, error): (String, SuiteError)| FailedMirror {
                    url,
                    why: error.to_string(),
                };
                let before = std::mem::take(&mut self.failures).into_iter().map(failed);
                suite.failed_mirrors.splice(0..0, before);
                Some(suite)
            }
            Ok(None) => None,
            Err(error) => {
                self.failures.push((url.to_owned(), error));
                None
            }
        }
    }

    /// Nobody has it.
    fn no_mirror_left(self) -> Result<Option<Suite>, SuiteError> {
        self.failures.into_iter().next().map_or(Ok(None), |(_, error)| Err(error))
    }
}

/// What became of one suite.
#[derive(Debug)]
pub struct SuiteOutcome {
    /// Which one.
    pub repository: Repository,
    /// `None`: the mirror does not offer it.
    pub result: Result<Option<Suite>, SuiteError>,
}

/// Why a suite that exists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// There are no keys to check it with.
    #[error(transparent)]
    Keys(#[from] LoadKeysError),
    /// Its signature does not hold.
    #[error("{url}: {error}")]
    Signature {
        /// Of the signed file.
        url: String,
        /// Why.
        error: SignatureError,
    },
    /// A good signature on the file of another suite.
    #[error("{url} is signed for {found}, expected {expected}")]
    OtherSuite {
        /// Of the signed file.
        url: String,
        /// As asked for.
        expected: String,
        /// As signed.
        found: String,
    },
    /// One of its indices cannot be used.
    #[error("{url}: {error}")]
    Malformed {
        /// Of the index.
        url: String,
        /// Why, as the parser says it.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The work on it was broken off.
    #[error("reading the index was broken off: {0}")]
    Aborted(String),
}

impl SuiteError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Aborted(_) => Reason::FetchFailed,
            _ => Reason::VerificationFailed,
        }
    }

    /// An index that a parser refuses.
    pub fn malformed(
        url: impl Into<String>,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Malformed { url: url.into(), error: Box::new(error) }
    }
}

impl Reader {
    /// Reads the kernel packages of a repository; `None`: no mirror offers it.
    pub async fn read(&self, repository: &Repository) -> Result<Option<Suite>, SuiteError> {
        let mut asked = Asked::none();
        for url in &repository.urls {
            let read = match repository.kind {
                Kind::Apt => apt::read_suite(self, repository, url).await,
                Kind::RpmMd => rpm_md::read_suite(self, repository, url).await,
                Kind::Pacman => pacman::read_suite(self, repository, url).await,
                Kind::PacmanArchive => pacman::read_archive(self, repository, url).await,
                Kind::Apk => apk::read_suite(self, repository, url).await,
            };
            if let Some(suite) = asked.answered(url, read) {
                return Ok(Some(suite));
            }
        }
        asked.no_mirror_left()
    }

    /// Reads every repository, all at the same time; in the order given.
    pub async fn read_all(&self, repositories: &[Repository]) -> Vec<SuiteOutcome> {
        let mut tasks = JoinSet::new();
        let mut outcomes = Vec::new();
        for repository in repositories {
            let (reader, read, place) = (self.clone(), repository.clone(), outcomes.len());
            outcomes.push(SuiteOutcome {
                repository: repository.clone(),
                // Stays only if the task panics.
                result: Err(SuiteError::Aborted("internal error".to_owned())),
            });
            tasks.spawn(async move { (place, reader.read(&read).await) });
        }
        while let Some(task) = tasks.join_next().await {
            match task {
                Ok((place, result)) => outcomes[place].result = result,
                Err(error) => tracing::error!("{error}"),
            }
        }
        outcomes
    }
}

/// The kernels that suites offer, ascending by distribution, then by series, flavour and version.
/// Parts of a kernel are joined over all suites of a distribution, since updates move between them.
pub fn kernels(outcomes: &[SuiteOutcome]) -> Vec<KernelSet> {
    let read = |outcome: &SuiteOutcome| matches!(outcome.result, Ok(Some(_)));
    let families: BTreeSet<(&str, Kind, &str)> = outcomes
        .iter()
        .filter(|outcome| read(outcome))
        .map(|SuiteOutcome { repository: r, .. }| {
            (r.distro.as_str(), r.kind.family(), r.arch.as_str())
        })
        .collect();
    let mut kernels = Vec::new();
    for (distro, kind, arch) in families {
        let of = |o: &&SuiteOutcome| {
            (o.repository.distro.as_str(), o.repository.kind.family(), o.repository.arch.as_str())
                == (distro, kind, arch)
        };
        let suites = outcomes.iter().filter(of).filter_map(|o| o.result.as_ref().ok()?.as_ref());
        let indices: Vec<SuiteIndex> = suites.map(|suite| suite.index.clone()).collect();
        kernels.extend(match kind {
            Kind::Apt => apt::debian::kernels(distro, arch, &indices),
            Kind::RpmMd => rpm_md::kernels::kernels(distro, arch, &indices),
            Kind::Pacman | Kind::PacmanArchive => pacman::kernels(distro, arch, &indices),
            Kind::Apk => apk::kernels(distro, arch, &indices),
        });
    }
    kernels
}

/// How many kernels each suite lists, by distribution and suite.
pub fn listed(kernels: &[KernelSet]) -> BTreeMap<(&str, &str), usize> {
    let mut listed = BTreeMap::new();
    for kernel in kernels {
        for suite in &kernel.suites {
            *listed.entry((kernel.distro.as_str(), suite.as_str())).or_default() += 1;
        }
    }
    listed
}
