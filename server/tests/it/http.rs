//! What the server answers, asked over the network.

use crate::support::{Data, RESOLVED, Server, UNKNOWN, UNRESOLVED, client, id};
use nfdrop_db::{Provenance, Record, render, sample};
use reqwest::{Method, Response, StatusCode, header};
use std::{io::Read as _, time::Duration};

const DAY: &str = "public, max-age=86400";
const MINUTES: &str = "public, max-age=300";

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn get(server: &Server, path: &str) -> Response {
    client().get(server.url(path)).send().await.unwrap()
}

/// Status, Cache-Control and the two members of the JSON body.
async fn error(response: Response) -> (u16, String, String, String) {
    let cache = header(&response, "cache-control").to_owned();
    assert_eq!(header(&response, "content-type"), "application/json");
    let status = response.status().as_u16();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert_eq!(body.as_object().unwrap().len(), 2);
    (status, cache, text("error"), text("hint"))
}

#[tokio::test]
async fn a_resolved_build_is_served_in_every_form() {
    let data = Data::new();
    let server = Server::start(&data);
    let record = sample::resolved(id(RESOLVED));
    let plan = record.plan.clone().unwrap();
    for (artifact, kind, cache, body) in [
        ("plan", "application/json", DAY, record.to_bytes()),
        ("nfdrop.bt", "text/plain; charset=utf-8", DAY, render::bpftrace(&plan).unwrap().into()),
        (
            "kprobe_events",
            "text/plain; charset=utf-8",
            DAY,
            render::kprobe_events(&plan).unwrap().into(),
        ),
        (
            "provenance",
            "application/json",
            MINUTES,
            serde_json::to_vec(&data.store.provenance(&id(RESOLVED)).unwrap()).unwrap(),
        ),
    ] {
        let response = get(&server, &format!("/buildid/{RESOLVED}/{artifact}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{artifact}");
        assert_eq!(header(&response, "content-type"), kind, "{artifact}");
        assert_eq!(header(&response, "cache-control"), cache, "{artifact}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(response.bytes().await.unwrap(), body, "{artifact}");
    }
}

#[tokio::test]
async fn provenance_is_an_array_of_packages() {
    let data = Data::new();
    let server = Server::start(&data);
    let response = get(&server, &format!("/buildid/{RESOLVED}/provenance")).await;
    let packages: Vec<Provenance> =
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(packages.len(), 1);
    assert_eq!(packages[0].release, "6.12.117+deb13-cloud-amd64");
    let (status, cache, ..) =
        error(get(&server, &format!("/buildid/{UNKNOWN}/provenance")).await).await;
    assert_eq!((status, cache.as_str()), (404, MINUTES));
}

#[tokio::test]
async fn an_unresolved_build_has_a_record_and_no_scripts() {
    let data = Data::new();
    let server = Server::start(&data);
    let response = get(&server, &format!("/buildid/{UNRESOLVED}/plan")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "cache-control"), MINUTES);
    let record = Record::parse_canonical(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(record, sample::unresolved(id(UNRESOLVED)));
    for artifact in ["nfdrop.bt", "kprobe_events"] {
        let response = get(&server, &format!("/buildid/{UNRESOLVED}/{artifact}")).await;
        let (status, cache, error, hint) = error(response).await;
        assert_eq!((status, cache.as_str()), (404, MINUTES));
        insta::allow_duplicates! {
            insta::assert_snapshot!(format!("{error}\n{hint}"), @r"
            build 1111111111111111111111111111111111111111 has no plan: no_site (no set of sites sees every drop exactly once)
            only a newer nfdrop-indexer can change that; /plan has the whole record
            ");
        }
    }
}

#[tokio::test]
async fn what_was_never_seen_is_404() {
    let data = Data::new();
    let server = Server::start(&data);
    for artifact in ["plan", "provenance", "nfdrop.bt", "kprobe_events"] {
        let response = get(&server, &format!("/buildid/{UNKNOWN}/{artifact}")).await;
        let (status, cache, error, hint) = error(response).await;
        assert_eq!((status, cache.as_str()), (404, MINUTES), "{artifact}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(format!("{error}\n{hint}"), @"
            build 2222222222222222222222222222222222222222 has never been seen here
            check that it is the build-id of nf_tables.ko, or of vmlinux where nf_tables is built in; else crawl the suite that has it: `nfdrop-indexer crawl --db F`
            ");
        }
    }
    let (status, _, text, hint) = error(get(&server, "/buildid/").await).await;
    assert_eq!(status, 404);
    insta::assert_snapshot!(format!("{text}\n{hint}"), @"
    there is nothing at this path
    try /buildid/<hex>/plan, /provenance, /proof, /nfdrop.bt or /kprobe_events, / in a browser, or /openapi.json, which describes all paths
    ");
    for path in ["/x", "/buildid", "/buildid/0484cf00", "/buildid/0484cf00/plan/", "//plan"] {
        assert_eq!(error(get(&server, path).await).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_a_build_id_is_400() {
    let data = Data::new();
    let server = Server::start(&data);
    let long = "00".repeat(65);
    let escaped = format!("%30{}", &RESOLVED[1..]);
    let upper = RESOLVED.to_uppercase();
    for bad in [
        upper.as_str(),
        &escaped,
        &long,
        "0484cf0",
        "0484",
        "xyz!",
        "0x0484cf00",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "0484cf00%00",
        "0484cf00%20",
        "+0484cf00",
        "%F0%9F%92%A9",
        "0484cf00'--",
        "..",
    ] {
        // Raw: libraries tidy such paths up before they send them.
        for artifact in ["plan", "provenance", "nfdrop.bt", "kprobe_events"] {
            let answer = server.raw(&format!(
                "GET /buildid/{bad}/{artifact} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ));
            assert!(answer.starts_with("HTTP/1.1 400 "), "{bad}/{artifact}: {answer}");
            assert!(answer.contains("{\"error\":\"a build-id "), "{bad}/{artifact}: {answer}");
        }
    }
    let (_, cache, text, hint) = error(get(&server, "/buildid/0484CF00/plan").await).await;
    assert_eq!(cache, MINUTES);
    insta::assert_snapshot!(format!("{text}\n{hint}"), @r#"
    a build-id is lower-case hex with an even number of digits, found "0484CF00"
    use the build-id as `nfdrop-client doctor` prints it: 8 to 128 lower-case hex digits, not escaped
    "#);
}

#[tokio::test]
async fn a_known_etag_is_304() {
    let data = Data::new();
    let server = Server::start(&data);
    for path in [
        format!("/buildid/{RESOLVED}/plan"),
        format!("/buildid/{UNRESOLVED}/plan"),
        format!("/buildid/{RESOLVED}/provenance"),
        format!("/buildid/{RESOLVED}/nfdrop.bt"),
        format!("/buildid/{RESOLVED}/kprobe_events"),
        "/".to_owned(),
    ] {
        let first = get(&server, &path).await;
        let (etag, cache) =
            (header(&first, "etag").to_owned(), header(&first, "cache-control").to_owned());
        let quoted = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap();
        assert!(quoted.len() == 32 && !quoted.contains(|c: char| !c.is_ascii_hexdigit()), "{etag}");
        let again =
            |etag: &str| client().get(server.url(&path)).header(header::IF_NONE_MATCH, etag).send();
        let second = again(&format!("\"other\", {etag}")).await.unwrap();
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(header(&second, "etag"), etag);
        assert_eq!(header(&second, "cache-control"), cache);
        assert!(second.bytes().await.unwrap().is_empty());
        assert_eq!(again("\"other\"").await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_body_comes_in_the_coding_that_is_wanted_with_a_validator_of_its_own() {
    let data = Data::new();
    let server = Server::start(&data);
    let url = server.url(&format!("/buildid/{RESOLVED}/plan"));
    let plain = sample::resolved(id(RESOLVED)).to_bytes();
    let mut etags = std::collections::BTreeSet::new();
    for coding in ["", "gzip", "br", "zstd"] {
        let request = client().get(&url).header(header::ACCEPT_ENCODING, coding);
        let response = request.send().await.unwrap();
        assert_eq!(header(&response, "vary"), "accept-encoding");
        assert_eq!(header(&response, "content-encoding"), coding);
        let etag = header(&response, "etag").to_owned();
        let body = response.bytes().await.unwrap();
        let mut decoded = vec![];
        match coding {
            "gzip" => {
                flate2::read::GzDecoder::new(&*body).read_to_end(&mut decoded).unwrap();
            }
            "br" => brotli::BrotliDecompress(&mut &*body, &mut decoded).unwrap(),
            "zstd" => decoded = zstd::bulk::decompress(&body, 1 << 20).unwrap(),
            _ => decoded = body.to_vec(),
        }
        assert_eq!(decoded, plain, "{coding}");
        let request = client().get(&url).header(header::ACCEPT_ENCODING, coding);
        let again = request.header(header::IF_NONE_MATCH, &etag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(etags.insert(etag), "{coding}");
    }
}

#[tokio::test]
async fn pages_of_others_may_read_plans() {
    let data = Data::new();
    let server = Server::start(&data);
    let path = format!("/buildid/{RESOLVED}/plan");
    let response = get(&server, &path).await;
    assert_eq!(header(&response, "access-control-allow-origin"), "*");
    let asked = client().request(Method::OPTIONS, server.url(&path)).send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&asked, "access-control-allow-methods"), "GET, HEAD");
}

async fn ask(server: &Server, question: &str) -> Response {
    client().post(server.url("/v1/plans")).body(question.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn many_builds_are_one_question() {
    let data = Data::new();
    data.add(sample::resolved(id("33333333")), "6.12.117+deb13-cloud-amd64");
    let server = Server::start(&data);
    let question = format!(
        r#"{{"build_ids":["{UNRESOLVED}","{UNKNOWN}","{RESOLVED}"],
            "releases":["6.12.117+deb13-cloud-amd64","9.9 \"q"],"only":"status"}}"#
    );
    let response = ask(&server, &question).await;
    assert_eq!(header(&response, "content-type"), "application/json");
    insta::assert_snapshot!(response.text().await.unwrap().replace("},", "},\n"));
    // With records.
    let answer = ask(&server, &format!(r#"{{"build_ids":["{RESOLVED}","{UNRESOLVED}"]}}"#)).await;
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let record: Record = serde_json::from_value(answer["results"][0]["record"].clone()).unwrap();
    assert_eq!(record, sample::resolved(id(RESOLVED)));
    assert_eq!(answer["results"][1]["reason"], "no_site");
    assert_eq!(answer["complete"], true);
}

#[tokio::test]
async fn questions_that_are_none_are_told_what_is_wrong() {
    let data = Data::new();
    let server = Server::start(&data);
    let many = format!(r#"{{"build_ids":[{}"00000000"]}}"#, r#""00000000","#.repeat(10_000));
    let mut said = String::new();
    for question in [
        "",
        "{",
        "[]",
        r#"{"ids":[]}"#,
        r#"{"build_ids":["0484CF00"]}"#,
        r#"{"build_ids":["00"]}"#,
        r#"{"releases":[""]}"#,
        r#"{"only":"x"}"#,
        &many,
    ] {
        let (status, cache, text, _) = error(ask(&server, question).await).await;
        assert_eq!((status, cache.as_str()), (400, "no-store"), "{text}");
        said.push_str(&text);
        said.push('\n');
    }
    insta::assert_snapshot!(said);
    let answer = server.raw(
        "POST /v1/plans HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5000000\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("the body of this request is too long"), "{answer}");
    // As many as may be.
    let many =
        format!(r#"{{"build_ids":[{}"00000000"],"only":"status"}}"#, r#""00000000","#.repeat(9999));
    let response = ask(&server, &many).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.text().await.unwrap().ends_with(r#"],"releases":[],"complete":true}"#));
}

#[tokio::test]
async fn what_is_asked_is_counted_and_hostile_paths_are_no_labels() {
    let data = Data::new();
    let server = Server::start(&data);
    for path in [format!("/buildid/{RESOLVED}/plan"), format!("/buildid/{UNKNOWN}/plan")] {
        get(&server, &path).await;
    }
    server
        .raw("GET /x\"}\u{7f}%0aevil{label=\"1\" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    server.raw("GET /buildid/zz\"/plan HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let text = get(&server, "/metrics").await.text().await.unwrap();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("nfdrop_requests_total")).collect();
    assert!(!text.contains("evil") && !text.contains("zz"), "{text}");
    for expected in [
        r#"nfdrop_requests_total{route="plan",status="200"} 1"#,
        r#"nfdrop_requests_total{route="plan",status="404"} 1"#,
        r#"nfdrop_requests_total{route="plan",status="400"} 1"#,
    ] {
        assert!(lines.contains(&expected), "{expected} in {lines:#?}");
    }
    for expected in [
        r#"nfdrop_builds{status="resolved",reason=""} 1"#,
        r#"nfdrop_builds{status="unresolved",reason="no_site"} 1"#,
        "nfdrop_database_ready 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} in {text}");
    }
}

/// How many bodies were compressed so far, before anybody asked for them and then.
async fn compressed(server: &Server) -> [u64; 2] {
    let text = get(server, "/metrics").await.text().await.unwrap();
    ["ahead", "asked"].map(|when| {
        let name = format!("nfdrop_encoded_bodies_total{{when=\"{when}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    })
}

#[tokio::test]
async fn plans_are_compressed_before_anybody_asks() {
    let data = Data::new();
    let server = Server::start(&data);
    // What is there at the start, and what a crawl adds.
    for (build, plans) in [(RESOLVED, 1), (UNKNOWN, 2)] {
        if build != RESOLVED {
            data.add(sample::resolved(id(build)), "6.12.118+deb13-cloud-amd64");
        }
        let all = async { while compressed(&server).await != [3 * plans, 0] {} };
        tokio::time::timeout(Duration::from_mins(1), all).await.expect("some are not compressed");
        for coding in ["gzip", "br", "zstd"] {
            let url = server.url(&format!("/buildid/{build}/plan"));
            let response = client().get(url).header(header::ACCEPT_ENCODING, coding).send().await;
            assert_eq!(header(&response.unwrap(), "content-encoding"), coding);
        }
        assert_eq!(compressed(&server).await, [3 * plans, 0]);
    }
    client().get(server.url("/")).header(header::ACCEPT_ENCODING, "br").send().await.unwrap();
    assert_eq!(compressed(&server).await, [6, 1], "pages when they are asked for");
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let data = Data::new();
    let server = Server::start(&data);
    for path in [
        format!("/buildid/{RESOLVED}/plan"),
        format!("/buildid/{RESOLVED}/provenance"),
        format!("/buildid/{RESOLVED}/nfdrop.bt"),
        format!("/buildid/{RESOLVED}/kprobe_events"),
        format!("/buildid/{UNKNOWN}/plan"),
        "/healthz".to_owned(),
        "/".to_owned(),
    ] {
        let got = get(&server, &path).await;
        let head = client().head(server.url(&path)).send().await.unwrap();
        assert_eq!(head.status(), got.status(), "{path}");
        for name in ["content-type", "content-length", "cache-control", "etag"] {
            assert_eq!(header(&head, name), header(&got, name), "{path} {name}");
        }
        assert!(head.bytes().await.unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn other_methods_and_bodies_are_refused() {
    let data = Data::new();
    let server = Server::start(&data);
    let url = server.url(&format!("/buildid/{RESOLVED}/plan"));
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let response = client().request(method, &url).send().await.unwrap();
        assert_eq!(header(&response, "allow"), "GET,HEAD");
        assert_eq!(error(response).await.0, 405);
    }
    let answer = server
        .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("{\"error\":\"the body of this request is too long\""), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let data = Data::new();
    let server = Server::start(&data);
    let answer = server.raw(&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(20_000)));
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let many = "x: y\r\n".repeat(100);
    let answer = server.raw(&format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn what_another_connection_adds_is_served_at_once() {
    let data = Data::new();
    let server = Server::start(&data);
    let writer = {
        let store = data.store.clone();
        std::thread::spawn(move || {
            for number in 0..50_u32 {
                let build_id = format!("{:040x}", 0xaa_0000_0000_u64 + u64::from(number));
                let kernel =
                    sample::kernel(sample::resolved(id(&build_id)), &format!("6.1.0-{number}"));
                store.put_kernel(&kernel).unwrap();
            }
        })
    };
    // While it writes, every answer is whole.
    let mut asked = 0;
    while !writer.is_finished() || asked < 20 {
        let response = get(&server, &format!("/buildid/{RESOLVED}/plan")).await;
        assert_eq!(response.status(), StatusCode::OK);
        Record::parse_canonical(&response.bytes().await.unwrap()).unwrap();
        asked += 1;
    }
    writer.join().unwrap();
    let late = format!("{:040x}", 0xaa_0000_0000_u64 + 49);
    let response = until_found(&server, &late).await;
    assert_eq!(response.bytes().await.unwrap(), sample::resolved(id(&late)).to_bytes());
    let health = get(&server, "/healthz").await;
    assert_eq!(header(&health, "cache-control"), "no-store");
    assert_eq!(health.text().await.unwrap(), r#"{"status":"ok","resolved":51,"unresolved":1}"#);
    // A build that gets a plan is served with it.
    data.add(sample::resolved(id(UNKNOWN)), "6.12.118-cloud-amd64");
    let response = until_found(&server, UNKNOWN).await;
    assert_eq!(header(&response, "cache-control"), DAY);
}

/// The plan of a build that was just written; a server looks ten times a second.
async fn until_found(server: &Server, build_id: &str) -> Response {
    loop {
        let response = get(server, &format!("/buildid/{build_id}/plan")).await;
        if response.status() != StatusCode::NOT_FOUND {
            assert_eq!(response.status(), StatusCode::OK);
            return response;
        }
    }
}

#[tokio::test]
async fn a_database_that_is_moved_onto_the_old_one_is_served() {
    let data = Data::new();
    let server = Server::start(&data);
    let other = Data::new();
    other.add(sample::resolved(id(UNKNOWN)), "6.12.118-cloud-amd64");
    let (old, new) = (data.path(), other.path());
    // Ended, its log is in the file.
    drop(other.store);
    let mut asked = 0;
    std::fs::rename(new, old).unwrap();
    loop {
        asked += 1;
        // Whatever the moment: every question has an answer.
        for path in [format!("/buildid/{RESOLVED}/plan"), format!("/buildid/{RESOLVED}/provenance")]
        {
            assert_eq!(get(&server, &path).await.status(), StatusCode::OK, "{path}");
        }
        let response = get(&server, &format!("/buildid/{UNKNOWN}/plan")).await;
        if response.status() == StatusCode::OK {
            break;
        }
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "after {asked} questions");
    }
    assert_eq!(get(&server, "/healthz/ready").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_database_does_not_take_its_place() {
    let data = Data::new();
    let mut server = Server::start(&data);
    let foreign = data.directory.path().join("foreign");
    std::fs::write(&foreign, "no database").unwrap();
    std::fs::rename(&foreign, data.path()).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut server.stderr, &mut line).unwrap();
    assert!(line.contains("not taken over"), "{line}");
    for artifact in ["plan", "provenance", "nfdrop.bt"] {
        let response = get(&server, &format!("/buildid/{RESOLVED}/{artifact}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{artifact}");
    }
}

#[tokio::test]
async fn a_broken_record_is_an_error_of_the_server() {
    let data = Data::new();
    let connection = rusqlite::Connection::open(data.path()).unwrap();
    let broken = [r#"{"build_id":"#.as_bytes(), b"\"", RESOLVED.as_bytes(), b"\"}"].concat();
    let sql = "UPDATE builds SET record = ?1 WHERE build_id = ?2";
    assert_eq!(connection.execute(sql, (broken, RESOLVED)).unwrap(), 1);
    let server = Server::start(&data);
    let (status, cache, text, hint) =
        error(get(&server, &format!("/buildid/{RESOLVED}/plan")).await).await;
    assert_eq!((status, cache.as_str()), (500, "no-store"));
    insta::assert_snapshot!(format!("{text}\n{hint}"), @"
    the stored record of build 0484cf000102030405060708090a0b0c0d0e0f10 is broken
    try again later; the server's log says more to whoever runs it
    ");
}

#[tokio::test]
async fn lists_come_in_pages_that_follow_each_other() {
    let data = Data::new();
    for number in 1..=25_u32 {
        let record = sample::resolved(id(&format!("{number:08x}")));
        data.add(record, &format!("6.1.{number}-cloud-amd64"));
    }
    let server = Server::start(&data);
    let mut releases = vec![];
    let mut next = Some(String::new());
    while let Some(after) = next {
        let path = format!("/v1/kernels?series=6.1&limit=10{after}");
        let page: serde_json::Value =
            serde_json::from_str(&get(&server, &path).await.text().await.unwrap()).unwrap();
        let kernels = page["kernels"].as_array().unwrap();
        assert!((1..=10).contains(&kernels.len()));
        releases.extend(kernels.iter().map(|one| one["release"].as_str().unwrap().to_owned()));
        next = page["next"].as_str().map(|next| format!("&after={next}"));
    }
    let expected: Vec<String> =
        (1..=25).rev().map(|number| format!("6.1.{number}-cloud-amd64")).collect();
    assert_eq!(releases, expected);
    let coverage = get(&server, "/v1/coverage").await.text().await.unwrap();
    insta::assert_snapshot!(coverage.replace("},", "},\n"));
    let unresolved = get(&server, "/v1/unresolved").await.text().await.unwrap();
    insta::assert_snapshot!(unresolved.replace("},", "},\n"));
    for wrong in ["limit=0", "limit=1001", "limit=x", "x=y", "after=z", "status=maybe"] {
        let (status, cache, text, _) =
            error(get(&server, &format!("/v1/kernels?{wrong}")).await).await;
        assert_eq!((status, cache.as_str()), (400, "no-store"), "{wrong}");
        assert!(text.starts_with("the query is wrong: "), "{text}");
    }
}

#[tokio::test]
async fn what_is_answered_is_described() {
    let data = Data::new();
    let server = Server::start(&data);
    let response = get(&server, "/openapi.json").await;
    assert_eq!(header(&response, "content-type"), "application/json");
    insta::assert_snapshot!("openapi", response.text().await.unwrap());
}
