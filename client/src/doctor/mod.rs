//! `doctor`: what attaching needs, checked without attaching.
//!
//! Every check ends as ok, missing or unknown. Unknown is what this user may not see, and never
//! counts against the machine: a check that cries wolf is worse than none.

mod kernel;
mod report;
mod rights;

pub use report::{Check, Report, State};

use crate::{
    failure::Failure,
    host::Host,
    lookup::{self, Settings},
    running::{self, Object, RunningError},
    server::{Answer, AskError, Http},
};
use nfdrop_db::{BuildId, plan::Plan};

/// Runs every check. `build_id` replaces the running kernel's.
pub async fn examine(
    host: &Host,
    settings: &Settings,
    build_id: Option<BuildId>,
) -> Result<Report, Failure> {
    let mut checks = vec![kernel::release_and_arch(host)];
    let running = running::find(host);
    checks.push(nf_tables(&running));
    let object = running.as_ref().map_or(Object::Module, |running| running.object);
    let build_id = build_id.or(running.ok().map(|running| running.build_id));
    checks.push(match &build_id {
        Some(build_id) => Check::ok("build-id", build_id),
        None => Check::unknown("build-id", "not known while nf_tables is not there"),
    });
    let (plan_checks, found) = plan(settings, build_id.as_ref()).await?;
    checks.extend(plan_checks);
    checks.extend(whole_kernel(host));
    checks.extend(quick(host, object));
    checks.extend(rights::perf_events(host, false));
    checks.extend(found.as_ref().map(|plan| kernel::sites(host, plan)));
    Ok(Report { checks })
}

/// What could have made the kernel refuse to attach, besides what [`quick`] checks.
pub fn refused(host: &Host) -> Vec<Check> {
    let limits = rights::perf_events(host, true).into_iter().chain(rights::locked_memory(host));
    whole_kernel(host).into_iter().chain(limits).collect()
}

/// What the kernel was built with: takes reading all of its symbols.
fn whole_kernel(host: &Host) -> [Check; 2] {
    let (symbols, config) = (host.symbols(), host.config());
    [
        kernel::kprobes(host, symbols.as_ref(), config.as_ref()),
        kernel::bpf(symbols.as_ref(), config.as_ref()),
    ]
}

/// What is told by a few small files, and therefore checked before every attaching.
pub fn quick(host: &Host, object: Object) -> [Check; 3] {
    [rights::lockdown(host), rights::capabilities(host), kernel::livepatch(host, object)]
}

/// What the self-test needs besides.
pub fn for_selftest(host: &Host) -> Vec<Check> {
    kernel::switched_off(host).into_iter().chain([rights::namespaces(host)]).collect()
}

fn nf_tables(running: &Result<running::Running, RunningError>) -> Check {
    const NAME: &str = "nf_tables";
    match running {
        Ok(running) => Check::ok(
            NAME,
            match running.object {
                Object::Module => "loaded as a module",
                Object::Kernel => "built into the kernel",
            },
        ),
        Err(RunningError::NotLoaded { .. }) => Check::missing(
            NAME,
            "neither loaded nor built in",
            "modprobe nf_tables; if that fails, this kernel comes without it",
        ),
        Err(error @ RunningError::Unreadable { .. }) => Check::unknown(NAME, error),
        Err(error) => Check::missing(NAME, error, "use a kernel whose nf_tables has a build-id"),
    }
}

/// A line per server, and one for the plan; and the plan.
async fn plan(
    settings: &Settings,
    build_id: Option<&BuildId>,
) -> Result<(Vec<Check>, Option<Plan>), Failure> {
    const NAME: &str = "plan";
    let http = Http::new(settings.timeout)?;
    let mut checks = vec![];
    let mut said = vec![];
    for server in &settings.servers {
        let answer = match build_id {
            Some(build_id) => lookup::ask(&http, settings, server, build_id).await.0.map(Some),
            None => http.reach(server).await.map(|_| None),
        };
        let heard = match &answer {
            Ok(Some(Answer::Record(record, _))) => format!("{server} has it: {}", record.status),
            Ok(Some(Answer::NeverSeen)) => format!("{server} has never seen this build"),
            Ok(None) => format!("{server} answers"),
            Err(AskError::Refused(why)) => format!("{server} hands out a refused plan: {why}"),
            Err(AskError::NoAnswer(why)) => format!("{server}: {why}"),
        };
        checks.push(match &answer {
            Err(AskError::NoAnswer(_)) => {
                Check::missing("server", heard, "check URL and network").code(1)
            }
            _ => Check::ok("server", heard),
        });
        if let Some(answer) = answer.transpose() {
            said.push((server.clone(), answer));
        }
    }
    let Some(build_id) = build_id else {
        checks.push(Check::missing(NAME, "cannot be asked for without a build-id", "").code(1));
        return Ok((checks, None));
    };
    let outcome = match lookup::cached(settings, build_id) {
        Ok(Some(found)) => Ok(found),
        Err(withdrawn) if settings.servers.is_empty() => Err(withdrawn),
        Err(withdrawn) => {
            lookup::replaced(withdrawn, lookup::conclude(build_id, said, |_| ()), |_| ())
        }
        Ok(None) if settings.servers.is_empty() => Err(Failure::NoServer),
        Ok(None) => lookup::conclude(build_id, said, |_| ()),
    };
    let outcome = outcome.and_then(|found| found.unresolved().map_or(Ok(found), Err));
    match outcome {
        Ok(found) => {
            // With a plan at hand a silent server is no obstacle.
            checks.iter_mut().for_each(Check::forgive);
            let probes = found.record.plan.as_ref().map_or(0, |plan| plan.probes.len());
            let says = format!("{probes} probes, valid, from {}", found.origin);
            checks.push(Check::ok(NAME, says));
            Ok((checks, found.record.plan))
        }
        Err(failure) => {
            // The last line of its message says what to do.
            let text = failure.to_string();
            let (found, todo) = text.rsplit_once('\n').unwrap_or((&text, ""));
            checks.push(Check::missing(NAME, found, todo).code(failure.code()));
            Ok((checks, None))
        }
    }
}
