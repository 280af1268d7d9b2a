//! How much there is of everything. Counting a million builds takes seconds, so it is counted once and told
//! until the database changes.

use crate::database::{Database, QueryError};
use nfdrop_db::store::{Cell, Counts};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, task};

/// How old what is counted may be while a crawl writes.
const FRESH: Duration = Duration::from_secs(5);

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// Of the whole database.
    pub counts: Counts,
    /// Of every distribution, series and flavour.
    pub cells: Vec<Cell>,
}

/// The last one, and of which generation of the database it is. Who comes while it is made anew waits for
/// it, so that it is made once.
#[derive(Debug, Default)]
pub(crate) struct Overviews(Mutex<Option<(u64, Instant, Arc<Overview>)>>);

impl Overviews {
    /// A request that gives up does not end the count that others wait for.
    pub(crate) async fn get(
        self: &Arc<Self>,
        database: &Database,
    ) -> Result<Arc<Overview>, QueryError> {
        let (overviews, database) = (Arc::clone(self), database.clone());
        let counted = task::spawn(async move { overviews.counted(&database).await });
        counted.await.map_err(|error| QueryError::CutShort(error.to_string()))?
    }

    async fn counted(&self, database: &Database) -> Result<Arc<Overview>, QueryError> {
        let mut last = self.0.lock().await;
        let generation = database.generation();
        if let Some((of, made, overview)) = &*last
            && (*of == generation || made.elapsed() < FRESH)
        {
            return Ok(Arc::clone(overview));
        }
        let read = database
            .query(|store| Ok(Overview { counts: store.counts()?, cells: store.coverage()? }));
        let overview = Arc::new(read.await?);
        *last = Some((generation, Instant::now(), Arc::clone(&overview)));
        Ok(overview)
    }
}
