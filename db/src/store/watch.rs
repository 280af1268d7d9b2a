//! Noticing that a database has changed, without reading it.

use super::{Store, StoreError, open};
use rusqlite::Connection;
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
};

/// Which file is at a path: device and inode. A database that is moved onto another is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// Of the file that is at this path now.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
}

/// Tells when others have written to a database.
#[derive(Debug)]
pub struct Watcher {
    connection: Connection,
    path: PathBuf,
    last: Option<i64>,
}

impl Watcher {
    /// Whether anything was committed since the last call; true at the first.
    pub fn has_changed(&mut self) -> Result<bool, StoreError> {
        // <https://www.sqlite.org/pragma.html#pragma_data_version>: says nothing but that it is another
        // number after another connection's commit.
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0));
        let version = version.map_err(|cause| StoreError::from_sqlite(&self.path, cause))?;
        Ok(self.last.replace(version) != Some(version))
    }
}

/// Whose write-ahead log lies beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Its own, or there is none.
    Own,
    /// That of a database which was at this path before. To SQLite they look the same: who opens the new
    /// one as usual reads, and writes, the old one's pages in it.
    Foreign,
}

/// The write-ahead log beside this database.
pub fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

impl Store {
    /// Opens an existing database for reading, as a server does: with all connections it will ever
    /// have, `readers` of them at most in use at once. So none is opened by a path at which another
    /// file may be by then, beside whose log and shared memory this one's must not be opened
    /// (<https://www.sqlite.org/howtocorrupt.html>, 2.4). Beside a foreign log the file is read as it is,
    /// and changes are not noticed.
    pub fn open_for_serving(
        path: impl AsRef<Path>,
        readers: usize,
        log: Log,
    ) -> Result<(Self, Watcher), StoreError> {
        let path = path.as_ref();
        let open = || match log {
            Log::Own => open::reader(path),
            Log::Foreign => open::immutable(path),
        };
        let idle = (0..readers).map(|_| open()).collect::<Result<_, _>>()?;
        let watcher = Watcher { connection: open()?, path: path.to_owned(), last: None };
        Ok((Self::new(path, None, idle), watcher))
    }

    /// Whether the file at this path is a database that can be served. Nothing is locked, made or
    /// recovered beside it.
    pub fn look_at(path: impl AsRef<Path>) -> Result<(), StoreError> {
        open::immutable(path.as_ref()).map(drop)
    }

    /// Puts all that was written into the file itself and empties its log, so that the file can be copied
    /// or moved alone even while a server has it open, which keeps SQLite from doing so. Readers that are
    /// in the middle of something are waited for; whether it was done.
    pub fn finish(&self) -> Result<bool, StoreError> {
        let Some(writer) = &self.inner.writer else { return Ok(false) };
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        // <https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>: the first number is 1 if it was
        // kept from it.
        writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .map(|busy| busy == 0)
            .map_err(|cause| StoreError::from_sqlite(self.path(), cause))
    }
}
