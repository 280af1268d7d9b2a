//! `GET /`: what this is, how much of which kernels is resolved, and how to ask.

use super::{
    descriptions, kernels,
    page::{Answered, Page, Shared, command, encode, host},
};
use crate::overview::Overview;
use axum::{extract::State, http::HeaderMap};
use maud::{Markup, html};
use nfdrop_db::store::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// Most cells of all tables; beyond that only the list of kernels is left.
const MAX_CELLS: usize = 5_000;
/// Most series of a distribution, and most flavours, that are shown.
const MAX_SERIES: usize = 40;
const MAX_FLAVOURS: usize = 16;
pub(super) async fn get(State(shared): State<Shared>, headers: HeaderMap) -> Answered {
    let overview = shared.overview().await?;
    Ok(Page::new("nfdrop: attach plans", page(&overview, host(&headers))).answer(&shared, &headers))
}

pub(super) fn page(overview: &Overview, host: &str) -> Markup {
    let Overview { counts, cells } = overview;
    let unresolved: u64 = counts.unresolved.values().sum();
    let failed: u64 = counts.failures.values().sum();
    html! {
        h1 { "Which nftables rule dropped the packet?" }
        p.lead {
            "nfdrop names it, on any kernel it has a plan for. This server hands the plans out by build-id: \
             where in " code { "nft_do_chain" } " to put kprobes, and where rule, packet and chain are \
             found there."
        }
        dl.numbers {
            div { dt { "builds with a plan" } dd { (descriptions::thousands(counts.resolved)) } }
            div { dt { "without" } dd { a href="unresolved" { (descriptions::thousands(unresolved)) } } }
            div { dt { "kernels that have no build-id" } dd { (descriptions::thousands(failed)) } }
            div { dt { "packages" } dd { (descriptions::thousands(counts.packages)) } }
            div { dt { "bodies of the function" } dd { (descriptions::thousands(counts.bodies)) } }
        }
        h2 { "Coverage" }
        @if cells.is_empty() {
            p { "No kernels yet: " code { "nfdrop-indexer crawl --db F" } " adds them, and they are shown \
                at once." }
        } @else {
            p { "Resolved of all kernels, by series and flavour. A number leads to its kernels. The last column \
                says how many plans were proven by booting their kernel." }
            ul.scale {
                li { span.s3 {} "all" } li { span.s2 {} "half or more" }
                li { span.s1 {} "fewer" } li { span.s0 {} "none" }
            }
            (matrices(cells))
        }
        h2 { "Ask" }
        p { "What drops packets on this host, rule by rule, as it happens:" }
        (command("Watch drops", "nfdrop-client --server ", host, ""))
        p { "The plan of the running kernel, and what attaching it takes here:" }
        (command("Show the plan", "nfdrop-client plan --server ", host, ""))
        (command("What is missing", "nfdrop-client doctor --server ", host, ""))
        p {
            "Or without nfdrop: the build-id is that of nf_tables.ko, or of vmlinux where nf_tables is \
             built in. Beside " code { "plan" } " there are " code { "plan.minisig" } ", "
            code { "provenance" } ", " code { "proof" } ", " code { "nfdrop.bt" } " for bpftrace and "
            code { "kprobe_events" } " for tracefs."
        }
        (command(
            "The build-id of the module",
            "od -An -tx1 -v -j16 /sys/module/nf_tables/notes/.note.gnu.build-id | tr -d ' \\n'",
            "",
            "",
        ))
        (command("The plan of a build", "curl ", host, "/buildid/HEX/plan"))
    }
}

/// A table for each distribution.
fn matrices(cells: &[Cell]) -> Markup {
    let mut by_distro: BTreeMap<&str, Vec<&Cell>> = BTreeMap::new();
    for cell in cells.iter().take(MAX_CELLS) {
        by_distro.entry(&cell.distro).or_default().push(cell);
    }
    html! {
        @for (distro, cells) in by_distro {
            (matrix(distro, &cells))
        }
        @if cells.len() > MAX_CELLS {
            p { "And more: " a href="kernels" { "all kernels" } "." }
        }
    }
}

fn matrix(distro: &str, cells: &[&Cell]) -> Markup {
    let mut flavours: BTreeSet<&str> = cells.iter().map(|cell| cell.flavour.as_str()).collect();
    let more = flavours.len() > MAX_FLAVOURS;
    flavours = flavours.into_iter().take(MAX_FLAVOURS).collect();
    // They come with the newest first.
    let mut series: Vec<&str> = cells.iter().map(|cell| cell.series.as_str()).collect();
    series.dedup();
    let all = series.len();
    series.truncate(MAX_SERIES);
    let by_place: BTreeMap<(&str, &str), &&Cell> =
        cells.iter().map(|cell| ((cell.series.as_str(), cell.flavour.as_str()), cell)).collect();
    let of_distro = format!("kernels?distro={}", encode(distro));
    html! {
        div.scroll tabindex="0" role="region" aria-label=(format!("Coverage of {distro}")) {
            table.matrix {
                caption { a href=(of_distro) { (distro) } }
                thead { tr {
                    th scope="col" { "series" }
                    @for flavour in &flavours { th scope="col" { (named(flavour)) } }
                    th scope="col" { "booted" }
                } }
                tbody {
                    @for series in &series {
                        tr {
                            th scope="row" { (series) }
                            @for flavour in &flavours {
                                td { (share(by_place.get(&(*series, *flavour)).map(|cell| **cell))) }
                            }
                            td { (booted(cells.iter().filter(|cell| cell.series == *series))) }
                        }
                    }
                }
            }
        }
        @if all > MAX_SERIES || more {
            p.note { "Not all series and flavours have room here: " a href=(of_distro) { "all kernels of " (distro) } "." }
        }
    }
}

/// A flavour may have no name.
fn named(flavour: &str) -> &str {
    if flavour.is_empty() { "(no flavour)" } else { flavour }
}

/// Of all flavours of a series: plans that were proven on their kernel, of all plans.
fn booted<'a>(cells: impl Iterator<Item = &'a &'a Cell>) -> Markup {
    let (mut proven, mut contradicted, mut resolved) = (0, 0, 0);
    for cell in cells {
        proven += cell.proven;
        contradicted += cell.contradicted;
        resolved += cell.resolved;
    }
    html! {
        span { (descriptions::thousands(proven)) "/" (descriptions::thousands(resolved)) span.hidden { " booted" } }
        @if contradicted > 0 {
            b.status.no { (descriptions::thousands(contradicted)) " contradicted" }
        }
    }
}

fn share(cell: Option<&Cell>) -> Markup {
    let Some(cell) = cell else {
        return html! { span.none { span.hidden { "none" } span aria-hidden="true" { "·" } } };
    };
    let (resolved, all) = (cell.resolved, cell.all());
    let class = match resolved {
        0 => 0,
        _ if resolved == all => 3,
        _ if resolved * 2 >= all => 2,
        _ => 1,
    };
    let tenths = (resolved * 10).checked_div(all).unwrap_or(0);
    let link = format!(
        "kernels?distro={}&series={}&flavour={}",
        encode(&cell.distro),
        encode(&cell.series),
        encode(&kernels::flavour(&cell.flavour))
    );
    html! {
        a.{ "s" (class) } href=(link) {
            (descriptions::thousands(resolved)) "/" (descriptions::thousands(all)) span.hidden { " resolved" }
            span.bar aria-hidden="true" { i.{ "p" (tenths) } {} }
        }
    }
}
