//! Pages for people, asked over the network.

use crate::support::{Data, RESOLVED, Server, UNKNOWN, UNRESOLVED, id};
use nfdrop_db::{
    Listing, Reason,
    body::InputKey,
    listing::{Class, Fact, Line, LineKind, Mark, Span, Tone},
    sample,
    store::{Outcome, PackedListing},
};
use reqwest::{Response, StatusCode};

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn get(server: &Server, path: &str) -> Response {
    crate::support::client();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    client.build().unwrap().get(server.url(path)).send().await.unwrap()
}

/// A listing of one line.
pub(crate) fn listing() -> PackedListing {
    let span = |text: &str| Span::new(Tone::Plain, text);
    let line = Line {
        kind: LineKind::Instruction,
        part: 0,
        at: 0x3fe,
        counts: Some([3592, 0, 0, 0]),
        class: Class::RuleDrop,
        mark: Some(Mark::Probe),
        code: vec![Span::new(Tone::Mnemonic, "mov     "), Span::new(Tone::Register, "rsi, [rbp]")],
        comments: vec![Span::new(Tone::Meaning, "<b>pkt->skb")],
        notes: vec![vec![Span::new(Tone::Chosen, "reads"), span(": rule r14, pkt rbp")]],
    };
    PackedListing::pack(&Listing {
        resolved: true,
        failed: false,
        facts: vec![Fact { name: "code".into(), value: vec![span("1569 bytes")] }],
        lines: vec![line],
        jumps: Vec::new(),
        columns: 1,
        sections: Vec::new(),
    })
    .unwrap()
}

/// What there is, and a build with a listing, a kernel that failed and a hostile name.
pub(crate) fn data() -> Data {
    let data = Data::new();
    let mut told = sample::kernel(sample::resolved(id("4444444444")), "6.12.118-cloud-amd64");
    if let Outcome::Build(build) = &mut told.outcome {
        (build.input, build.listing) = (Some(InputKey([4; 32])), Some(listing()));
    }
    told.kernel.packages[0].transport_only = true;
    data.store.put_kernel(&told).unwrap();
    let mut failed = sample::kernel(sample::resolved(id("55555555")), "7.0.1-amd64");
    failed.outcome = Outcome::Failed {
        reason: Reason::IncompletePackageSet,
        detail: "no modules".into(),
        analyzer: "0.1.0".into(),
    };
    data.store.put_kernel(&failed).unwrap();
    data.add(sample::resolved(id("33333333")), "6.9.1-<script>alert(1)</script>");
    data
}

#[tokio::test]
async fn pages_are_html_with_a_policy_and_a_validator() {
    let data = data();
    let server = Server::start(&data);
    for path in ["/", "/search?q=", "/kernels", "/unresolved", &format!("/build/{RESOLVED}")] {
        let response = get(&server, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(header(&response, "content-type"), "text/html; charset=utf-8", "{path}");
        assert_eq!(header(&response, "cache-control"), "public, max-age=300", "{path}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
        let policy = header(&response, "content-security-policy").to_owned();
        assert!(
            policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(header(&response, "etag").len(), 34, "{path}");
        let page = response.text().await.unwrap();
        assert!(!page.contains("<script>alert") && page.contains("</html>"), "{path}");
    }
}

#[tokio::test]
async fn the_first_page_tells_how_much_is_resolved() {
    let data = data();
    let server = Server::start(&data);
    let page = get(&server, "/").await.text().await.unwrap();
    for says in [
        "kernels?distro=debian&amp;series=6.12&amp;flavour=cloud-amd64\">2/2",
        "kernels?distro=debian&amp;series=5.10&amp;flavour=cloud-amd64\">0/1",
        "kernels?distro=debian&amp;series=7.0&amp;flavour=amd64\">0/1",
        &format!("http://{}", server.address),
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    // What a link says is what it leads to.
    let list = get(&server, "/kernels?distro=debian&series=6.12&flavour=cloud-amd64").await;
    let list = list.text().await.unwrap();
    assert_eq!(list.matches("href=\"build/").count(), 2, "{list}");
}

#[tokio::test]
async fn a_build_has_a_page_with_all_that_is_known() {
    let data = data();
    let server = Server::start(&data);
    let page = get(&server, "/build/4444444444").await.text().await.unwrap();
    for says in [
        "6.12.118-cloud-amd64",
        "nft_do_chain+0x3fe",
        "../buildid/4444444444/plan.minisig",
        "../buildid/4444444444/nfdrop.bt",
        "transport_only",
        "id=\"i0-3fe\"",
        "href=\"#i0-3fe\"",
        "&lt;b&gt;pkt-&gt;skb",
        "reads",
        "1,200 of the function",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let page = get(&server, &format!("/build/{UNRESOLVED}")).await.text().await.unwrap();
    for says in
        ["no_site", "no set of sites sees every drop exactly once", "nfdrop-indexer explain"]
    {
        assert!(page.contains(says), "{says}: {page}");
    }
    assert!(!page.contains("nfdrop.bt"), "{page}");
    for (path, status, says) in [
        (format!("/build/{UNKNOWN}"), 404, "Never seen"),
        ("/build/0484CF00".to_owned(), 400, "Not a build-id"),
        ("/build/..%2f".to_owned(), 400, "Not a build-id"),
    ] {
        let response = get(&server, &path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert!(header(&response, "content-security-policy").starts_with("default-src 'none'"));
        assert!(response.text().await.unwrap().contains(says), "{path}");
    }
}

#[tokio::test]
async fn a_listing_that_is_broken_leaves_the_rest_of_the_page() {
    let data = data();
    let connection = rusqlite::Connection::open(data.path()).unwrap();
    connection.execute("UPDATE listings SET listing = x'00'", ()).unwrap();
    let server = Server::start(&data);
    let page = get(&server, "/build/4444444444").await.text().await.unwrap();
    assert!(
        page.contains("Its listing is damaged") && page.contains("nft_do_chain+0x3fe"),
        "{page}"
    );
}

#[tokio::test]
async fn search_leads_to_one_or_tells_all() {
    let data = data();
    let mut other = sample::kernel(sample::resolved(id("66666666")), "6.12.117+deb13-cloud-amd64");
    other.kernel.packages[0].sha256 = Some("66".repeat(32));
    data.store.put_kernel(&other).unwrap();
    let server = Server::start(&data);
    for (q, to) in [
        (RESOLVED, RESOLVED),
        ("0484cf0001", RESOLVED),
        ("4444", "4444444444"),
        ("6.12.118-cloud-amd64", "4444444444"),
        ("linux-image-5.10", UNRESOLVED),
    ] {
        let response = get(&server, &format!("/search?q={q}")).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{q}");
        assert_eq!(header(&response, "location"), format!("build/{to}"), "{q}");
    }
    // Two builds of one release: both are told.
    let page = get(&server, "/search?q=6.12.117%2Bdeb13-cloud-amd64").await.text().await.unwrap();
    assert!(
        page.contains("build/66666666") && page.contains(&format!("build/{RESOLVED}")),
        "{page}"
    );
    let page = get(&server, "/search?q=%3Cscript%3E%22").await.text().await.unwrap();
    assert!(page.contains("value=\"&lt;script&gt;&quot;\""), "{page}");
    let page = get(&server, "/search?q=7.0.1").await.text().await.unwrap();
    assert!(page.contains("incomplete_package_set"), "{page}");
    for path in ["/search?q=a&q=b", "/kernels?status=x", "/kernels?after=x", "/kernels?reason=x"] {
        assert_eq!(get(&server, path).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let long = format!("/search?q={}", "a".repeat(300));
    assert_eq!(get(&server, &long).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn lists_go_on_where_they_ended() {
    let data = Data::new();
    for number in 0..150_u32 {
        data.add(sample::resolved(id(&format!("{number:08x}"))), &format!("6.1.{number}-amd64"));
    }
    let server = Server::start(&data);
    let first = get(&server, "/kernels").await.text().await.unwrap();
    let next = first.split("href=\"").find(|link| link.contains("rel=\"next\"")).unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    let second = get(&server, &format!("/{next}")).await.text().await.unwrap();
    let count = |page: &str| page.matches("href=\"build/").count();
    assert_eq!((count(&first), count(&second)), (100, 52));
    assert!(!second.contains("rel=\"next\"") && second.contains("rel=\"first\""));
}

#[tokio::test]
async fn what_is_unresolved_is_told_by_reason() {
    let data = data();
    let server = Server::start(&data);
    let page = get(&server, "/unresolved").await.text().await.unwrap();
    let (stays, passes) = page.split_once("It may pass").unwrap();
    assert!(stays.contains("no_site") && !stays.contains("incomplete_package_set"), "{page}");
    assert!(passes.contains("incomplete_package_set") && passes.contains("7.0.1-amd64"), "{page}");
}
