//! Servers that ask each other.

use crate::support::{Data, RESOLVED, Server, UNKNOWN, UNRESOLVED, client, id};
use nfdrop_db::{Store, sample, store::Signer};
use reqwest::{Response, StatusCode};
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

const FAR: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[derive(Debug)]
struct Word;

impl Signer for Word {
    fn sign(&self, _: &str, record: &[u8]) -> String {
        format!("untrusted comment: of {} bytes\nc2lnbmF0dXJl\n", record.len())
    }
}

/// A database with one build that no other has.
fn far() -> Data {
    let data = Data::new();
    let store: Store = data.store.clone().signing(Arc::new(Word));
    let kernel = sample::kernel(sample::resolved(id(FAR)), "6.12.200-far-amd64");
    store.put_kernel(&kernel).unwrap();
    data
}

async fn get(server: &Server, path: &str) -> Response {
    client().get(server.url(path)).send().await.unwrap()
}

/// A server of which all questions are counted, and answered with these bytes.
fn counting(answer: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (url, asked)
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn what_another_server_knows_is_handed_on_with_its_bytes_and_signature() {
    let (there, here) = (far(), Data::new());
    let other = Server::start(&there);
    let server = Server::with(&here, &["--upstream", &other.url("")]);
    for artifact in ["plan", "plan.minisig", "provenance", "nfdrop.bt", "kprobe_events"] {
        let path = format!("/buildid/{FAR}/{artifact}");
        let (theirs, ours) = (get(&other, &path).await, get(&server, &path).await);
        assert_eq!(ours.status(), StatusCode::OK, "{artifact}");
        for name in ["content-type", "cache-control", "etag"] {
            assert_eq!(ours.headers()[name], theirs.headers()[name], "{artifact} {name}");
        }
        assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap(), "{artifact}");
    }
    // What is here is not asked for there, and what nobody knows is 404.
    assert_eq!(get(&server, &format!("/buildid/{RESOLVED}/plan")).await.status(), StatusCode::OK);
    let unknown = get(&server, &format!("/buildid/{UNKNOWN}/plan")).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    let question =
        format!(r#"{{"build_ids":["{FAR}","{UNKNOWN}","{UNRESOLVED}"],"only":"status"}}"#);
    let answer = client().post(server.url("/v1/plans")).body(question).send().await.unwrap();
    insta::assert_snapshot!(answer.text().await.unwrap().replace("},", "},\n"), @r#"
    {"results":[{"build_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","reason":null,"status":"resolved"},
    {"build_id":"2222222222222222222222222222222222222222","status":"unknown","reason":null},
    {"build_id":"1111111111111111111111111111111111111111","status":"unresolved","reason":"no_site"}],"releases":[],"complete":true}
    "#);
}

#[tokio::test]
async fn a_plan_of_a_newer_nfdrop_is_handed_on_as_it_is() {
    let (there, here) = (far(), Data::new());
    let record = String::from_utf8(sample::resolved(id(FAR)).to_bytes()).unwrap();
    let newer = record.replace(r#""plan":{"schema":1,"#, r#""plan":{"schema":2,"new":{},"#);
    assert_ne!(newer, record);
    let raw = rusqlite::Connection::open(there.path()).unwrap();
    let sql = "UPDATE builds SET record = ?1 WHERE build_id = ?2";
    assert_eq!(raw.execute(sql, (newer.as_bytes(), FAR)).unwrap(), 1);
    let other = Server::start(&there);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let url = other.url("");
    let arguments = ["--upstream", &url, "--upstream-cache", cache.to_str().unwrap()];
    let server = Server::with(&here, &arguments);
    let path = |artifact: &str| format!("/buildid/{FAR}/{artifact}");
    for server in [&other, &server] {
        let plan = get(server, &path("plan")).await;
        assert_eq!(plan.headers()["cache-control"], "public, max-age=86400");
        assert_eq!(plan.text().await.unwrap(), newer);
        assert_eq!(get(server, &path("plan.minisig")).await.status(), StatusCode::OK);
        let script = get(server, &path("nfdrop.bt")).await;
        assert_eq!(script.status(), StatusCode::NOT_IMPLEMENTED);
        let text = script.text().await.unwrap();
        insta::allow_duplicates! {
            insta::assert_snapshot!(text, @r#"{"error":"the plan of build aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa has schema 2, this server reads 1: it hands it out as it is, and makes nothing of it","hint":"/plan has it; whoever runs this server updates it"}"#);
        }
        for only in ["", r#","only":"status""#] {
            let question = format!(r#"{{"build_ids":["{FAR}"]{only}}}"#);
            let answer = client().post(server.url("/v1/plans")).body(question).send().await;
            let text = answer.unwrap().text().await.unwrap();
            assert!(text.contains(r#""status":"resolved""#), "{text}");
            assert_eq!(text.contains(r#""schema":2"#), only.is_empty(), "{text}");
        }
    }
    drop((server, other));
    let alone = Server::with(&here, &arguments);
    assert_eq!(get(&alone, &path("plan")).await.text().await.unwrap(), newer);
}

#[tokio::test]
async fn answers_outlive_the_other_server_and_this_one() {
    let (there, here) = (far(), Data::new());
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let other = Server::start(&there);
    let url = other.url("");
    let arguments = ["--upstream", &url, "--upstream-cache", cache.to_str().unwrap()];
    let path = format!("/buildid/{FAR}/plan");
    let first = Server::with(&here, &arguments);
    assert_eq!(get(&first, &path).await.status(), StatusCode::OK);
    drop((first, other));
    let second = Server::with(&here, &arguments);
    let answer = get(&second, &path).await;
    assert_eq!(answer.bytes().await.unwrap(), sample::resolved(id(FAR)).to_bytes());
    let signature = get(&second, &format!("{path}.minisig")).await.text().await.unwrap();
    assert!(signature.starts_with("untrusted comment: of "), "{signature}");
    // Nobody is there to say whether another build is known.
    let unknown = get(&second, &format!("/buildid/{UNKNOWN}/plan")).await;
    assert_eq!(unknown.status(), StatusCode::SERVICE_UNAVAILABLE);
    let question = format!(r#"{{"build_ids":["{UNKNOWN}"],"only":"status"}}"#);
    let answer = client().post(second.url("/v1/plans")).body(question).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert_eq!(text, r#"{"results":[],"releases":[],"complete":false}"#);
}

#[tokio::test]
async fn equal_questions_are_one_and_a_no_is_kept() {
    let here = Data::new();
    let (url, asked) = counting(NOT_FOUND);
    let server = Server::with(&here, &["--upstream", &url]);
    let path = format!("/buildid/{UNKNOWN}/plan");
    let url = server.url(&path);
    let http = client();
    let mut questions = tokio::task::JoinSet::new();
    for _ in 0..50 {
        questions.spawn(http.get(&url).send());
    }
    while let Some(answer) = questions.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn servers_that_ask_each_other_come_to_an_end() {
    let here = Data::new();
    // Both ports are known before either starts.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (a, b) = (free(), free());
    let with = |own: &str, other: &str| {
        Server::with(&here, &["--listen", own, "--upstream", &format!("http://{other}")])
    };
    let (first, _second) = (with(&a, &b), with(&b, &a));
    let answer = get(&first, &format!("/buildid/{UNKNOWN}/plan")).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_no_record_of_the_build_is_not_handed_on() {
    let here = Data::new();
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "garbage",
    ] {
        let (url, _) = counting(answer);
        let server = Server::with(&here, &["--upstream", &url]);
        for artifact in ["plan", "plan.minisig", "provenance", "nfdrop.bt"] {
            let path = format!("/buildid/{UNKNOWN}/{artifact}");
            let said = get(&server, &path).await;
            assert_eq!(said.status(), StatusCode::SERVICE_UNAVAILABLE, "{answer} {artifact}");
        }
    }
}

#[tokio::test]
async fn only_what_the_key_has_signed_is_handed_on() {
    let (there, here) = (far(), Data::new());
    let other = Server::start(&there);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("nfdrop.pub");
    // minisign's own example, which has signed nothing here.
    std::fs::write(
        &key,
        "untrusted comment: x\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n",
    )
    .unwrap();
    let arguments = ["--upstream", &other.url(""), "--upstream-pubkey", key.to_str().unwrap()];
    let server = Server::with(&here, &arguments);
    let answer = get(&server, &format!("/buildid/{FAR}/plan")).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = answer.text().await.unwrap();
    assert!(text.contains("its signature is refused"), "{text}");
}
