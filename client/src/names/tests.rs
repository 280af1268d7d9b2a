use super::*;
use crate::event::{Family, Packet};
use nfdrop_db::Event;
use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

const OWN: u32 = 1;
const SECOND: u64 = 1_000_000_000;

/// A machine whose namespaces and rulesets a test changes.
#[derive(Default)]
struct Machine {
    /// By inode number.
    spaces: BTreeMap<u32, Ruleset>,
    /// What was done.
    log: Vec<String>,
    now: Duration,
    /// How long a listing takes.
    cost: Duration,
    fail: bool,
    /// So often a listing is not ready yet.
    slow: u32,
}

#[derive(Default, Clone)]
struct Ruleset {
    text: String,
    changes: u32,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Machine>>);

impl Fake {
    /// Another ruleset: one table `t` of that handle, and rules `(handle, text)` in chain `c`.
    fn set(&self, netns: u32, table: u64, rules: &[(u64, &str)]) {
        use std::fmt::Write;
        let chain = "c".repeat(70);
        let mut text = format!("table ip t {{ # handle {table}\n\tchain {chain} {{ # handle 1\n");
        text.push_str("\t\ttype filter hook input priority filter; policy accept;\n");
        for (handle, rule) in rules {
            writeln!(text, "\t\t{rule} # handle {handle}").unwrap();
        }
        let mut machine = self.0.borrow_mut();
        let ruleset = machine.spaces.entry(netns).or_default();
        ruleset.text = text;
        ruleset.changes += 1;
    }

    fn pass(&self, time: Duration) {
        self.0.borrow_mut().now += time;
    }

    /// What was done since this was asked last.
    fn done(&self) -> String {
        mem::take(&mut self.0.borrow_mut().log).join(", ")
    }
}

impl Source for Fake {
    /// Changes seen.
    type Space = u32;

    fn own(&self) -> Option<u32> {
        Some(OWN)
    }

    fn open(&mut self, netns: u32) -> Result<u32, NamesError> {
        let mut machine = self.0.borrow_mut();
        machine.log.push(format!("open {netns}"));
        let ruleset = machine.spaces.get(&netns).ok_or(NamesError::NotFound(netns))?;
        Ok(ruleset.changes)
    }

    fn alive(&self, netns: u32, _: &mut u32) -> bool {
        self.0.borrow().spaces.contains_key(&netns)
    }

    fn changed(&mut self, seen: &mut u32) -> bool {
        // Namespaces that are gone change no more; one test has one namespace that changes.
        let machine = self.0.borrow();
        let most = machine.spaces.values().map(|ruleset| ruleset.changes).max().unwrap_or(0);
        mem::replace(seen, most) != most
    }

    fn list(&mut self, netns: u32, _: &mut u32, max: usize) -> Result<Option<Listing>, NamesError> {
        let mut machine = self.0.borrow_mut();
        if machine.slow > 0 {
            machine.slow -= 1;
            machine.log.push("wait".to_owned());
            return Ok(None);
        }
        machine.log.push(format!("list {netns}"));
        let cost = machine.cost;
        machine.now += cost;
        if machine.fail {
            return Err(NftError::TimedOut.into());
        }
        let mut reader = listing::Reader::new(max);
        reader.push(machine.spaces[&netns].text.as_bytes());
        Ok(Some(reader.finish()))
    }

    fn elapsed(&self) -> Duration {
        self.0.borrow().now
    }

    fn clock(&self) -> u64 {
        self.0.borrow().now.as_nanos() as u64
    }
}

fn drop_by(netns: u32, table_handle: u64, handle: u64) -> Drop {
    Drop {
        time: 0,
        event: Event::RuleDrop,
        family: Family::IP,
        table: "t".to_owned(),
        table_handle,
        base_chain: "c".repeat(63) + "…",
        handle: Some(handle),
        hook: None,
        protocol_family: Family::IP,
        iif: None,
        oif: None,
        netns: Some(netns),
        mark: None,
        len: None,
        packet: Packet::default(),
    }
}

fn text(names: &mut Names<Fake>, drop: &Drop) -> String {
    names.look_up(drop).map_or("-".to_owned(), |rule| rule.text.to_string())
}

#[test]
fn listed_once_for_each_change() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop")]);
    let mut names = Names::from(machine.clone());
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop");
    assert_eq!(machine.done(), "open 1, list 1");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 3)), "-");
    assert_eq!(machine.done(), "", "an unknown rule of a ruleset that did not change");
    machine.set(OWN, 1, &[(3, "reject")]);
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 3)), "reject");
    assert!(names.look_up(&drop_by(OWN, 1, 3)).unwrap().reject);
    assert_eq!(machine.done(), "list 1");
}

#[test]
fn rules_that_are_gone_keep_their_names() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop")]);
    let mut names = Names::from(machine.clone());
    names.refresh();
    machine.set(OWN, 2, &[(2, "reject")]);
    names.refresh();
    assert_eq!(machine.done(), "open 1, list 1, list 1");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop");
    assert_eq!(text(&mut names, &drop_by(OWN, 2, 2)), "reject");
    assert_eq!(machine.done(), "");
}

#[test]
fn handles_that_begin_anew_bring_no_old_names() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop comment \"before\"")]);
    let mut names = Names::from(machine.clone());
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop comment \"before\"");
    names.forget();
    machine.set(OWN, 1, &[(2, "drop comment \"after\"")]);
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop comment \"after\"");
}

#[test]
fn only_the_last_listings_are_remembered() {
    let machine = Fake::default();
    let mut names = Names::from(machine.clone());
    for handle in 0..30 {
        machine.set(OWN, 1, &[(handle, "drop")]);
        names.refresh();
        // Of which nothing new is listed.
        machine.set(OWN, 1, &[(handle, "drop")]);
        machine.pass(BUDGET);
        names.refresh();
    }
    assert_eq!(names.spaces[&OWN].past.len(), MAX_PAST);
    let oldest = 29 - MAX_PAST as u64;
    assert_eq!(text(&mut names, &drop_by(OWN, 1, oldest)), "drop");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, oldest - 1)), "-");
}

#[test]
fn an_inode_number_that_is_used_again_brings_no_old_names() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[]);
    machine.set(7, 1, &[(2, "drop comment \"first\"")]);
    let mut names = Names::from(machine.clone());
    assert_eq!(text(&mut names, &drop_by(7, 1, 2)), "drop comment \"first\"");
    machine.0.borrow_mut().spaces.remove(&7);
    names.refresh();
    machine.set(7, 1, &[(2, "drop comment \"second\"")]);
    assert_eq!(text(&mut names, &drop_by(7, 1, 2)), "drop comment \"second\"");
}

#[test]
fn namespaces_that_cannot_be_found_are_looked_for_again_later() {
    let machine = Fake::default();
    let mut names = Names::from(machine.clone());
    for _ in 0..3 {
        assert_eq!(text(&mut names, &drop_by(7, 1, 2)), "-");
    }
    assert_eq!(machine.done(), "open 7");
    insta::assert_snapshot!(names.warnings().join("\n"));
    machine.set(7, 1, &[(2, "drop")]);
    machine.pass(RETRY);
    assert_eq!(text(&mut names, &drop_by(7, 1, 2)), "drop");
    names.look_up(&drop_by(8, 1, 2));
    assert_eq!(names.warnings(), [""; 0], "one of a kind is enough");
}

#[test]
fn a_failed_listing_is_tried_again_later() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop")]);
    machine.0.borrow_mut().fail = true;
    let mut names = Names::from(machine.clone());
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "-");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "-");
    assert_eq!(machine.done(), "open 1, list 1");
    assert_eq!(
        names.warnings(),
        [
            "rules are named by handle only: nft took longer than 60 s to list the ruleset and was killed"
        ]
    );
    machine.0.borrow_mut().fail = false;
    machine.pass(RETRY);
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "drop");
}

#[test]
fn slow_listings_are_asked_for_again() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop")]);
    machine.0.borrow_mut().slow = 2;
    let mut names = Names::from(machine.clone());
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 2)), "-");
    // Seen or not by the listing that goes on: the next one has it.
    machine.set(OWN, 1, &[(3, "reject")]);
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 3)), "-");
    assert_eq!(machine.done(), "open 1, wait, wait");
    names.refresh();
    assert_eq!(machine.done(), "list 1");
    assert_eq!(text(&mut names, &drop_by(OWN, 1, 4)), "-");
    assert_eq!(machine.done(), "list 1");
    let by_name = Drop { time: SECOND, ..drop_by(OWN, 0, 3) };
    assert_eq!(text(&mut names, &by_name), "reject");
    machine.0.borrow_mut().slow = 1;
    machine.set(OWN, 1, &[(3, "drop")]);
    assert_eq!(text(&mut names, &by_name), "-", "of which of both is not known");
    assert_eq!(text(&mut names, &by_name), "drop");
}

#[test]
fn rulesets_that_never_rest_get_a_share_of_the_time() {
    let machine = Fake::default();
    machine.0.borrow_mut().cost = Duration::from_secs(1);
    let mut names = Names::from(machine.clone());
    for round in 0..200 {
        machine.set(OWN, 1, &[(round, "drop")]);
        names.refresh();
        machine.pass(Duration::from_secs(1));
    }
    let listings = machine.done().matches("list").count();
    let share = machine.0.borrow().now.as_secs() / 5 + BUDGET.as_secs();
    assert!(listings as u64 <= share + 1 && listings > 40, "{listings} of {share}");
}

#[test]
fn without_the_tables_handle_only_what_is_certain() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop comment \"first\"")]);
    let mut names = Names::from(machine.clone());
    machine.pass(Duration::from_secs(10));
    names.refresh();
    let at = |time| Drop { time, ..drop_by(OWN, 0, 2) };
    assert_eq!(text(&mut names, &at(10 * SECOND + SLACK)), "drop comment \"first\"");
    assert_eq!(text(&mut names, &at(10 * SECOND)), "-", "older than the listing");
    let other = Drop { family: Family::IP6, ..at(11 * SECOND) };
    assert_eq!(text(&mut names, &other), "-");
    // The same names and numbers again; the drop may be of either.
    machine.set(OWN, 2, &[(2, "drop comment \"second\"")]);
    machine.pass(Duration::from_secs(10));
    assert_eq!(text(&mut names, &at(19 * SECOND)), "-");
    assert_eq!(text(&mut names, &at(21 * SECOND)), "drop comment \"second\"");
}

#[test]
fn without_the_tables_name_its_base_chain_tells_it() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(4, "drop")]);
    let mut names = Names::from(machine.clone());
    machine.pass(Duration::from_secs(1));
    names.refresh();
    let mut drop = drop_by(OWN, 0, 4);
    drop.time = Duration::from_secs(2).as_nanos() as u64;
    (drop.table, drop.family) = (String::new(), Family(0));
    assert_eq!(text(&mut names, &drop), "drop");
    names.complete(&mut drop);
    assert_eq!((drop.table.as_str(), drop.family), ("t", Family::IP));
    (drop.table, drop.handle) = (String::new(), Some(5));
    assert_eq!(text(&mut names, &drop), "-", "no such rule");
    (drop.base_chain, drop.handle) = ("d".to_owned(), Some(4));
    assert_eq!(text(&mut names, &drop), "-", "no such chain");
}

/// As iptables-nft has them on kernels without BTF of their modules.
#[test]
fn hook_and_policy_tell_tables_apart() {
    let machine = Fake::default();
    let tables = [
        (1, "filter", "\t\ttype filter hook input priority 0; policy drop;\n"),
        (2, "nat", "\t\ttype nat hook input priority 0; policy accept;\n"),
        (3, "odd", "\t\ttype filter hook forward priority 0; policy drop;\n"),
        (4, "jumped", ""),
    ];
    let text = tables.map(|(handle, table, hook)| {
        let chain = format!("\tchain INPUT {{ # handle 1\n{hook}\t}}\n");
        format!("table ip {table} {{ # handle {handle}\n{chain}}}\n")
    });
    machine.set(OWN, 1, &[]);
    machine.0.borrow_mut().spaces.get_mut(&OWN).unwrap().text = text.concat();
    let mut names = Names::from(machine.clone());
    let by_policy = Drop {
        time: SECOND,
        event: Event::PolicyDrop,
        table: String::new(),
        family: Family(0),
        base_chain: "INPUT".to_owned(),
        handle: None,
        ..drop_by(OWN, 0, 0)
    };
    let mut table_of = |drop: Drop| {
        let mut drop = drop;
        names.complete(&mut drop);
        drop.table
    };
    assert_eq!(table_of(Drop { hook: Some(1), ..by_policy.clone() }), "filter");
    assert_eq!(table_of(Drop { hook: Some(2), ..by_policy.clone() }), "odd");
    assert_eq!(table_of(Drop { hook: Some(3), ..by_policy.clone() }), "");
    assert_eq!(table_of(by_policy), "", "filter or odd");
}

#[test]
fn names_that_were_cut_are_completed() {
    let machine = Fake::default();
    machine.set(OWN, 1, &[(2, "drop")]);
    let mut names = Names::from(machine.clone());
    let mut drop = drop_by(OWN, 1, 2);
    names.complete(&mut drop);
    assert_eq!((drop.table.as_str(), drop.base_chain.len()), ("t", 70));
    let mut short = Drop { base_chain: "c".repeat(63), ..drop_by(OWN, 1, 2) };
    names.complete(&mut short);
    assert_eq!(short.base_chain.len(), 63);
}

#[test]
fn the_oldest_are_forgotten_first() {
    let machine = Fake::default();
    let mut names = Names::from(machine.clone());
    let many = |first: u64| -> Vec<_> {
        (first..first + MAX_RULES as u64 * 2 / 5).map(|handle| (handle, "drop")).collect()
    };
    for round in 0..3 {
        machine.set(OWN, 1, &many(round * MAX_RULES as u64));
        names.refresh();
    }
    // What was found once stays at hand.
    let mut next = 0;
    let mut known = |names: &mut Names<Fake>, round: u64| {
        next += 1;
        let handle = round * MAX_RULES as u64 + next;
        let known = names.spaces.get_mut(&OWN).unwrap();
        known.rule(&drop_by(OWN, 1, handle), handle).is_some()
    };
    assert_eq!([0, 1, 2].map(|round| known(&mut names, round)), [false, true, true]);
    machine.set(7, 1, &many(0));
    names.look_up(&drop_by(7, 1, 0));
    assert_eq!([1, 2].map(|round| known(&mut names, round)), [false, true]);
}

#[test]
fn no_more_namespaces_than_that() {
    let machine = Fake::default();
    let mut names = Names::from(machine.clone());
    machine.set(OWN, 1, &[]);
    names.refresh();
    for netns in 100..300 {
        machine.set(netns, 1, &[]);
        names.look_up(&drop_by(netns, 1, 1));
        assert!(names.spaces.len() <= MAX_NAMESPACES && names.spaces.contains_key(&OWN));
    }
    assert!(names.spaces.contains_key(&299));
}
