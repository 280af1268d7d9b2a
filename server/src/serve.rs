//! The accept loop around the router, and what a stranger can use up.
//!
//! `axum::serve` has no limit on connections, on the time a request's head may take or on its size;
//! so connections are driven here, over the same hyper. Every connection ends: by its peer, when it
//! is idle, when it is old, or when the server shuts down.

use crate::error::Error;
use axum::{
    Router,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};
use tower_http::{limit::RequestBodyLimitLayer, timeout::TimeoutLayer};

/// What a stranger can use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, each with one request at a time; the rest wait in the listen queue.
    pub connections: usize,
    /// For the head of a request to come, and for an idle connection.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Lines of a request's head.
    pub headers: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// For an answer to be made.
    pub request: Duration,
    /// For a connection, busy or not.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(10),
            head_bytes: 16 << 10,
            headers: 64,
            body: 1 << 10,
            request: Duration::from_secs(10),
            connection: Duration::from_mins(5),
        }
    }
}

/// Serves `router` until `shutdown` is done; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let router = router
        .layer(RequestBodyLimitLayer::new(limits.body))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, limits.request))
        .layer(middleware::map_response(in_our_words));
    let limits = Arc::new(limits);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (closing, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            // Never closed, so there is always a slot to wait for.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let service = router.clone();
                    let (limits, closed) = (limits.clone(), closed.clone());
                    connections.spawn(async move {
                        drive(stream, service, &limits, closed).await;
                        drop(slot);
                    });
                }
                Err(error) => wait_out(&error).await,
            }
        }
    }
    drop(listener);
    drop(closing);
    while connections.join_next().await.is_some() {}
}

/// The layers' own answers have no JSON in them.
async fn in_our_words(response: Response) -> Response {
    match response.status() {
        StatusCode::REQUEST_TIMEOUT => Error::Timeout.into_response(),
        StatusCode::PAYLOAD_TOO_LARGE => Error::Body.into_response(),
        _ => response,
    }
}

async fn drive(
    stream: TcpStream,
    service: Router,
    limits: &Limits,
    mut closed: watch::Receiver<()>,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers);
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        _ = closed.changed() => None,
        () = time::sleep(limits.connection) => None,
    };
    let result = if let Some(result) = ended {
        result
    } else {
        connection.as_mut().graceful_shutdown();
        // Longer than an answer takes; a peer that does not read it is left behind.
        time::timeout(2 * limits.request, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Some errors are the peer's, gone by the next call; others (no file descriptors left) stay for a
/// while, and trying at once would only burn time.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "cannot accept connections, trying on");
        time::sleep(Duration::from_millis(200)).await;
    }
}
