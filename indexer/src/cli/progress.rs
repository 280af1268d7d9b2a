//! How a crawl goes: bars on a terminal, a line per event elsewhere and in both cases a line per
//! kernel.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use nfdrop_db::{Event, Plan};
use nfdrop_indexer::{
    crawl::{CrawlReporter, End},
    fetch::{Download, DownloadReporter, DownloadStatus, Ending},
    source::kernel::KernelSet,
};
use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Tells stderr.
pub(super) struct Progress {
    /// Draws nothing where stderr is no terminal.
    bars: MultiProgress,
    terminal: bool,
    kernels: OnceLock<ProgressBar>,
    selected: AtomicUsize,
    done: AtomicUsize,
}

impl Progress {
    pub(super) fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            terminal,
            kernels: OnceLock::new(),
            selected: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
        }
    }

    /// A line that the bars do not overwrite.
    pub(super) fn line(&self, line: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    /// Takes the bars away.
    pub(super) fn finish(&self) {
        if let Some(bar) = self.kernels.get() {
            bar.finish_and_clear();
        }
        let _ = self.bars.clear();
    }

    /// A handle that messages of libraries and of other threads are written to.
    pub(super) fn writer(&self) -> Writer {
        Writer(self.bars.clone())
    }
}

impl CrawlReporter for Progress {
    fn selected(&self, kernels: usize) {
        self.selected.store(kernels, Ordering::Relaxed);
        self.line(&format!("{kernels} kernel{} selected", if kernels == 1 { "" } else { "s" }));
        let bar = self.bars.add(ProgressBar::new(kernels as u64));
        bar.set_style(style("{wide_bar} {pos}/{len} kernels {elapsed}"));
        let _ = self.kernels.set(bar);
    }

    fn done(&self, kernel: &KernelSet, end: &End) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.selected.load(Ordering::Relaxed);
        let what = match end {
            End::Known(_) => "known".to_owned(),
            End::Resolved(plan) => format!("resolved, {}", sites(plan)),
            End::Unresolved(reason, detail) => format!("unresolved, {reason}: {detail}"),
            End::Failed(reason, detail) => format!("failed, {reason}: {detail}"),
            End::Internal(detail) => format!("internal error: {detail}"),
        };
        self.line(&format!("[{done}/{total}] {}: {what}", kernel.release));
        if let Some(bar) = self.kernels.get() {
            bar.set_position(done as u64);
        }
    }
}

/// `rule drop at +0x471, policy drop at +0x4c0 (if)`: `if` marks sites that others come by too.
fn sites(plan: &Plan) -> String {
    let mut out = String::new();
    for (name, event) in [("rule drop", Event::RuleDrop), ("policy drop", Event::PolicyDrop)] {
        let separator = if out.is_empty() { "" } else { ", " };
        let _ = write!(out, "{separator}{name} at");
        for probe in plan.probes.iter().filter(|probe| probe.event == event) {
            let condition = if probe.when.is_empty() { "" } else { " (if)" };
            let _ = write!(out, " {}{condition}", probe.offset);
        }
    }
    out
}

impl DownloadReporter for Progress {
    fn start(&self, download: &Download) -> Box<dyn DownloadStatus> {
        let name = name(&download.url).to_owned();
        let bar = self.terminal.then(|| {
            let bar = self.bars.insert_from_back(1, ProgressBar::new(download.size));
            bar.set_style(style("  {msg:50!} {bytes:>10}/{total_bytes:10} {bytes_per_sec}"));
            bar.set_message(name.clone());
            bar
        });
        let lines = (!self.terminal).then(|| self.writer());
        Box::new(Downloading { bar, lines, name, bytes: 0 })
    }
}

/// The name of a package; of an index, which is named by its hash, the suite and what it lists.
fn name(url: &str) -> &str {
    let index = url.split_once("/dists/").map(|(_, path)| path);
    let index = index.map(|path| path.split_once("/by-hash/").map_or(path, |(path, _)| path));
    index.unwrap_or_else(|| url.rsplit('/').next().unwrap_or_default())
}

struct Downloading {
    bar: Option<ProgressBar>,
    lines: Option<Writer>,
    name: String,
    bytes: u64,
}

impl DownloadStatus for Downloading {
    fn progress(&mut self, bytes: u64) {
        self.bytes = bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn end(self: Box<Self>, ending: Ending) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let (Some(mut lines), Ending::Fetched) = (self.lines, ending) {
            let _ = writeln!(lines, "fetched {}, {} bytes", self.name, self.bytes);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Writes to stderr, around the bars.
#[derive(Clone)]
pub(super) struct Writer(MultiProgress);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
