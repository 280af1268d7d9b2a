//! The store: one SQLite file with what is known of every kernel a crawl has seen.
//!
//! **Packages N:1 builds N:1 bodies.** Several packages (suites, signed and unsigned) hold the same
//! build; several builds have the same body of `nft_do_chain` with the same layout, and the
//! resolver runs once per body. Kernels that never got to a build-id are kept apart, as failures
//! with their reason.
//!
//! **The content depends on what was seen, not on when.** A crawl may be killed at any point, run
//! in any number of threads and be repeated; the content ends up the same. So every kernel is one
//! transaction, there are no row numbers and no clocks, and where two writes say different things
//! about one build or body the better one stays whatever the order ([`write`]). Times are kept, but
//! are no content: [`Store::content_dump`] leaves them out.
//!
//! **A crawl only adds and updates.** What a mirror dropped stays, and a kernel that has a build
//! never becomes a failure again.
//!
//! Readers have connections of their own which cannot write, and see a consistent state while a
//! crawl writes (WAL).

mod check;
mod column;
mod error;
mod inventory;
mod kernels;
mod listing;
mod maintain;
mod merge;
mod open;
mod proofs;
mod read;
mod sign;
mod signature;
mod stats;
mod valid;
mod watch;
mod withdraw;
mod write;

pub use error::StoreError;
pub use inventory::{Held, HeldProof, Inventory, PackageName};
pub use kernels::{
    Cell, Cursor, KernelFilter, KernelRow, MAX_QUERY, MIN_DIGITS, Matches, NoCursor,
};
pub use listing::PackedListing;
pub use maintain::{Migrated, Vacuumed};
pub use merge::Merged;
pub use proofs::{PackageSet, Provable, SetPackage, StoredProof};
pub use read::{Accept, Changed, Counts, Failure, Known};
pub use sign::Signed;
pub use signature::{MAX_SIGNATURE, Signer, plan_comment, proof_comment};
pub use stats::{Group, Stats, Tally};
pub use watch::{FileId, Log, Watcher, log_of};

use crate::{BuildId, Reason, Record, body::InputKey};
use rusqlite::Connection;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// An open database. Clones share it; it can be used from any number of threads.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
    signer: Option<Arc<dyn Signer>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Readers that nobody uses right now. Dropped before the writer: the last connection to close
    /// puts the write-ahead log into the file, and only a writer can.
    idle: Mutex<Vec<Connection>>,
    /// `None`: opened for reading only.
    writer: Option<Mutex<Connection>>,
}

/// Most idle readers kept.
const MAX_IDLE: usize = 8;

/// A kernel as a source lists it, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelOutcome {
    /// Which kernel.
    pub kernel: Kernel,
    /// What became of it.
    pub outcome: Outcome,
    /// Seconds since 1970; the earliest time stays.
    pub indexed_at: u64,
}

/// A kernel as a source lists it: one release in one suite, and the packages it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// `debian`.
    pub distro: String,
    /// `bookworm-security`.
    pub suite: String,
    /// As `uname -r` prints it.
    pub release: String,
    /// Of the packages.
    pub version: String,
    /// The distribution's name of the architecture, `amd64`.
    pub arch: String,
    /// Fingerprint of the key that signed the index; `None`: not verified.
    pub signed_by: Option<String>,
    /// All packages that the outcome depends on; those of an incomplete set that are there.
    pub packages: Vec<Package>,
}

/// A package of a [`Kernel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Where it is fetched.
    pub url: String,
    /// Lower-case hex; `None`: the index does not say, and it was not fetched.
    pub sha256: Option<String>,
    /// Whether the index says the hash. Where it does not, the URL tells which package this is.
    pub by_hash: bool,
    /// Whether only the needed parts of it were fetched, so that nobody has compared its hash.
    pub transport_only: bool,
}

/// What became of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has a build-id, and the resolver's result is in the record.
    Build(Box<Build>),
    /// It never got to one.
    Failed {
        /// Why.
        reason: Reason,
        /// The particulars, for people.
        detail: String,
        /// Version of the analyzer that says so.
        analyzer: String,
    },
}

/// A build and the package it was found in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// What is served.
    pub record: Record,
    /// `nf_tables` or `vmlinux`.
    pub object: String,
    /// The kernel's name of the architecture, `x86_64`.
    pub arch: String,
    /// Version of the analyzer that made the record; a plan's own `evidence.analyzer`.
    pub analyzer: String,
    /// What the resolver read; `None` where it never ran.
    pub input: Option<InputKey>,
    /// Name of the one of [`Kernel::packages`] that holds the object.
    pub package: String,
    /// Of the kernel image of the same package set.
    pub vmlinux_build_id: Option<BuildId>,
    /// Of the body, where the resolver was just run.
    pub listing: Option<PackedListing>,
}

/// What one suite looked like when it was crawled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `debian`.
    pub distro: String,
    /// `bookworm-security`.
    pub suite: String,
    /// The distribution's name of the architecture, `amd64`.
    pub arch: String,
    /// SHA-256 of the package index, lower-case hex.
    pub index_sha256: Option<String>,
    /// Kernels the index lists. 0 where no mirror offers the suite any more.
    pub kernels: u64,
    /// Fingerprint of the key that signed the index; `None`: not verified.
    pub signed_by: Option<String>,
    /// Why the suite could not be read this time, with particulars; `None`: it could.
    pub failure: Option<(Reason, String)>,
    /// Seconds since 1970 since which it cannot be read. Set by the store.
    pub stale_since: Option<u64>,
    /// Seconds since 1970.
    pub crawled_at: u64,
}

impl Source {
    /// Whether it lists markedly fewer kernels than it did: less than four fifths. A mirror that is half
    /// synchronised looks the same as one with nothing new.
    pub fn has_shrunk(&self, before: u64) -> bool {
        self.kernels.saturating_mul(5) < before.saturating_mul(4)
    }
}

impl Store {
    /// Opens a database for reading and writing; creates it, or brings it to this version.
    pub fn create_or_open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let writer = open::writer(path.as_ref())?;
        Ok(Self::new(path.as_ref(), Some(writer), Vec::new()))
    }

    /// Opens an existing database of this schema for reading and writing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        drop(open::reader(path.as_ref())?);
        Self::create_or_open(path)
    }

    /// Opens an existing database for reading, as the server does.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let reader = open::reader(path.as_ref())?;
        Ok(Self::new(path.as_ref(), None, vec![reader]))
    }

    fn new(path: &Path, writer: Option<Connection>, idle: Vec<Connection>) -> Self {
        let path = path.to_owned();
        let (writer, idle) = (writer.map(Mutex::new), Mutex::new(idle));
        Self { inner: Arc::new(Inner { path, idle, writer }), signer: None }
    }

    /// This store, with every record that is written from here on signed. What is there already is
    /// for [`Store::sign_stored`].
    #[must_use]
    pub fn signing(self, signer: Arc<dyn Signer>) -> Self {
        Self { signer: Some(signer), ..self }
    }

    fn signer(&self) -> Option<&dyn Signer> {
        self.signer.as_deref()
    }

    /// This record's signature, where there is a key.
    fn sign(&self, record: &Record) -> Option<String> {
        self.sign_bytes(&plan_comment(&record.build_id), &record.to_bytes())
    }

    fn sign_bytes(&self, comment: &str, bytes: &[u8]) -> Option<String> {
        Some(self.signer()?.sign(comment, bytes))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs `work` on a reader, in one transaction: it sees one state of the database.
    fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = || self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let connection = match taken {
            Some(connection) => connection,
            None => open::reader(self.path())?,
        };
        let run = || {
            let transaction = connection.unchecked_transaction()?;
            let value = work(&transaction)?;
            transaction.finish()?;
            Ok(value)
        };
        let value = run().map_err(|cause| StoreError::from_sqlite(self.path(), cause));
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
        value
    }
}

#[cfg(test)]
mod tests;
