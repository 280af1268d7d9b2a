//! The ruleset was replaced while packets arrived: nothing is lost, counted twice or called by the name
//! of another generation.

use super::{
    drops,
    machine::Sections,
    verdict::{self, Seen},
};
use anyhow::{Context, Result, ensure};
use nfdrop_db::Event;
use serde_json::Value;
use std::collections::BTreeMap;

/// The two rules of `tests/guest/reload.nft`: counter, chain, text.
const RULES: [(&str, &str, &str); 2] = [
    ("a", "reload4", "udp dport 1090 counter name \"a\" drop"),
    ("b", "sub", "udp dport 1091 counter name \"b\" drop"),
];

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// What differs.
    pub differences: Vec<String>,
    /// How often the ruleset was loaded.
    pub rulesets: usize,
    /// Drops that the client named.
    pub named: u64,
    /// Drops of which it gave the handle alone.
    pub unnamed: u64,
}

/// What became of the packets.
pub fn reloaded(sections: &Sections) -> Result<Reloaded> {
    let generations = sections.get("reload rules")?;
    let counters = counters_by_handle(generations)?;
    let counted = counted(sections.get("reload counters")?)?;
    let sent = verdict::sent(sections.get("reload sent")?)?;
    let mut reloaded = Reloaded { rulesets: generations.lines().count(), ..Reloaded::default() };
    let drops = drops::drops(sections.get("reload drops")?)?;
    for (observer, events) in [
        ("the trace", verdict::events(sections.get("reload events")?)?),
        ("the client", drops::seen(&drops)),
    ] {
        let mut seen = BTreeMap::<&str, u64>::new();
        for (Seen { event, handle, chain }, count) in events {
            let name = handle.and_then(|handle| counters.get(&handle));
            match name.filter(|_| event == Event::RuleDrop && chain == "reload4") {
                Some(name) => *seen.entry(name).or_default() += count,
                None => reloaded.differences.push(format!(
                    "reload: {observer} has {count} of {event} {handle:?} in {chain}"
                )),
            }
        }
        for (name, packets) in &counted {
            let seen = seen.remove(name.as_str()).unwrap_or(0);
            if seen != *packets {
                let difference =
                    format!("reload: {seen} events of {name} by {observer}, {packets} counted");
                reloaded.differences.push(difference);
            }
        }
    }
    let all: u64 = counted.values().sum();
    if all != sent {
        reloaded.differences.push(format!("reload: {all} counted, {sent} sent"));
    }
    for (drop, count) in drops {
        let name = drop.handle.and_then(|handle| counters.get(&handle));
        let Some(rule) = RULES.iter().find(|(known, ..)| Some(*known) == name.map(String::as_str))
        else {
            continue;
        };
        match (&drop.chain, &drop.rule) {
            (None, None) => reloaded.unnamed += count,
            (Some(chain), Some(text)) if (chain.as_str(), text.as_str()) == (rule.1, rule.2) => {
                reloaded.named += count;
            }
            _ => reloaded.differences.push(format!("reload: {drop:?} is of {rule:?}")),
        }
    }
    Ok(reloaded)
}

/// The counter that a rule of any generation refers to.
fn counters_by_handle(generations: &str) -> Result<BTreeMap<u64, String>> {
    let mut counters = BTreeMap::new();
    for line in generations.lines() {
        let json: Value = serde_json::from_str(line)?;
        let objects = json["nftables"].as_array().into_iter().flatten();
        for rule in objects.filter_map(|object| object.get("rule")) {
            let mut parts = rule["expr"].as_array().context("a rule without expressions")?.iter();
            let Some(name) = parts.find_map(|part| part["counter"].as_str()) else { continue };
            let handle = rule["handle"].as_u64().context("a rule without a handle")?;
            let other = counters.insert(handle, name.to_owned());
            ensure!(other.is_none_or(|other| other == name), "handle {handle} is used again");
        }
    }
    Ok(counters)
}

/// Packets by counter.
fn counted(text: &str) -> Result<BTreeMap<String, u64>> {
    let json: Value = serde_json::from_str(text)?;
    let mut counted = BTreeMap::new();
    let objects = json["nftables"].as_array().context("no objects")?;
    for counter in objects.iter().filter_map(|object| object.get("counter")) {
        let name = counter["name"].as_str().context("a counter without a name")?;
        let packets = counter["packets"].as_u64().context("a counter without packets")?;
        counted.insert(name.to_owned(), packets);
    }
    Ok(counted)
}
