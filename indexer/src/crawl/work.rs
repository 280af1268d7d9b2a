//! The work on one kernel: fetch, unpack, analyse.

use crate::{
    fetch::{Download, DownloadReporter, FetchError, Fetcher, Remote},
    image::function::ObjectKind,
    kernel::{Analysis, Bodies, Files, analyse, object_name},
    package::{self, KernelFiles, Limits, PackageError, Wanted, pick_kernel_files},
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
    pub(super) partial: bool,
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
    pub(super) sha256: [u8; 32],
    /// Fingerprint of the key that vouches for it.
    pub(super) signed_by: Option<String>,
    /// Only parts of it were fetched, and its hash was not compared.
    pub(super) transport_only: bool,
}

/// What is there of a package.
#[derive(Debug)]
enum Content {
    Whole(PathBuf),
    Picked(KernelFiles),
}

impl Content {
    fn take(self, wanted: Wanted) -> Result<KernelFiles, UnpackError> {
        match self {
            Self::Whole(path) => take(&path, wanted),
            Self::Picked(files) => Ok(files),
        }
    }
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
            None => self.fetch(image, Wanted::Both, reporter).await.map(|image| vec![image]),
            Some(modules) => tokio::try_join!(
                self.fetch(image, Wanted::Vmlinuz, reporter),
                self.fetch(modules, Wanted::NfTables, reporter)
            )
            .map(|(image, modules)| vec![image, modules]),
        };
        let (packages, contents) = match fetched {
            Ok(packages) => packages.into_iter().unzip(),
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let (sender, receiver) = oneshot::channel();
        let worker = Arc::clone(self);
        self.pool.spawn(move || {
            // Nobody waits any more where the crawl was stopped.
            let _ = sender.send(worker.analyse(packages, contents));
        });
        let panicked = |_| Worked::Internal("the analysis panicked, see above".to_owned());
        receiver.await.unwrap_or_else(panicked)
    }

    fn analyse(&self, packages: Vec<Checked>, contents: Vec<Content>) -> Worked {
        let unpacked = match unpack_contents(contents) {
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
        wanted: Wanted,
        reporter: &dyn DownloadReporter,
    ) -> Result<(Checked, Content), FetchError> {
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
            match self.content(&download, wanted, reporter).await {
                Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
                Err(error) => return Err(error),
                Ok(content) => {
                    let signed_by = match &listing.trust {
                        Trust::Index { signed_by } => Some(signed_by.clone()),
                        Trust::Package(_) | Trust::Nothing => None,
                    };
                    let name = package.name.clone();
                    let transport_only = matches!(content, Content::Picked(_));
                    let checked = Checked { name, sha256, signed_by, transport_only };
                    return Ok((checked, content));
                }
            }
        }
        Err(missing.unwrap_or_else(|| FetchError::Url {
            url: package.name.clone(),
            detail: "no index says where it is".to_owned(),
        }))
    }

    /// The package, or what is wanted of it where that is all there should be.
    async fn content(
        &self,
        download: &Download,
        wanted: Wanted,
        reporter: &dyn DownloadReporter,
    ) -> Result<Content, FetchError> {
        // What is there already can be verified.
        if self.partial && !self.fetcher.has(download) {
            let pick = move |package: &Remote| {
                let picked = pick_kernel_files(package, wanted, &Limits::default());
                picked
                    .inspect_err(|error| tracing::debug!("{error}; it is fetched as a whole"))
                    .ok()
            };
            if let Some(files) = self.fetcher.parts(download, reporter, pick).await? {
                return Ok(Content::Picked(files));
            }
        }
        self.fetcher.verified(download, reporter).await.map(Content::Whole)
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
    let paths = [Some(image), modules].into_iter().flatten();
    unpack_contents(paths.map(|path| Content::Whole(path.to_owned())).collect())
}

fn unpack_contents(packages: Vec<Content>) -> Result<Unpacked, UnpackError> {
    let mut packages = packages.into_iter();
    let (image, modules) = match (packages.next(), packages.next()) {
        (Some(image), Some(modules)) => {
            (image.take(Wanted::Vmlinuz)?, modules.take(Wanted::NfTables)?)
        }
        (Some(both), None) => {
            let KernelFiles { release, vmlinuz, nf_tables } = both.take(Wanted::Both)?;
            let nf_tables = nf_tables.map(|file| file.bytes);
            return Ok(Unpacked { release, vmlinuz, nf_tables });
        }
        (None, _) => return Ok(Unpacked::default()),
    };
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

fn take(path: &Path, wanted: Wanted) -> Result<KernelFiles, UnpackError> {
    let file = File::open(path).map_err(PackageError::Read)?;
    Ok(package::unpack(&file, wanted, &Limits::default())?)
}
