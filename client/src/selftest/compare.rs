//! What was sent, what nft's rules counted, and what the probes reported: three counts that have to be equal for
//! every rule and every policy. Where the first two differ the test itself has failed; where the last one does,
//! the plan is wrong.

use super::{
    ruleset,
    scenario::{Fate, Flow, POLICY, Scenario},
};
use crate::{attach::Count, event};
use nfdrop_db::{plan::Event, proof::Drops};
use std::fmt::{self, Write as _};

/// Most sentences of a kind: a wrong plan contradicts itself at every rule.
const MAX_SENTENCES: usize = 4;

/// Something that drops, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Inode numbers of the namespaces it is in: both, where the plan does not tell them apart.
    netns: Vec<u32>,
    /// Its place in the scenario's tables.
    table: usize,
    family: event::Family,
    name: &'static str,
    table_handle: u64,
    what: What,
    /// A namesake may be in the other namespace.
    is_second: bool,
    /// Packets of every round.
    sent: u64,
    /// As nft's counters say at the end.
    counted: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Rule {
        handle: u64,
        comment: &'static str,
    },
    /// The base chain's handle.
    Policy {
        chain: u64,
    },
}

/// What the test itself did not manage.
pub(super) type Broken = String;

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, name, .. } = self;
        match &self.what {
            What::Rule { handle, comment } => {
                write!(f, "rule {handle} of table {family} {name} ({comment:?})")?;
            }
            What::Policy { .. } => write!(f, "the policy of table {family} {name}")?,
        }
        f.write_str(if self.is_second { " in the second namespace" } else { "" })
    }
}

/// All that drops in the scenario. `netns`: inode numbers of the two namespaces; `None` where the plan does not
/// tell where they are.
pub(super) fn subjects(
    scenario: &Scenario,
    listings: &[Vec<ruleset::Table>; 2],
    netns: Option<[u32; 2]>,
) -> Result<Vec<Subject>, Broken> {
    let mut subjects: Vec<Subject> = vec![];
    for (index, table) in scenario.tables.iter().enumerate() {
        let named = format!("table {} {}", table.family, table.name);
        let mut listed = listings[table.space].iter();
        let listed = listed
            .find(|listed| listed.family == table.family && listed.name == table.name)
            .ok_or_else(|| format!("nft does not list {named}"))?;
        let chain = listed.chains.iter().find(|(name, _)| name == table.name);
        let (_, chain) = chain.ok_or_else(|| format!("nft lists no base chain of {named}"))?;
        let sent = |fate| {
            let mut flows = scenario.flows.iter();
            let of_it = |flow: &&Flow| flow.table == index && flow.fate == fate;
            flows.by_ref().filter(of_it).map(|flow| flow.packets).sum::<u64>()
        };
        let counted = |comment| {
            let rules = listed.rules.iter().filter(|rule| rule.comment == comment);
            rules.map(|rule| rule.packets).sum::<u64>()
        };
        let mut fates: Vec<Fate> = scenario
            .flows
            .iter()
            .filter(|flow| flow.table == index && flow.fate != Fate::Accepted)
            .map(|flow| flow.fate)
            .collect();
        fates.dedup();
        for fate in fates {
            let (what, comment) = match fate {
                Fate::Rule(comment) => {
                    let rule = listed.rules.iter().find(|rule| rule.comment == comment);
                    let rule =
                        rule.ok_or_else(|| format!("nft lists no rule {comment:?} of {named}"))?;
                    (What::Rule { handle: rule.handle, comment }, comment)
                }
                Fate::Policy => (What::Policy { chain: *chain }, POLICY),
                Fate::Accepted => continue,
            };
            let subject = Subject {
                netns: netns.map(|netns| vec![netns[table.space]]).unwrap_or_default(),
                table: index,
                family: table.family,
                name: table.name,
                table_handle: listed.handle,
                what,
                is_second: netns.is_some() && table.space == 1,
                sent: sent(fate),
                counted: counted(comment),
            };
            let same = subjects.iter_mut().find(|other| other.is_same(&subject));
            match same {
                // Its namesake in the other namespace, or the same again.
                Some(other) if other.table != index => {
                    other.sent += subject.sent;
                    other.counted += subject.counted;
                }
                Some(_) => {}
                None => subjects.push(subject),
            }
        }
    }
    Ok(subjects)
}

impl Subject {
    fn is_same(&self, other: &Self) -> bool {
        (&self.netns, self.family, self.name, &self.what)
            == (&other.netns, other.family, other.name, &other.what)
    }

    /// `family` and `table` as far as the plan tells where they are.
    fn is_of(
        &self,
        netns: Option<u32>,
        family: event::Family,
        table: (&str, u64),
        chain: &str,
    ) -> bool {
        let (name, handle) = table;
        netns.is_none_or(|netns| self.netns.is_empty() || self.netns.contains(&netns))
            && (family.0 == 0 || family == self.family)
            && (name.is_empty() || name == self.name)
            && (handle == 0 || handle == self.table_handle)
            && chain == self.name
    }

    fn is_counted_in(&self, row: &Count) -> bool {
        let netns = (row.netns != 0).then_some(row.netns);
        let table = (&*row.table, row.table_handle);
        self.is_of(netns, event::Family(row.family), table, &row.base_chain)
            && match self.what {
                What::Rule { handle, .. } => row.event == Event::RuleDrop && row.handle == handle,
                What::Policy { chain } => {
                    row.event == Event::PolicyDrop && (row.handle == 0 || row.handle == chain)
                }
            }
    }

    fn is_named_by(&self, drop: &event::Drop) -> bool {
        let table = (&*drop.table, drop.table_handle);
        self.is_of(drop.netns, drop.family, table, &drop.base_chain)
            && match self.what {
                What::Rule { handle, .. } => drop.handle == Some(handle),
                What::Policy { .. } => drop.handle.is_none(),
            }
    }

    fn is_fate(&self, flow: &Flow, scenario: &Scenario) -> bool {
        let table = &scenario.tables[flow.table];
        let fate = match self.what {
            What::Rule { comment, .. } => Fate::Rule(comment),
            What::Policy { .. } => Fate::Policy,
        };
        (table.family, table.name) == (self.family, self.name) && flow.fate == fate
    }

    fn is_rule(&self) -> bool {
        matches!(self.what, What::Rule { .. })
    }

    fn seen_in(&self, rows: &[Count]) -> u64 {
        rows.iter().filter(|row| self.is_counted_in(row)).map(|row| row.packets).sum()
    }
}

/// A round: its name, and what was counted since the probes were set when it ended.
pub(super) type Round = (&'static str, Vec<Count>);

/// What was compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Compared {
    pub(super) expected: Drops,
    pub(super) seen: Drops,
    pub(super) contradictions: Vec<String>,
    /// How many drops were not reported, where that is all that is wrong; 0: all were, or more is wrong.
    pub(super) only_missing: u64,
}

/// Compares. `rounds` are those that ran; the last one's counts are those of the end.
///
/// # Errors
/// What was sent is not what nft's rules counted.
pub(super) fn compare(
    scenario: &Scenario,
    subjects: &[Subject],
    rounds: &[Round],
    events: &[event::Drop],
) -> Result<Compared, Broken> {
    let mut compared = Compared::default();
    let add = |drops: &mut Drops, is_rule, count| {
        let to = if is_rule { &mut drops.rule_drop } else { &mut drops.policy_drop };
        *to += count;
    };
    let nothing = vec![];
    let last = rounds.last().map_or(&nothing, |(_, rows)| rows);
    let (mut missing, mut more_than_missing) = (0, false);
    let (mut differing, mut unexplained, mut odd) = (vec![], vec![], vec![]);
    for subject in subjects {
        let sent = subject.sent * rounds.len() as u64;
        if subject.counted != sent {
            let counted = subject.counted;
            return Err(format!("{subject} counted {counted} packets of {sent} that were sent"));
        }
        add(&mut compared.expected, subject.is_rule(), sent);
        let seen = subject.seen_in(last);
        if seen < sent {
            missing += sent - seen;
        }
        more_than_missing |= seen > sent;
        if seen != sent {
            let mut so_far = 0;
            let round = rounds.iter().find(|(_, rows)| {
                so_far += subject.sent;
                subject.seen_in(rows) != so_far
            });
            let since = match round {
                Some((name, _)) if rounds.len() > 1 => format!(", first in the round {name:?}"),
                _ => String::new(),
            };
            differing.push(format!(
                "{subject} dropped {sent} packets, the probes reported {seen}{since}"
            ));
        }
    }
    for row in last {
        add(&mut compared.seen, row.event == Event::RuleDrop, row.packets);
        if !subjects.iter().any(|subject| subject.is_counted_in(row)) {
            unexplained.push(by_nothing(row, subjects));
        }
    }
    let mut wrong: Vec<&Subject> = vec![];
    for drop in events {
        let Some(subject) = subjects.iter().find(|subject| subject.is_named_by(drop)) else {
            continue;
        };
        if let Some(why) = is_other(drop, subject, scenario)
            && !wrong.contains(&subject)
        {
            wrong.push(subject);
            odd.push(format!("the probes reported a drop by {subject} with {why}"));
        }
    }
    if !more_than_missing && unexplained.is_empty() && odd.is_empty() {
        compared.only_missing = missing;
    }
    // The kernel's table has no order.
    unexplained.sort();
    for mut sentences in [differing, unexplained, odd] {
        let more = sentences.len().saturating_sub(MAX_SENTENCES);
        sentences.truncate(MAX_SENTENCES);
        compared.contradictions.extend(sentences);
        if more > 0 {
            compared.contradictions.push(format!("{more} more are like that"));
        }
    }
    Ok(compared)
}

/// Whether the scenario has a base chain of this name.
pub(super) fn is_ours(row: &Count, scenario: &Scenario) -> bool {
    scenario.tables.iter().any(|table| table.name == row.base_chain)
}

fn by_nothing(row: &Count, subjects: &[Subject]) -> String {
    let family = event::Family(row.family);
    let here = |subject: &Subject| {
        subject.netns.is_empty() || subject.netns.contains(&row.netns) || row.netns == 0
    };
    let place = if subjects.iter().any(here) {
        String::new()
    } else {
        format!(" in network namespace {}", row.netns)
    };
    let mut at = format!("base chain {:?}", row.base_chain);
    // Not every plan tells where it is.
    if !row.table.is_empty() {
        let _ = write!(at, " of table {family} {:?}", row.table);
    }
    let by = match row.event {
        Event::RuleDrop => format!("rule {} behind {at}", row.handle),
        Event::PolicyDrop => format!("the policy of {at}"),
    };
    format!("the probes reported {} drops by {by}{place}, where nothing was dropped", row.packets)
}

/// What an event has that none of the subject's packets has.
fn is_other(drop: &event::Drop, subject: &Subject, scenario: &Scenario) -> Option<String> {
    let found = drop.packet.flow();
    let mut flows = scenario.flows.iter().filter(|flow| subject.is_fate(flow, scenario));
    let is_it = |flow: &&Flow| {
        let ends = [(flow.from, found.src, found.sport), (flow.to, found.dst, found.dport)];
        ends.iter()
            .all(|(end, address, port)| (*address, *port) == (Some(end.ip()), Some(end.port())))
    };
    // A plan may not tell where packets are.
    let flow = flows.find(is_it);
    if !drop.packet.bytes.is_empty() && flow.is_none() {
        let end = |address: Option<std::net::IpAddr>, port: Option<u16>| {
            let port = port.map_or_else(|| "?".to_owned(), |port| port.to_string());
            address.map_or_else(|| "?".to_owned(), |address| format!("{address} port {port}"))
        };
        let (from, to) = (end(found.src, found.sport), end(found.dst, found.dport));
        return Some(format!("the packet from {from} to {to}, which was not sent to it"));
    }
    if let (Some(flow), Some(device)) = (flow, &drop.iif)
        && device.name != flow.device()
    {
        return Some(format!("incoming device {:?}, not {:?}", device.name, flow.device()));
    }
    let table = &scenario.tables[subject.table];
    if drop.hook.is_some_and(|hook| hook != table.hook) {
        return Some(format!("hook {}, which is not its own", drop.hook.unwrap_or_default()));
    }
    None
}
#[cfg(test)]
mod tests;
