//! The build-id in a path.

use crate::error::Error;
use axum::{extract::FromRequestParts, http::request::Parts};
use nfdrop_db::BuildId;

/// The `<hex>` of `/buildid/<hex>/…`, taken from the path as it was sent: one resource has one
/// spelling, so percent-encoded digits are refused as upper-case ones are.
#[derive(Debug)]
pub struct PathBuildId(pub BuildId);

impl<S: Sync> FromRequestParts<S> for PathBuildId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let segment = parts.uri.path().split('/').nth(2).unwrap_or_default();
        Ok(Self(segment.parse()?))
    }
}
