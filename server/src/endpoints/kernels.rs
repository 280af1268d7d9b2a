//! `GET /v1/kernels`: kernels with a build-id, the newest first, a page at a time.

use crate::{
    answer::{Answer, JSON, MINUTES},
    app::App,
    database::QueryError,
    error::Error,
};
use axum::{
    extract::{FromRequestParts, Query, State},
    http::{HeaderMap, request::Parts},
    response::Response,
};
use nfdrop_db::{
    BuildId, Reason, Status,
    store::{Cursor, KernelFilter, KernelRow, NoCursor},
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
    #[param(pattern = "^([0-9a-f]{2}){4,64}:[^:]*:")]
    after: Option<String>,
    /// At most so many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// [`Wanted`], read and checked: what each list of kernels begins with.
#[derive(Debug)]
pub(super) struct Page {
    /// Which kernels.
    pub(super) filter: KernelFilter,
    /// Behind this one.
    pub(super) after: Option<Cursor>,
    /// At most so many.
    pub(super) limit: usize,
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let wanted = Query::<Wanted>::from_request_parts(parts, state).await;
        let Query(wanted) = wanted.map_err(|error| Error::BadQuery(error.body_text()))?;
        let Wanted { distro, series, flavour, status, reason, after, limit } = wanted;
        let limit = limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            let what = format!("a page has 1 to {MAX_PAGE} kernels, found {limit}");
            return Err(Error::BadQuery(what));
        }
        let after = after.map(|text| text.parse()).transpose();
        let after = after.map_err(|error: NoCursor| Error::BadQuery(error.to_string()))?;
        Ok(Self { filter: KernelFilter { distro, series, flavour, status, reason }, after, limit })
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
    operation_id = "kernels",
    tag = "Kernels",
    path = "/v1/kernels",
    params(Wanted),
    responses(
        (status = 200, description = "A page of kernels", body = Kernels),
        (status = 400, description = "The query is wrong", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    Page { filter, after, limit }: Page,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let rows = app
        .database()
        .query(move |store| store.kernels(&filter, after.as_ref(), limit + 1))
        .await?;
    json(&Kernels::page(rows, limit), &app, &headers)
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
