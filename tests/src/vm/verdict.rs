//! What the probes saw, what the rules counted, and what was sent: all three have to agree, rule by
//! rule.

use super::{machine::Sections, scenario::Fate};
use anyhow::{Context, Result, bail, ensure};
use nfdrop_db::{Cost, Event, Plan};
use serde_json::Value;
use std::collections::BTreeMap;

/// Begins the comment of a rule that counts what is left to a base chain's policy.
const POLICY: &str = "policy ";

/// A phase of the run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Phase {
    /// As the guest calls it.
    pub name: String,
    /// Frames sent.
    pub sent: u64,
    /// What the probes saw.
    pub events: BTreeMap<Seen, u64>,
    /// Counters at the end of the phase, over the whole run.
    pub counters: BTreeMap<RuleId, Counter>,
    /// The table of every base chain.
    pub base_chains: BTreeMap<String, String>,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// The kind.
    pub event: Event,
    /// Of the rule.
    pub handle: Option<u64>,
    /// The base chain's name.
    pub chain: String,
}

/// A rule: its table and its handle.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    /// `ip t4`; in the second namespace `ip t4 (other)`.
    pub table: String,
    /// Unique in the table.
    pub handle: u64,
}

/// What a rule counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The rule's comment.
    pub comment: String,
    /// Packets.
    pub packets: u64,
}

/// The phases that the guest ran.
pub fn phases(sections: &Sections) -> Result<Vec<Phase>> {
    let mut phases: Vec<Phase> = Vec::new();
    for (title, text) in &sections.0 {
        if let Some(name) = title.strip_prefix("phase ") {
            phases.push(Phase { name: name.to_owned(), ..Phase::default() });
        }
        let Some(phase) = phases.last_mut() else { continue };
        let what = || format!("phase {:?}, section {title:?}:\n{text}", phase.name);
        match title.as_str() {
            "sent" => phase.sent = sent(text).with_context(what)?,
            "events" => phase.events = events(text).with_context(what)?,
            "rules root" => rules(text, "").with_context(what)?.add(phase),
            "rules other" => rules(text, " (other)").with_context(what)?.add(phase),
            "policies other" => phase.counters.extend(policies(text).with_context(what)?),
            _ => {}
        }
    }
    ensure!(!phases.is_empty(), "the guest ran nothing");
    Ok(phases)
}

/// `INTERFACE COUNT` a line.
fn sent(text: &str) -> Result<u64> {
    let mut sum = 0;
    for line in text.lines() {
        let (_, count) = line.split_once(' ').context("no count")?;
        sum += count.parse::<u64>()?;
    }
    Ok(sum)
}

/// `EVENT_N HANDLE CHAIN COUNT` a line; anything else is trouble.
fn events(text: &str) -> Result<BTreeMap<Seen, u64>> {
    let mut events = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [event, handle, chain, count] = words[..] else { bail!("{line:?}") };
        let event = match event.rsplit_once('_').map(|(kind, _)| kind) {
            Some("rule_drop") => Event::RuleDrop,
            Some("policy_drop") => Event::PolicyDrop,
            _ => bail!("{line:?}"),
        };
        let handle = if handle == "-" { None } else { Some(handle.parse()?) };
        let seen = Seen { event, handle, chain: chain.to_owned() };
        *events.entry(seen).or_default() += count.parse::<u64>()?;
    }
    Ok(events)
}

#[derive(Default)]
struct Rules {
    counters: BTreeMap<RuleId, Counter>,
    base_chains: BTreeMap<String, String>,
}

impl Rules {
    fn add(self, phase: &mut Phase) {
        phase.counters.extend(self.counters);
        phase.base_chains.extend(self.base_chains);
    }
}

/// Reads what `nft -j list ruleset` prints: every rule that counts.
fn rules(text: &str, namespace: &str) -> Result<Rules> {
    let json: Value = serde_json::from_str(text)?;
    let mut rules = Rules::default();
    for object in json["nftables"].as_array().context("no objects")? {
        let table = |object: &Value| {
            let word = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}{namespace}", word("family"), word("table"))
        };
        if let Some(chain) = object.get("chain").filter(|chain| chain.get("hook").is_some()) {
            let name = chain["name"].as_str().context("a chain without a name")?;
            let other = rules.base_chains.insert(name.to_owned(), table(chain));
            ensure!(other.is_none(), "two base chains are called {name}");
        }
        let Some(rule) = object.get("rule") else { continue };
        let parts = rule["expr"].as_array().context("a rule without expressions")?;
        let Some(counter) = parts.iter().find_map(|part| part.get("counter")) else { continue };
        let packets = counter["packets"].as_u64().context("a counter without packets")?;
        let handle = rule["handle"].as_u64().context("a rule without a handle")?;
        let comment = rule["comment"].as_str().unwrap_or_default().to_owned();
        let id = RuleId { table: table(rule), handle };
        rules.counters.insert(id, Counter { comment, packets });
    }
    Ok(rules)
}

/// Reads the lines of `iptables-nft-save -c` that are of chains: `:INPUT DROP [7:420]`. Only these
/// tables count at base chains.
fn policies(text: &str) -> Result<Vec<(RuleId, Counter)>> {
    let mut policies = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.trim_start_matches(':').split([' ', '[', ':', ']']).collect();
        let [chain, policy, _, packets, ..] = words[..] else { bail!("{line:?}") };
        if policy == "DROP" {
            let packets = packets.parse().with_context(|| line.to_owned())?;
            let comment = format!("{POLICY}{chain}");
            // No rule has the handle 0.
            let id = RuleId { table: "ip filter (other)".to_owned(), handle: 0 };
            policies.push((id, Counter { comment, packets }));
        }
    }
    Ok(policies)
}

/// What differs in a phase; nothing, if all is well. `before`: the phase before.
pub fn differences(
    before: Option<&Phase>,
    phase: &Phase,
    fates: &BTreeMap<Fate, u64>,
) -> Vec<String> {
    let mut differences = Vec::new();
    let mut say = |what: String, [seen, counted, due]: [u64; 3]| {
        if seen != counted || counted != due {
            differences.push(format!(
                "{}: {what}: {seen} events, {counted} counted, {due} expected",
                phase.name
            ));
        }
    };
    let counted = |id: &RuleId, counter: &Counter| {
        let earlier = before.and_then(|before| before.counters.get(id));
        counter.packets - earlier.map_or(0, |earlier| earlier.packets)
    };
    let mut events = phase.events.clone();
    let mut policies: BTreeMap<&str, u64> = BTreeMap::new();
    let mut fates = fates.clone();
    for (id, counter) in &phase.counters {
        if let Some(chain) = counter.comment.strip_prefix(POLICY) {
            *policies.entry(chain).or_default() += counted(id, counter);
            continue;
        }
        let mut seen = 0;
        for (chain, _) in phase.base_chains.iter().filter(|(_, table)| **table == id.table) {
            let handle = Some(id.handle);
            let key = Seen { event: Event::RuleDrop, handle, chain: chain.clone() };
            seen += events.remove(&key).unwrap_or(0);
        }
        let due = fates.iter().find(|(fate, _)| {
            matches!(fate, Fate::Rule(table, comment) if *table == id.table && *comment == counter.comment)
        });
        let due = due.map(|(fate, due)| (*fate, *due));
        if let Some((fate, _)) = due {
            fates.remove(&fate);
        }
        let due = due.map_or(0, |(_, due)| due);
        let what =
            format!("rule {:?} with handle {} of table {}", counter.comment, id.handle, id.table);
        say(what, [seen, counted(id, counter), due]);
    }
    for (chain, counted) in policies {
        let key = Seen { event: Event::PolicyDrop, handle: None, chain: chain.to_owned() };
        let seen = events.remove(&key).unwrap_or(0);
        let fate = fates.keys().find(|fate| matches!(fate, Fate::Policy(name) if *name == chain));
        let due = fate.copied().and_then(|fate| fates.remove(&fate)).unwrap_or(0);
        say(format!("policy of chain {chain}"), [seen, counted, due]);
    }
    for (seen, count) in events {
        say(format!("{seen:?}"), [count, 0, 0]);
    }
    for (fate, due) in fates {
        say(format!("{fate:?}, which the ruleset has not"), [0, 0, due]);
    }
    differences
}

/// What differs where the ruleset was replaced while packets arrived, and how often it was.
pub fn reloaded(sections: &Sections) -> Result<(Vec<String>, usize)> {
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let generations = sections.get("reload rules")?;
    for line in generations.lines() {
        let json: Value = serde_json::from_str(line)?;
        for rule in json["nftables"].as_array().into_iter().flatten().filter_map(|o| o.get("rule"))
        {
            let mut parts = rule["expr"].as_array().context("a rule without expressions")?.iter();
            let Some(name) = parts.find_map(|part| part["counter"].as_str()) else { continue };
            let handle = rule["handle"].as_u64().context("a rule without a handle")?;
            names.insert(handle, name.to_owned());
        }
    }
    let sent = sent(sections.get("reload sent")?)?;
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut differences = Vec::new();
    for (event, count) in events(sections.get("reload events")?)? {
        let name = event.handle.and_then(|handle| names.get(&handle));
        match name.filter(|_| event.event == Event::RuleDrop && event.chain == "reload4") {
            Some(name) => *seen.entry(name).or_default() += count,
            None => differences.push(format!("reload: {count} of {event:?}")),
        }
    }
    let json: Value = serde_json::from_str(sections.get("reload counters")?)?;
    let counters = json["nftables"].as_array().context("no objects")?;
    let mut all = 0;
    for counter in counters.iter().filter_map(|object| object.get("counter")) {
        let name = counter["name"].as_str().context("a counter without a name")?;
        let packets = counter["packets"].as_u64().context("a counter without packets")?;
        let seen = seen.remove(name).unwrap_or(0);
        all += packets;
        if seen != packets {
            differences.push(format!("reload: {seen} events of {name}, {packets} counted"));
        }
    }
    ensure!(seen.is_empty(), "no counters for {seen:?}");
    if all != sent {
        differences.push(format!("reload: {all} counted, {sent} sent"));
    }
    Ok((differences, generations.lines().count()))
}

/// A kprobe as `/sys/kernel/debug/kprobes/list` and `kprobe_profile` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// From the start of the function.
    pub offset: u32,
    /// Whether a jump took the breakpoint's place.
    pub optimized: bool,
}

/// The probes in `nft_do_chain`, by offset.
pub fn placed(list: &str) -> Result<Vec<Placed>> {
    let mut all = Vec::new();
    for line in list.lines() {
        // ffffffffc0a1d3ff  k  nft_do_chain+0x3ff  nf_tables [OPTIMIZED]
        let symbol = line.split_whitespace().find_map(|word| word.strip_prefix("nft_do_chain+0x"));
        let Some(offset) = symbol else { continue };
        let offset = u32::from_str_radix(offset, 16).with_context(|| line.to_owned())?;
        ensure!(!line.contains("[DISABLED]"), "{line}");
        all.push(Placed { offset, optimized: line.contains("[OPTIMIZED]") });
    }
    all.sort_by_key(|placed| placed.offset);
    Ok(all)
}

/// What differs between the probes of a plan and those in the kernel.
pub fn misplaced(plan: &Plan, placed: &[Placed]) -> Vec<String> {
    let mut differences = Vec::new();
    for probe in &plan.probes {
        let offset = probe.offset.0;
        match placed.iter().find(|placed| placed.offset == offset) {
            None => differences.push(format!("no probe at +{offset:#x}")),
            Some(placed) if placed.optimized != (probe.cost == Cost::Optimized) => {
                let found = if placed.optimized { "optimized" } else { "not optimized" };
                differences.push(format!("+{offset:#x} is {found}, the plan says {}", probe.cost));
            }
            Some(_) => {}
        }
    }
    differences
}

/// Hits that the kernel missed, over all probes: the third column of `kprobe_profile`.
pub fn missed(profile: &str) -> Result<u64> {
    let mut sum = 0;
    for line in profile.lines() {
        let missed = line.split_whitespace().nth(2).with_context(|| line.to_owned())?;
        sum += missed.parse::<u64>()?;
    }
    Ok(sum)
}
