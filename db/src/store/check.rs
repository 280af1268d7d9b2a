//! Looking at all of a database: its content as text, to compare two of them, and its soundness.

use super::{
    PackedListing, Store, StoreError,
    column::{optional, required},
    listing, proofs, read,
    signature::{self, plan_comment, proof_comment},
    valid::{check_sha256, check_text},
};
use crate::{
    BuildId, KernelRelease, PlanError, Proof, Reason, Record, RecordError, Status,
    body::{BodyOutcome, InputKey},
    hex,
};
use rusqlite::{Connection, Row, types::ValueRef};
use sha2::{Digest as _, Sha256};
use std::fmt::{Display, Write as _};

/// Per table the columns that are content, and so all but the times.
const CONTENT: [(&str, &str); 8] = [
    ("bodies", "input_key, analyzer, reason, detail, plan"),
    ("listings", "input_key, analyzer, listing"),
    (
        "builds",
        "build_id, object, arch, input_key, analyzer, status, reason, detail, record, signature",
    ),
    (
        "packages",
        "distro, suite, package, version, arch, sha256, release, url, set_sha256, signed_by, \
         vmlinux_build_id, build_id, transport_only",
    ),
    (
        "failures",
        "distro, suite, release, version, arch, set_sha256, signed_by, reason, detail, analyzer",
    ),
    ("sources", "distro, suite, arch, index_sha256, kernels, signed_by, reason, detail"),
    ("proofs", "build_id, plan_sha256, result, proof, signature"),
    ("set_packages", "set_sha256, package, url, sha256"),
];

impl Store {
    /// Everything but times as text, one line a row, sorted: equal for two databases iff they have
    /// the same content.
    pub fn content_dump(&self) -> Result<String, StoreError> {
        self.read(|connection| {
            let mut text = String::new();
            for (table, columns) in CONTENT {
                let mut lines = Vec::new();
                let mut statement =
                    connection.prepare(&format!("SELECT {columns} FROM {table}"))?;
                let names: Vec<String> =
                    statement.column_names().into_iter().map(str::to_owned).collect();
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let mut line = table.to_owned();
                    for (column, name) in names.iter().enumerate() {
                        write_value(&mut line, name, row.get_ref(column)?);
                    }
                    lines.push(line);
                }
                lines.sort();
                for line in lines {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
            Ok(text)
        })
    }

    /// What is wrong with the database, a sentence each that ends with what to do: SQLite's own checks,
    /// then all that the store promises of its rows: records, bodies, references, signatures' form,
    /// listings, hashes, names. Empty where all is well; an error only where nothing could be looked at.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let mut faults = Faults::default();
            for (part, check) in CHECKS {
                faults.begin();
                match check(connection, &mut faults) {
                    Ok(()) => {}
                    // The other parts may be whole.
                    Err(error) => faults.add(
                        part,
                        format_args!("cannot be read on: {}", told(&error)),
                        RESTORE,
                    ),
                }
                faults.end(part);
            }
            Ok(faults.all)
        })
    }
}

/// What is looked at, and how.
const CHECKS: [(&str, Check); 10] = [
    ("the file", check_file),
    ("references", check_references),
    ("builds", check_builds),
    ("bodies", check_bodies),
    ("listings", check_listings),
    ("proofs", check_proofs),
    ("packages", check_packages),
    ("packages of kernels", check_set_packages),
    ("failures", check_failures),
    ("suites", check_sources),
];

type Check = fn(&Connection, &mut Faults) -> rusqlite::Result<()>;

/// Faults told of each part; a damaged file may have as many as rows.
const MOST: usize = 100;

const RESTORE: &str = "restore a copy, or crawl into a new file";
const CRAWL: &str = "crawl again, which looks at its packages anew";
const CRAWL_SUITE: &str = "crawl it again";
const SIGN: &str = "sign it again with `nfdrop-indexer sign`";
const PROVE: &str = "prove it again with `nfdrop-ci prove --build-id`";
const ANEW: &str = "it is made anew when a kernel needs it, or merge a database that has it";

/// What was found so far.
#[derive(Default)]
struct Faults {
    all: Vec<String>,
    /// Of the part that is being looked at.
    count: usize,
}

impl Faults {
    fn begin(&mut self) {
        self.count = 0;
    }

    fn add(&mut self, subject: impl Display, what: impl Display, mend: &str) {
        self.count += 1;
        if self.count <= MOST {
            // Some of it is quoted from the file, and ends up on a terminal.
            let text = format!("{subject}: {what}; {mend}");
            self.all.push(Record::clean_detail(&text));
        }
    }

    fn end(&mut self, part: &str) {
        if let Some(more @ 1..) = self.count.checked_sub(MOST) {
            self.all.push(format!("{part}: {more} more faults like these"));
        }
    }
}

/// In words of what was read, not of the library that read it.
fn told(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::FromSqlConversionFailure(_, _, source) => source.to_string(),
        error => error.to_string(),
    }
}

fn check_file(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            faults.add("the file", text, RESTORE);
        }
    }
    Ok(())
}

fn check_references(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        faults.add(&table, format_args!("a row of {parent} that it refers to is missing"), RESTORE);
    }
    Ok(())
}

fn check_builds(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let sql = "SELECT build_id, object, arch, input_key, status, reason, detail, record, analyzer, \
               signature FROM builds ORDER BY build_id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: BuildId = match required(row, 0) {
            Ok(id) => id,
            Err(error) => {
                faults.add("builds", told(&error), RESTORE);
                continue;
            }
        };
        if let Err(error) = check_build(connection, row, &id, faults) {
            faults.add(format_args!("build {id}"), told(&error), RESTORE);
        }
    }
    Ok(())
}

fn check_build(
    connection: &Connection,
    row: &Row<'_>,
    id: &BuildId,
    faults: &mut Faults,
) -> rusqlite::Result<()> {
    let subject = format!("build {id}");
    let record = match Record::parse_canonical(row.get_ref(7)?.as_blob()?) {
        Ok(record) => record,
        Err(error @ RecordError::Plan(PlanError::NewerSchema(_))) => {
            faults.add(subject, error, "it was stored by a newer nfdrop: take that one");
            return Ok(());
        }
        Err(error) => {
            faults.add(subject, error, CRAWL);
            return Ok(());
        }
    };
    let signature: Option<String> = row.get(9)?;
    if let Some(what) = signature.and_then(|text| signature::problem(&plan_comment(id), &text)) {
        faults.add(&subject, format_args!("its signature {what}"), SIGN);
    }
    let status: Option<Status> = required(row, 4).ok();
    let reason: Option<Reason> = optional(row, 5).unwrap_or_default();
    let same = (&record.build_id, Some(record.status), record.reason) == (id, status, reason)
        && record.detail == row.get(6)?;
    let (object, arch): (String, String) = (row.get(1)?, row.get(2)?);
    let analyzer: String = row.get(8)?;
    let same_plan = record.plan.as_ref().is_none_or(|plan| {
        (plan.object.as_str(), plan.arch.name(), plan.evidence.analyzer.as_str())
            == (object.as_str(), arch.as_str(), analyzer.as_str())
    });
    if !(same && same_plan) {
        faults.add(&subject, "the record says something else than its row", RESTORE);
    }
    let key: Option<[u8; 32]> = row.get(3)?;
    if let Some(key) = key.map(InputKey)
        && let Ok(Some(body)) = read::body(connection, &key)
        && body.analyzer == analyzer
        && Some(&body.outcome) != BodyOutcome::of(&record).as_ref()
    {
        let what = format!("the record says something else than its body {key}");
        faults.add(&subject, what, RESTORE);
    }
    Ok(())
}

fn check_bodies(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT input_key FROM bodies ORDER BY input_key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = InputKey(row.get(0)?);
        if let Err(error) = read::body(connection, &key) {
            faults.add(format_args!("body {key}"), told(&error), ANEW);
        }
    }
    Ok(())
}

fn check_listings(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let mut last: Option<InputKey> = None;
    loop {
        let page = listing::page(connection, last.as_ref(), 8)?;
        let Some((key, ..)) = page.last() else { return Ok(()) };
        last = Some(*key);
        for (key, bytes, _) in page {
            if let Err(error) = PackedListing::from_bytes(bytes).and_then(|packed| packed.unpack())
            {
                faults.add(format_args!("listing of {key}"), error, ANEW);
            }
        }
    }
}

fn check_proofs(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let sql = "SELECT proofs.build_id, plan_sha256, result, proof, proofs.signature, record \
               FROM proofs LEFT JOIN builds USING (build_id) ORDER BY 1";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: BuildId = match required(row, 0) {
            Ok(id) => id,
            Err(error) => {
                faults.add("proofs", told(&error), RESTORE);
                continue;
            }
        };
        let subject = format!("the proof of build {id}");
        let proof = match Proof::parse_canonical(row.get_ref(3)?.as_blob()?) {
            Ok(proof) => proof,
            Err(error) => {
                faults.add(&subject, error, PROVE);
                continue;
            }
        };
        let (plan, result): (Vec<u8>, String) = (row.get(1)?, row.get(2)?);
        if (&proof.build_id, &proof.plan_sha256.0, proof.result.name()) != (&id, &plan, &result) {
            faults.add(&subject, "it says something else than its row", PROVE);
        }
        let record: Option<Vec<u8>> = row.get(5)?;
        if record.is_some_and(|record| !proof.is_of(&record)) {
            faults.add(&subject, "it is of another plan than the one that is stored", PROVE);
        }
        let signature: Option<String> = row.get(4)?;
        if let Some(what) = signature.and_then(|s| signature::problem(&proof_comment(&id), &s)) {
            faults.add(&subject, format_args!("its signature {what}"), SIGN);
        }
    }
    Ok(())
}

fn check_set_packages(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    for row in proofs::set_rows(connection)? {
        if let Err(error) = row.check() {
            faults.add("a package of a kernel", error, CRAWL);
        }
    }
    Ok(())
}

/// What lists and tables are read from is made of the release.
fn check_place(row: &Row<'_>, from: usize, release: &str) -> rusqlite::Result<bool> {
    let found: [String; 3] = [row.get(from)?, row.get(from + 1)?, row.get(from + 2)?];
    // Of an older version's row, which the next writer fills in.
    let unfilled = found.iter().all(String::is_empty);
    let read = KernelRelease(release);
    Ok(unfilled || found == [read.series_name(), read.flavour(), &read.sort_key()])
}

const TEXT: &str = "one of its texts is empty, longer than 2048 bytes or has control characters";
const HASH: &str = "its hash is not 64 lower-case hex digits";
const PLACE: &str = "its series, flavour or place are not those of its release";

fn check_packages(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let sql = "SELECT distro, suite, package, version, arch, release, url, set_sha256, signed_by, \
               sha256, vmlinux_build_id, series, flavour, place FROM packages";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut texts: Vec<String> = Vec::with_capacity(9);
        for column in 0..8 {
            texts.push(row.get(column)?);
        }
        texts.extend(row.get::<_, Option<String>>(8)?);
        let subject = format!("package {} {} in {}", texts[2], texts[3], texts[1]);
        if !texts.iter().all(|text| check_text("", "", text).is_ok()) {
            faults.add(&subject, TEXT, RESTORE);
        }
        let (sha256, url, set) = (row.get::<_, String>(9)?, &texts[6], &texts[7]);
        if check_sha256("", "", &sha256).is_err() {
            faults.add(&subject, HASH, RESTORE);
        }
        if !set.split(' ').any(|part| part == sha256 || part == url.replace(' ', "%20")) {
            faults.add(&subject, "it is not in the set that it is said to be of", RESTORE);
        }
        if let Err(error) = optional::<BuildId>(row, 10) {
            faults.add(&subject, told(&error), RESTORE);
        }
        if !check_place(row, 11, &texts[5])? {
            faults.add(&subject, PLACE, RESTORE);
        }
    }
    Ok(())
}

fn check_failures(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let sql = "SELECT distro, suite, release, version, arch, analyzer, reason, series, flavour, place, \
               EXISTS (SELECT 1 FROM packages AS p WHERE p.release = f.release AND p.distro = f.distro \
               AND p.suite = f.suite AND p.version = f.version AND p.arch = f.arch) FROM failures AS f";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut texts: Vec<String> = Vec::with_capacity(6);
        for column in 0..6 {
            texts.push(row.get(column)?);
        }
        let subject = format!("kernel {} {} in {}", texts[2], texts[3], texts[1]);
        if !texts.iter().all(|text| check_text("", "", text).is_ok()) {
            faults.add(&subject, TEXT, RESTORE);
        }
        if let Err(error) = required::<Reason>(row, 6) {
            faults.add(&subject, told(&error), RESTORE);
        }
        if !check_place(row, 7, &texts[2])? {
            faults.add(&subject, PLACE, RESTORE);
        }
        if row.get(10)? {
            faults.add(&subject, "it has a build, and is noted as a failure too", RESTORE);
        }
    }
    Ok(())
}

fn check_sources(connection: &Connection, faults: &mut Faults) -> rusqlite::Result<()> {
    let sql = "SELECT distro, suite, arch, index_sha256, reason FROM sources";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let texts: [String; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
        let subject = format!("suite {} of {}", texts[1], texts[0]);
        if !texts.iter().all(|text| check_text("", "", text).is_ok()) {
            faults.add(&subject, TEXT, CRAWL_SUITE);
        }
        let hash: Option<String> = row.get(3)?;
        if hash.is_some_and(|hash| check_sha256("", "", &hash).is_err()) {
            faults.add(&subject, HASH, CRAWL_SUITE);
        }
        if let Err(error) = optional::<Reason>(row, 4) {
            faults.add(&subject, told(&error), CRAWL_SUITE);
        }
    }
    Ok(())
}

fn write_value(line: &mut String, name: &str, value: ValueRef<'_>) {
    // Writing to a string does not fail.
    let _ = match value {
        ValueRef::Null => write!(line, " {name}=-"),
        ValueRef::Integer(number) => write!(line, " {name}={number}"),
        ValueRef::Real(number) => write!(line, " {name}={number:?}"),
        ValueRef::Text(text) => write!(line, " {name}={:?}", String::from_utf8_lossy(text)),
        // Its text: compressing is another matter.
        ValueRef::Blob(bytes) if name == "listing" => {
            let json = PackedListing::from_bytes(bytes).and_then(|listing| listing.json());
            let json = json.unwrap_or_else(|_| bytes.to_owned());
            write!(line, " {name}={}", hex::encode(&Sha256::digest(&json)))
        }
        ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.starts_with('{') => write!(line, " {name}={text:?}"),
            _ => write!(line, " {name}={}", hex::encode(bytes)),
        },
    };
}
