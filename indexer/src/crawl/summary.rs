//! What a crawl did, as a table for people.

use super::{End, Survey};
use crate::source::{FailedMirror, date, kernel::KernelSet};
use nfdrop_db::{Reason, store::Known};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, SystemTime},
};

/// What a crawl did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Of every suite that exists, in the order they were read.
    pub suites: Vec<SuiteRow>,
    /// Over all; a kernel that several suites list counts once.
    pub total: Row,
    /// Suites whose index should have been replaced, and since when.
    pub stale: Vec<(String, SystemTime)>,
    /// Suites whose index is older than one that was read before: when either was made.
    pub older: Vec<(String, [SystemTime; 2])>,
    /// Suites that another mirror than the first was asked for, and the mirrors before it.
    pub failed_mirrors: Vec<(String, FailedMirror)>,
    /// Suites that offer markedly less than last time, and how much.
    pub lost: Vec<(String, String)>,
    /// Sources of which no mirror offers any suite.
    pub not_offered: Vec<String>,
    /// Suites that could not be read, and why.
    pub failed_suites: Vec<(String, Reason, String)>,
    /// Kernels that could not be fetched or verified, and why.
    pub failed: Vec<(String, Reason, String)>,
    /// Kernels whose packages are not all listed, and what is missing.
    pub incomplete: Vec<(String, String)>,
    /// Defects of this program.
    pub internal: Vec<String>,
    /// It was stopped before the end.
    pub interrupted: bool,
}

/// A suite, and what became of its kernels.
#[derive(Debug, Clone, Default)]
pub struct SuiteRow {
    /// `debian`.
    pub distro: String,
    /// `trixie-security`.
    pub suite: String,
    /// What became of them.
    pub row: Row,
}

/// Numbers of kernels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Listed.
    pub seen: usize,
    /// Wanted.
    pub selected: usize,
    /// Of those, known before.
    pub known: usize,
    /// New, with a plan.
    pub resolved: usize,
    /// New, without one.
    pub unresolved: BTreeMap<Reason, usize>,
    /// Not fetched or verified.
    pub failed: usize,
    /// What it took.
    pub spent: Spent,
}

/// What kernels took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Bytes that came over the network.
    pub bytes: u64,
    /// From the first request to the result, kernels that were worked on at the same time each by itself.
    pub time: Duration,
}

impl Row {
    fn end(&mut self, end: &End, spent: Spent) {
        self.spent.bytes += spent.bytes;
        self.spent.time += spent.time;
        match end {
            End::Known(Known::Build(_) | Known::Failed(_)) => self.known += 1,
            End::Resolved(_) => self.resolved += 1,
            End::Unresolved(reason, _) => *self.unresolved.entry(*reason).or_default() += 1,
            End::Failed(..) | End::Internal(_) => self.failed += 1,
        }
    }
}

impl Summary {
    pub(super) fn new(survey: &Survey) -> Self {
        let mut summary = Self::default();
        summary.total.seen = survey.kernels.len();
        let mut offers: BTreeMap<&str, bool> = BTreeMap::new();
        // A source without a place was told of before.
        for outcome in survey.suites.iter().filter(|suite| !suite.repository.urls.is_empty()) {
            let any = offers.entry(&outcome.repository.source).or_default();
            *any |= !matches!(outcome.result, Ok(None));
        }
        let silent = offers.into_iter().filter(|(_, any)| !any);
        summary.not_offered = silent.map(|(source, _)| source.to_owned()).collect();
        for outcome in &survey.suites {
            let (distro, suite) = (&outcome.repository.distro, &outcome.repository.suite);
            let name = format!("{distro} {suite}");
            match &outcome.result {
                Ok(None) => continue,
                Ok(Some(suite)) => {
                    summary.stale.extend(suite.stale_since.map(|since| (name.clone(), since)));
                    summary.older.extend(suite.older.map(|times| (name.clone(), times)));
                    let failed = suite.failed_mirrors.iter().cloned();
                    summary.failed_mirrors.extend(failed.map(|mirror| (name.clone(), mirror)));
                }
                Err(error) => {
                    summary.failed_suites.push((name.clone(), error.reason(), error.to_string()));
                }
            }
            let lists = |k: &&KernelSet| k.distro == *distro && k.suites.contains(suite);
            let seen = survey.kernels.iter().filter(lists).count();
            let (distro, suite) = (distro.clone(), suite.clone());
            summary.suites.push(SuiteRow { distro, suite, row: Row { seen, ..Row::default() } });
        }
        summary
    }

    fn rows(&mut self, kernel: &KernelSet, mut change: impl FnMut(&mut Row)) {
        let listing =
            |s: &&mut SuiteRow| s.distro == kernel.distro && kernel.suites.contains(&s.suite);
        self.suites.iter_mut().filter(listing).for_each(|suite| change(&mut suite.row));
        change(&mut self.total);
    }

    pub(super) fn selected(&mut self, kernels: &[&KernelSet]) {
        for kernel in kernels {
            self.rows(kernel, |row| row.selected += 1);
        }
    }

    pub(super) fn end(&mut self, kernel: &KernelSet, end: End, spent: Spent) {
        self.rows(kernel, |row| row.end(&end, spent));
        let (distro, release, version) = (&kernel.distro, &kernel.release, &kernel.version);
        let name = format!("{distro} {release} {version}");
        match end {
            End::Failed(reason, detail) => self.failed.push((name, reason, detail)),
            End::Unresolved(Reason::IncompletePackageSet, detail) => {
                self.incomplete.push((name, detail));
            }
            End::Internal(detail) => self.internal.push(format!("{name}: {detail}")),
            _ => {}
        }
    }

    /// Whether everything that should have been read and fetched was.
    pub fn is_complete(&self) -> bool {
        self.failed_suites.is_empty()
            && self.not_offered.is_empty()
            && self.lost.is_empty()
            && self.failed.is_empty()
            && self.internal.is_empty()
            && !self.interrupted
    }

    /// The table, and everything that wants attention in words.
    pub fn text(&self, seconds: u64) -> String {
        let mut out = String::new();
        let mut reasons: BTreeSet<Reason> = self.total.unresolved.keys().copied().collect();
        reasons.extend(self.suites.iter().flat_map(|suite| suite.row.unresolved.keys().copied()));
        let first =
            ["source", "suite", "seen", "selected", "new", "known", "resolved"].map(str::to_owned);
        let mut table = vec![first.to_vec()];
        table[0].extend(reasons.iter().map(ToString::to_string));
        table[0].extend(["failed", "MB", "s"].map(str::to_owned));
        let total =
            SuiteRow { distro: "all".to_owned(), row: self.total.clone(), ..SuiteRow::default() };
        for SuiteRow { distro, suite, row } in self.suites.iter().chain([&total]) {
            let new = row.selected - row.known.min(row.selected);
            let mut cells = vec![distro.clone(), suite.clone()];
            let numbers = [row.seen, row.selected, new, row.known, row.resolved];
            cells.extend(numbers.map(|number| number.to_string()));
            let of = |reason| row.unresolved.get(reason).copied().unwrap_or(0).to_string();
            cells.extend(reasons.iter().map(of));
            cells.push(row.failed.to_string());
            cells.push(format!(
                "{}.{}",
                row.spent.bytes / 1_000_000,
                row.spent.bytes / 100_000 % 10
            ));
            cells.push(format!("{:.1}", row.spent.time.as_secs_f64()));
            table.push(cells);
        }
        let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let _ = write!(out, "{:<2$}  {:<3$}", row[0], row[1], widths[0], widths[1]);
            for (cell, width) in row.iter().zip(&widths).skip(2) {
                let _ = write!(out, "  {cell:>width$}");
            }
            out.push('\n');
        }
        let _ = writeln!(out, "{} fetched in {seconds} s", megabytes(self.total.spent.bytes));
        for (suite, since) in &self.stale {
            let day = date::day(*since);
            let _ = writeln!(
                out,
                "stale: the index of {suite} expired on {day}; it was used, but newer kernels may be \
                 missing"
            );
        }
        for (suite, times) in &self.older {
            let [now, before] = times.map(date::day);
            let _ = writeln!(
                out,
                "older: the index of {suite} is of {now}, one of {before} was read before; it was used, \
                 but newer kernels may be missing"
            );
        }
        for (suite, FailedMirror { url, why }) in &self.failed_mirrors {
            let _ = writeln!(out, "passed over: {url}: {why}; another mirror of {suite} was read");
        }
        for (kernel, detail) in &self.incomplete {
            let _ = writeln!(out, "incomplete: {kernel}: {detail}");
        }
        for source in &self.not_offered {
            let _ = writeln!(
                out,
                "failed: no mirror of {source} offers any of its suites; look at its place in the \
                 catalogue, or name another with --mirror {source}=URL"
            );
        }
        for (suite, detail) in &self.lost {
            let _ = writeln!(out, "lost: suite {suite}: {detail}");
        }
        for (suite, reason, detail) in &self.failed_suites {
            let _ = writeln!(out, "failed: suite {suite}: {reason}: {detail}");
        }
        for (kernel, reason, detail) in &self.failed {
            let _ = writeln!(out, "failed: {kernel}: {reason}: {detail}");
        }
        for detail in &self.internal {
            let _ = writeln!(out, "internal error: {detail}; please report this");
        }
        if self.interrupted {
            out.push_str("interrupted: what was done is stored, start it again to go on\n");
        }
        out
    }
}

/// Bytes for people.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
