//! `GET /buildid/<hex>/plan.minisig`: the signature over exactly the bytes of `/plan`, as it was stored
//! with them. This server has no key. It is kept by caches for as long as what it is of.

use super::record::Known;
use crate::{
    answer::{Answer, TEXT},
    app::App,
    build_id::PathBuildId,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};

/// The minisign signature over exactly the bytes of the plan.
#[utoipa::path(
    get,
    operation_id = "signature",
    tag = "Builds",
    path = "/buildid/{hex}/plan.minisig",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The signature", body = String, content_type = "text/plain"),
        (status = 304, description = "The same as what the client has"),
        (status = 400, description = "Not a build-id", body = crate::error::ErrorBody),
        (status = 404, description = "Never seen, or not signed", body = crate::error::ErrorBody),
        (status = 503, description = "Another server has to be asked, and does not answer", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let known = super::record::find(&app, &build_id, &headers).await?;
    let cache = known.answer(&build_id)?.cache;
    let signature = match known {
        Known::Here(_) => {
            let wanted = build_id.clone();
            app.database().query(move |store| store.signature(&wanted)).await?
        }
        Known::Elsewhere(remote) => remote.signature.clone(),
    };
    let signature = signature.ok_or(Error::Unsigned(build_id))?;
    Ok(Answer::new(TEXT, cache, signature).to(&headers, app.encoded()))
}
