//! Pages for people: the same knowledge as the other paths hand out, to be read.
//!
//! ```text
//! /              what this is, how much is resolved, how to ask
//! /search?q=     a build-id, a release, a package, or a part of one
//! /kernels?…     the list, filtered, in pages
//! /build/<hex>   one build: plan, evidence, origin, and the function as a picture
//! /unresolved    what has no plan, and what that means
//! ```
//!
//! Made here, without anything from elsewhere. All of it works without JavaScript; the one script adds
//! buttons that copy. Style and script are in the page, and the policy names their hashes, so nothing else
//! in a page can run or look like it belongs there. Every text that is put in is escaped by its type
//! (`maud`). Links are relative, so that pages may lie below a prefix.

mod booted;
mod build;
mod descriptions;
mod home;
mod kernels;
mod page;
mod search;
mod unresolved;

use axum::{Router, routing::get};
use page::Shared;

/// All pages.
pub fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(home::get))
        .route("/search", get(search::get))
        .route("/kernels", get(kernels::get))
        .route("/build/{hex}", get(build::get))
        .route("/unresolved", get(unresolved::get))
}

#[cfg(test)]
mod tests;
