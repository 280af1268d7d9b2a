//! Requests and what their answers mean.

use super::{FetchError, Options, error::transient};
use crate::source::date;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT_RANGES, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RETRY_AFTER},
    redirect,
};
use std::time::{Duration, Instant, SystemTime};

const USER_AGENT: &str =
    concat!("nfdrop-indexer/", env!("CARGO_PKG_VERSION"), " (kernel package indexer)");
/// Mirror networks take one or two.
const REDIRECTS: usize = 5;

pub(super) fn client(options: &Options) -> reqwest::Result<reqwest::Client> {
    let follow = |attempt: redirect::Attempt<'_>| {
        let previous = attempt.previous();
        let was_safe = previous.last().is_some_and(|url| url.scheme() == "https");
        if previous.len() > REDIRECTS {
            attempt.error(format!("more than {REDIRECTS} redirects"))
        } else if was_safe && attempt.url().scheme() != "https" {
            attempt.error("from https to http")
        } else {
            attempt.follow()
        }
    };
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        .redirect(redirect::Policy::custom(follow))
        .build()
}

/// The response, if it holds the whole file.
pub(super) fn accept(url: &Url, response: Response) -> Result<Response, FetchError> {
    match response.status() {
        StatusCode::OK => Ok(response),
        _ => Err(refusal(url, &response)),
    }
}

/// What a response without the file means.
pub(super) fn refusal(url: &Url, response: &Response) -> FetchError {
    let status = response.status();
    let (name, number) = (url.to_string(), status.as_u16());
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            FetchError::NotFound { url: name, status: number }
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => busy(name, response),
        _ if status.is_server_error() => busy(name, response),
        _ => FetchError::Refused { url: name, status: number },
    }
}

fn busy(url: String, response: &Response) -> FetchError {
    let retry_after = text(response.headers(), RETRY_AFTER).and_then(|value| {
        let seconds = value.parse().ok().map(Duration::from_secs);
        seconds.or_else(|| date::parse(&value)?.duration_since(SystemTime::now()).ok())
    });
    FetchError::Transient { url, detail: format!("status {}", response.status()), retry_after }
}

pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// What If-Range takes: a strong `ETag`, else Last-Modified (RFC 9110, 13.1.5). `None` where the
/// server does not serve ranges.
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    if text(headers, ACCEPT_RANGES).is_some_and(|ranges| ranges == "none") {
        return None;
    }
    let etag = text(headers, ETAG).filter(|tag| tag.starts_with('"'));
    etag.or_else(|| text(headers, LAST_MODIFIED)).filter(|value| value.len() <= 256)
}

/// Sees to it that a body ends some time: a server that sends a byte every now and then never lets a
/// timeout between bytes run out.
pub(super) struct Pace {
    begun: Instant,
    bytes: u64,
    patience: Duration,
    lowest_rate: u64,
}

impl Pace {
    pub(super) fn new(options: &Options) -> Self {
        let (patience, lowest_rate) = (options.patience, options.lowest_rate.max(1));
        Self { begun: Instant::now(), bytes: 0, patience, lowest_rate }
    }

    /// The next bytes of the body.
    pub(super) async fn chunk(
        &mut self,
        url: &Url,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, FetchError> {
        let chunk = response.chunk().await.map_err(|error| super::error::broken(url, &error))?;
        self.bytes += chunk.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let expected = Duration::from_millis(self.bytes.saturating_mul(1000) / self.lowest_rate);
        if self.begun.elapsed() > self.patience.saturating_add(expected) {
            let (bytes, rate) = (self.bytes, self.lowest_rate);
            let detail = format!("too slow: {bytes} bytes, less than {rate} in a second");
            return Err(transient(url, &detail));
        }
        Ok(chunk)
    }
}
