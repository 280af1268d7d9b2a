//! `GET /kernels`: the list, filtered, the newest release first, a page at a time.

use super::{
    descriptions,
    page::{self, Answered, Page, Shared, encode, not_understood},
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
};
use maud::{Markup, html};
use nfdrop_db::{
    Reason, Status,
    store::{Cursor, Failure, KernelFilter, KernelRow, MAX_QUERY},
};
use serde::Deserialize;

/// Kernels of a page.
const ROWS: usize = 100;
/// Kernels without a build-id of a page.
const MAX_FAILURES: usize = 200;

/// As the query is written; what is empty takes everything.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    distro: Option<String>,
    series: Option<String>,
    flavour: Option<String>,
    status: Option<String>,
    reason: Option<String>,
    after: Option<String>,
}

/// The flavour that has no name.
const NO_NAME: &str = "-";

/// A flavour as a filter says it.
pub(super) fn flavour(name: &str) -> String {
    if name.is_empty() { NO_NAME.to_owned() } else { name.to_owned() }
}

/// What is shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) filter: KernelFilter,
    pub(super) kernels: Vec<KernelRow>,
    pub(super) failures: Vec<Failure>,
    /// Whether this is not the first page.
    pub(super) later: bool,
}

pub(super) async fn get(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Answered {
    let hint = "Filters are distro, series, flavour, status, reason and after, each once.";
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => return Ok(not_understood(&error.body_text(), hint)),
    };
    let (filter, after) = match filter(asked) {
        Ok(read) => read,
        Err(error) => return Ok(not_understood(&error, hint)),
    };
    let wanted = filter.clone();
    let later = after.is_some();
    let read = page::query(&shared, move |store| {
        let failures = match after {
            Some(_) => Vec::new(),
            None => store.failed_kernels(&wanted, MAX_FAILURES + 1)?,
        };
        Ok((store.kernels(&wanted, after.as_ref(), ROWS + 1)?, failures))
    });
    let (kernels, failures) = read.await?;
    let shown = Shown { filter, kernels, failures, later };
    Ok(Page::new("Kernels", page(shown)).answer(&shared, &headers))
}

fn filter(asked: Asked) -> Result<(KernelFilter, Option<Cursor>), String> {
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let Asked { distro, series, flavour, status, reason, after } = asked;
    for text in [&distro, &series, &flavour, &after].into_iter().flatten() {
        if text.len() > 4 * MAX_QUERY {
            return Err(format!("a filter has at most {} bytes", 4 * MAX_QUERY));
        }
    }
    let status = said(status).map(|text| text.parse()).transpose();
    let reason = said(reason).map(|text| text.parse()).transpose();
    let after = said(after).map(|text| text.parse()).transpose();
    let filter = KernelFilter {
        distro: said(distro),
        series: said(series),
        // In a form all that is empty is left open.
        flavour: said(flavour).map(|text| if text == NO_NAME { String::new() } else { text }),
        status: status.map_err(|error: nfdrop_db::record::UnknownStatus| error.to_string())?,
        reason: reason.map_err(|error: nfdrop_db::record::UnknownReason| error.to_string())?,
    };
    Ok((filter, after.map_err(|error: nfdrop_db::store::NoCursor| error.to_string())?))
}

/// The query of a filter.
fn link(filter: &KernelFilter, after: Option<Cursor>) -> String {
    let texts = [
        ("distro", filter.distro.clone()),
        ("series", filter.series.clone()),
        ("flavour", filter.flavour.as_deref().map(flavour)),
        ("status", filter.status.map(|status| status.to_string())),
        ("reason", filter.reason.map(|reason| reason.to_string())),
        ("after", after.map(|after| after.to_string())),
    ];
    let said = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let parts: Vec<String> = said.map(|(name, text)| format!("{name}={}", encode(&text))).collect();
    if parts.is_empty() { "kernels".to_owned() } else { format!("kernels?{}", parts.join("&")) }
}

pub(super) fn page(shown: Shown) -> Markup {
    let Shown { filter, mut kernels, mut failures, later } = shown;
    let next = (kernels.len() > ROWS).then(|| {
        kernels.truncate(ROWS);
        kernels.last().cloned().map(Cursor::from)
    });
    let more_failures = failures.len() > MAX_FAILURES;
    failures.truncate(MAX_FAILURES);
    html! {
        h1 { "Kernels" }
        (form(&filter))
        @if kernels.is_empty() && failures.is_empty() {
            p { @if later { "No more of them." } @else { "None that fits." } " "
                a href="kernels" { "All kernels" } "." }
        }
        @if !kernels.is_empty() { (table(&kernels, "", "Kernels, the newest first")) }
        nav.pager aria-label="Pages of the list" {
            @if later { a href=(link(&filter, None)) rel="first" { "The newest" } }
            @if let Some(Some(next)) = next { a href=(link(&filter, Some(next))) rel="next" { "Older" } }
        }
        @if !failures.is_empty() {
            h2 { "Without a build-id" }
            p { "What kept these from being looked at; they are in the numbers of the coverage." }
            (failed(&failures))
            @if more_failures { p.note { "The newest " (MAX_FAILURES) " of them." } }
        }
    }
}

fn form(filter: &KernelFilter) -> Markup {
    let text = |name: &str, label: &str, value: &Option<String>| {
        html! {
            label { (label)
                input name=(name) value=(value.as_deref().unwrap_or_default()) autocomplete="off"
                    autocapitalize="off" spellcheck="false";
            }
        }
    };
    html! {
        form.filters action="kernels" role="search" aria-label="Filter" {
            (text("distro", "distribution", &filter.distro))
            (text("series", "series", &filter.series))
            (text("flavour", "flavour", &filter.flavour.as_deref().map(flavour)))
            label { "status"
                select name="status" {
                    option value="" { "any" }
                    @for status in [Status::Resolved, Status::Unresolved] {
                        option value=(status) selected[filter.status == Some(status)] { (status) }
                    }
                }
            }
            label { "reason"
                select name="reason" {
                    option value="" { "any" }
                    @for reason in Reason::ALL {
                        option value=(reason) selected[filter.reason == Some(*reason)] { (reason) }
                    }
                }
            }
            button { "Filter" }
        }
    }
}

/// Kernels, and where each leads.
pub(super) fn table(kernels: &[KernelRow], root: &str, caption: &str) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.list {
                caption.hidden { (caption) }
                thead { tr {
                    th scope="col" { "release" } th scope="col" { "status" }
                    th scope="col" { "distribution" } th scope="col" { "build-id" }
                } }
                tbody {
                    @for KernelRow { release, distro, build_id, reason } in kernels {
                        tr {
                            th scope="row" { a href=(format!("{root}build/{build_id}")) { (release) } }
                            td { (descriptions::status(*reason)) }
                            td { (distro) }
                            td { code { (build_id) } }
                        }
                    }
                }
            }
        }
    }
}

/// Kernels that never got to a build-id.
pub(super) fn failed(failures: &[Failure]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Kernels without a build-id" {
            table.list {
                caption.hidden { "Kernels without a build-id" }
                thead { tr {
                    th scope="col" { "release" } th scope="col" { "status" }
                    th scope="col" { "suite" } th scope="col" { "version" } th scope="col" { "why" }
                } }
                tbody {
                    @for failure in failures {
                        tr {
                            th scope="row" { (failure.release) }
                            td { (descriptions::status(Some(failure.reason))) }
                            td { (failure.distro) " " (failure.suite) }
                            td { (failure.version) }
                            td.wide { (failure.detail) }
                        }
                    }
                }
            }
        }
    }
}
