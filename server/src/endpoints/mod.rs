//! Every path this server answers.

mod bpftrace;
mod coverage;
mod healthz;
mod kernels;
mod kprobe_events;
mod metrics;
mod minisig;
mod openapi;
mod plan;
mod plans;
mod proof;
mod provenance;
mod unresolved;

pub use openapi::Description;
pub use plans::{MAX_ASKED, QuestionError};

use crate::{
    answer::{Answer, Content},
    app::{self, App},
    error::Error,
    snapshot::State,
    upstream::{Found, HOPS, MAX_HOPS, Remote},
};
use axum::{
    Router,
    http::HeaderMap,
    routing::{get, post},
};
use nfdrop_db::{BuildId, Plan, Record, RecordError, Status};
use std::sync::Arc;
use tower_http::limit::RequestBodyLimitLayer;

/// Bytes of a body where none is expected.
const NO_BODY: usize = 1 << 10;
/// Bytes of the body of a batch: 10,000 of the longest build-ids and releases fit.
pub const BATCH_BODY: usize = 4 << 20;

/// The router over this database.
pub fn router(app: App) -> Router {
    let without_body = Router::new()
        .route("/buildid/{hex}/plan", get(plan::get))
        .route("/buildid/{hex}/plan.minisig", get(minisig::get))
        .route("/buildid/{hex}/provenance", get(provenance::get))
        .route("/buildid/{hex}/proof", get(proof::get))
        .route("/buildid/{hex}/proof.minisig", get(proof::signature))
        .route("/buildid/{hex}/nfdrop.bt", get(bpftrace::get))
        .route("/buildid/{hex}/kprobe_events", get(kprobe_events::get))
        .route("/v1/kernels", get(kernels::get))
        .route("/v1/coverage", get(coverage::get))
        .route("/v1/unresolved", get(unresolved::get))
        .route("/openapi.json", get(openapi::get))
        .route("/healthz", get(healthz::get))
        .route("/healthz/live", get(healthz::live))
        .route("/healthz/ready", get(healthz::ready))
        .route("/metrics", get(metrics::get))
        .merge(crate::pages::router())
        .layer(RequestBodyLimitLayer::new(NO_BODY));
    let with_body = Router::new()
        .route("/v1/plans", post(plans::post))
        .layer(RequestBodyLimitLayer::new(BATCH_BODY));
    without_body
        .merge(with_body)
        .fallback(async || Error::NoSuchPath)
        .method_not_allowed_fallback(async || Error::Method)
        .with_state(app)
}

/// A record, from this database or from another server.
enum Known {
    Here(Arc<crate::snapshot::Held>),
    Elsewhere(Arc<Remote>),
}

impl Known {
    fn answer(&self, build_id: &BuildId) -> Result<Answer, Error> {
        match self {
            Self::Here(held) => app::answer(held.clone()).ok_or_else(|| broken(build_id)),
            Self::Elsewhere(remote) => Ok(Answer {
                kind: crate::answer::JSON,
                cache: match remote.state() {
                    State::Resolved => crate::answer::A_DAY,
                    _ => crate::answer::MINUTES,
                },
                body: Content::Bytes(remote.bytes.clone()),
                tag: remote.tag,
            }),
        }
    }

    fn record(&self, build_id: &BuildId) -> Result<Record, Error> {
        match self {
            Self::Here(held) if held.state == State::Broken => Err(broken(build_id)),
            Self::Here(held) => {
                Record::parse_canonical(&held.bytes()).map_err(|source| Error::of(build_id, source))
            }
            Self::Elsewhere(remote) => remote
                .record
                .clone()
                .map_err(|newer| Error::Newer { build_id: build_id.clone(), schema: newer.schema }),
        }
    }
}

fn broken(build_id: &BuildId) -> Error {
    Error::Broken { build_id: build_id.clone(), source: RecordError::NotCanonical }
}

/// The record of a build.
async fn find(app: &App, build_id: &BuildId, headers: &HeaderMap) -> Result<Known, Error> {
    if let Some(held) = app.database().record(build_id.to_string().as_bytes()) {
        return Ok(Known::Here(held));
    }
    if let Some(upstream) = app.upstream() {
        match upstream.plan(build_id, hops(headers), app.metrics()).await? {
            Found::Record(remote) => return Ok(Known::Elsewhere(remote)),
            Found::NeverSeen => {}
        }
    }
    Err(Error::NeverSeen(build_id.clone()))
}

/// How many servers a question has passed; what is no number has passed enough.
fn hops(headers: &HeaderMap) -> u8 {
    let value =
        headers.get(HOPS).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    value.map_or(0, |hops| hops.unwrap_or(MAX_HOPS))
}

/// The plan of a build, where there is one.
async fn plan_of(app: &App, build_id: &BuildId, headers: &HeaderMap) -> Result<Plan, Error> {
    match find(app, build_id, headers).await?.record(build_id)? {
        Record { status: Status::Resolved, plan: Some(plan), .. } => Ok(plan),
        Record { build_id, reason: Some(reason), detail, .. } => {
            Err(Error::Unresolved { build_id, reason, detail })
        }
        Record { build_id, .. } => {
            Err(Error::Broken { build_id, source: RecordError::Contradiction })
        }
    }
}
