//! A kernel in QEMU, from its first instruction to the last line that its guest writes.
//!
//! Kernel, file system and console are in memory only, and QEMU ends with the thread that started it, so that
//! nothing is left wherever this ends: no file, and no process.

use nfdrop_db::Machine;
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    ops::ControlFlow,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Lines of the kernel's console that a failure shows.
const CONSOLE_LINES: usize = 40;
/// Most bytes of the console that are looked at, from its end.
const CONSOLE_BYTES: u64 = 64 << 10;
/// Most bytes of a line, and of all lines, that a guest may write.
const MAX_LINE: u64 = 1 << 20;
const MAX_OUTPUT: u64 = 64 << 20;

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// This machine's processor.
    Kvm,
    /// QEMU's emulation, on one thread.
    Tcg,
}

impl Accel {
    /// As proofs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The fastest that works here. `/dev/kvm` alone says too little: it is there on machines whose processor
    /// cannot do it, and a guest then hangs.
    pub fn fastest() -> Self {
        let opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if opens && has_virtualization(&cpuinfo) { Self::Kvm } else { Self::Tcg }
    }
}

/// Whether the processor's flags have VT-x or AMD-V.
fn has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"))
}

/// A machine that kernels are booted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// QEMU for the architecture.
    pub program: PathBuf,
    /// QEMU's version, `7.2.22`.
    pub version: String,
    /// What runs the guest.
    pub accel: Accel,
    /// QEMU's name of the processor model. The kernel's mitigations, and with them what kprobes cost, depend
    /// on it.
    pub cpu: String,
    /// MiB of memory.
    pub memory: u32,
    /// How many processors.
    pub processors: u32,
    /// With it, and one processor, the guest's time is what it has executed, an instruction being `1 << icount`
    /// nanoseconds, and waiting takes none: a busy machine changes nothing.
    pub icount: Option<u8>,
    /// When a guest that is not done has to end.
    pub time_limit: Duration,
}

/// There is no QEMU.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be run: {why}: install qemu-system-x86, or name another one with --qemu", .program.display())]
pub struct NoQemu {
    program: PathBuf,
    why: String,
}

/// Why a guest did not get to its end, and the last lines of its console.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", tail(.console))]
pub struct BootError {
    /// What happened.
    pub what: String,
    /// Of the kernel's console, the last lines.
    pub console: String,
}

fn tail(console: &str) -> String {
    if console.is_empty() {
        return "; the kernel's console is empty".to_owned();
    }
    format!("; the kernel's console ends with:\n{console}")
}

impl Qemu {
    /// The machine that proofs are made on: two processors, and as much memory as the smallest hosts have.
    pub fn new(program: &Path, accel: Accel) -> Result<Self, NoQemu> {
        let error = |why: String| NoQemu { program: program.to_owned(), why };
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|cause| error(cause.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version =
            text.split_once("version ").and_then(|(_, rest)| rest.split_whitespace().next());
        let version =
            version.ok_or_else(|| error(format!("--version prints {:?}", text.trim())))?;
        let cpu = match accel {
            Accel::Kvm => "host",
            // It has return thunks where kernels know of them: what kprobes cost is then what plans say.
            Accel::Tcg => "EPYC",
        };
        Ok(Self {
            program: program.to_owned(),
            version: version.to_owned(),
            accel,
            cpu: cpu.to_owned(),
            memory: 320,
            processors: 2,
            icount: None,
            time_limit: Duration::from_mins(3),
        })
    }

    /// As a proof has it.
    pub fn machine(&self) -> Machine {
        let accel = self.accel.name().to_owned();
        Machine { qemu: self.version.clone(), cpu: self.cpu.clone(), accel }
    }

    /// Boots a kernel and hands on what its guest writes, line by line, until `line` breaks off. `arguments`:
    /// of the guest's first process.
    pub fn boot<T>(
        &self,
        vmlinuz: &[u8],
        initramfs: &[u8],
        arguments: &str,
        line: impl FnMut(&str) -> ControlFlow<T>,
    ) -> Result<T, BootError> {
        let mut guest = self.start(vmlinuz, initramfs, arguments).map_err(|error| BootError {
            what: format!("{} cannot be started: {error}", self.program.display()),
            console: String::new(),
        })?;
        let ended = guest.listen(self.time_limit, line);
        ended.map_err(|what| BootError { what, console: guest.console() })
    }

    fn start(&self, vmlinuz: &[u8], initramfs: &[u8], arguments: &str) -> io::Result<Guest> {
        let vmlinuz = in_memory("vmlinuz", vmlinuz)?;
        let initramfs = in_memory("initramfs", initramfs)?;
        let console = in_memory("console", b"")?;
        let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        // Where this is killed, QEMU goes too.
        let mut command = match super::programs::find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                // It may have been killed before setpriv got so far.
                let checked = "test \"$PPID\" = \"$0\" && exec \"$@\"";
                command.args(["--pdeathsig", "KILL", "sh", "-c", checked]);
                command.arg(std::process::id().to_string()).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        match self.accel {
            Accel::Kvm => command.args(["-accel", "kvm"]),
            Accel::Tcg => command.args(["-accel", "tcg,thread=single,tb-size=128"]),
        };
        if let Some(shift) = self.icount {
            command.arg("-icount").arg(format!("shift={shift},sleep=off"));
        }
        command.args(["-cpu", &self.cpu, "-m", &self.memory.to_string()]);
        command.args(["-smp", &self.processors.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-serial", &format!("file:{}", path(&console))]);
        command.args(["-serial", "stdio", "-monitor", "none"]);
        command.args(["-kernel", &path(&vmlinuz), "-initrd", &path(&initramfs)]);
        let options = "console=ttyS0 panic=-1 rdinit=/init quiet loglevel=5 no_timer_check";
        command.args(["-append", &format!("{options} -- {arguments}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        Ok(Guest { child, console, _files: [vmlinuz, initramfs] })
    }
}

/// A file without a name, which a child process can open by its number.
fn in_memory(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file)
}

/// Ends with its owner.
struct Guest {
    child: Child,
    console: File,
    _files: [File; 2],
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    /// Why it ended early, where it did.
    fn listen<T>(
        &mut self,
        time_limit: Duration,
        mut line: impl FnMut(&str) -> ControlFlow<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + time_limit;
        let stdout = self.child.stdout.take().ok_or("QEMU has no stdout")?;
        let (sender, lines) = mpsc::sync_channel::<Vec<u8>>(1024);
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout.take(MAX_OUTPUT));
            loop {
                let mut line = Vec::new();
                match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
                    Ok(1..) if sender.send(line).is_ok() => {}
                    _ => break,
                }
            }
        });
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&bytes);
                    let text = text.trim_end_matches(['\n', '\r']);
                    if let ControlFlow::Break(value) = line(text) {
                        return Ok(value);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("the guest was not done after {} s", time_limit.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the guest ended early{}", self.stderr()));
                }
            }
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        // It has closed its stdout, and does not end where it still writes.
        let _ = self.child.kill();
        if let Some(stderr) = self.child.stderr.take() {
            // What cannot be read is no message.
            let _ = stderr.take(4096).read_to_string(&mut text);
        }
        if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
    }

    /// The last lines of the kernel's console.
    fn console(&self) -> String {
        use std::os::unix::fs::FileExt as _;
        let size = self.console.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; size.min(CONSOLE_BYTES) as usize];
        if self.console.read_exact_at(&mut bytes, size.saturating_sub(CONSOLE_BYTES)).is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_wants_a_processor_that_can() {
        assert!(has_virtualization("processor: 0\nflags\t\t: fpu vme svm avx\n"));
        assert!(!has_virtualization("processor: 0\nflags\t\t: fpu vme svm_lock avx\n"));
        assert!(!has_virtualization(""));
    }

    #[test]
    fn says_that_there_is_no_qemu() {
        let error = Qemu::new(Path::new("/missing"), Accel::Kvm).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/missing cannot be run: No such file or directory (os error 2): install \
             qemu-system-x86, or name another one with --qemu"
        );
    }
}
