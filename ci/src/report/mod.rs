//! A verdict for those who read it: people, forges, and tools that collect tests and findings.

mod github;
mod junit;
mod markdown;
mod sarif;
mod text;

use crate::{finding::Finding, verdict::Verdict};
use clap::ValueEnum;
use std::fmt::Write as _;

pub(crate) use markdown::code;
pub use markdown::markdown;

/// A form of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// Annotations of GitHub Actions
    Github,
    /// JUnit's XML, as Jenkins and GitLab read it
    Junit,
    /// SARIF 2.1.0
    Sarif,
    /// For pages, summaries and issues
    Markdown,
}

/// The verdict in this form.
pub fn render(verdict: &Verdict, format: Format) -> String {
    match format {
        Format::Text => text::text(verdict),
        Format::Github => github::github(verdict),
        Format::Junit => junit::junit(verdict),
        Format::Sarif => sarif::sarif(verdict),
        Format::Markdown => markdown(verdict),
    }
}

/// What a finding says, in one line; with the entry that has expired.
fn says((finding, expired): &(Finding, Option<crate::allow::Allowed>)) -> String {
    let mut text = format!("{}: {}", finding.subject, finding.detail);
    if let Some(entry) = expired {
        let _ = write!(
            text,
            " (accepted by {} until {}: {}; that has expired)",
            entry.owner, entry.expires, entry.reason
        );
    }
    text
}
