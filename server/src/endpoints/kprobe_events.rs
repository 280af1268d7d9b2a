//! `GET /buildid/<hex>/kprobe_events`: the plan as lines for tracefs.

use crate::{
    answer::{A_DAY, Answer, TEXT},
    build_id::PathBuildId,
    database::Database,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{PlanError, render};

pub(super) async fn get(
    State(database): State<Database>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let plan = super::plan_of(&database, build_id.clone()).await?;
    let broken = |error: PlanError| Error::Broken { build_id, source: error.into() };
    let body = render::kprobe_events(&plan).map_err(broken)?.into_bytes();
    Ok(Answer { kind: TEXT, cache: A_DAY, body }.to(&headers))
}
