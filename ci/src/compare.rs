//! Two inventories, and what is between them.

use crate::finding::{Finding, Kind, Subject};
use nfdrop_db::{
    BuildId, Permanence, ProofResult, Reason, Record,
    store::{Failure, Held, Inventory, Source},
    withdrawal::analyzer_rank,
};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// What was found, and what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The worst kinds first, then by subject.
    pub findings: Vec<Finding>,
    /// Builds that are new and have a plan, with the kernels they are known as.
    pub new_resolved: Vec<Subject>,
    /// Builds that had no plan and have one.
    pub now_resolved: Vec<Subject>,
    /// Suites that were read, and list about what they did.
    pub sound_sources: Vec<Subject>,
    /// Builds whose plan was proven on their kernel.
    pub booted: usize,
    /// Builds whose plan is the same, found again by another analyzer.
    pub proven_again: usize,
    /// Builds, and of those with a plan.
    pub builds: (usize, usize),
    /// Builds of the baseline, and of those with a plan; `None`: there is no baseline.
    pub before: Option<(usize, usize)>,
    /// Builds and kernels that have no plan, as in the baseline.
    pub still_unresolved: usize,
}

/// Compares what there is with what there was. Without a baseline all is new. `require_proof`: a new build with
/// a plan has to have been booted.
pub fn compare(now: &Inventory, baseline: Option<&Inventory>, require_proof: bool) -> Comparison {
    let nothing = Inventory::default();
    let before = baseline.unwrap_or(&nothing);
    let mut all =
        Comparison { builds: counts(now), before: baseline.map(counts), ..Comparison::default() };
    builds(&mut all, now, before);
    proofs(&mut all, now, before, require_proof);
    kernels(&mut all, now, before);
    sources(&mut all, &now.sources, &before.sources);
    let worst = |finding: &Finding| std::cmp::Reverse(finding.kind.outcome());
    all.findings.sort_by(|a, b| (worst(a), a).cmp(&(worst(b), b)));
    all
}

fn counts(inventory: &Inventory) -> (usize, usize) {
    let resolved = inventory.builds.values().filter(|held| held.reason.is_none()).count();
    (inventory.builds.len(), resolved)
}

fn subject(id: &BuildId, held: &Held) -> Subject {
    let kernels: BTreeSet<String> =
        held.packages.iter().map(|p| name(&p.distro, &p.release)).collect();
    let (id, body) = (id.clone(), held.body.clone());
    Subject::Build { id, body, kernels: kernels.into_iter().collect() }
}

/// As it may be shown: names come from packages.
fn name(distro: &str, rest: &str) -> String {
    Record::clean_detail(&format!("{distro} {rest}"))
}

fn because(reason: Reason, detail: Option<&String>) -> String {
    match detail {
        Some(detail) if !detail.is_empty() => format!("{reason}: {detail}"),
        _ => reason.to_string(),
    }
}

fn builds(all: &mut Comparison, now: &Inventory, before: &Inventory) {
    let find = |all: &mut Comparison, kind, subject, reason, detail: String| {
        all.findings.push(Finding { kind, subject, reason, detail });
    };
    for (id, held) in &now.builds {
        let subject = || subject(id, held);
        let Some(old) = before.builds.get(id) else {
            match held.reason {
                None => all.new_resolved.push(subject()),
                Some(reason) => {
                    let kind = match reason.permanence() {
                        Permanence::Permanent => Kind::NewUnresolved,
                        Permanence::Passing => Kind::UnfetchedKernel,
                    };
                    let detail = because(reason, held.detail.as_ref());
                    find(all, kind, subject(), Some(reason), detail);
                }
            }
            continue;
        };
        match (old.reason, held.reason) {
            (None, None) if old.attaches != held.attaches => {
                let (new, before) = (&held.analyzer, &old.analyzer);
                let newer = if analyzer_rank(new) > analyzer_rank(before) { "newer " } else { "" };
                let detail = format!(
                    "the {newer}analyzer {new} found another plan than {before} had, evidence apart"
                );
                find(all, Kind::ChangedPlan, subject(), None, detail);
            }
            (None, None) => all.proven_again += usize::from(old.analyzer != held.analyzer),
            (None, Some(reason)) => {
                let detail = because(reason, held.detail.as_ref());
                find(all, Kind::LostPlan, subject(), Some(reason), detail);
            }
            (Some(_), None) => all.now_resolved.push(subject()),
            (Some(_), Some(_)) => all.still_unresolved += 1,
        }
        if old.signed && !held.signed {
            let detail = "the baseline has one".to_owned();
            find(all, Kind::LostSignature, subject(), None, detail);
        }
        let mut lost = old.packages.difference(&held.packages);
        if let Some(first) = lost.next() {
            let text =
                format!("{} {} of {} {}", first.package, first.version, first.distro, first.suite);
            let more = match lost.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let detail = Record::clean_detail(&format!("{text}{more}"));
            find(all, Kind::LostPackage, subject(), None, detail);
        }
    }
    for (id, old) in &before.builds {
        if !now.builds.contains_key(id) {
            let had = if old.reason.is_none() { "it had a plan" } else { "it had no plan" };
            find(all, Kind::LostBuild, subject(id, old), None, had.to_owned());
        }
    }
}

/// What booting showed. A contradiction counts whatever was known before; that a kernel cannot be booted, or was
/// not, where that is new.
fn proofs(all: &mut Comparison, now: &Inventory, before: &Inventory, require_proof: bool) {
    for (id, held) in now.builds.iter().filter(|(_, held)| held.reason.is_none()) {
        let old = before.builds.get(id).filter(|old| old.reason.is_none());
        let proof = held.proof.as_ref();
        let known = old.and_then(|old| old.proof.as_ref()).map(|proof| proof.result);
        let (kind, detail) = match proof.map(|proof| (proof.result, proof.detail.clone())) {
            Some((ProofResult::Proven, _)) => {
                all.booted += 1;
                continue;
            }
            Some((ProofResult::Contradicted, detail)) => (Kind::ContradictedPlan, detail),
            Some((ProofResult::NotBootable, _)) if known == Some(ProofResult::NotBootable) => {
                continue;
            }
            Some((ProofResult::NotBootable, detail)) => (Kind::NotBootable, detail),
            None if require_proof && (old.is_none() || known == Some(ProofResult::Proven)) => {
                let had = if known.is_some() { "the baseline has a proof" } else { "it is new" };
                (Kind::Unproven, Some(had.to_owned()))
            }
            None => continue,
        };
        let detail = Record::clean_detail(&detail.unwrap_or_default());
        let subject = subject(id, held);
        all.findings.push(Finding { kind, subject, reason: None, detail });
    }
}

/// A kernel without a build: distribution, release and version, whichever suites list it.
type Key<'a> = (&'a str, &'a str, &'a str);

/// Of several suites the one that says most: a reason that stays.
fn failed(failures: &[Failure]) -> BTreeMap<Key<'_>, &Failure> {
    let mut all: BTreeMap<Key, &Failure> = BTreeMap::new();
    for failure in failures {
        match all.entry((&failure.distro, &failure.release, &failure.version)) {
            Entry::Vacant(place) => {
                place.insert(failure);
            }
            Entry::Occupied(mut place) => {
                if is_passing(place.get()) && !is_passing(failure) {
                    place.insert(failure);
                }
            }
        }
    }
    all
}

fn is_passing(failure: &Failure) -> bool {
    failure.reason.permanence() == Permanence::Passing
}

fn kernels(all: &mut Comparison, now: &Inventory, before: &Inventory) {
    let (current, old) = (failed(&now.failures), failed(&before.failures));
    let subject = |&(distro, release, version): &Key| Subject::Kernel {
        kernel: name(distro, release),
        version: Record::clean_detail(version),
    };
    for (key, failure) in &current {
        if old.get(key).is_some_and(|old| is_passing(old) == is_passing(failure)) {
            all.still_unresolved += 1;
            continue;
        }
        let kind = if is_passing(failure) { Kind::UnfetchedKernel } else { Kind::NewUnresolved };
        let clean = Record::clean_detail(&failure.detail);
        let detail = because(failure.reason, Some(&clean));
        let reason = Some(failure.reason);
        all.findings.push(Finding { kind, subject: subject(key), reason, detail });
    }
    let packages = now.builds.values().flat_map(|held| &held.packages);
    let built: BTreeSet<(&str, &str)> =
        packages.map(|p| (p.distro.as_str(), p.release.as_str())).collect();
    for (key @ (distro, release, _), failure) in &old {
        if !current.contains_key(key) && !built.contains(&(distro, release)) {
            let detail = format!("it had no plan ({})", failure.reason);
            let reason = Some(failure.reason);
            all.findings.push(Finding {
                kind: Kind::LostKernel,
                subject: subject(key),
                reason,
                detail,
            });
        }
    }
}

fn sources(all: &mut Comparison, now: &[Source], before: &[Source]) {
    let key = |source: &Source| (source.distro.clone(), source.suite.clone(), source.arch.clone());
    let current: BTreeMap<_, &Source> = now.iter().map(|source| (key(source), source)).collect();
    let old: BTreeMap<_, &Source> = before.iter().map(|source| (key(source), source)).collect();
    let subject = |source: &Source| Subject::Source {
        source: name(&source.distro, &source.suite),
        arch: Record::clean_detail(&source.arch),
    };
    for (key, source) in &current {
        let had = old.get(key).copied();
        let kernels = had.map_or(0, |had| had.kernels);
        let found = if source.kernels == 0 && kernels > 0 {
            let detail = format!("no mirror offers it any more, it listed {kernels} kernels");
            Some((Kind::LostSource, None, detail))
        } else if source.has_shrunk(kernels) {
            let detail = format!("it lists {} kernels, it listed {kernels}", source.kernels);
            Some((Kind::ShrunkSource, None, detail))
        } else if let Some((reason, detail)) = &source.failure
            && had != Some(*source)
        {
            let detail = because(*reason, Some(&Record::clean_detail(detail)));
            Some((Kind::UnreadSource, Some(*reason), detail))
        } else {
            None
        };
        match found {
            Some((kind, reason, detail)) => {
                all.findings.push(Finding { kind, subject: subject(source), reason, detail });
            }
            None => all.sound_sources.push(subject(source)),
        }
    }
    for (key, source) in &old {
        if !current.contains_key(key) {
            let detail = format!("it was not crawled, it listed {} kernels", source.kernels);
            all.findings.push(Finding {
                kind: Kind::LostSource,
                subject: subject(source),
                reason: None,
                detail,
            });
        }
    }
}
