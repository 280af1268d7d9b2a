//! A bare Debian in a folder, for what is installed on hosts: made by debootstrap from the mirror of the
//! machine's apt configuration, in the release that the machine runs, and kept packed in the cache.

use anyhow::{Context, Result, bail, ensure};
use nfdrop_indexer::{fetch::default_cache, source::apt::config};
use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// The folder, which goes when dropped.
pub struct Debian(TempDir);

/// Why there cannot be one here.
pub fn why_not() -> Option<&'static str> {
    let have = |program: &str| {
        let mut paths = env::split_paths("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
        paths.any(|directory| directory.join(program).exists())
    };
    if env::var_os("NFDROP_OFFLINE").is_some() {
        Some("NFDROP_OFFLINE is set: not run")
    } else if codename().is_err() || !have("apt-get") {
        Some("this is not Debian: not run")
    } else if !rustix::process::geteuid().is_root() {
        Some("chroot and debootstrap want root: not run")
    } else if !have("debootstrap") {
        Some("there is no debootstrap: not run; ci/install-deps test installs it")
    } else {
        None
    }
}

impl Debian {
    /// Unpacks it, and makes it first where there is none in the cache.
    pub fn new() -> Result<Self> {
        let suite = codename()?;
        let cache = default_cache().context("there is no place for downloads: set HOME")?;
        let packed = cache.join(format!("bootstrap/{suite}.tar"));
        if !packed.exists() {
            bootstrap(&suite, &packed)?;
        }
        let folder = tempfile::tempdir()?;
        run(Command::new("tar").arg("-xpf").arg(&packed).arg("-C").arg(folder.path()))?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A program in it, as it would be run by a person.
    pub fn program(&self, name: &str) -> Command {
        self.program_as("root", name)
    }

    /// The same of another user.
    pub fn program_as(&self, user: &str, name: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}:{user}")).arg(self.path()).arg(name);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// What a program in it writes to stdout; an error where it fails.
    pub fn says(&self, name: &str, arguments: &[&str]) -> Result<String> {
        Ok(String::from_utf8(run(self.program(name).args(arguments))?.stdout)?)
    }

    /// Every path in it.
    pub fn paths(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.path().to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                found.insert(entry.path().strip_prefix(self.path())?.to_owned());
                // Of links the type is not that of what they lead to.
                if entry.file_type()?.is_dir() {
                    waiting.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

/// Runs a command to its end; an error with what it said where it fails.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (said, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{said}{told}", output.status);
    Ok(output)
}

/// `bookworm`.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release of Debian")?.to_owned())
}

fn bootstrap(suite: &str, packed: &Path) -> Result<()> {
    let configuration = config::read(Path::new("/"));
    let entry = configuration.entries.into_iter().find(|entry| entry.suite == suite);
    let Some(entry) = entry else { bail!("apt's configuration has no suite {suite}") };
    let directory = packed.parent().context("no directory")?;
    fs::create_dir_all(directory)?;
    // Beside it: in place only once it is whole.
    let folder = tempfile::tempdir_in(directory)?;
    let root = folder.path().join("root");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--force-check-gpg"]);
    command.arg(suite).arg(&root).arg(&entry.uri).env("LC_ALL", "C");
    run(&mut command)?;
    for useless in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        for entry in fs::read_dir(root.join(useless))? {
            let path = entry?.path();
            if path.is_file() {
                fs::remove_file(path)?;
            }
        }
    }
    let whole = folder.path().join("whole.tar");
    run(Command::new("tar").arg("-cf").arg(&whole).arg("-C").arg(&root).arg("."))?;
    fs::rename(whole, packed)?;
    Ok(())
}
