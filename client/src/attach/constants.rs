//! What the BPF program is told before the verifier sees it: the values of its constants.
//!
//! The layouts are those of `struct probe` and its parts in `client/bpf/nfdrop.bpf.c`, in the
//! machine's byte order.

use super::Wanted;
use nfdrop_db::plan::{
    Condition, Event, Layout, Location, MAX_CONDITIONS, MAX_PROBES, Plan, Probe, fields,
};

/// An offset that the plan does not have.
const ABSENT: u32 = u32::MAX;

/// A constant: its name in the program, and its bytes.
pub(super) type Constant = (&'static str, Vec<u8>);

/// All constants for this plan, and for what is wanted.
pub(super) fn constants(
    plan: &Plan,
    wanted: &Wanted,
    stream: bool,
    netfilter_drop: Option<u32>,
) -> Vec<Constant> {
    let handle = plan.layout.rule_handle;
    let word = |value: u32| value.to_ne_bytes().to_vec();
    let mut constants = vec![
        ("PROBES", probes(&plan.probes)),
        ("RULE_HANDLE_OFFSET", word(handle.offset)),
        ("RULE_HANDLE_SHIFT", word(handle.shift.into())),
        ("RULE_HANDLE_MASK", handle.mask().to_ne_bytes().to_vec()),
        ("EVENTS_ON", word(wanted.events.into())),
        ("PACKET_SIZE", word(wanted.packet_size.into())),
        ("STREAM_ON", word(stream.into())),
        ("SAMPLE", word(wanted.sample)),
        ("COUNTS_ON", word((wanted.counts > 0).into())),
        ("ONLY_NETNS", wanted.only_netns.iter().flat_map(|netns| netns.to_ne_bytes()).collect()),
        ("NETFILTER_DROP", word(netfilter_drop.unwrap_or(ABSENT))),
    ];
    constants.extend(offsets(&plan.layout));
    constants
}

fn probes(probes: &[Probe]) -> Vec<u8> {
    const SIZE: usize = 8 + 3 * 16 + MAX_CONDITIONS * 32;
    let mut bytes = probes.iter().flat_map(probe).collect::<Vec<_>>();
    bytes.resize(MAX_PROBES * SIZE, 0);
    bytes
}

fn probe(probe: &Probe) -> Vec<u8> {
    let event: u32 = match probe.event {
        Event::RuleDrop => 0,
        Event::PolicyDrop => 1,
    };
    let mut bytes = event.to_ne_bytes().to_vec();
    bytes.extend((probe.when.len() as u32).to_ne_bytes());
    // A policy drop has no rule, and its program does not look for one.
    for place in [probe.rule.unwrap_or(probe.pkt), probe.pkt, probe.base_chain] {
        bytes.extend(location(place));
    }
    for condition in &probe.when {
        let Condition { value, mask, equals } = condition;
        bytes.extend(location(*value));
        bytes.extend(mask.to_ne_bytes());
        bytes.extend(equals.to_ne_bytes());
    }
    bytes.resize(8 + 3 * 16 + MAX_CONDITIONS * 32, 0);
    bytes
}

fn location(Location { reg, deref, add }: Location) -> [u8; 16] {
    // `Reg` lists them in the order of the instruction encoding.
    let words =
        [reg as u32, deref.is_some().into(), deref.unwrap_or(0) as u32, add.unwrap_or(0) as u32];
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn offsets(layout: &Layout) -> impl Iterator<Item = Constant> + '_ {
    const NAMES: [(&str, &str); 25] = [
        ("PKTINFO_SKB", fields::PKTINFO_SKB),
        ("PKTINFO_STATE", fields::PKTINFO_STATE),
        ("STATE_HOOK", fields::STATE_HOOK),
        ("STATE_PF", fields::STATE_PF),
        ("STATE_IN", fields::STATE_IN),
        ("STATE_OUT", fields::STATE_OUT),
        ("STATE_NET", fields::STATE_NET),
        ("CHAIN_TABLE", fields::CHAIN_TABLE),
        ("CHAIN_NAME", fields::CHAIN_NAME),
        ("CHAIN_HANDLE", fields::CHAIN_HANDLE),
        ("TABLE_NAME", fields::TABLE_NAME),
        ("TABLE_HANDLE", fields::TABLE_HANDLE),
        ("TABLE_FAMILY", fields::TABLE_FAMILY),
        ("SKB_LEN", fields::SKB_LEN),
        ("SKB_DATA_LEN", fields::SKB_DATA_LEN),
        ("SKB_MARK", fields::SKB_MARK),
        ("SKB_PROTOCOL", fields::SKB_PROTOCOL),
        ("SKB_HEAD", fields::SKB_HEAD),
        ("SKB_DATA", fields::SKB_DATA),
        ("SKB_MAC_HEADER", fields::SKB_MAC_HEADER),
        ("SKB_NETWORK_HEADER", fields::SKB_NETWORK_HEADER),
        ("DEV_IFINDEX", fields::DEV_IFINDEX),
        ("DEV_NAME", fields::DEV_NAME),
        ("NET_INUM", fields::NET_INUM),
        ("POLICY_TO_CHAIN", fields::POLICY_TO_CHAIN),
    ];
    NAMES.into_iter().map(|(constant, field)| {
        let offset = layout.offsets.get(field).copied().unwrap_or(ABSENT);
        (constant, offset.to_ne_bytes().to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::Reg;

    #[test]
    fn a_location_is_four_words() {
        let place = Location { reg: Reg::R9, deref: Some(-8), add: Some(3) };
        let words: Vec<_> =
            location(place).chunks(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap())).collect();
        assert_eq!(words, [9, 1, 0xffff_fff8, 3]);
    }
}
