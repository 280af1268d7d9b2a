//! What the tests share: real functions put back into kernel files, packages of them, a mirror.

pub(crate) mod mirror;
pub(crate) mod proxy;

pub(crate) use nfdrop_testkit::{apk, elf, pacman, rpm};

use nfdrop_resolver::image::{self, Function};
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The function of a file of the corpus.
pub(crate) fn extract(name: &str) -> Function {
    image::load(&std::fs::read(corpus(name)).unwrap(), None).unwrap()
}

/// A file of the corpus.
pub(crate) fn corpus(name: &str) -> PathBuf {
    let path = format!("../tests/corpus/{name}.json");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The program, with nothing of the machine's own configuration.
pub(crate) fn indexer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-indexer"));
    command.args(arguments);
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    for variable in proxies.iter().chain(&[
        "NFDROP_CACHE_PATH",
        "NFDROP_SIGN_KEY",
        "NFDROP_SIGN_PASSWORD",
        "RUST_LOG",
    ]) {
        command.env_remove(variable);
    }
    command
}

/// Exit code, stdout, stderr.
pub(crate) fn done(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}
