//! What is answered when there is nothing to hand out: JSON that says what is wrong and what to do.

use crate::{
    answer::{MINUTES, NOT_AT_ALL},
    database::QueryError,
    upstream::NoAnswer,
};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nfdrop_db::{BuildId, BuildIdError, PlanError, Reason, RecordError};
use serde::Serialize;
use std::sync::Arc;

/// Most builds of one question, and most releases.
pub const MAX_ASKED: usize = 10_000;
/// Longest release, as `uname -r` prints it; the kernel's own limit is 64.
pub(crate) const MAX_RELEASE: usize = 255;
/// Why a question is none.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// Not JSON of a question.
    #[error("the body is not a question: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Not an object.
    #[error("the body is not a JSON object")]
    NoObject,
    /// Too many.
    #[error(
        "at most {MAX_ASKED} builds, and as many releases, can be asked for at once, found {0}"
    )]
    TooMany(usize),
    /// Not a build-id.
    #[error(transparent)]
    BuildId(#[from] BuildIdError),
    /// Not a release.
    #[error("a release has 1 to {MAX_RELEASE} characters, found {0}")]
    Release(usize),
}

/// Why a request gets no data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path holds no build-id.
    #[error(transparent)]
    BadBuildId(#[from] BuildIdError),
    /// No package with this build was ever indexed.
    #[error("build {0} has never been seen here")]
    NeverSeen(BuildId),
    /// The build has no plan, so there is nothing to make a script of.
    #[error(
        "build {build_id} has no plan: {reason}{}",
        .detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
    )]
    Unresolved {
        /// Which build.
        build_id: BuildId,
        /// Why.
        reason: Reason,
        /// Particulars.
        detail: Option<String>,
    },
    /// The record was stored without a key.
    #[error("build {0} is known, but its record is not signed")]
    Unsigned(BuildId),
    /// The build has a plan that was not tried on its kernel.
    #[error("build {0} has a plan, but nobody has booted this kernel yet")]
    NotBooted(BuildId),
    /// The proof was stored without a key.
    #[error("build {0} has a proof, but it is not signed")]
    UnsignedProof(BuildId),
    /// The part of the URL behind `?` is wrong.
    #[error("the query is wrong: {0}")]
    BadQuery(String),
    /// No such path.
    #[error("there is nothing at this path")]
    NoSuchPath,
    /// Not a method of this path.
    #[error("this path does not answer this method")]
    Method,
    /// The answer took too long.
    #[error("the answer took too long")]
    Timeout,
    /// The request's body is too long.
    #[error("the body of this request is too long")]
    Body,
    /// A question is none.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The database was out of reach for too long.
    #[error("the database cannot be read, what is known of it is served on")]
    NotReady,
    /// Other servers have to be asked, and do not answer.
    #[error("it is not known here, and {0}")]
    Upstream(#[from] Arc<NoAnswer>),
    /// A stored record is broken.
    #[error("the stored record of build {build_id} is broken")]
    Broken {
        /// Which build.
        build_id: BuildId,
        /// How.
        source: RecordError,
    },
    /// A stored record is of a newer nfdrop.
    #[error(
        "the plan of build {build_id} has schema {schema}, this server reads {}: it hands it out as it is, \
         and makes nothing of it",
        nfdrop_db::SCHEMA
    )]
    Newer {
        /// Which build.
        build_id: BuildId,
        /// The schema of its plan.
        schema: u64,
    },
    /// The database cannot be read.
    #[error("the database cannot be read")]
    Database(#[from] QueryError),
}

/// The body of an answer that has no data.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    error: String,
    /// What to do.
    hint: &'static str,
}

impl Error {
    /// Of a stored record that cannot be read.
    pub(crate) fn of(build_id: &BuildId, source: RecordError) -> Self {
        let build_id = build_id.clone();
        match source {
            RecordError::Plan(PlanError::NewerSchema(schema)) => Self::Newer { build_id, schema },
            source => Self::Broken { build_id, source },
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadBuildId(_) => (
                StatusCode::BAD_REQUEST,
                MINUTES,
                "use the build-id as `nfdrop-client doctor` prints it: 8 to 128 lower-case hex \
                 digits, not escaped",
            ),
            Self::NeverSeen(_) => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "check that it is the build-id of nf_tables.ko, or of vmlinux where nf_tables is \
                 built in; else crawl the suite that has it: `nfdrop-indexer crawl --db F`",
            ),
            Self::Unresolved { .. } => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "only a newer nfdrop-indexer can change that; /plan has the whole record",
            ),
            Self::Unsigned(_) => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "whoever runs this server signs what it has with `nfdrop-indexer sign --db F \
                 --sign-key K`, and new records with crawl --sign-key K; `nfdrop-indexer keygen` \
                 makes a key",
            ),
            Self::NotBooted(_) => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "`nfdrop-ci prove --db F` boots it and stores what it shows",
            ),
            Self::UnsignedProof(_) => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "whoever runs this server signs what it has with `nfdrop-indexer sign --db F --sign-key K`",
            ),
            Self::BadQuery(_) => {
                (StatusCode::BAD_REQUEST, NOT_AT_ALL, "/openapi.json describes what may be asked")
            }
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                MINUTES,
                "try /buildid/<hex>/plan, /provenance, /proof, /nfdrop.bt or /kprobe_events, / in a browser, or \
                 /openapi.json, which describes all paths",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                NOT_AT_ALL,
                "use GET; only /v1/plans takes POST, and nothing else",
            ),
            Self::Timeout | Self::Database(QueryError::Replaced) => {
                (StatusCode::SERVICE_UNAVAILABLE, NOT_AT_ALL, "try again in some seconds")
            }
            Self::Body => (
                StatusCode::PAYLOAD_TOO_LARGE,
                NOT_AT_ALL,
                "only questions to /v1/plans have one, of at most 4 MiB: ask for fewer builds at once",
            ),
            Self::Question(_) => (
                StatusCode::BAD_REQUEST,
                NOT_AT_ALL,
                "send {\"build_ids\":[\"<hex>\",…],\"releases\":[\"<uname -r>\",…],\"only\":\"status\"}; \
                 /openapi.json describes it",
            ),
            Self::NotReady => {
                (StatusCode::SERVICE_UNAVAILABLE, NOT_AT_ALL, "the server's log says more")
            }
            Self::Upstream(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                NOT_AT_ALL,
                "try again in some seconds; the server's log says more",
            ),
            Self::Newer { .. } => (
                StatusCode::NOT_IMPLEMENTED,
                NOT_AT_ALL,
                "/plan has it; whoever runs this server updates it",
            ),
            Self::Broken { .. } | Self::Database(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                NOT_AT_ALL,
                "try again later; the server's log says more to whoever runs it",
            ),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        // Particulars of the machine go to the log, not to strangers.
        match &self {
            Self::Broken { build_id, source } => {
                tracing::error!(%build_id, %source, "stored record is broken: index its package again");
            }
            Self::Database(cause) => tracing::error!(%cause, "query failed"),
            Self::Upstream(cause) => tracing::debug!(%cause, "upstream"),
            _ => {}
        }
        let (status, cache, hint) = self.parts();
        let body = Json(ErrorBody { error: self.to_string(), hint });
        let mut response = (status, [(header::CACHE_CONTROL, cache)], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
