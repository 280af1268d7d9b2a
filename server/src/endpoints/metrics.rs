//! `GET /metrics`: for Prometheus.

use crate::{answer::NOT_AT_ALL, app::App, database::QueryError, error::Error};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// For Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((
        status = 200,
        description = "OpenMetrics 1.0",
        body = String,
        content_type = "application/openmetrics-text",
    ))
)]
pub(super) async fn get(State(app): State<App>) -> Result<Response, Error> {
    let text = app.metrics().text(app.database());
    let text = text.map_err(|error| QueryError::CutShort(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, KIND), (header::CACHE_CONTROL, NOT_AT_ALL)], text).into_response())
}
