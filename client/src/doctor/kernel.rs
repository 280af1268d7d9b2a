//! Checks of what the kernel is and was built with.

use super::Check;
use crate::{
    attach::{
        arch::ARCH,
        site::{self, Site},
    },
    host::{Config, Host, Symbols},
    running::Object,
};
use nfdrop_db::{SYMBOL, plan::Plan};

pub(super) fn release_and_arch(host: &Host) -> Check {
    const NAME: &str = "kernel";
    // The sysctl exists since 6.1; before, the client runs on what it was built for.
    let arch = host.text("/proc/sys/kernel/arch");
    let arch = arch.unwrap_or_else(|_| std::env::consts::ARCH.to_owned());
    let release = host.release().unwrap_or_else(|| "release unknown".to_owned());
    let found = format!("{release}, {arch}");
    if arch == ARCH.name() {
        Check::ok(NAME, found)
    } else {
        Check::missing(NAME, found, format!("plans exist for {ARCH} only"))
    }
}

const KPROBES: &str = "kprobes";

/// They are set all the same, and never hit.
pub(super) fn switched_off(host: &Host) -> Option<Check> {
    const ENABLED: &str = "/sys/kernel/debug/kprobes/enabled";
    let off = host.text(ENABLED).is_ok_and(|text| text == "0");
    off.then(|| Check::missing(KPROBES, "switched off", format!("echo 1 > {ENABLED}")))
}

pub(super) fn kprobes(host: &Host, symbols: Option<&Symbols>, config: Option<&Config>) -> Check {
    const NAME: &str = KPROBES;
    if let Some(check) = switched_off(host) {
        return check;
    }
    let compiled_in = in_kernel(
        symbols.map(|symbols| symbols.register_kprobe),
        config.map(|config| config.built_in("CONFIG_KPROBES")),
    );
    match compiled_in {
        // Created by CONFIG_KPROBE_EVENTS, through which perf_event_open sets a kprobe.
        Some(true) if host.exists("/sys/bus/event_source/devices/kprobe") => {
            Check::ok(NAME, "in the kernel, with perf events")
        }
        Some(true) if host.exists("/sys/bus/event_source/devices") => Check::missing(
            NAME,
            "in the kernel, but without kprobe events",
            "use a kernel with CONFIG_KPROBE_EVENTS=y",
        ),
        Some(true) => Check::unknown(NAME, "in the kernel; kprobe events cannot be seen")
            .todo("mount sysfs on /sys"),
        Some(false) => Check::missing(
            NAME,
            "compiled out of this kernel",
            "use a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y",
        ),
        None => Check::unknown(NAME, "neither /proc/kallsyms nor the configuration can be read"),
    }
}

pub(super) fn bpf(symbols: Option<&Symbols>, config: Option<&Config>) -> Check {
    const NAME: &str = "bpf";
    let needed = ["CONFIG_BPF_SYSCALL", "CONFIG_BPF_EVENTS"];
    let absent: Vec<_> = config
        .map(|config| needed.into_iter().filter(|option| !config.built_in(option)).collect())
        .unwrap_or_default();
    if !absent.is_empty() {
        let options = absent.join("=y and ");
        return Check::missing(
            NAME,
            format!("not configured: {}", absent.join(", ")),
            format!("use a kernel with {options}=y"),
        );
    }
    match (config, symbols.map(|symbols| symbols.sys_bpf)) {
        (Some(_), _) => Check::ok(NAME, "system call and kprobe programs in the kernel"),
        (None, Some(true)) => Check::ok(NAME, "system call in the kernel"),
        (None, Some(false)) => Check::missing(
            NAME,
            "compiled out of this kernel",
            "use a kernel with CONFIG_BPF_SYSCALL=y",
        ),
        (None, None) => {
            Check::unknown(NAME, "neither /proc/kallsyms nor the configuration can be read")
        }
    }
}

/// A livepatch that replaces the function leaves the build-id as it is while the old body, the one
/// the plan is for, never runs.
pub(super) fn livepatch(host: &Host, object: Object) -> Check {
    const NAME: &str = "livepatch";
    const DIRECTORY: &str = "/sys/kernel/livepatch";
    let object = match object {
        Object::Module => "nf_tables",
        Object::Kernel => "vmlinux",
    };
    for patch in host.list(DIRECTORY) {
        let enabled = host.text(&format!("{DIRECTORY}/{patch}/enabled"));
        let replaces = host.list(&format!("{DIRECTORY}/{patch}/{object}")).iter().any(|function| {
            // The directory is named `function,occurrence`.
            function.split(',').next() == Some(SYMBOL)
        });
        if replaces && enabled.is_ok_and(|text| text != "0") {
            return Check::missing(
                NAME,
                format!("{patch} replaces {SYMBOL}"),
                "boot a kernel that has the fix built in, whose build-id tells so",
            );
        }
    }
    Check::ok(NAME, format!("{SYMBOL} is not replaced"))
}

/// Whether the instructions that the plan expects are there.
pub(super) fn sites(host: &Host, plan: &Plan) -> Check {
    const NAME: &str = "sites";
    let listed = site::probes(host);
    let address =
        site::address(&listed).or_else(|| host.symbols().and_then(|symbols| symbols.address));
    let mut unreadable = None;
    for probe in &plan.probes {
        match site::compare(host, probe, address, &listed) {
            Site::Same => {}
            Site::Unreadable(why) => unreadable = Some(why),
            Site::Other { expected, found } => {
                let offset = probe.offset;
                return Check::missing(
                    NAME,
                    format!("at {SYMBOL}{offset} the plan expects {expected}, found {found}"),
                    "somebody has patched this function, or the plan is wrong: tell whoever runs \
                     the server",
                )
                .code(3);
            }
        }
    }
    match unreadable {
        Some(why) => Check::unknown(NAME, why),
        None => Check::ok(NAME, "the instructions are the plan's"),
    }
}

/// From two witnesses, either of which may be silent: what is listed is there.
fn in_kernel(listed: Option<bool>, configured: Option<bool>) -> Option<bool> {
    match (listed, configured) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), _) | (_, Some(false)) => Some(false),
        (None, None) => None,
    }
}
