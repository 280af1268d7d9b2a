//! The server as a process: starting, refusing to start, ending.

use crate::support::{Data, RESOLVED, Server};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nfdrop-server")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn wrong_databases_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("text"), "not a database, but longer than a header of one".repeat(10))
        .unwrap();
    let foreign = rusqlite::Connection::open(path("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE builds (a); PRAGMA application_id = 7").unwrap();
    for (name, version) in [("newer", 99), ("older", 2)] {
        let data = Data::new();
        let path = path(name);
        if version == 99 {
            // Into the file itself.
            assert!(data.store.finish().unwrap());
            std::fs::copy(data.path(), &path).unwrap();
            let newer = rusqlite::Connection::open(&path).unwrap();
            newer.pragma_update(None, "user_version", 99).unwrap();
        } else {
            data.store.write_older(&path, version);
        }
    }
    for (name, says) in [
        (
            "newer",
            "has schema 99, this program reads 5: it is newer than this program; take a newer",
        ),
        ("older", "has schema 2, this program reads 5: run `nfdrop-indexer db migrate --db "),
        ("missing", "cannot open the database"),
        ("text", "is not a database"),
        ("foreign", "is a database, but not nfdrop's"),
    ] {
        let output = run(&["--db", &path(name), "--listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let text = stderr(&output);
        assert!(text.starts_with("error: ") && text.contains(says), "{name}: {text}");
        assert!(!text.contains("listening"), "{name}: {text}");
    }
    assert!(!std::fs::exists(path("missing")).unwrap());
}

#[test]
fn a_taken_port_is_said() {
    let data = Data::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--db", data.path().to_str().unwrap(), "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output).replace(&address, "ADDRESS");
    insta::assert_snapshot!(text, @"error: cannot listen on ADDRESS: choose another address with --listen: Address already in use (os error 98)");
}

#[test]
fn signals_end_it_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let data = Data::new();
        let mut server = Server::start(&data);
        // An idle connection does not hold it up.
        let _idle = std::net::TcpStream::connect(&server.address).unwrap();
        kill_process(Pid::from_child(&server.child), signal).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{signal:?}");
        let mut rest = String::new();
        server.stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "shutting down, answers under way are finished\n");
    }
}

#[test]
fn a_kill_changes_nothing_and_the_next_one_serves() {
    let data = Data::new();
    let content = data.store.content_dump().unwrap();
    // What was written is in the file itself.
    assert!(data.store.finish().unwrap());
    let before = std::fs::read(data.path()).unwrap();
    for _ in 0..5 {
        let server = Server::start(&data);
        let answered = AtomicUsize::new(0);
        let ask = |path: &str| -> Option<String> {
            let mut stream = TcpStream::connect(&server.address).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        };
        std::thread::scope(|scope| {
            for path in [format!("/buildid/{RESOLVED}/plan"), "/v1/kernels".to_owned()] {
                let (ask, answered) = (&ask, &answered);
                scope.spawn(move || {
                    // Until it is gone.
                    while let Some(answer) = ask(&path) {
                        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            while answered.load(Ordering::SeqCst) < 200 {
                std::thread::yield_now();
            }
            kill_process(Pid::from_child(&server.child), Signal::KILL).unwrap();
        });
    }
    assert_eq!(std::fs::read(data.path()).unwrap(), before);
    assert_eq!(data.store.check().unwrap(), Vec::<String>::new());
    assert_eq!(data.store.content_dump().unwrap(), content);
}

#[test]
fn help_man_page_and_completions_are_data() {
    for (arguments, says) in [
        (vec!["--help"], "nfdrop-server --db kernels.sqlite"),
        (vec!["man"], ".TH nfdrop-server 1"),
        (vec!["completions", "bash"], "complete -F"),
        (vec!["completions", "zsh"], "#compdef nfdrop-server"),
    ] {
        let output = run(&arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}
