//! `POST /v1/plans`: what one server knows of many builds and releases.
//!
//! A server may leave out what it had no time for, and is asked again for that. What it says of things it
//! was not asked for is not believed to be an answer.

use crate::server::{AskError, Http, MAX_PLANS, Server};
use nfdrop_db::BuildId;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

/// Most builds and releases of a request.
const MAX_ASKED: usize = 10_000;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// These builds.
    pub builds: BTreeSet<BuildId>,
    /// All builds of these releases.
    pub releases: BTreeSet<String>,
}

impl Asked {
    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.builds.is_empty() && self.releases.is_empty()
    }

    fn len(&self) -> usize {
        self.builds.len() + self.releases.len()
    }

    /// The first so many of it.
    fn first(&self, count: usize) -> Self {
        let builds: BTreeSet<_> = self.builds.iter().take(count).cloned().collect();
        let room = count - builds.len();
        Self { builds, releases: self.releases.iter().take(room).cloned().collect() }
    }
}

/// What is known of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The server has never seen it.
    Unknown,
    /// It has no plan.
    Unresolved,
    /// It has one, but not one to be used with the key that is set.
    Refused,
    /// It has one.
    Resolved,
}

/// A build, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Which.
    pub build_id: BuildId,
    /// Whether there is a plan.
    pub status: State,
    /// Why not.
    pub reason: Option<String>,
}

/// What was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of each build.
    pub builds: BTreeMap<BuildId, (State, Option<String>)>,
    /// Of each release its builds, all of them.
    pub releases: BTreeMap<String, BTreeSet<BuildId>>,
}

impl Outcome {
    /// Notes this, where it is more than was known.
    pub fn add(&mut self, build: Build) {
        let Build { build_id, status, reason } = build;
        let known = self.builds.entry(build_id).or_insert((status, reason.clone()));
        if known.0 < status {
            *known = (status, reason);
        }
    }

    /// Notes a build of a release.
    fn add_release(&mut self, release: Release) {
        let builds = self.releases.entry(release.release).or_default();
        builds.extend(release.builds.iter().map(|build| build.build_id.clone()));
        release.builds.into_iter().for_each(|build| self.add(build));
    }
}

#[derive(Serialize)]
struct Request<'a> {
    build_ids: &'a BTreeSet<BuildId>,
    releases: &'a BTreeSet<String>,
    only: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Build>,
    #[serde(default)]
    releases: Vec<Release>,
    complete: bool,
}

#[derive(Deserialize)]
struct Release {
    release: String,
    builds: Vec<Build>,
}

/// Asks one server for all of it, and notes what it says, also where it breaks off. Whether it can be
/// asked so at all.
pub async fn ask(
    http: &Http,
    server: &Server,
    asked: &Asked,
    outcome: &mut Outcome,
) -> Result<bool, AskError> {
    let (mut left, mut silent) = (asked.clone(), 0);
    // A server that answers for one at a time would be asked for hours.
    let most = 16 + asked.len() / 100;
    for _ in 0..most {
        if left.is_empty() {
            break;
        }
        let part = left.first(MAX_ASKED);
        let request = Request { build_ids: &part.builds, releases: &part.releases, only: "status" };
        let request = serde_json::to_vec(&request)
            .map_err(|error| AskError::NoAnswer(format!("cannot be asked: {error}")))?;
        let Some(answer) = http.plans(server, request).await? else { return Ok(false) };
        if note(&answer, &part, &mut left, outcome)? == 0 {
            // Asked again and alone: it cannot say, of a damaged record or of what others did not tell it.
            left.builds.retain(|build| !part.builds.contains(build));
            left.releases.retain(|release| !part.releases.contains(release));
            silent += part.len();
        }
    }
    silent += left.len();
    if silent == 0 {
        return Ok(true);
    }
    let all = asked.len();
    Err(AskError::NoAnswer(format!("of {silent} of {all} builds and releases it cannot tell now")))
}

/// Notes an answer, and takes it from what is left to ask for. How much it is.
fn note(
    bytes: &[u8],
    part: &Asked,
    left: &mut Asked,
    outcome: &mut Outcome,
) -> Result<usize, AskError> {
    let wrong = |what: String| Err(AskError::NoAnswer(format!("its answer to /v1/plans {what}")));
    if bytes.len() > MAX_PLANS {
        return wrong(format!("has more than {MAX_PLANS} bytes"));
    }
    let mut answer: Answer = match serde_json::from_slice(bytes) {
        Ok(answer) => answer,
        Err(error) => return wrong(format!("is not what it should be: {error}")),
    };
    let all = answer.releases.iter_mut().flat_map(|release| &mut release.builds);
    for build in answer.results.iter_mut().chain(all) {
        if build.status == State::Refused {
            return wrong("says of a plan that it is refused, which only a client can".to_owned());
        }
        // Names of reasons are such words; newer servers may have other ones.
        let word = |reason: &String| {
            reason.len() <= 64 && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        build.reason = mem::take(&mut build.reason).filter(word);
    }
    for build in answer.results {
        if !part.builds.contains(&build.build_id) {
            return wrong(format!("is of build {}, which was not asked for", build.build_id));
        }
        left.builds.remove(&build.build_id);
        outcome.add(build);
    }
    for release in answer.releases {
        if !part.releases.contains(&release.release) {
            return wrong("is of a release that was not asked for".to_owned());
        }
        left.releases.remove(&release.release);
        outcome.add_release(release);
    }
    let asked = part.len();
    let missing = part.builds.intersection(&left.builds).count()
        + part.releases.intersection(&left.releases).count();
    if missing > 0 && answer.complete {
        return wrong(format!("calls itself complete, but leaves out {missing} of {asked}"));
    }
    Ok(asked - missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn id(byte: u8) -> BuildId {
        BuildId::from_bytes(&[byte; 20]).unwrap()
    }

    fn asked() -> Asked {
        let releases = ["6.1".to_owned(), "6.12".to_owned()];
        Asked { builds: [id(1), id(2)].into(), releases: releases.into() }
    }

    fn noted(answer: &serde_json::Value) -> Result<(Asked, Outcome), String> {
        let (mut left, mut outcome) = (asked(), Outcome::default());
        let noted = note(answer.to_string().as_bytes(), &asked(), &mut left, &mut outcome);
        noted.map(|_| (left, outcome)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_asked_for_again() {
        let (left, outcome) = noted(&json!({
            "results": [{"build_id": id(2), "status": "unresolved", "reason": "no_site"}],
            "releases": [{"release": "6.12", "builds": [
                {"build_id": id(3), "status": "resolved", "reason": null},
                {"build_id": id(4), "status": "unresolved", "reason": "\u{1b}[2J"},
            ]}],
            "complete": false,
        }))
        .unwrap();
        assert_eq!(left, Asked { builds: [id(1)].into(), releases: ["6.1".to_owned()].into() });
        assert_eq!(outcome.releases["6.12"], [id(3), id(4)].into());
        assert_eq!(outcome.builds[&id(2)], (State::Unresolved, Some("no_site".to_owned())));
        assert_eq!(outcome.builds[&id(4)], (State::Unresolved, None), "no word, no reason");
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let result =
            |byte, status: &str| json!({"build_id": id(byte), "status": status, "reason": null});
        for (answer, says) in [
            (
                json!({"results": [], "complete": true}),
                "calls itself complete, but leaves out 4 of 4",
            ),
            (json!({"results": [result(3, "resolved")], "complete": false}), "was not asked for"),
            (json!({"results": [result(1, "refused")], "complete": false}), "only a client can"),
            (
                json!({"results": [result(1, "fine")], "complete": false}),
                "is not what it should be",
            ),
            (
                json!({"releases": [{"release": "7.0", "builds": []}], "complete": false}),
                "a release",
            ),
            (json!([]), "is not what it should be"),
        ] {
            let error = noted(&answer).unwrap_err();
            assert!(error.contains(says), "{answer}: {error}");
        }
    }

    #[test]
    fn the_best_that_any_server_says_counts() {
        let mut outcome = Outcome::default();
        for (status, reason) in [
            (State::Unknown, None),
            (State::Resolved, None),
            (State::Unresolved, Some("no_site".to_owned())),
        ] {
            outcome.add(Build { build_id: id(1), status, reason });
        }
        assert_eq!(outcome.builds[&id(1)], (State::Resolved, None));
    }

    #[test]
    fn requests_are_of_a_bounded_size() {
        let builds = (0..20_000_u32).map(|n| BuildId::from_bytes(&n.to_be_bytes()).unwrap());
        let mut all = Asked { builds: builds.collect(), ..asked() };
        let part = all.first(MAX_ASKED);
        assert_eq!((part.builds.len(), part.releases.len()), (10_000, 0));
        all.builds = all.builds.into_iter().take(9_999).collect();
        let part = all.first(MAX_ASKED);
        assert_eq!((part.builds.len(), part.releases.len()), (9_999, 1));
    }

    proptest! {
        #[test]
        fn any_answer_ends(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = note(&bytes, &asked(), &mut asked(), &mut Outcome::default());
        }
    }
}
