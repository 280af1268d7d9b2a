//! What learning of drops costs, in instructions per packet: what `tests/guest/cost` says, as a table.

use super::machine::Sections;
use anyhow::{Context, Result, ensure};
use nfdrop_db::Series;
use nfdrop_db::{Event, Plan};

/// Packets of the short and of the long run: `tests/guest/cost`.
const PACKETS: (i64, i64) = (1000, 2000);
/// Titles in `tests/guest/cost`, and what they are.
const WAYS: [(&str, &str); 10] = [
    ("nothing", "nothing attached, sending included"),
    ("client", "nfdrop-client, a JSON line a drop"),
    ("aggregate", "nfdrop-client --aggregate"),
    ("exported", "bpftrace, the plan as a script"),
    ("blog", "bpftrace, a probe on every verdict, printing drops"),
    ("nftrace", "nftrace on, `nft monitor trace`"),
    ("key", "a dummy trace table, nothing attached"),
    ("kprobe", "a dummy trace table, a kprobe on __nft_trace_packet that counts its calls"),
    ("kprobe-rules", "the same, counting drops by rule"),
    ("kprobe-lines", "the same, printing drops"),
];

/// What one kind of packets costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Until it has passed the kernel, and what others have run meanwhile.
    pub path: i64,
    /// With what whoever is told of it ran afterwards.
    pub whole: i64,
}

/// Of a way to learn of drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What is done.
    pub way: &'static str,
    /// Instructions per accepted packet.
    pub accepted: Cost,
    /// Instructions per dropped packet.
    pub dropped: Cost,
}

/// The rows; the first one is what all others come on top of.
pub fn rows(said: &Sections) -> Result<Vec<Row>> {
    let cost = |title: &str, kind: &str| {
        cost(said.get(&format!("cost {title}, {kind}"))?)
            .with_context(|| format!("{title}, {kind}"))
    };
    let ways = WAYS.iter().filter(|(title, _)| said.get(&format!("cost {title}, dropped")).is_ok());
    let row = |(title, way): &(&str, &'static str)| {
        Ok(Row { way, accepted: cost(title, "accepted")?, dropped: cost(title, "dropped")? })
    };
    let mut rows: Vec<Row> = ways.map(row).collect::<Result<_>>()?;
    let base = rows.first().context("nothing was measured")?.clone();
    for row in &mut rows[1..] {
        for (cost, base) in [(&mut row.accepted, base.accepted), (&mut row.dropped, base.dropped)] {
            *cost = Cost { path: cost.path - base.path, whole: cost.whole - base.whole };
        }
    }
    Ok(rows)
}

/// Pairs of lines `SENDING AFTERWARDS`, of a short and a long run. Their difference has nothing of what
/// is done once; of several pairs the middle one is taken.
fn cost(text: &str) -> Result<Cost> {
    let mut runs = Vec::new();
    for line in text.lines() {
        let (sending, after) = line.split_once(' ').context("no two numbers")?;
        runs.push((sending.parse::<i64>()?, after.parse::<i64>()?));
    }
    let (runs, rest) = runs.as_chunks::<2>();
    ensure!(!runs.is_empty() && rest.is_empty(), "no pairs of runs");
    let middle = |of: &dyn Fn((i64, i64)) -> i64| {
        let mut all: Vec<_> = runs
            .iter()
            .map(|[short, long]| (of(*long) - of(*short)) / (PACKETS.1 - PACKETS.0))
            .collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Ok(Cost {
        path: middle(&|(sending, _)| sending),
        whole: middle(&|(sending, after)| sending + after),
    })
}

/// The table, in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut table =
        "| instructions per packet | accepted | dropped |\n|---|---:|---:|\n".to_owned();
    for (index, Row { way, accepted, dropped }) in rows.iter().enumerate() {
        let sign = |cost: i64| if index == 0 { cost.to_string() } else { format!("{cost:+}") };
        let (accepted, dropped) = (sign(accepted.whole), sign(dropped.whole));
        table.extend(["| ", way, " | ", &accepted, " | ", &dropped, " |\n"]);
    }
    table
}

/// The script of a person who reads disassembly: a probe where every verdict comes by, a filter, a line
/// for every drop. `None` where the compiler has not left one such place. `script`: the plan's own.
pub fn blog(plan: &Plan, body: &[u8], script: &str) -> Option<String> {
    /// `and edx, 0xff`, `test dl, 0xfc`.
    const TESTS: [&[u8]; 2] = [&[0x81, 0xe2, 0xff, 0, 0, 0], &[0xf6, 0xc2, 0xfc]];
    let at = TESTS.iter().find_map(|test| memchr::memmem::find(body, test))?;
    let probe = plan.probes.iter().find(|probe| probe.event == Event::RuleDrop)?;
    let head = format!("kprobe:nft_do_chain+{:#x} {{", probe.offset.0);
    let (_, rest) = script.split_once(&head)?;
    let (lines, _) = rest.split_once("\n}")?;
    Some(format!("kprobe:nft_do_chain+{at:#x} /(reg(\"dx\") & 0xff) == 0/ {{{lines}\n}}\n"))
}

/// As tools that trace `__nft_trace_packet` learn which rule dropped, in bpftrace: to count drops by rule,
/// and to print a line for each. `None` where that function's arguments are not known.
pub fn traced(plan: &Plan, series: Series) -> Option<[String; 2]> {
    // net/netfilter/nf_tables_core.c and `struct nft_traceinfo` of include/net/netfilter/nf_tables.h
    let (verdict, rule) = match series {
        Series(5, 10) => ("*(uint64*)(arg0 + 32)", "*(uint64*)(arg0 + 24)"),
        Series(6, 1) => ("*(uint64*)(arg0 + 40)", "*(uint64*)(arg0 + 32)"),
        Series(6, 12) => ("arg1", "arg2"),
        _ => return None,
    };
    let handle = plan.layout.rule_handle;
    let script = |tell: &str| {
        format!(
            "kprobe:__nft_trace_packet {{\n  $verdict = {verdict};\n  if (*(uint32*)$verdict == 0) {{\n    \
             $rule = {rule};\n    $handle = (*(uint64*)($rule + {}) >> {}) & {:#x};\n    {tell}\n  }}\n}}\n",
            handle.offset,
            handle.shift,
            handle.mask(),
        )
    };
    Some([
        script("@[$handle] = count();"),
        script(r#"printf("dropped by rule with handle %lu\n", $handle);"#),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_once_does_not_count() {
        let text = "1005000 7\n2005000 1000007\n1005000 7\n2005000 1000007\n1 1\n9 9\n";
        assert_eq!(cost(text).unwrap(), Cost { path: 1000, whole: 2000 });
        assert!(cost("1 2\n").is_err());
        assert!(cost("").is_err());
    }
}
