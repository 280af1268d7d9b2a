//! `GET /v1/kernels`: kernels with a build-id, the newest first, a page at a time.

use crate::{
    answer::{Answer, JSON, MINUTES},
    app::App,
    database::QueryError,
    error::Error,
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use nfdrop_db::{
    BuildId, Reason, Status,
    store::{Cursor, KernelFilter, KernelRow},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Kernels of a page, where nothing else is asked for, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Which kernels.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of this distribution, `debian`.
    distro: Option<String>,
    /// Of this series, `6.12`.
    series: Option<String>,
    /// Of this flavour, `cloud-amd64`.
    flavour: Option<String>,
    /// With or without a plan.
    status: Option<Status>,
    /// Without a plan for this reason.
    reason: Option<Reason>,
    /// Behind this one: `next` of the page before.
    pub(super) after: Option<String>,
    /// At most so many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
}

impl Wanted {
    pub(super) fn filter(&self) -> KernelFilter {
        KernelFilter {
            distro: self.distro.clone(),
            series: self.series.clone(),
            flavour: self.flavour.clone(),
            status: self.status,
            reason: self.reason,
        }
    }
}

/// A build, as one release of one distribution.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    release: String,
    /// `debian`.
    distro: String,
    /// Of the object that holds `nft_do_chain`.
    build_id: BuildId,
    /// With or without a plan.
    status: Status,
    /// Why without.
    reason: Option<Reason>,
}

impl From<KernelRow> for Kernel {
    fn from(KernelRow { release, distro, build_id, reason }: KernelRow) -> Self {
        let status = if reason.is_none() { Status::Resolved } else { Status::Unresolved };
        Self { release, distro, build_id, status, reason }
    }
}

/// A page of kernels.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Kernels {
    /// The newest release first.
    kernels: Vec<Kernel>,
    /// `after` of the next page; null: this is the last one.
    next: Option<String>,
}

impl Kernels {
    /// Of one row more than wanted, where there is one.
    pub(super) fn page(mut rows: Vec<KernelRow>, limit: usize) -> Self {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| Cursor::from(row.clone()).to_string());
        Self { kernels: rows.into_iter().map(Kernel::from).collect(), next }
    }
}

/// Kernels with a build-id, the newest release first. All builds of a release are in it: a release is no
/// identity.
#[utoipa::path(
    get,
    path = "/v1/kernels",
    params(Wanted),
    responses(
        (status = 200, description = "A page of kernels", body = Kernels),
        (status = 400, description = "The query is wrong", body = crate::error::Said),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let Query(wanted) = wanted.map_err(|error| Error::BadQuery(error.body_text()))?;
    let (limit, after) = paging(wanted.limit, wanted.after.as_deref())?;
    let filter = wanted.filter();
    let rows = app
        .database()
        .query(move |store| store.kernels(&filter, after.as_ref(), limit + 1))
        .await?;
    json(&Kernels::page(rows, limit), &app, &headers)
}

/// How many, and behind which one.
pub(super) fn paging(
    limit: Option<usize>,
    after: Option<&str>,
) -> Result<(usize, Option<Cursor>), Error> {
    let limit = limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Error::BadQuery(format!("a page has 1 to {MAX_PAGE} kernels, found {limit}")));
    }
    let after = after.map(str::parse).transpose();
    Ok((
        limit,
        after.map_err(|error: nfdrop_db::store::NoCursor| Error::BadQuery(error.to_string()))?,
    ))
}

/// What a crawl may change any time.
pub(super) fn json(
    value: &impl Serialize,
    app: &App,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    let body = serde_json::to_vec(value).map_err(|e| QueryError::CutShort(e.to_string()))?;
    Ok(Answer::new(JSON, MINUTES, body).to(headers, app.encoded()))
}
