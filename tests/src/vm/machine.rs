//! One run of the guest: what it says, in sections.

use anyhow::{Context, Result, ensure};
use nfdrop_ci::prove::machine::{Accel, Qemu};
use std::{fmt, ops::ControlFlow, path::Path, process::Command, process::Stdio, time::Duration};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// A run takes half a minute on an idle machine; machines are not always idle.
const TIME_LIMIT: Duration = Duration::from_mins(20);

/// What the guest said, in order: the title of a section, and its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sections(pub Vec<(String, String)>);

impl Sections {
    /// The first section of this title.
    pub fn get(&self, title: &str) -> Result<&str> {
        let found = self.0.iter().find(|(name, _)| name == title);
        Ok(&found.with_context(|| format!("the guest said nothing of {title:?}"))?.1)
    }

    /// Breaks off when the guest is done.
    fn hear(&mut self, line: &str) -> ControlFlow<()> {
        match line.strip_prefix("=== ") {
            Some("done") => return ControlFlow::Break(()),
            Some(title) => self.0.push((title.to_owned(), String::new())),
            None => {
                if let Some((_, text)) = self.0.last_mut() {
                    text.extend([line, "\n"]);
                }
            }
        }
        ControlFlow::Continue(())
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
    let qemu = Qemu {
        cpu: cpu.to_owned(),
        memory: 1024,
        processors: 1,
        icount: Some(shift),
        time_limit: TIME_LIMIT,
        ..Qemu::new(Path::new(QEMU), Accel::Tcg)?
    };
    let mut sections = Sections::default();
    let ended = qemu.boot(vmlinuz, initramfs, "", |line| sections.hear(line));
    ended.with_context(|| format!("the guest said {}", tail(&sections)))?;
    let trouble = sections.0.iter().filter(|(title, _)| title == "trouble");
    let trouble: Vec<_> = trouble.map(|(_, text)| text.trim()).collect();
    ensure!(trouble.is_empty(), "trouble in the guest: {}", trouble.join("; "));
    Ok(sections)
}

fn tail(sections: &Sections) -> String {
    let Some((title, text)) = sections.0.last() else { return "nothing".to_owned() };
    let lines: Vec<_> = text.lines().rev().take(10).collect();
    let lines: Vec<_> = lines.into_iter().rev().collect();
    format!("at last, in {title:?}:\n{}", lines.join("\n"))
}
