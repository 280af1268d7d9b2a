//! What all requests share, and the way a request goes: a plan that is in memory is answered at once,
//! everything else goes through axum's router.

use crate::{
    answer::{A_DAY, Answer, Content, JSON, MINUTES},
    database::{Database, QueryError},
    encoding::Encoded,
    endpoints,
    error::Error,
    metrics::{Metrics, Route},
    overview::{Overview, Overviews},
    snapshot::{Held, State},
    upstream::Upstream,
};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use std::{sync::Arc, time::Instant};
use tower::ServiceExt as _;

/// What all requests share.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    encoded: Encoded,
    metrics: Metrics,
    overviews: Arc<Overviews>,
    upstream: Option<Upstream>,
}

impl App {
    /// Answers from this database, and asks these servers for what is not in it.
    pub fn new(database: Database, upstream: Option<Upstream>) -> Self {
        let (metrics, overviews) = <(Metrics, _)>::default();
        let encoded = Encoded::new(metrics.encoded_when_asked.clone());
        Self { inner: Arc::new(Inner { database, encoded, metrics, overviews, upstream }) }
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// How much there is of everything.
    pub async fn overview(&self) -> Result<Arc<Overview>, QueryError> {
        self.inner.overviews.get(&self.inner.database).await
    }

    /// Bodies in the codings that clients want.
    pub fn encoded(&self) -> &Encoded {
        &self.inner.encoded
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Whom to ask for builds that are not in the database.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.inner.upstream.as_ref()
    }

    /// The whole server, without connections and their limits.
    pub fn service(&self) -> Service {
        Service { app: Some(self.clone()), router: endpoints::router(self.clone()) }
    }

    /// The answer to a request for a plan, where it is one, and memory has it or nobody else could.
    fn at_once(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
        let hex = path.strip_prefix("/buildid/")?.strip_suffix("/plan")?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        match self.database().record(hex.as_bytes()) {
            Some(held) => Some(answer(held)?.to(headers, self.encoded())),
            None if self.upstream().is_none() => {
                Some(Error::NeverSeen(hex.parse().ok()?).into_response())
            }
            None => None,
        }
    }
}

/// A record as it is handed out; `None`: it is broken.
pub fn answer(held: Arc<Held>) -> Option<Answer> {
    let cache = match held.state {
        State::Resolved => A_DAY,
        State::Unresolved(_) => MINUTES,
        State::Broken => return None,
    };
    Some(Answer { kind: JSON, cache, tag: held.tag, body: Content::Held(held) })
}

/// Answers requests, whoever they come from.
#[derive(Debug, Clone)]
pub struct Service {
    app: Option<App>,
    /// What a stranger can use up is bounded around it.
    pub(crate) router: Router,
}

impl From<Router> for Service {
    fn from(router: Router) -> Self {
        Self { app: None, router }
    }
}

impl Service {
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.app.as_ref().map(App::metrics)
    }

    /// The response to a request.
    pub async fn respond<B>(&self, request: Request<B>) -> Response
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let start = Instant::now();
        let route = Route::of(request.method(), request.uri().path());
        let method = request.method().clone();
        let mut response = if method == Method::OPTIONS {
            preflight(request.uri().path())
        } else {
            let at_once = self.app.as_ref().and_then(|app| {
                app.at_once(request.method(), request.uri().path(), request.headers())
            });
            match at_once {
                Some(response) => response,
                // Its error is infallible. On the heap: a connection has room for what is here as long as it
                // is open.
                None => match Box::pin(self.router.clone().oneshot(request.map(Body::new))).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                },
            }
        };
        let headers = response.headers_mut();
        // Plans are public, and pages of others may show them.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        // Browsers take the media type as it is said: scripts are text here.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(app) = &self.app {
            app.metrics().count(route, response.status(), start.elapsed());
        }
        tracing::debug!(%method, ?route, status = response.status().as_u16(), "answered");
        response
    }
}

/// What a browser asks before it sends another page's request with a header such as If-None-Match.
fn preflight(path: &str) -> Response {
    let allowed = match Route::of(&Method::POST, path) {
        Route::Plans => "POST, OPTIONS",
        _ => "GET, HEAD, OPTIONS",
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "if-none-match, accept"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::ALLOW, allowed),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
