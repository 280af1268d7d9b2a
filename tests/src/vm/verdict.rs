//! What the probes saw, what the rules counted, and what was sent: all three have to agree, rule by
//! rule.

use super::{
    drops::{self, Drops},
    listing::{self, Labels},
    machine::Sections,
    scenario::Fate,
    summary::Summary,
};
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
    /// What the kernel's own trace says of the probes, where it was kept.
    pub events: Option<BTreeMap<Seen, u64>>,
    /// What the client said.
    pub drops: Drops,
    /// What it counted since it was started.
    pub summary: Summary,
    /// Counters at the end of the phase, since the ruleset was loaded.
    pub counters: BTreeMap<RuleId, Counter>,
    /// Whether it was loaded for this phase.
    pub fresh: bool,
    /// By name.
    pub base_chains: BTreeMap<String, BaseChain>,
    /// What `nft list` shows.
    pub labels: Labels,
    /// What [`RuleId`] appends to the names of tables, by the namespaces' inode numbers.
    pub namespaces: BTreeMap<u64, String>,
}

/// Where a chain is hooked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// As in [`RuleId`].
    pub table: String,
    /// The hook's name.
    pub hook: String,
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
    let namespaces = namespaces(sections.get("about")?)?;
    let mut fresh = true;
    for (title, text) in &sections.0 {
        fresh |= title == "fresh";
        if let Some(name) = title.strip_prefix("phase ") {
            let (name, namespaces) = (name.to_owned(), namespaces.clone());
            phases.push(Phase { name, fresh, namespaces, ..Phase::default() });
            fresh = false;
        }
        let Some(phase) = phases.last_mut() else { continue };
        let what = || format!("phase {:?}, section {title:?}:\n{text}", phase.name);
        match title.as_str() {
            "sent" => phase.sent = sent(text).with_context(what)?,
            "events" => phase.events = Some(events(text).with_context(what)?),
            "drops" => phase.drops = drops::drops(text).with_context(what)?,
            "summary" => phase.summary = text.parse().with_context(what)?,
            "listing root" => phase.labels.extend(listing::labels(text, "")),
            "listing other" => phase.labels.extend(listing::labels(text, " (other)")),
            "rules root" => rules(text, "").with_context(what)?.add(phase),
            "rules other" => rules(text, " (other)").with_context(what)?.add(phase),
            "policies other" => phase.counters.extend(policies(text).with_context(what)?),
            _ => {}
        }
    }
    ensure!(!phases.is_empty(), "the guest ran nothing");
    Ok(phases)
}

/// `netns NAME net:[NUMBER]` among others.
fn namespaces(text: &str) -> Result<BTreeMap<u64, String>> {
    let mut namespaces = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split([' ', '[', ']']).collect();
        let ["netns", name, "net:", number, ..] = words[..] else { continue };
        let suffix = if name == "root" { String::new() } else { format!(" ({name})") };
        namespaces.insert(number.parse()?, suffix);
    }
    ensure!(namespaces.len() == 2, "these are not two namespaces: {namespaces:?}");
    Ok(namespaces)
}

/// `INTERFACE COUNT` a line.
pub(super) fn sent(text: &str) -> Result<u64> {
    let mut sum = 0;
    for line in text.lines() {
        let (_, count) = line.split_once(' ').context("no count")?;
        sum += count.parse::<u64>()?;
    }
    Ok(sum)
}

/// `EVENT_N HANDLE CHAIN COUNT` a line; anything else is trouble.
pub(super) fn events(text: &str) -> Result<BTreeMap<Seen, u64>> {
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
    base_chains: BTreeMap<String, BaseChain>,
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
            let hook = chain["hook"].as_str().unwrap_or_default().to_owned();
            let base = BaseChain { table: table(chain), hook };
            let other = rules.base_chains.insert(name.to_owned(), base);
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
        let line = line.strip_prefix(':').with_context(|| line.to_owned())?;
        let words: Vec<_> = line.split([' ', '[', ':', ']']).collect();
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

/// What differs in a phase; nothing, if all is well. `before`: the phase before. `events`: as one of
/// the observers saw them, whose name is `observer`.
pub fn differences(
    before: Option<&Phase>,
    phase: &Phase,
    fates: &BTreeMap<Fate, u64>,
    (observer, events): (&str, &BTreeMap<Seen, u64>),
) -> Vec<String> {
    let before = before.filter(|_| !phase.fresh);
    let mut differences = Vec::new();
    let mut say = |what: String, [seen, counted, due]: [u64; 3]| {
        if seen != counted || counted != due {
            differences.push(format!(
                "{}: {what}: {seen} events by {observer}, {counted} counted, {due} expected",
                phase.name
            ));
        }
    };
    let counted = |id: &RuleId, counter: &Counter| {
        let earlier = before.and_then(|before| before.counters.get(id));
        counter.packets - earlier.map_or(0, |earlier| earlier.packets)
    };
    let mut events = events.clone();
    let mut policies: BTreeMap<&str, u64> = BTreeMap::new();
    let mut fates = fates.clone();
    for (id, counter) in &phase.counters {
        if let Some(chain) = counter.comment.strip_prefix(POLICY) {
            *policies.entry(chain).or_default() += counted(id, counter);
            continue;
        }
        let mut seen = 0;
        for (chain, _) in phase.base_chains.iter().filter(|(_, base)| base.table == id.table) {
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
