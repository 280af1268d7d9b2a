//! `GET /buildid/<hex>/kprobe_events`: the plan as lines for tracefs.

use crate::{
    answer::{A_DAY, Answer, TEXT},
    app::App,
    build_id::PathBuildId,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{PlanError, render};

/// The plan as lines for tracefs.
#[utoipa::path(
    get,
    operation_id = "kprobe_events",
    tag = "Builds",
    path = "/buildid/{hex}/kprobe_events",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The lines", body = String, content_type = "text/plain"),
        (status = 304, description = "The same as what the client has"),
        (status = 400, description = "Not a build-id", body = crate::error::ErrorBody),
        (status = 404, description = "Never seen, or without a plan", body = crate::error::ErrorBody),
        (status = 503, description = "Another server has to be asked, and does not answer", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let plan = super::record::plan_of(&app, &build_id, &headers).await?;
    let broken = |error: PlanError| Error::Broken { build_id, source: error.into() };
    let text = render::kprobe_events(&plan).map_err(broken)?;
    Ok(Answer::new(TEXT, A_DAY, text).to(&headers, app.encoded()))
}
