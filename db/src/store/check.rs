//! Looking at all of a database: its content as text, to compare two of them, and its soundness.

use super::{
    InputKey, PackedListing, Store, StoreError,
    body::BodyOutcome,
    listing,
    read::{self, optional, required},
    signature,
};
use crate::{BuildId, Reason, Record, Status, hex};
use rusqlite::{Connection, types::ValueRef};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Per table the columns that are content, and so all but the times.
const CONTENT: [(&str, &str); 6] = [
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

    /// What is wrong with the database, a line each: SQLite's own checks, then every record, body,
    /// reference and signature's form. Empty where all is well.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let mut problems = Vec::new();
            let mut statement = connection.prepare("PRAGMA integrity_check")?;
            for line in statement.query_map([], |row| row.get::<_, String>(0))? {
                let line = line?;
                if line != "ok" {
                    problems.push(line);
                }
            }
            let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
            for table in statement.query_map([], |row| row.get::<_, String>(0))? {
                problems.push(format!("{}: refers to a row that is not there", table?));
            }
            check_builds(connection, &mut problems)?;
            check_bodies(connection, &mut problems)?;
            check_listings(connection, &mut problems)?;
            Ok(problems)
        })
    }
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

fn check_builds(connection: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    let sql = "SELECT build_id, object, arch, input_key, status, reason, detail, record, analyzer, \
               signature FROM builds ORDER BY build_id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: BuildId = match required(row, 0) {
            Ok(id) => id,
            Err(error) => {
                problems.push(format!("builds: {error}"));
                continue;
            }
        };
        let record: Vec<u8> = row.get(7)?;
        let record = match Record::parse_canonical(&record) {
            Ok(record) => record,
            Err(error) => {
                problems.push(format!("build {id}: {error}"));
                continue;
            }
        };
        let signature: Option<String> = row.get(9)?;
        if let Some(what) = signature.and_then(|text| signature::problem(&id, &text)) {
            problems.push(format!("build {id}: its signature {what}"));
        }
        let status: Option<Status> = required(row, 4).ok();
        let reason: Option<Reason> = optional(row, 5).unwrap_or_default();
        let same = (&record.build_id, Some(record.status), record.reason) == (&id, status, reason)
            && record.detail == row.get(6)?;
        let (object, arch): (String, String) = (row.get(1)?, row.get(2)?);
        let analyzer: String = row.get(8)?;
        let same_plan = record.plan.as_ref().is_none_or(|plan| {
            (&plan.object, &plan.arch, &plan.evidence.analyzer) == (&object, &arch, &analyzer)
        });
        if !(same && same_plan) {
            problems.push(format!("build {id}: the record says something else than its row"));
        }
        let key: Option<[u8; 32]> = row.get(3)?;
        if let Some(key) = key.map(InputKey)
            && let Ok(Some(body)) = read::body(connection, &key)
            && body.analyzer == analyzer
            && Some(&body.outcome) != BodyOutcome::of(&record).as_ref()
        {
            problems
                .push(format!("build {id}: the record says something else than its body {key}"));
        }
    }
    Ok(())
}

fn check_bodies(connection: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("SELECT input_key FROM bodies ORDER BY input_key")?;
    let keys = statement.query_map([], |row| row.get(0))?;
    for key in keys.collect::<Result<Vec<[u8; 32]>, _>>()?.into_iter().map(InputKey) {
        if let Err(error) = read::body(connection, &key) {
            problems.push(format!("body {key}: {error}"));
        }
    }
    Ok(())
}

fn check_listings(connection: &Connection, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut last: Option<InputKey> = None;
    loop {
        let page = listing::page(connection, last.as_ref(), 8)?;
        let Some((key, ..)) = page.last() else { return Ok(()) };
        last = Some(*key);
        for (key, bytes, _) in page {
            if let Err(error) = PackedListing::from_bytes(bytes).and_then(|packed| packed.unpack())
            {
                problems.push(format!("listing of {key}: {error}"));
            }
        }
    }
}
