//! `POST /v1/plans`: many builds in one question, and all builds of a release.
//!
//! `complete` is false when something that was asked for is missing in the answer, because it would be too
//! long or because another server did not say: it is to be asked for again, and not to be taken for unknown.

use crate::{
    answer::{JSON, NOT_AT_ALL},
    app::App,
    error::{Error, MAX_ASKED, MAX_RELEASE, QuestionError},
    snapshot::{Held, State as Kind},
};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use nfdrop_db::{BuildId, Reason, Record};
use serde::Deserialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// The answer ends behind the entry that makes it longer.
const MAX_ANSWER: usize = 32 << 20;

/// What is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question<'a> {
    /// Build-ids, in lower-case hex.
    #[serde(borrow, default)]
    #[schema(value_type = Vec<BuildId>, max_items = 10_000)]
    build_ids: Vec<Cow<'a, str>>,
    /// Releases, as `uname -r` prints them.
    #[serde(borrow, default)]
    #[schema(value_type = Vec<Release>, max_items = 10_000)]
    releases: Vec<Cow<'a, str>>,
    /// Whether records are left out.
    #[serde(default)]
    only: Option<Only>,
}

/// A release, as `uname -r` prints it.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 255)]
#[expect(dead_code, reason = "only described")]
struct Release(String);

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Only {
    Status,
}

/// What is answered; [`Writer`] writes it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described")]
struct Batch {
    /// Of every build-id, in the order of the question.
    results: Vec<Outcome>,
    /// Of every release, in the order of the question.
    releases: Vec<Builds>,
    /// Whether nothing is missing. What is missing is to be asked for again.
    complete: bool,
}

/// What is known of a build.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described")]
struct Outcome {
    build_id: BuildId,
    #[schema(pattern = "^(resolved|unresolved|unknown)$")]
    status: String,
    reason: Option<Reason>,
    /// Left out where only the status is asked for, and of unknown builds.
    #[schema(required = false)]
    record: Option<Record>,
}

/// All builds of a release.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described")]
struct Builds {
    release: String,
    builds: Vec<Outcome>,
}

/// Many builds in one question, and all builds of releases. At most 10,000 of each.
#[utoipa::path(
    post,
    operation_id = "plans",
    tag = "Builds",
    path = "/v1/plans",
    request_body(content = Question, content_type = "application/json"),
    responses(
        (status = 200, description = "What is known of them", body = Batch),
        (status = 400, description = "Not a question", body = crate::error::ErrorBody),
        (status = 413, description = "The question is too long", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn post(
    State(app): State<App>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    // Cut off by the limit around this, which says so itself; or by the client, who is gone.
    let body = body.map_err(|_| Error::Body)?;
    // An array of its members in their order would do for serde.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(QuestionError::NoObject.into());
    }
    let question: Question<'_> = serde_json::from_slice(&body).map_err(QuestionError::from)?;
    let asked = question.build_ids.len() + question.releases.len();
    let most = question.build_ids.len().max(question.releases.len());
    if most > MAX_ASKED {
        return Err(QuestionError::TooMany(most).into());
    }
    for id in &question.build_ids {
        if !is_plausible(id) {
            // For its words.
            id.parse::<BuildId>().map_err(QuestionError::from)?;
        }
    }
    if let Some(wrong) = question
        .releases
        .iter()
        .map(|release| release.chars().count())
        .find(|length| !(1..=MAX_RELEASE).contains(length))
    {
        return Err(QuestionError::Release(wrong).into());
    }
    let status_only = question.only.is_some();
    let snapshot = app.database().snapshot();
    let mut answer = Writer::new(asked, status_only);

    let (mut elsewhere, mut all_asked) = (std::collections::HashMap::new(), true);
    if let Some(upstream) = app.upstream() {
        let here = |id: &str| snapshot.get(id.as_bytes()).is_some();
        let ids: Vec<&str> =
            question.build_ids.iter().map(|id| &**id).filter(|id| !here(id)).collect();
        if !ids.is_empty() {
            (elsewhere, all_asked) =
                upstream.batch(&ids, status_only, super::record::hops(&headers)).await;
        }
    }
    for id in &question.build_ids {
        match (snapshot.get(id.as_bytes()), elsewhere.get(&**id)) {
            (Some(held), _) => answer.held(held),
            (None, Some(found)) => answer.raw(&found.to_string()),
            (None, None) if all_asked => answer.unknown(id),
            // Who could not be asked may know it.
            (None, None) => answer.complete = false,
        }
    }
    answer.releases();
    if !question.releases.is_empty() {
        let releases: Vec<String> =
            question.releases.iter().map(|release| release.clone().into_owned()).collect();
        let wanted = releases.clone();
        let found = app.database().query(move |store| store.builds_of(&wanted)).await?;
        for (release, builds) in releases.iter().zip(found) {
            let builds = builds.iter().map(BuildId::to_string);
            let held = builds.filter_map(|id| snapshot.get(id.as_bytes()));
            answer.release(release, held)?;
        }
    }
    let kind = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NOT_AT_ALL)];
    Ok((kind, answer.done()).into_response())
}

/// Whether this is a build-id, without making one.
fn is_plausible(id: &str) -> bool {
    (2 * BuildId::MIN_LEN..=2 * BuildId::MAX_LEN).contains(&id.len())
        && id.len().is_multiple_of(2)
        && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Writes the answer. Ids are hex and reasons words, so that only names of releases need escaping.
struct Writer {
    bytes: Vec<u8>,
    status_only: bool,
    complete: bool,
    first: bool,
}

impl Writer {
    fn new(asked: usize, status_only: bool) -> Self {
        let mut bytes = Vec::with_capacity(64 + asked * 96);
        bytes.extend_from_slice(b"{\"results\":[");
        Self { bytes, status_only, complete: true, first: true }
    }

    /// Whether there is place for another entry.
    fn next(&mut self) -> bool {
        if self.bytes.len() > MAX_ANSWER {
            self.complete = false;
            return false;
        }
        if !std::mem::take(&mut self.first) {
            self.bytes.push(b',');
        }
        true
    }

    fn status(&mut self, id: &[u8], state: &str, reason: Option<&str>) {
        self.bytes.extend_from_slice(b"{\"build_id\":\"");
        self.bytes.extend_from_slice(id);
        self.bytes.extend_from_slice(b"\",\"status\":\"");
        self.bytes.extend_from_slice(state.as_bytes());
        match reason {
            None => self.bytes.extend_from_slice(b"\",\"reason\":null"),
            Some(reason) => {
                self.bytes.extend_from_slice(b"\",\"reason\":\"");
                self.bytes.extend_from_slice(reason.as_bytes());
                self.bytes.push(b'"');
            }
        }
    }

    fn held(&mut self, held: &Held) {
        let (state, reason) = match held.state {
            Kind::Resolved => ("resolved", None),
            Kind::Unresolved(reason) => ("unresolved", Some(reason.name())),
            // Nothing can be said of it.
            Kind::Broken => {
                self.complete = false;
                return;
            }
        };
        if self.next() {
            self.status(held.id(), state, reason);
            if !self.status_only {
                self.bytes.extend_from_slice(b",\"record\":");
                self.bytes.extend_from_slice(&held.bytes());
            }
            self.bytes.push(b'}');
        }
    }

    fn unknown(&mut self, id: &str) {
        if self.next() {
            self.status(id.as_bytes(), "unknown", None);
            self.bytes.push(b'}');
        }
    }

    fn raw(&mut self, json: &str) {
        if self.next() {
            self.bytes.extend_from_slice(json.as_bytes());
        }
    }

    fn releases(&mut self) {
        self.bytes.extend_from_slice(b"],\"releases\":[");
        self.first = true;
    }

    /// All builds of a release, or, where one of them cannot be told, nothing: who takes a part for the
    /// whole takes a kernel for covered that may not be.
    fn release<'a>(
        &mut self,
        release: &str,
        builds: impl Iterator<Item = &'a std::sync::Arc<Held>>,
    ) -> Result<(), QuestionError> {
        let (before, first) = (self.bytes.len(), self.first);
        if !self.next() {
            return Ok(());
        }
        self.bytes.extend_from_slice(b"{\"release\":");
        serde_json::to_writer(&mut self.bytes, release)?;
        self.bytes.extend_from_slice(b",\"builds\":[");
        self.first = true;
        let complete = std::mem::replace(&mut self.complete, true);
        for held in builds {
            self.held(held);
        }
        if self.complete {
            self.bytes.extend_from_slice(b"]}");
            (self.complete, self.first) = (complete, false);
        } else {
            self.bytes.truncate(before);
            self.first = first;
        }
        Ok(())
    }

    fn done(mut self) -> Vec<u8> {
        let complete = if self.complete { "true" } else { "false" };
        self.bytes.extend_from_slice(b"],\"complete\":");
        self.bytes.extend_from_slice(complete.as_bytes());
        self.bytes.push(b'}');
        self.bytes
    }
}
