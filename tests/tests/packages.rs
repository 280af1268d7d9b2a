//! The packages as hosts get them: made of programs that are built, installed into a bare Debian in a
//! folder, run there, upgraded, removed and purged; and the same with rpm.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_tests::{
    corpus_dir,
    debian::{Debian, run, why_not},
    programs::directory,
};
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};
use tempfile::TempDir;

const FIRST: &str = "1.0.0";
const SECOND: &str = "1.1.0";
const PROGRAMS: [&str; 4] = ["nfdrop-client", "nfdrop-server", "nfdrop-indexer", "nfdrop-ci"];
const PACKAGES: [&str; 3] = ["client", "server", "ci"];
const NAMES: [&str; 3] = ["nfdrop-client", "nfdrop-server", "nfdrop-ci"];
/// Those with configuration.
const CONFIGURED: [&str; 2] = ["client", "server"];

/// Debs and rpms in both versions, made once.
static MADE: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bin")).unwrap();
    for program in PROGRAMS {
        let mut strip = Command::new("strip");
        strip.arg(directory().unwrap().join(program)).arg("-o");
        run(strip.arg(folder.path().join("bin").join(program))).unwrap();
    }
    for version in [FIRST, SECOND] {
        build(&folder.path().join("bin"), folder.path(), version, &PACKAGES);
    }
    folder
});

fn build(programs: &Path, to: &Path, version: &str, packages: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/build-packages");
    let mut command = Command::new(script);
    command.arg(programs).arg(to).args(packages).env("NFDROP_FAST", "1");
    command.env("NFDROP_VERSION", version).env("SOURCE_DATE_EPOCH", "1700000000");
    // Shows in the help of programs, and must not in the packages.
    run(command.env("NFDROP_CACHE_PATH", "/of/whom/builds")).unwrap();
}

fn deb(package: &str, version: &str) -> PathBuf {
    MADE.path().join(format!("nfdrop-{package}_{version}_amd64.deb"))
}

fn rpm(package: &str, version: &str) -> PathBuf {
    MADE.path().join(format!("nfdrop-{package}-{version}-1.x86_64.rpm"))
}

fn said(command: &mut Command) -> String {
    String::from_utf8(run(command).unwrap().stdout).unwrap()
}

/// The lines of a list of files, but for the pages of the indexer's commands, of which there come more.
fn files(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| !line.contains("/man1/nfdrop-indexer-"))
}

/// The fields of a deb that say what it needs, and modes, owners and names of what is in it.
fn listing(package: &str) -> String {
    let file = deb(package, FIRST);
    let fields = ["Package", "Version", "Architecture", "Depends", "Recommends", "Section"];
    let fields = said(Command::new("dpkg-deb").arg("-f").arg(&file).args(fields));
    // Which libc they were linked with is of the machine.
    let libc = fields.find("libc6 (>= ").map(|at| at + "libc6 (>= ".len());
    let mut text = fields.clone();
    if let Some(at) = libc {
        let end = at + fields[at..].find(')').unwrap();
        text.replace_range(at..end, "VERSION");
    }
    text += "conffiles:\n";
    if CONFIGURED.contains(&package) {
        text += &said(Command::new("dpkg-deb").arg("-I").arg(&file).arg("conffiles"));
    }
    for line in files(&said(Command::new("dpkg-deb").arg("-c").arg(&file))) {
        // Neither size nor time, which are of the programs and of the commit.
        let words: Vec<_> = line.split_whitespace().collect();
        writeln!(text, "{} {} {}", words[0], words[1], words[5..].join(" ")).unwrap();
    }
    text
}

#[test]
fn what_is_in_them() {
    for package in PACKAGES {
        insta::assert_snapshot!(format!("packages_deb_{package}"), listing(package));
        let ask =
            |arguments: &[&str]| said(Command::new("rpm").args(arguments).arg(rpm(package, FIRST)));
        let list = ask(&["-qp", "--qf", "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]"]);
        let (configuration, recommended) = (ask(&["-qpc"]), ask(&["-qp", "--recommends"]));
        let list = files(&list).collect::<Vec<_>>().join("\n");
        let text = format!("{list}\nconfiguration:\n{configuration}recommended:\n{recommended}");
        insta::assert_snapshot!(format!("packages_rpm_{package}"), text);
        assert!(ask(&["-K"]).ends_with(": digests OK\n"));
    }
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let again = tempfile::tempdir().unwrap();
    build(&MADE.path().join("bin"), again.path(), FIRST, &["client"]);
    for first in [deb("client", FIRST), rpm("client", FIRST)] {
        let second = again.path().join(first.file_name().unwrap());
        assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "{}", first.display());
    }
}

#[test]
fn units_are_what_systemd_expects() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return println!("there is no systemd-analyze: the units are not checked");
    }
    let root = tempfile::tempdir().unwrap();
    for package in PACKAGES {
        run(Command::new("dpkg-deb").arg("-x").arg(deb(package, FIRST)).arg(root.path())).unwrap();
    }
    let directory = root.path().join("usr/lib/systemd/system");
    // systemd's own units, and /bin/sh, are of other packages.
    for target in [
        "basic",
        "multi-user",
        "network-online",
        "shutdown",
        "sysinit",
        "time-set",
        "time-sync",
        "timers",
    ] {
        let unit = directory.join(format!("{target}.target"));
        fs::write(unit, "[Unit]\nDescription=another's\n").unwrap();
    }
    fs::create_dir(root.path().join("bin")).unwrap();
    fs::copy("/bin/sh", root.path().join("bin/sh")).unwrap();
    let units = [
        "nfdrop-client.service",
        "nfdrop-server.service",
        "nfdrop-crawl.service",
        "nfdrop-crawl.timer",
    ];
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--root"]).arg(root.path()).args(units);
    let output = run(&mut verify).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server of the packages, and its URL.
fn serve(debian: &Debian) -> (Running, String) {
    let mut command = debian.program_as("nfdrop", "nfdrop-server");
    command.args(["--db", "/var/lib/nfdrop/nfdrop.sqlite", "--listen", "127.0.0.1:0"]);
    let mut server = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
    (server, url)
}

/// What a person does first: index, serve, ask.
fn index_serve_and_ask(debian: &Debian, version: &str) {
    for program in PROGRAMS {
        let answer = debian.says(program, &["--version"]).unwrap();
        assert!(answer.starts_with(&format!("{program} ")), "{version}: {answer}");
    }
    assert!(debian.says("nfdrop-client", &["plan", "--help"]).unwrap().contains("--build-id"));
    let kernel = "debian-6.12.117+deb13-cloud-amd64.json";
    fs::copy(corpus_dir().join(kernel), debian.path().join("tmp/kernel.json")).unwrap();
    let mut add = debian.program_as("nfdrop", "nfdrop-indexer");
    add.args(["add", "/tmp/kernel.json", "--db", "/var/lib/nfdrop/nfdrop.sqlite"]);
    run(&mut add).unwrap();
    let (_server, url) = serve(debian);
    let id = "d1dc1d6d4a4b24407eebf424adbeefc47f1d5501";
    let asked = ["plan", "--server", &url, "--build-id", id];
    let mut plan = debian.program("nfdrop-client");
    plan.args(asked).env("NFDROP_CACHE_PATH", "/var/cache/nfdrop");
    let plan = said(&mut plan);
    assert!(plan.contains("status       resolved") && plan.contains(id), "{plan}");
    fs::remove_file(debian.path().join("tmp/kernel.json")).unwrap();
}

fn pages_are_there(debian: &Debian) {
    for page in ["nfdrop-client", "nfdrop-client-plan", "nfdrop-server", "nfdrop-indexer-crawl"] {
        let text = debian.says("gzip", &["-dc", &format!("/usr/share/man/man1/{page}.1.gz")]);
        let text = text.unwrap();
        assert!(text.contains(&format!(".TH {page} 1")), "{page}: {}", &text[..200]);
        assert!(!text.contains("/of/whom/builds"), "{page}");
    }
    for program in PROGRAMS {
        let script = format!("/usr/share/bash-completion/completions/{program}");
        let check = format!(". {script} && complete -p {program}");
        assert!(debian.says("bash", &["-c", &check]).unwrap().contains(program));
    }
}

/// The same package with another default configuration.
fn with_other_defaults(package: &str) -> PathBuf {
    let tree = MADE.path().join(format!("other-{package}"));
    let changed = tree.with_extension("deb");
    run(Command::new("dpkg-deb").arg("-R").arg(deb(package, SECOND)).arg(&tree)).unwrap();
    fs::write(tree.join(format!("etc/default/nfdrop-{package}")), "# Another one.\n").unwrap();
    let mut pack = Command::new("dpkg-deb");
    pack.args(["-Zgzip", "-z1", "--root-owner-group", "--build"]).arg(&tree).arg(&changed);
    run(&mut pack).unwrap();
    changed
}

fn copied(debian: &Debian, file: &Path) -> String {
    let name = format!("tmp/{}", file.file_name().unwrap().to_string_lossy());
    fs::copy(file, debian.path().join(&name)).unwrap();
    format!("/{name}")
}

fn configure(debian: &Debian) -> [(PathBuf, &'static str); 2] {
    let configured = [
        (debian.path().join("etc/default/nfdrop-client"), "NFDROP_URLS=http://127.0.0.1:7767\n"),
        (debian.path().join("etc/default/nfdrop-server"), "SOURCES=fedora\n"),
    ];
    for (path, text) in &configured {
        assert!(path.exists(), "{}", path.display());
        fs::write(path, text).unwrap();
    }
    configured
}

#[test]
fn debs_are_installed_run_upgraded_and_purged() {
    if let Some(why) = why_not() {
        return println!("{why}");
    }
    let debian = Debian::new().unwrap();
    let before = debian.paths().unwrap();
    let files = PACKAGES.map(|package| copied(&debian, &deb(package, FIRST)));
    debian.says("dpkg", &["-i", &files[0], &files[1], &files[2]]).unwrap();
    index_serve_and_ask(&debian, FIRST);
    pages_are_there(&debian);
    assert_eq!(
        debian.says("dpkg", &["-V", NAMES[0], NAMES[1], NAMES[2]]).unwrap(),
        "",
        "as packed"
    );

    let configured = configure(&debian);
    let files = PACKAGES.map(|package| {
        let changed = CONFIGURED.contains(&package);
        let file = if changed { with_other_defaults(package) } else { deb(package, SECOND) };
        copied(&debian, &file)
    });
    debian.says("dpkg", &["--force-confold", "-i", &files[0], &files[1], &files[2]]).unwrap();
    let versions = ["-W", "-f", "${Version} ${db:Status-Status}\n", "nfdrop-*"];
    let installed = format!("{SECOND} installed\n");
    assert_eq!(debian.says("dpkg-query", &versions).unwrap(), installed.repeat(3));
    for (path, text) in &configured {
        assert_eq!(&fs::read_to_string(path).unwrap(), text, "{}", path.display());
    }
    index_serve_and_ask(&debian, SECOND);

    debian.says("dpkg", &["-r", NAMES[0], NAMES[1], NAMES[2]]).unwrap();
    let removed = debian.paths().unwrap();
    let kept = |path: &str| removed.contains(Path::new(path));
    assert!(!kept("usr/bin/nfdrop-client") && !kept("usr/bin/nfdrop-indexer"));
    assert!(kept("var/lib/nfdrop/nfdrop.sqlite") && kept("etc/default/nfdrop-client"));
    debian.says("dpkg", &["-P", NAMES[0], NAMES[1], NAMES[2]]).unwrap();
    let after = debian.paths().unwrap();
    // Copies that dpkg and useradd make before they change their files.
    let backup = |path: &Path| {
        path.starts_with("etc") && path.to_string_lossy().ends_with('-')
            || path.starts_with("var/lib/dpkg") && path.to_string_lossy().ends_with("-old")
    };
    let left = after.difference(&before).filter(|path| !path.starts_with("tmp") && !backup(path));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    assert_eq!(before.difference(&after).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[test]
fn rpms_are_installed_run_upgraded_and_removed() {
    if let Some(why) = why_not() {
        return println!("{why}");
    }
    let debian = Debian::new().unwrap();
    let before = debian.paths().unwrap();
    let rpm_tool = |arguments: &[&str], what: &[PathBuf]| {
        let mut command = Command::new("rpm");
        // Debian's libraries are in nobody's database there.
        command.arg("--root").arg(debian.path()).args(arguments).arg("--nodeps").args(what);
        run(&mut command).unwrap();
    };
    rpm_tool(&["-i"], &PACKAGES.map(|package| rpm(package, FIRST)));
    index_serve_and_ask(&debian, FIRST);
    pages_are_there(&debian);
    let configured = configure(&debian);
    rpm_tool(&["-U"], &PACKAGES.map(|package| rpm(package, SECOND)));
    for (path, text) in &configured {
        assert_eq!(&fs::read_to_string(path).unwrap(), text, "{}", path.display());
    }
    index_serve_and_ask(&debian, SECOND);
    rpm_tool(&["-e"], &NAMES.map(PathBuf::from));
    let after = debian.paths().unwrap();
    // rpm purges nothing: what was made there stays, and configuration that was changed, put aside.
    let stays = |path: &Path| {
        let state = ["var/lib/nfdrop", "var/cache/nfdrop", "var/lib/rpm", "root/.rpmdb"];
        state.iter().any(|state| path.starts_with(state))
            || path.starts_with("etc/default") && path.to_string_lossy().ends_with(".rpmsave")
            || path.starts_with("etc") && path.to_string_lossy().ends_with('-')
    };
    // Folders of completions and the like are of other packages, which are not there.
    let file = |path: &Path| !debian.path().join(path).is_dir();
    let left = after.difference(&before).filter(|path| file(path) && !stays(path));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}
