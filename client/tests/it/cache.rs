//! What is kept, for how long, and what is not believed.

use crate::{
    machine::{Machine, OTHER, RUNNING, id},
    servers::{Server, UNRESOLVED, nobody},
};
use nfdrop_db::{Condition, Location, Reg, sample};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

fn plan_file(machine: &Machine) -> std::path::PathBuf {
    machine.cache(&format!("{RUNNING}.json"))
}

fn misses_file(machine: &Machine, build: &str) -> std::path::PathBuf {
    machine.cache(&format!("{build}.misses.json"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_plan_is_kept_for_good() {
    let server = Server::real(&[RUNNING]).await;
    let machine = Machine::with_module();
    let first = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!((first.code, server.requests()), (0, 1));
    assert_eq!(fs::read(plan_file(&machine)).unwrap(), sample::resolved(id(RUNNING)).to_bytes());
    // With the server, without it, and without any.
    let dead = nobody().await;
    for arguments in
        [&["plan", "--server", &server.url][..], &["plan", "--server", &dead], &["plan"]]
    {
        let again = machine.run(arguments).await;
        assert_eq!((again.code, &again.stdout), (0, &first.stdout));
    }
    assert_eq!(server.requests(), 1);
    // Written aside and renamed: nothing is left over.
    assert_eq!(fs::read_dir(machine.path("cache")).unwrap().count(), 1);
}

/// A plan of analyzer 0.1.0 with a condition on memory behind a register.
fn withdrawn() -> Vec<u8> {
    let mut record = sample::resolved(id(RUNNING));
    let plan = record.plan.as_mut().unwrap();
    let value = Location::memory(Reg::Rax, -16);
    plan.probes[1].when = vec![Condition { value, mask: 0xff, equals: 0 }];
    record.to_bytes()
}

#[tokio::test]
async fn a_withdrawn_plan_is_refused_wherever_it_comes_from() {
    let machine = Machine::with_module();
    machine.write("plan", withdrawn());
    let file = machine.path("plan");
    let given = machine.run(&["--plan", file.to_str().unwrap()]).await;
    assert_eq!(given.code, 3, "{}", given.stderr);
    assert!(
        given.stderr.contains("refused: the plan was withdrawn on 2026-12-01: "),
        "{}",
        given.stderr
    );
    // From the cache, which forgets it.
    machine.write(&format!("cache/{RUNNING}.json"), withdrawn());
    let cached = machine.run(&["plan"]).await;
    assert_eq!(cached.code, 3, "{}", cached.stderr);
    assert!(cached.stderr.contains("withdrawn on 2026-12-01"), "{}", cached.stderr);
    assert!(!plan_file(&machine).exists());
    // A server that has no other.
    machine.write(&format!("cache/{RUNNING}.json"), withdrawn());
    let server = Server::real(&[]).await;
    let ask = ["plan", "--server", &server.url];
    assert_eq!(machine.run(&ask).await.code, 3);
    // Where there is another one it is taken.
    machine.write(&format!("cache/{RUNNING}.json"), withdrawn());
    let server = Server::real(&[RUNNING]).await;
    let another = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(another.code, 0, "{}", another.stderr);
    assert!(another.stderr.contains("withdrawn on 2026-12-01"), "{}", another.stderr);
    assert_eq!(fs::read(plan_file(&machine)).unwrap(), sample::resolved(id(RUNNING)).to_bytes());
}

#[tokio::test]
async fn a_plan_that_was_contradicted_here_is_not_taken_again() {
    let machine = Machine::with_module();
    let server = Server::real(&[RUNNING]).await;
    let bytes = sample::resolved(id(RUNNING)).to_bytes();
    machine.write(&format!("cache/{RUNNING}.contradicted"), &bytes);
    let same = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(same.code, 3, "{}", same.stderr);
    assert!(same.stderr.contains("it was contradicted on this host"), "{}", same.stderr);
    // Other bytes are another plan.
    machine.write(&format!("cache/{RUNNING}.contradicted"), b"another");
    assert_eq!(machine.run(&["plan", "--server", &server.url]).await.code, 0);
}

#[tokio::test]
async fn a_miss_is_kept_for_ten_minutes() {
    let server = Server::real(&[]).await;
    let machine = Machine::with_module();
    let ask = ["plan", "--server", &server.url];
    let first = machine.run(&ask).await;
    let second = machine.run(&ask).await;
    assert_eq!((first.code, second.code, server.requests()), (2, 2, 1));
    assert_eq!(first.stderr, second.stderr);
    for (age, requests) in [(540_i64, 1), (660, 2), (-100, 3)] {
        let at = now().saturating_add_signed(-age);
        let misses = format!(r#"{{"{}":{{"at":{at},"record":null}}}}"#, server.url);
        fs::write(misses_file(&machine, RUNNING), misses).unwrap();
        assert_eq!(machine.run(&ask).await.code, 2);
        assert_eq!(server.requests(), requests, "{age} s old");
    }
}

#[tokio::test]
async fn an_unresolved_record_is_kept_as_long_as_a_miss() {
    let server = Server::real(&[]).await;
    let machine = Machine::with_module();
    let ask = ["plan", "--server", &server.url, "--build-id", UNRESOLVED, "--format", "json"];
    let first = machine.run(&ask).await;
    let second = machine.run(&ask).await;
    assert_eq!((first.code, second.code, server.requests()), (2, 2, 1));
    assert_eq!((first.stdout, first.stderr), (second.stdout, second.stderr));
    let file = misses_file(&machine, UNRESOLVED);
    let old = fs::read_to_string(&file).unwrap().replace(r#""at":1"#, r#""at":0"#);
    fs::write(&file, old).unwrap();
    machine.run(&ask).await;
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_miss_counts_for_its_server_only() {
    let (without, with) = (Server::real(&[]).await, Server::real(&[RUNNING]).await);
    let machine = Machine::with_module();
    assert_eq!(machine.run(&["plan", "--server", &without.url]).await.code, 2);
    let both = ["plan", "--server", &without.url, "--server", &with.url];
    assert_eq!(machine.run(&both).await.code, 0);
    assert_eq!((without.requests(), with.requests()), (1, 1));
    // The plan makes the misses pointless.
    assert!(!misses_file(&machine, RUNNING).exists());
}

#[tokio::test]
async fn silence_is_no_miss() {
    let machine = Machine::with_module();
    assert_eq!(machine.run(&["plan", "--server", &nobody().await]).await.code, 1);
    assert!(!misses_file(&machine, RUNNING).exists());
}

#[tokio::test]
async fn a_corrupt_file_is_dropped_and_fetched_anew() {
    let server = Server::real(&[RUNNING]).await;
    let good = sample::resolved(id(RUNNING)).to_bytes();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (requests, bad) in [
        &b""[..],
        b"garbage",
        &good[..good.len() - 1],
        &flipped,
        &sample::resolved(id(OTHER)).to_bytes(),
        &sample::unresolved(id(RUNNING)).to_bytes(),
        &vec![b' '; 300_000],
    ]
    .into_iter()
    .enumerate()
    {
        let machine = Machine::with_module();
        machine.write(&format!("cache/{RUNNING}.json"), bad);
        let ended = machine.run(&["plan", "--server", &server.url]).await;
        assert_eq!((ended.code, server.requests()), (0, requests + 1), "{}", ended.stderr);
        assert_eq!(fs::read(plan_file(&machine)).unwrap(), good);
        // Nobody to ask: still never shown, and gone.
        machine.write(&format!("cache/{RUNNING}.json"), bad);
        assert_eq!(machine.run(&["plan"]).await.code, 1);
        assert!(!plan_file(&machine).exists());
    }
    let machine = Machine::with_module();
    for bad in [&b"garbage"[..], b"{\"http://a\":{\"at\":-1}}", &vec![b' '; 2_000_000]] {
        machine.write(&format!("cache/{OTHER}.misses.json"), bad);
        let ask = ["plan", "--server", &server.url, "--build-id", OTHER];
        assert_eq!(machine.run(&ask).await.code, 2);
        let kept = fs::read(misses_file(&machine, OTHER)).unwrap();
        assert!(kept.starts_with(format!("{{\"{}\"", server.url).as_bytes()));
    }
}

#[tokio::test]
async fn without_a_place_to_keep_it_the_plan_still_comes() {
    let server = Server::real(&[RUNNING]).await;
    let mut machine = Machine::with_module();
    machine.write("file", "");
    let place = machine.path("file").join("below").to_str().unwrap().to_owned();
    machine.set("NFDROP_CACHE_PATH", place);
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!(ended.stderr, @"warning: the answer is not kept in MACHINE/file/below: Not a directory (os error 20); set NFDROP_CACHE_PATH to a directory that can be written");
    // No directory at all is no reason to complain.
    machine.set("NFDROP_CACHE_PATH", "");
    let ended = machine.run(&["plan", "--server", &server.url]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn the_default_place_follows_xdg() {
    let server = Server::real(&[RUNNING]).await;
    for (variable, directory, expected) in
        [("XDG_CACHE_HOME", "xdg", "xdg/nfdrop"), ("HOME", "home", "home/.cache/nfdrop")]
    {
        let mut machine = Machine::with_module();
        machine.set("NFDROP_CACHE_PATH", "");
        machine.set(variable, machine.path(directory).to_str().unwrap());
        assert_eq!(machine.run(&["plan", "--server", &server.url]).await.code, 0);
        assert!(machine.path(expected).join(format!("{RUNNING}.json")).exists(), "{variable}");
    }
}
