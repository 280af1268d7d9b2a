//! Kernels and programs of the machine's own Debian mirror, chosen from its signed indices when the
//! test runs, and kept in the indexer's cache.

use anyhow::{Context, Error, Result, ensure};
use nfdrop_ci::prove::{
    initramfs::{Entry, FilesByPath},
    kernel::Kernel,
};
use nfdrop_db::Series;
use nfdrop_db::{Plan, Reason};
use nfdrop_indexer::{
    analysis::{Bodies, analyse},
    crawl::{Survey, survey},
    fetch::{Download, FetchError, Fetcher, Options, Silent, default_cache},
    package::with_data,
    source::{
        Reader, Repository,
        apt::{self, config},
        catalogue::Catalogue,
        kernel::{KernelSet, Package, PackageRef, PackageSet, newest_per_series},
    },
};
use nfdrop_resolver::{
    image::Function,
    kernel::{Files, load},
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// Most bytes of all files taken from a package.
const MAX_PACKAGE: u64 = 2 << 30;
/// Debian, as the machine's apt configuration names it.
pub struct Mirror {
    runtime: tokio::runtime::Runtime,
    /// Of the indexer; what tests keep is in folders of their own.
    pub(super) cache: PathBuf,
    pub(super) reader: Reader,
    repositories: Vec<Repository>,
    survey: Survey,
}

impl Mirror {
    /// Reads the indices of all suites.
    pub fn open() -> Result<Self> {
        let cache = default_cache().context("there is no place for downloads: set HOME")?;
        let runtime = tokio::runtime::Runtime::new()?;
        let reader = Reader {
            fetcher: Fetcher::new(Options::new(cache.clone()))?,
            now: SystemTime::now(),
            root: "/".into(),
            reporter: Arc::new(Silent),
        };
        let catalogue = Catalogue::builtin()?;
        let (repositories, survey) = runtime.block_on(async {
            let found = apt::discover(&reader, &config::read(&reader.root)).await;
            let mut repositories = Vec::new();
            for source in &catalogue.sources {
                let Some(archive) = found.archives.iter().find(|a| a.source == source.name) else {
                    continue;
                };
                for mut repository in source.repositories(Some(&archive.base)) {
                    repository.keys = archive.keys.clone();
                    repositories.push(repository);
                }
            }
            let survey = survey(&reader, &repositories).await;
            (repositories, survey)
        });
        ensure!(!repositories.is_empty(), "apt's configuration names no Debian archive");
        Ok(Self { runtime, cache, reader, repositories, survey })
    }

    /// The newest complete kernel of every series in a flavour, the newest series first.
    pub fn newest(&self, flavour: &str) -> Vec<&KernelSet> {
        let newest = newest_per_series(&self.survey.kernels, |k| {
            k.flavour == flavour && k.packages.is_complete()
        });
        newest.into_iter().rev().collect()
    }

    /// The newest complete kernel of a series in a flavour, if the mirror has one.
    pub fn newest_of(&self, series: Series, flavour: &str) -> Option<&KernelSet> {
        self.newest(flavour).into_iter().find(|kernel| kernel.series == series)
    }

    /// The complete kernel of this release, if the mirror lists it.
    pub fn release(&self, release: &str) -> Option<&KernelSet> {
        self.complete().find(|set| set.release == release)
    }

    /// The kernels that can be fetched, by series, flavour and version.
    pub fn complete(&self) -> impl Iterator<Item = &KernelSet> {
        self.survey.kernels.iter().filter(|set| set.packages.is_complete())
    }

    /// The next older complete kernel of the same series and flavour.
    pub fn before(&self, set: &KernelSet) -> Option<&KernelSet> {
        let alike = |k: &&KernelSet| (k.series, &k.flavour) == (set.series, &set.flavour);
        let older = |k: &&KernelSet| k.packages.is_complete() && k.version < set.version;
        let kernels = self.survey.kernels.iter().filter(alike).filter(older);
        kernels.max_by(|a, b| a.version.cmp(&b.version))
    }

    /// Fetches and unpacks a kernel.
    pub fn kernel(&self, set: &KernelSet) -> Result<Kernel> {
        let paths = self.packages(set)?;
        Kernel::read(paths.iter().map(PathBuf::as_path)).with_context(|| set.release.clone())
    }

    /// Fetches the packages of a kernel.
    pub fn packages(&self, set: &KernelSet) -> Result<Vec<PathBuf>> {
        let PackageSet::Complete { image, modules } = &set.packages else {
            anyhow::bail!("{}: its packages are not complete", set.release);
        };
        let mut paths = Vec::new();
        for package in [Some(image), modules.as_ref()].into_iter().flatten() {
            paths.push(self.first_listed(package, |download| async move {
                Ok(self.reader.fetcher.verified(&download, &Silent).await?)
            })?);
        }
        Ok(paths)
    }

    /// The files of these packages of a suite and of all they depend on, without documentation.
    pub fn programs(&self, suite: &str, names: &[&str]) -> Result<FilesByPath> {
        let repository = self.repositories.iter().find(|repository| repository.suite == suite);
        let repository = repository.with_context(|| format!("no archive has a suite {suite}"))?;
        let base = &repository.urls[0];
        let read = apt::read_suite_of(&self.reader, repository, base, "");
        let read = self.runtime.block_on(read)?;
        let index = read.with_context(|| format!("the mirror has no suite {suite}"))?.index;
        let by_name: BTreeMap<&str, &Package> =
            index.packages.iter().map(|package| (package.name.as_str(), package)).collect();
        let mut files = FilesByPath::new();
        for package in closure(&by_name, names)? {
            let url = format!("{}/{}", index.base, package.path);
            let download = download(&url, package.size, package.sha256)?;
            let fetched = self.reader.fetcher.verified(&download, &Silent);
            let path = self.runtime.block_on(fetched)?;
            let wanted = |path: &str| {
                !["usr/share/", "usr/lib/x86_64-linux-gnu/gconv/", "etc/", "var/"]
                    .iter()
                    .any(|unused| path.starts_with(unused))
            };
            unpack(&path, wanted, &mut files).with_context(|| package.name.clone())?;
        }
        Ok(files)
    }

    /// Fetches a package from the first archive that has it.
    pub(super) fn first_listed<T, F: Future<Output = Result<T>>>(
        &self,
        package: &PackageRef,
        fetch: impl Fn(Download) -> F,
    ) -> Result<T> {
        let mut gone = None;
        for listing in &package.listings {
            let download = download(&listing.url, package.size, package.sha256)?;
            match self.runtime.block_on(fetch(download)) {
                Err(error) if is_gone(&error) => gone = gone.or(Some(error)),
                fetched => return fetched,
            }
        }
        Err(gone.context("a package without a listing")?)
    }
}

fn download(url: &str, size: Option<u64>, sha256: Option<[u8; 32]>) -> Result<Download> {
    let size = size.context("an apt index gives every size")?;
    let sha256 = sha256.context("an apt index gives every hash")?;
    Ok(Download { url: url.to_owned(), size, sha256 })
}

/// Whether an index lists a package that the pool has no more.
pub fn is_gone(error: &Error) -> bool {
    error.downcast_ref::<FetchError>().is_some_and(FetchError::is_not_found)
}

/// The packages and what they depend on. Of alternatives the first that the suite has; a virtual
/// package that nothing has by its own name is left out.
fn closure<'a>(
    by_name: &BTreeMap<&'a str, &'a Package>,
    names: &[&str],
) -> Result<Vec<&'a Package>> {
    let mut found: BTreeMap<&str, &Package> = BTreeMap::new();
    let mut waiting = Vec::new();
    for name in names {
        waiting.push(*by_name.get(name).with_context(|| format!("no package {name}"))?);
    }
    while let Some(package) = waiting.pop() {
        if found.insert(&package.name, package).is_some() {
            continue;
        }
        for alternatives in package.depends.split(',') {
            let mut names = alternatives.split('|').filter_map(|alternative| {
                let name = alternative.split(['(', ':', '[']).next()?.trim();
                by_name.get(name).copied()
            });
            waiting.extend(names.next());
        }
    }
    Ok(found.into_values().collect())
}

/// Adds the wanted members of a package.
fn unpack(deb: &Path, wanted: impl Fn(&str) -> bool, files: &mut FilesByPath) -> Result<()> {
    with_data(File::open(deb)?, |data| {
        for member in tar::Archive::new(data.take(MAX_PACKAGE)).entries()? {
            let mut member = member?;
            let path = member.path()?.to_string_lossy().into_owned();
            let path = merged(path.trim_start_matches("./"));
            if !wanted(&path) {
                continue;
            }
            let kind = member.header().entry_type();
            let entry = if kind.is_file() {
                let mut bytes = Vec::new();
                member.read_to_end(&mut bytes)?;
                Entry::File(bytes, member.header().mode()? & 0o100 != 0)
            } else if kind.is_symlink() {
                let target = member.link_name()?.context("a link to nowhere")?;
                Entry::Link(target.to_string_lossy().into_owned())
            } else {
                continue;
            };
            files.insert(path, entry);
        }
        anyhow::Ok(())
    })
}

/// The path where `/bin`, `/lib` and `/sbin` lie below `/usr`.
fn merged(path: &str) -> String {
    let old = ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|old| path.starts_with(old));
    if old { format!("usr/{path}") } else { path.to_owned() }
}

/// Where the kernel's package has nf_tables, and the file as it is there; `None` where it is packed.
pub fn nf_tables(kernel: &Kernel) -> Option<(String, &[u8])> {
    let file = kernel.module("nf_tables").filter(|file| file.starts_with(b"\x7fELF"))?;
    let path = format!("usr/lib/modules/{}/kernel/net/netfilter/nf_tables.ko", kernel.release);
    Some((path, file))
}

/// The function, as the resolver gets it.
pub fn function(kernel: &Kernel) -> Result<Function> {
    Ok(load(files(kernel)).0?)
}

fn files(kernel: &Kernel) -> Files<'_> {
    Files { vmlinuz: Some(&kernel.vmlinuz), nf_tables: kernel.module("nf_tables") }
}

/// The plan, as `nfdrop-indexer resolve` makes it of the same files.
pub fn plan(kernel: &Kernel) -> Result<Plan> {
    let analysis = analyse(files(kernel), &Bodies::default(), |_| None);
    let record = analysis.record().context("a kernel without a build-id")?;
    let why = || {
        let reason = record.reason.unwrap_or(Reason::NoNfTables);
        format!("{}: {reason}: {:?}", kernel.release, record.detail)
    };
    record.plan.clone().with_context(why)
}
