//! The work on one kernel: fetch, unpack, analyse.

use crate::{
    fetch::{Download, DownloadReporter, FetchError, Fetcher},
    image::function::ObjectKind,
    kernel::{Analysis, Bodies, Files, analyse, object_name},
    package::{self, Limits, PackageError, Wanted},
    resolve::ANALYZER,
    source::kernel::{KernelSet, PackageRef, PackageSet, Trust},
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
}

/// What became of a kernel, to be stored.
pub(super) enum Worked {
    Built(Box<Built>),
    Failed(Reason, String),
    Internal(String),
}

/// A build, and what is known of its packages now that they are there.
pub(super) struct Built {
    pub(super) build: Build,
    /// As the packages say; an index may only guess it.
    pub(super) release: Option<String>,
    pub(super) packages: Vec<Checked>,
}

/// A package that was fetched and checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) name: String,
    path: PathBuf,
    pub(super) sha256: [u8; 32],
    /// Fingerprint of the key that vouches for it.
    pub(super) signed_by: Option<String>,
    /// Only parts of it were fetched, and its hash was not compared.
    pub(super) transport_only: bool,
}

impl Worker {
    /// Fetches on this task, and does the rest on the pool.
    pub(super) async fn work(
        self: &Arc<Self>,
        kernel: &KernelSet,
        reporter: &dyn DownloadReporter,
    ) -> Worked {
        let PackageSet::Complete { image, modules } = &kernel.packages else {
            return Worked::Internal("incomplete packages need no work".to_owned());
        };
        let fetched = match modules {
            None => self.fetch(image, reporter).await.map(|image| vec![image]),
            Some(modules) => {
                tokio::try_join!(self.fetch(image, reporter), self.fetch(modules, reporter))
                    .map(|(image, modules)| vec![image, modules])
            }
        };
        let packages = match fetched {
            Ok(packages) => packages,
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let (sender, receiver) = oneshot::channel();
        let worker = Arc::clone(self);
        self.pool.spawn(move || {
            // Nobody waits any more where the crawl was stopped.
            let _ = sender.send(worker.analyse(packages));
        });
        let panicked = |_| Worked::Internal("the analysis panicked, see above".to_owned());
        receiver.await.unwrap_or_else(panicked)
    }

    fn analyse(&self, packages: Vec<Checked>) -> Worked {
        let modules = packages.get(1).map(|package| package.path.as_path());
        let unpacked = match unpack(&packages[0].path, modules) {
            Ok(unpacked) => unpacked,
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let stored = |key: &_| {
            // A database that fails will say so when the result is stored.
            self.store.body(key, ANALYZER).ok().flatten()
        };
        let analysis = analyse(unpacked.files(), &self.bodies, stored);
        worked(analysis, unpacked.release, packages)
    }

    /// Fetches a package from the first suite's archive that has it.
    async fn fetch(
        &self,
        package: &PackageRef,
        reporter: &dyn DownloadReporter,
    ) -> Result<Checked, FetchError> {
        let (Some(size), Some(sha256)) = (package.size, package.sha256) else {
            let url = package.listings.first().map_or(&package.name, |listing| &listing.url);
            let detail = "no index says which size and SHA-256 it has".to_owned();
            return Err(FetchError::Url { url: url.clone(), detail });
        };
        let mut missing = None;
        let mut last = None;
        for listing in &package.listings {
            if last.replace(&listing.url) == Some(&listing.url) {
                continue;
            }
            let download = Download { url: listing.url.clone(), size, sha256 };
            match self.fetcher.verified(&download, reporter).await {
                Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
                Err(error) => return Err(error),
                Ok(path) => {
                    let signed_by = match &listing.trust {
                        Trust::Index { signed_by } => Some(signed_by.clone()),
                        Trust::Package(_) | Trust::Nothing => None,
                    };
                    let (name, transport_only) = (package.name.clone(), false);
                    return Ok(Checked { name, path, sha256, signed_by, transport_only });
                }
            }
        }
        Err(missing.unwrap_or_else(|| FetchError::Url {
            url: package.name.clone(),
            detail: "no index says where it is".to_owned(),
        }))
    }
}

fn worked(analysis: Analysis, release: Option<String>, packages: Vec<Checked>) -> Worked {
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
        ObjectKind::Module => packages.last(),
        ObjectKind::Vmlinux => packages.first(),
    };
    let build = Build {
        record,
        object: object_name(analysis.object).to_owned(),
        arch: "x86_64".to_owned(),
        analyzer: analysis.body.analyzer,
        input: analysis.input,
        package: package.map(|package| package.name.clone()).unwrap_or_default(),
        vmlinux_build_id: analysis.vmlinux_build_id,
    };
    Worked::Built(Box::new(Built { build, release, packages }))
}

/// The kernel files of a package set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// As the paths of the files say.
    pub release: Option<String>,
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
    Package(#[from] PackageError),
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
            Self::Package(error) => error.reason(),
            Self::Releases { .. } => Reason::MalformedPackage,
        }
    }
}

/// Takes the kernel files out of a package, or of two: `modules` is `None` where `image` holds both.
pub fn unpack(image: &Path, modules: Option<&Path>) -> Result<Unpacked, UnpackError> {
    let take = |path: &Path, wanted| {
        let file = File::open(path).map_err(PackageError::Read)?;
        package::unpack(&file, wanted, &Limits::default())
    };
    let Some(modules) = modules else {
        let files = take(image, Wanted::Both)?;
        let nf_tables = files.nf_tables.map(|file| file.bytes);
        return Ok(Unpacked { release: files.release, vmlinuz: files.vmlinuz, nf_tables });
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
    let release = modules.release.or(image.release);
    Ok(Unpacked { release, vmlinuz: image.vmlinuz, nf_tables })
}
