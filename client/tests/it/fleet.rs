//! `plan --hosts`: which kernels of a fleet are covered.

use crate::{
    machine::{Ended, Machine, OTHER, RUNNING, id},
    servers::{Server, UNRESOLVED, nobody},
};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use nfdrop_db::sample;
use serde_json::{Value, json};
use std::collections::HashMap;

const COVERED: &str = "6.12.117+deb13-cloud-amd64";
const TWO: &str = "6.1.0-56-amd64";
const NEVER: &str = "7.9.0-none";

/// A server that knows these builds and releases, and answers for so many of them at a time.
#[derive(Clone)]
struct Batch {
    builds: HashMap<&'static str, Option<&'static str>>,
    releases: HashMap<&'static str, Vec<&'static str>>,
    at_a_time: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            builds: HashMap::from([(RUNNING, None), (UNRESOLVED, Some("no_site"))]),
            releases: HashMap::from([(COVERED, vec![RUNNING]), (TWO, vec![RUNNING, UNRESOLVED])]),
            at_a_time: 10_000,
        }
    }

    fn build(&self, build: &str) -> Value {
        let (status, reason) = match self.builds.get(build) {
            None => ("unknown", None),
            Some(None) => ("resolved", None),
            Some(Some(reason)) => ("unresolved", Some(*reason)),
        };
        json!({"build_id": build, "status": status, "reason": reason})
    }

    fn answer(&self, request: &Value) -> Value {
        assert_eq!(request["only"], "status");
        let asked = |what: &str| -> Vec<&str> {
            request[what].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
        };
        let (builds, releases) = (asked("build_ids"), asked("releases"));
        assert!(builds.len() + releases.len() <= 10_000);
        let results: Vec<_> =
            builds.iter().take(self.at_a_time).map(|build| self.build(build)).collect();
        let room = self.at_a_time - results.len();
        let of = |release: &&str| {
            let builds = self.releases.get(release).into_iter().flatten();
            json!({"release": release, "builds": builds.map(|build| self.build(build)).collect::<Vec<_>>()})
        };
        let told: Vec<_> = releases.iter().take(room).map(of).collect();
        let complete = results.len() + told.len() == builds.len() + releases.len();
        json!({"results": results, "releases": told, "complete": complete})
    }

    async fn serve(self) -> Server {
        let answer = async |State(known): State<Self>, Json(request): Json<Value>| {
            Json(known.answer(&request))
        };
        Server::routing(Router::new().route("/v1/plans", post(answer)).with_state(self)).await
    }
}

async fn ask(hosts: &str, servers: &[&str], more: &[&str]) -> Ended {
    let machine = Machine::new();
    machine.write("hosts", hosts);
    let hosts = machine.path("hosts").display().to_string();
    let mut arguments = vec!["plan", "--hosts", &hosts];
    for server in servers {
        arguments.extend(["--server", server]);
    }
    arguments.extend(more);
    let mut ended = machine.run(&arguments).await;
    for (number, server) in servers.iter().enumerate() {
        ended.stderr = ended.stderr.replace(server, &format!("SERVER-{number}"));
    }
    ended
}

#[tokio::test]
async fn a_fleet_is_told_in_one_request() {
    let server = Batch::new().serve().await;
    let hosts = format!("# two of these\n{COVERED}\n{COVERED}\n{RUNNING}\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    insta::assert_snapshot!(ended.stdout, @"
    host                                      count  build-id                                  status    why
    6.12.117+deb13-cloud-amd64                    2  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    0484cf000102030405060708090a0b0c0d0e0f10      1  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    ");
    assert_eq!((ended.code, ended.stderr.as_str()), (0, "3 of 3 hosts are covered\n"));
    assert_eq!(server.requests(), 1);

    let hosts = format!("{hosts}{UNRESOLVED}\n{OTHER}\n{TWO}\n{NEVER}\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    insta::assert_snapshot!(ended.stdout, @"
    host                                      count  build-id                                  status      why
    6.12.117+deb13-cloud-amd64                    2  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    0484cf000102030405060708090a0b0c0d0e0f10      1  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    1111111111111111111111111111111111111111      1  1111111111111111111111111111111111111111  unresolved  no_site
    9999999999999999999999999999999999999999      1  9999999999999999999999999999999999999999  unknown     never seen
    6.1.0-56-amd64                                1  0484cf000102030405060708090a0b0c0d0e0f10  resolved    one of 2 builds
    6.1.0-56-amd64                                1  1111111111111111111111111111111111111111  unresolved  no_site
    7.9.0-none                                    1  -                                         unknown     never seen
    ");
    insta::assert_snapshot!(ended.stderr, @"
    3 of 7 hosts are covered, 2 with a build that has no plan to be used, 2 with a kernel that was never seen
    crawl the distributions of those never seen where the server's database is, or ask another server with --server URL
    ");
    let ended = ask(&hosts, &[&server.url], &["--format", "json"]).await;
    assert_eq!(ended.code, 2);
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let covered: Vec<_> = lines.iter().map(|line| line["covered"].as_bool().unwrap()).collect();
    assert_eq!(covered, [true, true, false, false, false, false]);
    assert_eq!((&lines[0]["host"], &lines[0]["count"]), (&json!(COVERED), &json!(2)));
    assert_eq!(lines[2]["builds"][0]["reason"], "no_site");
}

#[tokio::test]
async fn what_a_server_leaves_out_is_asked_for_again_and_large_fleets_in_parts() {
    let server = Batch { at_a_time: 2, ..Batch::new() }.serve().await;
    let hosts = format!("{RUNNING}\n{UNRESOLVED}\n{OTHER}\n{COVERED}\n{NEVER}\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    assert!(ended.stderr.starts_with("2 of 5 hosts are covered"), "{}", ended.stderr);
    assert_eq!((ended.code, server.requests()), (2, 3));

    let server = Batch::new().serve().await;
    let hosts: Vec<String> = (0..25_000).map(|number| format!("{number:08x}")).collect();
    let hosts = hosts.join("\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    assert!(ended.stderr.starts_with("0 of 25000 hosts are covered"), "{}", ended.stderr);
    assert_eq!((ended.code, ended.stdout.lines().count(), server.requests()), (2, 25_001, 3));
}

#[tokio::test]
async fn what_a_server_cannot_tell_is_not_taken_for_unknown() {
    // Of its damaged records a server says nothing, however often it is asked.
    let answer = async |Json(request): Json<Value>| {
        let mut answer = Batch::new().answer(&request);
        let results = answer["results"].as_array_mut().unwrap();
        results.retain(|build| build["build_id"] != OTHER);
        answer["complete"] = json!(false);
        Json(answer)
    };
    let server = Server::routing(Router::new().route("/v1/plans", post(answer))).await;
    let hosts = format!("{OTHER}\n{RUNNING}\n{COVERED}\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    assert_eq!((ended.code, server.requests()), (1, 2), "{}", ended.stdout);
    insta::assert_snapshot!(ended.stderr, @"
    warning: SERVER-0: of 1 of 3 builds and releases it cannot tell now
    2 of 3 hosts are covered, 1 that no server answered for
    ");
}

#[tokio::test]
async fn nfdrops_own_server_tells_it() {
    let server = Server::real(&[RUNNING]).await;
    let (covered, uncovered) = ("6.12.0-cloud-amd64", "5.10.0-46-cloud-amd64");
    let hosts = format!("{RUNNING}\n{UNRESOLVED}\n{OTHER}\n{covered}\n{uncovered}\n{NEVER}\n");
    let ended = ask(&hosts, &[&server.url], &[]).await;
    assert_eq!((ended.code, server.requests()), (2, 1), "{}", ended.stderr);
    insta::assert_snapshot!(ended.stdout, @"
    host                                      count  build-id                                  status      why
    0484cf000102030405060708090a0b0c0d0e0f10      1  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    1111111111111111111111111111111111111111      1  1111111111111111111111111111111111111111  unresolved  no_site
    9999999999999999999999999999999999999999      1  9999999999999999999999999999999999999999  unknown     never seen
    6.12.0-cloud-amd64                            1  0484cf000102030405060708090a0b0c0d0e0f10  resolved
    5.10.0-46-cloud-amd64                         1  1111111111111111111111111111111111111111  unresolved  no_site
    7.9.0-none                                    1  -                                         unknown     never seen
    ");
    let ended = ask(&format!("{covered}\n{RUNNING}\n"), &[&server.url], &[]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, "2 of 2 hosts are covered\n"));
}

#[tokio::test]
async fn the_next_server_is_asked_for_what_the_first_has_no_plan_for() {
    let first = Batch::new().serve().await;
    let mut other = Batch::new();
    other.builds = HashMap::from([(OTHER, None), (UNRESOLVED, None)]);
    other.releases = HashMap::from([(NEVER, vec![OTHER])]);
    let second = other.serve().await;
    let hosts = format!("{OTHER}\n{TWO}\n{NEVER}\n{UNRESOLVED}\n");
    let silent = nobody().await;
    let ended = ask(&hosts, &[&silent, &first.url, &second.url], &[]).await;
    // A build that one server has no plan for, another may.
    assert_eq!(ended.code, 0, "{}{}", ended.stdout, ended.stderr);
    insta::assert_snapshot!(ended.stderr, @"
    warning: SERVER-0: cannot connect: Connection refused (os error 111)
    4 of 4 hosts are covered
    ");
    let ended = ask(&hosts, &[&silent], &[]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("4 that no server answered for"), "{}", ended.stderr);
    assert!(ended.stdout.contains("no answer"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_static_copy_is_asked_build_by_build() {
    for status in
        [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED]
    {
        let plan = axum::routing::get(async || sample::resolved(id(RUNNING)).to_bytes());
        let router = Router::new()
            .route(&format!("/buildid/{RUNNING}/plan"), plan)
            .route("/v1/plans", post(async move || status));
        let server = Server::routing(router).await;
        let ended = ask(&format!("{RUNNING}\n{OTHER}\n"), &[&server.url], &[]).await;
        assert_eq!(ended.code, 2);
        assert!(ended.stderr.starts_with("1 of 2 hosts are covered"), "{}", ended.stderr);
        let ended = ask(&format!("{RUNNING}\n{COVERED}\n"), &[&server.url], &[]).await;
        assert_eq!(ended.code, 1);
        insta::allow_duplicates! {
            insta::assert_snapshot!(ended.stderr, @"
            warning: SERVER-0 has no /v1/plans, as static copies have none: it cannot be asked for kernel releases, only for build-ids
            1 of 2 hosts are covered, 1 that no server answered for
            ");
        }
    }
}

#[tokio::test]
async fn with_a_key_every_plan_is_looked_at() {
    let keys = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let plan = |build: &str| sample::resolved(id(build)).to_bytes();
    let signature = minisign::sign(None, &keys.sk, &plan(RUNNING)[..], None, None).unwrap();
    let mut known = Batch::new();
    known.builds.insert(OTHER, None);
    let batch =
        async |State(known): State<Batch>, Json(request): Json<Value>| Json(known.answer(&request));
    let mut router = Router::new().route("/v1/plans", post(batch)).with_state(known);
    for build in [RUNNING, OTHER] {
        let plan = plan(build);
        let get = axum::routing::get(async move || plan);
        router = router.route(&format!("/buildid/{build}/plan"), get);
    }
    let signature = signature.into_string();
    let get = axum::routing::get(async move || signature);
    let server =
        Server::routing(router.route(&format!("/buildid/{RUNNING}/plan.minisig"), get)).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), keys.pk.to_box().unwrap().to_string()).unwrap();
    let key = key.path().to_str().unwrap();
    let hosts = format!("{COVERED}\n{UNRESOLVED}\n");
    let ended = ask(&hosts, &[&server.url], &["--pubkey", key]).await;
    assert!(ended.stderr.starts_with("1 of 2 hosts are covered"), "{}", ended.stderr);
    let ended = ask(&format!("{OTHER}\n"), &[&server.url], &["--pubkey", key]).await;
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stdout.contains("refused  it is not signed"), "{}", ended.stdout);
}

#[tokio::test]
async fn wrong_lists_and_options_are_1() {
    let server = Batch::new().serve().await;
    for hosts in ["", "web1\n", "0484CF00\n"] {
        let ended = ask(hosts, &[&server.url], &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{hosts:?}");
        assert!(ended.stderr.starts_with("error: MACHINE/hosts"), "{}", ended.stderr);
    }
    for more in [&["--format", "bpftrace"][..], &["--build-id", RUNNING], &["--plan", "x"]] {
        let ended = ask(RUNNING, &[&server.url], more).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{more:?}");
    }
    assert_eq!(ask(RUNNING, &[], &[]).await.code, 1);
    assert_eq!(server.requests(), 0);
}
