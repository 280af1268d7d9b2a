//! How good the plans of a database are, by distribution, series and flavour: as a table for people, in
//! Markdown for pages, as JSON for programs.

use nfdrop_db::store::{Group, Stats, Tally};
use std::fmt::Write as _;

const HEAD: [&str; 10] = [
    "distro",
    "series",
    "flavour",
    "builds",
    "resolved",
    "bodies",
    "drop-only",
    "optimizable",
    "booted",
    "unresolved",
];

/// How many of the columns are text on the left, the others up to the last being numbers.
const NAMES: usize = 3;

type Row = [String; HEAD.len()];

fn rows(stats: &Stats) -> Vec<Row> {
    let group =
        |Group { distro, series, flavour, tally }: &Group| row([distro, series, flavour], tally);
    let mut rows: Vec<Row> = stats.groups.iter().map(group).collect();
    rows.push(row(["all", "", ""], &stats.total));
    rows
}

fn row([distro, series, flavour]: [&str; NAMES], tally: &Tally) -> Row {
    let reasons = tally.unresolved.iter().map(|(reason, count)| format!("{count} {reason}"));
    [
        distro.to_owned(),
        series.to_owned(),
        flavour.to_owned(),
        tally.builds.to_string(),
        tally.resolved.to_string(),
        tally.bodies.to_string(),
        share(tally.drop_only, tally.resolved),
        share(tally.optimizable, tally.resolved),
        share(tally.booted, tally.resolved),
        reasons.collect::<Vec<_>>().join(", "),
    ]
}

/// In whole percent, rounded down: 100 % means all.
fn share(part: u64, whole: u64) -> String {
    match part.saturating_mul(100).checked_div(whole) {
        Some(percent) => format!("{percent} %"),
        None => "-".to_owned(),
    }
}

/// Columns for a terminal.
pub fn text(stats: &Stats) -> String {
    let mut rows = rows(stats);
    rows.insert(0, HEAD.map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; HEAD.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let number = (NAMES..HEAD.len() - 1).contains(&column);
            let separator = if column == 0 { "" } else { "  " };
            let _ = if number {
                write!(line, "{separator}{cell:>width$}")
            } else {
                write!(line, "{separator}{cell:<width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A table as GitHub and others render it.
pub fn markdown(stats: &Stats) -> String {
    let mut text = String::new();
    let mut line = |cells: &Row| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&HEAD.map(str::to_owned));
    let number = |column| (NAMES..HEAD.len() - 1).contains(&column);
    line(&std::array::from_fn(|column| if number(column) { "---:" } else { "---" }.to_owned()));
    rows(stats).iter().for_each(line);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::Reason;

    fn stats() -> Stats {
        let group = |series: &str, flavour: &str, tally| Group {
            distro: "debian".to_owned(),
            series: series.to_owned(),
            flavour: flavour.to_owned(),
            tally,
        };
        let tally = Tally {
            builds: 13,
            resolved: 12,
            bodies: 3,
            drop_only: 12,
            optimizable: 11,
            booted: 12,
            unresolved: [(Reason::NoSite, 1), (Reason::FetchFailed, 2)].into(),
        };
        let none =
            Tally { unresolved: [(Reason::IncompletePackageSet, 1)].into(), ..Tally::default() };
        let mut total = tally.clone();
        total.unresolved.extend(none.unresolved.clone());
        let groups = vec![group("7.0", "amd64", none), group("6.12", "cloud-amd64", tally)];
        Stats { groups, total }
    }

    #[test]
    fn a_table_for_people() {
        insta::assert_snapshot!(text(&stats()), @"
        distro  series  flavour      builds  resolved  bodies  drop-only  optimizable  booted  unresolved
        debian  7.0     amd64             0         0       0          -            -       -  1 incomplete_package_set
        debian  6.12    cloud-amd64      13        12       3      100 %         91 %   100 %  1 no_site, 2 fetch_failed
        all                              13        12       3      100 %         91 %   100 %  1 no_site, 1 incomplete_package_set, 2 fetch_failed
        ");
    }

    #[test]
    fn a_table_for_pages() {
        insta::assert_snapshot!(markdown(&stats()), @"
        | distro | series | flavour | builds | resolved | bodies | drop-only | optimizable | booted | unresolved |
        | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
        | debian | 7.0 | amd64 | 0 | 0 | 0 | - | - | - | 1 incomplete_package_set |
        | debian | 6.12 | cloud-amd64 | 13 | 12 | 3 | 100 % | 91 % | 100 % | 1 no_site, 2 fetch_failed |
        | all |  |  | 13 | 12 | 3 | 100 % | 91 % | 100 % | 1 no_site, 1 incomplete_package_set, 2 fetch_failed |
        ");
    }
}
