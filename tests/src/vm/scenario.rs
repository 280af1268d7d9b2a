//! What is sent in every phase, and what has to become of it under the rulesets in `tests/guest`.

use super::frames::{self, Frame, Ip, Link};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

/// What a packet meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// A rule that drops: the table and the rule's comment.
    Rule(&'static str, &'static str),
    /// The policy of a base chain.
    Policy(&'static str),
}

/// Packets of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The interface they are sent from.
    pub from: &'static str,
    /// What is sent, in order.
    pub frames: Vec<Frame>,
    /// What drops how many packets: these, or what the kernel sends because of them.
    pub fates: Vec<(Fate, u64)>,
}

use Fate::{Policy, Rule};

const A: Link = Link { to: 0x0a, vlan: None };
const BRIDGE: Link = Link { to: 0x0c, vlan: None };
const OTHER: Link = Link { to: 0x0e, vlan: None };
const I: Link = Link { to: 0x12, vlan: None };
/// Behind the bridge; nobody has this address.
const BEYOND: Link = Link { to: 0x99, vlan: None };

fn v4(from: [u8; 4], to: [u8; 4]) -> Ip {
    Ip::V4(from.into(), to.into())
}

fn here() -> Ip {
    v4([10, 0, 0, 2], [10, 0, 0, 1])
}

fn here6() -> Ip {
    let address = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    Ip::V6(address(2), address(1))
}

fn flow(from: &'static str, frame: &Frame, count: u64, fates: &[Fate]) -> Flow {
    let frames = vec![frame.clone(); count as usize];
    Flow { from, frames, fates: fates.iter().map(|fate| (*fate, count)).collect() }
}

/// Every kind of packet, each with a count of its own.
pub fn all() -> Vec<Flow> {
    let to_a =
        |port, count, fates: &[Fate]| flow("b0", &frames::udp(A, here(), port), count, fates);
    let six =
        |port, count, fates: &[Fate]| flow("b0", &frames::udp(A, here6(), port), count, fates);
    let t4 = |comment| Rule("ip t4", comment);
    // Nobody listens: the kernel answers, and a rule drops the answer on its way out.
    let answer = t4("unreachable");
    let mut flows = vec![
        to_a(1001, 3, &[t4("base")]),
        to_a(1002, 4, &[t4("sub")]),
        to_a(1022, 1, &[t4("sub, last")]),
        to_a(1012, 2, &[t4("after return")]),
        to_a(1003, 5, &[t4("goto")]),
        to_a(1013, 2, &[Policy("in4")]),
        to_a(1004, 2, &[t4("vmap")]),
        to_a(1005, 3, &[t4("vmap")]),
        to_a(1006, 2, &[t4("deep")]),
        to_a(1016, 3, &[t4("back from the deep")]),
        to_a(1007, 3, &[t4("reject"), answer]),
        flow("b0", &frames::tcp_syn(A, here(), 1008), 2, &[t4("reset")]),
        flow("b0", &frames::tcp_syn(A, here(), 1009), 4, &[t4("syn")]),
        flow("b0", &frames::ping(A, here()), 3, &[t4("ping")]),
        to_a(1015, 2, &[t4("marked")]),
        to_a(2000, 7, &[Policy("in4")]),
        // Accepted by one base chain, dropped by the next.
        to_a(1041, 2, &[Rule("ip u4", "base")]),
        to_a(1042, 3, &[Rule("ip u4", "sub")]),
        to_a(1043, 1, &[Rule("ip u4", "third")]),
        to_a(1044, 2, &[Rule("ip u4", "fourth")]),
        to_a(1050, 3, &[Policy("late4")]),
        to_a(1060, 2, &[Rule("inet ti", "both")]),
        to_a(1065, 2, &[answer]),
        six(1001, 2, &[Rule("ip6 t6", "base")]),
        six(1002, 3, &[Rule("ip6 t6", "sub")]),
        six(1007, 2, &[Rule("ip6 t6", "reject")]),
        flow("b0", &frames::tcp_syn(A, here6(), 1009), 2, &[Rule("ip6 t6", "syn")]),
        flow("b0", &frames::ping(A, here6()), 3, &[Rule("ip6 t6", "ping")]),
        six(2000, 4, &[Policy("in6")]),
        six(1060, 3, &[Rule("inet ti", "both")]),
        six(1023, 2, &[Rule("inet ti", "six")]),
        to_a(1023, 3, &[Rule("inet ti", "four")]),
        to_a(1024, 4, &[Rule("netdev tn", "ingress")]),
        to_a(1025, 2, &[Rule("inet ti", "inet ingress")]),
    ];
    let tagged = |id| Link { vlan: Some(id), ..A };
    let in_vlan = v4([10, 0, 7, 2], [10, 0, 7, 1]);
    flows.push(flow("b0", &frames::udp(tagged(7), in_vlan, 1014), 3, &[t4("vlan")]));
    let fate = Rule("netdev tn", "ingress, tagged");
    flows.push(flow("b0", &frames::udp(tagged(8), in_vlan, 1014), 2, &[fate]));
    let [reassembled, apart] = [[10, 0, 0, 8], [10, 0, 0, 9]].map(|from: [u8; 4]| {
        let addresses = (Ipv4Addr::from(from), Ipv4Addr::new(10, 0, 0, 1));
        let packet = |id| frames::udp_fragments(A, addresses, 1011, id, 1000, 3);
        [1, 2].map(packet).concat()
    });
    let fates = vec![(t4("reassembled"), 2)];
    flows.push(Flow { from: "b0", frames: reassembled, fates });
    // Without their rest the first fragments wait, and are forgotten.
    let fates = vec![(Rule("inet ti", "fragment"), 4)];
    flows.push(Flow { from: "b0", frames: apart, fates });
    let request = frames::arp_request(A, [10, 0, 0, 2].into(), [10, 0, 0, 77].into());
    flows.push(flow("b0", &request, 3, &[Rule("arp ta", "request")]));
    let forwarded = |port| frames::udp(A, v4([10, 0, 0, 2], [10, 0, 1, 99]), port);
    flows.push(flow("b0", &forwarded(1001), 2, &[Rule("inet ti", "forward")]));
    flows.push(flow("b0", &forwarded(1002), 3, &[Policy("through")]));
    let bridged = |link, port| frames::udp(link, v4([10, 0, 1, 2], [10, 0, 1, 1]), port);
    flows.push(flow("d0", &bridged(BRIDGE, 1002), 3, &[Rule("bridge tb", "to the bridge")]));
    let fate = Rule("bridge tb", "through the bridge");
    flows.push(flow("d0", &bridged(BEYOND, 1001), 2, &[fate]));
    flows.push(flow("h0", &bridged(BEYOND, 1005), 4, &[Policy("bthrough")]));
    let other = |port| frames::udp(OTHER, v4([10, 0, 2, 2], [10, 0, 2, 1]), port);
    flows.push(flow("f0", &other(1001), 3, &[Rule("ip t4 (other)", "base")]));
    flows.push(flow("f0", &other(1002), 2, &[Policy("oin4")]));
    flows.push(flow("j0", &frames::udp(I, here(), 1002), 3, &[Policy("eing")]));
    flows.extend(accepted());
    flows
}

/// Packets that nothing drops.
pub fn accepted() -> Vec<Flow> {
    vec![
        flow("b0", &frames::pong(A, here()), 20, &[]),
        flow("j0", &frames::pong(I, here()), 5, &[]),
    ]
}

/// Packets to the second namespace while the base chain there counts.
pub fn stats() -> Vec<Flow> {
    let table = "ip filter (other)";
    let other = |last, port| frames::udp(OTHER, v4([10, 0, 2, last], [10, 0, 2, 1]), port);
    vec![
        flow("f0", &other(3, 1041), 3, &[Rule(table, "")]),
        flow("f0", &other(2, 1041), 4, &[Policy("INPUT")]),
    ]
}

/// Packets for the rules that are replaced meanwhile.
pub fn reload() -> Vec<Flow> {
    let [a, b] = [1090, 1091].map(|port| flow("b0", &frames::udp(A, here(), port), 1, &[]));
    (0..100).flat_map(|_| [a.clone(), b.clone()]).collect()
}

/// Three thousand packets one after the other.
pub fn burst() -> Vec<Flow> {
    let udp = |port| frames::udp(A, here(), port);
    let by_rule = flow("b0", &udp(1001), 2, &[Rule("ip t4", "base")]);
    let by_policy = flow("b0", &udp(2000), 1, &[Policy("in4")]);
    (0..1000).flat_map(|_| [by_rule.clone(), by_policy.clone()]).collect()
}

/// What the sender reads: for every interface its frames, each behind its length.
pub fn files(flows: &[Flow]) -> BTreeMap<&'static str, Vec<u8>> {
    let mut files = BTreeMap::<_, Vec<u8>>::new();
    for flow in flows {
        let file = files.entry(flow.from).or_default();
        for frame in &flow.frames {
            file.extend_from_slice(&(frame.len() as u16).to_be_bytes());
            file.extend_from_slice(frame);
        }
    }
    files
}

/// How many packets have to meet each fate.
pub fn fates(flows: &[Flow]) -> BTreeMap<Fate, u64> {
    let mut fates = BTreeMap::new();
    for (fate, count) in flows.iter().flat_map(|flow| &flow.fates) {
        *fates.entry(*fate).or_default() += count;
    }
    fates
}
