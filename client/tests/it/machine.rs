//! A machine as the client sees it: a directory with procfs and sysfs files, and an environment.

use nfdrop_db::{BuildId, sample};
use std::{fs, path::PathBuf, process::Stdio};
use tempfile::TempDir;
use tokio::process::Command;

/// The build that runs on [`Machine::with_module`].
pub(crate) const RUNNING: &str = "0484cf000102030405060708090a0b0c0d0e0f10";
/// Another build.
pub(crate) const OTHER: &str = "9999999999999999999999999999999999999999";

pub(crate) fn id(hex: &str) -> BuildId {
    hex.parse().unwrap()
}

/// What a run of the client ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) struct Machine {
    directory: TempDir,
    environment: Vec<(&'static str, String)>,
}

/// An ELF note: name size, descriptor size, type, name, descriptor, each padded to four bytes.
pub(crate) fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    for word in [name.len() as u32, desc.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [name, desc] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl Machine {
    /// Debian's 6.12 with everything that attaching needs, but for nf_tables.
    pub(crate) fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap(), environment: vec![] };
        machine.write("proc/sys/kernel/osrelease", "6.12.117+deb13-cloud-amd64\n");
        machine.write("proc/sys/kernel/arch", "x86_64\n");
        machine.write("proc/self/status", "Name:\tx\nCapEff:\t000000c000000000\n");
        machine.write("proc/self/uid_map", "         0          0 4294967295\n");
        machine.write(
            "proc/kallsyms",
            "0000000000000000 T register_kprobe\n0000000000000000 t __sys_bpf\n",
        );
        machine.write("sys/bus/event_source/devices/kprobe/type", "6\n");
        machine.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        // As on real kernels, the build-id is not the only note, nor the first.
        let notes = [note(b"Linux\0", 0x101, &[0; 4]), note(b"GNU\0", 3, &[0x77; 20])].concat();
        machine.write("sys/kernel/notes", notes);
        machine
    }

    /// With nf_tables loaded as a module.
    pub(crate) fn with_module() -> Self {
        let machine = Self::new();
        let notes = note(b"GNU\0", 3, id(RUNNING).as_bytes());
        machine.write("sys/module/nf_tables/notes/.note.gnu.build-id", notes);
        machine.write("sys/module/nf_tables/initstate", "live\n");
        machine.write_function(|_| ());
        machine
    }

    /// Has `nft_do_chain` in memory, as the samples' plans expect it, but for what `change` does.
    pub(crate) fn write_function(&self, change: impl FnOnce(&mut [u8])) {
        let start = 0xffff_ffff_c000_0000_u64;
        let known = fs::read_to_string(self.path("proc/kallsyms")).unwrap();
        self.write("proc/kallsyms", format!("{known}{start:x} t nft_do_chain\t[nf_tables]\n"));
        let plan = sample::plan(id(RUNNING));
        let mut function = vec![0x90; plan.symbol_size as usize];
        for probe in &plan.probes {
            let (at, bytes) = (probe.offset.0 as usize, &probe.bytes.0);
            function[at..at + bytes.len()].copy_from_slice(bytes);
        }
        change(&mut function);
        // ELF64: the place, size and number of program headers; then one of them, and memory.
        let mut core = b"\x7fELF\x02\x01\x01".to_vec();
        core.resize(64, 0);
        (core[32], core[54], core[56]) = (64, 56, 1);
        let size = function.len() as u64;
        for word in [1, 120, start, 0, size, size, 0] {
            core.extend(word.to_le_bytes());
        }
        self.write("proc/kcore", [core, function].concat());
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    pub(crate) fn set(&mut self, variable: &'static str, value: impl Into<String>) {
        self.environment.push((variable, value.into()));
    }

    /// Where the client keeps answers on this machine.
    pub(crate) fn cache(&self, file: &str) -> PathBuf {
        self.path("cache").join(file)
    }

    /// Runs the client. Paths of the machine read `MACHINE` in what it prints.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-client"));
        command.env_clear().env("NFDROP_CACHE_PATH", self.path("cache")).args(arguments);
        let command_of_root =
            |first: &&str| matches!(*first, "plan" | "doctor" | "selftest" | "--server" | "--plan");
        if arguments.first().is_none_or(command_of_root) {
            command.arg("--root").arg(self.directory.path());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.unwrap();
        let machine = self.directory.path().to_str().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(machine, "MACHINE");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Ended { code: output.status.code().unwrap(), stdout, stderr }
    }
}
