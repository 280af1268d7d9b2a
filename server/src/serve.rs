//! The accept loop around the service, and what a stranger can use up.
//!
//! `axum::serve` has no limit on connections, on the time a request's head may take or on its size;
//! so connections are driven here, over the same hyper. Every connection ends: by its peer, when it
//! is idle, when it is old, or when the server shuts down. When there is no place for another one, those
//! that have been idle for longest make it, so that whoever holds thousands open keeps nobody else out.

use crate::{error::Error, metrics::Metrics, service::Service, tls::Tls};
use axum::{
    http::{Request, StatusCode},
    middleware,
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time,
};
use tower_http::timeout::TimeoutLayer;

/// What a stranger can use up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, each with one request at a time.
    pub connections: usize,
    /// For the head of a request to come, and for an idle connection.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Lines of a request's head.
    pub headers: usize,
    /// For an answer to be made.
    pub request: Duration,
    /// For a connection, busy or not.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            head: Duration::from_secs(10),
            head_bytes: 16 << 10,
            headers: 64,
            request: Duration::from_secs(10),
            connection: Duration::from_mins(5),
        }
    }
}

/// How often it is looked for a place while there is none.
const FULL: Duration = Duration::from_millis(20);

/// Connections that wait to be accepted; the kernel has its own limit (`net.core.somaxconn`). Thousands that
/// are ended at once come back at once, and whom there is no room for then waits for seconds until TCP tries
/// again.
const BACKLOG: u32 = 16 << 10;

/// Listens at this address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As `TcpListener::bind` has it: a port that was used a moment ago can be used.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `shutdown` is done; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    service: impl Into<Service>,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut service = service.into();
    service.router = service
        .router
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, limits.request))
        .layer(middleware::map_response(in_our_words));
    let limits = Arc::new(limits);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let open = Arc::new(Open::default());
    let (closing, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    // Accepted, and without a place yet.
    let mut waiting: Option<TcpStream> = None;
    let make_place = || {
        let evicted = open.evict(limits.connections.div_ceil(16));
        if let Some(metrics) = service.metrics() {
            metrics.evicted.inc_by(evicted as u64);
        }
    };
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => {
                    waiting = Some(stream);
                    // Who was told to leave makes the place: looking for others each time would take
                    // longer than all the rest, and end them all.
                    if slots.available_permits() == 0 && open.leaving() == 0 {
                        make_place();
                    }
                }
                Err(error) => wait_out(&error).await,
            },
            Ok(slot) = slots.clone().acquire_owned(), if waiting.is_some() => {
                let Some(stream) = waiting.take() else { continue };
                let (service, tls) = (service.clone(), tls.clone());
                let (limits, closed) = (limits.clone(), closed.clone());
                let place = Open::place(&open);
                connections.spawn(async move {
                    let gauge = service.metrics().map(Counted::new);
                    connect(stream, &service, tls, &limits, closed, &place).await;
                    // Its place last: it is waited for, and then there is a slot.
                    drop((gauge, slot, place));
                });
            }
            // All were busy, or do not leave: by now others may be idle.
            () = time::sleep(FULL), if waiting.is_some() => make_place(),
        }
    }
    drop(waiting);
    drop(listener);
    drop(closing);
    while connections.join_next().await.is_some() {}
}

/// Connections that are open.
#[derive(Debug, Default)]
struct Open {
    places: Mutex<HashMap<u64, Arc<Activity>>>,
    next: AtomicU64,
    /// How many were told to make a place, and have not.
    leaving: AtomicUsize,
}

/// What a connection is doing.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// Milliseconds from `start` at which it became idle; [`BUSY`] while a request is answered.
    idle_since: AtomicU64,
    make_place: Notify,
    /// It was told to.
    leaving: AtomicBool,
}

const BUSY: u64 = u64::MAX;

impl Activity {
    fn idle(&self) {
        self.idle_since.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn busy(&self) {
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    fn idle_at(&self) -> Option<Instant> {
        match self.idle_since.load(Ordering::Relaxed) {
            BUSY => None,
            since => Some(self.start + Duration::from_millis(since)),
        }
    }
}

/// A place among the open connections; given back when dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Open>,
    number: u64,
    activity: Arc<Activity>,
}

impl Open {
    fn place(open: &Arc<Self>) -> Place {
        let number = open.next.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity {
            start: Instant::now(),
            idle_since: AtomicU64::new(0),
            make_place: Notify::new(),
            leaving: AtomicBool::new(false),
        });
        open.lock().insert(number, activity.clone());
        Place { open: open.clone(), number, activity }
    }

    /// Ends up to so many connections that are idle, the longest idle first.
    fn evict(&self, count: usize) -> usize {
        let places = self.lock();
        let staying = places.values().filter(|one| !one.leaving.load(Ordering::Relaxed));
        let mut idle: Vec<_> =
            staying.filter_map(|one| one.idle_at().map(|at| (at, one))).collect();
        idle.sort_unstable_by_key(|(at, _)| *at);
        idle.truncate(count);
        for (_, activity) in &idle {
            activity.leaving.store(true, Ordering::Relaxed);
            activity.make_place.notify_one();
        }
        self.leaving.fetch_add(idle.len(), Ordering::Relaxed);
        idle.len()
    }

    fn leaving(&self) -> usize {
        self.leaving.load(Ordering::Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Under the lock, as they are told.
        let mut places = self.open.lock();
        if self.activity.leaving.load(Ordering::Relaxed) {
            self.open.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        places.remove(&self.number);
    }
}

/// Counts a connection while it is there.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// The layers' own answers have no JSON in them.
async fn in_our_words(response: Response) -> Response {
    match response.status() {
        StatusCode::REQUEST_TIMEOUT => Error::Timeout.into_response(),
        StatusCode::PAYLOAD_TOO_LARGE if !is_json(&response) => Error::Body.into_response(),
        _ => response,
    }
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(axum::http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind == crate::answer::JSON)
}

async fn connect(
    stream: TcpStream,
    service: &Service,
    tls: Option<Arc<Tls>>,
    limits: &Limits,
    closed: watch::Receiver<()>,
    place: &Place,
) {
    let Some(tls) = tls else {
        return drive(stream, service, limits, closed, place).await;
    };
    let handshake = time::timeout(limits.head, tls.acceptor().accept(stream));
    let stream = tokio::select! {
        stream = handshake => stream,
        () = place.activity.make_place.notified() => return,
    };
    match stream {
        Ok(Ok(stream)) => drive(stream, service, limits, closed, place).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
        Err(_) => {}
    }
}

async fn drive(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: &Service,
    limits: &Limits,
    mut closed: watch::Receiver<()>,
    place: &Place,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers);
    let activity = &place.activity;
    let service = service_fn(async |request: Request<Incoming>| {
        activity.busy();
        let response = service.respond(request).await;
        activity.idle();
        Ok::<_, Infallible>(response)
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        result = connection.as_mut() => Some(result),
        _ = closed.changed() => None,
        () = activity.make_place.notified() => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_to_leave_is_not_told_again() {
        let open = Arc::new(Open::default());
        let places: Vec<_> = (0..5_u64)
            .map(|number| {
                let place = Open::place(&open);
                place.activity.idle_since.store(number, Ordering::Relaxed);
                place
            })
            .collect();
        places[0].activity.busy();
        let leave = || -> Vec<_> {
            places.iter().map(|place| place.activity.leaving.load(Ordering::Relaxed)).collect()
        };
        assert_eq!((open.evict(2), open.leaving()), (2, 2));
        assert_eq!(leave(), [false, true, true, false, false], "the longest idle first");
        assert_eq!((open.evict(3), open.leaving()), (2, 4));
        assert_eq!(leave(), [false, true, true, true, true], "nobody who is busy");
        assert_eq!(open.evict(1), 0);
        drop(places);
        assert_eq!(open.leaving(), 0);
    }
}
