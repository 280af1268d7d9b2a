//! The description of the server, against the server: schemathesis reads `/openapi.json`, makes up
//! questions by it and against it, and compares the answers with what is described.

use crate::support::{Data, RESOLVED, Server};
use std::{env, path::PathBuf, process::Command};

/// Where `ci/install-deps` puts it.
fn program() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = cache.or_else(home).expect("HOME or XDG_CACHE_HOME");
    cache.join("nfdrop/tools/schemathesis/bin/schemathesis")
}

#[test]
fn every_answer_is_as_it_is_described() {
    let program = program();
    if !program.exists() && env::var_os("NFDROP_OFFLINE").is_some_and(|value| value == "1") {
        return;
    }
    let data = Data::new();
    let server = Server::start(&data);
    let run = |arguments: &[&str]| {
        let output = Command::new(&program)
            .args(["run", "--no-color", "--checks", "all", "--seed", "7"])
            .args(["--generation-database", "none", "--url"])
            .arg(server.url(""))
            .args(arguments)
            .arg(server.url("/openapi.json"))
            .current_dir(data.directory.path())
            .output()
            .expect("schemathesis: run ci/install-deps");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["--max-examples", "40"]);
    // Of a build that is there.
    let settings = data.directory.path().join("schemathesis.toml");
    std::fs::write(&settings, format!("[parameters]\nhex = \"{RESOLVED}\"\n")).unwrap();
    run(&["--max-examples", "5", "--phases", "fuzzing", "--include-path-regex", "^/buildid/"]);
}
