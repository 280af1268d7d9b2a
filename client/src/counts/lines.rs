//! `--aggregate`: a line for each rule and policy that dropped something since the lines before.

use super::{Rated, short};
use crate::output::{encode, time};
use serde::Serialize;
use std::io;

/// For people, the fastest first.
pub fn text(now: u64, rated: &[Rated]) -> String {
    let mut lines = String::new();
    for rated in rated.iter().filter(|rated| rated.new_packets > 0) {
        let Rated { row, packets_per_second, bytes_per_second, .. } = rated;
        let (rate, bytes) = (short(*packets_per_second), short(*bytes_per_second));
        let (time, verdict) = (time::time_of_day(now), row.verdict.name());
        let (packets, what) = (row.packets, super::table::what(row));
        let line = format!(
            "{time}  {rate:>6} drops/s  {bytes:>6}B/s  {packets:>10} drops  {verdict:<6}  {what}"
        );
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

/// The fields of an event that all drops of a rule have in common, and the counts.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    event: String,
    family: Option<&'a str>,
    table: Option<&'a str>,
    chain: Option<&'a str>,
    base_chain: &'a str,
    handle: Option<u64>,
    rule: Option<&'a str>,
    netns: u32,
    verdict: &'a str,
    packets: u64,
    bytes: u64,
    packets_per_second: f64,
    bytes_per_second: f64,
}

/// For programs: a JSON object a line, the fastest first.
pub fn json(now: u64, rated: &[Rated]) -> io::Result<String> {
    let mut lines = String::new();
    for rated in rated.iter().filter(|rated| rated.new_packets > 0) {
        let Rated { row, packets_per_second, bytes_per_second, .. } = rated;
        let by = row.dropped_by();
        lines.push_str(&encode(&Line {
            ts: time::rfc3339(now),
            event: by.event.to_string(),
            family: by.table.map(|(family, _)| family),
            table: by.table.map(|(_, name)| name),
            chain: by.chain,
            base_chain: by.base_chain,
            handle: by.handle,
            rule: row.rule.as_deref(),
            netns: row.key.netns,
            verdict: row.verdict.name(),
            packets: row.packets,
            bytes: row.bytes,
            packets_per_second: rounded(*packets_per_second),
            bytes_per_second: rounded(*bytes_per_second),
        })?);
        lines.push('\n');
    }
    Ok(lines)
}

/// To thousandths: the time between two readings is not known better.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
