//! What the benchmarks share: the kernels whose packages are in the cache.

use nfdrop_db::{
    BuildId, Record,
    body::InputKey,
    store::{Build, Kernel, KernelOutcome, Outcome, Package},
};
use nfdrop_indexer::{
    package::{Limits, Wanted, kernel_files},
    source::version::Version,
};
use nfdrop_resolver::resolve;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

/// A kernel whose packages are in the cache.
pub(crate) struct Cached {
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Where it is not the same package.
    pub(crate) modules: Option<PathBuf>,
}

/// The kernels of a package cache. Packages are named by their hash there, so what they hold is
/// looked up: an image package with its module, or two that are of the same release.
pub(crate) fn cached(packages: &Path) -> Vec<Cached> {
    let mut images: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut modules: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in fs::read_dir(packages).into_iter().flatten().flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        // Not everything in the cache is a kernel's package.
        let Ok(found) = kernel_files(file, Wanted::Both, &Limits::default()) else { continue };
        let Some(release) = found.release else { continue };
        if found.vmlinuz.is_some() {
            images.insert(release.clone(), entry.path());
        }
        if found.nf_tables.is_some() {
            modules.insert(release, entry.path());
        }
    }
    let kernel = |(release, image): (String, PathBuf)| {
        let modules = modules.remove(&release)?;
        Some(Cached { release, modules: Some(modules).filter(|modules| *modules != image), image })
    };
    let mut kernels: Vec<_> = images.into_iter().filter_map(kernel).collect();
    kernels.sort_by_cached_key(|kernel| Version::dpkg(kernel.release.as_str()));
    kernels
}

/// The record in what the database keeps of a kernel; names do not matter for the time it takes.
pub(crate) fn stored(
    release: &str,
    record: Record,
    input: InputKey,
    vmlinux_build_id: Option<BuildId>,
) -> KernelOutcome {
    let name = format!("linux-image-{release}");
    let package = Package {
        name: name.clone(),
        url: format!("https://mirror.example/{name}.deb"),
        sha256: Some("0".repeat(64)),
        by_hash: true,
        transport_only: false,
    };
    KernelOutcome {
        kernel: Kernel {
            distro: "debian".to_owned(),
            suite: "bench".to_owned(),
            release: release.to_owned(),
            version: "1".to_owned(),
            arch: "amd64".to_owned(),
            signed_by: None,
            packages: vec![package],
        },
        outcome: Outcome::Build(Box::new(Build {
            record,
            object: "nf_tables".to_owned(),
            arch: "x86_64".to_owned(),
            analyzer: resolve::ANALYZER.to_owned(),
            input: Some(input),
            package: name,
            vmlinux_build_id,
            listing: None,
        })),
        indexed_at: 0,
    }
}

pub(crate) fn percent(part: Duration, whole: Duration) -> String {
    if whole.is_zero() {
        return "-".to_owned();
    }
    format!("{:.0} %", 100.0 * part.as_secs_f64() / whole.as_secs_f64())
}
