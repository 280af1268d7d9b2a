//! What a run has: what is attached, the rulesets' names, what was counted, and where it all goes.

use super::{
    BATCH, INITSTATE, LEAST_RECORD, Next, View,
    printing::{Output, Settled},
    signals::{End, Ended},
    summary::summary,
    unless_unread,
};
use crate::{
    attach::{self, AttachError, Attached, Contradiction, Counters, Wanted},
    cli::Common,
    counts::{Earlier, Row},
    doctor,
    failure::{Failure, Refusal},
    host::Host,
    lookup::{self, Found, Settings},
    metrics::{self, Exposition},
    names::Names,
    running::{self, Running},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

/// A run.
pub(super) struct Session<'a> {
    common: &'a Common,
    settings: &'a Settings,
    wanted: Wanted,
    host: Host,
    /// `None` while nf_tables is not there.
    pub(super) now: Option<Now>,
    names: Names,
    pub(super) output: Output<'a>,
    metrics: Option<Metrics>,
    /// Of programs that went with an earlier nf_tables.
    before: Counters,
    /// What they had counted by rule.
    earlier: Earlier,
    without: Option<Without>,
    /// The records of contradicted plans, should there be no cache for them.
    disowned: Vec<Vec<u8>>,
}

/// What Prometheus is told.
struct Metrics {
    server: metrics::server::Server,
    text: Exposition,
}

/// What is attached to the nf_tables that runs now.
pub(super) struct Now {
    attached: Attached,
    pub(super) ring: AsyncFd<OwnedFd>,
    module: Option<u64>,
    /// The record that the plan is in.
    record: Vec<u8>,
}

/// A plan was contradicted, and the run goes on without one.
struct Without {
    /// When servers are asked for another.
    again: Instant,
    /// How long after that the next time.
    pause: Duration,
}

/// The first and the longest pause between two questions for another plan.
const PAUSES: [Duration; 2] = [Duration::from_mins(1), Duration::from_hours(1)];

impl<'a> Session<'a> {
    /// Nothing is attached yet.
    pub(super) async fn new(
        common: &'a Common,
        view: View<'_>,
        settings: &'a Settings,
    ) -> Result<Self, Failure> {
        let root = &common.ask.root;
        let output = Output::new(view, &common.filter, root).map_err(Failure::Output)?;
        let mut metrics = None;
        if let Some(address) = common.metrics_listen {
            let listening =
                metrics::server::Server::listen(address, metrics::server::Limits::default()).await;
            let server = listening.map_err(|source| Failure::Listen { address, source })?;
            metrics = Some(Metrics { server, text: Exposition::default() });
        }
        Ok(Self {
            common,
            settings,
            wanted: output.wanted(view, metrics.is_some()),
            host: Host::new(root),
            now: None,
            names: Names::new(root, Path::new("nft")),
            output,
            metrics,
            before: Counters::default(),
            earlier: Earlier::default(),
            without: None,
            disowned: vec![],
        })
    }

    pub(super) async fn attach(&mut self, say: &mut impl FnMut(&str)) -> Result<(), Failure> {
        let running = running::find(&self.host)?;
        let found = self.plan(&running, say).await?;
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
        self.without = None;
        self.now = Some(Now { attached, ring, module, record: found.bytes });
        // What came while it was being attached is there, and may have been announced to nobody.
        self.output.more = true;
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
        let found = lookup::find(self.settings, &running.build_id, warn).await?;
        if self.disowned.contains(&found.bytes) {
            let why = Refusal::Contradicted { kept: PathBuf::from("this run's memory") };
            return Err(Failure::Refused { origin: found.origin, why });
        }
        Ok(found)
    }

    /// What tells one loading of the module from another; `None` where it is built in.
    fn module(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.host.path(INITSTATE)).ok().map(|file| file.ino())
    }

    pub(super) fn refresh_names(&mut self, say: &mut impl FnMut(&str)) {
        if self.now.is_none() {
            return; // without nf_tables there are no rules to list
        }
        self.names.refresh();
        for warning in self.names.warnings() {
            say(&format!("warning: {warning}"));
        }
    }

    /// Has those drops printed that are in the ring, at most so many. Nothing is being written.
    pub(super) fn drain(&mut self, most: usize) -> Result<Next, Failure> {
        let Some(now) = &mut self.now else {
            self.output.more = false;
            return Ok(Next::Wait);
        };
        self.output.drain(&mut now.attached, &mut self.names, most)
    }

    /// What was seen that a right plan does not see.
    ///
    /// # Errors
    /// [`Failure::Contradicted`], or the kernel's maps cannot be read.
    pub(super) fn look_for_contradictions(&mut self) -> Result<(), Failure> {
        let Some(now) = &mut self.now else { return Ok(()) };
        now.attached.agrees().map_err(Failure::Broken)??;
        let disagreement = now.attached.disagreement(&self.host).map_err(Failure::Broken)?;
        disagreement.map_or(Ok(()), |seen| Err(Failure::Contradicted(Box::new(seen))))
    }

    /// Takes the plan out of the kernel and does not use it again. Where Prometheus asks, the run goes on
    /// without one until there is another: a process that is gone can say nothing.
    ///
    /// # Errors
    /// The contradiction, where nobody listens.
    pub(super) fn disown(
        &mut self,
        seen: Box<Contradiction>,
        say: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        self.detach();
        // A plan of --plan is the user's to remove.
        if let (None, Some(now)) = (&self.common.plan, &self.now) {
            self.disowned.push(now.record.clone());
            if let Err(error) = self.settings.cache.disown(&seen.build_id, &now.record) {
                say(&format!("warning: the contradicted plan cannot be remembered: {error}"));
            }
        }
        let failure = Failure::Contradicted(seen);
        let Some(metrics) = self.metrics.as_mut().filter(|_| self.common.plan.is_none()) else {
            return Err(failure);
        };
        metrics.text.contradicted += 1;
        say(&format!("error: {failure}"));
        self.let_go()?;
        self.read_counts(false)?;
        let [pause, _] = PAUSES;
        self.without = Some(Without { again: Instant::now() + pause, pause });
        Ok(())
    }

    /// Prints what the ring holds now, unless stdout does not take it.
    pub(super) async fn catch_up(&mut self, end: &mut End) -> Result<Settled, Failure> {
        // More drops than the ring has room for: a flood that comes as fast as it is printed must not
        // keep this from ending.
        let mut most = self.wanted.ring_size.next_power_of_two() as usize / LEAST_RECORD;
        loop {
            let settled = self.output.settle(end, false).await?;
            if settled != Settled::Written || most == 0 || self.output.has_enough() {
                return Ok(settled);
            }
            self.drain(BATCH)?;
            most = if self.output.more { most.saturating_sub(BATCH) } else { 0 };
        }
    }

    /// Reads what the kernel has counted: for Prometheus, and to `show` it.
    pub(super) fn read_counts(&mut self, show: bool) -> Result<(), Failure> {
        if self.wanted.counts == 0 {
            return Ok(());
        }
        let rows = self.rows()?;
        let counters = self.counters()?;
        // After what was read: what was noted since is not in it.
        if let Some(now) = &self.now {
            now.attached.agrees().map_err(Failure::Broken)??;
        }
        if let Some(Metrics { server, text }) = &mut self.metrics {
            server.publish(text.text(&rows, &counters));
        }
        if show { self.output.show(rows) } else { Ok(()) }
    }

    /// What every rule and policy has dropped, an earlier nf_tables included.
    fn rows(&mut self) -> Result<Vec<Row>, Failure> {
        let counts = match &self.now {
            Some(now) => now.attached.counts().map_err(Failure::Broken)?,
            None => vec![],
        };
        let rows = counts.iter().map(|count| Row::new(count, &mut self.names)).collect();
        Ok(self.earlier.with(rows))
    }

    /// Probes go with the module they are in.
    pub(super) async fn look_after_module(
        &mut self,
        end: &mut End,
        say: &mut impl FnMut(&str),
    ) -> Result<Next, Failure> {
        let module = self.module();
        if self.now.as_ref().is_some_and(|now| now.module == module) {
            return Ok(Next::Wait);
        }
        if let Some(without) = &mut self.without {
            if Instant::now() < without.again {
                return Ok(Next::Wait);
            }
            without.pause = (2 * without.pause).min(PAUSES[1]);
            without.again = Instant::now() + without.pause;
        }
        if self.now.is_some() {
            self.detach();
            let settled = self.catch_up(end).await?;
            if settled == Settled::Ended || self.output.has_enough() {
                return Ok(Next::End);
            }
            self.let_go()?;
            say("nf_tables was unloaded, and its rules with it; waiting for it to come back");
        }
        // While it comes and goes, its files are there in part.
        // Built in, there is no such file; then only another plan is waited for.
        let live = self.host.text(INITSTATE).is_ok_and(|state| state == "live");
        if !live && self.without.is_none() {
            return Ok(Next::Wait);
        }
        // Servers may have to be asked again, and not answer.
        let attached = tokio::select! {
            attached = self.attach(say) => attached,
            Ended = end.heard() => return Ok(Next::End),
        };
        match attached {
            // No other plan yet.
            Err(failure) if self.without.is_some() => {
                say(&format!("still without a plan: {failure}"));
                Ok(Next::Wait)
            }
            attached => attached.map(|()| Next::Wait),
        }
    }

    /// Keeps what was counted, and forgets what was of the nf_tables that is gone: handles are given
    /// again.
    fn let_go(&mut self) -> Result<(), Failure> {
        if self.wanted.counts > 0 {
            let rows = self.rows()?;
            self.earlier.keep(rows);
        }
        self.before = self.counted()?;
        if let Some(mut now) = self.now.take() {
            self.output.leave(&mut now.attached);
        }
        self.names.forget();
        Ok(())
    }

    fn counters(&mut self) -> Result<Counters, Failure> {
        let counters = self.counted()?;
        Ok(Counters { uncounted: counters.uncounted + self.earlier.forgotten(), ..counters })
    }

    /// As the kernel counted.
    fn counted(&mut self) -> Result<Counters, Failure> {
        let before = self.before;
        let Some(now) = &mut self.now else { return Ok(before) };
        Ok(now.attached.counters(&self.host).map_err(Failure::Broken)?.plus(before))
    }

    /// `going_on`: more is to come.
    pub(super) fn summary(
        &mut self,
        going_on: bool,
        say: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let counters = self.counters()?;
        say(&summary(&counters, self.output.fate(), self.wanted.sample, going_on));
        Ok(())
    }

    /// Takes all out of the kernel; what was told can still be read.
    pub(super) fn detach(&mut self) {
        if let Some(now) = &mut self.now {
            now.attached.detach(&self.host);
        }
    }

    /// Prints what came before it was detached, and says what was seen.
    pub(super) async fn end(
        &mut self,
        end: &mut End,
        say: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let shown = self.last(end).await;
        if let Some(now) = &mut self.now {
            self.output.leave(&mut now.attached);
        }
        // Whatever became of stdout.
        self.summary(false, say)?;
        unless_unread(shown)
    }

    async fn last(&mut self, end: &mut End) -> Result<(), Failure> {
        // Those that were asked for are waited for.
        let settled = if self.output.has_enough() {
            self.output.settle(end, true).await?
        } else {
            self.catch_up(end).await?
        };
        if settled == Settled::Written && self.wanted.counts > 0 {
            self.read_counts(true)?;
            self.output.settle(end, false).await?;
        }
        Ok(())
    }
}

/// What tells that something is in the ring.
#[expect(
    deprecated,
    reason = "unsound for types whose descriptor changes, which an OwnedFd's does not"
)]
fn ring_events(attached: &mut Attached) -> Result<AsyncFd<OwnedFd>, AttachError> {
    let fd = attached.events().readable();
    fd.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE))
        .map_err(|error| AttachError::Map("EVENTS", error.to_string()))
}
