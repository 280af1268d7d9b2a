//! Checks of what this user may do. Secure Boot itself forbids nothing here; lockdown does, which
//! it usually switches on.

use super::Check;
use crate::{attach::ring_sleeps, host::Host};
use nfdrop_db::Series;
use rustix::process::{Resource, getrlimit};

/// Numbers of capabilities (`include/uapi/linux/capability.h`), which are bits of `CapEff`.
const CAP_NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// `integrity` lets BPF read kernel memory, `confidentiality` does not.
pub(super) fn lockdown(host: &Host) -> Check {
    const NAME: &str = "lockdown";
    // `none [integrity] confidentiality`
    match host.text("/sys/kernel/security/lockdown") {
        Ok(modes) => {
            let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            match mode {
                Some(("confidentiality", _)) => Check::missing(
                    NAME,
                    "confidentiality, which refuses BPF the kernel's memory",
                    "boot with lockdown=integrity or without lockdown",
                ),
                Some((mode @ ("none" | "integrity"), _)) => Check::ok(NAME, mode),
                _ => Check::unknown(NAME, format!("{modes:?} is not known here")),
            }
        }
        // securityfs is there and has no such file: no lockdown in this kernel.
        Err(_) if host.exists("/sys/kernel/security/lsm") => Check::ok(NAME, "not in this kernel"),
        Err(_) => Check::unknown(NAME, "/sys/kernel/security cannot be read")
            .todo("mount -t securityfs none /sys/kernel/security"),
    }
}

fn effective(host: &Host) -> Option<u64> {
    let status = host.text("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Debian's and Ubuntu's kernels take `CAP_SYS_ADMIN` alone for `perf_event_open` where this is above
/// 2, and Debian sets it to 3. In other kernels such values are as 2. `refused`: the kernel has
/// refused it.
pub(super) fn perf_events(host: &Host, refused: bool) -> Option<Check> {
    const NAME: &str = "perf events";
    const PATH: &str = "/proc/sys/kernel/perf_event_paranoid";
    let paranoid: i32 = host.text(PATH).ok()?.trim().parse().ok()?;
    if paranoid <= 2 || effective(host)? >> CAP_SYS_ADMIN.0 & 1 == 1 {
        return None;
    }
    let found = format!(
        "kernel.perf_event_paranoid is {paranoid}: kernels of Debian and Ubuntu want CAP_SYS_ADMIN then"
    );
    let todo = "sysctl kernel.perf_event_paranoid=2, or run as root";
    Some(if refused {
        Check::missing(NAME, found, todo)
    } else {
        Check::unknown(NAME, found).todo(todo)
    })
}

/// Before 5.11 maps count against the limit on locked memory, and so do a real-time kernel's buffers. A client
/// that may do so has lifted it; asked after the kernel has refused a map.
pub(super) fn locked_memory(host: &Host) -> Option<Check> {
    let what = if host.series()? < Series(5, 11) {
        "BPF maps count against before Linux 5.11"
    } else if ring_sleeps(host) {
        "the buffers of real-time kernels before 6.12 count against"
    } else {
        return None;
    };
    let limit = getrlimit(Resource::Memlock).current?;
    Some(Check::missing(
        "locked memory",
        format!("limited to {} KiB, which {what}", limit >> 10),
        "ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, or CAP_SYS_RESOURCE",
    ))
}

/// `CAP_BPF` and `CAP_PERFMON`, or `CAP_SYS_ADMIN`, which stands for both.
pub(super) fn capabilities(host: &Host) -> Check {
    const NAME: &str = "capabilities";
    let Some(effective) = effective(host) else {
        return Check::unknown(NAME, "/proc/self/status does not tell").todo("mount proc on /proc");
    };
    let has = |(bit, _): (u32, &str)| effective >> bit & 1 == 1;
    let held: Vec<_> = [CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN]
        .into_iter()
        .filter_map(|capability| has(capability).then_some(capability.1))
        .collect();
    let absent: Vec<_> = [CAP_BPF, CAP_PERFMON]
        .into_iter()
        .filter_map(|capability| (!has(capability)).then_some(capability.1))
        .collect();
    if !has(CAP_SYS_ADMIN) && !absent.is_empty() {
        return Check::missing(
            NAME,
            format!("without {}", absent.join(" and ")),
            "run as root, or `setcap cap_bpf,cap_perfmon+ep` on the nfdrop-client binary",
        );
    }
    // Only those of the first user namespace count for BPF; it is the one that maps all ids.
    let map = host.text("/proc/self/uid_map").unwrap_or_default();
    let map: Vec<_> = map.split_whitespace().collect();
    if !map.is_empty() && map != ["0", "0", "4294967295"] {
        return Check::missing(
            NAME,
            format!("{} in a user namespace only, where they do not count", held.join(", ")),
            "run outside of the user namespace (rootless container)",
        );
    }
    Check::ok(NAME, held.join(", "))
}

/// What making network namespaces and rules in them takes.
pub(super) fn namespaces(host: &Host) -> Check {
    const NAME: &str = "network namespaces";
    let Some(effective) = effective(host) else {
        return Check::unknown(NAME, "/proc/self/status does not tell").todo("mount proc on /proc");
    };
    let absent = |(bit, name): &(u32, &'static str)| (effective >> bit & 1 == 0).then_some(*name);
    let absent: Vec<_> = [CAP_SYS_ADMIN, CAP_NET_ADMIN].iter().filter_map(absent).collect();
    if absent.is_empty() {
        return Check::ok(NAME, "can be made");
    }
    let found = format!("cannot be made without {}", absent.join(" and "));
    Check::missing(NAME, found, "run as root, outside of containers that take this right")
}
