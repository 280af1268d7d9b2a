//! The client as it is handed out.

use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Most bytes that it may have.
pub const MAX_BYTES: usize = 6 << 20;

/// Builds it, or reads the one that `NFDROP_CLIENT` names.
pub fn read() -> Result<Vec<u8>> {
    let path =
        std::env::var_os("NFDROP_CLIENT").map_or_else(build, |path| Ok(PathBuf::from(path)))?;
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    ensure!(bytes.len() <= MAX_BYTES, "the client has {} bytes", bytes.len());
    Ok(bytes)
}

fn build() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/build-static");
    let built = Command::new(script).arg("nfdrop-client").stderr(Stdio::inherit()).output()?;
    ensure!(built.status.success(), "the client cannot be built");
    Ok(PathBuf::from(String::from_utf8(built.stdout)?.trim_end()))
}
