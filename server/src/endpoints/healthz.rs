//! `GET /healthz`, `/healthz/ready`: 200 while the database can be read, with how many builds it holds;
//! `/healthz/live`: 200 while this process answers at all.

use crate::{answer::NOT_AT_ALL, app::App, error::Error};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// How it is.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
    /// Builds with a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<u64>,
    /// Builds without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<u64>,
}

const HEADERS: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, NOT_AT_ALL)];

/// Whether the database can be read, and how many builds it holds.
#[utoipa::path(
    get,
    operation_id = "health",
    tag = "Server",
    path = "/healthz",
    responses(
        (status = 200, description = "It is well", body = Health),
        (status = 503, description = "The database cannot be read", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(State(app): State<App>) -> Result<Response, Error> {
    if !app.database().is_ready() {
        return Err(Error::NotReady);
    }
    let tally = app.database().tally();
    let (resolved, unresolved) = (tally.resolved, tally.unresolved.values().sum());
    Ok(well(Some(resolved), Some(unresolved)))
}

fn well(resolved: Option<u64>, unresolved: Option<u64>) -> Response {
    (HEADERS, Json(Health { status: "ok", resolved, unresolved })).into_response()
}

/// As `/healthz`.
#[utoipa::path(
    get,
    operation_id = "ready",
    tag = "Server",
    path = "/healthz/ready",
    responses(
        (status = 200, description = "It is well", body = Health),
        (status = 503, description = "The database cannot be read", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn ready(app: State<App>) -> Result<Response, Error> {
    get(app).await
}

/// Whether this process answers.
#[utoipa::path(
    get,
    operation_id = "live",
    tag = "Server",
    path = "/healthz/live",
    responses((status = 200, description = "It is well", body = Health))
)]
pub(super) async fn live() -> Response {
    well(None, None)
}
