//! The way a request goes: a plan that is in memory is answered at once, everything else goes through axum's
//! router.

use crate::{
    answer::Answer,
    app::App,
    endpoints,
    error::Error,
    metrics::{Metrics, Route},
};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use std::time::Instant;
use tower::ServiceExt as _;

/// The whole server, without connections and their limits.
#[derive(Debug, Clone)]
pub struct Service {
    app: Option<App>,
    /// What a stranger can use up is bounded around it.
    pub(crate) router: Router,
}

impl From<App> for Service {
    fn from(app: App) -> Self {
        Self { router: endpoints::router(app.clone()), app: Some(app) }
    }
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
                at_once(app, request.method(), request.uri().path(), request.headers())
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

/// The answer to a request for a plan, where it is one, and memory has it or nobody else could.
fn at_once(app: &App, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    let hex = path.strip_prefix("/buildid/")?.strip_suffix("/plan")?;
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    match app.database().record(hex.as_bytes()) {
        Some(held) => Some(Answer::of_record(held)?.to(headers, app.encoded())),
        None if app.upstream().is_none() => {
            Some(Error::NeverSeen(hex.parse().ok()?).into_response())
        }
        None => None,
    }
}
