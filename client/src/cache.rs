//! Answers kept on disk: a plan for good, a "no" for ten minutes.
//!
//! A plan that was contradicted where it ran is kept as `<hex>.contradicted`, so that the same bytes are not
//! taken again from a server.
//!
//! Below the directory, for each build `<hex>.json` with a plan's canonical bytes, whoever served
//! them, `<hex>.json.minisig` with their signature if a key was set, and `<hex>.misses.json` with the servers that had none, and when they said so. Misses are
//! kept per server, so that a new URL is asked at once. Files are written aside and renamed, since
//! several clients may run; a file that does not pass the checks an answer has to pass is removed
//! and asked for anew.

use crate::{
    failure::Refusal,
    host::read_limited,
    server::{self, Answer, Server},
    signature,
};
use nfdrop_db::{BuildId, Record, Status};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds a miss is believed.
pub const MISS_SECONDS: u64 = 600;
/// Longest file of misses read: some records of unresolved builds.
const MAX_MISSES: u64 = 4 * Record::MAX_BYTES as u64;

/// The directory, or nothing where there is no place for one.
#[derive(Debug, Clone)]
pub struct Cache(Option<PathBuf>);

/// A plan that is kept: its record, that one's bytes, and the file.
pub type Kept = (Record, Vec<u8>, PathBuf);

/// The misses of one build by server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Misses(BTreeMap<String, Miss>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Miss {
    /// Seconds since 1970.
    at: u64,
    /// The canonical bytes of an unresolved record; `None`: never seen.
    record: Option<String>,
}

impl Misses {
    /// What this server said, if that was less than ten minutes before `now`. A miss from the future
    /// counts as old: the clock was set back and nobody knows by how much.
    pub fn answer(&self, server: &Server, build_id: &BuildId, now: u64) -> Option<Answer> {
        let miss = self.0.get(&server.to_string()).filter(|miss| miss.is_fresh(now))?;
        let Some(text) = &miss.record else { return Some(Answer::NeverSeen) };
        let record = server::check(text.as_bytes(), build_id).ok()?;
        (record.status == Status::Unresolved)
            .then(|| Answer::Record(Box::new(record), text.clone().into_bytes()))
    }

    /// Notes that this server has no plan.
    pub fn add(&mut self, server: &Server, answer: &Answer, now: u64) {
        let record = match answer {
            Answer::Record(_, bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Answer::NeverSeen => None,
        };
        self.0.insert(server.to_string(), Miss { at: now, record });
    }
}

impl Miss {
    fn is_fresh(&self, now: u64) -> bool {
        now.checked_sub(self.at).is_some_and(|age| age < MISS_SECONDS)
    }
}

impl Cache {
    /// Answers below `directory`; with `None` nothing is kept.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self(directory)
    }

    /// The plan of this build, with the file it is in.
    ///
    /// # Errors
    /// The plan was withdrawn. It is forgotten.
    pub fn plan(&self, build_id: &BuildId) -> Result<Option<Kept>, (PathBuf, Refusal)> {
        let Some(path) = self.path(build_id, "json") else { return Ok(None) };
        let bytes = read_limited(&path, Record::MAX_BYTES as u64).or_else(|e| drop_bad(&path, e));
        let Ok(bytes) = bytes else { return Ok(None) };
        match server::check(&bytes, build_id) {
            Ok(record) if record.status == Status::Resolved => Ok(Some((record, bytes, path))),
            other => {
                self.forget(build_id);
                match other {
                    Err(why) if why.is_withdrawal() => Err((path, why)),
                    _ => Ok(None),
                }
            }
        }
    }

    /// The signature that came with the plan, whoever made it.
    pub fn signature(&self, build_id: &BuildId) -> Option<String> {
        let path = self.path(build_id, "json.minisig")?;
        String::from_utf8(read_limited(&path, signature::MAX_BYTES as u64).ok()?).ok()
    }

    /// Keeps a plan, and its signature where one was asked for.
    pub fn keep(
        &self,
        build_id: &BuildId,
        bytes: &[u8],
        signature: Option<&str>,
    ) -> io::Result<()> {
        if let Some(path) = self.path(build_id, "misses.json") {
            let _ = fs::remove_file(path);
        }
        if let (Some(path), Some(signature)) = (self.path(build_id, "json.minisig"), signature) {
            write(&path, signature.as_bytes())?;
        }
        self.path(build_id, "json").map_or(Ok(()), |path| write(&path, bytes))
    }

    /// Forgets the plan of this build: it was wrong, and may be right by now where it came from.
    pub fn forget(&self, build_id: &BuildId) {
        for suffix in ["json", "json.minisig"] {
            if let Some(path) = self.path(build_id, suffix) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Keeps a plan's bytes so that they are not used again, and forgets the plan.
    pub fn disown(&self, build_id: &BuildId, bytes: &[u8]) -> io::Result<()> {
        self.forget(build_id);
        self.path(build_id, "contradicted").map_or(Ok(()), |path| write(&path, bytes))
    }

    /// The file that says that a plan of exactly these bytes was contradicted here.
    pub fn disowned(&self, build_id: &BuildId, bytes: &[u8]) -> Option<PathBuf> {
        let path = self.path(build_id, "contradicted")?;
        let kept = read_limited(&path, Record::MAX_BYTES as u64).ok()?;
        (kept == bytes).then_some(path)
    }

    /// The misses of this build, old ones included.
    pub fn misses(&self, build_id: &BuildId) -> Misses {
        let Some(path) = self.path(build_id, "misses.json") else { return Misses::default() };
        let bytes = read_limited(&path, MAX_MISSES).or_else(|e| drop_bad(&path, e));
        bytes
            .ok()
            .and_then(|bytes| {
                serde_json::from_slice(&bytes).inspect_err(|_| drop(fs::remove_file(&path))).ok()
            })
            .unwrap_or_default()
    }

    /// Keeps those misses that are not old.
    pub fn keep_misses(&self, build_id: &BuildId, mut misses: Misses, now: u64) -> io::Result<()> {
        misses.0.retain(|_, miss| miss.is_fresh(now));
        let Some(path) = self.path(build_id, "misses.json") else { return Ok(()) };
        write(&path, &serde_json::to_vec(&misses)?)
    }

    /// The directory, for messages.
    pub fn directory(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    fn path(&self, build_id: &BuildId, suffix: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{build_id}.{suffix}")))
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Removes a file that is there, but cannot be what was written.
fn drop_bad<T>(path: &Path, error: io::Error) -> io::Result<T> {
    if error.kind() == io::ErrorKind::FileTooLarge {
        fs::remove_file(path)?;
    }
    Err(error)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut aside = tempfile::NamedTempFile::new_in(directory)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_data()?;
    aside.persist(path)?;
    Ok(())
}
