//! `GET /buildid/<hex>/provenance`: the packages that hold this build, as a JSON array. Packages are
//! added by later crawls, so it is not cached for as long as a plan.

use crate::{
    answer::{Answer, JSON, MINUTES},
    app::App,
    build_id::PathBuildId,
    database::QueryError,
    error::Error,
};
use axum::{body::Bytes, extract::State, http::HeaderMap, response::Response};

/// The packages that hold a build.
#[utoipa::path(
    get,
    operation_id = "provenance",
    tag = "Builds",
    path = "/buildid/{hex}/provenance",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The packages", body = Vec<nfdrop_db::Provenance>),
        (status = 304, description = "The same as what the client has"),
        (status = 400, description = "Not a build-id", body = crate::error::ErrorBody),
        (status = 404, description = "Never seen", body = crate::error::ErrorBody),
        (status = 503, description = "Another server has to be asked, and does not answer", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let wanted = build_id.clone();
    let packages = app.database().query(move |store| store.provenance(&wanted)).await?;
    let body: Bytes = match (packages.is_empty(), app.upstream()) {
        (false, _) => {
            serde_json::to_vec(&packages).map_err(|e| QueryError::CutShort(e.to_string()))?.into()
        }
        (true, Some(upstream)) => {
            let elsewhere = upstream.provenance(&build_id, super::record::hops(&headers)).await?;
            elsewhere.ok_or(Error::NeverSeen(build_id))?
        }
        (true, None) => return Err(Error::NeverSeen(build_id)),
    };
    Ok(Answer::new(JSON, MINUTES, body).to(&headers, app.encoded()))
}
