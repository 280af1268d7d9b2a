//! The workflow's scripts on a machine that has nothing, with the programs as they are built.

use super::distributions::Repository;
use nfdrop_tests::programs::{directory, program};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// A machine's folder.
pub(crate) struct Runner {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Runner {
    /// For this repository, of a catalogue that has no other.
    pub(crate) fn new(repository: &Repository, prove_options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("sources.toml"), &repository.catalogue).unwrap();
        fs::create_dir(path("tmp")).unwrap();
        let keygen = program("nfdrop-indexer").unwrap().args(["keygen", &path("key")]).output();
        assert!(keygen.unwrap().status.success());
        let variables = vec![
            ("NFDROP_SOURCES", repository.name.to_owned()),
            ("NFDROP_OPTIONS", format!("--catalogue {}", path("sources.toml"))),
            ("NFDROP_PROVE_OPTIONS", prove_options.to_owned()),
            ("NFDROP_KEY", fs::read_to_string(path("key")).unwrap()),
            ("NFDROP_CACHE_PATH", path("cache")),
            ("NFDROP_WORK", path("nfdrop")),
            ("HOME", path("home")),
            ("TMPDIR", path("tmp")),
        ];
        Self { folder, variables }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program or script in this folder, with nothing of this machine's configuration.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let programs = directory().unwrap();
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env_clear();
        command.env("PATH", format!("{}:{}", programs.display(), env::var("PATH").unwrap()));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A step of the workflow: its exit code, and what it said.
    pub(crate) fn step(&self, name: &str) -> (i32, String) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/workflows");
        let output = self.command(&scripts.join(name)).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}
