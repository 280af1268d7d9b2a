//! What is in a guest, and what it says.

use super::{
    initramfs::{self, Entry, FilesByPath},
    kernel::{Kernel, KernelError},
    machine::{BootError, Qemu},
};
use nfdrop_db::{Observed, Plan, Proof, ProofResult, Record};
use std::{collections::BTreeSet, ops::ControlFlow};

/// The first process: `guest/init.c`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
/// What is run, with the arguments of the client.
const COMMAND: &str = "/usr/bin/nfdrop-client selftest --all --alone --json --plan /plan.json";
/// Modules that the scenario needs, where a kernel has them as modules.
const MODULES: [&str; 17] = [
    // Before libcrc32c, which finds no checksum without one of them where none is built in.
    "crc32c_generic",
    "crc32c_intel",
    "crc32_cryptoapi",
    "ipv6",
    "nf_tables",
    "nf_tables_set",
    "nf_tables_ipv4",
    "nf_tables_ipv6",
    "nf_tables_inet",
    "nf_tables_netdev",
    "nft_counter",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_reject",
    "nft_meta",
    "veth",
];
/// Most lines of what the client says besides that are kept.
const MAX_LINES: usize = 20;

/// The client and nft, with what they need.
#[derive(Debug, Clone, Default)]
pub struct Programs(pub FilesByPath);

/// Boots the kernel of a plan, runs the scenario, and compares.
pub fn prove(
    qemu: &Qemu,
    kernel: &Kernel,
    programs: &Programs,
    plan: &Plan,
) -> Result<Proof, KernelError> {
    let mut files = programs.0.clone();
    files.insert("init".to_owned(), Entry::File(INIT.to_vec(), true));
    let record = Record::resolved(plan.clone()).to_bytes();
    files.insert("plan.json".to_owned(), Entry::File(record, false));
    let modules = kernel.modules(&MODULES)?;
    for (number, (_, module)) in modules.iter().enumerate() {
        files.insert(format!("modules/{number:02}"), Entry::File(module.clone(), false));
    }
    let mut said = GuestOutput::default();
    let ended =
        qemu.boot(&kernel.vmlinuz, &initramfs::archive(&files), COMMAND, |line| said.hear(line));
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    Ok(judge(plan, qemu, ended, said, &names))
}

/// What the guest wrote.
#[derive(Debug, Default)]
struct GuestOutput {
    observed: Option<Observed>,
    /// Numbers of modules that could not be loaded, and the kernel's error.
    modules: BTreeSet<(usize, i32)>,
    /// Lines of the client.
    lines: Vec<String>,
}

impl GuestOutput {
    /// Breaks off with the client's exit code.
    fn hear(&mut self, line: &str) -> ControlFlow<i32> {
        if let Some(said) = line.strip_prefix("=== ") {
            let words: Vec<_> = said.split(' ').collect();
            match words[..] {
                ["ended", code] => return ControlFlow::Break(code.parse().unwrap_or(-1)),
                ["module", number, error] => {
                    let numbers = number.parse().ok().zip(error.parse().ok());
                    // EEXIST: built in, or loaded by another one.
                    self.modules.extend(numbers.filter(|(_, error)| *error != 17));
                }
                _ => {}
            }
        } else if let Some(observed) = observed(line) {
            self.observed = Some(observed);
        } else if !line.trim().is_empty() && self.lines.len() < MAX_LINES {
            self.lines.push(line.to_owned());
        }
        ControlFlow::Continue(())
    }

    /// Which modules could not be loaded, where any could not.
    fn modules(&self, names: &[&str]) -> Option<String> {
        let name = |(number, error): &(usize, i32)| {
            format!("{} (error {error})", names.get(*number).unwrap_or(&"?"))
        };
        let all: Vec<_> = self.modules.iter().map(name).collect();
        (!all.is_empty()).then(|| format!("modules that cannot be loaded: {}", all.join(", ")))
    }
}

fn observed(line: &str) -> Option<Observed> {
    if line.starts_with('{') { serde_json::from_str(line).ok() } else { None }
}

/// `modules`: the names of those that were to be loaded, by number.
fn judge(
    plan: &Plan,
    qemu: &Qemu,
    ended: Result<i32, BootError>,
    said: GuestOutput,
    modules: &[&str],
) -> Proof {
    let machine = qemu.machine();
    let failed = said.modules(modules);
    let without = |result, what: String, console: &str| {
        let mut detail = what;
        for more in failed.as_deref().into_iter().chain([console]) {
            detail.extend(["\n", more]);
        }
        Proof::without(plan, result, detail.trim_end(), machine.clone())
    };
    match (ended, said.observed) {
        (Ok(0 | 3), Some(observed)) => Proof::of(plan, observed, machine),
        (Ok(code), _) => {
            // 3: of the client, the plan is refused or contradicted.
            let result =
                if code == 3 { ProofResult::Contradicted } else { ProofResult::NotBootable };
            let last = said.lines.iter().rfind(|line| line.starts_with("error: "));
            let why = last.or(said.lines.last()).map_or("it said nothing", String::as_str);
            let why = why.trim_start_matches("error: ");
            let what = match code {
                3 => why.to_owned(),
                code => format!("the scenario ended with code {code}: {why}"),
            };
            without(result, what, "")
        }
        (Err(BootError { what, console }), _) => {
            let console = if console.is_empty() { "its console is empty" } else { &console };
            without(ProofResult::NotBootable, what, console)
        }
    }
}
