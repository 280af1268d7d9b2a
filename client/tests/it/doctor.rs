//! `doctor` on machines that lack one thing or another.

use crate::{
    machine::{Machine, RUNNING},
    servers::{Server, nobody},
};
use std::io::Write;

#[tokio::test]
async fn a_machine_with_everything_is_0() {
    let server = Server::real(&[RUNNING]).await;
    let ended = Machine::with_module().run(&["doctor", "--server", &server.url]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(ended.stdout.replace(&server.url, "SERVER"), @"
    ok       kernel         6.12.117+deb13-cloud-amd64, x86_64
    ok       nf_tables      loaded as a module
    ok       build-id       0484cf000102030405060708090a0b0c0d0e0f10
    ok       server         SERVER has it: resolved
    ok       plan           2 probes, valid, from SERVER
    ok       kprobes        in the kernel, with perf events
    ok       bpf            system call in the kernel
    ok       lockdown       integrity
    ok       capabilities   CAP_BPF, CAP_PERFMON
    ok       livepatch      nft_do_chain is not replaced
    ok       sites          the instructions are the plan's

    nothing found that keeps nfdrop from attaching here
    ");
}

#[tokio::test]
async fn json_has_every_check() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    let ended = machine.run(&["doctor", "--server", &server.url, "--format", "json"]).await;
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, report["exit_code"].as_i64()), (0, Some(0)));
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    insta::assert_snapshot!(names.join(" "), @"kernel nf_tables build-id server plan kprobes bpf lockdown capabilities livepatch sites");
    assert!(checks.iter().all(|check| check["state"] == "ok" && check["todo"] == ""));
}

#[tokio::test]
async fn a_machine_with_nothing_is_4_and_says_all_of_it() {
    let machine = Machine::new();
    machine.write("proc/sys/kernel/arch", "aarch64\n");
    machine.write("proc/kallsyms", "0000000000000000 T something\n");
    machine.write("proc/self/status", "CapEff:\t0000000000000000\n");
    machine.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n");
    let server = Server::real(&[RUNNING]).await;
    let ended = machine.run(&["doctor", "--server", &server.url]).await;
    assert_eq!(ended.code, 4);
    insta::assert_snapshot!(ended.stdout.replace(&server.url, "SERVER"), @"
    missing  kernel         6.12.117+deb13-cloud-amd64, aarch64
                            -> plans exist for x86_64 only
    missing  nf_tables      neither loaded nor built in
                            -> modprobe nf_tables; if that fails, this kernel comes without it
    unknown  build-id       not known while nf_tables is not there
    ok       server         SERVER answers
    missing  plan           cannot be asked for without a build-id
    missing  kprobes        compiled out of this kernel
                            -> use a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y
    missing  bpf            compiled out of this kernel
                            -> use a kernel with CONFIG_BPF_SYSCALL=y
    missing  lockdown       confidentiality, which refuses BPF the kernel's memory
                            -> boot with lockdown=integrity or without lockdown
    missing  capabilities   without CAP_BPF and CAP_PERFMON
                            -> run as root, or `setcap cap_bpf,cap_perfmon+ep` on the nfdrop-client binary
    ok       livepatch      nft_do_chain is not replaced

    nfdrop cannot attach here, missing: kernel, nf_tables, plan, kprobes, bpf, lockdown, capabilities
    ");
}

#[tokio::test]
async fn what_cannot_be_seen_is_unknown_and_no_obstacle() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    for file in [
        "proc/kallsyms",
        "proc/self/status",
        "sys/kernel/security/lockdown",
        "proc/sys/kernel/osrelease",
    ] {
        machine.remove(file);
    }
    let ended = machine.run(&["doctor", "--server", &server.url]).await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!(ended.stdout.replace(&server.url, "SERVER"), @"
    ok       kernel         release unknown, x86_64
    ok       nf_tables      loaded as a module
    ok       build-id       0484cf000102030405060708090a0b0c0d0e0f10
    ok       server         SERVER has it: resolved
    ok       plan           2 probes, valid, from SERVER
    unknown  kprobes        neither /proc/kallsyms nor the configuration can be read
    unknown  bpf            neither /proc/kallsyms nor the configuration can be read
    unknown  lockdown       /sys/kernel/security cannot be read
                            -> mount -t securityfs none /sys/kernel/security
    unknown  capabilities   /proc/self/status does not tell
                            -> mount proc on /proc
    ok       livepatch      nft_do_chain is not replaced
    unknown  sites          neither /sys/kernel/debug/kprobes/list nor /proc/kallsyms tells addresses to this user

    nothing found that keeps nfdrop from attaching here
    ");
}

/// The lines of one check.
async fn check(machine: &Machine, name: &str) -> (i32, String) {
    let ended = machine.run(&["doctor", "--format", "json", "--build-id", RUNNING]).await;
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name).unwrap();
    let text = |key: &str| check[key].as_str().unwrap().to_owned();
    (ended.code, format!("{} | {} | {}", text("state"), text("found"), text("todo")))
}

fn config(options: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(options.as_bytes()).unwrap();
    packed.finish().unwrap()
}

#[tokio::test]
async fn kprobes() {
    let machine = Machine::with_module();
    machine.write("sys/kernel/debug/kprobes/enabled", "0\n");
    insta::assert_snapshot!(check(&machine, "kprobes").await.1, @"missing | switched off | echo 1 > /sys/kernel/debug/kprobes/enabled");
    machine.write("sys/kernel/debug/kprobes/enabled", "1\n");
    assert!(check(&machine, "kprobes").await.1.starts_with("ok"));
    std::fs::remove_dir_all(machine.path("sys/bus/event_source/devices/kprobe")).unwrap();
    let (code, line) = check(&machine, "kprobes").await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(line, @"missing | in the kernel, but without kprobe events | use a kernel with CONFIG_KPROBE_EVENTS=y");
    machine.remove("proc/kallsyms");
    machine.write("boot/config-6.12.117+deb13-cloud-amd64", "# CONFIG_KPROBES is not set\n");
    let (code, line) = check(&machine, "kprobes").await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(line, @"missing | compiled out of this kernel | use a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y");
}

#[tokio::test]
async fn bpf() {
    let machine = Machine::with_module();
    machine.write("proc/config.gz", config("CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS=y\n"));
    insta::assert_snapshot!(check(&machine, "bpf").await.1, @"ok | system call and kprobe programs in the kernel |");
    machine.write("proc/config.gz", config("CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS_X=y\n"));
    let (code, line) = check(&machine, "bpf").await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(line, @"missing | not configured: CONFIG_BPF_EVENTS | use a kernel with CONFIG_BPF_EVENTS=y");
    machine.write("proc/config.gz", "not gzip");
    assert!(check(&machine, "bpf").await.1.starts_with("ok"));
}

#[tokio::test]
async fn capabilities() {
    let machine = Machine::with_module();
    for (effective, expected) in [
        ("0000000000200000", "ok | CAP_SYS_ADMIN | "),
        ("000000c000200000", "ok | CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN | "),
        (
            "0000008000000000",
            "missing | without CAP_PERFMON | run as root, or `setcap cap_bpf,cap_perfmon+ep` on \
             the nfdrop-client binary",
        ),
        ("nonsense", "unknown | /proc/self/status does not tell | mount proc on /proc"),
    ] {
        machine.write("proc/self/status", format!("CapPrm:\tff\nCapEff:\t{effective}\n"));
        assert_eq!(check(&machine, "capabilities").await.1, expected);
    }
    machine.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
    machine.write("proc/self/uid_map", "0 1000 1\n");
    let (code, line) = check(&machine, "capabilities").await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(line, @"missing | CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN in a user namespace only, where they do not count | run outside of the user namespace (rootless container)");
}

#[tokio::test]
async fn perf_events_of_distributions() {
    let machine = Machine::with_module();
    machine.write("proc/sys/kernel/perf_event_paranoid", "3\n");
    let (_, line) = check(&machine, "perf events").await;
    insta::assert_snapshot!(line, @"unknown | kernel.perf_event_paranoid is 3: kernels of Debian and Ubuntu want CAP_SYS_ADMIN then | sysctl kernel.perf_event_paranoid=2, or run as root");
    // The line is left out where nothing is in the way.
    machine.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
    let ended = machine.run(&["doctor"]).await;
    assert!(!ended.stdout.contains("perf_event_paranoid"), "{}", ended.stdout);
    machine.write("proc/self/status", "CapEff:\t000000c000000000\n");
    machine.write("proc/sys/kernel/perf_event_paranoid", "2\n");
    let ended = machine.run(&["doctor"]).await;
    assert!(!ended.stdout.contains("perf_event_paranoid"), "{}", ended.stdout);
}

#[tokio::test]
async fn lockdown() {
    let machine = Machine::with_module();
    machine.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
    assert_eq!(check(&machine, "lockdown").await.1, "ok | none | ");
    machine.remove("sys/kernel/security/lockdown");
    machine.write("sys/kernel/security/lsm", "capability\n");
    assert_eq!(check(&machine, "lockdown").await.1, "ok | not in this kernel | ");
}

#[tokio::test]
async fn livepatch() {
    let machine = Machine::with_module();
    let patch = "sys/kernel/livepatch/kpatch_1";
    machine.write(&format!("{patch}/enabled"), "1\n");
    machine.write(&format!("{patch}/nf_tables/nf_tables_newrule,1/x"), "");
    machine.write(&format!("{patch}/vmlinux/nft_do_chain,1/x"), "");
    assert!(check(&machine, "livepatch").await.1.starts_with("ok"));
    machine.write(&format!("{patch}/nf_tables/nft_do_chain,1/x"), "");
    let (code, line) = check(&machine, "livepatch").await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(line, @"missing | kpatch_1 replaces nft_do_chain | boot a kernel that has the fix built in, whose build-id tells so");
    machine.write(&format!("{patch}/enabled"), "0\n");
    assert!(check(&machine, "livepatch").await.1.starts_with("ok"));
}

#[tokio::test]
async fn no_plan_is_2_refused_3_and_silence_1() {
    let machine = Machine::with_module();
    let (empty, bad) = (Server::real(&[]).await, Server::answering("garbage").await);
    let dead = nobody().await;
    for (url, code) in [(&empty.url, 2), (&bad.url, 3), (&dead, 1)] {
        let ended = machine.run(&["doctor", "--server", url]).await;
        assert_eq!(ended.code, code, "{}", ended.stdout);
    }
    let ended = machine.run(&["doctor", "--server", &dead, "--server", &empty.url]).await;
    assert_eq!(ended.code, 2);
    let shown = ended.stdout.replace(&dead, "DEAD").replace(&empty.url, "EMPTY");
    insta::assert_snapshot!(shown, @"
    ok       kernel         6.12.117+deb13-cloud-amd64, x86_64
    ok       nf_tables      loaded as a module
    ok       build-id       0484cf000102030405060708090a0b0c0d0e0f10
    missing  server         DEAD: cannot connect: Connection refused (os error 111)
                            -> check URL and network
    ok       server         EMPTY has never seen this build
    missing  plan           build 0484cf000102030405060708090a0b0c0d0e0f10 has never been seen by EMPTY
                            -> crawl the distribution where the server's database is: `nfdrop-indexer crawl --db F`, or ask another server with --server URL
    ok       kprobes        in the kernel, with perf events
    ok       bpf            system call in the kernel
    ok       lockdown       integrity
    ok       capabilities   CAP_BPF, CAP_PERFMON
    ok       livepatch      nft_do_chain is not replaced

    nfdrop cannot attach here, missing: server, plan
    ");
    // A plan kept from before needs no server.
    let server = Server::real(&[RUNNING]).await;
    assert_eq!(machine.run(&["plan", "--server", &server.url]).await.code, 0);
    let ended = machine.run(&["doctor", "--server", &dead]).await;
    assert_eq!(ended.code, 0, "{}", ended.stdout);
    assert!(ended.stdout.contains(&format!("missing  server         {dead}: cannot connect")));
}

#[tokio::test]
async fn instructions_that_are_not_the_plans_are_3() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    machine.write_function(|function| function.fill(0x90));
    let ended = machine.run(&["doctor", "--server", &server.url]).await;
    assert_eq!(ended.code, 3, "{}", ended.stdout);
    assert!(
        ended.stdout.contains("missing  sites          at nft_do_chain+0x"),
        "{}",
        ended.stdout
    );
    assert!(ended.stdout.contains("found 90909090"), "{}", ended.stdout);
}
