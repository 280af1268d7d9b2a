//! From a build-id to its record: cache, then the servers in order.
//!
//! The first plan wins. A server that fails, or whose answer is refused, is reported and the next
//! one asked; what no server could give becomes the one [`Failure`] that says most.

use crate::{
    cache::{self, Cache},
    failure::{Failure, Refusal},
    host::read_limited,
    server::{self, Age, Answer, AskError, Http, Server},
    signature::{self, Key},
};
use nfdrop_db::{BuildId, Record, Status};
use std::{path::Path, time::Duration};

/// Whom to ask, how long, and where answers are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In order.
    pub servers: Vec<Server>,
    /// For the whole answer of one server.
    pub timeout: Duration,
    /// Answers kept.
    pub cache: Cache,
    /// Whose signature a plan has to have; `None`: it needs none.
    pub key: Option<Key>,
}

/// A record that passed all checks.
#[derive(Debug)]
pub struct Found {
    /// Resolved or not.
    pub record: Record,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// Where it comes from: a URL or a file.
    pub origin: String,
}

impl Found {
    /// Why there is no plan in it, where there is none.
    pub fn unresolved(&self) -> Option<Failure> {
        let reason = self.record.reason?;
        let (build_id, detail) = (self.record.build_id.clone(), self.record.detail.clone());
        Some(Failure::Unresolved { build_id, reason, detail })
    }
}

/// The plan in the cache. One whose signature is not the key's is as good as none: it was asked for
/// when no key was set, or another one.
///
/// # Errors
/// The plan was withdrawn. It is forgotten.
pub fn cached(settings: &Settings, build_id: &BuildId) -> Result<Option<Found>, Failure> {
    let cached = settings.cache.plan(build_id).map_err(|(path, why)| {
        let origin = path.display().to_string();
        Failure::Refused { origin, why }
    })?;
    let signature = |bytes: &[u8], key: &Key| {
        key.verify(bytes, settings.cache.signature(build_id).as_deref()).is_ok()
    };
    Ok(cached
        .filter(|(_, bytes, _)| settings.key.as_ref().is_none_or(|key| signature(bytes, key)))
        .map(|(record, bytes, path)| Found { record, bytes, origin: path.display().to_string() }))
}

/// Asks one server for the plan, and for its signature where there has to be one.
pub async fn ask(
    http: &Http,
    settings: &Settings,
    server: &Server,
    build_id: &BuildId,
) -> (Result<Answer, AskError>, Option<String>) {
    let asked = ask_once(http, settings, server, build_id, Age::Any).await;
    if let Ok(Answer::Record(_, bytes)) = &asked.0
        && let Some(kept) = settings.cache.disowned(build_id, bytes)
    {
        return (Err(Refusal::Contradicted { kept }.into()), None);
    }
    match asked.0 {
        // A cache on the way may have the one from before the other was made: both anew, once.
        Err(AskError::Refused(Refusal::Signature { .. } | Refusal::Unsigned { .. })) => {
            ask_once(http, settings, server, build_id, Age::New).await
        }
        _ => asked,
    }
}

async fn ask_once(
    http: &Http,
    settings: &Settings,
    server: &Server,
    build_id: &BuildId,
    age: Age,
) -> (Result<Answer, AskError>, Option<String>) {
    let answer = http.ask(server, build_id, age).await;
    let (Some(key), Ok(Answer::Record(_, bytes))) = (&settings.key, &answer) else {
        return (answer, None);
    };
    // That there is no plan needs no signature: it lets nothing happen.
    if !answer.as_ref().is_ok_and(Answer::is_plan) {
        return (answer, None);
    }
    match http.signature(server, build_id, age).await {
        Ok(signature) => match key.verify(bytes, signature.as_deref()) {
            Ok(()) => (answer, signature),
            Err(why) => (Err(why.into()), None),
        },
        Err(error) => (Err(error), None),
    }
}

/// What one server said.
pub type Said = (Server, Result<Answer, AskError>);

/// The record of `build_id`. `warn` is told what went wrong on the way.
pub async fn find(
    settings: &Settings,
    build_id: &BuildId,
    mut warn: impl FnMut(&str),
) -> Result<Found, Failure> {
    let cache = &settings.cache;
    let withdrawn = match cached(settings, build_id) {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => None,
        Err(withdrawn) => Some(withdrawn),
    };
    if settings.servers.is_empty() {
        return Err(withdrawn.unwrap_or(Failure::NoServer));
    }
    let http = Http::new(settings.timeout)?;
    let now = cache::now();
    let mut misses = cache.misses(build_id);
    let mut has_new_miss = false;
    let mut said: Vec<Said> = vec![];
    let mut signature = None;
    for server in &settings.servers {
        let answer = if let Some(answer) = misses.answer(server, build_id, now) {
            Ok(answer)
        } else {
            let (answer, signed) = ask(&http, settings, server, build_id).await;
            signature = signed;
            if let Ok(answer) = &answer
                && !answer.is_plan()
            {
                misses.add(server, answer, now);
                has_new_miss = true;
            }
            answer
        };
        let done = answer.as_ref().is_ok_and(Answer::is_plan);
        said.push((server.clone(), answer));
        if done {
            break;
        }
    }
    let mut outcome = conclude(build_id, said, &mut warn);
    if let Some(withdrawn) = withdrawn {
        outcome = replaced(withdrawn, outcome, &mut warn);
    }
    let kept = match &outcome {
        Ok(found) if found.record.status == Status::Resolved => {
            cache.keep(build_id, &found.bytes, signature.as_deref())
        }
        _ if has_new_miss => cache.keep_misses(build_id, misses, now),
        _ => Ok(()),
    };
    if let Err(error) = kept {
        let directory = cache.directory().unwrap_or(Path::new("")).display();
        warn(&format!(
            "the answer is not kept in {directory}: {error}; set NFDROP_CACHE_PATH to a directory \
             that can be written"
        ));
    }
    outcome
}

/// What the servers' answers come to where the plan in the cache was withdrawn: another plan, or that one's
/// refusal. `warn` gets the refusal where there is another.
pub fn replaced(
    withdrawn: Failure,
    outcome: Result<Found, Failure>,
    mut warn: impl FnMut(&str),
) -> Result<Found, Failure> {
    match outcome.ok().filter(|found| found.record.status == Status::Resolved) {
        Some(found) => {
            warn(&withdrawn.to_string());
            Ok(found)
        }
        None => Err(withdrawn),
    }
}

/// What the servers' answers come to: a plan before a refusal before a record without a plan before
/// "never seen" before silence. `warn` is told what this hides.
pub fn conclude(
    build_id: &BuildId,
    said: Vec<Said>,
    mut warn: impl FnMut(&str),
) -> Result<Found, Failure> {
    let (mut plan, mut unresolved, mut refused) = (None, None, vec![]);
    let (mut never_seen, mut silent) = (vec![], vec![]);
    for (server, answer) in said {
        let origin = server.to_string();
        match answer {
            Ok(Answer::Record(record, bytes)) => {
                let resolved = record.status == Status::Resolved;
                let place = if resolved { &mut plan } else { &mut unresolved };
                place.get_or_insert(Found { record: *record, bytes, origin });
            }
            Ok(Answer::NeverSeen) => never_seen.push(origin),
            Err(AskError::Refused(why)) => refused.push(Failure::Refused { origin, why }),
            Err(AskError::NoAnswer(why)) => silent.push(format!("{origin}: {why}")),
        }
    }
    let outcome = match (plan, refused.is_empty(), unresolved) {
        (Some(found), ..) | (None, true, Some(found)) => Ok(found),
        (None, false, _) => Err(refused.remove(0)),
        (None, true, None) if never_seen.is_empty() => {
            let build_id = build_id.clone();
            return Err(Failure::Unreachable { build_id, reasons: silent });
        }
        (None, true, None) => {
            Err(Failure::NeverSeen { build_id: build_id.clone(), servers: never_seen })
        }
    };
    refused.iter().map(Failure::to_string).chain(silent).for_each(|line| warn(&line));
    outcome
}

/// The record in `file`, when it is of `build_id`, and signed in `FILE.minisig` where a key is set. A
/// line feed at its end, as `--format json` prints one, is let pass.
pub fn from_file(settings: &Settings, file: &Path, build_id: &BuildId) -> Result<Found, Failure> {
    let mut bytes = read_limited(file, Record::MAX_BYTES as u64 + 1)
        .map_err(|source| Failure::PlanFile { path: file.to_owned(), source })?;
    bytes.pop_if(|last| *last == b'\n');
    let origin = file.display().to_string();
    let checked = server::check(&bytes, build_id).and_then(|record| {
        let Some(key) = &settings.key else { return Ok(record) };
        let mut path = file.as_os_str().to_owned();
        path.push(".minisig");
        let signature = read_limited(Path::new(&path), signature::MAX_BYTES as u64).ok();
        let signature = signature.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        key.verify(&bytes, signature.as_deref()).map(|()| record)
    });
    match checked {
        Ok(record) => Ok(Found { record, bytes, origin }),
        Err(why) => Err(Failure::Refused { origin, why }),
    }
}
