use super::*;
use proptest::prelude::*;

const NOW: u64 = 1_793_000_000_123_456_789;

fn count(event: Event, handle: u64, packets: u64) -> Count {
    Count {
        event,
        family: Family::IP.0,
        netns: 4_026_531_840,
        table_handle: 1,
        table_address: 0,
        handle,
        table: "t4".to_owned(),
        base_chain: "in4".to_owned(),
        packets,
        bytes: packets * 100,
    }
}

pub(super) fn row(handle: u64, packets: u64, rule: &str) -> Row {
    let count = count(Event::RuleDrop, handle, packets);
    let (chain, reject) = (if handle > 20 { "sub" } else { "in4" }, rule.contains("reject"));
    let rule = RuleName { chain: chain.into(), text: rule.into(), reject };
    Row::named(&count, &drop_of(&count), Some(&rule))
}

pub(super) fn policy(handle: u64, packets: u64) -> Row {
    let count = count(Event::PolicyDrop, handle, packets);
    Row::named(&count, &drop_of(&count), None)
}

pub(super) fn unknown(packets: u64) -> Row {
    let count = Count { table: String::new(), family: 0, ..count(Event::RuleDrop, 9, packets) };
    Row::named(&count, &drop_of(&count), None)
}

/// Two readings, half a second apart.
fn rated() -> Vec<Rated> {
    let mut rates = Rates::default();
    let long = format!("ip saddr {{ {} }} drop", ["10.0.0.1"; 30].join(", "));
    let rows = |scale: u64| {
        vec![
            row(18, 10, "udp dport 1001 counter drop comment \"base\""),
            row(22, 1_500_000 * scale, "udp dport 1002 reject"),
            row(23, 7 * scale, &long),
            policy(7, 123_456 * scale),
            unknown(3 * scale),
            row(24, 5 * scale, "drop comment \"\u{1b}[2J\n\u{9b}\""),
        ]
    };
    rates.read(rows(1), 1.0);
    rates.read(rows(2), 0.5)
}

#[test]
fn a_table_as_wide_as_the_terminal() {
    insta::assert_snapshot!(table(NOW, &rated(), Size { columns: 100, lines: 24 }, false));
}

#[test]
fn no_more_lines_than_fit() {
    let shown = table(NOW, &rated(), Size { columns: 40, lines: 4 }, true);
    insta::assert_snapshot!(shown.replace('\x1b', "ESC"));
}

#[test]
fn lines_for_people() {
    insta::assert_snapshot!(text(NOW, &rated()));
}

#[test]
fn lines_for_programs() {
    insta::assert_snapshot!(json(NOW, &rated()).unwrap());
}

#[test]
fn nothing_new_is_nothing_to_say() {
    let mut rates = Rates::default();
    rates.read(vec![row(18, 10, "drop")], 1.0);
    let shown = rates.read(vec![row(18, 10, "drop")], 1.0);
    assert_eq!((text(NOW, &shown), json(NOW, &shown).unwrap()), (String::new(), String::new()));
}

#[test]
fn counters_that_begin_anew() {
    let mut rates = Rates::default();
    rates.read(vec![row(18, 100, "drop")], 1.0);
    let shown = rates.read(vec![row(18, 4, "drop")], 2.0);
    assert_eq!((shown[0].new_packets, shown[0].packets_per_second.to_string()), (4, "2".into()));
}

#[test]
fn numbers_in_short() {
    let numbers = [
        0.0,
        1.0,
        0.004,
        9.994,
        9.999,
        12.34,
        99.96,
        999.0,
        999.4,
        999.6,
        1234.0,
        999_499.0,
        999_500.0,
        1e9,
        1.8e19,
        f64::MAX,
    ];
    let short: Vec<_> =
        numbers.into_iter().map(short).map(|text| text[..text.len().min(6)].to_owned()).collect();
    assert_eq!(
        short.join(" "),
        "0 1 0.00 9.99 10.0 12.3 100 999 999 1.00k 1.23k 999k 1.00M 1.00G 18.0E 179769"
    );
}

#[test]
fn names_of_rules_come_from_the_ruleset() {
    use crate::names::listing::{Listing, Reader};
    struct One;
    impl Source for One {
        type Space = ();
        fn own(&self) -> Option<u32> {
            None
        }
        fn open(&mut self, _: u32) -> Result<(), crate::names::NamesError> {
            Ok(())
        }
        fn alive(&self, _: u32, (): &mut ()) -> bool {
            true
        }
        fn changed(&mut self, (): &mut ()) -> bool {
            false
        }
        fn list(
            &mut self,
            _: u32,
            (): &mut (),
            max: usize,
        ) -> Result<Option<Listing>, crate::names::NamesError> {
            let mut reader = Reader::new(max);
            reader.push(
                b"table ip t4 { # handle 1\n\tchain sub { # handle 1\n\t\treject # handle 22\n",
            );
            Ok(Some(reader.finish()))
        }
        fn elapsed(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
        fn clock(&self) -> u64 {
            0
        }
    }
    let row = Row::new(&count(Event::RuleDrop, 22, 1), &mut Names::from(One));
    assert_eq!((row.chain.as_deref(), row.rule.as_deref()), (Some("sub"), Some("reject")));
    assert_eq!(row.verdict, Verdict::Reject);
}

proptest! {
    /// Whatever the size, nothing is wider or longer, and control characters are line feeds.
    #[test]
    fn tables_fit(columns in 0usize..200, lines in 0usize..12) {
        let shown = table(NOW, &rated(), Size { columns, lines }, false);
        prop_assert!(shown.lines().count() <= lines);
        prop_assert!(shown.lines().all(|line| line.chars().count() <= columns));
        prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn short_is_short(number in 0.0..1e20_f64) {
        prop_assert!(short(number).len() <= 6, "{}", short(number));
    }
}
