//! The run: attach, read drops, name them, print them, and say at the end what was seen and what
//! was not.

use crate::{
    attach::{self, AttachError, Attached, Counters, Wanted, ring},
    cli::{DropFormat, WatchArgs},
    doctor,
    failure::Failure,
    host::Host,
    lookup::{self, Found, Settings},
    names::{Names, namespace},
    output::{self, Named, Printer},
    running::{self, Running},
};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use std::{
    io::{self, BufWriter, IsTerminal, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{self, Instant, MissedTickBehavior},
};

/// Drops are read at most so often: the kernel wakes nobody while some are waiting, so that a flood
/// costs few wake-ups.
const PAUSE: Duration = Duration::from_millis(20);
/// How often is looked whether the module is still the one that was attached to.
const TICK: Duration = Duration::from_secs(1);
/// `live`, `coming` or `going`; of a loaded module only.
const INITSTATE: &str = "/sys/module/nf_tables/initstate";

/// Runs until it is told to end. `say` is given what belongs on stderr, without line feed.
pub async fn run(
    args: &WatchArgs,
    settings: &Settings,
    mut say: impl FnMut(&str),
) -> Result<(), Failure> {
    if args.format == DropFormat::Pcapng && io::stdout().is_terminal() {
        return Err(Failure::Terminal);
    }
    // The signals first: whoever sends one from now on means this run.
    let mut signals = Signals::new().map_err(Failure::Output)?;
    // Before 5.11 maps count against this limit. Where it cannot be raised, loading says so.
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let host = Host::new(&args.target.root);
    let mut session = Session::start(args, settings, host, &mut say).await?;
    let outcome = session.watch(&mut signals, &mut say).await;
    session.end(&mut say)?;
    match outcome {
        // Whoever read it has read enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    tell: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            tell: signal(SignalKind::user_defined1())?,
        })
    }
}

struct Session<'a> {
    args: &'a WatchArgs,
    settings: &'a Settings,
    host: Host,
    /// `None` while nf_tables is not there.
    now: Option<Now>,
    names: Names,
    printer: Printer,
    /// Of programs that went with an earlier nf_tables.
    before: Counters,
    printed: u64,
    filtered: u64,
}

/// What is attached to the nf_tables that runs now.
struct Now {
    attached: Attached,
    ring: AsyncFd<OwnedFd>,
    module: Option<u64>,
}

/// Why the loop ends.
#[derive(PartialEq, Eq)]
enum Next {
    Wait,
    End,
}

impl<'a> Session<'a> {
    async fn start(
        args: &'a WatchArgs,
        settings: &'a Settings,
        host: Host,
        say: &mut impl FnMut(&str),
    ) -> Result<Self, Failure> {
        let names = Names::new(&args.target.root, Path::new("nft"));
        let colour = output::colour(&io::stdout());
        let printer = Printer::new(args.format, colour, namespace::own(&args.target.root));
        let mut session = Self {
            args,
            names,
            printer,
            settings,
            host,
            now: None,
            before: Counters::default(),
            printed: 0,
            filtered: 0,
        };
        let running = running::find(&session.host)?;
        session.attach(&running, say).await?;
        let mut stdout = io::stdout().lock();
        let begun = session.printer.begin(&mut stdout).and_then(|()| stdout.flush());
        begun.map_err(Failure::Output)?;
        session.refresh_names(say);
        Ok(session)
    }

    async fn attach(
        &mut self,
        running: &Running,
        say: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let found = self.plan(running, say).await?;
        let plan = match (&found.record.plan, found.unresolved()) {
            (Some(plan), None) => plan,
            (_, Some(failure)) => return Err(failure),
            (None, None) => return Err(Failure::Missing("the record has no plan".to_owned())),
        };
        let quick = doctor::quick(&self.host, running.object);
        if let Some(complaint) = quick.iter().find_map(doctor::Check::complaint) {
            return Err(Failure::Missing(complaint));
        }
        let wanted = Wanted {
            events: true,
            packet_size: self.args.snaplen,
            sample: self.args.sample,
            ring_size: self.args.ring_size << 10,
            counts: 0,
        };
        let attached = attach::attach(&self.host, plan, &wanted);
        let mut attached = attached.map_err(|error| {
            if matches!(error, AttachError::OtherBytes { .. }) {
                return Failure::OtherBytes(error);
            }
            let checks = doctor::whole_kernel(&self.host);
            let complaints = checks.iter().filter_map(doctor::Check::complaint).collect();
            Failure::Attach { error, checks: complaints }
        })?;
        if let Some(why) = attached.not_compared() {
            say(&format!("note: the kernel's code was not compared with the plan: {why}"));
        }
        let ring = ring_events(&mut attached).map_err(Failure::Broken)?;
        self.now = Some(Now { attached, ring, module: self.module() });
        let sites: Vec<_> =
            plan.probes.iter().map(|probe| format!("{} {}", probe.event, probe.offset)).collect();
        say(&format!("attached: {} ({})", sites.join(", "), found.origin));
        Ok(())
    }

    async fn plan(&self, running: &Running, say: &mut impl FnMut(&str)) -> Result<Found, Failure> {
        if let Some(file) = &self.args.plan {
            return lookup::from_file(self.settings, file, &running.build_id);
        }
        let warn = |line: &str| say(&format!("warning: {line}"));
        lookup::find(self.settings, &running.build_id, warn).await
    }

    /// What tells one loading of the module from another; `None` where it is built in.
    fn module(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.host.path(INITSTATE)).ok().map(|file| file.ino())
    }

    async fn watch(
        &mut self,
        signals: &mut Signals,
        say: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let end = self.args.duration.map(|duration| Instant::now() + duration);
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                readable = readable(self.now.as_ref()) => {
                    readable.map_err(Failure::Output)?;
                    time::sleep(PAUSE).await;
                    self.drain()?
                }
                _ = signals.tell.recv() => {
                    let next = self.drain()?;
                    self.summary(say)?;
                    next
                }
                _ = tick.tick() => {
                    let next = self.look_after_module(say).await?;
                    self.refresh_names(say);
                    next
                }
                () = until(end) => Next::End,
                _ = signals.interrupt.recv() => Next::End,
                _ = signals.terminate.recv() => Next::End,
                _ = signals.hang_up.recv() => Next::End,
            };
            if next == Next::End {
                return Ok(());
            }
        }
    }

    fn refresh_names(&mut self, say: &mut impl FnMut(&str)) {
        if self.now.is_none() {
            return; // without nf_tables there are no rules to list
        }
        self.names.refresh();
        for warning in self.names.warnings() {
            say(&format!("warning: {warning}"));
        }
    }

    /// Prints all that is in the ring.
    fn drain(&mut self) -> Result<Next, Failure> {
        let Some(now) = &mut self.now else { return Ok(Next::Wait) };
        let epoch = epoch();
        let mut stdout = BufWriter::new(io::stdout().lock());
        let mut next = Next::Wait;
        while let Some(record) = now.attached.ring().next() {
            let Some(mut drop) = ring::decode(&record, epoch) else { continue };
            std::mem::drop(record);
            self.names.complete(&mut drop);
            let named = Named::new(&drop, self.names.look_up(&drop));
            self.printer.print(&named, &mut stdout).map_err(Failure::Output)?;
            self.printed += 1;
            if self.args.count.is_some_and(|count| self.printed >= count) {
                next = Next::End;
                break;
            }
        }
        stdout.flush().map_err(Failure::Output)?;
        Ok(next)
    }

    /// Probes go with the module they are in.
    async fn look_after_module(&mut self, say: &mut impl FnMut(&str)) -> Result<Next, Failure> {
        let module = self.module();
        if self.now.as_ref().is_some_and(|now| now.module == module) {
            return Ok(Next::Wait);
        }
        if self.now.is_some() {
            self.drain()?;
            self.let_go()?;
            say("nf_tables was unloaded, and its rules with it; waiting for it to come back");
        }
        // While it comes and goes, its files are there in part.
        if !self.host.text(INITSTATE).is_ok_and(|state| state == "live") {
            return Ok(Next::Wait);
        }
        let running = running::find(&self.host)?;
        self.attach(&running, say).await?;
        Ok(Next::Wait)
    }

    /// Detaches, and keeps what was counted.
    fn let_go(&mut self) -> Result<(), Failure> {
        if let Some(mut now) = self.now.take() {
            now.attached.detach(&self.host);
            let counters = now.attached.counters(&self.host).map_err(Failure::Broken)?;
            self.before = counters.plus(self.before);
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<Counters, Failure> {
        let before = self.before;
        let Some(now) = &mut self.now else { return Ok(before) };
        let counters = now.attached.counters(&self.host).map_err(Failure::Broken)?;
        Ok(counters.plus(before))
    }

    fn summary(&mut self, say: &mut impl FnMut(&str)) -> Result<(), Failure> {
        let counters = self.counters()?;
        say(&summary(&counters, self.printed, self.filtered));
        Ok(())
    }

    /// Detaches first, so that the last drops are printed too.
    fn end(&mut self, say: &mut impl FnMut(&str)) -> Result<(), Failure> {
        if let Some(now) = &mut self.now {
            now.attached.detach(&self.host);
        }
        let limited = self.args.count.is_some_and(|count| self.printed >= count);
        let drained = if limited { Ok(Next::End) } else { self.drain() };
        self.summary(say)?;
        match drained {
            Err(Failure::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Output(error))
            }
            _ => Ok(()),
        }
    }
}

/// What tells that something is in the ring.
#[expect(
    deprecated,
    reason = "unsound for types whose descriptor changes, which an OwnedFd's does not"
)]
fn ring_events(attached: &mut Attached) -> Result<AsyncFd<OwnedFd>, AttachError> {
    let fd = attached.ring().as_fd().try_clone_to_owned();
    fd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE))
        .map_err(|error| AttachError::Map("EVENTS", error.to_string()))
}

async fn readable(now: Option<&Now>) -> io::Result<()> {
    match now {
        Some(now) => {
            now.ring.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Nanoseconds from 1970 to the zero of the monotonic clock.
fn epoch() -> u64 {
    let nanoseconds = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    nanoseconds(ClockId::Realtime).wrapping_sub(nanoseconds(ClockId::Monotonic))
}

fn summary(counters: &Counters, printed: u64, filtered: u64) -> String {
    let Counters { rule_drops, policy_drops, lost, missed, .. } = counters;
    let drops = counters.drops();
    let share = match counters.witnessed {
        Some(all) => format!("attributed {drops} of {all} packets freed as dropped by netfilter"),
        None => "this kernel does not tell how many netfilter dropped".to_owned(),
    };
    format!(
        "summary: {drops} drops seen, {rule_drops} by rules and {policy_drops} by policies; {printed} \
         printed, {filtered} filtered out, {lost} lost in the ring; {missed} missed by the kprobes; \
         {share}"
    )
}
