//! One run of the guest.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fmt, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// A run takes half a minute on an idle machine; machines are not always idle.
const DEADLINE: Duration = Duration::from_mins(20);
/// Lines of the kernel's console that a failure shows.
const CONSOLE_LINES: usize = 40;

/// What the guest said, in order: the title of a section, and its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections(pub Vec<(String, String)>);

impl Sections {
    /// The first section of this title.
    pub fn get(&self, title: &str) -> Result<&str> {
        let found = self.0.iter().find(|(name, _)| name == title);
        Ok(&found.with_context(|| format!("the guest said nothing of {title:?}"))?.1)
    }
}

impl fmt::Display for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(title, text)| write!(f, "=== {title}\n{text}"))
    }
}

/// Whether there is an emulator.
pub fn is_there() -> bool {
    let run = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

/// Boots a kernel and reads what the guest says until it says `done`.
///
/// `cpu`: QEMU's name of a processor; the kernel's mitigations, and with them what kprobes cost,
/// depend on it.
pub fn run(vmlinuz: &[u8], initramfs: &[u8], cpu: &str) -> Result<Sections> {
    run_at(vmlinuz, initramfs, cpu, 2)
}

/// As [`run`]; an instruction takes `1 << shift` nanoseconds of the guest's time.
pub fn run_at(vmlinuz: &[u8], initramfs: &[u8], cpu: &str, shift: u8) -> Result<Sections> {
    let directory = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).map(|()| path)
    };
    let (vmlinuz, initramfs) = (file("vmlinuz", vmlinuz)?, file("initramfs", initramfs)?);
    let console = file("console", b"")?;
    let mut command = Command::new(QEMU);
    command.args(["-accel", "tcg", "-cpu", cpu, "-m", "1024", "-smp", "1"]);
    // The guest's time is what it has executed, and waiting takes none: a busy host changes nothing.
    command.arg("-icount").arg(format!("shift={shift},sleep=off"));
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.args(["-serial", "stdio", "-monitor", "none"]);
    command.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initramfs);
    command
        .args(["-append", "console=ttyS0 panic=-1 rdinit=/init quiet loglevel=5 no_timer_check"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut guest = Guest(command.spawn().context(QEMU)?);
    let said = guest.listen();
    said.with_context(|| {
        let console = last_lines(&console);
        format!("the kernel's console ends with:\n{console}")
    })
}

fn last_lines(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// Ends with its owner.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest {
    fn listen(&mut self) -> Result<Sections> {
        let end = Instant::now() + DEADLINE;
        let stdout = self.0.stdout.take().context("no pipe")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                if line.is_err() || sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut sections = Sections::default();
        loop {
            let line = match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => line?,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest is not done after {DEADLINE:?}; it said {}", tail(&sections))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended early{}; it said {}", self.stderr(), tail(&sections))
                }
            };
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            match line.strip_prefix("=== ") {
                Some("done") => break,
                Some(title) => sections.0.push((title.to_owned(), String::new())),
                None => match sections.0.last_mut() {
                    Some((_, text)) => text.extend([line, "\n"]),
                    None => ensure!(line.is_empty(), "the guest began with {line:?}"),
                },
            }
        }
        let trouble = sections.0.iter().filter(|(title, _)| title == "trouble");
        let trouble: Vec<_> = trouble.map(|(_, text)| text.trim()).collect();
        ensure!(trouble.is_empty(), "trouble in the guest: {}", trouble.join("; "));
        Ok(sections)
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            // What cannot be read is no message.
            let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
        }
        if text.is_empty() { text } else { format!(" ({})", text.trim()) }
    }
}

fn tail(sections: &Sections) -> String {
    let Some((title, text)) = sections.0.last() else { return "nothing".to_owned() };
    let lines: Vec<_> = text.lines().rev().take(10).collect();
    let lines: Vec<_> = lines.into_iter().rev().collect();
    format!("at last, in {title:?}:\n{}", lines.join("\n"))
}
