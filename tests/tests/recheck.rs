//! Every plan of the corpus is checked by a second machine that shares no code with the resolver:
//! `tests/recheck`, a script that runs the functions in another emulator.
//!
//! `NFDROP_EXTRACTS` names a directory with further extracts; `make recheck` passes it on.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]
#![expect(clippy::print_stdout, reason = "what was checked, and what not, is said")]

use nfdrop_db::{BuildId, Plan, Probe, Record};
use nfdrop_resolver::image::{Function, extract};
use nfdrop_tests::{Extract, corpus, record, variants};
use rayon::prelude::*;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Those of which there is no plan, or that the script has no means to run, and why.
const NOT_CHECKED: [(&str, &str); 1] =
    [("6.12.117-clang-19-lto-full-cfi", "unresolved: what expressions do is inlined")];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recheck/recheck.py")
}

/// The interpreter that has unicorn, where `ci/install-deps test` has put it.
fn python() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    let python = cache.join("nfdrop/tools/unicorn/bin/python");
    let works = Command::new(&python).args(["-c", "import unicorn"]).output();
    works.is_ok_and(|output| output.status.success()).then_some(python)
}

fn some_id() -> BuildId {
    BuildId::from_bytes(&[0; 20]).unwrap()
}

/// Checks these records; the script's lines by name, and its exit code.
fn recheck(
    python: &Path,
    folder: &Path,
    all: &[(Extract, Record)],
) -> (BTreeMap<String, String>, i32) {
    let mut command = Command::new(python);
    command.arg(script());
    for (number, (Extract { name, function }, record)) in all.iter().enumerate() {
        let path = |what: &str| folder.join(format!("{number}/{name}.{what}"));
        fs::create_dir_all(folder.join(number.to_string())).unwrap();
        fs::write(path("extract"), extract::to_json(function)).unwrap();
        fs::write(path("record"), record.to_bytes()).unwrap();
        command.args([path("extract"), path("record")]);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    println!("{text}{}", String::from_utf8_lossy(&stderr));
    let line = |line: &str| {
        let (before, says) = line.split_once(": ")?;
        let (result, name) = before.rsplit_once(' ')?;
        Some((name.to_owned(), format!("{}: {says}", result.trim_end())))
    };
    (text.lines().filter_map(line).collect(), status.code().unwrap())
}

/// Without the tool there is nothing to do: said, and only where it may be missing.
fn with_python(test: impl FnOnce(&Path)) {
    match python() {
        Some(python) => test(&python),
        None => println!("there is no unicorn; `ci/install-deps test` installs it: not run"),
    }
}

#[test]
fn every_plan_holds_on_a_second_machine() {
    with_python(|python| {
        let mut extracts = corpus().unwrap();
        extracts.extend(variants().unwrap());
        if let Some(folder) = env::var_os("NFDROP_EXTRACTS") {
            extracts.extend(nfdrop_tests::extracts(Path::new(&folder)).unwrap());
        }
        let all: Vec<_> = extracts
            .into_par_iter()
            .map(|extract| {
                let record = record(&extract.function, &some_id());
                (extract, record)
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let (lines, code) = recheck(python, folder.path(), &all);
        assert_eq!(lines.len(), all.len(), "a line for each");
        let is_listed = |name: &str| NOT_CHECKED.iter().any(|(listed, _)| *listed == name);
        let not_right = lines.iter().filter(|(name, says)| {
            !(says.starts_with("right: ") || is_listed(name) && says.starts_with("no plan: "))
        });
        let not_right: Vec<_> = not_right.map(|(name, says)| format!("{name}: {says}")).collect();
        assert!(not_right.is_empty(), "{}", not_right.join("\n"));
        assert_eq!(code, 0);
    });
}

/// A plan that is known to be wrong.
#[derive(Deserialize)]
struct Wrong {
    /// Of which variant.
    function: String,
    /// What is wrong.
    why: String,
    probes: Vec<Probe>,
}

fn function(name: &str) -> Function {
    let all = corpus().unwrap().into_iter().chain(variants().unwrap());
    all.into_iter().find(|extract| extract.name == name).unwrap().function
}

/// The plan of a function with other probes.
fn with_probes(function: &Function, probes: Vec<Probe>) -> Record {
    let plan = record(function, &some_id()).plan.unwrap();
    Record::resolved(Plan { probes, ..plan })
}

#[test]
fn plans_that_were_published_and_are_wrong_are_found() {
    with_python(|python| {
        let text = include_str!("../recheck/wrong.json");
        let wrong: Vec<Wrong> = serde_json::from_str(text).unwrap();
        let all: Vec<_> = wrong
            .iter()
            .map(|wrong| {
                let function = function(&wrong.function);
                let record = with_probes(&function, wrong.probes.clone());
                (Extract { name: wrong.function.clone(), function }, record)
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let (lines, code) = recheck(python, folder.path(), &all);
        for Wrong { function, why, .. } in &wrong {
            assert!(
                lines[function].starts_with("wrong: "),
                "{function}, {why}: {}",
                lines[function]
            );
        }
        assert_eq!(code, 1);
    });
}

#[test]
fn a_right_plan_that_is_changed_is_wrong() {
    with_python(|python| {
        let name = "debian-5.10.0-46-cloud-amd64";
        let function = function(name);
        let right = record(&function, &some_id()).plan.unwrap().probes;
        let other = |what: &'static str, change: fn(&mut Probe)| {
            let mut probes = right.clone();
            change(&mut probes[0]);
            (what, probes)
        };
        let wrong = [
            other("a condition is left out", |probe| probe.when.clear()),
            other("a condition asks for another verdict", |probe| probe.when[0].equals = 1),
            other("the rule is elsewhere", |probe| probe.rule = Some(probe.pkt)),
        ];
        // One a call, since they have one name.
        for (what, probes) in wrong {
            let folder = tempfile::tempdir().unwrap();
            let extract = Extract { name: name.to_owned(), function: function.clone() };
            let record = with_probes(&function, probes);
            let (lines, code) = recheck(python, folder.path(), &[(extract, record)]);
            assert!(lines[name].starts_with("wrong: "), "{what}: {}", lines[name]);
            assert_eq!(code, 1, "{what}");
        }
    });
}
