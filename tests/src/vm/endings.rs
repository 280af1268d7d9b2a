//! However the client ends, and whatever it refuses: the right exit code, a sentence that helps, and
//! nothing left in the kernel.

use super::machine::Sections;
use anyhow::{Context, Result, ensure};
use nfdrop_db::{
    BuildId, Condition, Event, FnOffset, HexBytes, Location, Plan, Probe, Record, Reg,
};

/// What has to come of it: the name in `tests/guest/scenario`, the exit code, and words that are said.
const REFUSED: [(&str, i32, &str); 12] = [
    ("perf_event_paranoid", 4, "kernel.perf_event_paranoid"),
    ("another build", 3, "it is of build"),
    ("other bytes", 3, "this kernel has"),
    ("not an instruction", 3, "no instruction of this kernel begins at nft_do_chain"),
    ("no CAP_BPF", 4, "CAP_BPF"),
    ("no CAP_PERFMON", 4, "CAP_PERFMON"),
    ("doctor", 0, "plan"),
    ("selftest", 0, "the plan holds"),
    ("selftest, no rights", 4, "CAP_NET_ADMIN"),
    ("selftest without nft", 4, "install the package nftables"),
    ("selftest, kprobes off", 4, "kprobes"),
    ("no module", 4, "modprobe nf_tables"),
];
/// Plans that the client finds wrong while it runs, and what it says.
const CONTRADICTED: [(&str, i32, &str); 6] = [
    ("policy", 3, "whose policy is accept"),
    ("rule", 3, "as the address of the rule, where nothing is"),
    ("chain", 3, "as the address of the table, where nothing is"),
    ("policy, counted", 3, "whose policy is accept"),
    ("fetched", 3, "whose policy is accept"),
    ("nothing seen", 0, "summary: 0 drops seen"),
];
/// Of kernels before 5.11 only.
const OLD: (&str, i32, &str) = ("locked memory", 4, "ulimit -l unlimited");
/// Signals, and the exit code that a shell tells of each.
const ENDED: [(&str, i32); 3] = [("TERM", 0), ("KILL", 128 + 9), ("ABRT", 128 + 6)];

/// What differs.
pub fn differences(sections: &Sections) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    let here = sections.get(&format!("refused {}", OLD.0)).is_ok().then_some(OLD);
    for (name, code, words) in REFUSED.into_iter().chain(here) {
        let text = sections.get(&format!("refused {name}"))?;
        if !text.starts_with(&format!("code {code}\n")) || !text.contains(words) {
            differences.push(format!("{name}: not {code} with {words:?}: {text}"));
        }
    }
    for (name, code, words) in CONTRADICTED {
        let text = sections.get(&format!("contradicted {name}"))?;
        if !text.starts_with(&format!("code {code}\nlines 0\n")) || !text.contains(words) {
            differences.push(format!("contradicted {name}: not {code} with {words:?}: {text}"));
        }
    }
    for (name, expected) in [
        ("remembered", "the same\nforgotten\n"),
        ("contradicted, going on", "nfdrop_plan_contradicted_total 1\n"),
    ] {
        let text = sections.get(name)?;
        if text != expected {
            differences.push(format!("{name}: not {expected:?}: {text}"));
        }
    }
    for (signal, code) in ENDED {
        let text = sections.get(&format!("ended {signal}"))?;
        if !text.starts_with(&format!("code {code}\n")) {
            differences.push(format!("SIG{signal}: not {code}: {text}"));
        }
    }
    let left =
        sections.0.iter().filter_map(|(title, text)| Some((title.strip_prefix("left ")?, text)));
    let mut count = 0;
    for (name, text) in left {
        count += 1;
        if !text.is_empty() {
            differences.push(format!("left behind by {name}: {text}"));
        }
    }
    let runs = REFUSED.len() + CONTRADICTED.len() + ENDED.len();
    ensure!(count >= runs, "{count} times was looked what is left");
    Ok(differences)
}

/// An address of the kernel's where nothing is: two gigabytes below a stack.
const NOWHERE: Location = Location { reg: Reg::Rsp, deref: None, add: Some(i32::MIN) };

fn rules(plan: &mut Plan, change: &dyn Fn(&mut Probe)) {
    let rules = plan.probes.iter_mut().filter(|probe| probe.event == Event::RuleDrop);
    rules.for_each(change);
}

/// Plans that must not be attached, or are found wrong, as files of `tests/guest/scenario`.
pub fn bad_plans(plan: &Plan) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let record = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        Record::resolved(plan).to_bytes()
    };
    let build_id: BuildId = "00112233445566778899aabbccddeeff00112233".parse()?;
    // Inside the last probe's instruction. The first probe is set before the kernel refuses this one.
    let last = plan.probes.last().context("a plan without probes")?;
    let (offset, bytes) = (FnOffset(last.offset.0 + 1), HexBytes(last.bytes.0[1..].to_vec()));
    ensure!(
        plan.probes.len() > 1 && !bytes.0.is_empty() && plan.probes[0].bytes.0.len() > 1,
        "this plan cannot be spoilt"
    );
    Ok(vec![
        ("build", record(&|plan| plan.build_id = build_id.clone())),
        // Each reports what the other should.
        (
            "policy",
            record(&|plan| {
                for probe in &mut plan.probes {
                    (probe.event, probe.rule) = match probe.event {
                        Event::RuleDrop => (Event::PolicyDrop, None),
                        Event::PolicyDrop => (Event::RuleDrop, Some(probe.base_chain)),
                    };
                }
                plan.probes.sort_by_key(|probe| (probe.event, probe.offset));
            }),
        ),
        ("rule", record(&|plan| rules(plan, &|probe| probe.rule = Some(NOWHERE)))),
        ("chain", record(&|plan| rules(plan, &|probe| probe.base_chain = NOWHERE))),
        (
            "unreadable",
            record(&|plan| {
                let value = Location::memory(Reg::Rsp, i32::MIN);
                let when = Condition { value, mask: 0xff, equals: 0 };
                plan.probes.iter_mut().for_each(|probe| probe.when = vec![when]);
            }),
        ),
        // The last one: the probe itself hides the first byte.
        (
            "bytes",
            record(&|plan| {
                plan.probes[0].bytes.0.last_mut().into_iter().for_each(|byte| *byte ^= 1);
            }),
        ),
        (
            "boundary",
            record(&|plan| {
                if let Some(last) = plan.probes.last_mut() {
                    (last.offset, last.bytes) = (offset, bytes.clone());
                }
            }),
        ),
    ])
}
