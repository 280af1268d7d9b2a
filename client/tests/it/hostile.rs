//! Servers that mean no good, or are broken.

use crate::{
    machine::{Machine, OTHER, RUNNING, id},
    servers::Server,
};
use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures_util::stream;
use nfdrop_db::{Record, sample};
use std::convert::Infallible;

/// Asks this server only; exit code and message, which never come with output.
async fn ask(server: &Server) -> (i32, String) {
    let mut machine = Machine::with_module();
    machine.set("NFDROP_TIMEOUT", "1");
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(ended.stdout, "");
    assert!(!machine.cache(&format!("{RUNNING}.json")).exists());
    (ended.code, ended.stderr.replace(&server.url, "SERVER"))
}

fn good() -> String {
    String::from_utf8(sample::resolved(id(RUNNING)).to_bytes()).unwrap()
}

#[tokio::test]
async fn the_plan_of_another_build_is_refused() {
    let server = Server::answering(sample::resolved(id(OTHER)).to_bytes()).await;
    let (code, message) = ask(&server).await;
    assert_eq!(code, 3);
    insta::assert_snapshot!(message, @"
    error: plan of SERVER refused: it is of build 9999999999999999999999999999999999999999, asked for was 0484cf000102030405060708090a0b0c0d0e0f10
    a plan fits one build only and would probe the wrong instruction of another
    ");
    // Neither outside nor inside.
    let mixed = good().replacen(RUNNING, OTHER, 1);
    let (code, message) = ask(&Server::answering(mixed).await).await;
    assert_eq!(code, 3);
    insta::assert_snapshot!(message, @"
    error: plan of SERVER refused: the record is of build 9999999999999999999999999999999999999999, its plan of build 0484cf000102030405060708090a0b0c0d0e0f10
    check that the URL is a nfdrop server's or mirror's; tell whoever runs it
    ");
}

#[tokio::test]
async fn a_plan_from_the_future_asks_for_an_update() {
    let future = good().replace(r#""plan":{"schema":1,"#, r#""plan":{"schema":2,"new":{},"#);
    let (code, message) = ask(&Server::answering(future).await).await;
    assert_eq!(code, 3);
    insta::assert_snapshot!(message, @"
    error: plan of SERVER refused: plan schema 2 is newer than 1, the newest known here: update nfdrop
    update nfdrop-client, or ask a server of its own age
    ");
}

#[tokio::test]
async fn what_is_not_canonical_is_refused() {
    for other in [format!("{}\n", good()), good().replace(r#","plan""#, r#", "plan""#)] {
        let (code, message) = ask(&Server::answering(other).await).await;
        assert_eq!(code, 3);
        insta::allow_duplicates! {
            insta::assert_snapshot!(message, @"
            error: plan of SERVER refused: the record is not in canonical form
            check that the URL is a nfdrop server's or mirror's; tell whoever runs it
            ");
        }
    }
}

#[tokio::test]
async fn an_invalid_plan_is_refused() {
    for (from, to) in [
        ("nft_do_chain", "commit_creds"),
        (r#""offset":1022"#, r#""offset":9999"#),
        (r#""reg":"r14""#, r#""reg":"cr3""#),
        (r#""symbol_size":1569"#, r#""symbol_size":-1"#),
    ] {
        let changed = good().replacen(from, to, 1);
        assert_ne!(changed, good());
        let (code, message) = ask(&Server::answering(changed).await).await;
        assert_eq!(code, 3, "{to}: {message}");
        assert!(message.starts_with("error: plan of SERVER refused: "), "{message}");
    }
}

#[tokio::test]
async fn garbage_is_refused() {
    let (code, message) = ask(&Server::answering("<html>please log in</html>").await).await;
    assert_eq!(code, 3);
    insta::assert_snapshot!(message, @"
    error: plan of SERVER refused: not a record: expected value at line 1 column 1
    check that the URL is a nfdrop server's or mirror's; tell whoever runs it
    ");
    for garbage in [vec![], vec![0xff; 100], b"null".to_vec(), vec![b'['; 200_000]] {
        let (code, message) = ask(&Server::answering(garbage).await).await;
        assert_eq!(code, 3, "{message}");
    }
}

#[tokio::test]
async fn messages_do_not_reach_the_terminals_controls() {
    let escape = good().replacen(r#"{"build_id""#, "{\"\\u001b]0;owned\\u0007\":1,\"build_id\"", 1);
    let server = Server::answering(escape).await;
    let (code, message) = ask(&server).await;
    assert_eq!(code, 3);
    assert!(message.contains("owned"), "{message}");
    let machine = Machine::with_module();
    let doctor = machine.run(&["doctor", "--server", &server.url]).await.stdout;
    assert!(doctor.contains("owned"), "{doctor}");
    for text in [message, doctor] {
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_body_is_cut_off() {
    let spaces = || stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4096])));
    let endless =
        axum::Router::new().fallback(async move || Response::new(Body::from_stream(spaces())));
    let (code, message) = ask(&Server::routing(endless).await).await;
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("a record has at most 262144 bytes"), "{message}");
    let long = " ".repeat(Record::MAX_BYTES) + &good();
    assert_eq!(ask(&Server::answering(long).await).await.0, 3);
}

#[tokio::test]
async fn silence_ends_with_the_timeout() {
    let server = Server::silent().await;
    let (code, message) = ask(&server).await;
    assert_eq!(code, 1);
    insta::assert_snapshot!(message, @"
    error: no server answered for build 0484cf000102030405060708090a0b0c0d0e0f10
      SERVER: no answer within 1 s
    check the URLs and the network, or give a downloaded plan with --plan FILE
    ");
    // Also where the head comes at once and the body never ends.
    let nothing = || stream::pending::<Result<Bytes, Infallible>>();
    let slow =
        axum::Router::new().fallback(async move || Response::new(Body::from_stream(nothing())));
    let (code, again) = ask(&Server::routing(slow).await).await;
    assert_eq!((code, again), (1, message));
}

#[tokio::test]
async fn redirects_have_an_end_and_a_direction() {
    let circle = Server::answering(Redirect::temporary("/again")).await;
    let (code, message) = ask(&circle).await;
    assert_eq!(code, 1);
    insta::assert_snapshot!(message, @"
    error: no server answered for build 0484cf000102030405060708090a0b0c0d0e0f10
      SERVER: more than 3 redirects
    check the URLs and the network, or give a downloaded plan with --plan FILE
    ");
    assert_eq!(circle.requests(), 4);
    for elsewhere in ["file:///etc/passwd", "ftp://mirror.example/plan"] {
        let (code, message) = ask(&Server::answering(Redirect::temporary(elsewhere)).await).await;
        assert_eq!(code, 1, "{message}");
    }
    // One that leads to a plan is followed.
    let moved = axum::Router::new()
        .route("/there", get(async || good()))
        .fallback(async || Redirect::permanent("/there"));
    let server = Server::routing(moved).await;
    let ended = Machine::with_module().run(&["plan", "--server", &server.url]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[tokio::test]
async fn other_statuses_are_no_answer() {
    for status in [
        StatusCode::NO_CONTENT,
        StatusCode::BAD_REQUEST,
        StatusCode::FORBIDDEN,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ] {
        let server = Server::answering((status, good()).into_response().status()).await;
        let (code, message) = ask(&server).await;
        assert_eq!(code, 1, "{message}");
        assert!(message.contains(&format!("SERVER: HTTP status {}", status.as_u16())), "{message}");
    }
}

#[tokio::test]
async fn a_bad_server_does_not_hide_a_good_one() {
    let bad = Server::answering("garbage").await;
    let good = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    let ended = machine.run(&["plan", "--server", &bad.url, "--server", &good.url]).await;
    assert_eq!(ended.code, 0);
    let stderr = ended.stderr.replace(&bad.url, "BAD");
    insta::assert_snapshot!(stderr, @"
    warning: plan of BAD refused: not a record: expected value at line 1 column 1
    check that the URL is a nfdrop server's or mirror's; tell whoever runs it
    ");
}
