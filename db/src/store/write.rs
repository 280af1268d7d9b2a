//! Writing: one transaction per kernel, and rules that make its order not matter.
//!
//! Two writes about one build or body can differ: an older analyzer, or the same module seen without
//! its kernel image, which leaves offsets unknown. Each has a rank made of its content alone, and the
//! higher rank stays. That makes writing commutative, associative and idempotent, so any
//! interleaving and any repetition ends with the same content. What may change with time (where a
//! package is fetched, why a fetch failed) is replaced by the latest.
//!
//! A signature belongs to its record, and comes last in the rank: between equal records one that is signed
//! stays over one that is not, and of two keys' the one that sorts higher. Which key all are signed with in
//! the end is not left to that: [`Store::sign_stored`] says it.

use super::{
    Accept, Build, Kernel, KernelOutcome, Known, Outcome, Source, Store, StoreError,
    listing::put_listing,
    proofs::{forget_stale, put_set},
    read::{self, KnownAs},
    signature::put_signature,
    valid::{check_sha256, check_text, set_sha256},
};
use crate::{
    KernelRelease, Plan, Record,
    body::{BodyOutcome, InputKey, PlanTemplate},
    withdrawal::analyzer_rank,
};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::{cmp::Ordering, sync::PoisonError};

impl Store {
    /// Stores what became of a kernel, in one transaction that is on disk when this returns.
    pub fn put_kernel(&self, put: &KernelOutcome) -> Result<(), StoreError> {
        self.put_kernels(std::slice::from_ref(put))
    }

    /// As [`Store::put_kernel`], of several kernels in one transaction.
    pub fn put_kernels(&self, all: &[KernelOutcome]) -> Result<(), StoreError> {
        let mut checked = Vec::with_capacity(all.len());
        for put in all {
            let set = set_sha256(&put.kernel)?;
            let signature = match &put.outcome {
                Outcome::Build(build) => {
                    check_build(&put.kernel, build)?;
                    self.sign(&build.record)
                }
                Outcome::Failed { analyzer, .. } => {
                    let subject = format!("kernel {}", put.kernel.release);
                    check_text(&subject, "analyzer", analyzer)?;
                    None
                }
            };
            checked.push((put, set, signature));
        }
        self.write(|connection| {
            checked.iter().try_for_each(|(put, set, signature)| {
                put_checked(connection, put, set, signature.as_deref())
            })
        })
    }

    /// As [`Store::known`]; what is known is also noted for this kernel's suite, so that there is
    /// nothing left to do for it.
    pub fn put_known(
        &self,
        kernel: &Kernel,
        accept: Accept<'_>,
        indexed_at: u64,
    ) -> Result<Option<Known>, StoreError> {
        let set = set_sha256(kernel)?;
        let time = time(indexed_at);
        self.write(|connection| {
            let Some((known, found)) = read::known(connection, &set, kernel, accept)? else {
                return Ok(None);
            };
            match (&known, found) {
                (Known::Build(id), KnownAs::Package(found)) => {
                    // The kernel's packages are of the same set, so this one is among them.
                    let package = kernel.packages.iter().find(|package| package.name == found.name);
                    if let Some(package) = package {
                        put_set(connection, &set, &kernel.packages)?;
                        put_package(
                            connection,
                            &PackageRow {
                                distro: &kernel.distro,
                                suite: &kernel.suite,
                                package: &found.name,
                                version: &kernel.version,
                                arch: &kernel.arch,
                                sha256: &found.sha256,
                                release: &found.release,
                                url: &package.url,
                                set: &set,
                                signed_by: kernel
                                    .signed_by
                                    .as_ref()
                                    .or(found.signed_by.as_ref())
                                    .map(String::as_str),
                                vmlinux: found.vmlinux.as_deref(),
                                build_id: &id.to_string(),
                                indexed_at: time,
                                transport_only: found.transport_only,
                            },
                        )?;
                    }
                }
                (Known::Failed(reason), KnownAs::Failure { detail, analyzer }) => {
                    let reason = reason.name();
                    put_failure(connection, kernel, &set, reason, &detail, &analyzer, time)?;
                }
                _ => {}
            }
            Ok(Some(known))
        })
    }

    /// Forgets why a kernel failed: its release was a guess, and its packages have told another one.
    pub fn forget_failure(&self, kernel: &Kernel) -> Result<(), StoreError> {
        let Kernel { distro, suite, release, version, arch, .. } = kernel;
        self.write(|connection| {
            connection
                .prepare_cached(
                    "DELETE FROM failures WHERE distro = ?1 AND suite = ?2 AND release = ?3 \
                     AND version = ?4 AND arch = ?5",
                )?
                .execute(params![distro, suite, release, version, arch])?;
            Ok(())
        })
    }

    /// Stores what a suite looked like. Where it could not be read, what its index last said stays,
    /// and [`Source::stale_since`] becomes the time of the first such crawl in a row.
    pub fn put_source(&self, source: &Source) -> Result<(), StoreError> {
        let subject = format!("suite {}", source.suite);
        for (field, text) in
            [("distro", &source.distro), ("suite", &source.suite), ("arch", &source.arch)]
        {
            check_text(&subject, field, text)?;
        }
        if let Some(hash) = &source.index_sha256 {
            check_sha256(&subject, "index_sha256", hash)?;
        }
        if let Some(key) = &source.signed_by {
            check_text(&subject, "signed_by", key)?;
        }
        let (reason, detail) = match &source.failure {
            Some((reason, detail)) => (Some(reason.name()), Some(Record::clean_detail(detail))),
            None => (None, None),
        };
        let crawled_at = time(source.crawled_at);
        let stale_since = reason.map(|_| crawled_at);
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO sources VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                     ON CONFLICT DO UPDATE SET \
                     index_sha256 = iif(excluded.reason IS NULL, excluded.index_sha256, index_sha256), \
                     kernels = iif(excluded.reason IS NULL, excluded.kernels, kernels), \
                     signed_by = iif(excluded.reason IS NULL, excluded.signed_by, signed_by), \
                     reason = excluded.reason, detail = excluded.detail, \
                     stale_since = iif(excluded.reason IS NULL, NULL, \
                                       coalesce(stale_since, excluded.stale_since)), \
                     crawled_at = excluded.crawled_at",
                )?
                .execute(params![
                    source.distro,
                    source.suite,
                    source.arch,
                    source.index_sha256,
                    time(source.kernels),
                    source.signed_by,
                    reason,
                    detail,
                    stale_since,
                    crawled_at,
                ])?;
            Ok(())
        })
    }

    /// Runs `work` in one transaction that is on disk when this returns, or undone.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let Some(writer) = &self.inner.writer else {
            return Err(StoreError::ReadOnly { path: self.path().to_owned() });
        };
        // A panic inside a transaction undid it: the connection is as good as before.
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|cause| StoreError::from_sqlite(self.path(), cause))
    }
}

fn put_checked(
    connection: &Connection,
    put: &KernelOutcome,
    set: &str,
    signature: Option<&str>,
) -> rusqlite::Result<()> {
    let time = time(put.indexed_at);
    match &put.outcome {
        Outcome::Build(build) => {
            let kernel = &put.kernel;
            let whole = kernel.packages.iter().all(|package| !package.transport_only);
            let vouched = kernel.signed_by.is_some() && whole;
            put_build(connection, build, vouched, signature)?;
            put_set(connection, set, &kernel.packages)?;
            let id = build.record.build_id.to_string();
            let vmlinux = build.vmlinux_build_id.as_ref().map(ToString::to_string);
            let vmlinux = vmlinux.as_deref();
            // `check_build` found it, with its hash.
            let package = kernel.packages.iter().find(|p| p.name == build.package);
            let Some((package, sha256)) =
                package.and_then(|package| Some((package, package.sha256.as_deref()?)))
            else {
                return Ok(());
            };
            put_package(
                connection,
                &PackageRow {
                    distro: &kernel.distro,
                    suite: &kernel.suite,
                    package: &package.name,
                    version: &kernel.version,
                    arch: &kernel.arch,
                    sha256,
                    release: &kernel.release,
                    url: &package.url,
                    set,
                    signed_by: kernel.signed_by.as_deref(),
                    vmlinux,
                    build_id: &id,
                    indexed_at: time,
                    transport_only: !whole,
                },
            )
        }
        Outcome::Failed { reason, detail, analyzer } => {
            let detail = Record::clean_detail(detail);
            put_failure(connection, &put.kernel, set, reason.name(), &detail, analyzer, time)
        }
    }
}

/// `vouched`: somebody signed all that the record was made of. A build-id is what whoever makes the
/// object writes into it, so such a record is never replaced by one that nobody vouches for, and
/// replaces those, whatever their ranks.
pub(super) fn put_build(
    connection: &Connection,
    build: &Build,
    vouched: bool,
    signature: Option<&str>,
) -> rusqlite::Result<()> {
    let new = Stored::of(build);
    let sql = "SELECT EXISTS (SELECT 1 FROM packages WHERE build_id = ?1 \
               AND signed_by IS NOT NULL AND transport_only = 0)";
    let id = build.record.build_id.to_string();
    let known_vouched: bool = connection.prepare_cached(sql)?.query_row([&id], |row| row.get(0))?;
    if known_vouched && !vouched {
        return Ok(());
    }
    if let Some(key) = &build.input {
        put_body(connection, key, &new)?;
        if let Some(listing) = &build.listing {
            put_listing(connection, key, listing, &build.analyzer)?;
        }
    }
    let sql = "SELECT record, analyzer, object, arch, input_key, signature FROM builds \
               WHERE build_id = ?1";
    let old = connection.prepare_cached(sql)?.query_row([&id], |row| {
        let record: Vec<u8> = row.get(0)?;
        let signature: Option<String> = row.get(5)?;
        let stored = Stored {
            analyzer: row.get(1)?,
            object: row.get(2)?,
            arch: row.get(3)?,
            input: row.get(4)?,
            // A damaged record ranks lowest, so that the next crawl repairs it.
            parsed: Record::parse_canonical(&record).ok(),
            record,
        };
        Ok((stored, signature))
    });
    if let Some((old, known)) = old.optional()?
        && known_vouched == vouched
    {
        match (old.rank().cmp(&new.rank()), signature) {
            (Ordering::Less, _) => {}
            (Ordering::Equal, Some(signature)) if known.as_deref() < Some(signature) => {
                put_signature(connection, &id, &new.record, signature)?;
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
    let Record { status, reason, detail, .. } = &build.record;
    connection
        .prepare_cached(
            "INSERT INTO builds VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
             (SELECT coalesce(max(changed), 0) + 1 FROM builds)) \
             ON CONFLICT DO UPDATE SET object = excluded.object, arch = excluded.arch, \
             input_key = excluded.input_key, status = excluded.status, reason = excluded.reason, \
             detail = excluded.detail, record = excluded.record, analyzer = excluded.analyzer, \
             signature = excluded.signature, changed = excluded.changed",
        )?
        .execute(params![
            id,
            new.object,
            new.arch,
            new.input,
            status.to_string(),
            reason.map(crate::Reason::name),
            detail,
            new.record,
            new.analyzer,
            signature,
        ])?;
    forget_stale(connection, &build.record.build_id)
}

/// A build as it is stored.
struct Stored {
    parsed: Option<Record>,
    record: Vec<u8>,
    analyzer: String,
    object: String,
    arch: String,
    input: Option<Vec<u8>>,
}

impl Stored {
    fn of(build: &Build) -> Self {
        Self {
            parsed: Some(build.record.clone()),
            record: build.record.to_bytes(),
            analyzer: build.analyzer.clone(),
            object: build.object.clone(),
            arch: build.arch.clone(),
            input: build.input.map(|key| key.0.to_vec()),
        }
    }

    /// The newer analyzer, then a plan over none, then the plan that knows more; the rest only makes
    /// the order total.
    fn rank(&self) -> impl Ord + use<'_> {
        let plan = self.parsed.as_ref().map(|record| record.plan.as_ref().map(plan_rank));
        let rest = (&self.record, &self.object, &self.arch, &self.input);
        (self.parsed.is_some(), analyzer_rank(&self.analyzer), plan, rest)
    }
}

fn plan_rank(plan: &Plan) -> usize {
    plan.layout.offsets.len()
}

fn put_body(connection: &Connection, key: &InputKey, build: &Stored) -> rusqlite::Result<()> {
    let Some(outcome) = build.parsed.as_ref().and_then(BodyOutcome::of) else { return Ok(()) };
    let (plan, reason, detail) = match outcome {
        BodyOutcome::Plan(template) => (Some(template.to_bytes()), None, None),
        BodyOutcome::Unresolved { reason, detail } => (None, Some(reason.name()), detail),
    };
    let sql = "SELECT analyzer, plan, reason, detail FROM bodies WHERE input_key = ?1";
    let old = connection.prepare_cached(sql)?.query_row([&key.0[..]], |row| {
        let analyzer: String = row.get(0)?;
        let plan: Option<Vec<u8>> = row.get(1)?;
        let reason: Option<String> = row.get(2)?;
        let detail: Option<String> = row.get(3)?;
        Ok((analyzer, plan, reason, detail))
    });
    let new = (analyzer_rank(&build.analyzer), plan, reason.map(str::to_owned), detail);
    if let Some((analyzer, plan, reason, detail)) = old.optional()?
        // A damaged one ranks lowest.
        && plan.as_deref().is_none_or(|plan| PlanTemplate::parse(plan).is_ok())
        && (analyzer_rank(&analyzer), plan, reason, detail) >= new
    {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO bodies VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET \
             plan = excluded.plan, reason = excluded.reason, detail = excluded.detail, \
             analyzer = excluded.analyzer",
        )?
        .execute(params![&key.0[..], new.1, new.2, new.3, build.analyzer])?;
    Ok(())
}

/// A row of `packages`.
pub(super) struct PackageRow<'a> {
    pub(super) distro: &'a str,
    pub(super) suite: &'a str,
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) arch: &'a str,
    pub(super) sha256: &'a str,
    pub(super) release: &'a str,
    pub(super) url: &'a str,
    pub(super) set: &'a str,
    pub(super) signed_by: Option<&'a str>,
    pub(super) vmlinux: Option<&'a str>,
    pub(super) build_id: &'a str,
    pub(super) indexed_at: i64,
    pub(super) transport_only: bool,
}

pub(super) fn put_package(connection: &Connection, row: &PackageRow<'_>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO packages (distro, suite, package, version, arch, sha256, release, url, \
             set_sha256, signed_by, vmlinux_build_id, build_id, indexed_at, transport_only, series, \
             flavour, place) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
             ?15, ?16, ?17) \
             ON CONFLICT DO UPDATE SET release = excluded.release, series = excluded.series, \
             flavour = excluded.flavour, place = excluded.place, url = excluded.url, \
             set_sha256 = excluded.set_sha256, \
             signed_by = coalesce(excluded.signed_by, signed_by), \
             vmlinux_build_id = coalesce(excluded.vmlinux_build_id, vmlinux_build_id), \
             build_id = excluded.build_id, indexed_at = min(indexed_at, excluded.indexed_at), \
             transport_only = excluded.transport_only \
             WHERE excluded.transport_only <= transport_only",
        )?
        .execute(params![
            row.distro,
            row.suite,
            row.package,
            row.version,
            row.arch,
            row.sha256,
            row.release,
            row.url,
            row.set,
            row.signed_by,
            row.vmlinux,
            row.build_id,
            row.indexed_at,
            row.transport_only,
            KernelRelease(row.release).series_name(),
            KernelRelease(row.release).flavour(),
            KernelRelease(row.release).sort_key(),
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM failures WHERE distro = ?1 AND suite = ?2 AND release = ?3 \
             AND version = ?4 AND arch = ?5",
        )?
        .execute(params![row.distro, row.suite, row.release, row.version, row.arch])?;
    Ok(())
}

pub(super) fn put_failure(
    connection: &Connection,
    kernel: &Kernel,
    set: &str,
    reason: &str,
    detail: &str,
    analyzer: &str,
    indexed_at: i64,
) -> rusqlite::Result<()> {
    // Not where the kernel has a build: a mirror that dropped a package does not undo a plan.
    connection
        .prepare_cached(
            "INSERT INTO failures (distro, suite, release, version, arch, set_sha256, signed_by, \
             reason, detail, analyzer, indexed_at, series, flavour, place) \
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14 \
             WHERE NOT EXISTS (SELECT 1 FROM packages WHERE distro = ?1 AND suite = ?2 \
                               AND release = ?3 AND version = ?4 AND arch = ?5) \
             ON CONFLICT DO UPDATE SET set_sha256 = excluded.set_sha256, \
             signed_by = excluded.signed_by, reason = excluded.reason, detail = excluded.detail, \
             analyzer = excluded.analyzer, indexed_at = min(indexed_at, excluded.indexed_at)",
        )?
        .execute(params![
            kernel.distro,
            kernel.suite,
            kernel.release,
            kernel.version,
            kernel.arch,
            set,
            kernel.signed_by,
            reason,
            detail,
            analyzer,
            indexed_at,
            KernelRelease(&kernel.release).series_name(),
            KernelRelease(&kernel.release).flavour(),
            KernelRelease(&kernel.release).sort_key(),
        ])?;
    Ok(())
}

/// A record that readers would refuse, or a build that contradicts its record, is a mistake of the
/// caller's and never gets into the file.
fn check_build(kernel: &Kernel, build: &Build) -> Result<(), StoreError> {
    let record = &build.record;
    let build_id = record.build_id.clone();
    Record::parse_canonical(&record.to_bytes())
        .map_err(|source| StoreError::Record { build_id, source })?;
    let subject = format!("build {}", record.build_id);
    let invalid = |field, expected, found: &str| {
        let (subject, found) = (subject.clone(), found.to_owned());
        Err(StoreError::Invalid { subject, field, expected, found })
    };
    check_text(&subject, "object", &build.object)?;
    check_text(&subject, "arch", &build.arch)?;
    check_text(&subject, "analyzer", &build.analyzer)?;
    if let Some(plan) = &record.plan {
        if plan.object != build.object {
            return invalid("object", "the plan's object", &build.object);
        }
        if plan.arch.name() != build.arch {
            return invalid("arch", "the plan's arch", &build.arch);
        }
        if plan.evidence.analyzer != build.analyzer {
            return invalid("analyzer", "the plan's analyzer", &build.analyzer);
        }
    }
    match kernel.packages.iter().find(|package| package.name == build.package) {
        None => invalid("package", "one of the kernel's packages", &build.package),
        Some(package) if package.sha256.is_none() => {
            invalid("sha256", "the package's hash", "none")
        }
        Some(_) => Ok(()),
    }
}

/// SQLite's integers are signed; nothing here comes near the limit.
fn time(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
