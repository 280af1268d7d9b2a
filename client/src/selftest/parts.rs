//! Which parts can run here, before anything is tried.
//!
//! Without `--all` the self-test loads no module: a host that never needed one should not have it afterwards.
//! The kernel loads modules by itself as soon as somebody asks for a device or an expression, so it must not
//! be asked.

use crate::host::Host;
use nfdrop_db::{
    Series,
    proof::{LeftOut, Part},
};

/// The release from which on `counter` is in nf_tables itself.
const COUNTER_BUILT_IN: Series = Series(5, 18);

/// The modules that a part needs besides nf_tables.
fn modules(part: Part, host: &Host) -> &'static [&'static str] {
    match part {
        Part::Base if host.series().is_some_and(|series| series < COUNTER_BUILT_IN) => {
            &["nft_counter"]
        }
        Part::Reject => &["nft_reject", "nft_reject_ipv4"],
        Part::Veth => &["veth"],
        _ => &[],
    }
}

/// Parts that are not to run, and why. `all`: modules may be loaded, and code that everybody runs changed.
pub(super) fn left_out(host: &Host, all: bool) -> Vec<LeftOut> {
    let mut left_out = vec![];
    let mut leave = |part, why: String| left_out.push(LeftOut { part, why });
    let processors = rustix::thread::sched_getaffinity(None).map_or(1, |cpus| cpus.count());
    for &part in Part::ALL {
        match part {
            Part::Nftrace | Part::Counters if !all => leave(
                part,
                "it switches code of nf_tables for the whole machine; --all runs it".to_owned(),
            ),
            Part::Processors if processors < 2 => {
                leave(part, "there is one processor only".to_owned());
            }
            Part::Ip6 if !host.exists("/proc/net/if_inet6") => {
                leave(part, "this kernel runs without IPv6".to_owned());
            }
            _ if all => {}
            _ => {
                let absent = modules(part, host).iter().find_map(|name| not_loaded(host, name));
                if let Some(why) = absent {
                    leave(part, why);
                }
            }
        }
    }
    left_out
}

/// Why using the module would load it.
fn not_loaded(host: &Host, module: &str) -> Option<String> {
    if host.exists(&format!("/sys/module/{module}")) {
        return None;
    }
    let directory = format!("/lib/modules/{}", host.release()?);
    let lists = |file: &str| {
        let list = host.text(&format!("{directory}/{file}")).ok()?;
        let file = format!("/{module}.ko");
        let path = |line: &str| line.split(':').next().unwrap_or(line).contains(&file);
        Some(list.lines().any(path))
    };
    match (lists("modules.builtin"), lists("modules.dep")) {
        (Some(true), _) | (_, Some(false)) => None,
        (_, Some(true)) => Some(format!(
            "the module {module} is not loaded: `modprobe {module}`, or give --all, which loads it"
        )),
        (_, None) => Some(format!(
            "the module {module} is not loaded, and {directory}/modules.dep cannot be read to see whether \
             it is built in; --all runs this part"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    fn parts(left_out: &[LeftOut]) -> Vec<Part> {
        let parts = left_out.iter().map(|left_out| left_out.part);
        parts.filter(|part| *part != Part::Processors).collect()
    }

    const NEW: (&str, &str) = ("proc/sys/kernel/osrelease", "6.1.0-57-amd64\n");
    const IP6: (&str, &str) = ("proc/net/if_inet6", "");
    const DEP: (&str, &str) = (
        "lib/modules/6.1.0-57-amd64/modules.dep",
        "kernel/net/netfilter/nft_reject.ko: kernel/net/netfilter/nf_tables.ko\n\
         kernel/drivers/net/veth.ko.xz:\n",
    );

    #[test]
    fn modules_that_would_be_loaded_leave_their_part_out() {
        let (_root, host) = host(&[NEW, IP6, DEP]);
        let left = left_out(&host, false);
        assert_eq!(parts(&left), [Part::Reject, Part::Veth, Part::Nftrace, Part::Counters]);
        assert_eq!(
            left[0].why,
            "the module nft_reject is not loaded: `modprobe nft_reject`, or give --all, which loads it"
        );
        assert_eq!(parts(&left_out(&host, true)), []);
    }

    #[test]
    fn modules_that_are_there_do_not() {
        let builtin =
            ("lib/modules/6.1.0-57-amd64/modules.builtin", "kernel/net/netfilter/nft_reject.ko\n");
        let veth = ("sys/module/veth/refcnt", "0");
        let (_root, host) = host(&[NEW, IP6, DEP, builtin, veth]);
        assert_eq!(parts(&left_out(&host, false)), [Part::Nftrace, Part::Counters]);
    }

    #[test]
    fn nothing_is_tried_where_it_cannot_be_told() {
        let (_root, host) = host(&[NEW]);
        let left = left_out(&host, false);
        let expected = [Part::Reject, Part::Ip6, Part::Veth, Part::Nftrace, Part::Counters];
        assert_eq!(parts(&left), expected);
    }

    #[test]
    fn the_counter_was_a_module_once() {
        let old = ("proc/sys/kernel/osrelease", "5.10.0-46-amd64\n");
        let (_root, host) = host(&[old, IP6]);
        assert_eq!(parts(&left_out(&host, false))[0], Part::Base);
    }
}
