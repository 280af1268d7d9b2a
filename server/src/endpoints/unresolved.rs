//! `GET /v1/unresolved`: kernels without a plan, and why.

use super::kernels::{Kernels, Page, Wanted, json};
use crate::{app::App, error::Error};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{Permanence, Reason, Status, store::Failure};
use serde::Serialize;
use utoipa::ToSchema;

/// Most kernels without a build-id in one answer.
const MAX_FAILED: usize = 1000;

/// A kernel that never got to a build-id.
#[derive(Debug, Serialize, ToSchema)]
struct Failed {
    /// `debian`.
    distro: String,
    /// `bookworm-security`.
    suite: String,
    /// As `uname -r` prints it.
    release: String,
    /// Of the packages.
    version: String,
    /// Why.
    reason: Reason,
    /// Whether only a better analyzer changes it; else the next crawl may.
    permanent: bool,
    /// The particulars, for people.
    detail: String,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let Failure { distro, suite, release, version, reason, detail, .. } = failure;
        let permanent = reason.permanence() == Permanence::Permanent;
        Self { distro, suite, release, version, reason, permanent, detail }
    }
}

/// Kernels without a plan.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Unresolved {
    /// With a build-id, a page of them.
    #[serde(flatten)]
    page: Kernels,
    /// Without one, the newest 1000; in the first page only.
    failed: Vec<Failed>,
}

/// Kernels without a plan, the newest release first, and those that never got to a build-id.
#[utoipa::path(
    get,
    operation_id = "unresolved",
    tag = "Kernels",
    path = "/v1/unresolved",
    params(Wanted),
    responses(
        (status = 200, description = "A page of kernels", body = Unresolved),
        (status = 400, description = "The query is wrong", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    Page { mut filter, after, limit }: Page,
    headers: HeaderMap,
) -> Result<Response, Error> {
    // Resolved ones are asked for: there are none here.
    let none = filter.status.replace(Status::Unresolved) == Some(Status::Resolved);
    let read = move |store: &nfdrop_db::Store| {
        if none {
            return Ok((vec![], vec![]));
        }
        let failed = match after {
            None => store.failed_kernels(&filter, MAX_FAILED)?,
            Some(_) => vec![],
        };
        Ok((store.kernels(&filter, after.as_ref(), limit + 1)?, failed))
    };
    let (rows, failed) = app.database().query(read).await?;
    let failed = failed.into_iter().map(Failed::from).collect();
    json(&Unresolved { page: Kernels::page(rows, limit), failed }, &app, &headers)
}
