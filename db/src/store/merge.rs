//! Merging: what another database knows is added to this one, by the same rules that make the order of
//! writes not matter. So shards of a crawl, each with a database of its own, come to the same content in
//! whatever order they are merged, and merging twice changes nothing.
//!
//! Who merges a database believes it: that a record is of a build, and a result of a body, is its word.
//! But it may be damaged, so every record and text of it is looked at as if it were to be stored for the
//! first time. Its signatures come with the records, where this database has no key of its own.

use super::{
    Build, Kernel, PackedListing, Source, Store, StoreError,
    column::{optional, required},
    listing, proofs,
    signature::{self, plan_comment, proof_comment},
    valid::{check_sha256, check_text, set_sha256},
    write::{PackageRow, put_build, put_failure, put_package},
};
use crate::{BuildId, Proof, Reason, Record, body::InputKey};
use rusqlite::{Connection, Row};

/// Rows that are read and written at a time.
const PAGE: usize = 500;

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Builds.
    pub builds: u64,
    /// Proofs.
    pub proofs: u64,
    /// Packages.
    pub packages: u64,
    /// Kernels that never got to a build-id.
    pub failures: u64,
    /// Suites.
    pub sources: u64,
}

impl Store {
    /// Adds everything of the other database. Stopped in between, a part of it is there, and doing it
    /// again does the rest.
    pub fn merge(&self, other: &Self) -> Result<Merged, StoreError> {
        let mut merged = Merged::default();
        let path = other.path();
        let damaged = |cause: String| StoreError::Corrupt { path: path.to_owned(), cause };
        let mut last = String::new();
        loop {
            let page = other.read(|connection| builds(connection, &last))?;
            let Some((id, ..)) = page.last() else { break };
            last.clone_from(id);
            merged.builds += page.len() as u64;
            let mut valid = Vec::with_capacity(page.len());
            for (id, record, mut build, vouched, signed) in page {
                build.record = Record::parse_canonical(&record)
                    .map_err(|error| damaged(format!("the record of {id}: {error}")))?;
                if build.record.build_id.to_string() != id {
                    return Err(damaged(format!("the record of {id} is of another build")));
                }
                for (field, text) in [
                    ("object", &build.object),
                    ("arch", &build.arch),
                    ("analyzer", &build.analyzer),
                ] {
                    check_text(&id, field, text)?;
                }
                let id = &build.record.build_id;
                if let Some(what) =
                    signed.as_ref().and_then(|text| signature::problem(&plan_comment(id), text))
                {
                    return Err(damaged(format!("the signature of {id} {what}")));
                }
                let signature = self.sign(&build.record).or(signed);
                valid.push((build, vouched, signature));
            }
            self.write(|connection| {
                valid.iter().try_for_each(|(build, vouched, signature)| {
                    put_build(connection, build, *vouched, signature.as_deref())
                })
            })?;
        }
        self.merge_listings(other)?;
        merged.proofs = self.merge_proofs(other)?;
        let rows = other.read(proofs::set_rows)?;
        for page in rows.chunks(PAGE) {
            for row in page {
                row.check()?;
            }
            self.write(|connection| page.iter().try_for_each(|row| row.put(connection)))?;
        }
        let rows = other.read(packages)?;
        merged.packages = rows.len() as u64;
        for page in rows.chunks(PAGE) {
            for row in page {
                row.check()?;
            }
            self.write(|connection| {
                page.iter().try_for_each(|row| put_package(connection, &row.borrow()))
            })?;
        }
        let rows = other.read(failures)?;
        merged.failures = rows.len() as u64;
        for row in &rows {
            set_sha256(&row.kernel)?;
            check_text(&row.kernel.release, "analyzer", &row.analyzer)?;
        }
        for page in rows.chunks(PAGE) {
            self.write(|connection| {
                page.iter().try_for_each(|row| {
                    let FailureRow { kernel, set, reason, detail, analyzer, indexed_at } = row;
                    let (reason, detail) = (reason.name(), Record::clean_detail(detail));
                    put_failure(connection, kernel, set, reason, &detail, analyzer, *indexed_at)
                })
            })?;
        }
        let known = self.sources()?;
        for source in other.sources()? {
            merged.sources += 1;
            let newer = |own: &Source| {
                (&own.distro, &own.suite, &own.arch)
                    == (&source.distro, &source.suite, &source.arch)
                    && own.crawled_at >= source.crawled_at
            };
            if !known.iter().any(newer) {
                self.put_source(&source)?;
            }
        }
        Ok(merged)
    }
}

impl Store {
    fn merge_proofs(&self, other: &Self) -> Result<u64, StoreError> {
        let path = other.path();
        let mut count = 0;
        let mut last = String::new();
        loop {
            let page = other.read(|connection| proofs::page(connection, &last, PAGE))?;
            let Some((id, ..)) = page.last() else { return Ok(count) };
            last.clone_from(id);
            let mut valid = Vec::with_capacity(page.len());
            for (id, bytes, signed) in page {
                let damaged = |cause: String| StoreError::Corrupt { path: path.to_owned(), cause };
                let proof = Proof::parse_canonical(&bytes)
                    .map_err(|error| damaged(format!("the proof of {id}: {error}")))?;
                if proof.build_id.to_string() != id {
                    return Err(damaged(format!("the proof of {id} is of another build")));
                }
                let comment = proof_comment(&proof.build_id);
                if let Some(what) = signed.as_ref().and_then(|s| signature::problem(&comment, s)) {
                    return Err(damaged(format!("the signature of the proof of {id} {what}")));
                }
                let signature = self.sign_bytes(&comment, &bytes).or(signed);
                valid.push((proof, signature));
            }
            count += valid.len() as u64;
            self.write(|connection| {
                valid.iter().try_for_each(|(proof, signature)| {
                    proofs::put_merged(connection, proof, signature.as_deref())
                })
            })?;
        }
    }

    /// One at a time: each is looked at whole, and may be long.
    fn merge_listings(&self, other: &Self) -> Result<(), StoreError> {
        let mut last: Option<InputKey> = None;
        loop {
            let page = other.read(|connection| listing::page(connection, last.as_ref(), 8))?;
            let Some((key, ..)) = page.last() else { return Ok(()) };
            last = Some(*key);
            let mut valid = Vec::with_capacity(page.len());
            for (key, bytes, analyzer) in page {
                check_text(&key.to_string(), "analyzer", &analyzer)?;
                let read = PackedListing::from_bytes(bytes)
                    .and_then(|listing| listing.unpack().map(|_| listing));
                let listing = read.map_err(|error| StoreError::Corrupt {
                    path: other.path().to_owned(),
                    cause: format!("the listing of {key}: {error}"),
                })?;
                valid.push((key, listing, analyzer));
            }
            self.write(|connection| {
                valid.iter().try_for_each(|(key, listing, analyzer)| {
                    listing::put_listing(connection, key, listing, analyzer)
                })
            })?;
        }
    }
}

/// Build-id, record, the rest of the build, whether somebody vouches for it, and the signature.
type BuildRow = (String, Vec<u8>, Build, bool, Option<String>);

/// The next page of builds; the record is put into them once it was looked at.
fn builds(connection: &Connection, after: &str) -> rusqlite::Result<Vec<BuildRow>> {
    let sql = "SELECT build_id, record, object, arch, analyzer, input_key, \
               EXISTS (SELECT 1 FROM packages WHERE packages.build_id = builds.build_id \
                       AND signed_by IS NOT NULL AND transport_only = 0), signature \
               FROM builds WHERE build_id > ?1 ORDER BY build_id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &Row<'_>| {
        let input: Option<Vec<u8>> = row.get(5)?;
        let build_id = required(row, 0)?;
        let build = Build {
            record: Record::unresolved(build_id, Reason::NoSite, ""),
            object: row.get(2)?,
            arch: row.get(3)?,
            analyzer: row.get(4)?,
            input: input.and_then(|key| key.try_into().ok()).map(InputKey),
            package: String::new(),
            vmlinux_build_id: None,
            listing: None,
        };
        Ok((row.get(0)?, row.get(1)?, build, row.get(6)?, row.get(7)?))
    };
    let rows = statement.query_map((after, PAGE as i64), row)?;
    rows.collect()
}

/// A row of `packages` of the other database.
struct Owned {
    texts: [String; 9],
    signed_by: Option<String>,
    vmlinux: Option<String>,
    build_id: String,
    indexed_at: i64,
    transport_only: bool,
}

fn packages(connection: &Connection) -> rusqlite::Result<Vec<Owned>> {
    let sql = "SELECT distro, suite, package, version, arch, sha256, release, url, set_sha256, \
               signed_by, vmlinux_build_id, build_id, indexed_at, transport_only FROM packages";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &Row<'_>| {
        let text = |column: usize| row.get::<_, String>(column);
        let vmlinux: Option<BuildId> = optional(row, 10)?;
        let build_id: BuildId = required(row, 11)?;
        Ok(Owned {
            texts: [
                text(0)?,
                text(1)?,
                text(2)?,
                text(3)?,
                text(4)?,
                text(5)?,
                text(6)?,
                text(7)?,
                text(8)?,
            ],
            signed_by: row.get(9)?,
            vmlinux: vmlinux.map(|id| id.to_string()),
            build_id: build_id.to_string(),
            indexed_at: row.get(12)?,
            transport_only: row.get(13)?,
        })
    };
    statement.query_map([], row)?.collect()
}

impl Owned {
    fn check(&self) -> Result<(), StoreError> {
        let subject = format!("package {}", self.texts[2]);
        for text in self.texts.iter().chain(&self.signed_by) {
            check_text(&subject, "a column", text)?;
        }
        let [.., sha256, _, url, set] = &self.texts;
        check_sha256(&subject, "sha256", sha256)?;
        if set.split(' ').any(|part| part == sha256 || part == url.replace(' ', "%20")) {
            return Ok(());
        }
        let expected = "a set with the package in it";
        let found = set.chars().take(80).collect();
        Err(StoreError::Invalid { subject, field: "set_sha256", expected, found })
    }

    fn borrow(&self) -> PackageRow<'_> {
        let [distro, suite, package, version, arch, sha256, release, url, set] = &self.texts;
        PackageRow {
            distro,
            suite,
            package,
            version,
            arch,
            sha256,
            release,
            url,
            set,
            signed_by: self.signed_by.as_deref(),
            vmlinux: self.vmlinux.as_deref(),
            build_id: &self.build_id,
            indexed_at: self.indexed_at,
            transport_only: self.transport_only,
        }
    }
}

/// A row of `failures` of the other database.
struct FailureRow {
    kernel: Kernel,
    set: String,
    reason: Reason,
    detail: String,
    analyzer: String,
    indexed_at: i64,
}

fn failures(connection: &Connection) -> rusqlite::Result<Vec<FailureRow>> {
    let sql = "SELECT distro, suite, release, version, arch, signed_by, set_sha256, reason, detail, \
               analyzer, indexed_at FROM failures";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &Row<'_>| {
        let kernel = Kernel {
            distro: row.get(0)?,
            suite: row.get(1)?,
            release: row.get(2)?,
            version: row.get(3)?,
            arch: row.get(4)?,
            signed_by: row.get(5)?,
            packages: Vec::new(),
        };
        Ok(FailureRow {
            kernel,
            set: row.get(6)?,
            reason: required(row, 7)?,
            detail: row.get(8)?,
            analyzer: row.get(9)?,
            indexed_at: row.get(10)?,
        })
    };
    statement.query_map([], row)?.collect()
}
