//! A record for people.

use crate::{Plan, Record};
use std::fmt::{Display, Write as _};

/// The record, a fact a line, names and values in two columns.
pub fn text(record: &Record) -> String {
    let mut lines = Lines(String::new());
    lines.add("build-id", &record.build_id);
    lines.add("status", &record.status);
    if let Some(reason) = record.reason {
        lines.add("reason", &reason);
    }
    if let Some(detail) = &record.detail {
        lines.add("detail", &Record::clean_detail(detail));
    }
    if let Some(plan) = &record.plan {
        add_plan(&mut lines, plan);
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &dyn Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name:<13}{value}");
    }
}

fn add_plan(lines: &mut Lines, plan: &Plan) {
    let Plan { object, arch, symbol, symbol_size, body_sha256, layout, evidence, .. } = plan;
    lines.add("object", &format_args!("{object} ({arch})"));
    lines.add("symbol", &format_args!("{symbol}, {symbol_size} bytes"));
    lines.add("body sha256", body_sha256);
    for probe in &plan.probes {
        lines.0.push('\n');
        lines.add(&probe.event.to_string(), &format_args!("{symbol}{}", probe.offset));
        lines.add("  bytes", &probe.bytes);
        lines.add("  cost", &probe.cost);
        for condition in &probe.when {
            lines.add("  when", condition);
        }
        if let Some(rule) = probe.rule {
            lines.add("  rule", &rule);
        }
        lines.add("  pkt", &probe.pkt);
        lines.add("  base chain", &probe.base_chain);
    }
    lines.0.push('\n');
    let handle = layout.rule_handle;
    let source = match layout.source {
        crate::LayoutSource::Btf => "from BTF",
        crate::LayoutSource::Shape => "a known shape, confirmed by running the function",
    };
    lines.add("layout", &source);
    let last = u16::from(handle.shift) + u16::from(handle.bits) - 1;
    let place = format!("{:#06x}, bits {} to {last}", handle.offset, handle.shift);
    lines.add("  rule handle", &format_args!(" {place}"));
    for (name, offset) in &layout.offsets {
        let _ = writeln!(lines.0, "  {name:<25} {offset:#06x}");
    }
    lines.0.push('\n');
    lines.add(
        "evidence",
        &format_args!(
            "{} runs of the function: {} rule drops, {} policy drops, {}.{}% of its branch edges",
            evidence.runs,
            evidence.rule_drops,
            evidence.policy_drops,
            evidence.edges.thousandths() / 10,
            evidence.edges.thousandths() % 10,
        ),
    );
    lines.add("analyzer", &evidence.analyzer);
}
