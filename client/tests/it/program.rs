//! The program itself: help, wrong arguments and settings.

use crate::machine::Machine;

#[tokio::test]
async fn without_a_command_it_says_what_there_is() {
    let ended = Machine::new().run(&[]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ended.stderr, @"
    Names the nftables rule behind every dropped packet

    Usage: nfdrop-client [COMMAND]

    Commands:
      plan         Show the attach plan of the running kernel
      doctor       Check what attaching needs, without attaching
      completions  Write a completion script for a shell
      man          Write the man page, of the program or of one of its commands
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Examples:
      nfdrop-client plan --server http://127.0.0.1:7767
      NFDROP_URLS='https://plans.example http://127.0.0.1:7767' nfdrop-client doctor

    Environment:
      NFDROP_URLS        servers to ask, in order, separated by spaces
      NFDROP_CACHE_PATH  where answers are kept [default: $XDG_CACHE_HOME/nfdrop or ~/.cache/nfdrop]
      NFDROP_TIMEOUT     seconds for one server's answer [default: 10]

    Exit codes:
      0 done   1 other errors   2 no plan for this kernel   3 plan refused   4 cannot attach

    attaching is not in this version yet: use `plan` to get this kernel's plan, or `doctor` to see whether it could be attached
    ");
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
        (&["man"], ".TH nfdrop-client 1"),
        (&["man", "plan"], "kprobe"),
        (&["completions", "bash"], "complete -F"),
        (&["completions", "fish"], "complete -c nfdrop-client"),
    ] {
        let ended = machine.run(arguments).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(ended.stdout.contains(says), "{arguments:?}: {}", ended.stdout);
        // Completion scripts have it all the same: clap_complete does not know hidden options.
        let hidden = ended.stdout.contains("--root") && arguments[0] != "completions";
        assert!(!hidden, "{arguments:?} shows what is for tests");
    }
}
