use super::{
    page::{POLICY, Page, SCRIPT, encode, host},
    *,
};
use crate::overview::Overview;
use axum::http::{HeaderMap, HeaderValue, header};
use nfdrop_db::{
    BuildId, Provenance, Reason, Record, sample,
    store::{Cell, Failure, KernelRow, Matches},
};

const EVIL: &str = "<script>alert('x')</script>\" onload=\"&";

fn row(number: u32) -> KernelRow {
    KernelRow {
        release: format!("6.{number}.0-{EVIL}"),
        distro: EVIL.to_owned(),
        build_id: BuildId::from_bytes(&number.to_be_bytes()).unwrap(),
        reason: number.is_multiple_of(2).then_some(Reason::NoSite),
    }
}

fn failure(number: u32) -> Failure {
    Failure {
        distro: EVIL.to_owned(),
        suite: EVIL.to_owned(),
        release: format!("6.{number}-{EVIL}"),
        version: EVIL.to_owned(),
        arch: "amd64".to_owned(),
        reason: Reason::FetchFailed,
        detail: EVIL.to_owned(),
        analyzer: "0.1.0".to_owned(),
        indexed_at: 0,
    }
}

fn cell(number: u32) -> Cell {
    let (series, flavour) =
        (format!("6.{}{EVIL}", number / 100), format!("{}{EVIL}", number % 100));
    let number = u64::from(number);
    Cell {
        distro: EVIL.to_owned(),
        series,
        flavour,
        resolved: number,
        proven: number / 2,
        contradicted: 1,
        unresolved: 3,
        failed: 1,
    }
}

/// All pages of this many rows.
fn pages(rows: u32) -> Vec<(&'static str, String)> {
    let overview = Overview { cells: (0..rows).map(cell).collect(), ..Default::default() };
    let shown = || kernels::Shown {
        kernels: (0..rows).map(row).collect(),
        failures: (0..rows).map(failure).collect(),
        ..Default::default()
    };
    let group = |reason| unresolved::Group {
        reason,
        counts: [rows.into(), rows.into()],
        kernels: (0..rows.min(20)).map(row).collect(),
        failures: (0..rows.min(20)).map(failure).collect(),
    };
    let groups: Vec<_> = Reason::ALL.iter().copied().filter(|_| rows > 0).map(group).collect();
    let matches = Matches {
        kernels: (0..rows.min(100)).map(row).collect(),
        failures: (0..rows.min(100)).map(failure).collect(),
        more: true,
    };
    let all = vec![
        ("home", home::page(&overview, "a.example:7767")),
        ("kernels", kernels::page(shown())),
        ("unresolved", unresolved::page(&groups)),
        ("search", search::page(EVIL, &matches)),
        ("build", build_page(rows)),
    ];
    let render = |(name, main)| (name, Page::new(format!("{name} {EVIL}"), main).render());
    all.into_iter().map(render).collect()
}

fn build_page(packages: u32) -> maud::Markup {
    let id: BuildId = "0484cf00".parse().unwrap();
    let package = |number: u32| Provenance {
        distro: EVIL.to_owned(),
        suite: EVIL.to_owned(),
        package: EVIL.to_owned(),
        version: EVIL.to_owned(),
        release: format!("6.{number}{EVIL}"),
        arch: EVIL.to_owned(),
        url: format!("javascript:{EVIL}"),
        sha256: "00".repeat(32),
        signed_by: None,
        vmlinux_build_id: None,
        transport_only: true,
        indexed_at: u64::MAX,
    };
    let mut record = sample::resolved(id.clone());
    if !packages.is_multiple_of(2) {
        record = Record::unresolved(id.clone(), Reason::Diverged, EVIL);
    }
    let packages = (0..packages).map(package).collect();
    let mut proof = sample::proof(&sample::resolved(id));
    proof.detail = Some(EVIL.to_owned());
    let booted = booted::Booted::Proof(Box::new(proof));
    let picture = build::Picture::None;
    build::page(&build::Shown { record, packages, booted, picture }, "a.example")
}

#[test]
fn text_is_never_markup() {
    for (name, page) in pages(3) {
        let own = page.replace(SCRIPT, "");
        assert_eq!(own.matches("<script").count(), 1, "{name}: {own}");
        assert!(own.contains("&lt;script&gt;alert"), "{name}");
        // A quote that ends an attribute would let it in.
        assert!(!own.contains("\" onload=\""), "{name}");
        assert!(!own.contains("href=\"javascript:"), "{name}");
        assert!(!own.contains(" style=\""), "{name}: the policy forbids it");
    }
}

#[test]
fn pages_of_nothing_say_so() {
    let says = |wanted: &str| pages(0).into_iter().find(|(name, _)| *name == wanted).unwrap().1;
    assert!(says("home").contains("No kernels yet"));
    assert!(says("kernels").contains("None that fits"));
    assert!(says("unresolved").contains("All that is known here is resolved"));
    assert!(says("search").contains("Nothing here is called so"));
    assert!(says("build").contains("No package that holds it is known"));
}

#[test]
fn pages_are_bounded_whatever_there_is() {
    for (name, page) in pages(10_000) {
        assert!(page.len() < 2 << 20, "{name}: {}", page.len());
    }
}

#[test]
fn nothing_comes_from_elsewhere() {
    for (name, page) in pages(3) {
        for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet", "<iframe", "<img"] {
            assert!(!page.contains(outside), "{name}: {outside}");
        }
        // Relative, so that a prefix does not matter.
        assert!(!page.contains("href=\"/") && !page.contains("action=\"/"), "{name}");
    }
    let policy = POLICY.to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[test]
fn every_reason_has_words() {
    for reason in Reason::ALL {
        assert!(
            descriptions::meaning(*reason).ends_with('.')
                && descriptions::remedy(*reason).ends_with('.')
        );
    }
}

#[test]
fn numbers_and_dates_are_as_people_write_them() {
    let dates = [0, 951_782_400, 1_763_000_000, 1_709_164_800].map(descriptions::date);
    assert_eq!(dates, ["1970-01-01", "2000-02-29", "2025-11-13", "2024-02-29"]);
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(descriptions::thousands),
        ["0", "999", "1,000", "1,234,567"]
    );
    assert_eq!(encode("6.1+deb13 &?é"), "6.1%2Bdeb13%20%26%3F%C3%A9");
}

#[test]
fn a_host_that_is_no_name_is_not_shown() {
    let of = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(value));
        host(&headers).to_owned()
    };
    assert_eq!(of("plans.example:80"), "plans.example:80");
    assert_eq!(of("a\"><script>"), "127.0.0.1:7767");
    assert_eq!(host(&HeaderMap::new()), "127.0.0.1:7767");
}
