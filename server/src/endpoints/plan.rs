//! `GET /buildid/<hex>/plan`: the record, resolved or not, in its canonical bytes.

use crate::{
    answer::{A_DAY, Answer, JSON, MINUTES},
    build_id::PathBuildId,
    database::Database,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::Status;

pub(super) async fn get(
    State(database): State<Database>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (record, body) = super::record(&database, build_id).await?;
    let cache = match record.status {
        Status::Resolved => A_DAY,
        Status::Unresolved => MINUTES,
    };
    Ok(Answer { kind: JSON, cache, body }.to(&headers))
}
