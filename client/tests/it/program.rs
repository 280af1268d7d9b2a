//! The program itself: help, wrong arguments and settings.

use crate::machine::{Machine, RUNNING};

#[tokio::test]
async fn without_a_command_it_wants_a_plan_to_attach() {
    let ended = Machine::with_module().run(&[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ended.stderr, @"
    error: no server to ask
    give --server URL, or set NFDROP_URLS to one or more URLs, as in NFDROP_URLS=http://127.0.0.1:7767
    ");
    let ended = Machine::new().run(&["--server", "http://127.0.0.1:1"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (4, ""));
    assert!(ended.stderr.contains("modprobe nf_tables"), "{}", ended.stderr);
}

#[tokio::test]
async fn wrong_arguments_and_settings_are_1() {
    // 2 would mean "no plan for this kernel".
    let machine = Machine::with_module();
    for arguments in [
        &["attach"][..],
        &["plan", "--format", "xml"],
        &["plan", "--build-id", "0484CF00"],
        &["plan", "--server", "file:///etc/passwd"],
        &["plan", "--server", "http://127.0.0.1:1", "--plan", "x"],
        &["man", "nonsense"],
        &["--aggregate", "--format", "pcapng"],
        &["--aggregate", "--address", "192.0.2.1"],
        &["top", "--address", "192.0.2.1"],
        &["--build-id", RUNNING],
        &["--count", "0"],
        &["--duration", "soon"],
        &["--duration", "99999999999999999999h"],
    ] {
        let ended = machine.run(arguments).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(ended.stderr.starts_with("error: "), "{arguments:?}: {}", ended.stderr);
    }
    for (variable, value) in
        [("NFDROP_TIMEOUT", "soon"), ("NFDROP_TIMEOUT", "0"), ("NFDROP_URLS", "plans.example")]
    {
        let mut machine = Machine::with_module();
        machine.set(variable, value);
        let ended = machine.run(&["plan"]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{variable}={value}");
        assert!(ended.stderr.starts_with(&format!("error: {variable}: ")), "{}", ended.stderr);
    }
    let mut machine = Machine::with_module();
    machine.set("NFDROP_URLS", "http://127.0.0.1:1 plans.example:80");
    insta::assert_snapshot!(machine.run(&["plan"]).await.stderr, @r#"error: NFDROP_URLS: "plans.example:80" is not a server's URL (scheme plans.example): give http:// or https:// with a host and no query, as in http://127.0.0.1:7767"#);
}

#[tokio::test]
async fn help_man_pages_and_completions_are_data() {
    let machine = Machine::new();
    for (arguments, says) in [
        (&["--help"][..], "NFDROP_CACHE_PATH"),
        (&["plan", "--help"], "nfdrop-client plan --build-id"),
        (&["doctor", "--help"], "Nothing is attached or changed"),
        (&["selftest", "--help"], "0 the plan holds"),
        (&["man"], ".TH nfdrop-client 1"),
        (&["man", "plan"], "kprobe"),
        (&["completions", "bash"], "complete -F"),
        (&["completions", "fish"], "complete -c nfdrop-client"),
    ] {
        let ended = machine.run(arguments).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(ended.stdout.contains(says), "{arguments:?}: {}", ended.stdout);
        // Completion scripts have it all the same: clap_complete does not know hidden options.
        let hidden = ["--root", "--alone"].iter().any(|option| ended.stdout.contains(option))
            && arguments[0] != "completions";
        assert!(!hidden, "{arguments:?} shows what is for tests");
    }
}
