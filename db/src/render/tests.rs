use super::*;
use crate::{Record, samples};
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

#[test]
fn snapshots() {
    let (plain, conditional) = (samples::plan(), samples::conditional_plan());
    insta::assert_snapshot!("bpftrace_drop_only", bpftrace(&plain).unwrap());
    insta::assert_snapshot!("bpftrace_conditional", bpftrace(&conditional).unwrap());
    insta::assert_snapshot!("kprobe_events_drop_only", kprobe_events(&plain).unwrap());
    insta::assert_snapshot!("kprobe_events_conditional", kprobe_events(&conditional).unwrap());
    insta::assert_snapshot!("text_resolved", text(&Record::resolved(conditional)));
    let unresolved = Record::unresolved(plain.build_id, crate::Reason::NoSite, "line\none\u{1b}[m");
    insta::assert_snapshot!("text_unresolved", text(&unresolved));
}

#[test]
fn a_plan_for_a_built_in_names_no_module() {
    let mut plan = samples::plan();
    plan.object = "vmlinux".into();
    let events = kprobe_events(&plan).unwrap();
    assert!(events.contains("p:nfdrop/rule_drop_0 nft_do_chain+1022 "), "{events}");
    assert!(bpftrace(&plan).unwrap().contains("/sys/kernel/notes"));
}

#[test]
fn what_no_plan_may_say_never_gets_into_a_script() {
    let mut plan = samples::plan();
    plan.evidence.analyzer = "1\nBEGIN { system(\"id\"); }".into();
    assert!(matches!(bpftrace(&plan), Err(crate::PlanError::Invalid { field: "analyzer", .. })));
    assert!(kprobe_events(&plan).is_err());
}

/// `bpftrace -d` parses and types a script without attaching.
#[test]
#[ignore = "needs bpftrace, and root"]
fn bpftrace_accepts_the_scripts() {
    let mut wide = samples::conditional_plan();
    wide.layout.rule_handle = crate::BitField { offset: 0, shift: 0, bits: 64 };
    wide.probes[0].pkt = crate::Location { reg: Reg::Rsp, deref: Some(-8), add: Some(24) };
    for plan in [samples::plan(), samples::conditional_plan(), wide] {
        let script = bpftrace(&plan).unwrap();
        let mut command = Command::new("bpftrace");
        command.args(["-d", "-"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("bpftrace is installed");
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{said}");
    }
}
