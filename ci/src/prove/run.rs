//! Which builds are proven, and one after the other of them, several at a time.

use super::{Programs, guest, kernel::Kernel, machine::Qemu};
use anyhow::{Context as _, bail};
use nfdrop_db::{
    BuildId, Proof, ProofResult, Record, Store, hex,
    store::{PackageSet, Provable, SetPackage},
};
use nfdrop_indexer::fetch::{Fetcher, Silent};
use regex::Regex;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Most bytes of a package; the largest kernel packages have 200 MB.
const MAX_PACKAGE: u64 = 1 << 30;

/// Which builds.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those whose plan is neither proven nor contradicted.
    Open,
    /// Those whose plan was never tried.
    New,
    /// Of the open ones those that a release of theirs matches.
    Matching(Regex),
    /// These, whatever is known of them.
    Builds(Vec<BuildId>),
}

/// What builds are proven with.
pub struct Prover {
    /// What kernels are booted on.
    pub qemu: Qemu,
    /// What the guests have.
    pub programs: Programs,
    /// How packages are had.
    pub fetcher: Fetcher,
    /// Guests at a time.
    pub jobs: usize,
}

/// What became of a build.
#[derive(Debug)]
pub struct Tried {
    /// Which one.
    pub build_id: BuildId,
    /// The kernels it is known as, a few.
    pub name: String,
    /// The proof, which is stored; an error where there is none.
    pub outcome: anyhow::Result<Proof>,
    /// How long it took, from the packages on.
    pub took: Duration,
}

/// How many came to what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// With a proof, by its result.
    pub proofs: BTreeMap<ProofResult, usize>,
    /// Without one: nothing is stored of them.
    pub failed: usize,
}

impl Tally {
    /// How many have this result.
    pub fn of(&self, result: ProofResult) -> usize {
        self.proofs.get(&result).copied().unwrap_or(0)
    }
}

/// The builds of a selection, by build-id.
pub fn select(store: &Store, selection: &Selection) -> anyhow::Result<Vec<Provable>> {
    let mut all = store.provable()?;
    let is_open = |build: &Provable| matches!(build.proof, None | Some(ProofResult::NotBootable));
    match selection {
        Selection::Open => all.retain(is_open),
        Selection::New => all.retain(|build| build.proof.is_none()),
        Selection::Matching(pattern) => all.retain(|build| {
            is_open(build) && build.kernels.iter().any(|(_, release)| pattern.is_match(release))
        }),
        Selection::Builds(wanted) => {
            let known: BTreeSet<&BuildId> = all.iter().map(|build| &build.build_id).collect();
            if let Some(missing) = wanted.iter().find(|id| !known.contains(id)) {
                bail!(
                    "{} has no plan of build {missing}; `nfdrop-indexer list` shows what it has",
                    store.path().display()
                );
            }
            all.retain(|build| wanted.contains(&build.build_id));
        }
    }
    Ok(all)
}

impl Prover {
    /// Proves these builds, and stores each proof as soon as it is there: stopped anywhere, what is stored
    /// stays, and the next run does the rest. `tell` hears of each.
    pub fn run(
        &self,
        store: &Store,
        builds: &[Provable],
        tell: impl Fn(&Tried) + Sync,
    ) -> anyhow::Result<Tally> {
        let runtime = Runtime::new().context("no runtime for downloads")?;
        let waiting = Mutex::new(builds.iter());
        let tally = Mutex::new(Tally::default());
        let work = || {
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(build) = next else { return };
                let begun = Instant::now();
                let outcome = self.one(store, &runtime, build);
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                match &outcome {
                    Ok(proof) => *tally.proofs.entry(proof.result).or_default() += 1,
                    Err(_) => tally.failed += 1,
                }
                drop(tally);
                let (build_id, name) = (build.build_id.clone(), name(build));
                tell(&Tried { build_id, name, outcome, took: begun.elapsed() });
            }
        };
        thread::scope(|scope| {
            // QEMU ends with the thread that started it, which waits for it.
            for _ in 0..self.jobs.clamp(1, builds.len().max(1)) {
                scope.spawn(work);
            }
        });
        Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn one(&self, store: &Store, runtime: &Runtime, build: &Provable) -> anyhow::Result<Proof> {
        let id = &build.build_id;
        let bytes = store.record(id)?.context("it is no longer in the database")?;
        let plan = Record::parse_canonical(&bytes)?.plan.context("it no longer has a plan")?;
        let packages = self.packages(runtime, &store.package_sets(id)?)?;
        let kernel = Kernel::read(packages.iter().map(PathBuf::as_path))?;
        let proof = guest::prove(&self.qemu, &kernel, &self.programs, &plan)?;
        store.put_proof(&proof)?;
        Ok(proof)
    }

    /// The packages of the first set that can be had, checked.
    fn packages(&self, runtime: &Runtime, sets: &[PackageSet]) -> anyhow::Result<Vec<PathBuf>> {
        let mut first = None;
        for set in sets {
            match self.set(runtime, set) {
                Ok(paths) => return Ok(paths),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| {
            anyhow::anyhow!("where its packages are is not known; crawl again, which records it")
        }))
    }

    fn set(&self, runtime: &Runtime, set: &PackageSet) -> anyhow::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for package in &set.packages {
            let sha256 = package.sha256.as_deref().and_then(hex::decode);
            let sha256 = sha256.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let sha256 = sha256.with_context(|| {
                format!("the hash of {} is not known; crawl again, which records it", package.name)
            })?;
            paths.push(self.package(runtime, package, sha256)?);
        }
        Ok(paths)
    }

    /// A package from the first place that has it.
    fn package(
        &self,
        runtime: &Runtime,
        package: &SetPackage,
        sha256: [u8; 32],
    ) -> anyhow::Result<PathBuf> {
        let mut first = None;
        for url in &package.urls {
            let fetch = self.fetcher.by_hash(url, sha256, MAX_PACKAGE, &Silent);
            match runtime.block_on(fetch) {
                Ok(path) => return Ok(path),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.context("a package without a place")?.into())
    }
}

/// The kernels that a build is known as: one, and how many more.
fn name(build: &Provable) -> String {
    match &build.kernels[..] {
        [] => "a build without a package".to_owned(),
        [(distro, release)] => format!("{distro} {release}"),
        [(distro, release), more @ ..] => format!("{distro} {release} and {} more", more.len()),
    }
}

/// The client and nft, as files of a guest.
pub fn programs(client: &Path, nft: &Path) -> Result<Programs, super::programs::ProgramError> {
    let mut programs = Programs::default();
    super::programs::add(&mut programs.0, client, "usr/bin/nfdrop-client")?;
    super::programs::add(&mut programs.0, nft, "usr/sbin/nft")?;
    Ok(programs)
}
