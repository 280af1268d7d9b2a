//! Kernels as people look for them: by distribution, series and flavour, by a release or a part of it, by
//! the beginning of a build-id. Every question is answered from an index, so that a million builds do not
//! make it slow, and has a bound on what it hands out.

use super::{
    Failure, Store, StoreError,
    column::{optional, required, seconds},
    read::failure,
};
use crate::{BuildId, KernelRelease, ProofResult, Reason, Status, hex};
use rusqlite::{Connection, ToSql, params_from_iter, types::Value};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
};

/// Which kernels to list. All that is `None` takes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// `debian`.
    pub distro: Option<String>,
    /// Of this [`KernelRelease::series_name`], `6.12`.
    pub series: Option<String>,
    /// Of this [`KernelRelease::flavour`], `cloud-amd64`.
    pub flavour: Option<String>,
    /// With or without a plan.
    pub status: Option<Status>,
    /// Without a plan for this reason.
    pub reason: Option<Reason>,
}

/// A build, as one release of one distribution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRow {
    /// As `uname -r` prints it.
    pub release: String,
    /// `debian`.
    pub distro: String,
    /// Its identity.
    pub build_id: BuildId,
    /// Why it has no plan; `None`: it has one.
    pub reason: Option<Reason>,
}

/// Behind this kernel a list goes on: its build-id, distribution and release, separated by colons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(KernelRow);

impl From<KernelRow> for Cursor {
    fn from(row: KernelRow) -> Self {
        Self(row)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0.build_id, self.0.distro, self.0.release)
    }
}

/// Not what [`Cursor`] is written as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is a build-id, a distribution and a release, found {0:?}")]
pub struct NoCursor(String);

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (id, rest) = text.split_once(':')?;
            let (distro, release) = rest.split_once(':')?;
            let (distro, release) = (distro.to_owned(), release.to_owned());
            Some(KernelRow { release, distro, build_id: id.parse().ok()?, reason: None })
        };
        let short = |text: &str| NoCursor(text.chars().take(80).collect());
        parts().map(Self).ok_or_else(|| short(text))
    }
}

/// How much of one distribution, series and flavour is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// `debian`.
    pub distro: String,
    /// `6.12`.
    pub series: String,
    /// `cloud-amd64`.
    pub flavour: String,
    /// Builds with a plan.
    pub resolved: u64,
    /// Of those, with a plan that was proven on their kernel.
    pub proven: u64,
    /// With one that their kernel contradicts.
    pub contradicted: u64,
    /// Builds without one.
    pub unresolved: u64,
    /// Kernels that never got to a build-id; each release and version once, however many suites list it.
    pub failed: u64,
}

impl Cell {
    /// All of it.
    pub fn all(&self) -> u64 {
        self.resolved + self.unresolved + self.failed
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matches {
    /// Kernels with a build-id, the best matches first.
    pub kernels: Vec<KernelRow>,
    /// Kernels without one.
    pub failures: Vec<Failure>,
    /// There are more than are told.
    pub more: bool,
}

/// Fewest digits of a build-id that are looked for.
pub const MIN_DIGITS: usize = 4;
/// Longest text looked for, in bytes.
pub const MAX_QUERY: usize = 256;
/// Packages, those of the newest kernels first, that are looked through for what no index finds.
const LOOK_THROUGH: i64 = 100_000;
/// Most packages whose names begin alike that are all looked at.
const MAX_ALIKE: i64 = 2_000;

/// Conditions and what they compare with.
#[derive(Default)]
struct Where {
    sql: String,
    values: Vec<Value>,
}

impl Where {
    /// `column OPERATOR ?`; the condition is this program's own text.
    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        self.sql.push_str(condition);
        self.values.push(value.into());
    }

    fn of(filter: &KernelFilter) -> Self {
        let mut all = Self::default();
        for (condition, value) in [
            ("distro = ?", &filter.distro),
            ("series = ?", &filter.series),
            ("flavour = ?", &filter.flavour),
        ] {
            if let Some(value) = value {
                all.and(condition, value.clone());
            }
        }
        all
    }
}

impl Store {
    /// Kernels with a build-id, the newest release first; at most `limit`, behind the cursor.
    pub fn kernels(
        &self,
        filter: &KernelFilter,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<KernelRow>, StoreError> {
        let mut conditions = Where::of(filter);
        if let Some(Cursor(KernelRow { release, distro, build_id, .. })) = after {
            let row = "(place, release, build_id, distro) < (?, ?, ?, ?)";
            conditions.and(row, KernelRelease(release).sort_key());
            let rest = [release.clone(), build_id.to_string(), distro.clone()];
            conditions.values.extend(rest.map(Value::from));
        }
        match (filter.status, filter.reason) {
            (Some(Status::Resolved), Some(_)) => return Ok(Vec::new()),
            (_, Some(reason)) => conditions.and(
                "build_id IN (SELECT build_id FROM builds WHERE reason IS NOT NULL AND reason = ?)",
                reason.name().to_owned(),
            ),
            (Some(status), None) => conditions.and(
                "(build_id IN (SELECT build_id FROM builds WHERE reason IS NOT NULL)) = ?",
                i64::from(status == Status::Unresolved),
            ),
            (None, None) => {}
        }
        self.read(|connection| rows(connection, Looked::All, &conditions, limit))
    }

    /// Kernels that never got to a build-id, the newest release first; at most `limit`.
    pub fn failed_kernels(
        &self,
        filter: &KernelFilter,
        limit: usize,
    ) -> Result<Vec<Failure>, StoreError> {
        if filter.status == Some(Status::Resolved) {
            return Ok(Vec::new());
        }
        let mut conditions = Where::of(filter);
        if let Some(reason) = filter.reason {
            conditions.and("reason = ?", reason.name().to_owned());
        }
        self.read(|connection| failed(connection, &conditions, limit))
    }

    /// How much of every distribution, series and flavour is resolved, the newest series first. Reads
    /// two indices.
    pub fn coverage(&self) -> Result<Vec<Cell>, StoreError> {
        type Key = (String, String, String);
        let mut cells: BTreeMap<Key, [u64; 5]> = BTreeMap::new();
        self.read(|connection| {
            let mut count = |which: usize, sql: &str| -> rusqlite::Result<()> {
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let key: Key = (row.get(0)?, row.get(1)?, row.get(2)?);
                    cells.entry(key).or_default()[which] += seconds(row, 3)?;
                }
                Ok(())
            };
            count(
                0,
                "SELECT distro, series, flavour, count(DISTINCT build_id) FROM packages \
                 GROUP BY distro, series, flavour",
            )?;
            count(
                1,
                "SELECT distro, series, flavour, count(DISTINCT build_id) \
                 FROM (SELECT build_id FROM builds WHERE reason IS NOT NULL) \
                 CROSS JOIN packages USING (build_id) GROUP BY distro, series, flavour",
            )?;
            count(
                2,
                "SELECT distro, series, flavour, count(*) FROM \
                 (SELECT DISTINCT distro, series, flavour, release, version FROM failures) \
                 GROUP BY distro, series, flavour",
            )?;
            for (which, result) in [(3, ProofResult::Proven), (4, ProofResult::Contradicted)] {
                let sql = format!(
                    "SELECT distro, series, flavour, count(DISTINCT build_id) \
                     FROM (SELECT build_id FROM proofs WHERE result = '{result}') \
                     CROSS JOIN packages USING (build_id) GROUP BY distro, series, flavour"
                );
                count(which, &sql)?;
            }
            Ok(())
        })?;
        let cell = |((distro, series, flavour), counts): (Key, [u64; 5])| {
            let [builds, unresolved, failed, proven, contradicted] = counts;
            let resolved = builds.saturating_sub(unresolved);
            Cell { distro, series, flavour, resolved, proven, contradicted, unresolved, failed }
        };
        let mut cells: Vec<Cell> = cells.into_iter().map(cell).collect();
        cells.sort_by_cached_key(|cell| {
            let newest = std::cmp::Reverse(KernelRelease(&cell.series).sort_key());
            (cell.distro.clone(), newest, cell.flavour.clone())
        });
        Ok(cells)
    }

    /// How many builds have no plan, and how many kernels never got to a build-id, by reason.
    pub fn unresolved(&self) -> Result<BTreeMap<Reason, [u64; 2]>, StoreError> {
        self.read(|connection| {
            let mut all: BTreeMap<Reason, [u64; 2]> = BTreeMap::new();
            for (which, sql) in [
                "SELECT reason, count(*) FROM builds WHERE reason IS NOT NULL GROUP BY reason",
                "SELECT reason, count(*) FROM \
                 (SELECT DISTINCT reason, distro, release, version FROM failures) GROUP BY reason",
            ]
            .into_iter()
            .enumerate()
            {
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    all.entry(required(row, 0)?).or_default()[which] = seconds(row, 1)?;
                }
            }
            Ok(all)
        })
    }

    /// What a person may mean by this: a build-id or the beginning of one, a release or a part of it, the
    /// name of a package or the beginning of it. At most `limit` of each kind; all candidates, no guess. What
    /// very many begin with, or what is in the middle of a release, is looked for among the newest only, so
    /// that no text takes more than a moment. All failures are looked at, of which there are few.
    pub fn search(&self, text: &str, limit: usize) -> Result<Matches, StoreError> {
        self.search_newest(text, limit, LOOK_THROUGH)
    }

    /// As [`Store::search`], among so many of the newest.
    pub(super) fn search_newest(
        &self,
        text: &str,
        limit: usize,
        newest: i64,
    ) -> Result<Matches, StoreError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_QUERY || text.contains(char::is_control) {
            return Ok(Matches::default());
        }
        self.read(|connection| {
            let (mut found, mut seen) = (Matches::default(), HashSet::new());
            for kind in 0..5 {
                let mut by = Where::default();
                match kind {
                    0 if is_id(text) => {
                        by.and("build_id >= ?", text.to_owned());
                        by.and("build_id < ?", format!("{text}g"));
                    }
                    1 => by.and("release = ?", text.to_owned()),
                    2 => begins(&mut by, "release", text),
                    3 => begins(&mut by, "package", text),
                    // A part of a release, where nothing begins with it.
                    4 if found.kernels.is_empty() && found.failures.is_empty() => {
                        by.and("instr(release, ?) > 0", text.to_owned());
                    }
                    _ => continue,
                }
                let many = matches!(kind, 2 | 3) && alike(connection, &by)? > MAX_ALIKE;
                let from = if many || kind == 4 { Looked::Newest(newest) } else { Looked::All };
                let mut matching = rows(connection, from, &by, limit + 1)?;
                if many && matching.len() <= limit {
                    // All of an older series; which of them are the newest would take too long to tell.
                    matching.extend(rows(connection, Looked::First, &by, limit + 1)?);
                }
                matching.retain(|row| seen.insert(row.clone_key()));
                found.more |= matching.len() > limit;
                found.kernels.extend(matching.into_iter().take(limit));
                if matches!(kind, 1 | 2 | 4) {
                    let failures = failed(connection, &by, limit + 1)?;
                    found.more |= failures.len() > limit;
                    found.failures.extend(failures.into_iter().take(limit));
                }
                // What is named in full is meant.
                let whole = kind == 1 || kind == 0 && found.kernels.len() == 1;
                if whole && !(found.kernels.is_empty() && found.failures.is_empty()) {
                    break;
                }
            }
            Ok(found)
        })
    }
}

impl KernelRow {
    fn clone_key(&self) -> (BuildId, String, String) {
        (self.build_id.clone(), self.distro.clone(), self.release.clone())
    }
}

/// Whether this may be the beginning of a build-id.
fn is_id(text: &str) -> bool {
    let even = &text[..text.len() & !1];
    let last = text[even.len()..].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (MIN_DIGITS..=2 * BuildId::MAX_LEN).contains(&text.len()) && last && hex::decode(even).is_some()
}

/// All texts that begin with this one, as a range that an index knows.
fn begins(by: &mut Where, column: &str, text: &str) {
    by.and(&format!("{column} >= ?"), text.to_owned());
    by.and(&format!("{column} < ?"), format!("{text}\u{10ffff}"));
}

/// How many packages there are so, counted up to one more than [`MAX_ALIKE`].
fn alike(connection: &Connection, conditions: &Where) -> rusqlite::Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM packages{} LIMIT {})",
        conditions.sql,
        MAX_ALIKE + 1
    );
    let values = params_from_iter(&conditions.values);
    connection.prepare_cached(&sql)?.query_row(values, |row| row.get(0))
}

const COLUMNS: &str = "place, release, distro, build_id";
const ORDER: &str = "ORDER BY place DESC, release DESC, build_id DESC, distro DESC";

/// Packages to look at.
#[derive(Clone, Copy)]
enum Looked {
    /// All that an index finds.
    All,
    /// So many of the newest kernels.
    Newest(i64),
    /// The first [`MAX_ALIKE`] that an index finds.
    First,
}

fn rows(
    connection: &Connection,
    from: Looked,
    conditions: &Where,
    limit: usize,
) -> rusqlite::Result<Vec<KernelRow>> {
    let (some, by) = (format!("SELECT {COLUMNS}, package FROM packages"), &conditions.sql);
    let from = match from {
        Looked::All => format!("packages{by}"),
        Looked::Newest(most) => format!("({some} {ORDER} LIMIT {most}){by}"),
        Looked::First => format!("({some}{by} LIMIT {MAX_ALIKE})"),
    };
    // Reasons are looked up for what is told only.
    let sql = format!(
        "SELECT release, distro, build_id, (SELECT reason FROM builds \
         WHERE builds.build_id = kernels.build_id AND reason IS NOT NULL) \
         FROM (SELECT DISTINCT {COLUMNS} FROM {from} {ORDER} LIMIT ?) AS kernels {ORDER}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = Value::from(limit as i64);
    let values = params_from_iter(conditions.values.iter().chain([&limit]));
    let rows = statement.query_map(values, |row| {
        Ok(KernelRow {
            release: row.get(0)?,
            distro: row.get(1)?,
            build_id: required(row, 2)?,
            reason: optional(row, 3)?,
        })
    })?;
    rows.collect()
}

fn failed(
    connection: &Connection,
    conditions: &Where,
    limit: usize,
) -> rusqlite::Result<Vec<Failure>> {
    let sql = format!(
        "SELECT distro, suite, release, version, arch, reason, detail, analyzer, indexed_at \
         FROM failures{} ORDER BY place DESC, release DESC, version DESC, distro, suite, arch LIMIT ?",
        conditions.sql
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = Value::from(limit as i64);
    let rows =
        statement.query_map(params_from_iter(conditions.values.iter().chain([&limit])), failure)?;
    rows.collect()
}

/// Series, flavour and place of the rows that an older version of this program wrote.
pub(super) fn fill(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for table in ["packages", "failures"] {
        let sql = format!("SELECT DISTINCT release FROM {table} WHERE place = ''");
        let mut statement = transaction.prepare(&sql)?;
        let releases = statement.query_map([], |row| row.get(0))?;
        let releases = releases.collect::<Result<Vec<String>, _>>()?;
        let sql = format!(
            "UPDATE {table} SET series = ?2, flavour = ?3, place = ?4 WHERE release = ?1 AND place = ''"
        );
        let mut update = transaction.prepare(&sql)?;
        for release in releases {
            let read = KernelRelease(&release);
            let values: [&dyn ToSql; 4] =
                [&release, &read.series_name(), &read.flavour(), &read.sort_key()];
            update.execute(values)?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_text() {
        let text = "0484cf00:debian:6.12.3+deb:13";
        assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        for wrong in ["", "0484cf00", "0484cf00:debian", "04:debian:6.1", "0484CF00:d:r"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_be_a_build_id() {
        assert!(["0484", "0484c", "0484cf00"].into_iter().all(is_id));
        assert!(["048", "0484G", "é484", "6.12", "0484 "].into_iter().all(|text| !is_id(text)));
    }
}
