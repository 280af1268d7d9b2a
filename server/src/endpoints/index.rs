//! `GET /`: what this is, how much it knows and how to ask, for people. Rendered here, without
//! script or anything from elsewhere.

use crate::{
    answer::{Answer, HTML, MINUTES},
    app::App,
    error::Error,
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use nfdrop_db::{
    Status,
    render::escape,
    store::{BuildFilter, BuildSummary, Counts, Failure, series},
};
use std::{cmp::Reverse, fmt::Write};

/// Most builds listed.
const MAX_ROWS: usize = 2000;
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

pub(super) async fn get(State(app): State<App>, headers: HeaderMap) -> Result<Response, Error> {
    let read = app.database().query(|store| {
        let filter = BuildFilter { limit: Some(MAX_ROWS), ..BuildFilter::default() };
        Ok((store.counts()?, store.builds(&filter)?, store.failures()?))
    });
    let (counts, builds, failures) = read.await?;
    let body = page(&counts, &builds, &failures, host(&headers));
    let mut response = Answer::new(HTML, MINUTES, body).to(&headers, app.encoded());
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
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

fn page(counts: &Counts, builds: &[BuildSummary], failures: &[Failure], host: &str) -> String {
    let unresolved: u64 = counts.unresolved.values().sum();
    let mut html = format!(
        "<!doctype html>\n\
         <html lang=\"en\">\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>nfdrop plans</title>\n\
         <style>\n\
         :root {{ color-scheme: light dark }}\n\
         body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; \
         padding: 0 1rem }}\n\
         pre, code {{ font-size: .9em }}\n\
         pre {{ overflow-x: auto; padding: .7rem; border: 1px solid #8884 }}\n\
         table {{ border-collapse: collapse; width: 100% }}\n\
         th, td {{ text-align: left; padding: .15rem .7rem .15rem 0; \
         border-bottom: 1px solid #8884; vertical-align: top }}\n\
         </style>\n\
         <h1>nfdrop plans</h1>\n\
         <p>nfdrop names the nftables rule that dropped a packet. This server hands out attach \
         plans: where in <code>nft_do_chain</code> of one kernel build to put kprobes, and where \
         rule, packet and chain are found there.</p>\n\
         <p><b>{}</b> builds with a plan, <b>{unresolved}</b> without, from {} packages.</p>\n\
         <h2>Ask</h2>\n\
         <pre>nfdrop-client plan --server http://{host}\n\
         curl http://{host}/buildid/&lt;hex&gt;/plan</pre>\n\
         <p>&lt;hex&gt; is the build-id of nf_tables.ko, or of vmlinux where nf_tables is built in; \
         <code>nfdrop-client doctor</code> prints it. Next to <code>plan</code> there are \
         <code>provenance</code>, <code>nfdrop.bt</code> and <code>kprobe_events</code>.</p>\n\
         <h2>Kernels</h2>\n",
        counts.resolved, counts.packages,
    );
    if builds.is_empty() {
        html.push_str("<p>None yet: <code>nfdrop-indexer crawl --db F</code> adds them.</p>\n");
    }
    if builds.len() == MAX_ROWS {
        let _ = writeln!(html, "<p>The first {MAX_ROWS} by build-id.</p>");
    }
    let mut newest: Vec<&BuildSummary> = builds.iter().collect();
    newest.sort_by_cached_key(|build| Reverse(natural(&build.releases.join(" "))));
    if !newest.is_empty() {
        html.push_str("<table>\n<tr><th>series<th>release<th>status<th>build-id\n");
        for build in newest {
            row(&mut html, build);
        }
        html.push_str("</table>\n");
    }
    if !failures.is_empty() {
        html.push_str(
            "<h2>Kernels without a build-id</h2>\n\
             <table>\n<tr><th>release<th>version<th>suite<th>why\n",
        );
        let mut newest: Vec<&Failure> = failures.iter().take(MAX_ROWS).collect();
        newest.sort_by_cached_key(|failure| Reverse(natural(&failure.release)));
        for failure in newest {
            let _ = writeln!(
                html,
                "<tr><td>{}<td>{}<td>{}<td>{}: {}",
                escape(&failure.release),
                escape(&failure.version),
                escape(&failure.suite),
                failure.reason,
                escape(&failure.detail)
            );
        }
        html.push_str("</table>\n");
    }
    html.push_str("</html>\n");
    html
}

fn row(html: &mut String, build: &BuildSummary) {
    let releases = escape(&build.releases.join(", "));
    let series = escape(build.releases.first().map_or("unknown", |release| series(release)));
    let id = &build.build_id;
    let status = match (build.status, build.reason) {
        (Status::Unresolved, Some(reason)) => format!("unresolved: {reason}"),
        (status, _) => status.to_string(),
    };
    let _ = write!(
        html,
        "<tr><td>{series}<td>{releases}<td>{status}<td><a href=\"/buildid/{id}/plan\"><code>{id}</code></a> "
    );
    if build.status == Status::Resolved {
        let _ = write!(html, "<a href=\"/buildid/{id}/nfdrop.bt\">bpftrace</a> ");
    }
    let _ = writeln!(html, "<a href=\"/buildid/{id}/provenance\">packages</a>");
}

/// `6.9` before `6.12`: runs of digits count as numbers.
fn natural(text: &str) -> Vec<(String, Option<u64>)> {
    let mut parts = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (before, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, after) = tail.split_at(end);
        parts.push((before.to_owned(), number.parse().ok()));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_people_read_them() {
        let mut releases = ["6.1.0-9", "6.12.3", "6.1.0-56", "5.10.0", "7.0"];
        releases.sort_by_key(|release| natural(release));
        assert_eq!(releases, ["5.10.0", "6.1.0-9", "6.1.0-56", "6.12.3", "7.0"]);
    }

    #[test]
    fn names_are_not_markup() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
