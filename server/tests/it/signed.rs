//! Signatures are handed out as they are stored, and it is said where there is none.

use crate::support::{Data, RESOLVED, Server, UNKNOWN, UNRESOLVED, client, id};
use nfdrop_db::{
    sample,
    store::{Signer, plan_comment},
};
use reqwest::{StatusCode, header};
use std::sync::Arc;

/// What signs is no business of the server's.
#[derive(Debug)]
struct MadeUp;

impl Signer for MadeUp {
    fn sign(&self, comment: &str, record: &[u8]) -> String {
        format!("{comment} with {} bytes\n", record.len())
    }
}

#[tokio::test]
async fn a_signature_is_handed_out_and_kept_as_its_plan_is() {
    let data = Data::new();
    data.store.clone().signing(Arc::new(MadeUp)).sign_stored(|_| ()).unwrap();
    let server = Server::start(&data);
    for (build, kind, lifetime) in [
        (RESOLVED, sample::resolved(id(RESOLVED)), "public, max-age=86400"),
        (UNRESOLVED, sample::unresolved(id(UNRESOLVED)), "public, max-age=300"),
    ] {
        let url = server.url(&format!("/buildid/{build}/plan.minisig"));
        let response = client().get(&url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(headers[header::CACHE_CONTROL], lifetime);
        assert_eq!(
            response.text().await.unwrap(),
            MadeUp.sign(&plan_comment(&id(build)), &kind.to_bytes())
        );
        let again = client().get(&url).header(header::IF_NONE_MATCH, &headers[header::ETAG]);
        assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn there_is_none_of_what_is_not_signed_or_not_known() {
    let data = Data::new();
    let server = Server::start(&data);
    let mut said = String::new();
    for build in [RESOLVED, UNKNOWN] {
        let url = server.url(&format!("/buildid/{build}/plan.minisig"));
        let response = client().get(url).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=300");
        let body = response.bytes().await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        for name in ["error", "hint"] {
            said += body[name].as_str().unwrap();
            said.push('\n');
        }
    }
    insta::assert_snapshot!(said, @"
    build 0484cf000102030405060708090a0b0c0d0e0f10 is known, but its record is not signed
    whoever runs this server signs what it has with `nfdrop-indexer sign --db F --sign-key K`, and new records with crawl --sign-key K; `nfdrop-indexer keygen` makes a key
    build 2222222222222222222222222222222222222222 has never been seen here
    check that it is the build-id of nf_tables.ko, or of vmlinux where nf_tables is built in; else crawl the suite that has it: `nfdrop-indexer crawl --db F`
    ");
}
