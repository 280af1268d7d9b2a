//! `GET /buildid/<hex>/proof`: what booting the kernel showed of its plan, and its signature at
//! `/proof.minisig`. A proof is replaced when the kernel is booted again, so it is not cached for as long as a
//! plan.

use crate::{
    answer::{Answer, JSON, MINUTES, TEXT},
    app::App,
    build_id::PathBuildId,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use nfdrop_db::{BuildId, Proof, store::StoredProof};

/// What booting the kernel showed of its plan.
#[utoipa::path(
    get,
    operation_id = "proof",
    tag = "Builds",
    path = "/buildid/{hex}/proof",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The proof, in its canonical bytes", body = nfdrop_db::Proof),
        (status = 304, description = "The same as what the client has"),
        (status = 400, description = "Not a build-id", body = crate::error::ErrorBody),
        (status = 404, description = "Never seen, without a plan, or not booted yet", body = crate::error::ErrorBody),
        (status = 503, description = "Another server has to be asked, and does not answer", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let proof = find(&app, &build_id, &headers).await?;
    Ok(Answer::new(JSON, MINUTES, proof.bytes).to(&headers, app.encoded()))
}

/// The minisign signature over exactly the bytes of the proof.
#[utoipa::path(
    get,
    operation_id = "proof_signature",
    tag = "Builds",
    path = "/buildid/{hex}/proof.minisig",
    params(("hex" = String, Path, description = "Build-id in lower-case hex", pattern = "^([0-9a-f]{2}){4,64}$")),
    responses(
        (status = 200, description = "The signature", body = String, content_type = "text/plain"),
        (status = 304, description = "The same as what the client has"),
        (status = 400, description = "Not a build-id", body = crate::error::ErrorBody),
        (status = 404, description = "Never seen, without a plan, not booted yet, or not signed", body = crate::error::ErrorBody),
        (status = 503, description = "Another server has to be asked, and does not answer", body = crate::error::ErrorBody),
    )
)]
pub(super) async fn signature(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let proof = find(&app, &build_id, &headers).await?;
    let signature = proof.signature.ok_or(Error::UnsignedProof(build_id))?;
    Ok(Answer::new(TEXT, MINUTES, signature).to(&headers, app.encoded()))
}

/// The proof of a build; another server is asked for it only where the build is not here either.
async fn find(app: &App, build_id: &BuildId, headers: &HeaderMap) -> Result<StoredProof, Error> {
    let wanted = build_id.clone();
    if let Some(proof) = app.database().query(move |store| store.proof(&wanted)).await? {
        return Ok(proof);
    }
    let known = super::record::find(app, build_id, headers).await?;
    if let (super::record::Known::Elsewhere(remote), Some(upstream)) = (&known, app.upstream())
        && let Some(proof) = upstream.proof(build_id, super::record::hops(headers)).await?
        // A plan is kept for a day, and the proof may be of the one that replaced it.
        && Proof::parse_canonical(&proof.bytes).is_ok_and(|proof| proof.is_of(&remote.bytes))
    {
        return Ok(proof);
    }
    // Without a plan there is nothing that booting could show.
    match known.record(build_id)?.reason {
        Some(reason) => {
            let (build_id, detail) = (build_id.clone(), None);
            Err(Error::Unresolved { build_id, reason, detail })
        }
        None => Err(Error::NotBooted(build_id.clone())),
    }
}
