//! Which kernels of a fleet there are plans for: `plan --hosts`.
//!
//! The servers are asked in order, each for what those before it have no plan for, in batches; one without
//! `/v1/plans`, such as a static copy, build by build. A release may be several builds, and it does not say which
//! of them a host runs: it is covered only where all that any server knows have a plan.
//! With a key each plan's signature is fetched and checked, as it would be on the host.

pub mod batch;
mod hosts;
mod report;

pub use hosts::{Host, HostsError, Wanted, read};
pub use report::Report;

use crate::{
    failure::Failure,
    lookup::{self, Settings},
    server::{Answer, AskError, Http, Server},
};
use batch::{Asked, Build, Outcome, State};
use nfdrop_db::{BuildId, Status};
use tokio::task::JoinSet;

/// Builds that are asked for one by one at the same time.
const AT_A_TIME: usize = 8;

/// Asks the servers for all of `hosts`. `warn` gets what went wrong on the way.
pub async fn find(
    settings: &Settings,
    hosts: Vec<Host>,
    mut warn: impl FnMut(&str),
) -> Result<Report, Failure> {
    if settings.servers.is_empty() {
        return Err(Failure::NoServer);
    }
    let http = Http::new(settings.timeout)?;
    let mut outcome = Outcome::default();
    for server in &settings.servers {
        let asked = open(&hosts, &outcome);
        if asked.is_empty() {
            break;
        }
        if let Err(error) = ask(&http, settings, server, &asked, &mut outcome, &mut warn).await {
            warn(&format!("{server}: {error}"));
        }
    }
    Ok(Report { hosts, outcome })
}

/// What there is no plan for yet.
fn open(hosts: &[Host], outcome: &Outcome) -> Asked {
    let has_plan = |build: &BuildId| {
        outcome.builds.get(build).is_some_and(|(state, _)| *state == State::Resolved)
    };
    let mut asked = Asked::default();
    for host in hosts {
        match &host.wanted {
            Wanted::Build(build) if !has_plan(build) => {
                asked.builds.insert(build.clone());
            }
            Wanted::Release(release) => {
                let builds = outcome.releases.get(release).filter(|builds| !builds.is_empty());
                if !builds.is_some_and(|builds| builds.iter().all(has_plan)) {
                    asked.releases.insert(release.clone());
                }
            }
            Wanted::Build(_) => {}
        }
    }
    asked
}

/// Asks one server.
async fn ask(
    http: &Http,
    settings: &Settings,
    server: &Server,
    asked: &Asked,
    outcome: &mut Outcome,
    warn: &mut impl FnMut(&str),
) -> Result<(), AskError> {
    let mut here = Outcome::default();
    let (mut one_by_one, failed) = match batch::ask(http, server, asked, &mut here).await {
        Ok(true) => (vec![], None),
        Ok(false) => {
            if !asked.releases.is_empty() {
                warn(&format!(
                    "{server} has no /v1/plans, as static copies have none: it cannot be asked for kernel \
                     releases, only for build-ids"
                ));
            }
            (asked.builds.iter().cloned().collect(), None)
        }
        Err(error) => (vec![], Some(error)),
    };
    if settings.key.is_some() {
        // Nothing vouches for what was only said. Each plan is looked at, as the host would.
        let said = here.builds.extract_if(.., |_, (state, _)| *state == State::Resolved);
        one_by_one.extend(said.map(|(build, _)| build));
    }
    let found = ask_each(http, settings, server, one_by_one, &mut here).await;
    here.builds.into_iter().for_each(|(build_id, (status, reason))| {
        outcome.add(Build { build_id, status, reason });
    });
    for (release, builds) in here.releases {
        outcome.releases.entry(release).or_default().extend(builds);
    }
    failed.map_or(found, Err)
}

/// Asks one server for each of these builds, until it fails to answer.
async fn ask_each(
    http: &Http,
    settings: &Settings,
    server: &Server,
    builds: Vec<BuildId>,
    outcome: &mut Outcome,
) -> Result<(), AskError> {
    let mut waiting = builds.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_A_TIME
            && let Some(build) = waiting.next()
        {
            let (http, settings, server) = (http.clone(), settings.clone(), server.clone());
            running.spawn(async move {
                let (answer, _) = lookup::ask(&http, &settings, &server, &build).await;
                (build, answer)
            });
        }
        let Some(done) = running.join_next().await else { return Ok(()) };
        let (build_id, answer) =
            done.map_err(|error| AskError::NoAnswer(format!("asking was cut short: {error}")))?;
        let (status, reason) = match answer {
            Ok(Answer::NeverSeen) => (State::Unknown, None),
            Ok(Answer::Record(record, _)) if record.status == Status::Resolved => {
                (State::Resolved, None)
            }
            Ok(Answer::Record(record, _)) => {
                (State::Unresolved, record.reason.map(|reason| reason.name().to_owned()))
            }
            Err(AskError::Refused(why)) => (State::Refused, Some(why.to_string())),
            Err(error) => return Err(error),
        };
        outcome.add(Build { build_id, status, reason });
    }
}
