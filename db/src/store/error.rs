//! What can go wrong with a database file, told apart by what the person in front of it has to do.

use crate::{BuildId, RecordError};
use rusqlite::ErrorCode;
use std::path::{Path, PathBuf};

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error(
        "cannot open the database {path}: {cause}; check that it exists, that its directory is \
         writable (readers need that too, for the files -wal and -shm) and that the user may read it"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        cause: String,
    },
    /// Not an SQLite file.
    #[error("{path} is not a database; name the file that `nfdrop-indexer crawl --db` wrote")]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// An SQLite file of another program.
    #[error(
        "{path} is a database, but not nfdrop's: expected application id {expected:#010x}, found \
         {found:#010x}; name another file"
    )]
    NotNfdrop {
        /// The file.
        path: PathBuf,
        /// nfdrop's application id.
        expected: i32,
        /// The file's.
        found: i32,
    },
    /// Nothing is in the file yet.
    #[error("{path} is empty; name the file that `nfdrop-indexer crawl --db` wrote")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer nfdrop.
    #[error(
        "the database {path} has schema {found}, this program reads {known}: it is newer than this \
         program; take a newer nfdrop, or crawl into a new file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's schema version.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// Opened for reading only, but wants a migration.
    #[error(
        "the database {path} has schema {found}, this program reads {known}: run `nfdrop-indexer db \
         migrate --db {path}`"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The file's schema version.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// It may hold plans that turned out to be wrong.
    #[error(
        "plans were withdrawn since the database {path} was last written: run `nfdrop-indexer db \
         migrate --db {path}`, which takes them out"
    )]
    Withdrawals {
        /// The file.
        path: PathBuf,
    },
    /// The version is right, the tables are not.
    #[error("{path} has other tables than its version says ({what}): restore it, or crawl anew")]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// The file is damaged, or holds what this program never writes.
    #[error("the database {path} is damaged: {cause}; restore it from a copy, or crawl anew")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// The disk, or the file system, failed.
    #[error("reading or writing the database {path} failed: {cause}; check the path and the disk")]
    Io {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        cause: String,
    },
    /// No space left, or the file may not grow.
    #[error("no space left for the database {path}; it is intact: free some space and start again")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process held the lock for longer than the timeout.
    #[error("the database {path} is locked by another process; wait for it to end and start again")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Opened with [`super::Store::open_read_only`].
    #[error("the database {path} was opened for reading only")]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// What was to be stored contradicts itself or is out of bounds.
    #[error("cannot store {field} of {subject}: expected {expected}, found {found}")]
    Invalid {
        /// The kernel or build.
        subject: String,
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A record that is to be stored would be refused by every reader.
    #[error("the record of build {build_id} is not one: {source}")]
    Record {
        /// The build.
        build_id: BuildId,
        /// Why.
        source: RecordError,
    },
    /// Any other failure of SQLite.
    #[error("the database {path} failed: {cause}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        cause: rusqlite::Error,
    },
}

impl StoreError {
    /// Sorts SQLite's error codes.
    pub(super) fn from_sqlite(path: &Path, cause: rusqlite::Error) -> Self {
        let path = path.to_owned();
        // Room for the shared memory beside it: SQLite calls this a failure of the disk.
        let extended = cause.sqlite_error().map(|error| error.extended_code);
        if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
            return Self::Full { path };
        }
        match cause.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::Open { path, cause: cause.to_string() }
            }
            Some(ErrorCode::SystemIoFailure) => Self::Io { path, cause: cause.to_string() },
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::TooBig) => {
                Self::Corrupt { path, cause: cause.to_string() }
            }
            _ => match cause {
                // A column that does not hold what this program writes there.
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::InvalidColumnType(..) => {
                    Self::Corrupt { path, cause: cause.to_string() }
                }
                cause => Self::Sqlite { path, cause },
            },
        }
    }
}
