//! The work on one kernel: fetch, unpack, analyse.

use super::verify::verify;
use crate::{
    analysis::{Analysis, Bodies, analyse},
    fetch::{Download, DownloadReporter, FetchError, Fetcher, Remote},
    package::{self, KernelFiles, Limits, PackageError, Wanted},
    source::{
        kernel::{KernelSet, Listing, PackageRef, PackageSet, PackageSignature, Trust},
        openpgp::MAX_SIGNATURE,
    },
};
use nfdrop_db::{Reason, Store, body::BodyOutcome, hex, store::Build};
use nfdrop_resolver::{kernel::Files, resolve::ANALYZER};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use tokio::sync::oneshot;

/// What all work shares.
pub(super) struct Worker {
    pub(super) fetcher: Fetcher,
    pub(super) store: Store,
    pub(super) bodies: Bodies,
    pub(super) pool: rayon::ThreadPool,
    /// The time signatures have to hold at.
    pub(super) now: SystemTime,
    /// Whether only the needed parts of packages are fetched where that is possible.
    pub(super) partial: bool,
}

/// Most bytes of a package; the largest kernel packages have 200 MB.
const MAX_PACKAGE: u64 = 1 << 30;

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

/// A package that was fetched.
struct Fetched {
    package: Arc<PackageRef>,
    content: Content,
    sha256: [u8; 32],
    /// Where it was found.
    listing: Listing,
    /// The signature beside it, where one has to be there.
    signature: Option<Vec<u8>>,
}

/// What there is of a package.
enum Content {
    /// All of it, in the cache.
    Whole(PathBuf),
    /// The files that were wanted, of the parts they are in.
    Picked(KernelFiles),
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

impl Content {
    fn files(self, wanted: Wanted) -> Result<KernelFiles, UnpackError> {
        match self {
            Self::Whole(path) => {
                let file = File::open(path).map_err(PackageError::Read)?;
                Ok(package::unpack(&file, wanted, &Limits::default())?)
            }
            Self::Picked(files) => Ok(files),
        }
    }
}

impl Worker {
    /// Parts of packages will do where a plan comes of them. What else they tell may be the fault of
    /// whoever sent them, and would be believed until the packages change: then it is done again with
    /// whole packages.
    pub(super) async fn work(
        self: &Arc<Self>,
        kernel: &KernelSet,
        reporter: &dyn DownloadReporter,
    ) -> Worked {
        match self.attempt(kernel, self.partial, reporter).await {
            Worked::Built(built) if built.build.record.plan.is_some() => Worked::Built(built),
            _ if self.partial => self.attempt(kernel, false, reporter).await,
            worked => worked,
        }
    }

    /// Fetches on this task, and does the rest on the pool.
    async fn attempt(
        self: &Arc<Self>,
        kernel: &KernelSet,
        partial: bool,
        reporter: &dyn DownloadReporter,
    ) -> Worked {
        let PackageSet::Complete { image, modules } = &kernel.packages else {
            return Worked::Internal("incomplete packages need no work".to_owned());
        };
        let fetched = match modules {
            None => {
                self.fetch(image, Wanted::Both, partial, reporter).await.map(|image| vec![image])
            }
            Some(modules) => tokio::try_join!(
                self.fetch(image, Wanted::Vmlinuz, partial, reporter),
                self.fetch(modules, Wanted::NfTables, partial, reporter)
            )
            .map(|(image, modules)| vec![image, modules]),
        };
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let (sender, receiver) = oneshot::channel();
        let worker = Arc::clone(self);
        self.pool.spawn(move || {
            // Nobody waits any more where the crawl was stopped.
            let _ = sender.send(worker.analyse(fetched));
        });
        let panicked = |_| Worked::Internal("the analysis panicked, see above".to_owned());
        receiver.await.unwrap_or_else(panicked)
    }

    fn analyse(&self, fetched: Vec<Fetched>) -> Worked {
        let mut packages = Vec::new();
        let mut contents = Vec::new();
        for Fetched { package, content, sha256, listing, signature } in fetched {
            let (signed_by, transport_only) = match &content {
                Content::Whole(path) => {
                    match verify(path, &package, &listing, signature.as_deref(), self.now) {
                        Ok(signed_by) => {
                            // Kept, now that it was checked; a cache that fails costs a download.
                            if signed_by.is_some() {
                                let _ = self.fetcher.trust(&listing.url);
                            }
                            (signed_by, false)
                        }
                        Err(error) => {
                            let detail = format!("{}: {error}", listing.url);
                            return Worked::Failed(Reason::VerificationFailed, detail);
                        }
                    }
                }
                Content::Picked(_) => match listing.trust {
                    Trust::Index { signed_by } => (Some(signed_by), true),
                    Trust::Package(_) | Trust::Nothing => (None, true),
                },
            };
            packages.push(Checked {
                name: package.name.clone(),
                sha256,
                signed_by,
                transport_only,
            });
            contents.push(content);
        }
        let unpacked = match unpack_all(contents) {
            Ok(unpacked) => unpacked,
            Err(error) => return Worked::Failed(error.reason(), error.to_string()),
        };
        let stored = |key: &_| {
            // A database that fails will say so when the result is stored.
            self.store.body(key, ANALYZER).ok().flatten()
        };
        let analysis = analyse(unpacked.files(), &self.bodies, stored);
        worked(&analysis, &unpacked, packages)
    }

    /// Fetches a package from the first suite's archive that has it.
    async fn fetch(
        &self,
        package: &Arc<PackageRef>,
        wanted: Wanted,
        partial: bool,
        reporter: &dyn DownloadReporter,
    ) -> Result<Fetched, FetchError> {
        let mut missing = None;
        let mut last = None;
        for listing in &package.listings {
            if last.replace(&listing.url) == Some(&listing.url) {
                continue;
            }
            match self.fetch_at(package, listing, wanted, partial, reporter).await {
                Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
                fetched => return fetched,
            }
        }
        Err(missing.unwrap_or_else(|| FetchError::Url {
            url: package.name.clone(),
            detail: "no index says where it is".to_owned(),
        }))
    }

    async fn fetch_at(
        &self,
        package: &Arc<PackageRef>,
        listing: &Listing,
        wanted: Wanted,
        partial: bool,
        reporter: &dyn DownloadReporter,
    ) -> Result<Fetched, FetchError> {
        let signature = match &listing.trust {
            Trust::Package(PackageSignature::Beside { suffix, .. }) => {
                let url = format!("{}{suffix}", listing.url);
                Some(self.fetcher.small(&url, MAX_SIGNATURE).await?)
            }
            _ => None,
        };
        let (package, listing) = (Arc::clone(package), listing.clone());
        if package.size.is_some_and(|size| size > MAX_PACKAGE) {
            return Err(FetchError::TooLarge { url: listing.url, max: MAX_PACKAGE });
        }
        let (content, sha256) = match (package.size, package.sha256) {
            (Some(size), Some(sha256)) => {
                let download = Download { url: listing.url.clone(), size, sha256 };
                // A signature in a package covers all of it.
                let vouched = !matches!(listing.trust, Trust::Package(_));
                // What is there already can be verified.
                let picked = if partial && vouched && !self.fetcher.has(&download) {
                    let pick = move |remote: &Remote| {
                        package::pick_kernel_files(remote, wanted, &Limits::default())
                            .inspect_err(|error| tracing::debug!("{error}; fetched as a whole"))
                            .ok()
                    };
                    self.fetcher.parts(&download, reporter, pick).await?
                } else {
                    None
                };
                let content = match picked {
                    Some(files) => Content::Picked(files),
                    None => Content::Whole(self.fetcher.verified(&download, reporter).await?),
                };
                (content, sha256)
            }
            (size, listed) => {
                let max = size.unwrap_or(MAX_PACKAGE);
                let fetched = self.fetcher.unverified(&listing.url, max, reporter).await?;
                if let Some(listed) = listed.filter(|listed| *listed != fetched.sha256) {
                    let (expected, found) = (hex::encode(&listed), hex::encode(&fetched.sha256));
                    let url = listing.url;
                    return Err(FetchError::HashMismatch { url, expected, found });
                }
                (Content::Whole(fetched.path), fetched.sha256)
            }
        };
        Ok(Fetched { package, content, sha256, listing, signature })
    }
}

fn worked(analysis: &Analysis, unpacked: &Unpacked, packages: Vec<Checked>) -> Worked {
    let with_files = if unpacked.module_beside_image { &packages[..1] } else { &packages[..] };
    let names: Vec<_> = with_files.iter().map(|package| package.name.as_str()).collect();
    match (analysis.build(&names), &analysis.body.outcome) {
        (Some(build), _) => {
            Worked::Built(Box::new(Built { build, release: unpacked.release.clone(), packages }))
        }
        (None, BodyOutcome::Unresolved { reason, detail }) => {
            Worked::Failed(*reason, detail.clone().unwrap_or_default())
        }
        (None, BodyOutcome::Plan(_)) => {
            let detail = "the function is in an object without a build-id".to_owned();
            Worked::Failed(Reason::MalformedImage, detail)
        }
    }
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
    /// Of two packages that with the image had the module, and that for modules had not.
    pub module_beside_image: bool,
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
    unpack_all(paths.map(|path| Content::Whole(path.to_owned())).collect())
}

fn unpack_all(contents: Vec<Content>) -> Result<Unpacked, UnpackError> {
    let wanted: &[Wanted] = match contents.len() {
        1 => &[Wanted::Both],
        _ => &[Wanted::Vmlinuz, Wanted::NfTables],
    };
    // Some put nf_tables among the modules in the image's package.
    let again = match contents.as_slice() {
        [Content::Whole(image), _] => Some(image.clone()),
        _ => None,
    };
    let again = again.map(|image| (Content::Whole(image), &Wanted::NfTables));
    let packages = contents.len();
    let mut unpacked = Unpacked::default();
    for (turn, (content, wanted)) in contents.into_iter().zip(wanted).chain(again).enumerate() {
        if *wanted == Wanted::NfTables && unpacked.nf_tables.is_some() {
            break;
        }
        let files = content.files(*wanted)?;
        match (&unpacked.release, files.release) {
            (Some(image), Some(modules)) if *image != modules => {
                let image = image.clone();
                return Err(UnpackError::Releases { image, modules });
            }
            (_, Some(release)) => unpacked.release = Some(release),
            (_, None) => {}
        }
        unpacked.vmlinuz = files.vmlinuz.or(unpacked.vmlinuz);
        unpacked.nf_tables = files.nf_tables.map(|file| file.bytes).or(unpacked.nf_tables);
        unpacked.module_beside_image = turn == packages && unpacked.nf_tables.is_some();
    }
    Ok(unpacked)
}
