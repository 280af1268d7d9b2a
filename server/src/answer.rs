//! Data with its media type, its lifetime in caches, a strong validator, and the coding that the client
//! likes best.

use crate::{
    encoding::{Codings, Encoded, Encoding},
    snapshot::{Held, State},
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

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
    pub body: Content,
    /// The first half of the body's SHA-256.
    pub tag: [u8; 16],
}

impl Answer {
    /// These bytes.
    pub fn new(kind: &'static str, cache: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut tag = [0; 16];
        tag.copy_from_slice(&Sha256::digest(&body)[..16]);
        Self { kind, cache, body: Content::Bytes(body), tag }
    }

    /// A record as it is handed out; `None`: it is broken.
    pub fn of_record(held: Arc<Held>) -> Option<Self> {
        let cache = match held.state {
            State::Resolved => A_DAY,
            State::Unresolved(_) => MINUTES,
            State::Broken => return None,
        };
        Some(Self { kind: JSON, cache, tag: held.tag, body: Content::Held(held) })
    }

    /// The response to a request with these headers: 304 when the caller has these bytes already.
    pub fn to(self, request: &HeaderMap, encoded: &Encoded) -> Response {
        let wanted = if request.contains_key(header::ACCEPT_ENCODING) {
            Encoding::wanted(request)
        } else {
            None
        };
        let mut plain = None;
        let chosen = wanted.and_then(|encoding| {
            let body = match self.body.codings() {
                Some(codings) => codings.get(encoding),
                None => encoded.get(self.tag, encoding, plain.insert(self.body.bytes())),
            };
            body.map(|body| (encoding, body))
        });
        // A strong validator is of the bytes that are sent (RFC 9110, 8.8.3.3).
        let etag = etag(self.tag, chosen.as_ref().map(|(encoding, _)| *encoding));
        let has_it = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|value| matches(value.as_bytes(), etag.as_bytes()));
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(self.cache));
        headers.insert(header::ETAG, etag);
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Some((encoding, _)) = &chosen {
            headers.insert(header::CONTENT_ENCODING, encoding.value());
        }
        if has_it {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            let body = chosen.map(|(_, body)| body).or(plain);
            *response.body_mut() = Body::from(body.unwrap_or_else(|| self.body.bytes()));
        }
        response
    }
}

/// The bytes of an answer.
#[derive(Debug)]
pub enum Content {
    /// These.
    Bytes(Bytes),
    /// Those of this record, put together when they are needed.
    Held(Arc<Held>),
}

impl Content {
    fn bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Held(held) => held.bytes().into(),
        }
    }

    fn codings(&self) -> Option<&Codings> {
        match self {
            Self::Bytes(_) => None,
            Self::Held(held) => held.codings.get().map(Box::as_ref),
        }
    }
}

fn etag(tag: [u8; 16], encoding: Option<Encoding>) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(48);
    text.push(b'"');
    for byte in tag {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    if let Some(encoding) = encoding {
        text.push(b'-');
        text.extend(encoding.name().as_bytes());
    }
    text.push(b'"');
    // All of it is visible ASCII.
    HeaderValue::from_maybe_shared(Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// RFC 9110, 13.1.2: a list of validators or `*`, compared weakly.
fn matches(if_none_match: &[u8], etag: &[u8]) -> bool {
    if_none_match
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .any(|one| one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_compare_weakly_and_in_lists() {
        for given in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert!(matches(given.as_bytes(), b"\"a\""), "{given}");
        }
        for given in ["", "a", "\"b\"", "\"A\"", "w/\"a\""] {
            assert!(!matches(given.as_bytes(), b"\"a\""), "{given}");
        }
    }

    #[test]
    fn each_coding_has_a_validator_of_its_own() {
        let tags = [None, Some(Encoding::Gzip), Some(Encoding::Brotli), Some(Encoding::Zstd)]
            .map(|encoding| etag([0xa5; 16], encoding));
        insta::assert_debug_snapshot!(tags, @r#"
        [
            "\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\"",
            "\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5-gzip\"",
            "\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5-br\"",
            "\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5-zstd\"",
        ]
        "#);
    }
}
