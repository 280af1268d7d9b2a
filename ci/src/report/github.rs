//! Annotations: workflow commands on stdout (GitHub's documentation, "Workflow commands for GitHub
//! Actions"). GitHub shows ten errors and ten warnings of a step; the summary has all.

use crate::{finding::Outcome, verdict::Verdict};
use std::fmt::Write as _;

pub(super) fn github(verdict: &Verdict) -> String {
    let mut out = String::new();
    for all @ (finding, _) in &verdict.findings {
        let level = match finding.kind.outcome() {
            Outcome::Unfinished => "warning",
            _ => "error",
        };
        let title = property(&format!("{}: {}", finding.kind, finding.kind.title()));
        let text = format!("{}\nnext: {}", super::says(all), finding.kind.next());
        let _ = writeln!(out, "::{level} title={title}::{}", data(&text));
    }
    for (finding, entry) in &verdict.allowed {
        let text = format!(
            "{}: {} ({}, until {})",
            finding.subject, entry.reason, entry.owner, entry.expires
        );
        let title = property(&format!("allowed {}", finding.kind));
        let _ = writeln!(out, "::notice title={title}::{}", data(&text));
    }
    let level = if verdict.outcome() == Outcome::Pass { "notice" } else { "error" };
    let title = property(&format!("nfdrop gate: {}", verdict.outcome().name()));
    let text = format!("{}\n{}", verdict.headline(), verdict.numbers());
    let _ = writeln!(out, "::{level} title={title}::{}", data(&text));
    out
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
