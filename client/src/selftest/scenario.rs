//! What is sent, and what has to become of it: tables as text, and flows of packets, each with the rule or
//! policy that drops it. Nothing here touches the machine.
//!
//! Every table has a range of ports of its own, and accepts what is not of it, so that a packet has one
//! fate whatever other tables there are. What drops has a counter and a comment: by the comment the rule is
//! found again in nft's listing, by the counter the kernel itself says how much it dropped. A policy has no
//! counter; the last rule before it counts in its place.

use super::network::{VETH, VETH_NAMES};
use crate::event::Family;
use nfdrop_db::proof::Part;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Comment of the rules that count what goes on to the policy.
pub(super) const POLICY: &str = "policy";
/// Ports that a table has for itself.
const PORTS: u16 = 16;
const FIRST_PORT: u16 = 47_100;
const SENDER: u16 = 47_001;
/// Packets that each of the two processors sends.
const OF_A_PROCESSOR: u64 = 32;

/// What a port of a table's range is for.
const ACCEPT: u16 = 0;
const BASE: u16 = 1;
const JUMP: u16 = 2;
const GOTO: u16 = 3;
const BEHIND_JUMP: u16 = 4;
const BEHIND_GOTO: u16 = 5;
const PROCESSORS: [u16; 2] = [6, 7];
const AT_VETH: u16 = 8;
const IN_MAP: u16 = 9;
const REJECT: u16 = 10;
const REST: u16 = 11;

/// A table of the scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// The part that is left out if the kernel does not take this table.
    pub(super) part: Part,
    /// Which of the two namespaces it is in.
    pub(super) space: usize,
    pub(super) family: Family,
    /// Its base chain has the same name: not every plan tells where names of tables are.
    pub(super) name: &'static str,
    /// The number of the hook, as the kernel has it.
    pub(super) hook: u8,
    /// As `nft` reads it.
    pub(super) text: String,
}

/// Packets that have one fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    /// Which of the two namespaces sends it.
    pub(super) space: usize,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Packets of every round.
    pub(super) packets: u64,
    /// Which of two processors sends it, at the same time as the other; `None`: whichever.
    pub(super) processor: Option<usize>,
    /// Of which table, by its place in [`Scenario::tables`].
    pub(super) table: usize,
    pub(super) fate: Fate,
}

/// What becomes of a flow in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The rule with this comment drops it.
    Rule(&'static str),
    /// The base chain's policy drops it.
    Policy,
    /// It arrives.
    Accepted,
}

/// Tables and flows of those parts that can run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scenario {
    pub(super) tables: Vec<Table>,
    /// Of a table what is accepted comes first: when the last one was dropped, all were looked at.
    pub(super) flows: Vec<Flow>,
}

/// What nft runs in the second namespace, so that tracing is on for packets that are not traced.
pub(super) const TRACE_ELSEWHERE: &str = "table ip nfdrop_trace { chain every { \
    type filter hook output priority -300; meta nftrace set 1; }; }";
/// In the first namespace: every packet is traced.
pub(super) const TRACE: &str = "table inet nfdrop_trace { chain every { \
    type filter hook prerouting priority -300; meta nftrace set 1; }; }";
/// The name of the tables that these make.
pub(super) const TRACE_TABLE: &str = "nfdrop_trace";
/// The table whose base chain counts.
pub(super) const COUNTERS_TABLE: &str = "nfdrop_counters";

impl Flow {
    /// The device at which it comes in.
    pub(super) fn device(&self) -> &'static str {
        if self.from.ip() == VETH[1] { VETH_NAMES[0] } else { "lo" }
    }
}

impl Scenario {
    /// The tables and flows of `parts`.
    pub(super) fn new(parts: &[Part]) -> Self {
        let mut scenario = Self::default();
        let has = |part| parts.contains(&part);
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let loopback6 = IpAddr::from(Ipv6Addr::LOCALHOST);

        // The first table of each namespace, by the same commands: their handles are equal.
        let one = scenario.add_input(Part::Base, 0, Family::IP, "nfdrop_one", &chains());
        scenario.flow_through_all(one, loopback);
        if has(Part::Processors) {
            for (processor, comment) in ["first processor", "second processor"].iter().enumerate() {
                let port = PROCESSORS[processor];
                let flow = scenario.flow(one, loopback, port, OF_A_PROCESSOR, Fate::Rule(comment));
                flow.processor = Some(processor);
                flow.from.set_port(SENDER + 1 + processor as u16);
            }
        }
        if has(Part::Veth) {
            scenario.over_veth(one, AT_VETH, 6, Fate::Rule("veth"));
        }
        if has(Part::EqualHandles) {
            let two = Part::EqualHandles;
            let two = scenario.add_input(two, 0, Family::IP, "nfdrop_two", &chains());
            scenario.flow_through_all(two, loopback);
        }
        if has(Part::Namespaces) {
            let there = Part::Namespaces;
            let there = scenario.add_input(there, 1, Family::IP, "nfdrop_one", &chains());
            scenario.flow_through_all(there, loopback);
        }
        if has(Part::VerdictMap) {
            let rules = |first: u16| {
                let port = first + IN_MAP;
                let counted =
                    format!("udp dport {port} counter udp dport vmap {{ {port} : drop }}");
                (String::new(), vec![format!("{counted} comment \"verdict map\"")])
            };
            let map = Part::VerdictMap;
            let map = scenario.add_input(map, 0, Family::IP, "nfdrop_map", &rules);
            // What no rule takes its policy accepts.
            scenario.flow(map, loopback, REST, 2, Fate::Accepted);
            scenario.flow(map, loopback, IN_MAP, 5, Fate::Rule("verdict map"));
        }
        if has(Part::Reject) {
            let rules = |first: u16| {
                let rule =
                    format!("udp dport {} counter reject comment \"reject\"", first + REJECT);
                (String::new(), vec![rule])
            };
            let reject = Part::Reject;
            let reject = scenario.add_input(reject, 0, Family::IP, "nfdrop_reject", &rules);
            scenario.flow(reject, loopback, REJECT, 3, Fate::Rule("reject"));
        }
        if has(Part::Ip6) {
            let ip6 = scenario.add_input(Part::Ip6, 0, Family::IP6, "nfdrop_ip6", &chains());
            scenario.flow_through_all(ip6, loopback6);
        }
        if has(Part::Inet) {
            let inet = scenario.add_input(Part::Inet, 0, Family::INET, "nfdrop_inet", &chains());
            scenario.flow_through_all(inet, loopback);
            if has(Part::Ip6) {
                scenario.flow_through_all(inet, loopback6);
            }
        }
        if has(Part::Netdev) {
            let veth = has(Part::Veth);
            let netdev = scenario.add_netdev(if veth { VETH_NAMES[0] } else { "lo" });
            let flows = [
                (ACCEPT, 2, Fate::Accepted),
                (BASE, 4, Fate::Rule("base")),
                (REST, 3, Fate::Policy),
            ];
            for (port, packets, fate) in flows {
                if veth {
                    scenario.over_veth(netdev, port, packets, fate);
                } else {
                    scenario.flow(netdev, loopback, port, packets, fate);
                }
            }
        }
        scenario
    }

    /// The first port of the next table's range.
    fn first_port(&self) -> u16 {
        FIRST_PORT + PORTS * self.tables.len() as u16
    }

    fn add_input(
        &mut self,
        part: Part,
        space: usize,
        family: Family,
        name: &'static str,
        rules: &dyn Fn(u16) -> (String, Vec<String>),
    ) -> usize {
        let (first, last) = (self.first_port(), self.first_port() + PORTS - 1);
        let (chains, rules) = rules(first);
        let policy = if part == Part::VerdictMap { "accept" } else { "drop" };
        let lines = [
            format!("type filter hook input priority {}; policy {policy};", self.tables.len()),
            "meta l4proto != udp accept".to_owned(),
            format!("udp dport < {first} accept"),
            format!("udp dport > {last} accept"),
        ];
        let lines = lines.into_iter().chain(rules);
        let lines: String =
            lines.flat_map(|line| ["\t\t".to_owned(), line, "\n".to_owned()]).collect();
        // A chain without rules, whose policy accepts, for all that is sent.
        let text = format!(
            "table {family} {name} {{\n{chains}\tchain {name} {{\n{lines}\t\tcounter comment \
             \"{POLICY}\"\n\t}}\n\tchain output {{\n\t\ttype filter hook output priority 0; policy \
             accept;\n\t}}\n}}\n"
        );
        self.tables.push(Table { part, space, family, name, hook: 1, text });
        self.tables.len() - 1
    }

    fn add_netdev(&mut self, device: &'static str) -> usize {
        let (first, last) = (self.first_port(), self.first_port() + PORTS - 1);
        let (accept, base) = (first + ACCEPT, first + BASE);
        let name = "nfdrop_netdev";
        let text = format!(
            "table netdev {name} {{\n\tchain {name} {{\n\t\ttype filter hook ingress device \
             \"{device}\" priority 0; policy drop;\n\t\tmeta protocol != ip accept\n\t\tmeta l4proto \
             != udp accept\n\t\tudp dport < {first} accept\n\t\tudp dport > {last} accept\n\t\tudp \
             dport {accept} accept\n\t\tudp dport {base} counter drop comment \"base\"\n\t\tcounter \
             comment \"{POLICY}\"\n\t}}\n}}\n"
        );
        self.tables.push(Table {
            part: Part::Netdev,
            space: 0,
            family: Family::NETDEV,
            name,
            hook: 0,
            text,
        });
        self.tables.len() - 1
    }

    /// Within the table's own namespace.
    fn flow(
        &mut self,
        table: usize,
        address: IpAddr,
        port: u16,
        packets: u64,
        fate: Fate,
    ) -> &mut Flow {
        let port = FIRST_PORT + PORTS * table as u16 + port;
        let (from, to) = (SocketAddr::new(address, SENDER), SocketAddr::new(address, port));
        let space = self.tables[table].space;
        self.flows.push(Flow { space, from, to, packets, processor: None, table, fate });
        let last = self.flows.len() - 1;
        &mut self.flows[last]
    }

    /// From the second namespace to the first.
    fn over_veth(&mut self, table: usize, port: u16, packets: u64, fate: Fate) {
        let flow = self.flow(table, VETH[0].into(), port, packets, fate);
        flow.from.set_ip(VETH[1].into());
        flow.space = 1;
    }

    /// To every rule and policy that [`chains`] makes.
    fn flow_through_all(&mut self, table: usize, address: IpAddr) {
        let flows = [
            (ACCEPT, 3, Fate::Accepted),
            (BASE, 4, Fate::Rule("base")),
            (JUMP, 5, Fate::Rule("jump")),
            (GOTO, 3, Fate::Rule("goto")),
            (BEHIND_JUMP, 1, Fate::Policy),
            (BEHIND_GOTO, 2, Fate::Policy),
            (REST, 2, Fate::Policy),
        ];
        for (port, packets, fate) in flows {
            self.flow(table, address, port, packets, fate);
        }
    }
}

/// The chains of a table whose first port is this, and the rules of its base chain.
fn chains() -> impl Fn(u16) -> (String, Vec<String>) {
    |first| {
        let drop = |port: u16, comment: &str| {
            format!("udp dport {} counter drop comment \"{comment}\"", first + port)
        };
        let (jump, goto) = (drop(JUMP, "jump"), drop(GOTO, "goto"));
        // Where `goto` leads there is no way back: behind the last rule comes the policy.
        let chains = format!(
            "\tchain jumped_to {{\n\t\t{jump}\n\t}}\n\tchain gone_to {{\n\t\t{goto}\n\t\tcounter \
             comment \"{POLICY}\"\n\t}}\n"
        );
        let to = |port: u16, verdict: &str| format!("udp dport {} {verdict}", first + port);
        let rules = vec![
            to(ACCEPT, "accept"),
            drop(BASE, "base"),
            to(JUMP, "jump jumped_to"),
            to(BEHIND_JUMP, "jump jumped_to"),
            to(GOTO, "goto gone_to"),
            to(BEHIND_GOTO, "goto gone_to"),
            drop(PROCESSORS[0], "first processor"),
            drop(PROCESSORS[1], "second processor"),
            drop(AT_VETH, "veth"),
        ];
        (chains, rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn the_whole_scenario() {
        let scenario = Scenario::new(Part::ALL);
        let mut text = String::new();
        for (index, table) in scenario.tables.iter().enumerate() {
            let _ = write!(text, "# {} in namespace {}\n{}", table.part, table.space, table.text);
            for flow in scenario.flows.iter().filter(|flow| flow.table == index) {
                let Flow { space, from, to, packets, fate, .. } = flow;
                let _ = writeln!(text, "{space}: {from} > {to} {packets} {fate:?}");
            }
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_flow_has_a_port_of_its_own_at_its_table() {
        let flows = Scenario::new(Part::ALL).flows;
        for (index, flow) in flows.iter().enumerate() {
            let same = |other: &Flow| (other.table, other.to) == (flow.table, flow.to);
            assert!(!flows[index + 1..].iter().any(same), "{flow:?}");
        }
    }

    #[test]
    fn without_veth_netdev_is_at_the_loopback_device() {
        let scenario = Scenario::new(&[Part::Base, Part::Netdev]);
        let netdev = &scenario.tables[1];
        assert!(netdev.text.contains("device \"lo\""), "{netdev:?}");
        let ours = scenario.flows.iter().filter(|flow| flow.table == 1);
        assert!(
            ours.clone().count() == 3
                && ours.clone().all(|flow| (flow.space, flow.device()) == (0, "lo"))
        );
    }

    #[test]
    fn what_is_accepted_comes_before_what_is_dropped() {
        let scenario = Scenario::new(Part::ALL);
        for index in 0..scenario.tables.len() {
            let last = scenario.flows.iter().rfind(|flow| flow.table == index);
            assert!(last.is_some_and(|flow| flow.fate != Fate::Accepted));
        }
    }
}
