//! Hands the text out: `GET /metrics`, and `GET /healthz` for who wants to know that nfdrop runs.
//!
//! Everybody who can connect may ask, so little is to be had by it: one request a connection, few
//! connections, short headers, little time.

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time,
};

/// Longest header; hyper takes no less.
const MAX_HEADER: usize = 8 << 10;
/// When no connection can be taken, the next try is not sooner.
const PAUSE: Duration = Duration::from_millis(100);

/// What strangers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; further ones wait.
    pub connections: usize,
    /// From a connection's begin to its end.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 16, time: Duration::from_secs(5) }
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    text: watch::Sender<String>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens there. To be called within tokio's runtime.
    pub async fn listen(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (text, latest) = watch::channel(String::new());
        let task = tokio::spawn(serve(listener, latest, limits));
        Ok(Self { address, text, task })
    }

    /// Where it listens: with port 0 the system has chosen one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is handed out from now on.
    pub fn publish(&self, text: String) {
        self.text.send_replace(text);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, text: watch::Receiver<String>, limits: Limits) {
    let room = Arc::new(Semaphore::new(limits.connections));
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let text = text.clone();
                tokio::spawn(async move {
                    // Who is too slow, or hangs up, gets nothing more.
                    let _ = time::timeout(limits.time, connection(stream, text)).await;
                    drop(place);
                });
            }
            // Out of files, say; the connection was not taken.
            Err(_) => time::sleep(PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, text: watch::Receiver<String>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &text.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(method: &Method, path: &str, text: &str) -> Response<String> {
    let known = matches!(path, "/metrics" | "/healthz");
    let (status, body) = match (known, method) {
        (false, _) => (StatusCode::NOT_FOUND, "see /metrics and /healthz\n"),
        (true, &Method::GET | &Method::HEAD) if path == "/metrics" => (StatusCode::OK, text),
        (true, &Method::GET | &Method::HEAD) => (StatusCode::OK, "ok\n"),
        (true, _) => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
    };
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn server(limits: Limits) -> Server {
        let server = Server::listen(([127, 0, 0, 1], 0).into(), limits).await.unwrap();
        server.publish("nfdrop_drops_total 1\n".to_owned());
        server
    }

    /// All that comes back until the other side hangs up; what it does not want to read is its affair.
    async fn told(server: &Server, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn asked(server: &Server, line: &str) -> (String, String) {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = told(server, request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn two_paths() {
        let server = server(Limits::default()).await;
        let mut answers = vec![];
        for line in [
            "GET /metrics",
            "HEAD /metrics",
            "GET /metrics?a=b",
            "GET /healthz",
            "GET /",
            "GET /metrics/",
            "POST /metrics",
            "DELETE /healthz",
        ] {
            let (status, body) = asked(&server, line).await;
            answers.push(format!("{line}: {status}: {body:?}"));
        }
        insta::assert_snapshot!(answers.join("\n"), @r#"
        GET /metrics: HTTP/1.1 200 OK: "nfdrop_drops_total 1\n"
        HEAD /metrics: HTTP/1.1 200 OK: ""
        GET /metrics?a=b: HTTP/1.1 200 OK: "nfdrop_drops_total 1\n"
        GET /healthz: HTTP/1.1 200 OK: "ok\n"
        GET /: HTTP/1.1 404 Not Found: "see /metrics and /healthz\n"
        GET /metrics/: HTTP/1.1 404 Not Found: "see /metrics and /healthz\n"
        POST /metrics: HTTP/1.1 405 Method Not Allowed: "only GET and HEAD\n"
        DELETE /healthz: HTTP/1.1 405 Method Not Allowed: "only GET and HEAD\n"
        "#);
        let whole = told(&server, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(whole.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        server.publish("later\n".to_owned());
        assert_eq!(asked(&server, "GET /metrics").await.1, "later\n");
    }

    #[tokio::test]
    async fn what_is_no_request_ends() {
        let server = server(Limits::default()).await;
        assert!(told(&server, b"\x16\x03\x01 no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        let endless = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
        let answer = told(&server, &endless).await;
        assert!(!answer.contains("nfdrop_drops_total"), "{answer}");
        assert_eq!(asked(&server, "GET /healthz").await.1, "ok\n");
    }

    /// One place, and somebody who sits there without a word.
    #[tokio::test]
    async fn who_says_nothing_does_not_keep_others_waiting() {
        let limits = Limits { connections: 1, time: Duration::from_millis(50) };
        let server = server(limits).await;
        let _silent = TcpStream::connect(server.address()).await.unwrap();
        assert_eq!(asked(&server, "GET /healthz").await.1, "ok\n");
    }

    #[tokio::test]
    async fn ends_with_its_owner() {
        let server = server(Limits::default()).await;
        let address = server.address();
        drop(server);
        let refused = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refused).await.expect("it still listens");
    }
}
