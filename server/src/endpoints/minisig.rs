//! `GET /buildid/<hex>/plan.minisig`: the signature over exactly the bytes of `/plan`, as it was stored
//! with them. This server has no key. It is kept by caches for as long as what it is of.

use crate::{
    answer::{A_DAY, Answer, MINUTES, TEXT},
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
    let (record, _) = super::record(&database, build_id.clone()).await?;
    let wanted = build_id.clone();
    let Some(signature) = database.query(move |store| store.signature(&wanted)).await? else {
        return Err(Error::Unsigned(build_id));
    };
    let cache = match record.status {
        Status::Resolved => A_DAY,
        Status::Unresolved => MINUTES,
    };
    Ok(Answer { kind: TEXT, cache, body: signature.into_bytes() }.to(&headers))
}
