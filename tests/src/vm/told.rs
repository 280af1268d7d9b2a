//! What the client tells when it does not print every drop: nobody reads its stdout, it is asked for a
//! sample, nf_tables was gone in between, or it is flooded. Everything adds up to what was sent.

use super::{drops, machine::Sections, summary::Summary, verdict};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// What does not add up in `tests/guest/scenario`; all packets sent there are dropped.
pub fn differences(sections: &Sections) -> Result<Vec<String>> {
    let summary = |title| -> Result<Summary> { sections.get(title)?.parse() };
    let sent = |title| verdict::sent(sections.get(title)?);
    let mut differences = Vec::new();
    let mut equal = |what: &str, found: u64, due: u64| {
        if found != due {
            differences.push(format!("{what}: {found}, not {due}"));
        }
    };

    let (asked, ended) = (summary("blocked asked")?, summary("blocked summary")?);
    equal("blocked: seen when asked", asked.seen, sent("blocked sent")?);
    equal("blocked: seen", ended.seen, asked.seen);
    let lines: u64 = sections.get("blocked lines")?.trim().parse()?;
    equal("blocked: lines in the pipe", lines, ended.printed);
    ensure!(asked.unprinted > 0, "blocked: nothing waited: {asked:?}");
    ensure!(sections.get("ended TERM, blocked")?.starts_with("code 0\n"), "blocked: it failed");

    let sample = summary("sample summary")?;
    equal("sample: seen", sample.seen, sent("sample sent")?);
    let printed = drops::drops(sections.get("sample drops")?)?.iter().map(|(_, count)| count).sum();
    equal("sample: printed", printed, sample.printed);
    // By rules and by policies, each for itself.
    equal("sample: printed of both", printed, 2000 / 3 + 1000 / 3);

    let before: Summary = summary("gone summary")?;
    differences.extend(counted(sections)?);

    let mut found = [("blocked", ended), ("sample", sample), ("gone", before)]
        .map(|(name, summary)| summary.differences(name))
        .concat();
    differences.append(&mut found);
    Ok(differences)
}

/// What the counts by rule, over an nf_tables that went and came again, have too much or too little.
fn counted(sections: &Sections) -> Result<Vec<String>> {
    let by_rule = sum(sections.get("metrics")?, "nfdrop_drops_total")?;
    let last = sections.0.iter().rev().find(|(title, _)| title == "summary");
    let last: Summary = last.context("no summary")?.1.parse()?;
    let before: Summary = sections.get("gone summary")?.parse()?;
    let sent = verdict::sent(sections.get("gone sent")?)?;
    let pairs = [
        ("metrics: drops by rule, before and after", by_rule, last.seen),
        ("metrics: drops before", before.seen, sent),
    ];
    let differ = |(what, found, due): (&str, u64, u64)| {
        (found != due).then(|| format!("{what}: {found}, not {due}"))
    };
    Ok(pairs.into_iter().filter_map(differ).collect())
}

/// Over all labels.
fn sum(metrics: &str, name: &str) -> Result<u64> {
    let mut sum = 0;
    for line in metrics.lines().filter(|line| line.starts_with(&format!("{name}{{"))) {
        let (_, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        sum += value.parse::<u64>()?;
    }
    Ok(sum)
}

/// A flood, as `tests/guest/flood` had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    /// Seconds of the guest's time.
    pub lasted: u64,
    /// Packets, all of which are dropped.
    pub sent: u64,
    /// Of the client with the small ring.
    pub printing: Summary,
    /// Of the client that counts only.
    pub counting: u64,
    /// What does not add up.
    pub differences: Vec<String>,
}

/// How the flood went.
pub fn flood(sections: &Sections) -> Result<Flood> {
    let number = |title| -> Result<u64> { Ok(sections.get(title)?.trim().parse()?) };
    let sent = verdict::sent(sections.get("flood sent")?)?;
    let printing: Summary = sections.get("flood summary")?.parse()?;
    let said = sections.get("flood counted")?;
    let seen = said.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok());
    let counting = seen.with_context(|| said.to_owned())?;
    let mut differences = printing.differences("flood");
    let mut equal = |what: &str, found: u64, due: u64| {
        if found != due {
            differences.push(format!("{what}: {found}, not {due}"));
        }
    };
    equal("seen", printing.seen, sent);
    equal("lines", number("flood lines")?, printing.printed);
    equal("seen by --aggregate", counting, sent);
    ensure!(said.contains("; 0 beyond the "), "{said}");

    // By rule and policy: the rules' own counters, and the last line of each.
    let counters = counters(sections.get("flood counters")?)?;
    let mut counts = BTreeMap::new();
    for line in sections.get("flood counts")?.lines() {
        let json: Value = serde_json::from_str(line)?;
        let packets = json["packets"].as_u64().with_context(|| line.to_owned())?;
        counts.insert(json["handle"].as_u64(), packets);
    }
    equal("counted by rules", counters.values().sum(), sent);
    for (handle, packets) in &counters {
        let found = counts.remove(handle).unwrap_or(0);
        equal(&format!("told by --aggregate of {handle:?}"), found, *packets);
    }
    ensure!(counts.is_empty(), "of what are these? {counts:?}");
    let lasted = number("flood lasted")?;
    Ok(Flood { lasted, sent, printing, counting, differences })
}

/// Packets by handle; what has the comment `policy` counts what is left to the policy.
fn counters(ruleset: &str) -> Result<BTreeMap<Option<u64>, u64>> {
    let json: Value = serde_json::from_str(ruleset)?;
    let objects = json["nftables"].as_array().context("no objects")?;
    let mut counters = BTreeMap::new();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        let mut parts = rule["expr"].as_array().context("a rule without expressions")?.iter();
        let packets = parts.find_map(|part| part["counter"]["packets"].as_u64());
        let handle = rule["handle"].as_u64().filter(|_| rule["comment"] != "policy");
        counters.insert(handle, packets.context("a rule that does not count")?);
    }
    Ok(counters)
}
