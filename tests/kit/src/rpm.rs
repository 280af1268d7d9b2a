//! Repositories of rpms, made with the distributions' own tools: rpmbuild, rpmsign, `createrepo_c`,
//! gpg.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// A package to be made.
#[derive(Default)]
pub struct Rpm {
    /// `Name:` of the spec file.
    pub name: &'static str,
    /// `Version:`.
    pub version: &'static str,
    /// `Release:`.
    pub release: &'static str,
    /// `Requires:`; empty: none.
    pub requires: &'static str,
    /// rpm's name of the compression, `w19.zstdio`.
    pub payload: &'static str,
    /// Paths without a slash in front.
    pub files: Vec<(String, Vec<u8>)>,
    /// Symbolic links, and where they lead.
    pub links: Vec<(String, String)>,
    /// Files that are a hard link of another.
    pub copies: Vec<(String, String)>,
    /// Belong to the package and are not in it.
    pub ghosts: Vec<String>,
}

/// A repository's directory below that of a mirror.
pub struct Repo {
    /// Where `repodata/` is.
    pub root: PathBuf,
}

/// A key that packages and indices are signed with.
pub struct Key {
    home: tempfile::TempDir,
}

/// Whether the tools are there; CI installs them, another machine may not have them.
#[expect(clippy::print_stderr, reason = "who runs the tests should know what was left out")]
pub fn tools() -> bool {
    let missing = ["rpmbuild", "rpmsign", "createrepo_c", "modifyrepo_c", "gpg"]
        .into_iter()
        .find(|tool| Command::new(tool).arg("--version").output().is_err());
    if let Some(tool) = missing {
        eprintln!("{tool} is not there: rpm repositories are not tested, see ci/install-deps");
    }
    missing.is_none()
}

/// Where a program is.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.exists()).unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

impl Key {
    /// A new key, in a home of its own.
    pub fn generate() -> Self {
        let key = Self { home: tempfile::tempdir().unwrap() };
        let id = "Archive <archive@mirror.example>";
        run(key.gpg().args([
            "--passphrase",
            "",
            "--quick-gen-key",
            id,
            "rsa2048",
            "sign",
            "never",
        ]));
        run(key.gpg().args(["--armor", "--output"]).arg(key.public()).arg("--export"));
        key
    }

    /// The file with the public key.
    pub fn public(&self) -> PathBuf {
        self.home.path().join("public.asc")
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path());
        command.args(["--batch", "--yes", "--pinentry-mode", "loopback"]);
        command
    }

    /// Signs a package: its header, and with `whole` header and archive together too.
    fn sign(&self, rpm: &Path, whole: bool) {
        let mut command = Command::new("rpmsign");
        command.env("GNUPGHOME", self.home.path()).args(["--addsign", "--define"]);
        command.arg("_gpg_name archive@mirror.example");
        // Debian's rpm looks for it under a name that Debian no longer has.
        command.args(["--define", &format!("__gpg {}", find("gpg").display())]);
        if whole {
            command.arg("--rpmv3");
        }
        run(command.arg(rpm));
    }

    fn sign_detached(&self, file: &Path) {
        run(self.gpg().args(["--armor", "--detach-sign"]).arg(file));
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // The agent that gpg has started.
        let home = self.home.path();
        let _ = Command::new("gpgconf").env("GNUPGHOME", home).args(["--kill", "all"]).output();
    }
}

impl Repo {
    /// A repository without packages.
    pub fn new(mirror: &Path, name: &str) -> Self {
        let root = mirror.join(name);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// Makes a package; `Some`: and signs it, `true`: in the old way too.
    pub fn add(&self, rpm: &Rpm, key: Option<(&Key, bool)>) {
        let work = tempfile::tempdir().unwrap();
        let tree = work.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let place = |path: &str| {
            let place = tree.join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            place
        };
        let mut list = String::new();
        for (path, bytes) in &rpm.files {
            fs::write(place(path), bytes).unwrap();
            writeln!(list, "/{path}").unwrap();
        }
        for (path, target) in &rpm.links {
            symlink(target, place(path)).unwrap();
            writeln!(list, "/{path}").unwrap();
        }
        for (path, target) in &rpm.copies {
            fs::hard_link(tree.join(target), place(path)).unwrap();
            writeln!(list, "/{path}").unwrap();
        }
        for path in &rpm.ghosts {
            fs::write(place(path), b"").unwrap();
            writeln!(list, "%ghost /{path}").unwrap();
        }
        let Rpm { name, version, release, requires, .. } = rpm;
        let requires = match *requires {
            "" => String::new(),
            requires => format!("Requires: {requires}\n"),
        };
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: A kernel\n\
             License: GPL-2.0-only\nAutoReqProv: no\n{requires}%description\nA kernel & more.\n\
             %install\nmkdir -p %{{buildroot}}\ncp -a {}/. %{{buildroot}}/\n%files\n{list}",
            tree.display()
        );
        let file = work.path().join("kernel.spec");
        fs::write(&file, spec).unwrap();
        let mut command = Command::new("rpmbuild");
        command.args(["-bb", "--quiet", "--target", "x86_64-linux"]);
        for define in [
            format!("_topdir {}", work.path().join("top").display()),
            format!("_rpmdir {}", self.root.display()),
            "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm".to_owned(),
            format!("_binary_payload {}", rpm.payload),
            "__os_install_post %{nil}".to_owned(),
            "debug_package %{nil}".to_owned(),
            "_build_id_links none".to_owned(),
        ] {
            command.args(["--define", &define]);
        }
        run(command.arg(file));
        if let Some((key, whole)) = key {
            key.sign(&self.root.join(format!("{name}-{version}-{release}.x86_64.rpm")), whole);
        }
    }

    /// Makes the indices.
    pub fn index(&self, arguments: &[&str]) {
        run(Command::new("createrepo_c").arg("--quiet").args(arguments).arg(&self.root));
    }

    /// The index of its indices.
    pub fn repomd(&self) -> PathBuf {
        self.root.join("repodata/repomd.xml")
    }

    /// Takes an index of this kind away.
    pub fn remove(&self, kind: &str) {
        let mut command = Command::new("modifyrepo_c");
        run(command.args(["--remove", kind]).arg(self.root.join("repodata")));
    }

    /// Signs the index of indices.
    pub fn sign(&self, key: &Key) {
        key.sign_detached(&self.repomd());
    }

    /// The file of the index of packages.
    pub fn primary(&self) -> PathBuf {
        let files = fs::read_dir(self.root.join("repodata")).unwrap().flatten();
        let mut found = files
            .map(|file| file.path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().contains("primary.xml"));
        found.next().unwrap()
    }
}
