//! The plan as lines for `/sys/kernel/tracing/kprobe_events` (Documentation/trace/kprobetrace.rst).
//!
//! The kernel's filters know no mask, so a condition becomes fields, one per run of set bits in its
//! mask, each fetched as a bit field, and a filter that compares them. Lines that begin with `#` are
//! comments to the kernel as well.

use super::{NO_LENGTH, packet_length, pt_regs_name};
use crate::{Condition, Event, Location, Plan, PlanError, Probe, plan::fields};
use std::fmt::Write as _;

/// The lines. A plan that [`Plan::validate`] refuses is refused here too.
pub fn kprobe_events(plan: &Plan) -> Result<String, PlanError> {
    plan.validate()?;
    let Plan { build_id, object, evidence, symbol, .. } = plan;
    // Writing to a string does not fail, here and below.
    let mut text = format!(
        "# nftables drops, for the {object} with build-id {build_id} only.\n\
         # Found by nfdrop {}. In /sys/kernel/tracing, as root:\n\
         #   cat FILE > kprobe_events\n",
        evidence.analyzer
    );
    let prefix = if object == "vmlinux" { "" } else { "nf_tables:" };
    let mut lines = String::new();
    let mut seen = [0_usize; 2];
    for probe in &plan.probes {
        let count = &mut seen[usize::from(probe.event == Event::PolicyDrop)];
        let name = format!("{}_{count}", probe.event);
        *count += 1;
        let (conditions, filter) = conditions(&probe.when);
        if !filter.is_empty() {
            let _ = writeln!(text, "#   echo '{filter}' > events/nfdrop/{name}/filter");
        }
        let _ = write!(lines, "p:nfdrop/{name} {prefix}{symbol}+{}", probe.offset.0);
        for field in fields(plan, probe).into_iter().chain(conditions) {
            let _ = write!(lines, " {field}");
        }
        lines.push('\n');
    }
    text.push_str(
        "#   echo 1 > events/nfdrop/enable; cat trace_pipe\n\
         # To end: echo 0 > events/nfdrop/enable; echo > kprobe_events\n",
    );
    if packet_length(plan).is_none() {
        let _ = writeln!(text, "# {NO_LENGTH}");
    }
    text.push_str(&lines);
    Ok(text)
}

fn fields(plan: &Plan, probe: &Probe) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(rule) = probe.rule {
        let handle = plan.layout.rule_handle;
        let kind = match (handle.shift, handle.bits) {
            (0, 64) => "u64".to_owned(),
            (shift, bits) => format!("b{bits}@{shift}/64"),
        };
        all.extend(pointer("rule", rule));
        all.push(format!("handle={}:{kind}", at(rule, handle.offset)));
    }
    all.extend(pointer("pkt", probe.pkt));
    if let Some((skb, len)) = packet_length(plan) {
        all.push(format!("len=+{len}({}):u32", at(probe.pkt, skb)));
    }
    all.extend(pointer("chain", probe.base_chain));
    if let Some(&name) = plan.layout.offsets.get(fields::CHAIN_NAME) {
        all.push(format!("chain_name=+0({}):string", at(probe.base_chain, name)));
    }
    all
}

/// The value itself. tracefs adds only what it then reads through, so a value with something added
/// is left out.
fn pointer(name: &str, location: Location) -> Option<String> {
    location.add.is_none().then(|| format!("{name}={}:x64", fetch(location)))
}

fn fetch(location: Location) -> String {
    let register = format!("%{}", pt_regs_name(location.reg));
    match location.deref {
        None => register,
        Some(offset) => format!("{offset:+}({register})"),
    }
}

/// What lies `offset` bytes behind the pointer at a location.
fn at(location: Location, offset: u32) -> String {
    let offset = i64::from(offset) + i64::from(location.add.unwrap_or(0));
    format!("{offset:+}({})", fetch(location))
}

/// The fields and the filter of a probe's conditions.
fn conditions(when: &[Condition]) -> (Vec<String>, String) {
    let (mut all, mut filter) = (Vec::new(), Vec::new());
    for (index, condition) in when.iter().enumerate() {
        for (shift, bits) in runs(condition.mask) {
            let name = format!("when{index}_{shift}");
            let mask = u64::MAX >> (64 - bits);
            let kind = if bits == 64 { "u64".to_owned() } else { format!("b{bits}@{shift}/64") };
            all.push(format!("{name}={}:{kind}", fetch(condition.value)));
            filter.push(format!("{name} == {:#x}", condition.equals >> shift & mask));
        }
    }
    (all, filter.join(" && "))
}

/// The runs of set bits: where each begins, and how long it is.
fn runs(mask: u64) -> Vec<(u32, u32)> {
    let (mut rest, mut all) = (mask, Vec::new());
    while rest != 0 {
        let shift = rest.trailing_zeros();
        let bits = (rest >> shift).trailing_ones();
        all.push((shift, bits));
        rest &= u64::MAX.checked_shl(shift + bits).unwrap_or(0);
    }
    all
}
