//! `GET /buildid/<hex>/plan`: the record, resolved or not, in its canonical bytes. Most of these requests
//! never come here: [`App`] answers them at once.

use crate::{app::App, build_id::PathBuildId, error::Error};
use axum::{extract::State, http::HeaderMap, response::Response};

pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let known = super::find(&app, &build_id, &headers).await?;
    Ok(known.answer(&build_id)?.to(&headers, app.encoded()))
}
