//! What all pages have: frame, style, script and the policy that names them; and what several of them write.

use crate::{
    answer::{Answer, HTML, MINUTES},
    app::App,
    database::QueryError,
    error::Error,
};
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use nfdrop_db::{Store, StoreError, listing};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// What all requests share.
pub(super) type Shared = App;

/// What a page comes to.
pub(super) type Answered = Result<Response, Error>;

pub(super) async fn query<T: Send + 'static>(
    shared: &Shared,
    query: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, QueryError> {
    shared.database().query(query).await
}

/// Of these pages and of listings.
static STYLE: LazyLock<String> =
    LazyLock::new(|| format!("{}{}", listing::html::STYLE, include_str!("style.css")));
pub(super) const SCRIPT: &str = include_str!("script.js");

pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
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
pub(super) struct Page {
    pub(super) title: String,
    /// From where the page is to where `/` is: `""` or `"../"`.
    pub(super) root: &'static str,
    /// What was looked for, to be looked for again.
    pub(super) asked: String,
    pub(super) main: Markup,
}

impl Page {
    /// A page beside `/`.
    pub(super) fn new(title: impl Into<String>, main: Markup) -> Self {
        Self { title: title.into(), root: "", asked: String::new(), main }
    }

    /// A page one level below `/`.
    pub(super) fn below(self) -> Self {
        Self { root: "../", ..self }
    }

    pub(super) fn render(&self) -> String {
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

    pub(super) fn answer(&self, shared: &Shared, request: &HeaderMap) -> Response {
        let answer = Answer::new(HTML, MINUTES, self.render());
        with_policy(answer.to(request, shared.encoded()))
    }

    /// Says why there is not what was asked for.
    pub(super) fn refuse(&self, status: StatusCode) -> Response {
        let headers = [(header::CONTENT_TYPE, HTML), (header::CACHE_CONTROL, MINUTES)];
        with_policy((status, headers, self.render()).into_response())
    }
}

fn with_policy(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// What a query of a page says cannot be understood.
pub(super) fn not_understood(what: &dyn std::fmt::Display, hint: &str) -> Response {
    let main = html! {
        h1 { "Not understood" }
        p { (what) "." }
        p { (hint) }
    };
    Page::new("Not understood", main).refuse(StatusCode::BAD_REQUEST)
}

/// The name this server was called by, when it looks like one.
pub(super) fn host(headers: &HeaderMap) -> &str {
    let plain = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.filter(plain).unwrap_or("127.0.0.1:7767")
}

/// A command, and a button that copies it where there is a script. The server is written as it was called;
/// the script knows better, behind a proxy.
pub(super) fn command(label: &str, before: &str, host: &str, after: &str) -> Markup {
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
pub(super) fn encode(text: &str) -> String {
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
