//! Opening a database file: whose it is, which version, and that its tables are the ones this
//! program made. A file that fails here is left as it was.

use super::{StoreError, kernels, withdraw};
use rusqlite::{Connection, OpenFlags, config::DbConfig, limits::Limit};
use rusqlite_migration::{M, Migrations};
use std::{
    fmt::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// `nfdr`: marks a file as nfdrop's (<https://www.sqlite.org/fileformat.html#application_id>). The
/// first migration sets it.
const APPLICATION_ID: i32 = 0x6e66_6472;
const MIGRATIONS: &[M] = &[
    M::up(include_str!("schema.sql")),
    M::up(include_str!("schema-2.sql")),
    M::up(include_str!("schema-3.sql")),
    M::up(include_str!("schema-4.sql")),
    M::up(include_str!("schema-5.sql")),
];
/// `user_version` of a file that is up to date.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;
/// What each version has that the one before had not, for people.
pub(super) const BRINGS: [&str; MIGRATIONS.len()] = [
    "bodies, builds, packages, failures and suites",
    "which packages were fetched in parts only",
    "signatures, listings of bodies, and indices to list kernels from",
    "which withdrawals of wrong plans it has been through",
    "proofs, and where all packages of a kernel are",
];
/// Longest value read or written, in bytes; above the longest record. A file that holds a longer
/// one was not written by this program.
const MAX_VALUE: i32 = 1 << 20;
/// How long to wait for another process's write, which is one kernel.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two attempts at what SQLite does not wait for by itself.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens for reading and writing, creates or migrates where needed.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    let start = Instant::now();
    loop {
        match try_writer(path) {
            // Where two processes create or migrate one file at once, each holding a lock the other
            // wants, SQLite tells one of them to let go rather than to wait.
            Err(StoreError::Busy { .. }) if start.elapsed() < BUSY_TIMEOUT => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

fn try_writer(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = connect(path, flags)?;
    let error = |cause| StoreError::from_sqlite(path, cause);
    identify(path, &connection, Access::Write)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(error)?;
    // A commit survives the process, and after a power cut the file is consistent.
    connection.pragma_update(None, "synchronous", "normal").map_err(error)?;
    if let Err(cause) = migrate(&mut connection) {
        // Another process may have created the same file at the same time.
        if version(&connection).map_err(error)? != VERSION {
            return Err(match cause {
                rusqlite_migration::Error::RusqliteError { err, .. } => error(err),
                other => StoreError::Corrupt { path: path.to_owned(), cause: other.to_string() },
            });
        }
    }
    compare_schema(path, &connection, VERSION)?;
    kernels::fill(&connection).map_err(error)?;
    withdraw::apply(&mut connection).map_err(error)?;
    Ok(connection)
}

/// Which version an existing file of nfdrop's has, this program's or an older one.
pub(super) fn version_of(path: &Path) -> Result<i64, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    identify(path, &connect(path, flags)?, Access::Look)
}

/// Opens for reading.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    identify(path, &connection, Access::Read)?;
    Ok(connection)
}

/// Opens a file that nobody writes, as it is without its write-ahead log.
pub(super) fn immutable(path: &Path) -> Result<Connection, StoreError> {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = connect(Path::new(&uri), flags)?;
    identify(path, &connection, Access::Read)?;
    Ok(connection)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Only files of this version.
    Read,
    /// Older ones too.
    Look,
    /// Those, and such that have yet to become a database.
    Write,
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // The file may come from anybody: no code in its schema runs, no value is unbounded.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        Ok(connection)
    };
    open().map_err(|cause| StoreError::from_sqlite(path, cause))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Refuses other programs' files, other versions' files and such with other tables than their version
/// has, before anything is written; the version.
fn identify(path: &Path, connection: &Connection, access: Access) -> Result<i64, StoreError> {
    let error = |cause| StoreError::from_sqlite(path, cause);
    // One transaction: another process may be creating or migrating the file right now.
    let connection = connection.unchecked_transaction().map_err(error)?;
    let look = || -> rusqlite::Result<(i32, i64, bool)> {
        let id = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema)";
        Ok((id, version(&connection)?, connection.query_row(sql, [], |row| row.get(0))?))
    };
    let (id, found, has_tables) = look().map_err(error)?;
    let owned = || path.to_owned();
    if id == 0 && found == 0 && !has_tables {
        return if access == Access::Write {
            Ok(0)
        } else {
            Err(StoreError::Empty { path: owned() })
        };
    }
    if id != APPLICATION_ID {
        return Err(StoreError::NotNfdrop { path: owned(), expected: APPLICATION_ID, found: id });
    }
    match found {
        found if found > VERSION => {
            return Err(StoreError::Newer { path: owned(), found, known: VERSION });
        }
        found if found < VERSION && access == Access::Read => {
            return Err(StoreError::Older { path: owned(), found, known: VERSION });
        }
        _ => {}
    }
    compare_schema(path, &connection, found)?;
    if access == Access::Read && !withdraw::is_done(&connection).map_err(error)? {
        return Err(StoreError::Withdrawals { path: owned() });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection) -> Result<(), rusqlite_migration::Error> {
    Migrations::from_slice(MIGRATIONS).to_latest(connection)
}

/// The tables, indices, views and triggers, as SQL.
fn schema(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name || ': ' || coalesce(sql, '') FROM sqlite_schema \
               WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// Whether the tables are those of this version. A view or trigger under a table's name would run when
/// the table is used.
fn compare_schema(path: &Path, connection: &Connection, version: i64) -> Result<(), StoreError> {
    let error = |cause| StoreError::from_sqlite(path, cause);
    let found = schema(connection).map_err(error)?;
    let mut fresh = Connection::open_in_memory().map_err(error)?;
    let version = usize::try_from(version).unwrap_or(0);
    Migrations::from_slice(MIGRATIONS)
        .to_version(&mut fresh, version)
        .map_err(|cause| StoreError::Corrupt { path: path.to_owned(), cause: cause.to_string() })?;
    let expected = schema(&fresh).map_err(error)?;
    let differs = |a: &[String], b: &[String]| a.iter().find(|sql| !b.contains(sql)).cloned();
    match differs(&found, &expected).or_else(|| differs(&expected, &found)) {
        None => Ok(()),
        Some(sql) => {
            let what = sql.chars().take(60).collect();
            Err(StoreError::OtherSchema { path: path.to_owned(), what })
        }
    }
}

/// A new file of an older version.
#[cfg(any(test, feature = "test-util"))]
pub(super) fn older(path: &Path, version: usize) -> Connection {
    let mut connection = Connection::open(path).expect("a test's folder can be written");
    let migrations = Migrations::from_slice(MIGRATIONS);
    migrations.to_version(&mut connection, version).expect("a version that there was");
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migrations_are_valid() {
        Migrations::from_slice(MIGRATIONS).validate().unwrap();
    }
}
