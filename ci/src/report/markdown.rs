//! For pages, summaries and issues.

use crate::verdict::Verdict;
use std::fmt::Write as _;

/// Rows of a table; GitHub takes a MiB a summary.
const MAX_ROWS: usize = 1000;

/// The verdict as markdown.
pub fn markdown(verdict: &Verdict) -> String {
    let mut out =
        format!("## nfdrop gate: {}\n\n{}.\n", verdict.outcome().name(), verdict.headline());
    let _ = writeln!(out, "\n{}.", verdict.numbers());
    if !verdict.findings.is_empty() {
        out += "\n| finding | of | what | next |\n| --- | --- | --- | --- |\n";
        for (finding, expired) in verdict.findings.iter().take(MAX_ROWS) {
            let mut detail = code(&finding.detail);
            if let Some(entry) = expired {
                let until = format!("{}, until {}: {}", entry.owner, entry.expires, entry.reason);
                let _ = write!(detail, "; an entry has expired: {}", code(&until));
            }
            let of = code(&finding.subject.to_string());
            let _ = writeln!(
                out,
                "| {} | {of} | {detail} | {} |",
                code(finding.kind.name()),
                finding.kind.next()
            );
        }
        let more = verdict.findings.len().saturating_sub(MAX_ROWS);
        if more > 0 {
            let _ = writeln!(out, "\n… and {more} more.");
        }
    }
    if !verdict.allowed.is_empty() {
        out += "\n### Accepted\n\n| finding | of | why | who | until |\n| --- | --- | --- | --- | --- |\n";
        for (finding, entry) in verdict.allowed.iter().take(MAX_ROWS) {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                code(finding.kind.name()),
                code(&finding.subject.to_string()),
                code(&entry.reason),
                code(&entry.owner),
                entry.expires
            );
        }
    }
    if !verdict.unused.is_empty() {
        out += "\n### Entries that accept nothing that was found\n\n";
        for entry in &verdict.unused {
            let _ = writeln!(out, "- {} of {}", code(&entry.of.to_string()), code(&entry.owner));
        }
    }
    out
}

/// Names and details come from packages: shown as they are, and never as markup.
pub(crate) fn code(text: &str) -> String {
    let text = text.replace('`', "'").replace('|', "\\|").replace(['\n', '\r'], " ");
    if text.trim().is_empty() { String::new() } else { format!("`{}`", text.trim()) }
}
