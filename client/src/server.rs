//! Asking one server for one plan.
//!
//! Servers are not trusted: answers have a size and a time, redirects a number and a direction, and
//! what comes is a plan only after it has passed every check that needs no kernel.

use crate::{
    failure::{Failure, Refusal},
    signature,
};
use nfdrop_db::{BuildId, Record, Status};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header, redirect};
use std::{error::Error, fmt, str::FromStr, time::Duration};

/// Most redirects followed.
const MAX_REDIRECTS: usize = 3;
/// Longest answer of `/v1/plans`, in bytes.
pub const MAX_PLANS: usize = 32 << 20;
/// Longest time to reach a server.
const CONNECT: Duration = Duration::from_secs(3);

/// The URL below which a server, or a static copy of one, answers `buildid/<hex>/plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server(Url);

/// Why something is not a server's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a server's URL ({why}): give http:// or https:// with a host and no query, \
     as in http://127.0.0.1:7767"
)]
pub struct ServerError {
    given: String,
    why: String,
}

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |why: String| ServerError { given: text.to_owned(), why };
        let url: Url = text.parse().map_err(|error| refuse(format!("{error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse(format!("scheme {}", url.scheme())));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it has a query or fragment".to_owned()));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// What a server says.
#[derive(Debug)]
pub enum Answer {
    /// This record, with its canonical bytes.
    Record(Box<Record>, Vec<u8>),
    /// It has never seen the build.
    NeverSeen,
}

impl Answer {
    /// Whether there is a plan in it.
    pub fn is_plan(&self) -> bool {
        matches!(self, Self::Record(record, _) if record.status == Status::Resolved)
    }
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// What it sent must not be used.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It does not answer as it should.
    #[error("{0}")]
    NoAnswer(String),
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// As the server says.
    Any,
    /// Caches on the way ask the server again.
    New,
}

impl Age {
    fn of(self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Any => request,
            Self::New => request.header(header::CACHE_CONTROL, "no-cache"),
        }
    }
}

/// The HTTP side, for all servers.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    timeout: Duration,
    /// Why no certificate is believed, where that is so.
    untrusting: Option<String>,
}

impl Http {
    /// `timeout` is for the whole of one answer, its body included.
    pub fn new(timeout: Duration) -> Result<Self, Failure> {
        // Fails only where it has been done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                .user_agent(concat!("nfdrop-client/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT.min(timeout))
                .timeout(timeout)
                .redirect(redirect::Policy::custom(redirects))
        };
        let (client, untrusting) = match builder().build() {
            Ok(client) => (client, None),
            // Small containers have no certificates of authorities, and http:// needs none.
            Err(error) => {
                let client = builder().tls_certs_only([]).build();
                let client = client.map_err(|error| Failure::Http(innermost(&error)))?;
                (client, Some(innermost(&error)))
            }
        };
        Ok(Self { client, timeout, untrusting })
    }

    /// Asks `server` for the plan of `build_id`.
    pub async fn ask(
        &self,
        server: &Server,
        build_id: &BuildId,
        age: Age,
    ) -> Result<Answer, AskError> {
        let url = format!("{server}/buildid/{build_id}/plan");
        let request = age.of(self.client.get(url)).header(header::ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Answer::NeverSeen),
            status => return Err(AskError::NoAnswer(format!("HTTP status {status}"))),
        }
        let bytes = self.body(&mut response, Record::MAX_BYTES).await?;
        let record = check(&bytes, build_id)?;
        Ok(Answer::Record(Box::new(record), bytes))
    }

    /// Asks `server` for the signature of its record of `build_id`; `None` where it has none.
    pub async fn signature(
        &self,
        server: &Server,
        build_id: &BuildId,
        age: Age,
    ) -> Result<Option<String>, AskError> {
        let url = format!("{server}/buildid/{build_id}/plan.minisig");
        let sent = age.of(self.client.get(url)).send().await;
        let mut response = sent.map_err(|error| self.no_answer(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(AskError::NoAnswer(format!("HTTP status {status}"))),
        }
        let bytes = self.body(&mut response, signature::MAX_BYTES).await?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Sends this request to `/v1/plans` of `server`; `None` where there is no such thing, as on a static
    /// copy.
    pub async fn plans(
        &self,
        server: &Server,
        request: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, AskError> {
        let request = self.client.post(format!("{server}/v1/plans")).body(request);
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| self.no_answer(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => return Ok(None),
            status => return Err(AskError::NoAnswer(format!("HTTP status {status}"))),
        }
        self.body(&mut response, MAX_PLANS).await.map(Some)
    }

    /// All of a body, or one chunk more than `limit` bytes of it.
    async fn body(&self, response: &mut Response, limit: usize) -> Result<Vec<u8>, AskError> {
        let mut bytes = vec![];
        while let Some(chunk) = response.chunk().await.map_err(|error| self.no_answer(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                break; // the checks of what it should be say so
            }
        }
        Ok(bytes)
    }

    /// Whether `server` speaks HTTP at all; the status it answers with.
    pub async fn reach(&self, server: &Server) -> Result<StatusCode, AskError> {
        let answer = self.client.get(format!("{server}/healthz")).send().await;
        answer.map(|response| response.status()).map_err(|error| self.no_answer(&error))
    }

    fn no_answer(&self, error: &reqwest::Error) -> AskError {
        AskError::NoAnswer(if error.is_timeout() {
            format!("no answer within {} s", self.timeout.as_secs())
        } else if error.is_connect() {
            let over_tls = error.url().is_some_and(|url| url.scheme() == "https");
            match self.untrusting.as_ref().filter(|_| over_tls) {
                Some(why) => format!(
                    "cannot connect: {}; {why}: install ca-certificates, or set SSL_CERT_FILE",
                    innermost(error)
                ),
                None => format!("cannot connect: {}", innermost(error)),
            }
        } else {
            innermost(error)
        })
    }
}

/// The record in these bytes, when they are canonical, valid and of this build.
pub fn check(bytes: &[u8], build_id: &BuildId) -> Result<Record, Refusal> {
    let record = Record::parse_canonical(bytes)?;
    if record.build_id == *build_id {
        Ok(record)
    } else {
        Err(Refusal::OtherBuild { expected: build_id.clone(), found: record.build_id })
    }
}

fn redirects(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    let scheme = attempt.url().scheme();
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(format!("more than {MAX_REDIRECTS} redirects"))
    } else if !matches!(scheme, "http" | "https") || (from_https && scheme != "https") {
        let message = format!("redirect to a URL with scheme {scheme} not followed");
        attempt.error(message)
    } else {
        attempt.follow()
    }
}

/// The last cause, which is the one a person can do something about.
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_servers() {
        for (given, shown) in [
            ("http://127.0.0.1:7767", "http://127.0.0.1:7767"),
            ("https://plans.example/nfdrop/", "https://plans.example/nfdrop"),
        ] {
            assert_eq!(given.parse::<Server>().unwrap().to_string(), shown);
        }
        for given in ["127.0.0.1:7767", "ftp://a", "file:///etc/passwd", "http://a/?b", "http://"] {
            assert!(given.parse::<Server>().is_err(), "{given}");
        }
    }
}
