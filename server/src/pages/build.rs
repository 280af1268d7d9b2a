//! `GET /build/<hex>`: one build. Its plan in words, what it was proven with, where it comes from, how to
//! use it, and the function as a picture.

use super::{
    booted::{self, Booted},
    descriptions,
    page::{self, Answered, Page, Shared, command, host},
    unresolved::code_spans,
};
use crate::{build_id::PathBuildId, error::Error};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use maud::{Markup, PreEscaped, html};
use nfdrop_db::{
    BuildId, LayoutSource, Listing, Permanence, Plan, Probe, Proof, Provenance, Reason, Record,
    listing::html as picture,
};
use std::collections::BTreeSet;

/// Most packages that are shown; a build is in as many as there are suites and rebuilds.
const MAX_PACKAGES: usize = 200;
/// Most releases in the heading.
const MAX_RELEASES: usize = 4;

/// What is shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) record: Record,
    pub(super) packages: Vec<Provenance>,
    pub(super) booted: Booted,
    pub(super) picture: Picture,
}

/// The listing, or why there is none.
#[derive(Debug)]
pub(super) enum Picture {
    Listing(Box<Listing>),
    None,
    Broken,
}

pub(super) async fn get(
    State(shared): State<Shared>,
    build_id: Result<PathBuildId, Error>,
    headers: HeaderMap,
) -> Answered {
    let build_id = match build_id {
        Ok(PathBuildId(build_id)) => build_id,
        Err(error) => {
            let hint = "Build-ids are as `nfdrop-client doctor` prints them.";
            let main = html! {
                h1 { "Not a build-id" } p { (error) "." } p { (code_spans(hint)) }
            };
            return Ok(Page::new("Not a build-id", main).below().refuse(StatusCode::BAD_REQUEST));
        }
    };
    let wanted = build_id.clone();
    let read = page::query(&shared, move |store| {
        let Some(record) = store.record(&wanted)? else { return Ok(None) };
        let picture = match store.listing(&wanted)?.map(|packed| packed.unpack()) {
            None => Picture::None,
            Some(Ok(listing)) => Picture::Listing(Box::new(listing)),
            Some(Err(error)) => {
                tracing::error!(build_id = %wanted, %error, "stored listing is broken");
                Picture::Broken
            }
        };
        let proof = store.proof(&wanted)?.map(|proof| Proof::parse_canonical(&proof.bytes));
        let booted = match proof {
            None => Booted::NotYet,
            Some(Ok(proof)) => Booted::Proof(Box::new(proof)),
            Some(Err(error)) => {
                tracing::error!(build_id = %wanted, %error, "stored proof is broken");
                Booted::Broken
            }
        };
        Ok(Some((record, store.provenance(&wanted)?, picture, booted)))
    });
    let Some((bytes, packages, picture, booted)) = read.await? else {
        let title = "Never seen";
        return Ok(Page::new(title, never_seen(&build_id)).below().refuse(StatusCode::NOT_FOUND));
    };
    let record = Record::parse_canonical(&bytes).map_err(|source| Error::of(&build_id, source))?;
    let shown = Shown { record, packages, booted, picture };
    let title = releases(&shown.packages);
    Ok(Page::new(title, page(&shown, host(&headers))).below().answer(&shared, &headers))
}

fn never_seen(build_id: &BuildId) -> Markup {
    html! {
        h1 { "Never seen" }
        p.id { code { (build_id) } }
        p {
            "No package with this build was indexed here. Check that it is the build-id of nf_tables.ko, or \
             of vmlinux where nf_tables is built in; "
            code { "nfdrop-client doctor" } " prints it."
        }
        p {
            "Else " code { "nfdrop-indexer crawl --db F" } " reads the suite that has it, and "
            code { "nfdrop-indexer add FILE… --db F" } " takes the files of a kernel of your own."
        }
    }
}

fn releases(packages: &[Provenance]) -> String {
    let all: BTreeSet<&str> = packages.iter().map(|package| package.release.as_str()).collect();
    let some: Vec<&str> = all.iter().take(MAX_RELEASES).copied().collect();
    let more = all.len().saturating_sub(MAX_RELEASES);
    match (some.is_empty(), more) {
        (true, _) => "a build without a package".to_owned(),
        (false, 0) => some.join(", "),
        (false, more) => format!("{} and {more} more", some.join(", ")),
    }
}

pub(super) fn page(shown: &Shown, host: &str) -> Markup {
    let Shown { record, packages, booted, picture } = shown;
    let Record { build_id, reason, detail, plan, .. } = record;
    html! {
        h1 { (releases(packages)) }
        p { (descriptions::status(*reason)) " " code.id { (build_id) } }
        @match (plan, reason) {
            (Some(plan), _) => (resolved(plan, host)),
            (None, reason) => (without(*reason, detail.as_deref())),
        }
        @if plan.is_some() { (booted::section(booted)) }
        (origin(packages))
        (files(build_id, plan.is_some(), booted))
        h2 #function { "The function" }
        @match picture {
            Picture::Listing(listing) => {
                p.note {
                    "As the resolver saw it: who came by each instruction, where jumps go, what registers \
                     hold"
                    @if plan.is_some() { ", and why the probes are where they are." }
                    @else { ", and where it ended." }
                }
                div.scroll tabindex="0" role="region" aria-label="The annotated function" {
                    (PreEscaped(picture::fragment(listing)))
                }
            }
            Picture::None => p {
                "There is no listing of it here: it was resolved before listings were kept, or not run at \
                 all. " code { "nfdrop-indexer explain FILE" } " makes one of the package."
            },
            Picture::Broken => p { "Its listing is damaged; a crawl with a newer analyzer replaces it." },
        }
    }
}

fn resolved(plan: &Plan, host: &str) -> Markup {
    let Plan { build_id, object, symbol, symbol_size, body_sha256, layout, evidence, .. } = plan;
    let source = match layout.source {
        LayoutSource::Btf => "from the kernel's BTF",
        LayoutSource::Shape => "a known shape, which running the function confirmed",
    };
    let edges = evidence.edges.thousandths();
    html! {
        h2 { "The plan" }
        ul {
            @for probe in &plan.probes {
                li {
                    "At " code { (symbol) (probe.offset) } " " (descriptions::event(probe.event)) ": "
                    (descriptions::visitors(probe)) ". " (descriptions::cost(probe.cost)) "."
                }
            }
        }
        (probes(&plan.probes))
        h2 { "Use it" }
        (command("Watch drops", "nfdrop-client --server ", host, ""))
        (command(
            "With bpftrace",
            "curl -sSO ",
            host,
            &format!("/buildid/{build_id}/nfdrop.bt && sudo bpftrace nfdrop.bt"),
        ))
        (command(
            "Show this plan",
            "nfdrop-client plan --server ",
            host,
            &format!(" --build-id {build_id}"),
        ))
        h2 { "What it was proven with" }
        dl.facts {
            dt { "runs" }
            dd {
                (descriptions::thousands(evidence.runs.into())) " of the function, on made-up rulesets: "
                (descriptions::thousands(evidence.rule_drops.into())) " ended with a rule's drop, "
                (descriptions::thousands(evidence.policy_drops.into())) " with a policy's; all as an independent \
                 interpreter of the ruleset says"
            }
            dt { "branch edges" } dd { (edges / 10) "." (edges % 10) " % were taken" }
            dt { "layout" } dd { (source) }
            dt { "function" } dd { (symbol) ", " (symbol_size) " bytes, in " (object) }
            dt { "body" } dd { code { (body_sha256) } }
            dt { "analyzer" } dd { (evidence.analyzer) }
        }
    }
}

fn probes(probes: &[Probe]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Probes" {
            table.list {
                caption.hidden { "Probes" }
                thead { tr {
                    th scope="col" { "event" } th scope="col" { "offset" } th scope="col" { "rule" }
                    th scope="col" { "packet" } th scope="col" { "base chain" }
                    th scope="col" { "only if" } th scope="col" { "cost" }
                    th scope="col" { "instruction" }
                } }
                tbody {
                    @for probe in probes {
                        tr {
                            th scope="row" { (probe.event) }
                            td { a href=(format!("#i0-{:x}", probe.offset.0)) { (probe.offset) } }
                            td { @if let Some(rule) = probe.rule { code { (rule) } } @else { "–" } }
                            td { code { (probe.pkt) } }
                            td { code { (probe.base_chain) } }
                            td {
                                @if probe.when.is_empty() { "always" }
                                @for (number, condition) in probe.when.iter().enumerate() {
                                    @if number > 0 { " and " }
                                    code { (condition) }
                                }
                            }
                            td { (probe.cost) }
                            td { code { (probe.bytes) } }
                        }
                    }
                }
            }
        }
    }
}

fn without(reason: Option<Reason>, detail: Option<&str>) -> Markup {
    // A record without a plan has a reason.
    let Some(reason) = reason else { return Markup::default() };
    let (class, lasts) = match reason.permanence() {
        Permanence::Permanent => ("reason", "It stays so with this analyzer."),
        Permanence::Passing => ("reason later", "It may pass."),
    };
    html! {
        h2 { "No plan" }
        div.(class) {
            p { b { (reason) } ": " (descriptions::meaning(reason)) " " (lasts) }
            @if let Some(detail) = detail.filter(|detail| !detail.is_empty()) {
                p { code { (detail) } }
            }
            p { (code_spans(descriptions::remedy(reason))) }
        }
        p.note { "A client attaches nothing here: it ends with code 2 and says this." }
    }
}

fn origin(packages: &[Provenance]) -> Markup {
    html! {
        h2 { "Where it comes from" }
        @if packages.is_empty() { p { "No package that holds it is known." } }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Packages" {
                table.list {
                    caption.hidden { "Packages that hold this build" }
                    thead { tr {
                        th scope="col" { "package" } th scope="col" { "version" }
                        th scope="col" { "suite" } th scope="col" { "signed by" }
                        th scope="col" { "sha256" } th scope="col" { "first seen" }
                    } }
                    tbody {
                        @for package in packages.iter().take(MAX_PACKAGES) {
                            tr {
                                th scope="row" { (link(package)) }
                                td { (package.version) }
                                td { (package.distro) " " (package.suite) }
                                td {
                                    @match &package.signed_by {
                                        Some(key) => code { (key) },
                                        None => span.status.later { "nobody" },
                                    }
                                    @if package.transport_only {
                                        " " span.status.later title="Only parts of it were fetched" {
                                            "transport_only: hash not compared"
                                        }
                                    }
                                }
                                td { code { (package.sha256) } }
                                td { (descriptions::date(package.indexed_at)) }
                            }
                        }
                    }
                }
            }
            @if packages.len() > MAX_PACKAGES {
                p.note { "And " (packages.len() - MAX_PACKAGES) " more, see provenance below." }
            }
        }
    }
}

/// Only to where a browser goes without harm.
fn link(package: &Provenance) -> Markup {
    let Provenance { url, package, .. } = package;
    html! {
        @if url.starts_with("https://") || url.starts_with("http://") {
            a href=(url) rel="noreferrer" { (package) }
        } @else { (package) }
    }
}

fn files(build_id: &BuildId, has_plan: bool, booted: &Booted) -> Markup {
    let file = |name: &str, says: &str| {
        html! {
            li { a href=(format!("../buildid/{build_id}/{name}")) { (name) } " " span.note { (says) } }
        }
    };
    html! {
        h2 { "As data" }
        ul.links {
            (file("plan", "the record, always the same bytes"))
            (file("plan.minisig", "its signature"))
            (file("provenance", "the packages"))
            @if matches!(booted, Booted::Proof(_)) {
                (file("proof", "what booting the kernel showed"))
                (file("proof.minisig", "its signature"))
            }
            @if has_plan {
                (file("nfdrop.bt", "for bpftrace"))
                (file("kprobe_events", "for tracefs"))
            }
        }
    }
}
