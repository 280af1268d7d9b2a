//! Every path this server answers.

mod bpftrace;
mod healthz;
mod kprobe_events;
mod plan;
mod provenance;

use crate::{database::Database, error::Error};
use axum::{
    Router,
    http::header,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use nfdrop_db::{BuildId, Plan, Record, Status};
use tower_http::trace::TraceLayer;

/// The router over this database.
pub fn router(database: Database) -> Router {
    Router::new()
        .route("/buildid/{hex}/plan", get(plan::get))
        .route("/buildid/{hex}/provenance", get(provenance::get))
        .route("/buildid/{hex}/nfdrop.bt", get(bpftrace::get))
        .route("/buildid/{hex}/kprobe_events", get(kprobe_events::get))
        .route("/healthz", get(healthz::get))
        .merge(crate::pages::router())
        .fallback(async || Error::NoSuchPath)
        .method_not_allowed_fallback(async || Error::Method)
        .with_state(database)
        .layer(middleware::map_response(no_sniff))
        .layer(TraceLayer::new_for_http())
}

/// Browsers take the media type as it is said: scripts are text here.
async fn no_sniff(response: Response) -> Response {
    ([(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], response).into_response()
}

/// The stored record of a build, and its bytes. They are checked on the way: a broken one is an
/// error here, not a riddle for every client.
async fn record(database: &Database, build_id: BuildId) -> Result<(Record, Vec<u8>), Error> {
    let wanted = build_id.clone();
    let Some(bytes) = database.query(move |store| store.record(&wanted)).await? else {
        return Err(Error::NeverSeen(build_id));
    };
    match Record::parse_canonical(&bytes) {
        Ok(record) => Ok((record, bytes)),
        Err(source) => Err(Error::Broken { build_id, source }),
    }
}

/// The plan of a build, where there is one.
async fn plan_of(database: &Database, build_id: BuildId) -> Result<Plan, Error> {
    match record(database, build_id).await?.0 {
        Record { status: Status::Resolved, plan: Some(plan), .. } => Ok(plan),
        Record { build_id, reason: Some(reason), detail, .. } => {
            Err(Error::Unresolved { build_id, reason, detail })
        }
        Record { build_id, .. } => {
            Err(Error::Broken { build_id, source: nfdrop_db::RecordError::Contradiction })
        }
    }
}
