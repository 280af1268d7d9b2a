//! The server as a process: starting, refusing to start, ending.

use crate::support::{Data, Server};
use std::{
    io::Read,
    net::TcpListener,
    process::{Command, Output},
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
    for (name, says) in [
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
    for signal in ["INT", "TERM"] {
        let data = Data::new();
        let mut server = Server::start(&data);
        // An idle connection does not hold it up.
        let _idle = std::net::TcpStream::connect(&server.address).unwrap();
        let pid = server.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(sent.success());
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{signal}");
        let mut rest = String::new();
        server.stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "shutting down, answers under way are finished\n");
    }
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
