//! Reading: records as stored, lists for people, and what a crawl can skip.

use super::{
    Kernel, Source, Store, StoreError,
    column::{optional, required, seconds, wrong},
    valid::set_sha256,
};
use crate::{
    BuildId, Permanence, Provenance, Reason, Record,
    body::{Body, BodyOutcome, InputKey, PlanTemplate},
    withdrawal::analyzer_rank,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::BTreeMap;

/// A stored outcome that needs no work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// These packages hold this build, and its record is up to date.
    Build(BuildId),
    /// These packages never get to a build-id.
    Failed(Reason),
}

/// A build as it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its identity.
    pub build_id: BuildId,
    /// Grows with every write to any build.
    pub changed: i64,
    /// The canonical bytes of its record.
    pub record: Vec<u8>,
}

/// A kernel that never got to a build-id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// `debian`.
    pub distro: String,
    /// `bookworm-security`.
    pub suite: String,
    /// As `uname -r` prints it.
    pub release: String,
    /// Of the packages.
    pub version: String,
    /// `amd64`.
    pub arch: String,
    /// Why.
    pub reason: Reason,
    /// The particulars, for people.
    pub detail: String,
    /// Version of the analyzer.
    pub analyzer: String,
    /// Seconds since 1970 at which it was first seen.
    pub indexed_at: u64,
}

/// How much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packages that hold a build, once per suite.
    pub packages: u64,
    /// Builds with a plan.
    pub resolved: u64,
    /// Builds without one.
    pub unresolved: BTreeMap<Reason, u64>,
    /// Distinct bodies and layouts.
    pub bodies: u64,
    /// Kernels that never got to a build-id.
    pub failures: BTreeMap<Reason, u64>,
    /// Suites.
    pub sources: u64,
}

impl Store {
    /// The canonical bytes of a build's record as they were stored; at most 1 MiB, whatever the file
    /// says. They were checked when they were written; [`Store::check`] checks them again.
    pub fn record(&self, build_id: &BuildId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT record FROM builds WHERE build_id = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_row([build_id.to_string()], |row| row.get(0)).optional()
        })
    }

    /// The signature over the bytes of [`Store::record`]; `None` where it was stored without a key.
    pub fn signature(&self, build_id: &BuildId) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT signature FROM builds WHERE build_id = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_row([build_id.to_string()], |row| row.get(0)).optional();
            found.map(Option::flatten)
        })
    }

    /// Builds that were written after the one with this [`Changed::changed`], in the order they were
    /// written; at most `limit`. 0 is before all but what an older version of this program wrote, which
    /// has 0 too: whoever has nothing yet begins at -1, and goes on behind the last build-id.
    pub fn changed_after(
        &self,
        changed: i64,
        build_id: Option<&BuildId>,
        limit: usize,
    ) -> Result<Vec<Changed>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT build_id, changed, record FROM builds \
                       WHERE (changed, build_id) > (?1, ?2) ORDER BY changed, build_id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            // Above every build-id: none means that all with this number are known.
            let after = build_id.map_or_else(|| "~".to_owned(), BuildId::to_string);
            let rows = statement.query_map(params![changed, after, limit as i64], |row| {
                Ok(Changed {
                    build_id: required(row, 0)?,
                    changed: row.get(1)?,
                    record: row.get(2)?,
                })
            })?;
            rows.collect()
        })
    }

    /// The packages that hold a build, sorted; empty where it is not known.
    pub fn provenance(&self, build_id: &BuildId) -> Result<Vec<Provenance>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT distro, suite, package, version, release, arch, url, sha256, \
                       signed_by, vmlinux_build_id, indexed_at, transport_only FROM packages \
                       WHERE build_id = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([build_id.to_string()], |row| {
                Ok(Provenance {
                    distro: row.get(0)?,
                    suite: row.get(1)?,
                    package: row.get(2)?,
                    version: row.get(3)?,
                    release: row.get(4)?,
                    arch: row.get(5)?,
                    url: row.get(6)?,
                    sha256: row.get(7)?,
                    signed_by: row.get(8)?,
                    vmlinux_build_id: optional(row, 9)?,
                    indexed_at: seconds(row, 10)?,
                    transport_only: row.get(11)?,
                })
            })?;
            let mut all = rows.collect::<Result<Vec<_>, _>>()?;
            all.sort();
            Ok(all)
        })
    }

    /// Of each of these releases all builds that are known as it, ascending.
    pub fn builds_of(&self, releases: &[String]) -> Result<Vec<Vec<BuildId>>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT DISTINCT build_id FROM packages WHERE release = ?1 ORDER BY build_id";
            let mut statement = connection.prepare_cached(sql)?;
            let of = |release: &String| {
                let rows = statement.query_map([release], |row| required(row, 0))?;
                rows.collect()
            };
            releases.iter().map(of).collect()
        })
    }

    /// Kernels that never got to a build-id, sorted.
    pub fn failures(&self) -> Result<Vec<Failure>, StoreError> {
        self.read(failures)
    }

    /// What the suites looked like when they were last crawled, sorted.
    pub fn sources(&self) -> Result<Vec<Source>, StoreError> {
        self.read(sources)
    }

    /// How much there is.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|connection| {
            let one = |sql: &str| connection.query_row(sql, [], |row| seconds(row, 0));
            let by_reason = |sql: &str| -> rusqlite::Result<BTreeMap<Reason, u64>> {
                let mut statement = connection.prepare(sql)?;
                let rows =
                    statement.query_map([], |row| Ok((required(row, 0)?, seconds(row, 1)?)))?;
                rows.collect()
            };
            Ok(Counts {
                packages: one("SELECT count(*) FROM packages")?,
                resolved: one("SELECT count(*) FROM builds WHERE status = 'resolved'")?,
                unresolved: by_reason(
                    "SELECT reason, count(*) FROM builds WHERE reason IS NOT NULL GROUP BY reason",
                )?,
                bodies: one("SELECT count(*) FROM bodies")?,
                failures: by_reason("SELECT reason, count(*) FROM failures GROUP BY reason")?,
                sources: one("SELECT count(*) FROM sources")?,
            })
        })
    }

    /// What the resolver, of at least this version, found for this input.
    pub fn body(&self, key: &InputKey, analyzer: &str) -> Result<Option<Body>, StoreError> {
        let body = self.read(|connection| body(connection, key))?;
        Ok(body.filter(|body| analyzer_rank(&body.analyzer) >= analyzer_rank(analyzer)))
    }

    /// The outcome of exactly these packages, wherever they were listed, unless there is work to do:
    /// it is not known, may pass ([`Reason::permanence`]), or is of an older analyzer.
    pub fn known(&self, kernel: &Kernel, accept: Accept<'_>) -> Result<Option<Known>, StoreError> {
        let set = set_sha256(kernel)?;
        let known = self.read(|connection| known(connection, &set, kernel, accept))?;
        Ok(known.map(|(known, _)| known))
    }
}

pub(super) fn failures(connection: &Connection) -> rusqlite::Result<Vec<Failure>> {
    let sql = "SELECT distro, suite, release, version, arch, reason, detail, analyzer, \
               indexed_at FROM failures ORDER BY distro, suite, release, version, arch";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], failure)?;
    rows.collect()
}

/// Of a row of `distro, suite, release, version, arch, reason, detail, analyzer, indexed_at`.
pub(super) fn failure(row: &Row<'_>) -> rusqlite::Result<Failure> {
    Ok(Failure {
        distro: row.get(0)?,
        suite: row.get(1)?,
        release: row.get(2)?,
        version: row.get(3)?,
        arch: row.get(4)?,
        reason: required(row, 5)?,
        detail: row.get(6)?,
        analyzer: row.get(7)?,
        indexed_at: seconds(row, 8)?,
    })
}

pub(super) fn sources(connection: &Connection) -> rusqlite::Result<Vec<Source>> {
    let sql = "SELECT distro, suite, arch, index_sha256, kernels, signed_by, reason, \
               detail, stale_since, crawled_at FROM sources ORDER BY distro, suite, arch";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let reason: Option<Reason> = optional(row, 6)?;
        let detail: Option<String> = row.get(7)?;
        let stale: Option<i64> = row.get(8)?;
        Ok(Source {
            distro: row.get(0)?,
            suite: row.get(1)?,
            arch: row.get(2)?,
            index_sha256: row.get(3)?,
            kernels: seconds(row, 4)?,
            signed_by: row.get(5)?,
            failure: reason.map(|reason| (reason, detail.unwrap_or_default())),
            stale_since: stale.map(|_| seconds(row, 8)).transpose()?,
            crawled_at: seconds(row, 9)?,
        })
    })?;
    rows.collect()
}

/// Which known outcomes need no work again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept<'a> {
    /// Of at least this analyzer.
    pub analyzer: &'a str,
    /// What nobody vouched for too.
    pub unsigned: bool,
    /// What was made of parts of packages too.
    pub transport_only: bool,
}

/// Where a known outcome was found, so that it can be noted for another suite.
pub(super) enum KnownAs {
    Package(KnownPackage),
    Failure { detail: String, analyzer: String },
}

/// What the package of a known build is known to be.
pub(super) struct KnownPackage {
    pub(super) name: String,
    pub(super) vmlinux: Option<String>,
    /// As the package itself says; an index may only guess it.
    pub(super) release: String,
    pub(super) sha256: String,
    pub(super) signed_by: Option<String>,
    pub(super) transport_only: bool,
}

pub(super) fn known(
    connection: &Connection,
    set: &str,
    kernel: &Kernel,
    accept: Accept<'_>,
) -> rusqlite::Result<Option<(Known, KnownAs)>> {
    let Accept { analyzer, unsigned, transport_only } = accept;
    if set.is_empty() {
        return Ok(None);
    }
    let done = |stored: &str, reason: Option<Reason>| {
        analyzer_rank(stored) >= analyzer_rank(analyzer)
            && reason.is_none_or(|reason| reason.permanence() == Permanence::Permanent)
    };
    let mut statement = connection.prepare_cached(
        "SELECT build_id, builds.analyzer, builds.reason, package, vmlinux_build_id, release, \
         sha256, signed_by, transport_only, record \
         FROM packages JOIN builds USING (build_id) WHERE set_sha256 = ?1 \
         AND (?2 OR (distro = ?3 AND suite = ?4 AND version = ?5 AND (?6 OR signed_by NOT NULL))) \
         AND (?7 OR transport_only = 0) ORDER BY build_id, package, vmlinux_build_id DESC, sha256 LIMIT 1",
    )?;
    // Whose own index vouches for these hashes has what anybody found in them. Else it was said only of
    // this very listing that the packages are what they are listed as.
    let (vouched, release) = (kernel.signed_by.is_some(), kernel.release.as_str());
    let listing = (&kernel.distro, &kernel.suite, &kernel.version);
    let asked = (set, vouched, listing.0, listing.1, listing.2, unsigned, transport_only);
    let build = statement.query_row(asked, |row| {
        let stored: String = row.get(1)?;
        let package = KnownAs::Package(KnownPackage {
            name: row.get(3)?,
            vmlinux: row.get(4)?,
            release: row.get(5)?,
            sha256: row.get(6)?,
            signed_by: row.get(7)?,
            transport_only: row.get(8)?,
        });
        // A damaged one is work to do: only so does a crawl mend it.
        let sound = Record::parse_canonical(row.get_ref(9)?.as_blob()?).is_ok();
        let done = sound && done(&stored, optional(row, 2)?);
        Ok((done, Known::Build(required(row, 0)?), package))
    });
    if let Some((done, known, found)) = build.optional()? {
        return Ok(done.then_some((known, found)));
    }
    let mut statement = connection.prepare_cached(
        "SELECT reason, detail, analyzer FROM failures WHERE set_sha256 = ?1 AND release = ?2 \
         ORDER BY distro, suite, release, version, arch",
    )?;
    let mut rows = statement.query([set, release])?;
    while let Some(row) = rows.next()? {
        let (reason, stored): (Reason, String) = (required(row, 0)?, row.get(2)?);
        if done(&stored, Some(reason)) {
            let found = KnownAs::Failure { detail: row.get(1)?, analyzer: stored };
            return Ok(Some((Known::Failed(reason), found)));
        }
    }
    Ok(None)
}

pub(super) fn body(connection: &Connection, key: &InputKey) -> rusqlite::Result<Option<Body>> {
    let sql = "SELECT plan, reason, detail, analyzer FROM bodies WHERE input_key = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let body = statement.query_row([&key.0[..]], |row| {
        let plan: Option<Vec<u8>> = row.get(0)?;
        let outcome = match plan {
            Some(bytes) => {
                let template = PlanTemplate::parse(&bytes).map_err(|error| wrong(0, error))?;
                BodyOutcome::Plan(Box::new(template))
            }
            None => BodyOutcome::Unresolved { reason: required(row, 1)?, detail: row.get(2)? },
        };
        Ok(Body { outcome, analyzer: row.get(3)? })
    });
    body.optional()
}
