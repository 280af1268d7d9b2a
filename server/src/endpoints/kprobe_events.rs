//! `GET /buildid/<hex>/kprobe_events`: the plan as lines for tracefs.

use crate::{
    answer::{A_DAY, Answer, TEXT},
    app::App,
    build_id::PathBuildId,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{PlanError, render};

pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let plan = super::plan_of(&app, &build_id, &headers).await?;
    let broken = |error: PlanError| Error::Broken { build_id, source: error.into() };
    let text = render::kprobe_events(&plan).map_err(broken)?;
    Ok(Answer::new(TEXT, A_DAY, text).to(&headers, app.encoded()))
}
