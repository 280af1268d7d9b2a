//! Data with its media type, its lifetime in caches, and a strong validator.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use nfdrop_db::hex;
use sha2::{Digest, Sha256};

/// A plan does not change until the resolver does.
pub const A_DAY: &str = "public, max-age=86400";
/// What a crawl, or a better resolver, may change any time.
pub const MINUTES: &str = "public, max-age=300";
/// What says something about this moment.
pub const NOT_AT_ALL: &str = "no-store";

/// JSON.
pub const JSON: &str = "application/json";
/// Text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Pages.
pub const HTML: &str = "text/html; charset=utf-8";

/// Data that is handed out.
#[derive(Debug)]
pub struct Answer {
    /// Media type.
    pub kind: &'static str,
    /// Value of Cache-Control.
    pub cache: &'static str,
    /// The bytes, exactly.
    pub body: Vec<u8>,
}

impl Answer {
    /// The response to a request with these headers: 304 when the caller has these bytes already.
    pub fn to(self, request: &HeaderMap) -> Response {
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&self.body)));
        let has_it = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| matches(value, &etag));
        let headers = [
            (header::CONTENT_TYPE, self.kind.to_owned()),
            (header::CACHE_CONTROL, self.cache.to_owned()),
            (header::ETAG, etag),
        ];
        if has_it {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, self.body).into_response()
    }
}

/// RFC 9110, 13.1.2: a list of validators or `*`, compared weakly.
fn matches(if_none_match: &str, etag: &str) -> bool {
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_compare_weakly_and_in_lists() {
        for given in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert!(matches(given, "\"a\""), "{given}");
        }
        for given in ["", "a", "\"b\"", "\"A\"", "w/\"a\""] {
            assert!(!matches(given, "\"a\""), "{given}");
        }
    }
}
