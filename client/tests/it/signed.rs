//! Plans that have to be signed.

use crate::{
    machine::{Ended, Machine, RUNNING, id},
    servers::Server,
};
use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use minisign::KeyPair;
use nfdrop_db::sample;
use std::io::Cursor;

fn plan() -> Vec<u8> {
    sample::resolved(id(RUNNING)).to_bytes()
}

fn signature(keys: &KeyPair, bytes: &[u8]) -> String {
    minisign::sign(None, &keys.sk, Cursor::new(bytes), None, None).unwrap().into_string()
}

/// Hands out the plan with this signature, or without.
async fn serving(signature: Option<String>) -> Server {
    let mut router = Router::new().route("/buildid/{id}/plan", get(async || plan()));
    if let Some(signature) = signature {
        router = router.route("/buildid/{id}/plan.minisig", get(async move || signature));
    }
    Server::routing(router).await
}

/// A machine that trusts this key.
fn trusting(keys: &KeyPair) -> Machine {
    let machine = Machine::with_module();
    machine.write("key.pub", keys.pk.to_box().unwrap().to_string());
    machine
}

async fn ask(machine: &Machine, server: &Server) -> Ended {
    let key = machine.path("key.pub").display().to_string();
    let mut ended = machine.run(&["plan", "--server", &server.url, "--pubkey", &key]).await;
    ended.stderr = ended.stderr.replace(&server.url, "SERVER");
    ended
}

#[tokio::test]
async fn a_signed_plan_is_taken_and_kept_with_its_signature() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let machine = trusting(&keys);
    let server = serving(Some(signature(&keys, &plan()))).await;
    for _ in 0..2 {
        let ended = ask(&machine, &server).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    }
    assert_eq!(server.requests(), 2, "plan and signature, once");
    // Another key does not trust what the first one has let in.
    let other = KeyPair::generate_unencrypted_keypair().unwrap();
    machine.write("key.pub", other.pk.to_box().unwrap().to_string());
    let ended = ask(&machine, &server).await;
    assert_eq!(
        (ended.code, server.requests()),
        (3, 6),
        "both were asked for once more: {}",
        ended.stderr
    );
}

/// What a cache has of a path; `Some(None)`: that there is none.
type Kept = Option<Option<Vec<u8>>>;

/// A cache between client and server: what it has of a path it hands out, unless it is told not to.
#[tokio::test]
async fn a_cache_on_the_way_may_be_behind() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let mut old = sample::resolved(id(RUNNING));
    old.plan.as_mut().unwrap().probes[0].offset.0 += 1;
    let old = old.to_bytes();
    let (new, sign) = (plan(), |bytes: &[u8]| signature(&keys, bytes).into_bytes());
    let (old_signed, new_signed) = (sign(&old), sign(&new));
    // Of plan and signature.
    let cases: [(Kept, Kept); 3] =
        [(Some(Some(old.clone())), None), (None, Some(Some(old_signed))), (None, Some(None))];
    for (kept_plan, kept_signature) in cases {
        let machine = trusting(&keys);
        let answering = |kept: Kept, at_server: Vec<u8>| {
            get(async move |headers: HeaderMap| {
                let anew = headers.get("cache-control").is_some_and(|value| value == "no-cache");
                match kept.filter(|_| !anew) {
                    Some(kept) => kept.ok_or(StatusCode::NOT_FOUND),
                    None => Ok(at_server),
                }
            })
        };
        let router = Router::new()
            .route("/buildid/{id}/plan", answering(kept_plan, new.clone()))
            .route("/buildid/{id}/plan.minisig", answering(kept_signature, new_signed.clone()));
        let server = Server::routing(router).await;
        let ended = ask(&machine, &server).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        assert_eq!(server.requests(), 4, "both, and both anew");
        // The plan that was let in is the new one.
        assert_eq!((ask(&machine, &server).await.stdout, server.requests()), (ended.stdout, 4));
    }
    // Where the server itself has such a pair there is no third time.
    let router = Router::new()
        .route("/buildid/{id}/plan", get(async move || old))
        .route("/buildid/{id}/plan.minisig", get(async move || new_signed));
    let server = Server::routing(router).await;
    let ended = ask(&trusting(&keys), &server).await;
    assert_eq!((ended.code, server.requests()), (3, 4), "{}", ended.stderr);
}

#[tokio::test]
async fn anything_else_is_refused() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let machine = trusting(&keys);
    let ended = ask(&machine, &serving(None).await).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""));
    insta::assert_snapshot!(ended.stderr, @"
    error: plan of SERVER refused: it is not signed, and only plans signed with MACHINE/key.pub are to be used
    ask a server that signs its plans, or go without --pubkey if you trust this one
    ");
    let other = KeyPair::generate_unencrypted_keypair().unwrap();
    for bad in [
        signature(&other, &plan()),
        signature(&keys, b"another plan"),
        String::new(),
        "x".repeat(1 << 20),
    ] {
        let ended = ask(&machine, &serving(Some(bad)).await).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (3, ""));
        let says = "its signature is not one of MACHINE/key.pub";
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    assert!(!machine.cache(&format!("{RUNNING}.json")).exists());
}

#[tokio::test]
async fn an_unsigned_plan_in_the_cache_is_asked_for_again() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let machine = trusting(&keys);
    let server = serving(Some(signature(&keys, &plan()))).await;
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!((ended.code, server.requests()), (0, 1), "{}", ended.stderr);
    let ended = ask(&machine, &server).await;
    assert_eq!((ended.code, server.requests()), (0, 3), "{}", ended.stderr);
}

#[tokio::test]
async fn a_plan_in_a_file_has_its_signature_beside_it() {
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    let machine = trusting(&keys);
    machine.write("plan.json", plan());
    let [file, key] = ["plan.json", "key.pub"].map(|name| machine.path(name).display().to_string());
    let arguments = ["plan", "--plan", &file, "--pubkey", &key];
    let ended = machine.run(&arguments).await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    machine.write("plan.json.minisig", signature(&keys, &plan()));
    let ended = machine.run(&arguments).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn what_is_no_key_is_said() {
    let machine = Machine::with_module();
    machine.write("key.pub", "not a key");
    let key = machine.path("key.pub").display().to_string();
    let ended = machine.run(&["plan", "--server", "http://127.0.0.1:1", "--pubkey", &key]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.contains("give --pubkey a minisign public key"), "{}", ended.stderr);
}
