//! The run: attach, read drops, name them, print them, and say at the end what was seen and what
//! was not.

use crate::{
    attach::{self, AttachError, Attached, Counters, Wanted, Witnessed, ring},
    cli::{Common, DropFormat, WatchArgs},
    counts::{self, Rates, Row, screen::Screen},
    doctor,
    failure::Failure,
    host::Host,
    lookup::{self, Found, Settings},
    metrics::{self, Exposition},
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
/// Most drops printed before signals and clocks are looked at again: a flood that comes as fast as it
/// is printed must not keep the run from ending.
const BATCH: usize = 4096;
/// Least bytes of the ring that a drop takes; no record is that short.
const LEAST_RECORD: usize = 64;
/// How often is looked whether the module is still the one that was attached to.
const TICK: Duration = Duration::from_secs(1);
/// Most rules and policies that are counted each by itself.
const COUNTS: u32 = 8192;
/// `live`, `coming` or `going`; of a loaded module only.
const INITSTATE: &str = "/sys/module/nf_tables/initstate";

/// What of the drops is shown.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// Each, or with `--aggregate` how many every rule has dropped.
    Lines(&'a WatchArgs),
    /// A table of the rules.
    Top,
}

impl View<'_> {
    /// Options of which each by itself would do.
    fn check(self, common: &Common) -> Result<(), Failure> {
        let refuse = |why| Err(Failure::Options(why));
        match self {
            View::Lines(args) if args.format != DropFormat::Pcapng => Ok(()),
            View::Lines(args) if args.aggregate => refuse(
                "a capture file is of single drops: leave --aggregate out, or --format pcapng",
            ),
            View::Lines(_) if io::stdout().is_terminal() => refuse(
                "a capture file is not for a terminal: redirect it, as in `nfdrop-client --format \
                 pcapng >drops.pcapng` or `… | wireshark -k -i -`",
            ),
            View::Top if !common.filter.addresses.is_empty() => refuse(
                "--address is for single drops, and `top` counts by rule: leave --address out",
            ),
            View::Lines(_) | View::Top => Ok(()),
        }
    }
}

/// Runs until it is told to end. `say` is given what belongs on stderr, without line feed.
pub async fn run(
    common: &Common,
    view: View<'_>,
    settings: &Settings,
    mut say: impl FnMut(&str),
) -> Result<(), Failure> {
    view.check(common)?;
    // The signals first: whoever sends one from now on means this run.
    let mut signals = Signals::new().map_err(Failure::Output)?;
    // Before 5.11 maps count against this limit. Where it cannot be raised, loading says so.
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let host = Host::new(&common.ask.root);
    let mut session = Session::new(common, view, settings, host);
    let running = running::find(&session.host)?;
    if let Some(address) = common.metrics_listen {
        let listening =
            metrics::server::Server::listen(address, metrics::server::Limits::default()).await;
        let server = listening.map_err(|source| Failure::Listen { address, source })?;
        session.metrics = Some(Metrics { server, text: Exposition::default() });
    }
    // Servers that do not answer are waited for.
    tokio::select! {
        attached = session.attach(&running, &mut say) => attached?,
        () = signals.end() => return Ok(()),
    }

    // What is said while a table has the terminal is said afterwards.
    let mut later = vec![];
    let outcome = {
        let screen = session.begin()?;
        let mut tell = |line: &str| if screen { later.push(line.to_owned()) } else { say(line) };
        session.refresh_names(&mut tell);
        session.read_counts(false)?;
        session.watch(&mut signals, &mut tell).await
    };
    session.leave_screen();
    for line in &later {
        say(line);
    }
    session.end(&mut say)?;
    unless_unread(outcome)
}

/// Whoever read stdout and does so no more has read enough.
fn unless_unread(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
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

impl Signals {
    /// Until one says to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

struct Session<'a> {
    common: &'a Common,
    wanted: Wanted,
    /// End after so many.
    count: Option<u64>,
    settings: &'a Settings,
    host: Host,
    /// `None` while nf_tables is not there.
    now: Option<Now>,
    names: Names,
    printing: Printing,
    metrics: Option<Metrics>,
    /// Of programs that went with an earlier nf_tables.
    before: Counters,
    printed: u64,
    filtered: u64,
    /// The ring was left before it was empty, and the kernel wakes nobody for what is in it.
    more: bool,
}

/// Where what is seen goes.
enum Printing {
    /// Drops, each by itself.
    Drops(Printer),
    /// What every rule has dropped since the last time.
    Counts { json: bool, rates: Reading },
    /// The same as a table.
    Table { screen: Option<Screen>, rates: Reading },
}

/// What Prometheus is told.
struct Metrics {
    server: metrics::server::Server,
    text: Exposition,
}

/// The counts as they were, and when.
struct Reading {
    rates: Rates,
    at: Instant,
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
    fn new(common: &'a Common, view: View<'_>, settings: &'a Settings, host: Host) -> Self {
        let root = &common.ask.root;
        let rates = || Reading { rates: Rates::default(), at: Instant::now() };
        let printing = match view {
            View::Lines(args) if args.aggregate => {
                Printing::Counts { json: args.format == DropFormat::Json, rates: rates() }
            }
            View::Lines(args) => {
                let colour = output::colour(&io::stdout());
                Printing::Drops(Printer::new(args.format, colour, namespace::own(root)))
            }
            View::Top => Printing::Table { screen: None, rates: rates() },
        };
        let events = matches!(printing, Printing::Drops(_));
        let counted = !events || common.metrics_listen.is_some();
        let (packet_size, sample, ring_size, count) = match view {
            View::Lines(args) => (args.snaplen, args.sample, args.ring_size << 10, args.count),
            View::Top => (0, 1, 0, None),
        };
        let counts = if counted { COUNTS } else { 0 };
        Self {
            common,
            wanted: Wanted { events, packet_size, sample, ring_size, counts },
            count,
            settings,
            names: Names::new(root, Path::new("nft")),
            host,
            now: None,
            printing,
            metrics: None,
            before: Counters::default(),
            printed: 0,
            filtered: 0,
            more: false,
        }
    }

    /// Before the first drop: a capture file's header, the terminal for a table. Returns whether the
    /// terminal is taken.
    fn begin(&mut self) -> Result<bool, Failure> {
        let mut stdout = io::stdout().lock();
        match &mut self.printing {
            Printing::Drops(printer) => {
                let begun = printer.begin(&mut stdout).and_then(|()| stdout.flush());
                begun.map_err(Failure::Output).map(|()| false)
            }
            Printing::Counts { .. } => Ok(false),
            Printing::Table { screen, .. } => {
                std::mem::drop(stdout);
                *screen = Screen::enter().map_err(Failure::Output)?;
                Ok(screen.is_some())
            }
        }
    }

    fn leave_screen(&mut self) {
        if let Printing::Table { screen, .. } = &mut self.printing {
            *screen = None;
        }
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
        // Before: should it go meanwhile, what is attached is seen to be old.
        let module = self.module();
        let attached = attach::attach(&self.host, plan, &self.wanted);
        let mut attached = attached.map_err(|error| {
            if matches!(error, AttachError::OtherBytes { .. } | AttachError::NoInstruction(_)) {
                // A plan of --plan says nothing of the one that is kept.
                if self.common.plan.is_none() {
                    self.settings.cache.forget(&running.build_id);
                }
                return Failure::OtherBytes(error);
            }
            let checks = doctor::refused(&self.host);
            let complaints = checks.iter().filter_map(doctor::Check::complaint).collect();
            Failure::Attach { error, checks: complaints }
        })?;
        if let Some(why) = attached.not_compared() {
            say(&format!("note: the kernel's code was not compared with the plan: {why}"));
        }
        let ring = ring_events(&mut attached).map_err(Failure::Broken)?;
        self.now = Some(Now { attached, ring, module });
        let sites: Vec<_> =
            plan.probes.iter().map(|probe| format!("{} {}", probe.event, probe.offset)).collect();
        say(&format!("attached: {} ({})", sites.join(", "), found.origin));
        Ok(())
    }

    async fn plan(&self, running: &Running, say: &mut impl FnMut(&str)) -> Result<Found, Failure> {
        if let Some(file) = &self.common.plan {
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
        let end = self.common.duration.map(|duration| Instant::now() + duration);
        let mut tick = time::interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                readable = readable(self.now.as_ref(), self.more) => {
                    readable.map_err(Failure::Output)?;
                    if !self.more {
                        time::sleep(PAUSE).await;
                    }
                    self.drain(BATCH)?
                }
                _ = signals.tell.recv() => {
                    let next = self.drain(self.ring_holds())?;
                    self.summary(say)?;
                    next
                }
                _ = tick.tick() => {
                    let next = self.look_after_module(say).await?;
                    self.refresh_names(say);
                    self.read_counts(true)?;
                    next
                }
                () = until(end) => Next::End,
                () = quit(&self.printing) => Next::End,
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

    /// More drops than the ring has room for.
    fn ring_holds(&self) -> usize {
        self.wanted.ring_size.next_power_of_two() as usize / LEAST_RECORD
    }

    /// Prints what is in the ring, at most so many drops.
    fn drain(&mut self, most: usize) -> Result<Next, Failure> {
        self.more = false;
        let (Some(now), Printing::Drops(printer)) = (&mut self.now, &mut self.printing) else {
            return Ok(Next::Wait);
        };
        let epoch = epoch();
        let mut stdout = BufWriter::new(io::stdout().lock());
        let mut next = Next::Wait;
        let mut taken = 0;
        loop {
            if taken == most {
                self.more = true;
                break;
            }
            let Some(record) = now.attached.ring().next() else { break };
            taken += 1;
            let Some(mut drop) = ring::decode(&record, epoch) else { continue };
            std::mem::drop(record);
            self.names.complete(&mut drop);
            let named = Named::new(&drop, self.names.look_up(&drop));
            if !self.common.filter.matches(&named) {
                self.filtered += 1;
                continue;
            }
            printer.print(&named, &mut stdout).map_err(Failure::Output)?;
            self.printed += 1;
            if self.count.is_some_and(|count| self.printed >= count) {
                next = Next::End;
                break;
            }
        }
        stdout.flush().map_err(Failure::Output)?;
        Ok(next)
    }

    /// Reads what the kernel has counted: for Prometheus, and to `show` it.
    fn read_counts(&mut self, show: bool) -> Result<(), Failure> {
        if self.wanted.counts == 0 {
            return Ok(());
        }
        let counts = match &self.now {
            Some(now) => now.attached.counts().map_err(Failure::Broken)?,
            None => vec![],
        };
        let rows: Vec<_> = counts.iter().map(|count| Row::new(count, &mut self.names)).collect();
        let counters = self.counters()?;
        if let Some(Metrics { server, text }) = &mut self.metrics {
            server.publish(text.text(&rows, &counters));
        }
        if show { self.show_counts(rows) } else { Ok(()) }
    }

    fn show_counts(&mut self, mut rows: Vec<Row>) -> Result<(), Failure> {
        let (Printing::Counts { rates, .. } | Printing::Table { rates, .. }) = &mut self.printing
        else {
            return Ok(());
        };
        rows.retain(|row| self.common.filter.matches_place(&row.place()));
        let seconds = rates.at.elapsed().as_secs_f64();
        rates.at = Instant::now();
        let rated = rates.rates.read(rows, seconds);
        let time = clock(ClockId::Realtime);
        let colour = output::colour(&io::stdout());
        let text = match &mut self.printing {
            Printing::Counts { json: true, .. } => counts::json(time, &rated),
            Printing::Table { screen: Some(screen), .. } => {
                let table = counts::table(time, &rated, screen.size(), colour);
                return screen.draw(&table).map_err(Failure::Output);
            }
            Printing::Table { .. } => {
                let all = counts::Size { columns: usize::MAX, lines: usize::MAX };
                Ok(counts::table(time, &rated, all, false))
            }
            _ => Ok(counts::text(time, &rated)),
        };
        let mut stdout = io::stdout().lock();
        text.and_then(|text| stdout.write_all(text.as_bytes()))
            .and_then(|()| stdout.flush())
            .map_err(Failure::Output)
    }

    /// Probes go with the module they are in.
    async fn look_after_module(&mut self, say: &mut impl FnMut(&str)) -> Result<Next, Failure> {
        let module = self.module();
        if self.now.as_ref().is_some_and(|now| now.module == module) {
            return Ok(Next::Wait);
        }
        if self.now.is_some() {
            if self.drain(usize::MAX)? == Next::End {
                return Ok(Next::End);
            }
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
        let drops = matches!(self.printing, Printing::Drops(_));
        let shown = drops.then_some((self.printed, self.filtered));
        say(&summary(&counters, shown));
        Ok(())
    }

    /// Detaches first, so that the last drops are printed too.
    fn end(&mut self, say: &mut impl FnMut(&str)) -> Result<(), Failure> {
        if let Some(now) = &mut self.now {
            now.attached.detach(&self.host);
        }
        let limited = self.count.is_some_and(|count| self.printed >= count);
        let drained = if limited { Ok(Next::End) } else { self.drain(usize::MAX) };
        let shown = drained.and_then(|_| self.read_counts(true));
        // Whatever became of stdout.
        self.summary(say)?;
        unless_unread(shown)
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

/// `more`: something was left there, of which the kernel tells nothing.
async fn readable(now: Option<&Now>, more: bool) -> io::Result<()> {
    match now {
        Some(_) if more => {
            // For signals and clocks, which are looked at in between only.
            tokio::task::yield_now().await;
            Ok(())
        }
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

async fn quit(printing: &Printing) {
    match printing {
        Printing::Table { screen: Some(screen), .. } => screen.quit().await,
        _ => std::future::pending().await,
    }
}

/// Nanoseconds from 1970 to the zero of the monotonic clock.
fn epoch() -> u64 {
    clock(ClockId::Realtime).wrapping_sub(clock(ClockId::Monotonic))
}

/// In nanoseconds.
fn clock(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `shown`: drops printed and filtered out, where they are printed each by itself.
fn summary(counters: &Counters, shown: Option<(u64, u64)>) -> String {
    let Counters { rule_drops, policy_drops, lost, uncounted, missed, .. } = counters;
    let drops = counters.drops();
    let fate = match shown {
        Some((printed, filtered)) => {
            format!("{printed} printed, {filtered} filtered out, {lost} lost in the ring")
        }
        None => format!("{uncounted} beyond the {COUNTS} rules that are counted"),
    };
    let share = match counters.witnessed {
        Some(Witnessed { attributed, of }) => {
            format!("attributed {attributed} of {of} packets freed as dropped by netfilter")
        }
        None => "this kernel does not tell how many netfilter dropped".to_owned(),
    };
    format!(
        "summary: {drops} drops seen, {rule_drops} by rules and {policy_drops} by policies; {fate}; \
         {missed} missed by the kprobes; {share}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_left_is_no_failure() {
        let output = |kind: io::ErrorKind| unless_unread(Err(Failure::Output(kind.into())));
        assert!(output(io::ErrorKind::BrokenPipe).is_ok());
        assert!(output(io::ErrorKind::StorageFull).is_err());
        assert!(unless_unread(Err(Failure::NoServer)).is_err());
    }
}
