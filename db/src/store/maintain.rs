//! Looking after a database file: to this version, and to a small size.

use super::{Store, StoreError, open, watch::log_of};
use std::{fs, path::Path, sync::PoisonError};

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The schema it had.
    pub from: i64,
    /// The schema it has.
    pub to: i64,
    /// The versions that were passed, and what each brought.
    pub steps: Vec<(i64, &'static str)>,
}

/// Bytes of a database with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vacuumed {
    /// Before.
    pub before: u64,
    /// Afterwards.
    pub after: u64,
    /// Whether all of it is in the file itself: nobody was reading meanwhile.
    pub finished: bool,
}

impl Store {
    /// The schema that this program reads and writes.
    pub const SCHEMA: i64 = open::VERSION;

    /// The schema of an existing database, [`Store::SCHEMA`] or an older one. A newer one is an error.
    pub fn schema_of(path: impl AsRef<Path>) -> Result<i64, StoreError> {
        open::version_of(path.as_ref())
    }

    /// Brings an existing database to [`Store::SCHEMA`]; nothing where it is there already.
    pub fn migrate(path: impl AsRef<Path>) -> Result<Migrated, StoreError> {
        let from = Self::schema_of(&path)?;
        drop(open::writer(path.as_ref())?);
        let steps = (1..=Self::SCHEMA).zip(open::BRINGS).filter(|(version, _)| *version > from);
        Ok(Migrated { from, to: Self::SCHEMA, steps: steps.collect() })
    }

    /// Writes the database anew without what was deleted or replaced in it, and counts how its keys are
    /// spread, so that queries are planned well. Readers go on reading. Takes as much room as the
    /// database again, and as its temporary copy.
    pub fn vacuum(&self) -> Result<Vacuumed, StoreError> {
        let Some(writer) = &self.inner.writer else {
            return Err(StoreError::ReadOnly { path: self.path().to_owned() });
        };
        let before = self.size();
        {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer
                .execute_batch("VACUUM; ANALYZE;")
                .map_err(|cause| StoreError::from_sqlite(self.path(), cause))?;
        }
        let finished = self.finish()?;
        Ok(Vacuumed { before, after: self.size(), finished })
    }

    /// For tests: this database as an older version of this program would have stored it.
    ///
    /// # Panics
    /// Where that does not work out.
    #[cfg(any(test, feature = "test-util"))]
    pub fn write_older(&self, path: impl AsRef<Path>, version: usize) {
        let old = open::older(path.as_ref(), version);
        let own = self.path().to_str().expect("a test's folder is UTF-8");
        old.execute("ATTACH ?1 AS own", [own]).expect("an open database");
        for table in ["bodies", "builds", "packages", "failures", "sources"] {
            let sql = format!("SELECT group_concat(name) FROM pragma_table_info('{table}')");
            let columns: String = old.query_row(&sql, [], |row| row.get(0)).expect("a table");
            let sql =
                format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM own.{table}");
            old.execute_batch(&sql).expect("the same columns");
        }
    }

    /// Bytes of the file and its log.
    fn size(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        size(self.path()) + size(&log_of(self.path()))
    }
}
