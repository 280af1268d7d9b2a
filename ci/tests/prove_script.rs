//! `ci/workflows/prove`: which ends of `nfdrop-ci prove` go on to the gate, and what is said of each.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use std::{
    env, fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command,
};

/// Prints its arguments and ends with the code that it is told.
const PROGRAM: &str = "#!/bin/sh\necho \"$@\"\nexit \"$CODE\"\n";

/// Code, stdout and stderr of the script.
fn run(folder: &Path, code: u8, variables: &[(&str, &str)]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/prove");
    let path = format!("{}:{}", folder.display(), env::var("PATH").unwrap());
    let mut command = Command::new(script);
    command.env_clear().env("PATH", path).env("CODE", code.to_string());
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("{:?}\n{}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_the_gate_judges_goes_on_and_errors_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("nfdrop-ci");
    fs::write(&program, PROGRAM).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut said = String::new();
    for code in [0, 1, 2, 3] {
        writeln!(said, "prove ends with {code}: {}", run(folder.path(), code, &[])).unwrap();
    }
    let options = [("NFDROP_WORK", "w"), ("NFDROP_PROVE_OPTIONS", "--jobs 2")];
    writeln!(said, "options: {}", run(folder.path(), 0, &options)).unwrap();
    write!(said, "left out: {}", run(folder.path(), 3, &[("NFDROP_PROVE", "no")])).unwrap();
    insta::assert_snapshot!(said, @r#"
    prove ends with 0: Some(0)
    prove --db nfdrop/new.sqlite --new

    prove ends with 1: Some(0)
    prove --db nfdrop/new.sqlite --new
    some plans are not proven (see above); the gate says what that means

    prove ends with 2: Some(0)
    prove --db nfdrop/new.sqlite --new
    a plan is contradicted by its kernel (see above); the gate says what that means

    prove ends with 3: Some(3)
    prove --db nfdrop/new.sqlite --new
    error: the proofs ended with code 3

    options: Some(0)
    prove --db w/new.sqlite --new --jobs 2

    left out: Some(0)
    NFDROP_PROVE=no: no kernel is booted
    "#);
}
