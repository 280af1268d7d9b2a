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
mod home;
mod kernels;
mod search;
mod unresolved;
mod words;

use crate::{
    answer::{Answer, HTML, MINUTES},
    app::App,
    database::QueryError,
    error::Error,
};
use axum::{
    Router,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use nfdrop_db::{Store, StoreError, listing};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// What all requests share.
type Shared = App;

/// All pages.
pub fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(home::get))
        .route("/search", get(search::get))
        .route("/kernels", get(kernels::get))
        .route("/build/{hex}", get(build::get))
        .route("/unresolved", get(unresolved::get))
}

async fn query<T: Send + 'static>(
    shared: &Shared,
    query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, QueryError> {
    shared.database().query(query).await
}

/// Of these pages and of listings.
static STYLE: LazyLock<String> =
    LazyLock::new(|| format!("{}{}", listing::html::STYLE, include_str!("style.css")));
const SCRIPT: &str = include_str!("script.js");

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        hash(&STYLE),
        hash(SCRIPT)
    );
    // All of it is visible ASCII.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// A page.
struct Page {
    title: String,
    /// From where the page is to where `/` is: `""` or `"../"`.
    root: &'static str,
    /// What was looked for, to be looked for again.
    asked: String,
    main: Markup,
}

impl Page {
    /// A page beside `/`.
    fn new(title: impl Into<String>, main: Markup) -> Self {
        Self { title: title.into(), root: "", asked: String::new(), main }
    }

    /// A page one level below `/`.
    fn below(self) -> Self {
        Self { root: "../", ..self }
    }

    fn render(&self) -> String {
        let Self { title, root, asked, main } = self;
        let home = if root.is_empty() { "./" } else { root };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) }
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE.as_str())) }
                }
                body data-root=(home) {
                    a.skip href="#main" { "To the content" }
                    header.top {
                        a.name href=(home) { "nfdrop" }
                        nav aria-label="Pages" {
                            a href=(format!("{root}kernels")) { "Kernels" }
                            a href=(format!("{root}unresolved")) { "Unresolved" }
                        }
                        form.search role="search" action=(format!("{root}search")) {
                            label.hidden for="q" { "Build-id, release or package" }
                            input #q type="search" name="q" value=(asked) required maxlength="256"
                                autocomplete="off" autocapitalize="off" spellcheck="false"
                                placeholder="build-id, release or package";
                            button { "Search" }
                        }
                    }
                    main #main { (main) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }

    fn answer(&self, shared: &Shared, request: &HeaderMap) -> Response {
        let answer = Answer::new(HTML, MINUTES, self.render());
        with_policy(answer.to(request, shared.encoded()))
    }

    /// Says why there is not what was asked for.
    fn refuse(&self, status: StatusCode) -> Response {
        let headers = [(header::CONTENT_TYPE, HTML), (header::CACHE_CONTROL, MINUTES)];
        with_policy((status, headers, self.render()).into_response())
    }
}

fn with_policy(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// What a query of a page says cannot be understood.
fn not_understood(what: &dyn std::fmt::Display, hint: &str) -> Response {
    let main = html! {
        h1 { "Not understood" }
        p { (what) "." }
        p { (hint) }
    };
    Page::new("Not understood", main).refuse(StatusCode::BAD_REQUEST)
}

/// The name this server was called by, when it looks like one.
fn host(headers: &HeaderMap) -> &str {
    let plain = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.filter(plain).unwrap_or("127.0.0.1:7767")
}

/// A command, and a button that copies it where there is a script. The server is written as it was called;
/// the script knows better, behind a proxy.
fn command(label: &str, before: &str, host: &str, after: &str) -> Markup {
    html! {
        div.command {
            pre tabindex="0" role="region" aria-label=(label) {
                code { (before) @if !host.is_empty() { span.server { "http://" (host) } } (after) }
            }
            button.copy type="button" hidden { "Copy" }
        }
    }
}

/// A part of a URL's query.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&nfdrop_db::hex::encode(&[byte]).to_uppercase());
        }
    }
    encoded
}

type Answered = Result<Response, Error>;

#[cfg(test)]
mod tests;
