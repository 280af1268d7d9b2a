//! The programs as they are built, for tests that run them together.

use anyhow::{Context, Result, ensure};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

/// Where the indexer, the server and the client are. Builds them, which takes a moment where they are
/// there already; cargo builds programs for the tests of their own package only.
pub fn directory() -> Result<&'static PathBuf> {
    static DIRECTORY: LazyLock<Result<PathBuf>> = LazyLock::new(build);
    DIRECTORY.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))
}

fn build() -> Result<PathBuf> {
    // target/debug/deps/this
    let own = env::current_exe()?;
    let directory = own.parent().and_then(|deps| deps.parent()).context("no target directory")?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With all features: that is how `make test` has just built what they are made of.
    cargo.args(["build", "--workspace", "--bins", "--all-features", "--locked", "--quiet"]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).stderr(Stdio::inherit());
    ensure!(cargo.status()?.success(), "the programs cannot be built");
    Ok(directory.to_owned())
}

/// One of the programs, with nothing of this machine's configuration.
pub fn program(name: &str) -> Result<Command> {
    let mut command = Command::new(directory()?.join(name));
    command.env_clear();
    Ok(command)
}

/// A program of a Debian package: the system's, or where `ci/install-deps test` has unpacked it.
pub fn tool(package: &str, path: &str) -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let own = cache.or_else(home)?.join("nfdrop/tools").join(package).join(path);
    [Path::new("/").join(path), own].into_iter().find(|path| path.exists())
}
