//! What the client says of drops: every word of it has to be true of the packets that were sent and of
//! the ruleset that the guest listed.

use super::{
    frames::Frame,
    listing::Label,
    scenario::{Fate, Flow},
    verdict::{Phase, Seen},
};
use anyhow::{Context, Result, ensure};
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use nfdrop_db::Event;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The members of an event, in order.
const MEMBERS: [&str; 19] = [
    "event",
    "family",
    "table",
    "chain",
    "base_chain",
    "handle",
    "rule",
    "hook",
    "iif",
    "oif",
    "netns",
    "mark",
    "len",
    "src",
    "dst",
    "sport",
    "dport",
    "proto",
    "verdict",
];

/// An event, without its time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "the contract of the client's events says what they are")]
pub struct Drop {
    pub event: Event,
    pub family: Option<String>,
    pub table: Option<String>,
    pub chain: Option<String>,
    pub base_chain: String,
    pub handle: Option<u64>,
    pub rule: Option<String>,
    pub hook: Option<String>,
    pub netns: Option<u64>,
    pub verdict: String,
    #[serde(flatten)]
    pub packet: Packet,
}

/// What is told of the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Default)]
#[expect(missing_docs, reason = "the contract of the client's events says what they are")]
pub struct Packet {
    pub iif: Option<String>,
    pub oif: Option<String>,
    pub mark: Option<u64>,
    pub len: Option<u64>,
    pub src: Option<String>,
    pub dst: Option<String>,
    pub sport: Option<u64>,
    pub dport: Option<u64>,
    pub proto: Option<String>,
}

/// Events, and how often each was said.
pub type Drops = Vec<(Drop, u64)>;

/// Reads `COUNT EVENT` lines.
pub fn drops(text: &str) -> Result<Drops> {
    text.lines().map(|line| drop(line).with_context(|| line.to_owned())).collect()
}

fn drop(line: &str) -> Result<(Drop, u64)> {
    let (count, json) = line.split_once(' ').context("no count")?;
    let places: Option<Vec<_>> =
        MEMBERS.iter().map(|name| json.find(&format!("\"{name}\":"))).collect();
    ensure!(places.context("a member is missing")?.is_sorted(), "the order is another");
    let members = serde_json::from_str::<serde_json::Map<_, _>>(json)?.len();
    ensure!(members == MEMBERS.len(), "{members} members");
    Ok((serde_json::from_str(json)?, count.parse()?))
}

/// The drops as the kernel's trace has them.
pub fn seen(drops: &Drops) -> BTreeMap<Seen, u64> {
    let mut seen = BTreeMap::new();
    for (drop, count) in drops {
        let Drop { event, handle, base_chain: chain, .. } = drop.clone();
        *seen.entry(Seen { event, handle, chain }).or_default() += count;
    }
    seen
}

/// What the client can know besides handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// It can read rulesets.
    pub rulesets: bool,
    /// The plan says where tables and their handles are. Without that a handle cannot be looked up
    /// while a ruleset is being replaced or has not been read yet.
    pub tables: bool,
}

/// What is false in a phase; nothing, if all is well.
pub fn differences(phase: &Phase, flows: &[Flow], known: Known) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    let mut found = BTreeMap::<(Option<String>, Packet), u64>::new();
    for (drop, count) in &phase.drops {
        for wrong in labels(phase, drop, known) {
            differences.push(format!("{}: {wrong}: {drop:?}", phase.name));
        }
        *found.entry((what(phase, drop), drop.packet.clone())).or_default() += count;
    }
    for flow in flows {
        for (fate, count) in &flow.fates {
            let key = (Some(said(*fate)), packet(flow, *fate)?);
            match found.get_mut(&key) {
                Some(left) if *left >= *count => *left -= count,
                left => differences.push(format!(
                    "{}: {} of {count} drops as {key:?}",
                    phase.name,
                    left.map_or(0, |left| *left)
                )),
            }
        }
    }
    for (key, left) in found.into_iter().filter(|(_, left)| *left > 0) {
        differences.push(format!("{}: {left} drops that nothing explains: {key:?}", phase.name));
    }
    Ok(differences)
}

/// What is false where events were lost. All were counted, and none twice.
pub fn flooded(phase: &Phase, fates: &BTreeMap<Fate, u64>) -> Vec<String> {
    let mut differences = Vec::new();
    let due: u64 = fates.values().sum();
    if phase.summary.seen != due {
        differences.push(format!("{}: {} seen of {due}", phase.name, phase.summary.seen));
    }
    let mut printed = BTreeMap::<Option<String>, u64>::new();
    for (drop, count) in &phase.drops {
        *printed.entry(what(phase, drop)).or_default() += count;
    }
    let all: u64 = printed.values().sum();
    if all != phase.summary.printed {
        differences.push(format!("{}: {all} printed, not {}", phase.name, phase.summary.printed));
    }
    for (what, count) in printed {
        let fate = fates.iter().find(|(fate, _)| Some(said(**fate)) == what);
        if fate.is_none_or(|(_, due)| *due < count) {
            differences.push(format!("{}: {count} of {what:?}, due were {fate:?}", phase.name));
        }
    }
    differences
}

fn said(fate: Fate) -> String {
    match fate {
        Fate::Rule(table, comment) => format!("{table}: {comment}"),
        Fate::Policy(chain) => format!("policy of {chain}"),
    }
}

/// The fate that an event speaks of.
fn what(phase: &Phase, drop: &Drop) -> Option<String> {
    let Some(handle) = drop.handle else { return Some(format!("policy of {}", drop.base_chain)) };
    let table = table(phase, drop)?;
    let id = super::verdict::RuleId { table, handle };
    Some(format!("{}: {}", id.table, phase.counters.get(&id)?.comment))
}

/// As [`Phase`] calls it: with the namespace.
fn table(phase: &Phase, drop: &Drop) -> Option<String> {
    let namespace = phase.namespaces.get(&drop.netns?)?;
    match (&drop.family, &drop.table) {
        (Some(family), Some(table)) => Some(format!("{family} {table}{namespace}")),
        // Names of base chains are unique in this ruleset, which the client cannot know.
        (None, None) => phase.base_chains.get(&drop.base_chain).map(|base| base.table.clone()),
        _ => None,
    }
}

/// What is wrong with the names and the verdict.
fn labels(phase: &Phase, drop: &Drop, known: Known) -> Vec<String> {
    let Some(table) = table(phase, drop) else { return vec!["no such namespace".to_owned()] };
    let Some(base) = phase.base_chains.get(&drop.base_chain).filter(|base| base.table == table)
    else {
        return vec![format!("{table} has no such base chain")];
    };
    let mut wrong = Vec::new();
    let mut compare = |name: &str, is: Option<&str>, due: Option<&str>| {
        if is != due {
            wrong.push(format!("{name} has to be {due:?}"));
        }
    };
    compare("hook", drop.hook.as_deref(), Some(&base.hook));
    if drop.table.is_none() && known.tables {
        return vec!["the table is not named".to_owned()];
    }
    let unnamed = drop.handle.is_some() && drop.chain.is_none() && drop.rule.is_none();
    let named = known.rulesets && (known.tables || !unnamed);
    let label = drop.handle.map(|handle| phase.labels.get(&(table, handle)));
    let (chain, text) = match &label {
        None => (Some(drop.base_chain.as_str()), None),
        Some(_) if !named => (None, None),
        Some(None) => return vec!["no such rule is listed".to_owned()],
        Some(Some(Label { chain, text })) => (Some(chain.as_str()), Some(text.as_str())),
    };
    compare("chain", drop.chain.as_deref(), chain);
    compare("rule", drop.rule.as_deref(), text);
    let rejects = text.is_some_and(|text| text.split(' ').any(|word| word == "reject"));
    let event = if drop.handle.is_some() { Event::RuleDrop } else { Event::PolicyDrop };
    compare("event", Some(&drop.event.to_string()), Some(&event.to_string()));
    let verdict = match event {
        Event::PolicyDrop => "policy",
        Event::RuleDrop if rejects => "reject",
        Event::RuleDrop => "drop",
    };
    compare("verdict", Some(&drop.verdict), Some(verdict));
    wrong
}

/// What is told of a flow's packets that meet this fate, as far as their frames and the guest's
/// devices say.
fn packet(flow: &Flow, fate: Fate) -> Result<Packet> {
    let comment = match fate {
        Fate::Rule(_, comment) => comment,
        Fate::Policy(chain) => chain,
    };
    // Of fragments, the second one.
    let frame = flow.frames.get(1).filter(|_| comment == "fragment");
    let mut packet = of_frame(frame.or(flow.frames.first()).context("a flow without frames")?)?;
    let device = match flow.from {
        "b0" if comment == "vlan" => "a0.7",
        "b0" => "a0",
        "d0" => "c0",
        "f0" => "e0",
        "h0" => "g0",
        "j0" => "i0",
        other => anyhow::bail!("where does {other} lead?"),
    };
    packet.iif = Some(device.to_owned());
    let out = match comment {
        "forward" | "through" => Some("br0"),
        "through the bridge" => Some("g0"),
        "bthrough" => Some("c0"),
        _ => None,
    };
    packet.oif = out.map(str::to_owned);
    packet.mark = Some(if comment == "marked" { 42 } else { 0 });
    match comment {
        // Three fragments of a thousand bytes, in one again.
        "reassembled" => {
            (packet.len, packet.sport, packet.dport) = (Some(3020), Some(40_000), Some(1011));
        }
        // The answer has IP and ICMP headers in front of what was sent.
        "unreachable" => {
            let len = packet.len.map(|len| 28 + len);
            let Packet { src, dst, iif, mark, .. } = packet;
            let proto = Some("icmp".to_owned());
            packet = Packet { src: dst, dst: src, oif: iif, mark, proto, len, ..Packet::default() };
        }
        _ => {}
    }
    Ok(packet)
}

fn of_frame(frame: &Frame) -> Result<Packet> {
    let headers = PacketHeaders::from_ethernet_slice(frame)?;
    let mut packet = Packet::default();
    let tag = if headers.vlan().is_some() { 4 } else { 0 };
    packet.len = Some(frame.len() as u64 - 14 - tag);
    let (src, dst, proto) = match headers.net.context("no network header")? {
        NetHeaders::Ipv4(header, _) => (
            std::net::Ipv4Addr::from(header.source).to_string(),
            std::net::Ipv4Addr::from(header.destination).to_string(),
            match header.protocol.0 {
                1 => "icmp",
                6 => "tcp",
                _ => "udp",
            },
        ),
        NetHeaders::Ipv6(header, _) => (
            std::net::Ipv6Addr::from(header.source).to_string(),
            std::net::Ipv6Addr::from(header.destination).to_string(),
            match header.next_header.0 {
                58 => "ipv6-icmp",
                6 => "tcp",
                _ => "udp",
            },
        ),
        NetHeaders::Arp(arp) => {
            let address = |bytes: &[u8]| {
                <[u8; 4]>::try_from(bytes).map(|four| std::net::Ipv4Addr::from(four).to_string())
            };
            (address(arp.sender_protocol_addr())?, address(arp.target_protocol_addr())?, "arp")
        }
    };
    (packet.src, packet.dst, packet.proto) = (Some(src), Some(dst), Some(proto.to_owned()));
    let ports = match headers.transport {
        Some(TransportHeader::Udp(udp)) => Some((udp.source_port, udp.destination_port)),
        Some(TransportHeader::Tcp(tcp)) => Some((tcp.source_port, tcp.destination_port)),
        _ => None,
    };
    (packet.sport, packet.dport) =
        ports.map_or((None, None), |(from, to)| (Some(from.into()), Some(to.into())));
    Ok(packet)
}
