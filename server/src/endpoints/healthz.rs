//! `GET /healthz`, `/healthz/ready`: 200 while the database can be read, with how many builds it holds;
//! `/healthz/live`: 200 while this process answers at all.

use crate::{
    answer::{JSON, NOT_AT_ALL},
    app::App,
    error::Error,
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

const HEADERS: [(header::HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NOT_AT_ALL)];

pub(super) async fn get(State(app): State<App>) -> Result<Response, Error> {
    if !app.database().is_ready() {
        return Err(Error::NotReady);
    }
    let tally = app.database().tally();
    let unresolved: u64 = tally.unresolved.values().sum();
    let body = format!(
        "{{\"status\":\"ok\",\"resolved\":{},\"unresolved\":{unresolved}}}",
        tally.resolved
    );
    Ok((HEADERS, body).into_response())
}

pub(super) async fn live() -> Response {
    (HEADERS, r#"{"status":"ok"}"#).into_response()
}
