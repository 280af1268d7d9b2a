//! What was counted, for Prometheus: the text ([`Exposition`]) and who hands it out ([`server`]).

pub mod server;

use crate::{attach::Counters, counts::Row, output::line};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Most rules and policies that are told apart. Those that come later are counted together.
const MAX_SERIES: usize = 1000;
/// Most characters of a label's value.
const MAX_LABEL: usize = 256;

/// Family, table, chain, handle, event. Rules that have all of these in common, in several
/// namespaces or in tables that came one after the other, are one series.
type Labels = [String; 5];

const NAMES: [&str; 5] = ["family", "table", "chain", "handle", "event"];

/// Makes the text. It remembers which series there were, so that a series that has begun goes on.
#[derive(Debug, Default)]
pub struct Exposition {
    series: BTreeSet<Labels>,
    /// Plans that were contradicted by what was seen with them.
    pub contradicted: u64,
}

impl Exposition {
    /// The text of `GET /metrics`.
    pub fn text(&mut self, rows: &[Row], counters: &Counters) -> String {
        let mut series: BTreeMap<Labels, (u64, u64)> = BTreeMap::new();
        for row in rows {
            let (packets, bytes) = series.entry(self.labels(row)).or_default();
            *packets = packets.saturating_add(row.packets);
            *bytes = bytes.saturating_add(row.bytes);
        }
        let mut text = Text::default();
        let name = "nfdrop_drops_total";
        text.describe(name, "counter", "Packets dropped, by rule or policy.");
        for (labels, (packets, _)) in &series {
            text.sample(name, &NAMES, labels, *packets);
        }
        let name = "nfdrop_dropped_bytes_total";
        text.describe(name, "counter", "Bytes of dropped packets, by rule or policy.");
        for (labels, (_, bytes)) in &series {
            text.sample(name, &NAMES, labels, *bytes);
        }
        text.single(
            "nfdrop_events_lost_total",
            "counter",
            "Drops that were counted and not printed, because the ring buffer was full.",
            counters.lost,
        );
        text.single(
            "nfdrop_drops_uncounted_total",
            "counter",
            "Drops that nfdrop_drops_total lacks, because there were too many rules.",
            counters.uncounted,
        );
        text.single(
            "nfdrop_kprobe_missed_total",
            "counter",
            "Times that a probe was passed and its program not run.",
            counters.missed,
        );
        if let Some(witnessed) = counters.witnessed {
            text.single(
                "nfdrop_attributed_total",
                "counter",
                "Of the packets that the kernel freed as dropped by netfilter, those seen here.",
                witnessed.attributed,
            );
            text.single(
                "nfdrop_kfree_skb_netfilter_drops_total",
                "counter",
                "Packets that the kernel freed as dropped by netfilter, nftables or not.",
                witnessed.of,
            );
        }
        text.single(
            "nfdrop_plan_contradicted_total",
            "counter",
            "Plans that were taken out because they reported what was no drop; see the log.",
            self.contradicted,
        );
        let name = "nfdrop_build_info";
        text.describe(name, "gauge", "The version of nfdrop.");
        text.sample(name, &["version"], &[env!("CARGO_PKG_VERSION").to_owned()], 1);
        text.0
    }

    fn labels(&mut self, row: &Row) -> Labels {
        let by = row.dropped_by();
        let (family, table) = by.table.unwrap_or_default();
        let handle = by.handle.map(|handle| handle.to_string()).unwrap_or_default();
        let chain = by.chain.unwrap_or_default();
        let event = by.event.to_string();
        let label = |text: &str| line(text).chars().take(MAX_LABEL).collect();
        let labels = [label(family), label(table), label(chain), handle, event];
        if self.series.len() < MAX_SERIES || self.series.contains(&labels) {
            self.series.insert(labels.clone());
            return labels;
        }
        let [.., event] = labels;
        ["", "", "", "others", &event].map(str::to_owned)
    }
}

/// The text exposition format, version 0.0.4.
#[derive(Default)]
struct Text(String);

impl Text {
    fn describe(&mut self, name: &str, kind: &str, help: &str) {
        // Into a String, as below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, names: &[&str], values: &[String], value: u64) {
        let quoted = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
        let labels = names.iter().zip(values);
        let labels: Vec<_> =
            labels.map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.describe(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach::Witnessed, counts::Key, output::Verdict};

    fn row(table: &str, chain: Option<&str>, handle: u64, packets: u64) -> Row {
        let key = Key {
            netns: 1,
            family: 2,
            loading: 0,
            table_handle: handle,
            table_address: 0,
            policy: handle == 0,
            handle,
        };
        Row {
            key,
            table: Some(("ip", table.to_owned())),
            base_chain: "in".to_owned(),
            chain: chain.map(str::to_owned),
            rule: None,
            verdict: Verdict::Drop,
            packets,
            bytes: packets * 100,
        }
    }

    fn counters() -> Counters {
        Counters {
            lost: 3,
            missed: 4,
            uncounted: 5,
            witnessed: Some(Witnessed { attributed: 5, of: 6 }),
            ..Counters::default()
        }
    }

    #[test]
    fn text() {
        let mut rows = vec![
            row("t", Some("in"), 7, 10),
            row("t", Some("in"), 0, 20),
            row("t", None, 9, 1),
            row("a\\\"\n\u{1b}", Some("sub"), 7, 2),
            Row { table: None, ..row("", None, 8, 1) },
        ];
        // The same rule in another namespace.
        rows.push(row("t", Some("in"), 7, 5));
        rows[5].key.netns = 2;
        let text = Exposition::default().text(&rows, &counters());
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_not_zero() {
        let counters = Counters { witnessed: None, ..counters() };
        assert!(!Exposition::default().text(&[], &counters).contains("kfree_skb"));
    }

    #[test]
    fn series_are_bounded_and_go_on() {
        let mut exposition = Exposition::default();
        let rows: Vec<_> =
            (1..=2 * MAX_SERIES as u64).map(|handle| row("t", Some("in"), handle, 1)).collect();
        let text = exposition.text(&rows, &counters());
        let others = format!(
            "nfdrop_drops_total{{family=\"\",table=\"\",chain=\"\",handle=\"others\",event=\"rule_drop\"}} \
             {MAX_SERIES}\n"
        );
        assert!(text.contains(&others));
        let series = |text: &str| text.matches("nfdrop_drops_total{").count();
        assert_eq!(series(&text), MAX_SERIES + 1);
        // In another order, as a map is read, the same.
        let reversed: Vec<_> = rows.into_iter().rev().collect();
        assert_eq!(exposition.text(&reversed, &counters()), text);
    }
    /// The words in a text that are made of what names of metrics and labels are made of.
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
    }

    /// Every `by (a, b)` and `{{a}}` of a text.
    fn labels(text: &str) -> impl Iterator<Item = &str> {
        let between = |begin: &'static str, end: &'static str| {
            text.split(begin).skip(1).filter_map(move |rest| Some(rest.split_once(end)?.0))
        };
        between("by (", ")").chain(between("{{", "}}")).flat_map(words)
    }

    #[test]
    fn dashboard_and_alerts_are_of_metrics_and_labels_that_there_are() {
        let text = Exposition::default().text(&[row("t", Some("in"), 7, 1)], &counters());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types: BTreeMap<&str, &str> = types.collect();
        assert_eq!(types.len(), 9);
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/packaging");
        let mut seen = BTreeSet::new();
        for file in ["grafana/nfdrop.json", "prometheus/alerts.yml", "prometheus/alerts_test.yml"] {
            let content = std::fs::read_to_string(format!("{directory}/{file}")).unwrap();
            for name in words(&content).filter(|word| word.starts_with("nfdrop_")) {
                let known = types.get_key_value(name);
                seen.insert(known.unwrap_or_else(|| panic!("{file}: there is no {name}")).0);
            }
            // Those of Prometheus, and of templates.
            let others = ["instance", "labels", "value", "version", "humanize"];
            for label in labels(&content) {
                assert!(NAMES.contains(&label) || others.contains(&label), "{file}: {label}");
            }
            // A counter by itself is the sum since the start, which nobody wants to see.
            for (name, _) in types.iter().filter(|(_, kind)| **kind == "counter") {
                for (at, _) in content.match_indices(name).filter(|_| !file.ends_with("_test.yml"))
                {
                    let before = &content[..at];
                    let function = ["rate(", "increase(", "label_values("];
                    assert!(function.iter().any(|name| before.ends_with(name)), "{file}: {name}");
                }
            }
        }
        assert_eq!(seen.len(), types.len(), "each is in the dashboard or an alert");
        let dashboard = std::fs::read(format!("{directory}/grafana/nfdrop.json")).unwrap();
        let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty()));
    }
}
