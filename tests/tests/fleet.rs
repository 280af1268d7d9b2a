//! The handbook's rehearsal, as it is written: two network namespaces as hosts, one of which serves, and a
//! guest with a Debian kernel in the other, which fetches its plan and attaches. The commands are read from
//! docs/src/fleet.md, so a step that is missing there is missing here.
//!
//! Set `NFDROP_OFFLINE` to leave it out; without QEMU, or where no namespaces can be made, it is left out
//! too. All are said. `NFDROP_CLIENT` names a client that is built already.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_tests::{
    handbook::{self, Page},
    programs,
    vm::{client, machine},
};
use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// What it runs in: its namespaces are its own, and gone with it.
fn apart() -> Command {
    let mut command = Command::new("unshare");
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c"]);
    command
}

/// Names of namespaces are files below `/run/netns`, and `/proc` is that of this tree of processes.
const ALONE: &str = "mount -t tmpfs tmpfs /run && mount -t proc proc /proc && ";

fn why_not() -> Option<String> {
    if env::var_os("NFDROP_OFFLINE").is_some() {
        return Some("NFDROP_OFFLINE is set".to_owned());
    }
    if !machine::is_there() {
        return Some("there is no qemu-system-x86_64".to_owned());
    }
    let probe = "ip netns add probe && ip -n probe tuntap add tap0 mode tap && \
                 ip -n probe link add br0 type bridge && command -v bsdtar apt-get >/dev/null";
    let tried = apart().arg(format!("{ALONE}{probe}")).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("namespaces, a bridge and a tap device cannot be made: {}", said.trim()))
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

#[test]
fn two_namespaces_are_a_fleet() {
    if let Some(why) = why_not() {
        println!("{why}: not run");
        return;
    }
    let page = Page::read("docs/src/fleet.md").unwrap();
    let blocks = page.blocks_behind("## A rehearsal on one machine");
    let commands = |kind: &str| -> String {
        blocks.iter().filter(|block| block.kind == kind).map(|block| block.text.as_str()).collect()
    };
    let work = tempfile::tempdir().unwrap();
    let programs = work.path().join("programs");
    fs::create_dir(&programs).unwrap();
    for name in ["nfdrop-indexer", "nfdrop-server"] {
        std::os::unix::fs::symlink(programs::directory().unwrap().join(name), programs.join(name))
            .unwrap();
    }
    // As it is handed out: the guest has no libraries for another one.
    let client = programs.join("nfdrop-client");
    fs::write(&client, client::read().unwrap()).unwrap();
    fs::set_permissions(&client, fs::Permissions::from_mode(0o755)).unwrap();
    let rehearsal = work.path().join("rehearsal");
    fs::write(&rehearsal, commands("sh,guest")).unwrap();

    let path = env::var("PATH").unwrap_or_default();
    let mut run = apart();
    run.arg(format!("{ALONE}set -euo pipefail\n{}", commands("sh")));
    run.current_dir(handbook::root());
    run.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
    run.env("rehearsal", &rehearsal);
    // Plans that an earlier run has fetched are not fetched again.
    run.env("NFDROP_CACHE_PATH", work.path().join("cache"));
    let cache = nfdrop_indexer::fetch::default_cache().unwrap();
    let packages = work.path().join("cache/packages");
    fs::create_dir_all(packages.parent().unwrap()).unwrap();
    if cache.join("packages").is_dir() {
        std::os::unix::fs::symlink(cache.join("packages"), packages).unwrap();
    }
    let output = work.path().join("output");
    let file = fs::File::create(&output).unwrap();
    run.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let begun = Instant::now();
    let status = run.status().unwrap();
    let said = said(&output);
    println!("{said}\n{status}, {:.1?}", begun.elapsed());
    assert!(status.success());
    holds(&said);
}

fn said(output: &Path) -> String {
    String::from_utf8_lossy(&fs::read(output).unwrap()).replace('\r', "")
}

/// What the page says will be seen.
fn holds(said: &str) {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let count = |wanted: &dyn Fn(&str) -> bool| lines.iter().filter(|line| wanted(line)).count();
    let has = |words: &[&str]| {
        let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}");
    };
    has(&["listening on http://10.77.0.1:7767"]);
    has(&["1 of 1 hosts are covered"]);
    has(&["nothing found that keeps nfdrop from attaching here"]);
    has(&["attached: rule_drop", "policy_drop", "http://10.77.0.1:7767"]);
    // On a busy machine listing the ruleset may take longer than a drop waits for its name.
    has(&[" drop ", "inet filter input", "handle 8 ", "udp 10.77.0.1:", "10.77.0.2:514"]);
    has(&["inet filter input", "handle 6 ", "tcp 10.77.0.1:", "10.77.0.2:23"]);
    has(&[" policy ", "inet filter input", "udp 10.77.0.1:", "10.77.0.2:9"]);
    has(&["tcp dport 23 reject with tcp reset # handle 6"]);
    has(&["counter packets", "drop # handle 8"]);
    has(&["summary: ", "6 printed", "0 lost in the ring", "0 missed by the kprobes"]);
    has(&["nfdrop_drops_total{family=\"inet\",table=\"filter\",chain=\"noise\""]);
    has(&["\"chain\":\"noise\"", "\"handle\":8,", "\"rule\":\"counter drop\""]);
    has(&["refused", "other.pub"]);
    assert_eq!(count(&|line| line == "exit code 0"), 3, "doctor, six drops, the service");
    assert_eq!(count(&|line| line == "exit code 3"), 1, "the other key");
    assert_eq!(count(&|line| line.contains("  nft_do_chain+")), 0, "a probe is left");
}
