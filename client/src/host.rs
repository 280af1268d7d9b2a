//! The files through which the kernel tells about itself, below a root that tests can move.
//!
//! Every read has a limit: procfs and sysfs files have no size, and what lies below a moved root
//! can be anything.

use nfdrop_db::{KernelRelease, Series};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

/// Longest file read in one piece: a kernel configuration has some 300 KiB.
const MAX_FILE: u64 = 8 << 20;
/// Most bytes of `/proc/kallsyms` looked at: a kernel with all modules has some 20 MiB.
const MAX_KALLSYMS: u64 = 256 << 20;

/// The machine's files below a root, `/` outside tests.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

/// What `/proc/kallsyms` tells. It is readable without any right; only addresses are hidden.
#[derive(Debug, Clone, Default)]
pub struct Symbols {
    /// Where `nft_do_chain` is.
    pub nft_do_chain: Option<Place>,
    /// At which address; `None` where addresses are hidden.
    pub address: Option<u64>,
    /// `register_kprobe` is in the kernel.
    pub register_kprobe: bool,
    /// The `bpf` system call is in the kernel.
    pub sys_bpf: bool,
}

/// Where a symbol is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the kernel image.
    Kernel,
    /// In the module of this name.
    Module(String),
}

impl Host {
    /// The files below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where `path` (absolute, as on a running system) is below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Whether there is such a file or directory.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The file's bytes, at most 8 MiB.
    pub fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        read_limited(&self.path(path), MAX_FILE)
    }

    /// The file's text without surrounding white space; what is not UTF-8 is replaced.
    pub fn text(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read(path)?).trim().to_owned())
    }

    /// Names in a directory, sorted; none where it cannot be read.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn release(&self) -> Option<String> {
        let release = self.text("/proc/sys/kernel/osrelease").ok()?;
        // It becomes part of paths: nothing that leads elsewhere.
        let plain = release.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b));
        (plain && !release.is_empty() && !release.starts_with('.')).then_some(release)
    }

    /// The first two numbers of the kernel's release.
    pub fn series(&self) -> Option<Series> {
        KernelRelease(&self.release()?).series()
    }

    /// What `/proc/kallsyms` tells; `None` where it is hidden, empty or not there.
    pub fn symbols(&self) -> Option<Symbols> {
        let file = File::open(self.path("/proc/kallsyms")).ok()?;
        let mut reader = BufReader::with_capacity(64 << 10, file.take(MAX_KALLSYMS));
        let mut symbols = Symbols::default();
        let (mut line, mut lines) = (vec![], 0_u64);
        // address, type, name and, for a module's symbol, the module in brackets
        while reader.read_until(b'\n', &mut line).ok()? > 0 {
            lines += 1;
            let mut words = line.split(u8::is_ascii_whitespace);
            let address = words.next();
            match words.nth(1) {
                Some(b"nft_do_chain") => {
                    let digits = address.and_then(|digits| str::from_utf8(digits).ok());
                    let address = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                    symbols.address = address.filter(|address| *address != 0);
                    let module = words.find(|word| !word.is_empty());
                    symbols.nft_do_chain = Some(module.map_or(Place::Kernel, |word| {
                        let name = String::from_utf8_lossy(word);
                        Place::Module(name.trim_matches(['[', ']']).to_owned())
                    }));
                }
                Some(b"register_kprobe") => symbols.register_kprobe = true,
                Some(b"__sys_bpf" | b"__x64_sys_bpf") => symbols.sys_bpf = true,
                _ => {}
            }
            line.clear();
        }
        (lines > 0).then_some(symbols)
    }

    /// The kernel's configuration, from `/proc/config.gz` or `/boot/config-*`; `None` where
    /// neither can be read.
    pub fn config(&self) -> Option<Config> {
        let unpacked = self.read("/proc/config.gz").ok().and_then(|packed| {
            let mut text = vec![];
            let decoder = flate2::read::GzDecoder::new(&packed[..]);
            decoder.take(MAX_FILE).read_to_end(&mut text).ok()?;
            Some(text)
        });
        let text = match unpacked {
            Some(text) => text,
            None => self.read(&format!("/boot/config-{}", self.release()?)).ok()?,
        };
        Some(Config(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// The text of a kernel configuration.
#[derive(Debug, Clone)]
pub struct Config(String);

impl Config {
    /// Whether this option (`CONFIG_…`) is built in.
    pub fn built_in(&self, option: &str) -> bool {
        self.0.lines().any(|line| line.strip_prefix(option) == Some("=y"))
    }
}

/// The bytes of a file that has at most `limit`; longer ones are an error.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("longer than the {limit} bytes expected at most");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
