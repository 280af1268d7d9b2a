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
mod record;
mod unresolved;

use crate::{app::App, error::Error};
use axum::{
    Router,
    routing::{get, post},
};
pub use openapi::Description;
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
