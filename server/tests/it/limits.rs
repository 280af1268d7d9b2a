//! What a stranger can use up, with limits small enough to be met at once.

use crate::support::client;
use axum::{Router, routing::get};
use nfdrop_server::{serve, serve::Limits};
use std::{future::pending, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
};

async fn start(
    limits: Limits,
    router: Router,
) -> (String, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(listener, router, None, limits, shutdown));
    (address, stop, served)
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// A handler that says when it was entered, and answers when it is let.
struct Slow {
    router: Router,
    entered: mpsc::Receiver<()>,
    release: watch::Sender<bool>,
}

fn slow() -> Slow {
    let (enter, entered) = mpsc::channel::<()>(1);
    let (release, released) = watch::channel(false);
    let handler = async move || {
        enter.send(()).await.unwrap();
        released.clone().wait_for(|released| *released).await.unwrap();
        "finished"
    };
    Slow { router: Router::new().route("/", get(handler)), entered, release }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// What comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn half_a_request_ends_the_connection() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::default() };
    let (address, _stop, _) = start(limits, hello()).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn an_idle_connection_ends_after_its_answer() {
    let limits = Limits { head: Duration::from_millis(50), ..Limits::default() };
    let (address, _stop, _) = start(limits, hello()).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let text = rest(stream).await;
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("hello"), "{text}");
}

#[tokio::test]
async fn an_old_connection_ends() {
    let limits = Limits { connection: Duration::from_millis(50), ..Limits::default() };
    let (address, _stop, _) = start(limits, hello()).await;
    let stream = TcpStream::connect(&address).await.unwrap();
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn who_is_idle_for_longest_makes_place() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (address, _stop, _) = start(limits, hello()).await;
    let mut begin = [0; 12];
    let mut open = vec![];
    for _ in 0..2 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut third = TcpStream::connect(&address).await.unwrap();
    third.write_all(REQUEST).await.unwrap();
    third.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    // The first one is closed.
    rest(open.remove(0)).await;
}

#[tokio::test]
async fn who_is_busy_is_waited_for() {
    let Slow { router, mut entered, release } = slow();
    let limits = Limits { connections: 1, ..Limits::default() };
    let (address, _stop, _) = start(limits, router).await;
    let mut first = TcpStream::connect(&address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    entered.recv().await.unwrap();
    let mut second = TcpStream::connect(&address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    release.send(true).unwrap();
    for stream in [first, second] {
        let text = rest(stream).await;
        assert!(text.ends_with("finished"), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_503() {
    let limits = Limits { request: Duration::from_millis(50), ..Limits::default() };
    let router = Router::new().route("/", get(async || pending::<&'static str>().await));
    let (address, _stop, _) = start(limits, router).await;
    let response = client().get(format!("http://{address}/")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    insta::assert_snapshot!(response.text().await.unwrap(), @r#"{"error":"the answer took too long","hint":"try again in some seconds"}"#);
}

#[tokio::test]
async fn shutting_down_finishes_what_is_under_way_and_only_that() {
    let Slow { router, mut entered, release } = slow();
    let router = router.route("/never", get(async || pending::<&'static str>().await));
    let limits = Limits { request: Duration::from_millis(200), ..Limits::default() };
    let (address, stop, served) = start(limits, router).await;
    let mut under_way = TcpStream::connect(&address).await.unwrap();
    under_way.write_all(REQUEST).await.unwrap();
    entered.recv().await.unwrap();
    let mut hopeless = TcpStream::connect(&address).await.unwrap();
    hopeless.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stop.send(()).unwrap();
    release.send(true).unwrap();
    let text = rest(under_way).await;
    assert!(text.ends_with("finished"), "{text}");
    served.await.unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
}
