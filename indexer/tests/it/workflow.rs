//! The scripts of `ci/workflows`, one after the other as the hourly workflow calls them, on a mirror that changes
//! between the runs. All of it is real but GitHub, for which a script keeps releases and issues in a folder.

use super::{
    crawl::{image, rebuilt},
    support::{
        done, extract,
        mirror::{Mirror, Server},
    },
};
use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// `gh` with a folder for GitHub. What it does not know ends the test.
const GH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
# Paths are from where it was called.
from=$PWD
mkdir -p "$GH_FOLDER/issues" "$GH_FOLDER/releases"
cd "$GH_FOLDER"
echo "$1 $2" >>log
if [[ -e trouble ]]; then
    echo "HTTP 502" >&2
    exit 1
fi
case "$1 $2" in
    "label create") ;;
    "issue list")
        for issue in issues/*/; do
            [[ -e $issue/title ]] || continue
            printf '%s\t%s\t%s\n' "$(basename "$issue")" "$(<"$issue/state")" "$(<"$issue/title")"
        done ;;
    "issue create")
        number=$(($(find issues -mindepth 1 -maxdepth 1 | wc -l) + 1))
        [[ $3 == --label && $5 == --title && $7 == --body-file ]]
        mkdir "issues/$number"
        printf '%s' "$6" >"issues/$number/title"
        cp "$from/$8" "issues/$number/body"
        printf OPEN >"issues/$number/state" ;;
    "issue edit")
        [[ $4 == --title && $6 == --body-file ]]
        printf '%s' "$5" >"issues/$3/title"
        cp "$from/$7" "issues/$3/body" ;;
    "issue close") printf CLOSED >"issues/$3/state" ;;
    "issue reopen") printf OPEN >"issues/$3/state" ;;
    "release view")
        if [[ ! -e releases/$3 ]]; then
            echo "release not found" >&2
            exit 1
        fi ;;
    "release create") mkdir "releases/$3" ;;
    "release upload") cp "$from/$4" "releases/$3/" ;;
    "release download")
        [[ $4 == --pattern && $6 == --dir ]]
        cp "releases/$3/$5" "$from/$7/" ;;
    *) echo "unknown: $*" >&2; exit 99 ;;
esac
"#;

/// The program of the gate, which is another package's: built as the indexer's own was.
fn programs() -> PathBuf {
    let indexer = Path::new(env!("CARGO_BIN_EXE_nfdrop-indexer"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--workspace", "--bins", "--all-features", "--locked", "--quiet"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status();
    assert!(built.unwrap().success());
    indexer.parent().unwrap().to_owned()
}

struct Runner {
    folder: tempfile::TempDir,
    programs: PathBuf,
    options: String,
}

impl Runner {
    fn new(mirror: &Mirror, url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gh = folder.path().join("bin/gh");
        fs::create_dir(gh.parent().unwrap()).unwrap();
        fs::write(&gh, GH).unwrap();
        fs::set_permissions(&gh, fs::Permissions::from_mode(0o755)).unwrap();
        let (keyring, root) = (mirror.keyring(), folder.path().display());
        let options = format!(
            "--mirror debian={url} --keyring {keyring} --cache {root}/cache --retries 0 --timeout 5"
        );
        Self { programs: programs(), options, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A step: its exit code, and what it said.
    fn step(&self, name: &str) -> (i32, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/workflows");
        let mut command = Command::new(Path::new(script).join(name));
        let path = format!(
            "{}:{}:{}",
            self.path("bin").display(),
            self.programs.display(),
            env::var("PATH").unwrap()
        );
        command.current_dir(&self.folder).env_clear().env("PATH", path);
        command.env("HOME", self.folder.path()).env("GH_FOLDER", self.path("github"));
        command.env("NFDROP_OPTIONS", &self.options).env("NFDROP_ALLOW", "allow.toml");
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", self.path("summary"));
        // Its kernels are a function each, which cannot be booted; tests/tests/repositories.rs boots whole ones.
        command.env("NFDROP_PROVE", "no");
        let key = self.path("key");
        if key.exists() {
            command.env("NFDROP_KEY", fs::read_to_string(key).unwrap());
        }
        let (code, stdout, stderr) = done(&command.output().unwrap());
        (code, format!("{stdout}{stderr}"))
    }

    /// A whole run on a machine that has nothing, as the workflow has it: the code of the gate, and what
    /// all steps said. Publishes only behind a gate that passes.
    fn run(&self) -> (i32, String) {
        let _ = fs::remove_dir_all(self.path("nfdrop"));
        let all = std::cell::RefCell::new(String::new());
        let step = |name: &str| {
            let (code, said) = self.step(name);
            let _ = write!(all.borrow_mut(), "--- {name}: {code}\n{said}");
            code
        };
        let begun = [step("restore"), step("crawl"), step("prove")];
        let (gate, issues) = (step("gate"), step("issues"));
        assert_eq!((begun, issues), ([0, 0, 0], 0), "{}", all.borrow());
        if gate == 0 {
            assert_eq!([step("publish"), step("keep")], [0, 0], "{}", all.borrow());
        } else {
            // Whoever forgets what the gate said is reminded.
            assert_eq!(step("publish"), 1);
        }
        (gate, all.into_inner())
    }
}

fn has(text: &str, words: &str) {
    assert!(text.contains(words), "{words:?} is missing in:\n{text}");
}

#[test]
fn what_passes_is_published_and_nothing_else() {
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let mut mirror = Mirror::new();
    mirror.add("trixie", &image(&rebuilt(&real, "6.12.1-cloud-amd64", 1), "6.12.1-1", 0x81));
    mirror.add("sid", &image(&rebuilt(&real, "6.12.2-cloud-amd64", 2), "6.12.2-1", 0x82));
    mirror.publish();
    let server = Server::new(mirror.root.path());
    let runner = Runner::new(&mirror, &server.url);
    let keygen = Command::new(env!("CARGO_BIN_EXE_nfdrop-indexer"))
        .args(["keygen", "key"])
        .current_dir(&runner.folder)
        .output();
    assert!(keygen.unwrap().status.success());

    // The first run: all is new, and has plans.
    let (code, said) = runner.run();
    assert_eq!(code, 0, "{said}");
    has(&said, "there is no release nfdrop-state: this is the first run");
    has(&said, "NFDROP_PROVE=no: no kernel is booted");
    has(&said, "pass: 2 new kernels, all resolved; nothing lost");
    let plan = "01".repeat(20);
    assert!(runner.path(&format!("nfdrop/site/buildid/{plan}/plan.minisig")).exists(), "{said}");
    has(&runner.read("nfdrop/site/index.html"), "6.12");
    assert!(runner.path("nfdrop/site/nfdrop.sqlite").exists());
    has(&runner.read("summary"), "## nfdrop gate: pass");
    fs::copy(runner.path("nfdrop/state/published.sqlite"), runner.path("first.sqlite")).unwrap();

    // A kernel that cannot be resolved: its function ends in the middle.
    let mut broken = rebuilt(&real, "6.12.3-cloud-amd64", 3);
    let bytes = &mut broken.parts[0].bytes;
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xcc);
    mirror.add("sid", &image(&broken, "6.12.3-1", 0x83));
    mirror.publish();
    let (code, said) = runner.run();
    assert_eq!(code, 1, "{said}");
    has(&said, "::error title=new_unresolved%3A a new kernel cannot be resolved::build 0303");
    has(&said, "error: the gate has not passed: nothing is published");
    assert!(!runner.path("nfdrop/site").exists());
    let title = runner.read("github/issues/1/title");
    has(&title, "debian 6.12.3-cloud-amd64 [");
    let body = runner.read("github/issues/1/body");
    has(&body, "The listing");
    has(&body, "    nft_do_chain");

    // Again: the same issue, not touched; and still not published.
    let (code, _) = runner.run();
    assert_eq!(code, 1);
    assert_eq!(runner.read("github/log").matches("issue create").count(), 1);

    // Accepted: published, the others as before.
    let id = "03".repeat(20);
    let entry = format!(
        "[[allow]]\nbuild = \"{id}\"\nreason = \"cut\"\nowner = \"o\"\nexpires = 9999-12-31\n"
    );
    fs::write(runner.path("allow.toml"), entry).unwrap();
    let (code, said) = runner.run();
    assert_eq!(code, 0, "{said}");
    has(&said, "::notice title=allowed new_unresolved::build 0303");
    has(&runner.read(&format!("nfdrop/site/buildid/{id}/plan")), "unresolved");

    // What was accepted is in the baseline now, and needs no entry.
    fs::remove_file(runner.path("allow.toml")).unwrap();
    let (code, said) = runner.run();
    assert_eq!(code, 0, "{said}");
    has(&said, "pass: nothing new without a plan, nothing lost");
    assert_eq!(runner.read("github/issues/1/state"), "OPEN");

    // A suite that is gone.
    fs::rename(mirror.path("dists/sid"), mirror.path("dists/gone")).unwrap();
    let (code, said) = runner.run();
    assert_eq!(code, 2, "{said}");
    has(&said, "lost_source%3A a suite is gone::suite debian sid");
    // And one that cannot be read: neither a pass nor a kernel without a plan.
    fs::rename(mirror.path("dists/gone"), mirror.path("dists/sid")).unwrap();
    fs::write(mirror.path("dists/sid/InRelease"), "nothing that is signed").unwrap();
    let (code, said) = runner.run();
    assert_eq!(code, 3, "{said}");
    has(&said, "unread_source%3A a suite could not be read::suite debian sid");

    // GitHub in trouble is no first run: what is known would be forgotten.
    fs::write(runner.path("github/trouble"), "").unwrap();
    let (code, said) = runner.step("restore");
    assert_eq!((code, said.as_str()), (1, "HTTP 502\n"));
    fs::remove_file(runner.path("github/trouble")).unwrap();

    // Once the body is resolved, its issue is closed; here by the database of the first run, which never had
    // it. Should it come back, so does the issue.
    fs::rename(runner.path("first.sqlite"), runner.path("nfdrop/new.sqlite")).unwrap();
    assert_eq!(runner.step("issues").0, 0);
    assert_eq!(runner.read("github/issues/1/state"), "CLOSED");
    mirror.publish();
    let (code, said) = runner.run();
    assert_eq!(code, 0, "{said}");
    assert_eq!(runner.read("github/issues/1/state"), "OPEN");
}
