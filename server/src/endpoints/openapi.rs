//! `GET /openapi.json`: what this server answers, as `OpenAPI` 3.1, made of the code that answers it.

use crate::{
    answer::{Answer, JSON, MINUTES},
    app::App,
    database::QueryError,
    error::{Error, ErrorBody},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{Proof, Provenance, Record};
use utoipa::OpenApi;

/// All that is for programs. Pages for people are not in it.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "nfdrop",
        description = "Attach plans by build-id: where in nft_do_chain to put kprobes, and where rule, packet and \
                       chain are found there."
    ),
    paths(
        super::plan::get,
        super::minisig::get,
        super::provenance::get,
        super::proof::get,
        super::proof::signature,
        super::bpftrace::get,
        super::kprobe_events::get,
        super::plans::post,
        super::kernels::get,
        super::coverage::get,
        super::unresolved::get,
        super::healthz::get,
        super::healthz::live,
        super::healthz::ready,
        super::metrics::get,
        get,
    ),
    components(schemas(Record, Provenance, Proof, ErrorBody))
)]
pub struct Description;

/// This description.
#[utoipa::path(
    get,
    operation_id = "openapi",
    tag = "Server",
    path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub(super) async fn get(State(app): State<App>, headers: HeaderMap) -> Result<Response, Error> {
    let text = Description::openapi().to_pretty_json();
    let text = text.map_err(|error| QueryError::CutShort(error.to_string()))?;
    Ok(Answer::new(JSON, MINUTES, text).to(&headers, app.encoded()))
}
