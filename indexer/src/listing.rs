//! What is in a database, for people and for `cut`: a line per build, the newest series first.

use crate::source::version::Version;
use nfdrop_db::{
    BuildId, Event, Plan, Reason, Record, Store, StoreError,
    store::{Cursor, KernelFilter},
};
use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    fmt::Write as _,
};

/// Kernels read at a time.
const PAGE: usize = 1000;

/// A build, and the releases that it is known as.
struct Build {
    id: BuildId,
    reason: Option<Reason>,
    /// The newest first.
    releases: Vec<String>,
}

/// All builds, in the order of the newest release that each is known as.
fn builds(store: &Store) -> Result<Vec<Build>, StoreError> {
    let (mut builds, mut known): (Vec<Build>, HashMap<BuildId, usize>) = Default::default();
    let mut after: Option<Cursor> = None;
    loop {
        let page = store.kernels(&KernelFilter::default(), after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(builds) };
        after = Some(last.clone().into());
        for row in page {
            match known.entry(row.build_id) {
                Entry::Occupied(entry) => {
                    let releases = &mut builds[*entry.get()].releases;
                    // Several distributions may have it.
                    if !releases.contains(&row.release) {
                        releases.push(row.release);
                    }
                }
                Entry::Vacant(entry) => {
                    let (id, releases) = (entry.key().clone(), vec![row.release]);
                    entry.insert(builds.len());
                    builds.push(Build { id, reason: row.reason, releases });
                }
            }
        }
    }
}

/// The builds of a database in columns: build-id, release, status, and where the plan's probes are.
/// Kernels that never got to a build-id follow, with a dash for it.
pub fn listing(store: &Store) -> Result<String, StoreError> {
    let mut rows =
        vec![["build-id", "release", "status", "rule drop", "policy drop"].map(str::to_owned)];
    for build in builds(store)? {
        let record = store.record(&build.id)?;
        // What cannot be read is the server's to report; here it has no probes.
        let plan = record.and_then(|bytes| Record::parse_canonical(&bytes).ok()?.plan);
        let probes = |event| plan.as_ref().map(|plan| probes(plan, event)).unwrap_or_default();
        rows.push([
            build.id.to_string(),
            build.releases.join(","),
            build.reason.map_or("resolved", Reason::name).to_owned(),
            probes(Event::RuleDrop),
            probes(Event::PolicyDrop),
        ]);
    }
    let mut failures = store.failures()?;
    failures.sort_by_cached_key(|failure| Reverse(Version::dpkg(failure.release.as_str())));
    // Once, however many suites list it.
    failures.dedup_by(|a, b| (&a.release, a.reason) == (&b.release, b.reason));
    rows.extend(failures.into_iter().map(|failure| {
        let none = String::new;
        ["-".to_owned(), failure.release, failure.reason.to_string(), none(), none()]
    }));
    Ok(columns(&rows))
}

/// `+0x3fe optimized`, and the conditions of those that have some.
fn probes(plan: &Plan, event: Event) -> String {
    let mut text = String::new();
    for probe in plan.probes.iter().filter(|probe| probe.event == event) {
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}{} {}", probe.offset, probe.cost);
        for (number, condition) in probe.when.iter().enumerate() {
            let _ = write!(text, "{}{condition}", if number == 0 { " if " } else { " and " });
        }
    }
    text
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::{
        Condition, Location, Reg, sample,
        store::{KernelOutcome, Outcome},
    };

    #[test]
    fn the_newest_series_comes_first_and_failures_last() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create_or_open(directory.path().join("db.sqlite")).unwrap();
        let id = |byte| BuildId::from_bytes(&[byte; 4]).unwrap();
        let mut conditional = sample::resolved(id(2));
        let probes = &mut conditional.plan.as_mut().unwrap().probes;
        let verdict = Condition { value: Location::reg(Reg::Rdx), mask: 0xff, equals: 0 };
        probes[0].when = vec![verdict];
        let failure = |suite: &str| {
            let KernelOutcome { mut kernel, indexed_at, .. } =
                sample::kernel(sample::resolved(id(4)), "7.0.1-cloud-amd64");
            suite.clone_into(&mut kernel.suite);
            let reason = Reason::IncompletePackageSet;
            let (detail, analyzer) = ("no modules".to_owned(), "0.1.0".to_owned());
            let outcome = Outcome::Failed { reason, detail, analyzer };
            KernelOutcome { kernel, outcome, indexed_at }
        };
        for outcome in [
            sample::kernel(conditional, "5.10.0-46-cloud-amd64"),
            sample::kernel(sample::resolved(id(1)), "6.12.117+deb13-cloud-amd64"),
            sample::kernel(sample::resolved(id(1)), "6.8.1-cloud-amd64"),
            failure("sid"),
            failure("forky"),
            sample::kernel(sample::unresolved(id(3)), "6.9.7-cloud-amd64"),
        ] {
            store.put_kernel(&outcome).unwrap();
        }
        insta::assert_snapshot!(listing(&store).unwrap(), @"
        build-id  release                                       status                  rule drop                              policy drop
        01010101  6.12.117+deb13-cloud-amd64,6.8.1-cloud-amd64  resolved                +0x3fe optimized                       +0x5bc optimized
        03030303  6.9.7-cloud-amd64                             no_site
        02020202  5.10.0-46-cloud-amd64                         resolved                +0x3fe optimized if rdx & 0xff == 0x0  +0x5bc optimized
        -         7.0.1-cloud-amd64                             incomplete_package_set
        ");
    }
}
