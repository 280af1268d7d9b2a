//! Aggregates: of every distribution, series and flavour, how many builds there are and how good their
//! plans are.

use super::{
    Store, StoreError,
    column::{required, wrong},
};
use crate::{Cost, HexBytes, KernelRelease, Probe, Reason, Record, Series};
use rusqlite::Row;
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
};

/// How much there is of every distribution, series and flavour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By distribution, the newest series first.
    pub groups: Vec<Group>,
    /// Over all; a build counts once.
    pub total: Tally,
}

/// What there is of one series and flavour of a distribution. A build that is known as several releases
/// counts in the group of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `debian`.
    pub distro: String,
    /// `6.12`.
    pub series: String,
    /// `cloud-amd64`.
    pub flavour: String,
    /// How much.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Numbers of builds, unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// With a build-id.
    pub builds: u64,
    /// Of those, with a plan.
    pub resolved: u64,
    /// Distinct bodies of the function: plans by their `body_sha256`, builds without one by what the
    /// resolver read.
    pub bodies: u64,
    /// With a plan all of whose probes are where only drops come by.
    pub drop_only: u64,
    /// With a plan all of whose probes the kernel replaces by jumps.
    pub optimizable: u64,
    /// With a plan that was proven on their kernel.
    pub booted: u64,
    /// Without a plan. Kernels that never got to a build-id are in here, and not in `builds`; each
    /// release and version once, however many suites list it.
    pub unresolved: BTreeMap<Reason, u64>,
}

/// What a tally wants to know of a build.
#[derive(Debug, Clone)]
struct Traits {
    reason: Option<Reason>,
    body: Option<HexBytes>,
    drop_only: bool,
    optimizable: bool,
}

impl Traits {
    fn of(record: Record) -> Self {
        let plan = record.plan.as_ref();
        let all =
            |holds: fn(&Probe) -> bool| plan.is_some_and(|plan| plan.probes.iter().all(holds));
        Self {
            reason: record.reason,
            drop_only: all(|probe| probe.when.is_empty()),
            optimizable: all(|probe| probe.cost == Cost::Optimized),
            body: record.plan.map(|plan| plan.body_sha256),
        }
    }
}

/// A tally, and the bodies that are in it.
#[derive(Debug, Default)]
struct Counter {
    tally: Tally,
    bodies: HashSet<HexBytes>,
}

impl Counter {
    fn build(&mut self, traits: &Traits, booted: bool) {
        self.tally.builds += 1;
        self.tally.booted += u64::from(booted);
        self.bodies.extend(traits.body.clone());
        match traits.reason {
            Some(reason) => self.reason(reason),
            None => self.tally.resolved += 1,
        }
        self.tally.drop_only += u64::from(traits.drop_only);
        self.tally.optimizable += u64::from(traits.optimizable);
    }

    fn reason(&mut self, reason: Reason) {
        *self.tally.unresolved.entry(reason).or_default() += 1;
    }

    fn done(self) -> Tally {
        Tally { bodies: self.bodies.len() as u64, ..self.tally }
    }
}

/// The group of a release, in the order of groups: 6.12 before 6.9, and what is no number last.
type Key = (String, Reverse<Option<Series>>, String, String);

fn key(distro: String, release: &str) -> Key {
    let release = KernelRelease(release);
    let (series, flavour) = (release.series_name().to_owned(), release.flavour().to_owned());
    (distro, Reverse(release.series()), series, flavour)
}

/// Of a row of `build_id, input_key, analyzer, record`.
fn traits(
    row: &Row<'_>,
    known: &mut HashMap<(Vec<u8>, String), Traits>,
) -> rusqlite::Result<Traits> {
    let (input, analyzer): (Option<Vec<u8>>, String) = (row.get(1)?, row.get(2)?);
    let input = input.map(|input| (input, analyzer));
    if let Some(traits) = input.as_ref().and_then(|input| known.get(input)) {
        return Ok(traits.clone());
    }
    let bytes = row.get_ref(3)?.as_blob()?;
    let record = Record::parse_canonical(bytes).map_err(|error| wrong(3, error))?;
    let mut traits = Traits::of(record);
    if let Some(input) = input {
        traits.body.get_or_insert_with(|| HexBytes(input.0.clone()));
        known.insert(input, traits.clone());
    }
    Ok(traits)
}

impl Store {
    /// Counts builds by distribution, series and flavour. Reads one record at a time, and of each body only the
    /// first, so that memory and time are bounded by a few words per build.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        self.read(|connection| {
            let mut groups: BTreeMap<Key, Counter> = BTreeMap::new();
            let mut total = Counter::default();
            // Builds of one body, analysed by one analyzer, differ in nothing that is counted.
            let mut known = HashMap::new();
            let sql = "SELECT DISTINCT distro, release FROM packages WHERE build_id = ?1";
            let mut releases = connection.prepare(sql)?;
            let mut builds = connection.prepare(
                "SELECT build_id, input_key, analyzer, record, result IS 'proven' \
                     FROM builds LEFT JOIN proofs USING (build_id)",
            )?;
            let mut rows = builds.query([])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(0)?;
                let traits = traits(row, &mut known)?;
                let booted: bool = row.get(4)?;
                total.build(&traits, booted);
                let keys = releases
                    .query_map([id], |row| Ok(key(row.get(0)?, &row.get::<_, String>(1)?)))?;
                for key in keys.collect::<rusqlite::Result<BTreeSet<Key>>>()? {
                    groups.entry(key).or_default().build(&traits, booted);
                }
            }
            let sql = "SELECT DISTINCT distro, release, version, reason FROM failures";
            let mut failures = connection.prepare(sql)?;
            let mut rows = failures.query([])?;
            while let Some(row) = rows.next()? {
                let (release, reason): (String, Reason) = (row.get(1)?, required(row, 3)?);
                total.reason(reason);
                groups.entry(key(row.get(0)?, &release)).or_default().reason(reason);
            }
            let group = |((distro, _, series, flavour), counter): (Key, Counter)| Group {
                distro,
                series,
                flavour,
                tally: counter.done(),
            };
            Ok(Stats { groups: groups.into_iter().map(group).collect(), total: total.done() })
        })
    }
}
