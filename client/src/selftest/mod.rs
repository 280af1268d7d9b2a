//! `selftest`: whether the plan holds on this kernel, shown with packets and rules of our own.
//!
//! Two network namespaces that nothing outside can reach get a ruleset ([`scenario`]), the plan is attached as it
//! always is, packets are sent, and what the probes report is compared with what the rules counted
//! ([`compare`]). On a live host the kernel leaves out the drops of all other namespaces; in the guest of
//! `nfdrop-ci prove`, where nothing else drops, any other report contradicts the plan.

mod compare;
mod netlink;
mod network;
mod parts;
mod report;
mod ruleset;
mod scenario;
mod sender;
mod setting;

use crate::{
    attach::{self, AttachError, Attached, Count, Wanted, record},
    cli::SelftestArgs,
    doctor, event,
    failure::Failure,
    host::Host,
    lookup::{self, Found, Settings},
    running,
};
use compare::Round;
use network::Namespace;
use nfdrop_db::{
    plan::{Cost, Event, Plan, fields},
    proof::{Drops, LeftOut, Observed, Part, SCENARIO, SetProbe},
};
pub use report::Finished;
use rustix::process::{Resource, Rlimit, setrlimit};
use scenario::Fate;
use sender::Sockets;
use setting::{Setting, nft};
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Longest time that reports are waited for on a live host, and with `--all`: emulated
/// processors are slow.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Longest time that the kernel is given to replace breakpoints by jumps, which it does when it has time.
const JUMPS: Duration = Duration::from_secs(10);
/// Between two looks. Nearly always the first one suffices.
const PAUSE: Duration = Duration::from_millis(5);
/// `NFPROTO_IPV4` and `NF_INET_LOCAL_IN`.
const IP: u8 = 2;
const INET: u8 = 1;
const INPUT: u32 = 1;

/// Runs the self-test of the running kernel's plan.
///
/// # Errors
/// Nothing was found out. A plan that is contradicted is no error here: [`Finished::failure`] has it.
pub async fn run(
    args: &SelftestArgs,
    settings: &Settings,
    mut say: impl FnMut(&str),
) -> Result<Finished, Failure> {
    // Before 5.11 maps count against this limit. Where it cannot be raised, loading says so.
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let host = Host::new(&args.ask.root);
    let running = running::find(&host)?;
    let mut checks = doctor::for_selftest(&host);
    checks.extend(doctor::quick(&host, running.object));
    if let Some(complaint) = checks.iter().find_map(doctor::Check::complaint) {
        return Err(Failure::CannotTest(complaint));
    }
    let found = if let Some(file) = &args.plan {
        lookup::from_file(settings, file, &running.build_id)?
    } else {
        let warn = |line: &str| say(&format!("warning: {line}"));
        lookup::find(settings, &running.build_id, warn).await?
    };
    let plan = match (&found.record.plan, found.unresolved()) {
        (Some(plan), None) => plan,
        (_, Some(failure)) => return Err(failure),
        (None, None) => return Err(Failure::CannotTest("the record has no plan".to_owned())),
    };
    let tested = test(&host, plan, args);
    let finished = tested.map(|tested| tested.finish(&found))?;
    // A plan of --plan is the user's to remove.
    if args.plan.is_none() {
        forget(&finished, &found, settings, &mut say);
    }
    Ok(finished)
}

/// Has a plan that was found to be wrong not used again, as the run that watches does.
fn forget(finished: &Finished, found: &Found, settings: &Settings, say: &mut impl FnMut(&str)) {
    match finished.failure {
        Some(Failure::OtherBytes(_)) => settings.cache.forget(&found.record.build_id),
        Some(_) => {
            if let Err(error) = settings.cache.disown(&found.record.build_id, &found.bytes) {
                say(&format!("warning: the contradicted plan cannot be remembered: {error}"));
            }
        }
        None => {}
    }
}

/// What was found, and the kernel's refusal where it did not take the plan.
struct Tested {
    observed: Observed,
    refused: Option<AttachError>,
}

impl Tested {
    fn finish(self, found: &Found) -> Finished {
        let sentence = self.observed.contradiction();
        let failure = match (self.refused, sentence, &found.record.plan) {
            (Some(error), ..) => Some(Failure::OtherBytes(error)),
            (None, Some(sentence), Some(plan)) => Some(Failure::Disproven {
                build_id: plan.build_id.clone(),
                analyzer: plan.evidence.analyzer.clone(),
                sentence,
            }),
            (None, ..) => None,
        };
        let build_id = found.record.build_id.clone();
        Finished { observed: self.observed, build_id, origin: found.origin.clone(), failure }
    }
}

fn test(host: &Host, plan: &Plan, args: &SelftestArgs) -> Result<Tested, Failure> {
    let setting = setting::set_up(host, args.all)?;
    let sockets = Sockets::open(&setting.scenario, &setting.spaces).map_err(Failure::BrokenTest)?;
    // Without it the drops of others cannot be told from ours, and their events would be a flood.
    let tells_netns = plan.layout.offsets.contains_key(fields::NET_INUM);
    let inodes = [&setting.spaces[0], &setting.spaces[1]].map(|space| space.inode);
    let wanted = Wanted {
        events: tells_netns || args.alone,
        packet_size: 128,
        sample: 1,
        ring_size: 1 << 20,
        counts: 4096,
        only_netns: if args.alone { [0; 2] } else { inodes },
    };
    let attached = match attach::attach(host, plan, &wanted) {
        Ok(attached) => attached,
        Err(error) => return refused(host, plan, setting, error, args.alone),
    };
    let run = Run {
        host,
        plan,
        all: args.all,
        alone: args.alone,
        inodes: tells_netns.then_some(inodes),
        setting,
        attached,
        events: vec![],
        rounds: vec![],
        contradictions: vec![],
    };
    let observed = run.run(&sockets)?;
    Ok(Tested { observed, refused: None })
}

/// Probes that were not set: of a plan that does not fit, or where none can be set.
fn refused(
    host: &Host,
    plan: &Plan,
    setting: Setting,
    error: AttachError,
    alone: bool,
) -> Result<Tested, Failure> {
    let of_plan = match error {
        AttachError::OtherBytes { .. } | AttachError::NoInstruction(_) => true,
        // In the guest all that the kernel may lack was checked.
        AttachError::Probe { .. } => alone,
        _ => false,
    };
    if !of_plan {
        let checks = doctor::refused(host);
        let complaints = checks.iter().filter_map(doctor::Check::complaint).collect();
        return Err(Failure::Attach { error, checks: complaints });
    }
    let observed = Observed {
        scenario: SCENARIO,
        parts: vec![],
        left_out: setting.left_out,
        expected: Drops::default(),
        seen: Drops::default(),
        missed: 0,
        probes: probes(host, plan),
        contradictions: vec![error.to_string()],
    };
    Ok(Tested { observed, refused: Some(error) })
}

/// The probes are set.
struct Run<'a> {
    host: &'a Host,
    plan: &'a Plan,
    all: bool,
    alone: bool,
    /// Of the namespaces; `None` where the plan does not tell where they are.
    inodes: Option<[u32; 2]>,
    setting: Setting,
    attached: Attached,
    events: Vec<event::Drop>,
    rounds: Vec<Round>,
    contradictions: Vec<String>,
}

impl Run<'_> {
    fn run(mut self, sockets: &Sockets) -> Result<Observed, Failure> {
        if self.all {
            self.wait_for_jumps();
        }
        self.rounds(sockets)?;
        let list = |space: &Namespace| -> Result<_, Failure> {
            let listed = nft(space, &["-a", "list", "ruleset"])?;
            let listed = listed.map_err(|why| Failure::BrokenTest(format!("nft: {why}")))?;
            Ok(ruleset::read(&listed))
        };
        let [first, second] = &self.setting.spaces;
        let listings = [list(first)?, list(second)?];
        // What came after all that was waited for.
        let rows = self.read()?;
        if let Some((_, last)) = self.rounds.last_mut() {
            *last = rows;
        }
        let Setting { scenario, parts, .. } = &self.setting;
        let subjects = compare::subjects(scenario, &listings, self.inodes);
        let subjects = subjects.map_err(Failure::BrokenTest)?;
        let compared = compare::compare(scenario, &subjects, &self.rounds, &self.events);
        let compared = compared.map_err(Failure::BrokenTest)?;
        let mut contradictions = self.contradictions;
        let counters = self.attached.counters(self.host).map_err(Failure::Broken)?;
        // Drops elsewhere can be in the way of the probes on a live host, which no plan can help.
        let explained = 1..=counters.missed;
        if !self.alone && contradictions.is_empty() && explained.contains(&compared.only_missing) {
            return Err(Failure::BrokenTest(format!(
                "{} drops were not reported, and the kernel has left out {} hits of the probes",
                compared.only_missing, counters.missed
            )));
        }
        contradictions.extend(compared.contradictions);
        // Where all was seen, what was missed on a live host were drops of others.
        let all_seen = compared.seen == compared.expected && !self.alone;
        let missed = if all_seen { 0 } else { counters.missed };
        // A round that contradicts the plan is the last one.
        let had = |round| self.rounds.iter().any(|(name, _)| *name == round);
        let ran = |part: &Part| match part {
            Part::Nftrace => had("nftrace"),
            Part::Counters => had("counters"),
            _ => true,
        };
        let parts = parts.iter().copied().filter(ran).collect();
        Ok(Observed {
            scenario: SCENARIO,
            parts,
            left_out: self.setting.left_out,
            expected: compared.expected,
            seen: compared.seen,
            missed,
            probes: probes(self.host, self.plan),
            contradictions,
        })
    }

    fn patience(&self) -> Duration {
        PATIENCE[usize::from(self.all)]
    }

    /// A probe that is to become a jump has to work as one. That it does not become one is no contradiction.
    fn wait_for_jumps(&self) {
        let deadline = Instant::now() + JUMPS;
        let is_set = |probe: &SetProbe| {
            probe.cost != Cost::Optimized || probe.kernel_says.contains("[OPTIMIZED]")
        };
        // Without the list there is nothing to wait for.
        while self.host.exists(attach::site::LIST)
            && !probes(self.host, self.plan).iter().all(is_set)
            && Instant::now() < deadline
        {
            thread::sleep(PAUSE);
        }
    }

    /// Everything plain; then with the code that rules of others may switch on, which every packet runs
    /// through. The first round that contradicts the plan is the last.
    fn rounds(&mut self, sockets: &Sockets) -> Result<(), Failure> {
        if !self.round("plain", sockets)? || !self.all {
            return Ok(());
        }
        let mut traces = false;
        match nft(&self.setting.spaces[1], &[scenario::TRACE_ELSEWHERE])? {
            Ok(_) if !self.round("nftrace elsewhere", sockets)? => return Ok(()),
            Ok(_) => match nft(&self.setting.spaces[0], &[scenario::TRACE])? {
                Ok(_) if !self.round("nftrace", sockets)? => return Ok(()),
                Ok(_) => traces = true,
                Err(why) => self.leave_out(Part::Nftrace, why),
            },
            Err(why) => self.leave_out(Part::Nftrace, why),
        }
        let counting = || netlink::add_counting_chain(IP, scenario::COUNTERS_TABLE, INPUT);
        let counts = self.netlink(0, counting);
        if let Err(error) = &counts {
            self.leave_out(Part::Counters, format!("no base chain that counts: {error}"));
        } else if traces && !self.round("nftrace and counters", sockets)? {
            return Ok(());
        }
        if traces {
            self.delete(0, INET, scenario::TRACE_TABLE)?;
            self.delete(1, IP, scenario::TRACE_TABLE)?;
        }
        if counts.is_ok() {
            if !self.round("counters", sockets)? {
                return Ok(());
            }
            self.delete(0, IP, scenario::COUNTERS_TABLE)?;
        }
        self.round("plain again", sockets)?;
        Ok(())
    }

    fn delete(&self, space: usize, family: u8, table: &str) -> Result<(), Failure> {
        let deleted = self.netlink(space, || netlink::delete_table(family, table));
        deleted.map_err(|error| Failure::BrokenTest(format!("deleting table {table}: {error}")))
    }

    fn leave_out(&mut self, part: Part, why: String) {
        self.setting.parts.retain(|other| *other != part);
        self.setting.left_out.push(LeftOut { part, why });
    }

    fn netlink(
        &self,
        space: usize,
        work: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<()> {
        self.setting.spaces[space].inside(work)?
    }

    /// Sends everything once. Whether all was reported, and nothing else.
    fn round(&mut self, name: &'static str, sockets: &Sockets) -> Result<bool, Failure> {
        let scenario = &self.setting.scenario;
        sockets.send(scenario).map_err(Failure::BrokenTest)?;
        let mut expected = Drops::default();
        let rounds = self.rounds.len() as u64 + 1;
        for flow in &scenario.flows {
            match flow.fate {
                Fate::Rule(_) => expected.rule_drop += flow.packets * rounds,
                Fate::Policy => expected.policy_drop += flow.packets * rounds,
                Fate::Accepted => {}
            }
        }
        sockets.receive(scenario, self.patience()).map_err(Failure::BrokenTest)?;
        let deadline = Instant::now() + self.patience();
        let (rows, seen) = loop {
            let rows = self.read()?;
            let mut seen = Drops::default();
            for row in &rows {
                match row.event {
                    Event::RuleDrop => seen.rule_drop += row.packets,
                    Event::PolicyDrop => seen.policy_drop += row.packets,
                }
            }
            let all =
                seen.rule_drop >= expected.rule_drop && seen.policy_drop >= expected.policy_drop;
            if all || Instant::now() >= deadline {
                break (rows, seen);
            }
            thread::sleep(PAUSE);
        };
        self.rounds.push((name, rows));
        let agrees = self.attached.agrees().map_err(Failure::Broken)?;
        if let Err(contradiction) = &agrees {
            self.contradictions.push(contradiction.to_string());
        }
        Ok(agrees.is_ok() && seen == expected)
    }

    /// What was counted since the probes were set; events are taken meanwhile.
    fn read(&mut self) -> Result<Vec<Count>, Failure> {
        while let Some(drop) = self.attached.events().next(|bytes| record::decode(bytes, 0)) {
            self.events.extend(drop);
        }
        let mut rows = self.attached.counts().map_err(Failure::Broken)?;
        // On a live host, where the kernel could not leave out what is of others.
        if !self.alone && self.inodes.is_none() {
            rows.retain(|row| compare::is_ours(row, &self.setting.scenario));
        }
        Ok(rows)
    }
}

/// The plan's probes, with what the kernel says of them now.
fn probes(host: &Host, plan: &Plan) -> Vec<SetProbe> {
    let listed = attach::site::probes(host);
    let says = |offset: u32| {
        let probe = listed.iter().find(|probe| probe.offset == offset);
        probe.map(|probe| probe.says.clone()).unwrap_or_default()
    };
    let probe = |probe: &nfdrop_db::plan::Probe| SetProbe {
        offset: probe.offset,
        cost: probe.cost,
        kernel_says: says(probe.offset.0),
    };
    plan.probes.iter().map(probe).collect()
}
