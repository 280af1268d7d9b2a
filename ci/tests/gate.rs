//! The gate as people run it: real databases, the program itself, every form of report.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_db::{
    BuildId, ProofResult, Reason, Record, Store,
    body::InputKey,
    sample,
    store::{KernelOutcome, Outcome, Source},
};
use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const OLD: &str = "0484cf000102030405060708090a0b0c0d0e0f10";
const NEW: &str = "1111111111111111111111111111111111111111";
const FORMATS: [&str; 5] = ["text", "github", "junit", "sarif", "markdown"];

/// A database before and after a crawl.
struct Case {
    folder: TempDir,
    now: Store,
}

impl Case {
    /// Both hold one resolved build, and two suites.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [baseline, now] = ["baseline", "now"]
            .map(|name| Store::create_or_open(folder.path().join(name)).unwrap());
        for store in [baseline, now.clone()] {
            store.put_kernel(&kernel(sample::resolved(id(OLD)), "6.12.117+deb13-amd64")).unwrap();
            for (suite, kernels) in [("trixie", 40), ("trixie-security", 10)] {
                store.put_source(&source(suite, kernels, None)).unwrap();
            }
        }
        Self { folder, now }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn gate(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-ci"));
        command.env_clear().current_dir(self.folder.path()).stdin(Stdio::null());
        command.args(["gate", "--db", "now", "--today", "2026-11-25"]);
        command
    }

    fn compared(&self) -> Command {
        let mut command = self.gate();
        command.args(["--baseline", "baseline"]);
        command
    }

    fn allow(&self, text: &str) {
        fs::write(self.path("allow.toml"), text).unwrap();
    }

    /// Exit code, and what is said in all forms, which all end with the same code. What is for tools has to
    /// be as their schemas say.
    fn says(&self) -> (i32, String) {
        let mut all = String::new();
        let mut codes = Vec::new();
        for format in FORMATS {
            let mut command = self.compared();
            command.args(["--format", format]);
            if self.path("allow.toml").exists() {
                command.args(["--allow", "allow.toml"]);
            }
            let (code, stdout, stderr) = run(&mut command);
            fits(format, &stdout, self.folder.path());
            let _ = write!(all, "--- {format}\n{stdout}");
            if format != "text" && !stderr.is_empty() {
                let _ = write!(all, "stderr: {stderr}");
            }
            codes.push(code);
        }
        codes.dedup();
        let [code] = codes[..] else { panic!("{codes:?}\n{all}") };
        (code, all)
    }
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn id(text: &str) -> BuildId {
    text.parse().unwrap()
}

fn kernel(record: Record, release: &str) -> KernelOutcome {
    let mut kernel = sample::kernel(record, release);
    if let Outcome::Build(build) = &mut kernel.outcome {
        build.input = Some(InputKey([0x3f; 32]));
    }
    kernel
}

fn source(suite: &str, kernels: u64, failure: Option<(Reason, String)>) -> Source {
    Source {
        distro: "debian".to_owned(),
        suite: suite.to_owned(),
        arch: "amd64".to_owned(),
        index_sha256: None,
        kernels,
        signed_by: None,
        failure,
        stale_since: None,
        crawled_at: 1_763_000_000,
    }
}

/// Where `ci/install-deps test` puts validators and schemas.
fn tools() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    cache.or_else(home).expect("HOME or XDG_CACHE_HOME").join("nfdrop/tools/schemas")
}

/// Whether a report is as its schema says.
fn fits(format: &str, report: &str, folder: &Path) {
    let tools = tools();
    let mut command = match format {
        "junit" => {
            let mut command = Command::new(tools.join("bin/xmlschema-validate"));
            command.arg("--schema").arg(tools.join("junit-10.xsd"));
            command
        }
        "sarif" => {
            let mut command = Command::new(tools.join("bin/check-jsonschema"));
            // The schema has a regular expression that is one in browsers only.
            command.args(["--regex-variant", "nonunicode", "--schemafile"]);
            command.arg(tools.join("sarif-2.1.0.json"));
            command
        }
        _ => return,
    };
    if !tools.join("sarif-2.1.0.json").exists()
        && env::var_os("NFDROP_OFFLINE").is_some_and(|value| value == "1")
    {
        return;
    }
    let path = folder.join(format!("report.{format}"));
    fs::write(&path, report).unwrap();
    let output = command.arg(&path).output().expect("validators: run ci/install-deps test");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{format}: {}\n{report}", String::from_utf8_lossy(&said));
}

macro_rules! snapshot {
    ($name:literal, $case:expr, $code:literal) => {
        let (code, says) = $case.says();
        insta::assert_snapshot!($name, says);
        assert_eq!(code, $code);
    };
}

#[test]
fn nothing_new() {
    snapshot!("nothing_new", Case::new(), 0);
}

#[test]
fn a_new_resolved_kernel() {
    let case = Case::new();
    case.now.put_kernel(&kernel(sample::resolved(id(NEW)), "6.16.1-cloud-amd64")).unwrap();
    snapshot!("a_new_resolved_kernel", case, 0);
}

fn unresolved() -> Case {
    let case = Case::new();
    let mut kernel = sample::kernel(sample::unresolved(id(NEW)), "6.19.1-amd64");
    if let Outcome::Build(build) = &mut kernel.outcome {
        build.input = Some(InputKey([0xaa; 32]));
    }
    case.now.put_kernel(&kernel).unwrap();
    case
}

const ENTRY: &str = "\
[[allow]]
body = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"
reason = \"full LTO | see issue 12\"
owner = \"jane@example.org\"
";

#[test]
fn a_new_unresolved_kernel() {
    snapshot!("a_new_unresolved_kernel", unresolved(), 1);
}

#[test]
fn an_allowed_one() {
    let case = unresolved();
    case.allow(&format!("{ENTRY}expires = 2026-11-25\n"));
    snapshot!("an_allowed_one", case, 0);
}

#[test]
fn one_whose_entry_has_expired() {
    let case = unresolved();
    case.allow(&format!("{ENTRY}expires = 2026-11-24\n"));
    snapshot!("one_whose_entry_has_expired", case, 1);
}

/// A new kernel with a plan, and what booting it showed.
fn booted(result: ProofResult) -> Case {
    let case = Case::new();
    let record = sample::resolved(id(NEW));
    case.now.put_kernel(&kernel(record.clone(), "6.16.1-cloud-amd64")).unwrap();
    let mut proof = sample::proof(&record);
    if result != ProofResult::Proven {
        proof.result = result;
        proof.detail = Some(
            match result {
                ProofResult::NotBootable => "the guest was not done after 180 s\nKernel panic",
                _ => "rule 4 of table ip t dropped 4 packets, the probes reported 3",
            }
            .to_owned(),
        );
    }
    case.now.put_proof(&proof).unwrap();
    case
}

fn accepted(finding: &str) -> String {
    format!(
        "[[allow]]\nbuild = \"{NEW}\"\nfinding = \"{finding}\"\nreason = \"r\"\nowner = \"o\"\nexpires = 2026-11-25\n"
    )
}

#[test]
fn a_plan_that_its_kernel_contradicts_is_accepted_by_nobody() {
    let case = booted(ProofResult::Contradicted);
    snapshot!("a_contradicted_plan", case, 2);
    case.allow(&accepted("contradicted_plan"));
    let (code, says) = case.says();
    assert_eq!(code, 2, "{says}");
    // Known or not.
    Store::create_or_open(case.path("baseline")).unwrap().merge(&case.now).unwrap();
    assert_eq!(case.says().0, 2);
}

#[test]
fn a_kernel_that_cannot_be_booted_is_no_pass_but_may_be_accepted() {
    let case = booted(ProofResult::NotBootable);
    snapshot!("a_kernel_that_cannot_be_booted", case, 1);
    case.allow(&accepted("not_bootable"));
    assert_eq!(case.says().0, 0);
}

#[test]
fn a_new_plan_without_a_proof_fails_where_proofs_are_required() {
    let required = |case: &Case| run(case.compared().arg("--require-proof"));
    let case = booted(ProofResult::Proven);
    let (code, says, _) = required(&case);
    assert_eq!(code, 0, "{says}");
    assert!(says.contains("1 proven on their kernel"), "{says}");
    let case = Case::new();
    case.now.put_kernel(&kernel(sample::resolved(id(NEW)), "6.16.1-cloud-amd64")).unwrap();
    assert_eq!(case.says().0, 0);
    let (code, says, _) = required(&case);
    insta::assert_snapshot!("a_plan_without_a_proof", says);
    assert_eq!(code, 1);
}

#[test]
fn an_entry_that_is_not_needed() {
    let case = Case::new();
    case.allow(&format!("{ENTRY}expires = 2026-11-25\n"));
    let (code, says) = case.says();
    assert_eq!(code, 0);
    assert!(says.contains("of jane@example.org accepts nothing that was found"), "{says}");
}

#[test]
fn a_vanished_source() {
    let case = Case::new();
    case.now.put_source(&source("trixie-security", 0, None)).unwrap();
    snapshot!("a_vanished_source", case, 2);
}

#[test]
fn a_shrunk_source() {
    let case = Case::new();
    case.now.put_source(&source("trixie", 31, None)).unwrap();
    let (code, says) = case.says();
    assert_eq!(code, 2);
    assert!(
        says.contains(
            "shrunk_source: suite debian trixie amd64: it lists 31 kernels, it listed 40"
        )
    );
    case.now.put_source(&source("trixie", 32, None)).unwrap();
    assert_eq!(case.says().0, 0);
}

#[test]
fn a_changed_plan() {
    let case = Case::new();
    // Another analyzer with another opinion, beside a new kernel without a plan: the worse one counts.
    let mut record = sample::resolved(id(OLD));
    let plan = record.plan.as_mut().unwrap();
    plan.probes[0].offset.0 += 4;
    "0.2.0".clone_into(&mut plan.evidence.analyzer);
    let mut changed = kernel(record, "6.12.117+deb13-amd64");
    if let Outcome::Build(build) = &mut changed.outcome {
        "0.2.0".clone_into(&mut build.analyzer);
    }
    case.now.put_kernel(&changed).unwrap();
    let mut kernel = sample::kernel(sample::unresolved(id(NEW)), "6.19.1-amd64");
    if let Outcome::Build(build) = &mut kernel.outcome {
        build.input = Some(InputKey([0xaa; 32]));
    }
    case.now.put_kernel(&kernel).unwrap();
    snapshot!("a_changed_plan", case, 2);
}

#[test]
fn a_plan_that_was_proven_again() {
    let case = Case::new();
    let mut record = sample::resolved(id(OLD));
    let evidence = &mut record.plan.as_mut().unwrap().evidence;
    evidence.runs += 100;
    "0.2.0".clone_into(&mut evidence.analyzer);
    let mut again = kernel(record, "6.12.117+deb13-amd64");
    if let Outcome::Build(build) = &mut again.outcome {
        "0.2.0".clone_into(&mut build.analyzer);
    }
    case.now.put_kernel(&again).unwrap();
    let (code, says) = case.says();
    assert_eq!(code, 0);
    assert!(says.contains("1 proven again by another analyzer"), "{says}");
}

#[test]
fn a_half_failed_crawl() {
    let case = Case::new();
    let why = (Reason::FetchFailed, "https://mirror.example: 503 |`x`".to_owned());
    case.now.put_source(&source("trixie-security", 0, Some(why))).unwrap();
    let mut failed = sample::kernel(sample::resolved(id(NEW)), "6.16.1-amd64");
    failed.outcome = Outcome::Failed {
        reason: Reason::FetchFailed,
        detail: "connection reset".to_owned(),
        analyzer: "0.1.0".to_owned(),
    };
    case.now.put_kernel(&failed).unwrap();
    snapshot!("a_half_failed_crawl", case, 3);
    // What stays is told from what passes: a broken package is a kernel that cannot be resolved.
    failed.outcome = Outcome::Failed {
        reason: Reason::MalformedPackage,
        detail: "no members".to_owned(),
        analyzer: "0.1.0".to_owned(),
    };
    case.now.put_kernel(&failed).unwrap();
    let (code, says) = case.says();
    assert_eq!(code, 1);
    assert!(says.contains("1 new kernel cannot be resolved, 1 thing could not be read"), "{says}");
    // And all that is as in the baseline is nothing new.
    let (code, stdout, _) = run(case.gate().args(["--baseline", "now"]));
    assert_eq!(code, 0, "{stdout}");
}

#[test]
fn what_was_lost() {
    let case = Case::new();
    // Beside what is there, a kernel without a build, of the same version as all others here.
    let baseline = Store::create_or_open(case.path("baseline")).unwrap();
    let mut failed = sample::kernel(sample::resolved(id(NEW)), "6.12.118-amd64");
    failed.outcome = Outcome::Failed {
        reason: Reason::MalformedPackage,
        detail: "no members".to_owned(),
        analyzer: "0.1.0".to_owned(),
    };
    baseline.put_kernel(&failed).unwrap();
    drop(baseline);
    let fresh = Store::create_or_open(case.path("fresh")).unwrap();
    fresh.put_kernel(&kernel(sample::resolved(id(NEW)), "6.16.1-cloud-amd64")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-ci"));
    command.args(["gate", "--db", "fresh", "--baseline", "baseline"]);
    let (code, stdout, stderr) = run(command.current_dir(&case.folder));
    assert_eq!((code, stderr.as_str()), (2, ""));
    let found = stdout.lines().filter(|line| !line.starts_with("    ")).collect::<Vec<_>>();
    insta::assert_snapshot!(found.join("\n"), @r"
    lost_build: build 0484cf000102030405060708090a0b0c0d0e0f10 (debian 6.12.117+deb13-amd64): it had a plan
    lost_kernel: kernel debian 6.12.118-amd64 6.12.117-1: it had no plan (malformed_package)
    lost_source: suite debian trixie amd64: it was not crawled, it listed 40 kernels
    lost_source: suite debian trixie-security amd64: it was not crawled, it listed 10 kernels
    1 build, 1 with a plan; the baseline has 1, 1 with a plan; 1 new with a plan
    worse: 4 things got worse
    ");
    // Once the kernel has a build it is not lost.
    fresh.put_kernel(&kernel(sample::resolved(id(OLD)), "6.12.118-amd64")).unwrap();
    let (_, stdout, _) = run(&mut command);
    assert!(!stdout.contains("lost_kernel"), "{stdout}");
}

#[test]
fn a_corrupt_baseline() {
    let case = Case::new();
    let path = case.path("baseline");
    fs::write(&path, b"no database at all, but long enough to look like one").unwrap();
    let (code, stdout, mut says) = run(&mut case.compared());
    assert_eq!((code, stdout.as_str()), (3, ""));
    fs::remove_file(&path).unwrap();
    let (code, _, stderr) = run(&mut case.compared());
    assert_eq!(code, 3);
    says += &stderr;
    let says = says.replace(" (readers need that too, for the files -wal and -shm)", "");
    insta::assert_snapshot!(says, @r##"
    error: the baseline: baseline is not a database; name the file that `nfdrop-indexer crawl --db` wrote
    error: the baseline: cannot open the database baseline: unable to open database file: baseline; check that it exists, that its directory is writable and that the user may read it
    "##);
}

#[test]
fn a_baseline_with_a_changed_byte() {
    let case = Case::new();
    let path = case.path("baseline");
    let mut bytes = fs::read(&path).unwrap();
    let place = memmem(&bytes, b"\"symbol_size\":1569").unwrap() + b"\"symbol_size\":".len();
    bytes[place] = b'x';
    fs::write(&path, bytes).unwrap();
    let (code, stdout, stderr) = run(&mut case.compared());
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    assert!(
        stderr.starts_with("error: the baseline: the database baseline is damaged: "),
        "{stderr}"
    );
}

fn memmem(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn errors_are_no_judgement() {
    let case = Case::new();
    // Wrong arguments; an allow file that is none.
    assert_eq!(run(case.compared().arg("--formt")).0, 3);
    case.allow("[[allow]]\nbuild = 1\n");
    let (code, stdout, stderr) = run(case.compared().args(["--allow", "allow.toml"]));
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(
        stderr.starts_with("error: the allow file allow.toml: TOML parse error at line 2"),
        "{stderr}"
    );
}

#[test]
fn an_empty_database_is_no_pass() {
    let folder = tempfile::tempdir().unwrap();
    Store::create_or_open(folder.path().join("empty")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-ci"));
    let (code, _, stderr) = run(command.current_dir(&folder).args(["gate", "--db", "empty"]));
    assert_eq!(code, 3);
    assert!(stderr.contains("holds no kernel at all"), "{stderr}");
}

#[test]
fn without_a_baseline_all_is_new() {
    let case = unresolved();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-ci"));
    let (code, stdout, _) = run(command.current_dir(&case.folder).args(["gate", "--db", "now"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("2 builds, 1 with a plan; there is no baseline"), "{stdout}");
}

#[test]
fn reports_summary_and_outputs_are_written() {
    let case = unresolved();
    let mut command = case.compared();
    command.args(["--format", "github", "--report", "sarif=a.sarif", "--report", "junit=a.xml"]);
    command.env("GITHUB_STEP_SUMMARY", case.path("summary"));
    command.env("GITHUB_OUTPUT", case.path("output"));
    assert_eq!(run(&mut command).0, 1);
    let read = |name: &str| fs::read_to_string(case.path(name)).unwrap();
    fits("sarif", &read("a.sarif"), case.folder.path());
    fits("junit", &read("a.xml"), case.folder.path());
    assert!(read("summary").starts_with("## nfdrop gate: unresolved\n"));
    assert_eq!(read("output"), "outcome=unresolved\n");
}

#[test]
fn a_page_per_unresolved_body() {
    let case = unresolved();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-ci"));
    command.current_dir(&case.folder).args(["unresolved", "--db", "now", "--out", "pages"]);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    insta::assert_snapshot!(stdout.replace('\t', " "), @"aaaaaaaaaaaaaaaa no_site: debian 6.19.1-amd64");
    insta::assert_snapshot!(fs::read_to_string(case.path("pages/aaaaaaaaaaaaaaaa.md")).unwrap(), @r##"
    `nft_do_chain` of these kernels cannot be resolved: `no_site`

    `no set of sites sees every drop exactly once`

    Analyzer `0.1.0`; body `aaaaaaaaaaaaaaaa`.

    | kernel | build-id | package |
    | --- | --- | --- |
    | `debian 6.19.1-amd64` | `1111111111111111111111111111111111111111` | `https://mirror.example/pool/linux-image-6.19.1-amd64.deb` |

    To see it: fetch the package, then `nfdrop-indexer explain PACKAGE`. Once a newer analyzer resolves it, the next crawl closes this.
    "##);
}

/// As the schema of GitHub's workflows says, which the validator brings along.
#[test]
fn the_workflow_templates_are_what_github_reads() {
    let tools = tools();
    if !tools.join("sarif-2.1.0.json").exists()
        && env::var_os("NFDROP_OFFLINE").is_some_and(|value| value == "1")
    {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows");
    let mut command = Command::new(tools.join("bin/check-jsonschema"));
    command.args(["--builtin-schema", "vendor.github-workflows"]);
    let templates = ["crawl.yml", "project.yml"].map(|name| folder.join(name));
    let (code, stdout, stderr) = run(command.args(&templates));
    assert_eq!(code, 0, "{stdout}{stderr}");
    // What they call is there.
    for template in &templates {
        let text = fs::read_to_string(template).unwrap();
        for word in text.split_whitespace().filter(|word| word.starts_with("ci/workflows/")) {
            assert!(folder.join("../..").join(word).exists(), "{word}");
        }
    }
}
