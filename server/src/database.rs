//! The database, for asynchronous callers, and the records of it that are held in memory.
//!
//! SQLite blocks, so queries run on tokio's blocking threads, at most as many at a time as there are
//! connections; the rest wait in line, inside the request's time. [`Database::follow`] keeps up with what
//! others write, and with another database that is moved onto this one.

use crate::snapshot::{Checked, Held, Holder, Snapshot, State, Tally};
use nfdrop_db::{
    BuildId,
    store::{FileId, Log, Store, StoreError, Watcher, log_of},
};
use rayon::iter::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, watch},
    task, time,
};

/// Queries that run at the same time.
const QUERIES: usize = 8;
/// Records read at a time.
const PAGE: usize = 4096;
/// Fewest records that are worth another processor.
const AT_LEAST: usize = 64;
/// How often it is looked whether there is something new. Costs a few microseconds.
const LOOK: Duration = Duration::from_millis(100);
/// How long a database may be out of reach before this server calls itself not ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database that is only read.
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    queries: Arc<Semaphore>,
    /// `None` while one database takes the place of another, or where that could not be opened.
    store: RwLock<Option<Store>>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// Grows with every change that was noticed.
    generation: AtomicU64,
    follower: Mutex<Follower>,
    /// When it was last looked without an error.
    looked: RwLock<Instant>,
}

/// What following a database needs to remember.
#[derive(Debug)]
struct Follower {
    file: FileId,
    /// The write-ahead log that lay beside it.
    log: Option<FileId>,
    /// Whether that was another database's.
    foreign: bool,
    watcher: Option<Watcher>,
    holder: Holder,
    /// The last build that was read, and its number.
    last: (i64, Option<BuildId>),
    /// What was last complained about.
    complaint: String,
}

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The store says so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The query panicked, or the runtime is shutting down.
    #[error("a query was cut short: {0}")]
    CutShort(String),
    /// Another file is taking the database's place.
    #[error("the database is being replaced")]
    Replaced,
}

/// Why a database cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store says so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its file cannot be looked at.
    #[error("cannot look at {path}: {source}")]
    Look {
        /// The database.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Database {
    /// Opens a database, and reads all its records.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let file = look(&path).or_else(|error| {
            // The store has the better words.
            Store::look_at(&path).map_err(OpenError::from).and(Err(error))
        })?;
        let (store, watcher) = Store::open_for_serving(&path, QUERIES, Log::Own)?;
        let log = FileId::of(&log_of(&path)).ok();
        let database = Self {
            inner: Arc::new(Inner {
                path,
                queries: Arc::new(Semaphore::new(QUERIES)),
                store: RwLock::new(Some(store)),
                snapshot: watch::Sender::default(),
                generation: AtomicU64::new(0),
                follower: Mutex::new(Follower {
                    file,
                    log,
                    foreign: false,
                    watcher: Some(watcher),
                    holder: Holder::default(),
                    last: (-1, None),
                    complaint: String::new(),
                }),
                looked: RwLock::new(Instant::now()),
            }),
        };
        database.look()?;
        Ok(database)
    }

    /// The record of the build with this id, given in hex.
    pub fn record(&self, hex: &[u8]) -> Option<Arc<Held>> {
        self.inner.snapshot.borrow().get(hex).cloned()
    }

    /// All records at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.snapshot.borrow().clone()
    }

    /// All records at this moment, and at every later one.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inner.snapshot.subscribe()
    }

    /// How many records there are.
    pub fn tally(&self) -> Tally {
        self.snapshot().tally().clone()
    }

    /// A number that is another one whenever anything in the database has changed.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Whether the database could be read within the last half minute.
    pub fn is_ready(&self) -> bool {
        read(&self.inner.looked).elapsed() < PATIENCE
    }

    /// Runs `query` aside.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let cut_short = |error: &dyn std::fmt::Display| QueryError::CutShort(error.to_string());
        let inner = self.inner.clone();
        let permit = inner.queries.clone().acquire_owned().await.map_err(|e| cut_short(&e))?;
        let store = read(&inner.store).clone().ok_or(QueryError::Replaced)?;
        let run = move || {
            let result = query(&store);
            // In this order, and moved in: a request that gives up does not end its query, and who has
            // all permits knows that nobody has the store.
            drop(store);
            drop(permit);
            result
        };
        Ok(task::spawn_blocking(run).await.map_err(|e| cut_short(&e))??)
    }

    /// Keeps up with the database for ever.
    pub async fn follow(self) {
        let mut ticks = time::interval(LOOK);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_replaced() {
                self.replace().await;
                continue;
            }
            let database = self.clone();
            let looked = task::spawn_blocking(move || database.look()).await;
            match looked {
                Ok(Ok(())) => self.complain(String::new()),
                Ok(Err(error)) => self.complain(error.to_string()),
                Err(error) => self.complain(error.to_string()),
            }
        }
    }

    /// Whether another file is at the path, or the log of another is gone from beside it.
    fn is_replaced(&self) -> bool {
        let follower = self.lock();
        let path = &self.inner.path;
        look(path).is_ok_and(|file| file != follower.file)
            || (follower.foreign && follower.log != log_id(path))
    }

    /// Reads what is new; blocks.
    fn look(&self) -> Result<(), StoreError> {
        let mut follower = self.lock();
        let follower = &mut *follower;
        let store = read(&self.inner.store).clone();
        if let (Some(watcher), Some(store)) = (&mut follower.watcher, store)
            && watcher.has_changed()?
        {
            self.read_new(follower, &store, &self.snapshot())?;
        } else if follower.watcher.is_none() {
            return Ok(());
        }
        *write(&self.inner.looked) = Instant::now();
        Ok(())
    }

    fn read_new(
        &self,
        follower: &mut Follower,
        store: &Store,
        before: &Snapshot,
    ) -> Result<(), StoreError> {
        let (mut new, mut newer) = (vec![], 0_u64);
        let mut last = follower.last.clone();
        let next_page = |(changed, after): &(i64, Option<BuildId>)| {
            store.changed_after(*changed, after.as_ref(), PAGE)
        };
        let mut page = next_page(&last)?;
        while let Some(end) = page.last() {
            last = (end.changed, Some(end.build_id.clone()));
            // On all processors, while the next page is read.
            let (checked, following) = rayon::join(
                || page.par_iter().with_min_len(AT_LEAST).map(Checked::new).collect::<Vec<_>>(),
                || next_page(&last),
            );
            for (stored, checked) in page.iter().zip(checked) {
                let (held, error) = follower.holder.hold(checked);
                if held.state != State::Broken {
                    newer += u64::from(error.is_some());
                } else if let Some(error) = error {
                    let build_id = &stored.build_id;
                    tracing::error!(%build_id, %error, "stored record is broken: index its package again");
                }
                new.push(held);
            }
            page = following?;
        }
        // Where that failed, all of it is read again.
        follower.last = last;
        if newer > 0 {
            tracing::warn!(
                "{newer} plans are of a newer nfdrop: they are handed out as they are, and shown by no page; \
                 update this server"
            );
        }
        let next = Arc::new(before.with(new));
        self.inner.snapshot.send_replace(next);
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Another file is at the path: it takes the place of the one that is served, once it is known to be
    /// one that can be. Plans are answered from memory meanwhile; queries wait for some milliseconds.
    async fn replace(&self) {
        let path = &self.inner.path;
        if let Err(error) = Store::look_at(path) {
            return self.complain(format!("not taken over: {error}"));
        }
        // Nobody else may have the old one open when the new one is opened beside its files.
        let Ok(all) = self.inner.queries.acquire_many(QUERIES as u32).await else { return };
        let opened = {
            let mut follower = self.lock();
            follower.watcher = None;
            *write(&self.inner.store) = None;
            // What was there beside the old one is not the new one's.
            let log = log_id(path);
            let foreign = log.is_some() && log == follower.log;
            let opened = look(path).and_then(|file| {
                let log = if foreign { Log::Foreign } else { Log::Own };
                let (store, watcher) = Store::open_for_serving(path, QUERIES, log)?;
                Ok((file, store, watcher))
            });
            opened.map(|(file, store, watcher)| {
                *write(&self.inner.store) = Some(store.clone());
                *follower = Follower {
                    file,
                    log: FileId::of(&log_of(path)).ok(),
                    foreign,
                    watcher: Some(watcher),
                    holder: Holder::default(),
                    last: (-1, None),
                    complaint: String::new(),
                };
                store
            })
        };
        drop(all);
        let store = match opened {
            Ok(store) => store,
            Err(error) => return self.complain(error.to_string()),
        };
        let database = self.clone();
        let all = task::spawn_blocking(move || {
            let mut follower = database.lock();
            database.read_new(&mut follower, &store, &Snapshot::default())
        });
        match all.await {
            Ok(Ok(())) => {
                let path = path.display();
                if self.lock().foreign {
                    tracing::warn!(
                        "another database is served now; beside it lies the log of the one before: end \
                         what writes to that, and remove {path}-wal and {path}-shm before anything \
                         writes to the new one"
                    );
                } else {
                    tracing::info!(%path, "another database is served now");
                }
            }
            Ok(Err(error)) => self.complain(error.to_string()),
            Err(error) => self.complain(error.to_string()),
        }
    }

    /// Says what is wrong, once.
    fn complain(&self, complaint: String) {
        let mut follower = self.lock();
        if follower.complaint == complaint {
            return;
        }
        if !complaint.is_empty() {
            let path = self.inner.path.display();
            tracing::error!(%path, "{complaint}; what was read before is served on");
        }
        follower.complaint = complaint;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Follower> {
        self.inner.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(path: &Path) -> Result<FileId, OpenError> {
    FileId::of(path).map_err(|source| OpenError::Look { path: path.to_owned(), source })
}

/// The log beside a database, where there is something in it.
fn log_id(path: &Path) -> Option<FileId> {
    let log = log_of(path);
    let is_empty = std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() == 0);
    FileId::of(&log).ok().filter(|_| !is_empty)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
