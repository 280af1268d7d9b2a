//! Drops that show what formats have to cope with.

use crate::{
    event::{Device, Drop, Family, Packet},
    names::RuleName,
};
use nfdrop_db::plan::Event;

pub(crate) const NETNS: u32 = 4_026_531_840;

fn device(name: &str) -> Device {
    Device { index: 2, name: name.to_owned() }
}

/// UDP from 10.0.0.2:40000 to 10.0.0.1:1002.
fn udp() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 36, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
    bytes.extend([0x9c, 0x40, 0x03, 0xea, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes
}

fn udp6() -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    for last in [2, 1] {
        bytes.extend([&[0xfd][..], &[0; 14], &[last]].concat());
    }
    bytes.extend([0x9c, 0x40, 0x03, 0xea, 0, 8, 0, 0]);
    bytes
}

fn arp() -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 2];
    bytes.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 77]);
    bytes
}

fn framed(protocol: u16, bytes: &[u8]) -> Packet {
    let frame = [&[2; 6][..], &[4; 6], &protocol.to_be_bytes(), bytes].concat();
    Packet { bytes: frame, network: 14, protocol }
}

fn bare(protocol: u16, bytes: Vec<u8>) -> Packet {
    Packet { bytes, network: 0, protocol }
}

/// By a rule of its base chain.
fn drop() -> Drop {
    Drop {
        time: 1_793_000_000_123_456_789,
        event: Event::RuleDrop,
        family: Family::IP,
        table: "t4".to_owned(),
        table_handle: 1,
        base_chain: "in4".to_owned(),
        handle: Some(18),
        hook: Some(1),
        protocol_family: Family::IP,
        iif: Some(device("a0")),
        oif: None,
        netns: Some(NETNS),
        mark: Some(0),
        len: Some(36),
        packet: framed(0x0800, &udp()),
    }
}

fn rule(chain: &str, text: &str) -> RuleName {
    let reject = text.contains("reject");
    RuleName { chain: chain.into(), text: text.into(), reject }
}

/// Each with its rule, where that has a name.
pub(crate) fn all() -> Vec<(Drop, Option<RuleName>)> {
    let policy = Drop { event: Event::PolicyDrop, handle: None, ..drop() };
    let rejected = Drop {
        time: drop().time + 1_000,
        family: Family::IP6,
        table: "t6".to_owned(),
        base_chain: "forward".to_owned(),
        handle: Some(1_234),
        hook: Some(2),
        protocol_family: Family::IP6,
        oif: Some(device("b0")),
        mark: Some(0x10),
        len: Some(1400),
        packet: bare(0x86dd, udp6()),
        ..drop()
    };
    let arp = Drop {
        family: Family::ARP,
        table: "ta".to_owned(),
        base_chain: "ain".to_owned(),
        hook: Some(0),
        protocol_family: Family::ARP,
        packet: bare(0x0806, arp()),
        len: None,
        mark: None,
        ..drop()
    };
    let lldp = Drop {
        family: Family::NETDEV,
        table: "tn".to_owned(),
        base_chain: "ing".to_owned(),
        hook: Some(0),
        protocol_family: Family::NETDEV,
        packet: framed(0x88cc, &[2, 7, 4]),
        len: Some(3),
        netns: Some(NETNS + 7),
        ..drop()
    };
    let nothing = Drop {
        family: Family(0),
        table: String::new(),
        hook: None,
        iif: None,
        netns: None,
        mark: None,
        len: None,
        packet: Packet::default(),
        ..drop()
    };
    let hostile = Drop {
        table: "t\u{1b}[2J\nt".to_owned(),
        base_chain: "\u{9b}31m".to_owned(),
        iif: Some(device("\u{7f}a\r")),
        ..drop()
    };
    vec![
        (drop(), Some(rule("in4", "udp dport 1002 counter drop comment \"sub\""))),
        (drop(), Some(rule("sub", "udp dport 1002 drop"))),
        (policy, None),
        (rejected, Some(rule("forward", "udp dport 1002 reject with icmpv6 admin-prohibited"))),
        (arp, None),
        (lldp, Some(rule("ing", "drop"))),
        (nothing, None),
        (hostile, Some(rule("\u{1b}c", "drop comment \"\u{1b}]0;x\u{7}\n\u{85}\""))),
    ]
}
