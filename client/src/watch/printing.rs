//! Where what is seen goes: drops as they come, counts of the rules, or a table of these.

use super::{
    COUNTS, Next, View,
    signals::{End, Ended},
    summary::Fate,
};
use crate::{
    attach::{Attached, Wanted, record},
    counts::{self, Rates, Row, screen::Screen},
    failure::Failure,
    filter::Filter,
    names::{Names, namespace},
    output::{
        self, DropFormat, Named, Printer,
        writer::{Piece, Writer},
    },
};
use rustix::time::{ClockId, clock_gettime};
use std::{fs::File, io, os::fd::AsFd, path::Path, time::Duration};
use tokio::time::{self, Instant};

/// So long is waited for a stdout that takes nothing before it is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Stdout and what is to be shown there.
pub(super) struct Output<'a> {
    pub(super) writer: Writer,
    pub(super) printing: Printing,
    filter: &'a Filter,
    /// End after so many.
    count: Option<u64>,
    /// Drops handed to the writer.
    taken: u64,
    filtered: u64,
    /// Drops that came to nothing.
    left: u64,
    /// The ring was left before it was empty, and the kernel wakes nobody for what is in it.
    pub(super) more: bool,
}

/// What is shown.
pub(super) enum Printing {
    /// Drops, each by itself.
    Drops(Printer),
    /// What every rule has dropped since the last time.
    Counts { json: bool, rates: Reading },
    /// The same as a table.
    Table { screen: Option<Screen>, rates: Reading },
}

/// The counts as they were, and when.
pub(super) struct Reading {
    rates: Rates,
    at: Instant,
}

impl<'a> Output<'a> {
    /// Nothing is written yet.
    pub(super) fn new(view: View<'_>, filter: &'a Filter, root: &Path) -> io::Result<Self> {
        let rates = || Reading { rates: Rates::default(), at: Instant::now() };
        let (printing, count) = match view {
            View::Lines(args) if args.aggregate => {
                (Printing::Counts { json: args.format == DropFormat::Json, rates: rates() }, None)
            }
            View::Lines(args) => {
                let colour = output::colour(&io::stdout());
                let printer = Printer::new(args.format, colour, namespace::own(root));
                (Printing::Drops(printer), args.count)
            }
            View::Top => (Printing::Table { screen: None, rates: rates() }, None),
        };
        // Not `Stdout`, which has a buffer of its own and would hide what is written.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let writer = Writer::new(stdout)?;
        let (taken, filtered, left, more) = (0, 0, 0, false);
        Ok(Self { writer, printing, filter, count, taken, filtered, left, more })
    }

    /// What the programs in the kernel have to tell for this.
    pub(super) fn wanted(&self, view: View<'_>, metrics: bool) -> Wanted {
        let events = matches!(self.printing, Printing::Drops(_));
        let (packet_size, sample, ring_size) = match view {
            View::Lines(args) => (args.snaplen, args.sample, args.ring_size << 10),
            View::Top => (0, 1, 0),
        };
        let counts = if !events || metrics { COUNTS } else { 0 };
        Wanted { events, packet_size, sample, ring_size, counts, only_netns: [0; 2] }
    }

    /// Before the first drop: a capture file's header, the terminal for a table. Returns whether the
    /// terminal is taken.
    pub(super) fn begin(&mut self) -> Result<bool, Failure> {
        match &mut self.printing {
            Printing::Drops(printer) => {
                let mut piece = self.writer.piece();
                let begun = printer.begin(&mut piece.bytes);
                begun.and_then(|()| self.writer.write(piece)).map_err(Failure::Output)?;
                Ok(false)
            }
            Printing::Counts { .. } => Ok(false),
            Printing::Table { screen, .. } => {
                *screen = Screen::enter().map_err(Failure::Output)?;
                Ok(screen.is_some())
            }
        }
    }

    pub(super) fn leave_screen(&mut self) {
        if let Printing::Table { screen, .. } = &mut self.printing {
            *screen = None;
        }
    }

    /// Has those drops printed that are in the ring, at most so many. Nothing is being written.
    pub(super) fn drain(
        &mut self,
        attached: &mut Attached,
        rules: &mut Names,
        most: usize,
    ) -> Result<Next, Failure> {
        self.more = false;
        let Printing::Drops(printer) = &mut self.printing else { return Ok(Next::Wait) };
        let epoch = epoch();
        let mut next = Next::Wait;
        let Piece { mut bytes, mut ends } = self.writer.piece();
        let mut records = 0;
        loop {
            if records == most {
                self.more = true;
                break;
            }
            let decode = |bytes: &[u8]| record::decode(bytes, epoch);
            let Some(decoded) = attached.events().next(decode) else { break };
            records += 1;
            let Some(mut drop) = decoded else { continue };
            rules.complete(&mut drop);
            let named = Named::new(&drop, rules.look_up(&drop));
            if !self.filter.matches(&named) {
                self.filtered += 1;
                continue;
            }
            printer.print(&named, &mut bytes).map_err(Failure::Output)?;
            ends.push(bytes.len());
            self.taken += 1;
            if self.count.is_some_and(|count| self.taken >= count) {
                next = Next::End;
                break;
            }
        }
        // Not before all of these are known to be drops.
        attached.agrees().map_err(Failure::Broken)??;
        self.writer.write(Piece { bytes, ends }).map_err(Failure::Output)?;
        Ok(next)
    }

    /// Whether as many drops as asked for were found.
    pub(super) fn has_enough(&self) -> bool {
        self.count.is_some_and(|count| self.taken >= count)
    }

    /// Empties the ring of drops that are not going to be printed.
    pub(super) fn leave(&mut self, attached: &mut Attached) {
        while attached.events().next(|_| ()).is_some() {
            self.left += 1;
        }
    }

    /// Waits until what was handed over is written, a signal says to end or, if `patiently` is not set,
    /// nothing was written for a second.
    pub(super) async fn settle(
        &mut self,
        end: &mut End,
        patiently: bool,
    ) -> Result<Settled, Failure> {
        while self.writer.busy() {
            let before = self.writer.progress();
            tokio::select! {
                written = self.writer.written() => written.map_err(Failure::Output)?,
                Ended = end.heard() => return Ok(Settled::Ended),
                () = time::sleep(PATIENCE), if !patiently => {
                    if self.writer.progress() == before {
                        return Ok(Settled::Blocked);
                    }
                }
            }
        }
        Ok(Settled::Written)
    }

    /// Shows what the kernel has counted. While the last counts are still being written nothing is
    /// shown: the next ones have it.
    pub(super) fn show(&mut self, mut rows: Vec<Row>) -> Result<(), Failure> {
        let (Printing::Counts { rates, .. } | Printing::Table { rates, .. }) = &mut self.printing
        else {
            return Ok(());
        };
        if self.writer.busy() {
            return Ok(());
        }
        rows.retain(|row| self.filter.matches_rule(&row.dropped_by()));
        let seconds = rates.at.elapsed().as_secs_f64();
        rates.at = Instant::now();
        let rated = rates.rates.read(rows, seconds);
        let time = clock(ClockId::Realtime);
        let colour = output::colour(&io::stdout());
        let text = match &self.printing {
            Printing::Counts { json: true, .. } => {
                counts::json(time, &rated).map_err(Failure::Output)?
            }
            Printing::Table { screen: Some(screen), .. } => {
                screen.frame(&counts::table(time, &rated, screen.size(), colour))
            }
            Printing::Table { .. } => {
                let all = counts::Size { columns: usize::MAX, lines: usize::MAX };
                counts::table(time, &rated, all, false)
            }
            _ => counts::text(time, &rated),
        };
        let mut piece = self.writer.piece();
        piece.bytes.extend(text.as_bytes());
        self.writer.write(piece).map_err(Failure::Output)
    }

    /// What became of drops; `None` where they are not printed each by itself.
    pub(super) fn fate(&self) -> Option<Fate> {
        let (printed, unprinted) = (self.writer.printed(), self.writer.waiting() + self.left);
        let fate = Fate { printed, filtered: self.filtered, unprinted };
        matches!(self.printing, Printing::Drops(_)).then_some(fate)
    }
}

/// What became of what was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is written.
    Written,
    /// Stdout takes nothing.
    Blocked,
    /// A signal came first.
    Ended,
}

/// Until it is pressed, where there are keys.
pub(super) async fn quit(printing: &Printing) {
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
