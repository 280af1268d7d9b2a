//! `GET /unresolved`: what has no plan, by reason, what that means and what can be done.

use super::{
    descriptions, kernels,
    page::{self, Answered, Page, Shared, encode},
};
use axum::{extract::State, http::HeaderMap};
use maud::{Markup, html};
use nfdrop_db::{
    Permanence, Reason,
    store::{Failure, KernelFilter, KernelRow},
};

/// Kernels of each reason that are shown.
const MOST: usize = 20;

/// All that has no plan for one reason; of the kernels the newest.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) reason: Reason,
    /// Builds, and kernels without a build-id.
    pub(super) counts: [u64; 2],
    pub(super) kernels: Vec<KernelRow>,
    pub(super) failures: Vec<Failure>,
}

pub(super) async fn get(State(shared): State<Shared>, headers: HeaderMap) -> Answered {
    let read = page::query(&shared, |store| {
        let mut groups = Vec::new();
        for (reason, counts) in store.unresolved()? {
            let filter = KernelFilter { reason: Some(reason), ..KernelFilter::default() };
            groups.push(Group {
                reason,
                counts,
                kernels: store.kernels(&filter, None, MOST)?,
                failures: store.failed_kernels(&filter, MOST)?,
            });
        }
        Ok(groups)
    });
    Ok(Page::new("Unresolved kernels", page(&read.await?)).answer(&shared, &headers))
}

pub(super) fn page(groups: &[Group]) -> Markup {
    let of = |wanted: Permanence| -> Vec<&Group> {
        groups.iter().filter(|group| group.reason.permanence() == wanted).collect()
    };
    html! {
        h1 { "Unresolved kernels" }
        p.lead { "Wrong is worse than unresolved: where anything is in doubt there is a reason, and no plan." }
        @if groups.is_empty() { p { "All that is known here is resolved." } }
        (part("It stays so", "Only a newer nfdrop-indexer, or another package, changes these.",
            &of(Permanence::Permanent)))
        (part("It may pass", "These are tried again by every crawl.", &of(Permanence::Passing)))
    }
}

fn part(title: &str, says: &str, groups: &[&Group]) -> Markup {
    html! {
        @if !groups.is_empty() {
            h2 { (title) }
            p.note { (says) }
            @for group in groups { (section(group)) }
        }
    }
}

fn section(group: &Group) -> Markup {
    let Group { reason, counts: [builds, failed], kernels, failures } = group;
    let all = builds + failed;
    html! {
        section aria-labelledby=(reason) {
            h3 #(reason) { (descriptions::status(Some(*reason))) " " (descriptions::count(all, "kernel")) }
            p { (descriptions::meaning(*reason)) " " (code_spans(descriptions::remedy(*reason))) }
            @if !kernels.is_empty() { (kernels::table(kernels, "", reason.name())) }
            @if !failures.is_empty() { (kernels::failed(failures)) }
            @if kernels.len() == MOST || failures.len() == MOST {
                p { a href=(format!("kernels?reason={}", encode(reason.name()))) { "All of them" } }
            }
        }
    }
}

/// What is between backticks is code.
pub(super) fn code_spans(text: &str) -> Markup {
    html! {
        @for (number, piece) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}
