//! For people.

use crate::{finding::Outcome, verdict::Verdict};
use std::fmt::Write as _;

pub(super) fn text(verdict: &Verdict) -> String {
    let mut out = String::new();
    for all @ (finding, _) in &verdict.findings {
        let kind = finding.kind;
        let _ = writeln!(out, "{kind}: {}", super::says(all));
        let _ = writeln!(out, "    next: {}", kind.next());
        if kind.outcome() != Outcome::Worse {
            for line in finding.entry().lines() {
                let _ = writeln!(out, "        {line}");
            }
        }
    }
    for (finding, entry) in &verdict.allowed {
        let _ = writeln!(
            out,
            "allowed: {} {}: {} ({}, until {})",
            finding.kind, finding.subject, entry.reason, entry.owner, entry.expires
        );
    }
    for entry in &verdict.unused {
        let _ = writeln!(
            out,
            "unused: the entry for {} of {} accepts nothing that was found; remove it",
            entry.of, entry.owner
        );
    }
    let _ = writeln!(out, "{}", verdict.numbers());
    let _ = writeln!(out, "{}: {}", verdict.outcome().name(), verdict.headline());
    out
}
