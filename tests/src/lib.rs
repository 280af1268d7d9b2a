//! What the tests share: the corpus of real functions, and the way to it.

pub mod bodies;
pub mod debian;
pub mod handbook;
pub mod programs;
pub mod vm;

use anyhow::{Context, Result};
use nfdrop_db::{BuildId, Plan, Record};
use nfdrop_resolver::image::{self, Function};
use nfdrop_resolver::resolve;
use std::path::{Path, PathBuf};

/// The folder of the corpus.
pub fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// One extract.
#[derive(Debug, Clone)]
pub struct Extract {
    /// The file's name without its ending.
    pub name: String,
    /// The function.
    pub function: Function,
}

/// All extracts of published kernels, by name.
pub fn corpus() -> Result<Vec<Extract>> {
    extracts(&corpus_dir())
}

/// All extracts of kernels that were built for this: other compilers, configurations and versions.
pub fn variants() -> Result<Vec<Extract>> {
    extracts(&corpus_dir().join("variants"))
}

/// All extracts of a folder, by name.
pub fn extracts(dir: &Path) -> Result<Vec<Extract>> {
    let mut extracts = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).with_context(|| name.clone())?;
        let function = image::load(&bytes, None).with_context(|| name.clone())?;
        extracts.push(Extract { name, function });
    }
    extracts.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(!extracts.is_empty(), "{} has no extracts", dir.display());
    Ok(extracts)
}

/// The record of a function; listings without a build-id get `build_id`.
pub fn record(function: &Function, build_id: &BuildId) -> Record {
    let build_id = function.build_id.as_ref().unwrap_or(build_id).clone();
    match resolve::resolve(function) {
        Ok(findings) => Record::resolved(findings.plan(build_id)),
        Err(unresolved) => Record::unresolved(build_id, unresolved.reason, unresolved.detail),
    }
}

/// The plan of a function; an error where there is none.
pub fn plan(function: &Function) -> Result<Plan> {
    // Stands where there is no build-id.
    let record = record(function, &BuildId::from_bytes(&[0; 20])?);
    let reason = format!("{:?}: {:?}", record.reason, record.detail);
    record.plan.context(reason)
}
