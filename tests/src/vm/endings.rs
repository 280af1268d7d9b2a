//! However the client ends, and whatever it refuses: the right exit code, a sentence that helps, and
//! nothing left in the kernel.

use super::machine::Sections;
use anyhow::{Context, Result, ensure};
use nfdrop_db::{BuildId, FnOffset, HexBytes, Plan, Record};

/// What has to come of it: the name in `tests/guest/scenario`, the exit code, and words that are said.
const REFUSED: [(&str, i32, &str); 8] = [
    ("perf_event_paranoid", 4, "kernel.perf_event_paranoid"),
    ("another build", 3, "it is of build"),
    ("other bytes", 3, "this kernel has"),
    ("not an instruction", 3, "no instruction of this kernel begins at nft_do_chain"),
    ("no CAP_BPF", 4, "CAP_BPF"),
    ("no CAP_PERFMON", 4, "CAP_PERFMON"),
    ("doctor", 0, "plan"),
    ("no module", 4, "modprobe nf_tables"),
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
    ensure!(count >= REFUSED.len() + ENDED.len(), "{count} times was looked what is left");
    Ok(differences)
}

/// Plans that must not be attached, as files of `tests/guest/scenario`.
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
