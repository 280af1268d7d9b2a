use super::*;
use crate::{
    event::{Device, Drop, Family, Packet},
    selftest::ruleset::{Rule, Table},
};
use nfdrop_db::proof::Part;

const NETNS: [u32; 2] = [4_026_532_001, 4_026_532_002];

/// A machine on which all is well: two rounds of the smallest scenario.
struct Machine {
    scenario: Scenario,
    listings: [Vec<Table>; 2],
    rounds: Vec<Round>,
    events: Vec<Drop>,
}

fn rule(handle: u64, comment: &str, packets: u64) -> Rule {
    Rule { handle, comment: comment.to_owned(), packets }
}

/// What the probes reported of the first namespace's table.
fn row(event: Event, handle: u64, packets: u64) -> Count {
    Count {
        event,
        family: 2,
        netns: NETNS[0],
        table_handle: 1,
        table_address: 0,
        handle,
        table: "nfdrop_one".to_owned(),
        base_chain: "nfdrop_one".to_owned(),
        packets,
        bytes: 0,
    }
}

fn round(factor: u64) -> Vec<Count> {
    let rules = [(5, 4), (2, 5), (3, 3)];
    let rules = rules.map(|(handle, packets)| row(Event::RuleDrop, handle, packets * factor));
    rules.into_iter().chain([row(Event::PolicyDrop, 4, 5 * factor)]).collect()
}

fn machine() -> Machine {
    let table = Table {
        family: Family::IP,
        name: "nfdrop_one".to_owned(),
        handle: 1,
        chains: vec![("jumped_to".to_owned(), 1), ("nfdrop_one".to_owned(), 4)],
        rules: vec![
            rule(5, "base", 8),
            rule(2, "jump", 10),
            rule(3, "goto", 6),
            rule(6, "policy", 4),
            rule(7, "policy", 6),
        ],
    };
    Machine {
        scenario: Scenario::new(&[Part::Base]),
        listings: [vec![table], vec![]],
        rounds: vec![("plain", round(1)), ("nftrace", round(2))],
        events: vec![],
    }
}

impl Machine {
    fn compare(&self) -> Result<Compared, Broken> {
        let subjects = subjects(&self.scenario, &self.listings, Some(NETNS))?;
        compare(&self.scenario, &subjects, &self.rounds, &self.events)
    }

    fn contradictions(&self) -> Vec<String> {
        self.compare().unwrap().contradictions
    }

    /// Changes what was reported at the end.
    fn last(&mut self) -> &mut Vec<Count> {
        &mut self.rounds[1].1
    }
}

#[test]
fn all_is_well() {
    let drops = Drops { rule_drop: 24, policy_drop: 10 };
    let expected =
        Compared { expected: drops, seen: drops, contradictions: vec![], only_missing: 0 };
    assert_eq!(machine().compare(), Ok(expected));
}

#[test]
fn a_drop_that_was_not_reported() {
    let mut machine = machine();
    machine.last().remove(1);
    let compared = machine.compare().unwrap();
    assert_eq!((compared.expected.rule_drop, compared.seen.rule_drop), (24, 14));
    assert_eq!(compared.only_missing, 10);
    insta::assert_snapshot!(compared.contradictions.join("\n"), @r#"rule 2 of table ip nfdrop_one ("jump") dropped 10 packets, the probes reported 0, first in the round "nftrace""#);
}

#[test]
fn what_is_reported_of_another_rule_is_not_only_missing() {
    let mut machine = machine();
    machine.last()[1].handle = 5;
    assert_eq!(machine.compare().unwrap().only_missing, 0);
}

#[test]
fn drops_that_are_reported_twice() {
    let mut machine = machine();
    for (_, rows) in &mut machine.rounds {
        rows[3].packets *= 2;
    }
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the policy of table ip nfdrop_one dropped 10 packets, the probes reported 20, first in the round "plain""#);
}

#[test]
fn a_rule_that_does_not_drop() {
    let mut machine = machine();
    machine.last().push(row(Event::RuleDrop, 9, 6));
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the probes reported 6 drops by rule 9 behind base chain "nfdrop_one" of table ip "nfdrop_one", where nothing was dropped"#);
}

#[test]
fn another_namespace() {
    let mut machine = machine();
    machine.last().push(Count { netns: NETNS[1], ..row(Event::PolicyDrop, 4, 1) });
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the probes reported 1 drops by the policy of base chain "nfdrop_one" of table ip "nfdrop_one" in network namespace 4026532002, where nothing was dropped"#);
}

/// Of a plan that tells next to nothing, as for kernels without BTF.
#[test]
fn drops_of_a_plan_that_tells_little_are_found_by_their_base_chain() {
    let mut machine = machine();
    for (_, rows) in &mut machine.rounds {
        for row in rows {
            *row = Count {
                family: 0,
                netns: 0,
                table_handle: 0,
                table_address: 0xffff_8880_0000_0000,
                table: String::new(),
                ..row.clone()
            };
        }
    }
    assert_eq!(machine.contradictions(), [""; 0]);
    assert!(machine.rounds[1].1.iter().all(|row| is_ours(row, &machine.scenario)));
}

#[test]
fn namesakes_are_one_where_namespaces_are_not_told() {
    let mut machine = machine();
    machine.scenario = Scenario::new(&[Part::Base, Part::Namespaces]);
    machine.listings[1] = machine.listings[0].clone();
    machine.rounds = vec![("plain", round(2)), ("nftrace", round(4))];
    for (_, rows) in &mut machine.rounds {
        for row in rows {
            row.netns = 0;
        }
    }
    let subjects = subjects(&machine.scenario, &machine.listings, None).unwrap();
    assert_eq!(subjects.len(), 4);
    let compared = compare(&machine.scenario, &subjects, &machine.rounds, &[]).unwrap();
    assert_eq!((compared.contradictions, compared.seen.rule_drop), (vec![], 48));
}

/// An event of the rule "base", whose packet went to this port of the table.
fn event(port: u16) -> Drop {
    let mut bytes = vec![0x45, 0, 0, 34, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
    bytes.extend(47_001_u16.to_be_bytes());
    bytes.extend((47_100 + port).to_be_bytes());
    Drop {
        time: 0,
        event: Event::RuleDrop,
        family: Family::IP,
        table: "nfdrop_one".to_owned(),
        table_handle: 1,
        base_chain: "nfdrop_one".to_owned(),
        handle: Some(5),
        hook: Some(1),
        protocol_family: Family::IP,
        iif: Some(Device { index: 1, name: "lo".to_owned() }),
        oif: None,
        netns: Some(NETNS[0]),
        mark: None,
        len: None,
        packet: Packet { bytes, network: 0, protocol: 0x0800 },
    }
}

#[test]
fn events_have_the_packets_that_were_sent_to_their_rule() {
    let mut machine = machine();
    machine.events = vec![event(1), event(1)];
    assert_eq!(machine.contradictions(), [""; 0]);
    machine.events = vec![event(2), event(2), Drop { hook: Some(3), ..event(1) }];
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the probes reported a drop by rule 5 of table ip nfdrop_one ("base") with the packet from 127.0.0.1 port 47001 to 127.0.0.1 port 47102, which was not sent to it"#);
    machine.events = vec![Drop { hook: Some(3), ..event(1) }];
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the probes reported a drop by rule 5 of table ip nfdrop_one ("base") with hook 3, which is not its own"#);
    machine.events =
        vec![Drop { iif: Some(Device { index: 2, name: "eth0".to_owned() }), ..event(1) }];
    insta::assert_snapshot!(machine.contradictions().join("\n"), @r#"the probes reported a drop by rule 5 of table ip nfdrop_one ("base") with incoming device "eth0", not "lo""#);
    // A plan may not tell where packets are, and what they came through.
    let nothing = Drop { hook: None, iif: None, packet: Packet::default(), ..event(2) };
    machine.events = vec![nothing];
    assert_eq!(machine.contradictions(), [""; 0]);
}

#[test]
fn packets_that_rules_did_not_count_break_the_test() {
    let mut machine = machine();
    machine.listings[0][0].rules[0].packets = 7;
    insta::assert_snapshot!(machine.compare().unwrap_err(), @r#"rule 5 of table ip nfdrop_one ("base") counted 7 packets of 8 that were sent"#);
    machine.listings[0][0].rules.remove(0);
    insta::assert_snapshot!(machine.compare().unwrap_err(), @r#"nft lists no rule "base" of table ip nfdrop_one"#);
    machine.listings[0].clear();
    insta::assert_snapshot!(machine.compare().unwrap_err(), @"nft does not list table ip nfdrop_one");
}

#[test]
fn many_sentences_are_cut() {
    let mut machine = machine();
    for handle in 20..60 {
        machine.last().push(row(Event::RuleDrop, handle, 1));
    }
    let contradictions = machine.contradictions();
    assert_eq!((contradictions.len(), &*contradictions[4]), (5, "36 more are like that"));
}
