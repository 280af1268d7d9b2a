//! The record of a build, wherever it is known.

use crate::{
    answer::{A_DAY, Answer, Content, JSON, MINUTES},
    app::App,
    error::Error,
    snapshot::{Held, State},
    upstream::{Found, HOPS, MAX_HOPS, Remote},
};
use axum::http::HeaderMap;
use nfdrop_db::{BuildId, Plan, Record, RecordError, Status};
use std::sync::Arc;

/// A record, from this database or from another server.
pub(super) enum Known {
    Here(Arc<Held>),
    Elsewhere(Arc<Remote>),
}

impl Known {
    pub(super) fn answer(&self, build_id: &BuildId) -> Result<Answer, Error> {
        match self {
            Self::Here(held) => Answer::of_record(held.clone()).ok_or_else(|| broken(build_id)),
            Self::Elsewhere(remote) => Ok(Answer {
                kind: JSON,
                cache: match remote.state() {
                    State::Resolved => A_DAY,
                    _ => MINUTES,
                },
                body: Content::Bytes(remote.bytes.clone()),
                tag: remote.tag,
            }),
        }
    }

    pub(super) fn record(&self, build_id: &BuildId) -> Result<Record, Error> {
        match self {
            Self::Here(held) if held.state == State::Broken => Err(broken(build_id)),
            Self::Here(held) => {
                Record::parse_canonical(&held.bytes()).map_err(|source| Error::of(build_id, source))
            }
            Self::Elsewhere(remote) => remote
                .record
                .clone()
                .map_err(|newer| Error::Newer { build_id: build_id.clone(), schema: newer.schema }),
        }
    }
}

fn broken(build_id: &BuildId) -> Error {
    Error::Broken { build_id: build_id.clone(), source: RecordError::NotCanonical }
}

/// The record of a build.
pub(super) async fn find(
    app: &App,
    build_id: &BuildId,
    headers: &HeaderMap,
) -> Result<Known, Error> {
    if let Some(held) = app.database().record(build_id.to_string().as_bytes()) {
        return Ok(Known::Here(held));
    }
    if let Some(upstream) = app.upstream() {
        match upstream.plan(build_id, hops(headers), app.metrics()).await? {
            Found::Record(remote) => return Ok(Known::Elsewhere(remote)),
            Found::NeverSeen => {}
        }
    }
    Err(Error::NeverSeen(build_id.clone()))
}

/// How many servers a question has passed; what is no number has passed enough.
pub(super) fn hops(headers: &HeaderMap) -> u8 {
    let value =
        headers.get(HOPS).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    value.map_or(0, |hops| hops.unwrap_or(MAX_HOPS))
}

/// The plan of a build, where there is one.
pub(super) async fn plan_of(
    app: &App,
    build_id: &BuildId,
    headers: &HeaderMap,
) -> Result<Plan, Error> {
    match find(app, build_id, headers).await?.record(build_id)? {
        Record { status: Status::Resolved, plan: Some(plan), .. } => Ok(plan),
        Record { build_id, reason: Some(reason), detail, .. } => {
            Err(Error::Unresolved { build_id, reason, detail })
        }
        Record { build_id, .. } => {
            Err(Error::Broken { build_id, source: RecordError::Contradiction })
        }
    }
}
