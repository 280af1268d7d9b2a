//! What all requests share.

use crate::{
    database::{Database, QueryError},
    encoding::Encoded,
    metrics::Metrics,
    overview::{Overview, Overviews},
    upstream::Upstream,
};
use std::sync::Arc;

/// What all requests share.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    encoded: Encoded,
    metrics: Metrics,
    overviews: Arc<Overviews>,
    upstream: Option<Upstream>,
}

impl App {
    /// Answers from this database, and asks these servers for what is not in it.
    pub fn new(database: Database, upstream: Option<Upstream>) -> Self {
        let (metrics, overviews) = <(Metrics, _)>::default();
        let encoded = Encoded::new(metrics.encoded_when_asked.clone());
        Self { inner: Arc::new(Inner { database, encoded, metrics, overviews, upstream }) }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// How much there is of everything.
    pub async fn overview(&self) -> Result<Arc<Overview>, QueryError> {
        self.inner.overviews.get(&self.inner.database).await
    }

    /// Bodies in the codings that clients want.
    pub fn encoded(&self) -> &Encoded {
        &self.inner.encoded
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Whom to ask for builds that are not in the database.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.inner.upstream.as_ref()
    }
}
