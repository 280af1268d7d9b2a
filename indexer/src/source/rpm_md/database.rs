//! The index `primary_db`: the same as `primary` as an SQLite database, for repositories that have
//! nothing else (Amazon Linux 2).
//!
//! The file is a stranger's, so it is opened read-only and defensively, its schema is not trusted, only
//! plain tables are read, and a query ends after a number of steps, whatever the schema makes of it.

use super::primary::{Entry, MAX_KEPT, PrimaryError};
use crate::source::kernel::Package;
use rusqlite::{
    Connection, OpenFlags, Row,
    config::DbConfig,
    limits::Limit,
    types::{FromSql, ValueRef},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Most bytes of a database after decompression.
pub const MAX_DATABASE: u64 = 4 << 30;
/// Longest value, in bytes: descriptions are some KiB.
const MAX_VALUE: i32 = 1 << 20;
/// Steps of SQLite's machine between two looks at the budget, and how many looks there are: some
/// 100 steps a package are needed, and large repositories have 100,000 packages.
const STEPS: i32 = 10_000;
const MAX_LOOKS: u32 = 100_000;
/// The only format there ever was.
const VERSION: i64 = 10;

/// Why a database is refused.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Not a database, or a broken one.
    #[error("the database cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It takes more work than the largest repository.
    #[error("the database takes too long to read: {} million steps", i64::from(STEPS) * i64::from(MAX_LOOKS) / 1_000_000)]
    Budget,
    /// A view or virtual table where a table has to be, or nothing.
    #[error("the database has no plain table {0:?}")]
    Table(&'static str),
    /// Another format.
    #[error("the database has format {0}, expected {VERSION}")]
    Version(i64),
    /// A package in it is refused.
    #[error(transparent)]
    Package(#[from] PrimaryError),
}

/// The packages with wanted names, in the order of the database.
pub fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Package>, DatabaseError> {
    read_within(path, wanted, MAX_LOOKS)
}

fn read_within(
    path: &Path,
    wanted: impl Fn(&str) -> bool,
    max_looks: u32,
) -> Result<Vec<Package>, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    harden(&connection)?;
    let looks = Arc::new(AtomicU32::new(0));
    let spent = Arc::clone(&looks);
    connection.progress_handler(
        STEPS,
        Some(move || spent.fetch_add(1, Ordering::Relaxed) >= max_looks),
    )?;
    let found = packages(&connection, wanted);
    if looks.load(Ordering::Relaxed) > max_looks { Err(DatabaseError::Budget) } else { found }
}

fn harden(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 100_000),
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 2),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "memory")
}

fn packages(
    connection: &Connection,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Package>, DatabaseError> {
    for table in ["db_info", "packages", "requires"] {
        let plain = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 AND type = 'table' AND \
                     rootpage > 0 AND sql LIKE 'CREATE TABLE%'";
        if connection.query_row(plain, [table], |row| row.get::<_, i64>(0))? != 1 {
            return Err(DatabaseError::Table(table));
        }
    }
    let version = connection.query_row("SELECT dbversion FROM db_info", [], |row| row.get(0))?;
    if version != VERSION {
        return Err(DatabaseError::Version(version));
    }
    // What does not begin like a kernel is passed over without leaving SQLite.
    let mut query = connection.prepare(
        "SELECT pkgKey, name, arch, epoch, version, release, checksum_type, pkgId, size_package, \
         location_base, location_href FROM packages \
         WHERE name GLOB 'kernel*' OR name GLOB 'linux*'",
    )?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    let mut requires = connection
        .prepare("SELECT name FROM requires WHERE pkgKey = ?1 AND name GLOB 'kernel*'")?;
    while let Some(row) = rows.next()? {
        let mut entry = entry(row)?;
        if !wanted(&entry.name) {
            continue;
        }
        if found.len() == MAX_KEPT {
            return Err(PrimaryError::TooMany.into());
        }
        let mut names = requires.query([row.get::<_, i64>(0)?])?;
        while let Some(name) = names.next()? {
            entry.depend(text(name, 0)?);
        }
        found.push(entry.package()?);
    }
    Ok(found)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        name: text(row, 1)?,
        arch: text(row, 2)?,
        epoch: text(row, 3)?,
        version: text(row, 4)?,
        release: text(row, 5)?,
        checksum: Some((text(row, 6)?, text(row, 7)?)),
        size: row.get::<_, Option<i64>>(8)?.and_then(|size| size.try_into().ok()),
        base: Some(text(row, 9)?).filter(|base| !base.is_empty()),
        href: text(row, 10)?,
        depends: Vec::new(),
    })
}

/// A text; empty where there is none.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(String::new()),
        value => String::column_result(value).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, value.data_type(), Box::new(error))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const TABLES: &str = "CREATE TABLE db_info (dbversion INTEGER, checksum TEXT);
        CREATE TABLE packages (pkgKey INTEGER PRIMARY KEY, pkgId TEXT, name TEXT, arch TEXT, \
            version TEXT, epoch TEXT, release TEXT, size_package INTEGER, location_href TEXT, \
            location_base TEXT, checksum_type TEXT);
        CREATE TABLE requires (name TEXT, flags TEXT, pkgKey INTEGER);
        INSERT INTO db_info VALUES (10, 'x');";
    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn database(sql: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let connection = Connection::open(file.path()).unwrap();
        connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").unwrap();
        connection.execute_batch(sql).unwrap();
        file
    }

    fn package(key: u32, name: &str, href: &str) -> String {
        format!(
            "INSERT INTO packages VALUES ({key}, '{SHA256}', '{name}', 'x86_64', '5.10.1', '0', \
             '1.amzn2', 12, '{href}', NULL, 'sha256');
             INSERT INTO requires VALUES ('kernel-core-uname-r', 'EQ', {key}), ('bash', NULL, {key});"
        )
    }

    fn refused(sql: &str) -> String {
        read(database(sql).path(), |_| true).unwrap_err().to_string()
    }

    #[test]
    fn wanted_packages_are_kept() {
        let sql = [
            TABLES,
            &package(1, "kernel", "a.rpm"),
            &package(2, "bash", "../x"),
            &package(3, "kernel-devel", "../x"),
        ]
        .concat();
        let packages = read(database(&sql).path(), |name| name == "kernel").unwrap();
        let line = |p: &Package| {
            format!(
                "{} {} {} {} {:?} {}",
                p.name, p.version, p.architecture, p.path, p.size, p.depends
            )
        };
        let lines: Vec<_> = packages.iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"kernel 5.10.1-1.amzn2 x86_64 a.rpm Some(12) kernel-core-uname-r"#);
    }

    #[test]
    fn hostile_databases_are_refused() {
        let endless = "CREATE VIEW requires AS WITH RECURSIVE x(name, pkgKey) AS (SELECT 'kernel', 1 \
                       UNION ALL SELECT name, pkgKey FROM x) SELECT * FROM x;";
        // A table that is right, with a column that is not stored anywhere.
        let large = "CREATE TABLE packages (pkgKey INTEGER PRIMARY KEY, pkgId TEXT, arch TEXT, \
            version TEXT, epoch TEXT, release TEXT, size_package INTEGER, location_href TEXT, \
            location_base TEXT, checksum_type TEXT, name TEXT AS (hex(zeroblob(2000000))));";
        let good = [TABLES, &package(1, "kernel", "a.rpm")].concat();
        let cases = [
            refused(""),
            refused(&TABLES.replace(
                "CREATE TABLE requires (name TEXT, flags TEXT, pkgKey INTEGER);",
                endless,
            )),
            refused(&TABLES.replace("(10,", "(11,")),
            refused(&good.replace("a.rpm", "../a.rpm")),
            refused(&good.replace("'sha256'", "'sha'")),
            refused(&good.replace("'5.10.1'", "x'ff'")),
            refused(&good.replace("'kernel',", "'kernel' || hex(zeroblob(600000)),")),
            refused(
                &[
                    large,
                    TABLES.split_once("CREATE TABLE packages").unwrap().0,
                    "CREATE TABLE requires (name TEXT); INSERT INTO db_info VALUES (10, 'x');
                 INSERT INTO packages(pkgKey) VALUES (1)",
                ]
                .concat(),
            ),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the database has no plain table "db_info"
        the database has no plain table "requires"
        the database has format 11, expected 10
        the index describes "kernel": its location is "../a.rpm", expected a path that leads nowhere else
        the index describes "kernel": sha is not secure any more, expected sha256, sha384 or sha512
        the database cannot be read: Conversion error from type Blob at index: 4, Invalid type
        the database cannot be read: string or blob too big
        the database cannot be read: no such column: pkgKey in SELECT name FROM requires WHERE pkgKey = ?1 AND name GLOB 'kernel*' at offset 32
        "#);
        let many = "INSERT INTO packages(name) WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT \
                    n + 1 FROM x WHERE n < 20000) SELECT 'bash' FROM x;";
        let many = database(&[TABLES, many].concat());
        assert!(read(many.path(), |_| true).is_ok());
        let error = read_within(many.path(), |_| true, 2).unwrap_err();
        assert!(matches!(error, DatabaseError::Budget), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"no database at all, but long enough to be one").unwrap();
        assert!(read(file.path(), |_| true).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
            let file = database(&[TABLES, &package(1, "kernel", "a.rpm")].concat());
            let mut bytes = fs::read(file.path()).unwrap();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            fs::write(file.path(), bytes).unwrap();
            let _ = read(file.path(), |_| true);
        }
    }
}
