//! `GET /buildid/<hex>/plan`: the record, resolved or not, in its canonical bytes. Most of these requests
//! never come here: [`App`] answers them at once.

use crate::{app::App, build_id::PathBuildId, error::Error};
use axum::{extract::State, http::HeaderMap, response::Response};

/// The record of a build, with or without a plan, in its canonical bytes.
#[utoipa::path(
    get,
    operation_id = "plan",
    tag = "Builds",
    path = "/buildid/{hex}/plan",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The record", body = nfdrop_db::Record),
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
    let known = super::record::find(&app, &build_id, &headers).await?;
    Ok(known.answer(&build_id)?.to(&headers, app.encoded()))
}
