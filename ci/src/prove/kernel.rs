//! A kernel from its packages: the image that is booted, and the modules that the scenario needs.

use nfdrop_indexer::package::{self, Limits, PackageError, Wanted};
use nfdrop_resolver::image::compress::{self, CompressError};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Most bytes of all modules of a package that are looked at.
const MAX_MODULES: u64 = 256 << 20;
/// Where modules are that the scenario may need, below `lib/modules/<release>/`, or what these need.
const PLACES: [&str; 11] = [
    "kernel/net/netfilter/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/bridge/",
    "kernel/net/8021q/",
    "kernel/net/802/",
    "kernel/net/llc/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/arch/x86/crypto/",
    "kernel/drivers/net/veth.ko",
];

/// A kernel's image and modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` prints it, where the packages say it.
    pub release: String,
    /// The image that a boot loader loads.
    pub vmlinuz: Vec<u8>,
    /// By name without ending, with `_` for `-`, as they are in the packages.
    modules: BTreeMap<String, Vec<u8>>,
}

/// Why there is no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A package cannot be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The package.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A package is refused.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// None of the packages has one.
    #[error("the packages hold no kernel image")]
    NoImage,
    /// Files of different kernels.
    #[error("the packages hold files of two kernels, {0} and {1}")]
    Releases(String, String),
    /// A module cannot be unpacked.
    #[error("the module {name} cannot be unpacked: {source}")]
    Module {
        /// Its name.
        name: String,
        /// Why.
        source: CompressError,
    },
}

impl Kernel {
    /// Reads the kernel that these packages are.
    pub fn read<'a>(packages: impl IntoIterator<Item = &'a Path>) -> Result<Self, KernelError> {
        let mut kernel = Self::default();
        let limits = Limits::default();
        for path in packages {
            let open = |source| KernelError::Open { path: path.to_owned(), source };
            let file = File::open(path).map_err(open)?;
            if kernel.vmlinuz.is_empty() {
                let files = package::unpack(&file, Wanted::Vmlinuz, &limits)?;
                kernel.vmlinuz = files.vmlinuz.unwrap_or_default();
                files.release.map_or(Ok(()), |release| kernel.is_of(&release))?;
            }
            for (path, bytes) in package::collect(&file, &is_wanted, MAX_MODULES, &limits)? {
                let Some((release, name)) = module(&path) else { continue };
                kernel.is_of(release)?;
                kernel.add(name, bytes);
            }
        }
        if kernel.vmlinuz.is_empty() { Err(KernelError::NoImage) } else { Ok(kernel) }
    }

    /// Adds a module: its name without `.ko`, and its bytes, compressed or not.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.modules.insert(name.replace('-', "_"), bytes);
    }

    fn is_of(&mut self, release: &str) -> Result<(), KernelError> {
        if self.release.is_empty() {
            release.clone_into(&mut self.release);
        }
        if self.release == release {
            return Ok(());
        }
        Err(KernelError::Releases(self.release.clone(), release.to_owned()))
    }

    /// A module as it is in its package.
    pub fn module(&self, name: &str) -> Option<&[u8]> {
        self.modules.get(name).map(Vec::as_slice)
    }

    /// These modules and all that they depend on, each behind those it needs, unpacked. The kernel's own
    /// `depends=` is the order of `modules.dep`, which most packages have only after they are installed.
    /// Names that the kernel has no module of are built in, or not there at all: the guest shows which.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>, KernelError> {
        let mut loaded = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.load(name, &mut seen, &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        loaded: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<(), KernelError> {
        let name = name.replace('-', "_");
        let Some(packed) = self.modules.get(&name) else { return Ok(()) };
        if !seen.insert(name.clone()) {
            return Ok(());
        }
        let module = compress::decompress(packed, compress::MAX_BYTES)
            .map_err(|source| KernelError::Module { name: name.clone(), source })?
            .into_owned();
        for needed in dependencies(&module) {
            self.load(&needed, seen, loaded)?;
        }
        loaded.push((name, module));
        Ok(())
    }
}

/// The modules that a module says it needs: `depends=a,b` in its `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = memchr::memmem::find(module, KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = value.split(|byte| *byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn is_wanted(path: &str) -> bool {
    let below = path.strip_prefix("lib/modules/").and_then(|path| path.split_once('/'));
    below.is_some_and(|(_, path)| PLACES.iter().any(|place| path.starts_with(place)))
        && module(path).is_some()
}

/// Release and name of a module, by its path.
fn module(path: &str) -> Option<(&str, &str)> {
    let (release, path) = path.strip_prefix("lib/modules/")?.split_once('/')?;
    let (name, ending) = path.rsplit('/').next()?.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".gz" | ".zst").then_some((release, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_what_they_need() {
        let mut kernel = Kernel::default();
        let file = |needs: &str| format!("\x7fELF license=GPL\0depends={needs}\0retpoline=Y\0");
        for (name, needs) in
            [("nft-counter", "nf_tables"), ("nf_tables", "nfnetlink,libcrc32c"), ("libcrc32c", "")]
        {
            kernel.add(name, file(needs).into_bytes());
        }
        // A circle, which no kernel has, ends too.
        kernel.add("nfnetlink", file("nf_tables").into_bytes());
        let modules = kernel.modules(&["nft_counter", "veth", "nf_tables"]).unwrap();
        let names: Vec<_> = modules.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["nfnetlink", "libcrc32c", "nf_tables", "nft_counter"]);
    }

    #[test]
    fn only_modules_of_a_few_places_are_wanted() {
        for path in [
            "lib/modules/6.1/kernel/net/netfilter/nf_tables.ko",
            "lib/modules/6.1/kernel/drivers/net/veth.ko.xz",
            "lib/modules/6.1/kernel/lib/libcrc32c.ko.zst",
        ] {
            assert!(is_wanted(path), "{path}");
        }
        for path in [
            "lib/modules/6.1/kernel/drivers/net/ethernet/e1000.ko",
            "lib/modules/6.1/kernel/net/netfilter/nf_tables.ko.debug",
            "lib/modules/6.1/modules.builtin",
            "boot/vmlinuz-6.1",
        ] {
            assert!(!is_wanted(path), "{path}");
        }
    }
}
