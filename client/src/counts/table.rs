//! `top`: the rules and policies that drop most, now.

use super::{Rated, Row, short};
use crate::output::{line, time};
use std::fmt::Write;

const REVERSE: &str = "\x1b[7m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Room for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters of a line.
    pub columns: usize,
    /// Lines.
    pub lines: usize,
}

/// The table: a line about all of them, headings, and as many rules as fit, the fastest first. In
/// `colour`, which here is reverse and bold, on terminals only.
pub fn table(now: u64, rated: &[Rated], size: Size, colour: bool) -> String {
    let sum = |of: fn(&Rated) -> f64| rated.iter().map(of).fold(0.0, |sum, part| sum + part);
    let packets = rated.iter().fold(0_u64, |sum, rated| sum.saturating_add(rated.row.packets));
    let title = format!(
        "nfdrop {}  {} rules and policies  {} drops/s  {}B/s  {packets} drops",
        time::time_of_day(now),
        rated.len(),
        short(sum(|rated| rated.packets_per_second)),
        short(sum(|rated| rated.bytes_per_second)),
    );
    let heading =
        format!("{:>8}  {:>8}  {:>10}  {:<7}  {}", "DROPS/S", "B/S", "DROPS", "VERDICT", "RULE");
    let mut lines = vec![title, heading];
    lines.extend(rated.iter().map(
        |Rated { row, packets_per_second, bytes_per_second, .. }| {
            let (rate, bytes) = (short(*packets_per_second), short(*bytes_per_second));
            let (packets, verdict) = (row.packets, row.verdict.name());
            format!("{rate:>8}  {bytes:>8}  {packets:>10}  {verdict:<7}  {}", what(row))
        },
    ));
    let mut table = String::new();
    for (number, line) in lines.iter().take(size.lines).enumerate() {
        let line = cut(line.trim_end(), size.columns);
        let style = match number {
            0 if colour => BOLD,
            1 if colour => REVERSE,
            _ => "",
        };
        let reset = if style.is_empty() { "" } else { RESET };
        // Into a String.
        let _ = writeln!(table, "{style}{line}{reset}");
    }
    table
}

/// Where it is and what it says: `ip t4 in4 -> sub handle 13: udp dport 1002 drop`.
pub(super) fn what(row: &Row) -> String {
    let table = row.table.as_ref();
    let table = table.map_or("?".to_owned(), |(family, name)| format!("{family} {name}"));
    let chain = row.chain.as_ref().filter(|chain| **chain != row.base_chain);
    let chain = chain.map(|chain| format!(" -> {chain}")).unwrap_or_default();
    let handle = row.handle().map(|handle| format!(" handle {handle}")).unwrap_or_default();
    let rule = row.rule.as_ref().map(|rule| format!(": {rule}")).unwrap_or_default();
    line(&format!("{table} {}{chain}{handle}{rule}", row.base_chain))
}

fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).take(columns).collect()
}
