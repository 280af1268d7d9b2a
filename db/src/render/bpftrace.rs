//! The plan as a bpftrace script that prints a line per drop.
//!
//! Addresses are computed from the registers and the plan's offsets alone. The probe has no module
//! in front of the symbol: bpftrace up to 0.18 does not know that syntax, and the bare name works
//! in all.

use super::{NO_LENGTH, packet_length, pt_regs_name};
use crate::{Condition, Event, Location, Plan, PlanError, Probe, plan::fields};
use std::fmt::Write as _;

/// The script. A plan that [`Plan::validate`] refuses is refused here too.
pub fn bpftrace(plan: &Plan) -> Result<String, PlanError> {
    plan.validate()?;
    let mut script = header(plan);
    for probe in &plan.probes {
        // Writing to a string does not fail, here and below.
        let _ = write!(script, "\nkprobe:{}+{:#x}", plan.symbol, probe.offset.0);
        script.push_str(" {\n");
        let indent = if probe.when.is_empty() { "  " } else { "    " };
        if !probe.when.is_empty() {
            let all: Vec<String> = probe.when.iter().map(condition).collect();
            let _ = writeln!(script, "  if ({}) {{", all.join(" && "));
        }
        for line in body(plan, probe) {
            let _ = writeln!(script, "{indent}{line}");
        }
        if !probe.when.is_empty() {
            script.push_str("  }\n");
        }
        script.push_str("}\n");
    }
    Ok(script)
}

fn header(plan: &Plan) -> String {
    let Plan { build_id, object, evidence, .. } = plan;
    let identity = if object == "vmlinux" {
        "/sys/kernel/notes"
    } else {
        "/sys/module/nf_tables/notes/.note.gnu.build-id"
    };
    let load = if object == "vmlinux" { "" } else { "// The module nf_tables has to be loaded.\n" };
    let mut header = format!(
        "#!/usr/bin/env bpftrace\n\
         // Prints the nftables rule, or the chain with the policy, behind every drop.\n\
         //\n\
         // For the {object} with build-id {build_id} only,\n\
         // whatever its release is called; the running kernel's id is in\n\
         // {identity}\n\
         // On another build it prints nonsense: check the id first.\n\
         //\n\
         // Run as root: bpftrace nfdrop.bt\n\
         {load}\
         // Handles are those of `nft -a list ruleset`. Found by nfdrop {analyzer}.\n",
        analyzer = evidence.analyzer,
    );
    if packet_length(plan).is_none() {
        let _ = writeln!(header, "// {NO_LENGTH}");
    }
    header
}

fn body(plan: &Plan, probe: &Probe) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut message, mut arguments) = (String::from("Packet"), Vec::new());
    if let Some((skb, len)) = packet_length(plan) {
        lines.push(format!("$skb = {};", u64_at(&value(probe.pkt), i64::from(skb))));
        lines.push(format!("$len = *(uint32*){};", plus("$skb", i64::from(len))));
        message.push_str(" with len %u");
        arguments.push("$len".to_owned());
    }
    match (probe.event, probe.rule) {
        (Event::RuleDrop, Some(rule)) => {
            let handle = plan.layout.rule_handle;
            let word = u64_at(&value(rule), i64::from(handle.offset));
            lines.push(format!("$handle = {};", bits(&word, handle.shift, handle.mask())));
            message.push_str(" dropped by rule with handle %lu");
            arguments.push("$handle".to_owned());
        }
        _ => match plan.layout.offsets.get(fields::CHAIN_NAME) {
            Some(&name) => {
                let pointer = u64_at(&value(probe.base_chain), i64::from(name));
                lines.push(format!("$chain = str(kptr({pointer}));"));
                message.push_str(" dropped by the policy of chain %s");
                arguments.push("$chain".to_owned());
            }
            None => message.push_str(" dropped by the policy of a chain"),
        },
    }
    arguments.insert(0, format!("\"{message}\\n\""));
    lines.push(format!("printf({});", arguments.join(", ")));
    lines
}

/// The value at a location.
fn value(location: Location) -> String {
    let register = format!("reg(\"{}\")", pt_regs_name(location.reg));
    let value = match location.deref {
        None => register,
        Some(offset) => u64_at(&register, i64::from(offset)),
    };
    plus(&value, i64::from(location.add.unwrap_or(0)))
}

fn u64_at(pointer: &str, offset: i64) -> String {
    format!("*(uint64*){}", plus(pointer, offset))
}

fn plus(value: &str, offset: i64) -> String {
    match offset {
        0 => value.to_owned(),
        offset if offset < 0 => format!("({value} - {})", offset.unsigned_abs()),
        offset => format!("({value} + {offset})"),
    }
}

fn bits(word: &str, shift: u8, mask: u64) -> String {
    // A cast binds to all that follows it.
    let word = if word.starts_with('*') { format!("({word})") } else { word.to_owned() };
    let shifted = if shift == 0 { word } else { format!("({word} >> {shift})") };
    if mask == u64::MAX { shifted } else { format!("{shifted} & {mask:#x}") }
}

fn condition(condition: &Condition) -> String {
    let Condition { value: place, mask, equals } = condition;
    format!("({}) == {equals:#x}", bits(&value(*place), 0, *mask))
}
