//! `GET /v1/coverage`: how much of every distribution, series and flavour is resolved.

use crate::{app::App, error::Error};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::store::Cell;
use serde::Serialize;
use utoipa::ToSchema;

/// One distribution, series and flavour.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Covered {
    /// `debian`.
    distro: String,
    /// `6.12`.
    series: String,
    /// `cloud-amd64`.
    flavour: String,
    /// Builds with a plan.
    resolved: u64,
    /// Of those, with a plan that was proven on their kernel.
    proven: u64,
    /// With one that their kernel contradicts.
    contradicted: u64,
    /// Builds without one.
    unresolved: u64,
    /// Kernels that never got to a build-id.
    failed: u64,
}

/// How much is resolved.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Coverage {
    /// By distribution, the newest series first.
    coverage: Vec<Covered>,
}

/// How much of every distribution, series and flavour is resolved. A build that is known as several of them
/// counts in each.
#[utoipa::path(
    get,
    operation_id = "coverage",
    tag = "Kernels",
    path = "/v1/coverage",
    responses((status = 200, description = "All of it", body = Coverage))
)]
pub(super) async fn get(State(app): State<App>, headers: HeaderMap) -> Result<Response, Error> {
    let overview = app.overview().await?;
    let covered = |cell: Cell| {
        let Cell { distro, series, flavour, .. } = cell;
        let Cell { resolved, proven, contradicted, unresolved, failed, .. } = cell;
        Covered { distro, series, flavour, resolved, proven, contradicted, unresolved, failed }
    };
    let coverage = Coverage { coverage: overview.cells.iter().cloned().map(covered).collect() };
    super::kernels::json(&coverage, &app, &headers)
}
