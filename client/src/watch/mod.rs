//! The run: attach, read drops, name them, print them, and say at the end what was seen and what
//! was not.

mod printing;
mod session;
mod signals;
mod summary;

use crate::{
    cli::{Common, WatchArgs},
    failure::Failure,
    lookup::Settings,
    output::DropFormat,
};
use printing::{Settled, quit};
use rustix::process::{Resource, Rlimit, setrlimit};
use session::{Now, Session};
use signals::{Ended, Signals};
use std::{
    io::{self, IsTerminal},
    time::Duration,
};
use tokio::time::{self, Instant, MissedTickBehavior};

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
    let mut session = Session::new(common, view, settings).await?;
    // Servers that do not answer are waited for.
    tokio::select! {
        attached = session.attach(&mut say) => attached?,
        Ended = signals.end.heard() => return Ok(()),
    }

    // What is said while a table has the terminal is said afterwards.
    let mut later = vec![];
    let outcome = {
        let screen = session.output.begin()?;
        let mut tell = |line: &str| if screen { later.push(line.to_owned()) } else { say(line) };
        session.refresh_names(&mut tell);
        let end = common.duration.map(|duration| Instant::now() + duration);
        loop {
            let ended = watch(&mut session, end, &mut signals, &mut tell).await;
            match ended {
                Err(Failure::Contradicted(seen)) => match session.disown(seen, &mut tell) {
                    Ok(()) => {}
                    Err(failure) => break Err(failure),
                },
                ended => break ended,
            }
        }
    };
    // Before anything that may wait for a terminal.
    session.detach();
    session.output.leave_screen();
    for line in &later {
        say(line);
    }
    if let Err(Failure::Contradicted(_)) = outcome {
        // What was being printed were drops.
        let _ = session.output.settle(&mut signals.end, false).await;
        return outcome;
    }
    match session.end(&mut signals.end, &mut say).await {
        // Seen since the last look.
        Err(Failure::Contradicted(seen)) => {
            session.disown(seen.clone(), &mut say)?;
            return Err(Failure::Contradicted(seen));
        }
        ended => ended?,
    }
    unless_unread(outcome)
}

/// Whoever read stdout and does so no more has read enough.
fn unless_unread(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Why the loop ends.
#[derive(PartialEq, Eq)]
enum Next {
    Wait,
    End,
}

async fn watch(
    session: &mut Session<'_>,
    end: Option<Instant>,
    signals: &mut Signals,
    say: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    session.read_counts(false)?;
    let mut tick = time::interval_at(Instant::now() + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // While stdout takes nothing, the ring is left alone and the kernel counts what it loses.
        let busy = session.output.writer.busy();
        let next = tokio::select! {
            readable = readable(session.now.as_ref(), session.output.more), if !busy => {
                readable.map_err(Failure::Output)?;
                if !session.output.more {
                    time::sleep(PAUSE).await;
                }
                session.drain(BATCH)?
            }
            written = session.output.writer.written(), if busy => {
                written.map_err(Failure::Output)?;
                Next::Wait
            }
            _ = signals.tell.recv() => {
                let settled = session.catch_up(&mut signals.end).await?;
                session.summary(true, say)?;
                let ended = settled == Settled::Ended || session.output.has_enough();
                if ended { Next::End } else { Next::Wait }
            }
            _ = tick.tick() => {
                let next = session.look_after_module(&mut signals.end, say).await?;
                session.refresh_names(say);
                session.look_for_contradictions()?;
                session.read_counts(true)?;
                next
            }
            () = until(end) => Next::End,
            () = quit(&session.output.printing) => Next::End,
            Ended = signals.end.heard() => Next::End,
        };
        if next == Next::End {
            return Ok(());
        }
    }
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
