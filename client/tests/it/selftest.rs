//! `selftest` on machines where it cannot run. Where it can, `tests/` boots them.

use crate::machine::{Ended, Machine};

const ROOT: &str = "CapEff:\t000001ffffffffff\n";

async fn refused(machine: &Machine, arguments: &[&str]) -> (i32, String) {
    let Ended { code, stdout, stderr } = machine.run(arguments).await;
    assert_eq!(stdout, "");
    (code, stderr)
}

/// A machine on which root may do everything.
fn machine() -> Machine {
    let machine = Machine::with_module();
    machine.write("proc/self/status", ROOT);
    machine
}

#[tokio::test]
async fn what_is_missing_is_4_and_says_what_to_do() {
    let plain = &["selftest"][..];
    let (code, said) = refused(&Machine::new(), plain).await;
    assert!(code == 4 && said.contains("`modprobe nf_tables`"), "{said}");

    let machine = machine();
    // What watching takes is not enough.
    machine.write("proc/self/status", "CapEff:\t000000c000000000\n");
    let (code, said) = refused(&machine, plain).await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(said, @"error: cannot run the self-test: network namespaces: cannot be made without CAP_SYS_ADMIN and CAP_NET_ADMIN -> run as root, outside of containers that take this right");

    machine.write("proc/self/status", ROOT);
    machine.write("sys/kernel/debug/kprobes/enabled", "0\n");
    let (code, said) = refused(&machine, plain).await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(said, @"error: cannot run the self-test: kprobes: switched off -> echo 1 > /sys/kernel/debug/kprobes/enabled");

    machine.write("sys/kernel/debug/kprobes/enabled", "1\n");
    machine.write("proc/self/uid_map", "0 100000 65536\n");
    let (code, said) = refused(&machine, plain).await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(said, @"error: cannot run the self-test: capabilities: CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN in a user namespace only, where they do not count -> run outside of the user namespace (rootless container)");
}

#[tokio::test]
async fn no_plan_and_no_server_are_what_they_are_elsewhere() {
    let (code, said) = refused(&machine(), &["selftest"]).await;
    assert!(code == 1 && said.starts_with("error: no server to ask"), "{said}");
    let (code, said) = refused(&machine(), &["selftest", "--plan", "/nonexistent"]).await;
    assert!(code == 1 && said.contains("/nonexistent"), "{said}");
}

#[tokio::test]
async fn a_counter_that_would_have_to_be_loaded_is_left_alone() {
    let machine = machine();
    machine.write("proc/sys/kernel/osrelease", "5.10.0-46-amd64\n");
    machine.write(
        "lib/modules/5.10.0-46-amd64/modules.dep",
        "kernel/net/netfilter/nft_counter.ko: kernel/net/netfilter/nf_tables.ko\n",
    );
    let plan = nfdrop_db::Record::resolved(nfdrop_db::sample::plan(crate::machine::id(
        crate::machine::RUNNING,
    )));
    machine.write("plan.json", plan.to_bytes());
    let file = machine.path("plan.json");
    let (code, said) = refused(&machine, &["selftest", "--plan", file.to_str().unwrap()]).await;
    assert_eq!(code, 4);
    insta::assert_snapshot!(said, @"error: cannot run the self-test: the module nft_counter is not loaded: `modprobe nft_counter`, or give --all, which loads it");
}
