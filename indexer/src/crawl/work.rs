//! The work on one kernel: fetch, unpack, analyse.

use crate::{
    fetch::{Download, DownloadReporter, FetchError, Fetcher},
    image::function::ObjectKind,
    kernel::{Analysis, Bodies, Files, analyse, object_name},
    package::{DebError, Limits, Wanted, kernel_files_at},
    resolve::ANALYZER,
    source::kernel::{KernelSet, PackageRef, PackageSet},
};
use nfdrop_db::{
    Reason, Store,
    store::{BodyOutcome, Build},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::oneshot;

/// What all work shares.
pub(super) struct Worker {
    pub(super) fetcher: Fetcher,
    pub(super) store: Store,
    pub(super) bodies: Bodies,
    pub(super) pool: rayon::ThreadPool,
    pub(super) reporter: Arc<dyn DownloadReporter>,
}

/// What became of a kernel, to be stored.
pub(super) enum Worked {
    Built(Box<Build>),
    Failed(Reason, String),
    Internal(String),
}

impl Worker {
    /// Fetches on this task, and does the rest on the pool.
    pub(super) async fn work(self: &Arc<Self>, kernel: &KernelSet) -> Worked {
        let PackageSet::Complete { image, modules } = &kernel.packages else {
            return Worked::Internal("incomplete packages need no work".to_owned());
        };
        let fetched = match modules {
            None => self.fetch(image).await.map(|path| (path, None)),
            Some(modules) => tokio::try_join!(self.fetch(image), self.fetch(modules))
                .map(|(image, modules)| (image, Some(modules))),
        };
        let paths = match fetched {
            Ok(paths) => paths,
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let (sender, receiver) = oneshot::channel();
        let (worker, image, modules) = (Arc::clone(self), Arc::clone(image), modules.clone());
        self.pool.spawn(move || {
            let analysis = unpack(&paths.0, paths.1.as_deref()).map(|unpacked| {
                let stored = |key: &_| {
                    // A database that fails will say so when the result is stored.
                    worker.store.body(key, ANALYZER).ok().flatten()
                };
                analyse(unpacked.files(), &worker.bodies, stored)
            });
            // Nobody waits any more where the crawl was stopped.
            let _ = sender.send(match analysis {
                Ok(analysis) => {
                    worked(analysis, &image.name, &modules.as_ref().unwrap_or(&image).name)
                }
                Err(error) => Worked::Failed(error.reason(), error.to_string()),
            });
        });
        let panicked = |_| Worked::Internal("the analysis panicked, see above".to_owned());
        receiver.await.unwrap_or_else(panicked)
    }

    /// Fetches a package from the first suite's archive that has it.
    async fn fetch(&self, package: &PackageRef) -> Result<PathBuf, FetchError> {
        let (Some(size), Some(sha256)) = (package.size, package.sha256) else {
            let url = package.listings.first().map_or(&package.name, |listing| &listing.url);
            let detail = "no index says which size and SHA-256 it has".to_owned();
            return Err(FetchError::Url { url: url.clone(), detail });
        };
        let mut missing = None;
        let mut urls: Vec<_> = package.listings.iter().map(|listing| &listing.url).collect();
        urls.dedup();
        for url in urls {
            let url = url.clone();
            let download = Download { url, size, sha256 };
            match self.fetcher.verified(&download, self.reporter.as_ref()).await {
                Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
                fetched => return fetched,
            }
        }
        Err(missing.unwrap_or_else(|| FetchError::Url {
            url: package.name.clone(),
            detail: "no index says where it is".to_owned(),
        }))
    }
}

fn worked(analysis: Analysis, image: &str, modules: &str) -> Worked {
    let Some(record) = analysis.record() else {
        return match analysis.body.outcome {
            BodyOutcome::Unresolved { reason, detail } => {
                Worked::Failed(reason, detail.unwrap_or_default())
            }
            BodyOutcome::Plan(_) => {
                let detail = "the function is in an object without a build-id".to_owned();
                Worked::Failed(Reason::MalformedImage, detail)
            }
        };
    };
    let package = match analysis.object {
        ObjectKind::Module => modules,
        ObjectKind::Vmlinux => image,
    };
    Worked::Built(Box::new(Build {
        record,
        object: object_name(analysis.object).to_owned(),
        arch: "x86_64".to_owned(),
        analyzer: analysis.body.analyzer,
        input: analysis.input,
        package: package.to_owned(),
        vmlinux_build_id: analysis.vmlinux_build_id,
    }))
}

/// The kernel files of a package set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// The compressed kernel image.
    pub vmlinuz: Option<Vec<u8>>,
    /// The module, often compressed.
    pub nf_tables: Option<Vec<u8>>,
}

impl Unpacked {
    /// Borrowed.
    pub fn files(&self) -> Files<'_> {
        Files { vmlinuz: self.vmlinuz.as_deref(), nf_tables: self.nf_tables.as_deref() }
    }
}

/// Why a package set cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A package is refused.
    #[error(transparent)]
    Deb(#[from] DebError),
    /// Files of different kernels.
    #[error("the packages hold files of two kernels, {image} and {modules}")]
    Releases {
        /// Of the kernel image.
        image: String,
        /// Of the module.
        modules: String,
    },
}

impl UnpackError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Deb(error) => error.reason(),
            Self::Releases { .. } => Reason::MalformedPackage,
        }
    }
}

/// Takes the kernel files out of a package, or of two: `modules` is `None` where `image` holds both.
pub fn unpack(image: &Path, modules: Option<&Path>) -> Result<Unpacked, UnpackError> {
    let take = |path: &Path, wanted| {
        let file = File::open(path).map_err(DebError::Read)?;
        kernel_files_at(&file, wanted, &Limits::default())
    };
    let Some(modules) = modules else {
        let files = take(image, Wanted::Both)?;
        let nf_tables = files.nf_tables.map(|file| file.bytes);
        return Ok(Unpacked { vmlinuz: files.vmlinuz, nf_tables });
    };
    let image = take(image, Wanted::Vmlinuz)?;
    let modules = take(modules, Wanted::NfTables)?;
    if let (Some(image), Some(modules)) = (&image.release, &modules.release)
        && image != modules
    {
        let (image, modules) = (image.clone(), modules.clone());
        return Err(UnpackError::Releases { image, modules });
    }
    let nf_tables = modules.nf_tables.map(|file| file.bytes);
    Ok(Unpacked { vmlinuz: image.vmlinuz, nf_tables })
}
