//! What booting a kernel showed: handed out as it is stored, and shown on the page of the build.

use crate::support::{Data, RESOLVED, Server, UNKNOWN, UNRESOLVED, client, id};
use nfdrop_db::{
    Plan, Proof, ProofResult, sample,
    store::{Signer, proof_comment},
};
use reqwest::{Response, StatusCode, header};
use std::sync::Arc;

/// What signs is no business of the server's.
#[derive(Debug)]
struct MadeUp;

impl Signer for MadeUp {
    fn sign(&self, comment: &str, bytes: &[u8]) -> String {
        format!("{comment} with {} bytes\n", bytes.len())
    }
}

fn plan() -> Plan {
    sample::plan(id(RESOLVED))
}

fn proven() -> Proof {
    sample::proof(&sample::resolved(id(RESOLVED)))
}

/// With another result than what was seen says.
fn with(result: ProofResult, detail: &str) -> Proof {
    let mut proof = proven();
    if result == ProofResult::NotBootable {
        return Proof::without(&plan(), result, detail, proof.machine);
    }
    proof.seen.rule_drop -= 1;
    (proof.result, proof.detail) = (result, Some(detail.to_owned()));
    proof
}

async fn get(server: &Server, path: &str) -> Response {
    client().get(server.url(path)).send().await.unwrap()
}

async fn text(server: &Server, path: &str) -> String {
    get(server, path).await.text().await.unwrap()
}

/// The page of the build whose kernel showed this.
async fn page_of(proof: &Proof) -> (Server, Data, String) {
    let data = Data::new();
    data.store.put_proof(proof).unwrap();
    let server = Server::start(&data);
    let page = text(&server, &format!("/build/{RESOLVED}")).await;
    (server, data, page)
}

#[tokio::test]
async fn hands_out_proof_and_signature_as_stored() {
    let data = Data::new();
    data.store.clone().signing(Arc::new(MadeUp)).put_proof(&proven()).unwrap();
    let server = Server::start(&data);
    let bytes = proven().to_bytes();
    let signature = MadeUp.sign(&proof_comment(&id(RESOLVED)), &bytes);
    for (artifact, kind, body) in [
        ("proof", "application/json", bytes),
        ("proof.minisig", "text/plain; charset=utf-8", signature.into_bytes()),
    ] {
        let path = format!("/buildid/{RESOLVED}/{artifact}");
        let response = get(&server, &path).await;
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], kind);
        assert_eq!(headers[header::CACHE_CONTROL], "public, max-age=300");
        assert_eq!(response.bytes().await.unwrap(), body);
        let again =
            client().get(server.url(&path)).header(header::IF_NONE_MATCH, &headers[header::ETAG]);
        assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    }
    let metrics = text(&server, "/metrics").await;
    assert!(metrics.contains("route=\"proof\"") && metrics.contains("route=\"proof.minisig\""));
}

#[tokio::test]
async fn says_why_there_is_no_proof() {
    let data = Data::new();
    let server = Server::start(&data);
    let mut said = String::new();
    for (build, artifact) in [
        (UNKNOWN, "proof"),
        (UNRESOLVED, "proof"),
        (RESOLVED, "proof"),
        (RESOLVED, "proof.minisig"),
    ] {
        let response = get(&server, &format!("/buildid/{build}/{artifact}")).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=300");
        said += &response.text().await.unwrap();
        said.push('\n');
    }
    data.store.put_proof(&proven()).unwrap();
    // A proof is not held in memory, so it is answered at once.
    said += &text(&server, &format!("/buildid/{RESOLVED}/proof.minisig")).await;
    insta::assert_snapshot!(said, @r#"
    {"error":"build 2222222222222222222222222222222222222222 has never been seen here","hint":"check that it is the build-id of nf_tables.ko, or of vmlinux where nf_tables is built in; else crawl the suite that has it: `nfdrop-indexer crawl --db F`"}
    {"error":"build 1111111111111111111111111111111111111111 has no plan: no_site","hint":"only a newer nfdrop-indexer can change that; /plan has the whole record"}
    {"error":"build 0484cf000102030405060708090a0b0c0d0e0f10 has a plan, but nobody has booted this kernel yet","hint":"`nfdrop-ci prove --db F` boots it and stores what it shows"}
    {"error":"build 0484cf000102030405060708090a0b0c0d0e0f10 has a plan, but nobody has booted this kernel yet","hint":"`nfdrop-ci prove --db F` boots it and stores what it shows"}
    {"error":"build 0484cf000102030405060708090a0b0c0d0e0f10 has a proof, but it is not signed","hint":"whoever runs this server signs what it has with `nfdrop-indexer sign --db F --sign-key K`"}
    "#);
}

#[tokio::test]
async fn page_says_what_the_kernel_showed() {
    let (server, _data, page) = page_of(&proven()).await;
    for says in [
        "<span class=\"status yes\">proven</span>",
        "40 drops by rules, 8 by policies",
        "base, jump, policy, accept",
        "goto, verdict_map, reject, equal_handles",
        "0x3fe",
        "[OPTIMIZED]",
        "QEMU 7.2.22, EPYC, tcg",
        &format!("../buildid/{RESOLVED}/proof\""),
        &format!("../buildid/{RESOLVED}/proof.minisig"),
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    assert!(!page.contains("role=\"alert\""), "{page}");
    let home = text(&server, "/").await;
    assert!(home.contains("<th scope=\"col\">booted</th>"), "{home}");
    assert!(home.contains("1/1<span class=\"hidden\"> booted</span>"), "{home}");
    assert!(!home.contains("contradicted"), "{home}");
}

#[tokio::test]
async fn page_raises_alarm_where_the_kernel_contradicts() {
    let why = "rule 4 of table ip t dropped <b>4</b> packets, 3 were reported";
    let (server, _data, page) = page_of(&with(ProofResult::Contradicted, why)).await;
    for says in [
        "<div class=\"reason\" role=\"alert\">",
        "<span class=\"status no\">contradicted</span>",
        "dropped &lt;b&gt;4&lt;/b&gt; packets",
        "39 drops by rules",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let home = text(&server, "/").await;
    assert!(home.contains("<b class=\"status no\">1 contradicted</b>"), "{home}");
}

#[tokio::test]
async fn page_quotes_the_console_of_a_kernel_that_does_not_boot() {
    let console = "the kernel has no console\n[    0.1] panic <x>";
    let (_server, _data, page) = page_of(&with(ProofResult::NotBootable, console)).await;
    for says in [
        "<div class=\"reason later\">",
        "<pre class=\"console\">the kernel has no console\n[    0.1] panic &lt;x&gt;</pre>",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    assert!(!page.contains("parts that ran"), "{page}");
}

#[tokio::test]
async fn page_without_proof_says_what_makes_one() {
    let data = Data::new();
    let server = Server::start(&data);
    let page = text(&server, &format!("/build/{RESOLVED}")).await;
    assert!(page.contains("Nobody has booted this kernel yet. <code>nfdrop-ci prove"), "{page}");
    assert!(!page.contains("/proof"), "{page}");
    let unresolved = text(&server, &format!("/build/{UNRESOLVED}")).await;
    assert!(!unresolved.contains("id=\"booted\""), "{unresolved}");
}

#[tokio::test]
async fn broken_proof_leaves_the_rest_of_the_page() {
    let data = Data::new();
    data.store.put_proof(&proven()).unwrap();
    let connection = rusqlite::Connection::open(data.path()).unwrap();
    connection.execute("UPDATE proofs SET proof = x'00'", ()).unwrap();
    let server = Server::start(&data);
    let page = text(&server, &format!("/build/{RESOLVED}")).await;
    assert!(page.contains("Its proof is damaged") && page.contains("nft_do_chain+0x3fe"), "{page}");
}

#[tokio::test]
async fn proof_of_a_build_of_another_server_comes_from_there() {
    const FAR: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const NOT_BOOTED: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    let (there, here) = (Data::new(), Data::new());
    there.add(sample::resolved(id(FAR)), "6.12.200-far-amd64");
    there.add(sample::resolved(id(NOT_BOOTED)), "6.12.201-far-amd64");
    let proof = sample::proof(&sample::resolved(id(FAR)));
    there.store.clone().signing(Arc::new(MadeUp)).put_proof(&proof).unwrap();
    // Not asked for there: the build is here, and was not booted.
    there.store.put_proof(&proven()).unwrap();
    let other = Server::start(&there);
    let server = Server::with(&here, &["--upstream", &other.url("")]);
    for artifact in ["proof", "proof.minisig"] {
        let path = format!("/buildid/{FAR}/{artifact}");
        let (theirs, ours) = (get(&other, &path).await, get(&server, &path).await);
        assert_eq!(ours.status(), StatusCode::OK, "{artifact}");
        assert_eq!(ours.headers()["etag"], theirs.headers()["etag"], "{artifact}");
        assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap(), "{artifact}");
    }
    for build in [NOT_BOOTED, RESOLVED] {
        let said = text(&server, &format!("/buildid/{build}/proof")).await;
        assert!(said.contains("nobody has booted this kernel yet"), "{said}");
    }
}
