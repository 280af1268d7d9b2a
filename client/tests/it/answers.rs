//! `plan` against nfdrop's own server: formats, ways to find the build-id, exit codes.

use crate::{
    machine::{Machine, OTHER, RUNNING, id, note},
    servers::{Server, UNRESOLVED, nobody},
};
use nfdrop_db::{render, sample};

#[tokio::test]
async fn the_running_kernels_plan_in_every_format() {
    let server = Server::real(&[RUNNING]).await;
    let record = sample::resolved(id(RUNNING));
    let plan = record.plan.clone().unwrap();
    let canonical = String::from_utf8(record.to_bytes()).unwrap();
    for (format, expected) in [
        ("text", render::text(&record)),
        ("json", canonical + "\n"),
        ("bpftrace", render::bpftrace(&plan).unwrap()),
        ("kprobe-events", render::kprobe_events(&plan).unwrap()),
    ] {
        let machine = Machine::with_module();
        let ended = machine.run(&["plan", "--server", &server.url, "--format", format]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{format}");
        assert_eq!(ended.stdout, expected, "{format}");
    }
    let ended = Machine::with_module().run(&["plan", "--server", &server.url]).await;
    insta::assert_snapshot!(ended.stdout);
}

#[tokio::test]
async fn a_trailing_slash_and_a_path_in_the_url_are_fine() {
    let server = Server::real(&[RUNNING]).await;
    let ended =
        Machine::with_module().run(&["plan", "--server", &format!("{}/", server.url)]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mirror = axum::Router::new().route(
        &format!("/static/nfdrop/buildid/{RUNNING}/plan"),
        axum::routing::get(async || sample::resolved(id(RUNNING)).to_bytes()),
    );
    let mirror = Server::routing(mirror).await;
    let url = format!("{}/static/nfdrop", mirror.url);
    let ended = Machine::with_module().run(&["plan", "--server", &url]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[tokio::test]
async fn built_in_is_told_by_kallsyms_or_by_modules_builtin() {
    let built_in = "77".repeat(20);
    let server = Server::real(&[&built_in]).await;
    let machine = Machine::new();
    machine.write("proc/kallsyms", "0000000000000000 T nft_do_chain\n");
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stdout.contains(&built_in));

    let machine = Machine::new();
    machine.remove("proc/kallsyms");
    machine.write(
        "lib/modules/6.12.117+deb13-cloud-amd64/modules.builtin",
        "kernel/net/netfilter/nf_tables.ko\n",
    );
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[tokio::test]
async fn without_nf_tables_it_says_modprobe() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::new();
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (4, ""));
    insta::assert_snapshot!(ended.stderr, @"error: nf_tables is neither loaded nor built into this kernel (6.12.117+deb13-cloud-amd64): `modprobe nf_tables`, then try again; if that fails, this kernel comes without it and has no rules to name");
    // Hidden symbols and a list without it end the same way.
    machine.remove("proc/kallsyms");
    assert_eq!(machine.run(&["plan", "--server", &server.url]).await.stderr, ended.stderr);
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_module_without_a_note_is_told_from_no_module() {
    let machine = Machine::new();
    machine.write("sys/module/nf_tables/initstate", "live\n");
    let ended = machine.run(&["plan"]).await;
    assert_eq!(ended.code, 4);
    insta::assert_snapshot!(ended.stderr, @"error: the module nf_tables is loaded, but /sys/module/nf_tables/notes/.note.gnu.build-id is not there: mount sysfs on /sys; where it is mounted, this module was built without a build-id and cannot be looked up");
    let machine = Machine::new();
    machine.write("proc/kallsyms", "0000000000000000 t nft_do_chain\t[nf_tables]\n");
    assert_eq!(machine.run(&["plan"]).await.stderr, ended.stderr);
}

#[tokio::test]
async fn broken_notes_are_said() {
    let machine = Machine::with_module();
    let path = "sys/module/nf_tables/notes/.note.gnu.build-id";
    machine.write(path, &note(b"GNU\0", 3, &[1; 20])[..30]);
    let ended = machine.run(&["plan"]).await;
    assert_eq!(ended.code, 4);
    insta::assert_snapshot!(ended.stderr, @"error: /sys/module/nf_tables/notes/.note.gnu.build-id: the ELF note at byte 0 needs 36 bytes, 30 are left: a kernel without a build-id cannot be looked up");
}

#[tokio::test]
async fn no_plan_is_2_with_the_reason() {
    let server = Server::real(&[]).await;
    let machine = Machine::with_module();
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    insta::assert_snapshot!(ended.stderr.replace(&server.url, "SERVER"), @"
    error: build 0484cf000102030405060708090a0b0c0d0e0f10 has never been seen by SERVER
    crawl the distribution where the server's database is: `nfdrop-indexer crawl --db F`, or ask another server with --server URL
    ");

    let ask = ["plan", "--server", &server.url, "--build-id", UNRESOLVED, "--format"];
    let ended = machine.run(&[&ask[..], &["json"]].concat()).await;
    assert_eq!(ended.code, 2);
    let record = String::from_utf8(sample::unresolved(id(UNRESOLVED)).to_bytes()).unwrap();
    assert_eq!(ended.stdout, record + "\n");
    insta::assert_snapshot!(ended.stderr, @"
    error: build 1111111111111111111111111111111111111111 is known, but has no plan: no_site (no set of sites sees every drop exactly once)
    only a newer nfdrop-indexer can change that
    ");
    for format in ["bpftrace", "kprobe-events"] {
        let ended = machine.run(&[&ask[..], &[format]].concat()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{format}");
    }
}

#[tokio::test]
async fn servers_are_asked_in_order_until_one_has_a_plan() {
    let (dead, empty) = (nobody().await, Server::real(&[]).await);
    let (first, second) = (Server::real(&[RUNNING]).await, Server::real(&[RUNNING]).await);
    let mut machine = Machine::with_module();
    machine.set("NFDROP_URLS", format!("{dead}  {} {} {}", empty.url, first.url, second.url));
    let ended = machine.run(&["plan"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    insta::assert_snapshot!(ended.stderr.replace(&dead, "DEAD"), @"warning: DEAD: cannot connect: Connection refused (os error 111)");
    assert_eq!((empty.requests(), first.requests(), second.requests()), (1, 1, 0));
    // --server replaces the environment.
    let machine2 = Machine::with_module();
    let ended = machine2.run(&["plan", "--server", &second.url, "--server", &first.url]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!((first.requests(), second.requests()), (1, 1));
}

#[tokio::test]
async fn an_unresolved_answer_does_not_hide_a_plan_elsewhere() {
    let unresolved = Server::real(&[]).await;
    let record = sample::resolved(id(UNRESOLVED)).to_bytes();
    let better = Server::answering(record).await;
    let arguments = ["--server", &unresolved.url, "--server", &better.url];
    let machine = Machine::with_module();
    let ended = machine.run(&[&["plan", "--build-id", UNRESOLVED], &arguments[..]].concat()).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}

#[tokio::test]
async fn nobody_to_ask_and_nobody_there_are_1() {
    let machine = Machine::with_module();
    let ended = machine.run(&["plan"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ended.stderr, @"
    error: no server to ask
    give --server URL, or set NFDROP_URLS to one or more URLs, as in NFDROP_URLS=http://127.0.0.1:7767
    ");
    let (dead, gone) = (nobody().await, nobody().await);
    let ended = machine.run(&["plan", "--server", &dead, "--server", &gone]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ended.stderr.replace(&dead, "DEAD").replace(&gone, "GONE"), @"
    error: no server answered for build 0484cf000102030405060708090a0b0c0d0e0f10
      DEAD: cannot connect: Connection refused (os error 111)
      GONE: cannot connect: Connection refused (os error 111)
    check the URLs and the network, or give a downloaded plan with --plan FILE
    ");
}

#[tokio::test]
async fn a_plan_from_a_file() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    let json = machine.run(&["plan", "--server", &server.url, "--format", "json"]).await.stdout;
    machine.write("plan.json", &json);
    machine.write("bare.json", json.trim_end());
    for file in ["plan.json", "bare.json"] {
        let path = machine.path(file);
        let ended =
            machine.run(&["plan", "--plan", path.to_str().unwrap(), "--format", "json"]).await;
        assert_eq!((ended.code, &ended.stdout), (0, &json), "{}", ended.stderr);
    }
    assert_eq!(server.requests(), 1);

    let path = machine.path("plan.json");
    let path = path.to_str().unwrap();
    let ended = machine.run(&["plan", "--plan", path, "--build-id", OTHER]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""));
    insta::assert_snapshot!(ended.stderr, @"
    error: plan of MACHINE/plan.json refused: it is of build 0484cf000102030405060708090a0b0c0d0e0f10, asked for was 9999999999999999999999999999999999999999
    a plan fits one build only and would probe the wrong instruction of another
    ");
    let ended = machine.run(&["plan", "--plan", "/nowhere/plan.json"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    insta::assert_snapshot!(ended.stderr, @"error: /nowhere/plan.json: No such file or directory (os error 2): give --plan a file with a plan as the server hands it out");
    machine.write("unresolved.json", sample::unresolved(id(RUNNING)).to_bytes());
    let path = machine.path("unresolved.json");
    assert_eq!(machine.run(&["plan", "--plan", path.to_str().unwrap()]).await.code, 2);
}
