//! `GET /buildid/<hex>/plan.minisig`: the signature over exactly the bytes of `/plan`, as it was stored
//! with them. This server has no key. It is kept by caches for as long as what it is of.

use super::Known;
use crate::{
    answer::{Answer, TEXT},
    app::App,
    build_id::PathBuildId,
    error::Error,
};
use axum::{extract::State, http::HeaderMap, response::Response};

pub(super) async fn get(
    State(app): State<App>,
    PathBuildId(build_id): PathBuildId,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let known = super::find(&app, &build_id, &headers).await?;
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
