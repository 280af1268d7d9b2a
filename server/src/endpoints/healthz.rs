//! `GET /healthz`: 200 while the database can be read, with how many builds it holds.

use crate::{
    answer::{JSON, NOT_AT_ALL},
    database::Database,
    error::Error,
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use nfdrop_db::Store;

pub(super) async fn get(State(database): State<Database>) -> Result<Response, Error> {
    let counts = database.query(Store::counts).await?;
    let unresolved: u64 = counts.unresolved.values().sum();
    let body = format!(
        "{{\"status\":\"ok\",\"resolved\":{},\"unresolved\":{unresolved}}}",
        counts.resolved
    );
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NOT_AT_ALL)];
    Ok((headers, body).into_response())
}
