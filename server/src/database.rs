//! The store, for asynchronous callers.
//!
//! SQLite blocks, so queries run on tokio's blocking threads, at most as many at a time as the store
//! keeps readers; the rest wait in line, inside the request's time.

use nfdrop_db::store::{Store, StoreError};
use std::sync::Arc;
use tokio::{sync::Semaphore, task};

/// Queries that run at the same time.
const QUERIES: usize = 8;

/// A database that is only read.
#[derive(Debug, Clone)]
pub struct Database {
    store: Store,
    queries: Arc<Semaphore>,
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
}

impl Database {
    /// Reads from this store.
    pub fn new(store: Store) -> Self {
        Self { store, queries: Arc::new(Semaphore::new(QUERIES)) }
    }

    /// Runs `query` aside.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let cut_short = |error: &dyn std::fmt::Display| QueryError::CutShort(error.to_string());
        let permit = self.queries.clone().acquire_owned().await.map_err(|e| cut_short(&e))?;
        let store = self.store.clone();
        let run = move || {
            // Moved in: a request that gives up does not end its query.
            let _permit = permit;
            query(&store)
        };
        Ok(task::spawn_blocking(run).await.map_err(|e| cut_short(&e))??)
    }
}
