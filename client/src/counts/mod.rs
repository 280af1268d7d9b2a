//! Drops counted by rule and policy, as the kernel counts them: what `--aggregate` prints and `top`
//! shows. Everything here is a function of what was counted; [`screen`] is the terminal.

mod earlier;
mod lines;
pub mod screen;
mod table;

pub use earlier::Earlier;
pub use lines::{json, text};
pub use table::{Size, table};

use crate::{
    attach::Count,
    event::{Drop, DroppedBy, Family, Packet},
    names::{Names, RuleName, Source},
    output::{Named, Verdict},
};
use nfdrop_db::plan::Event;
use std::collections::HashMap;

/// The drops of one rule or policy so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What tells it from others.
    pub key: Key,
    /// The table's family and name, where they are known.
    pub table: Option<(&'static str, String)>,
    /// The base chain; of several that lead to the rule, the first seen.
    pub base_chain: String,
    /// The chain with the rule, or whose policy it is.
    pub chain: Option<String>,
    /// The rule's text, where it is known.
    pub rule: Option<String>,
    /// What becomes of the packets.
    pub verdict: Verdict,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What tells one rule or policy from all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace's inode number.
    pub netns: u32,
    /// Of the table.
    pub family: u8,
    /// Which loading of nf_tables it is of: each begins its handles anew.
    pub loading: u32,
    /// Of the table; 0 where it is not known.
    pub table_handle: u64,
    /// Of the table, where its handle is not known.
    pub table_address: u64,
    /// By a rule (its handle), or by the policy of the chain with that handle.
    pub policy: bool,
    /// The rule's or the base chain's handle.
    pub handle: u64,
}

impl Row {
    /// What the kernel counted, with names.
    pub fn new<S: Source>(count: &Count, names: &mut Names<S>) -> Self {
        let mut drop = drop_of(count);
        names.complete(&mut drop);
        let rule = names.look_up(&drop);
        Self::named(count, &drop, rule)
    }

    fn named(count: &Count, drop: &Drop, rule: Option<&RuleName>) -> Self {
        let named = Named::new(drop, rule);
        Self {
            key: Key {
                netns: count.netns,
                family: count.family,
                loading: 0,
                table_handle: count.table_handle,
                table_address: count.table_address,
                policy: count.event == Event::PolicyDrop,
                handle: count.handle,
            },
            table: named.table().map(|(family, name)| (family, name.to_owned())),
            base_chain: drop.base_chain.clone(),
            chain: named.chain().map(str::to_owned),
            rule: rule.map(|rule| rule.text.to_string()),
            verdict: named.verdict(),
            packets: count.packets,
            bytes: count.bytes,
        }
    }

    /// The rule's handle; `None` of a policy.
    pub fn handle(&self) -> Option<u64> {
        (!self.key.policy).then_some(self.key.handle)
    }

    /// The rule or the policy.
    pub fn dropped_by(&self) -> DroppedBy<'_> {
        DroppedBy {
            event: if self.key.policy { Event::PolicyDrop } else { Event::RuleDrop },
            table: self.table.as_ref().map(|(family, name)| (*family, &**name)),
            base_chain: &self.base_chain,
            chain: self.chain.as_deref(),
            handle: self.handle(),
        }
    }
}

/// A drop as those that were counted: now, and without what differs between them.
fn drop_of(count: &Count) -> Drop {
    Drop {
        time: u64::MAX,
        event: count.event,
        family: Family(count.family),
        table: count.table.clone(),
        table_handle: count.table_handle,
        base_chain: count.base_chain.clone(),
        handle: (count.event == Event::RuleDrop).then_some(count.handle),
        hook: None,
        protocol_family: Family(count.family),
        iif: None,
        oif: None,
        // Namespaces have larger numbers; this kernel's plan does not tell where they are.
        netns: (count.netns != 0).then_some(count.netns),
        mark: None,
        len: None,
        packet: Packet::default(),
    }
}

/// A row and how fast it grows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated {
    /// All so far.
    pub row: Row,
    /// Packets since the reading before.
    pub new_packets: u64,
    /// Packets per second since then.
    pub packets_per_second: f64,
    /// Bytes per second since then.
    pub bytes_per_second: f64,
}

/// Readings, of which each is compared with the one before.
#[derive(Debug, Default)]
pub struct Rates {
    before: HashMap<Key, (u64, u64)>,
}

impl Rates {
    /// The rows of a reading, the fastest first. `seconds` have passed since the one before.
    pub fn read(&mut self, rows: Vec<Row>, seconds: f64) -> Vec<Rated> {
        let before = std::mem::take(&mut self.before);
        let mut rated: Vec<_> = rows
            .into_iter()
            .map(|row| {
                let (packets, bytes) = before.get(&row.key).copied().unwrap_or_default();
                // Less than before: counted anew, by programs that were attached since.
                let grown = |now: u64, before| now.checked_sub(before).unwrap_or(now);
                let new_packets = grown(row.packets, packets);
                self.before.insert(row.key.clone(), (row.packets, row.bytes));
                Rated {
                    new_packets,
                    packets_per_second: per_second(new_packets, seconds),
                    bytes_per_second: per_second(grown(row.bytes, bytes), seconds),
                    row,
                }
            })
            .collect();
        rated.sort_by(|a, b| {
            let fastest = b.packets_per_second.total_cmp(&a.packets_per_second);
            let most = b.row.packets.cmp(&a.row.packets);
            fastest.then(most).then_with(|| a.row.key.cmp(&b.row.key))
        });
        rated
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Three digits and a decimal prefix: `0`, `12.3`, `4.56k`, `789M`.
fn short(number: f64) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let (mut number, mut prefix) = (number, 0);
    // What would be rounded to 1000 has the next prefix already.
    while number >= 999.5 && prefix + 1 < prefixes.len() {
        number /= 1000.0;
        prefix += 1;
    }
    let digits = match number {
        _ if prefix == 0 && number.fract() == 0.0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$}{}", prefixes[prefix])
}

#[cfg(test)]
mod tests;
