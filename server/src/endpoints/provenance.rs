//! `GET /buildid/<hex>/provenance`: the packages that hold this build, as a JSON array. Packages are
//! added by later crawls, so it is not cached for as long as a plan.

use crate::{
    answer::{Answer, JSON, MINUTES},
    build_id::PathBuildId,
    database::{Database, QueryError},
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};

pub(super) async fn get(
    State(database): State<Database>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wanted = build_id.clone();
    let packages = database.query(move |store| store.provenance(&wanted)).await?;
    if packages.is_empty() {
        return Err(Error::NeverSeen(build_id));
    }
    let body = serde_json::to_vec(&packages).map_err(|e| QueryError::CutShort(e.to_string()))?;
    Ok(Answer { kind: JSON, cache: MINUTES, body }.to(&headers))
}
