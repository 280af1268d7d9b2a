//! `GET /search?q=`: what a person has at hand, a build-id, a release, a package or a part of one. One build
//! leads to its page; more are all told, since a release is no identity.

use super::{
    kernels,
    page::{self, Answered, Page, Shared, not_understood},
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use maud::{Markup, html};
use nfdrop_db::store::{MAX_QUERY, MIN_DIGITS, Matches};
use serde::Deserialize;
use std::collections::BTreeSet;

/// Most kernels of each kind that are told.
const MOST: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    q: String,
}

pub(super) async fn get(
    State(shared): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Answered {
    let hint = "Search for one text: /search?q=6.12.117";
    let q = match asked {
        Ok(Query(Asked { q })) => q.trim().to_owned(),
        Err(error) => return Ok(not_understood(&error.body_text(), hint)),
    };
    if q.len() > MAX_QUERY {
        return Ok(not_understood(&format!("a search has at most {MAX_QUERY} bytes"), hint));
    }
    let wanted = q.clone();
    let found = page::query(&shared, move |store| store.search(&wanted, MOST)).await?;
    let builds: BTreeSet<_> = found.kernels.iter().map(|row| &row.build_id).collect();
    if let (Some(only), 1, true) = (builds.first(), builds.len(), found.failures.is_empty()) {
        let headers = [
            (header::LOCATION, format!("build/{only}")),
            (header::CACHE_CONTROL, "no-store".into()),
        ];
        return Ok((StatusCode::SEE_OTHER, headers).into_response());
    }
    let title = if q.is_empty() { "Search".to_owned() } else { format!("Search: {q}") };
    let page = Page { asked: q.clone(), ..Page::new(title, page(&q, &found)) };
    Ok(page.answer(&shared, &headers))
}

pub(super) fn page(q: &str, found: &Matches) -> Markup {
    let nothing = found.kernels.is_empty() && found.failures.is_empty();
    html! {
        h1 { @if q.is_empty() { "Search" } @else { "Search: " (q) } }
        @if nothing {
            @if !q.is_empty() { p { "Nothing here is called so." } }
            p {
                "What can be found: a build-id, or its first " (MIN_DIGITS) " lower-case hex digits or \
                 more; a release as " code { "uname -r" } " prints it, or a part of it; the name of a \
                 package, or its beginning."
            }
            p {
                "A kernel that is not here may be added: " code { "nfdrop-indexer crawl" } " reads its \
                 distribution, " code { "nfdrop-indexer add" } " its files."
            }
        } @else {
            p {
                "These fit. A release is no identity: where several builds have it, compare the build-id, \
                 which " code { "nfdrop-client doctor" } " prints."
                @if found.more { " There are more than are shown: say more of it." }
            }
        }
        @if !found.kernels.is_empty() { (kernels::table(&found.kernels, "", "Kernels that fit")) }
        @if !found.failures.is_empty() {
            h2 { "Without a build-id" }
            (kernels::failed(&found.failures))
        }
    }
}
