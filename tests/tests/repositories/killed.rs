//! `nfdrop-ci prove` is killed, and started again.

use super::{distributions, runner::Runner};
use nfdrop_db::{Proof, ProofResult, Store};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// When it is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// It has said what it is going to do.
    Begun,
    /// It has started a process, which is not QEMU yet, or is.
    Starting,
    /// A guest runs.
    Running,
    /// It has said that a build is proven.
    Stored,
}

/// How long anything here may take.
const LONG: Duration = Duration::from_mins(2);

/// Asks until there is an answer.
fn wait<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        thread::yield_now();
    }
}

/// Name, state and parent of a process; `None` where there is none.
fn process(number: u32) -> Option<(String, char, u32)> {
    let text = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((name.to_owned(), state, fields.next()?.parse().ok()?))
}

/// The children of a process, with their names.
fn children(parent: u32) -> Vec<(u32, String)> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child =
        |number| process(number).filter(|(.., of)| *of == parent).map(|(name, ..)| (number, name));
    numbers.filter_map(child).collect()
}

/// Ends it at this moment, and waits for what it has started to end too.
fn kill(mut child: Child, moment: Moment) {
    let number = child.id();
    let first = |stream: Box<dyn std::io::Read>, words: &str| {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(words)), "{moment:?}: {words:?} was never said");
    };
    if matches!(moment, Moment::Stored) {
        first(Box::new(child.stdout.take().unwrap()), "proven");
    } else {
        // What it has asked QEMU and the loader before has ended.
        first(Box::new(child.stderr.take().unwrap()), "plans to prove");
    }
    match moment {
        Moment::Begun | Moment::Stored => {}
        Moment::Starting => drop(wait("a child", || children(number).pop())),
        Moment::Running => {
            let qemu = |(_, name): &(u32, String)| name.starts_with("qemu");
            wait("QEMU", || children(number).into_iter().find(qemu));
        }
    }
    let started = children(number);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "{moment:?}: it ended before it was killed");
    for (number, name) in started {
        wait(&format!("{moment:?}: {name} ends"), || {
            let running = process(number).filter(|(_, state, _)| !matches!(state, 'Z' | 'X'));
            running.is_none().then_some(())
        });
    }
}

/// The results of all builds, in a database that is sound.
fn results(database: &Path) -> Vec<Option<ProofResult>> {
    let store = Store::open_read_only(database).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let provable = store.provable().unwrap();
    for build in provable.iter().filter(|build| build.proof.is_some()) {
        let stored = store.proof(&build.build_id).unwrap().unwrap();
        Proof::parse_canonical(&stored.bytes).unwrap();
    }
    provable.into_iter().map(|build| build.proof).collect()
}

#[test]
fn proofs_go_on_where_they_were_killed_and_leave_nothing() {
    let Some(repository) = distributions::arch(2) else { return };
    let runner = Runner::new(&repository, "");
    let (code, said) = runner.step("crawl");
    assert_eq!(code, 0, "{said}");
    let database = runner.path("nfdrop/new.sqlite");
    let prove = || -> Command {
        let program = nfdrop_tests::programs::directory().unwrap().join("nfdrop-ci");
        let mut command = runner.command(&program);
        command.args(["prove", "--new", "--db"]).arg(&database);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    for moment in [Moment::Begun, Moment::Starting, Moment::Running] {
        kill(prove().spawn().unwrap(), moment);
        assert_eq!(results(&database), [None, None], "{moment:?}");
    }
    kill(prove().spawn().unwrap(), Moment::Stored);
    let proven = Some(ProofResult::Proven);
    assert_eq!(results(&database), [proven, None]);
    let output = prove().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 plans to prove"), "{said}");
    assert_eq!(results(&database), [proven, proven]);
    let left: Vec<_> = fs::read_dir(runner.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
