//! What sources list, whatever their kind: packages, and the kernels that they make up.
//!
//! A reader of indices (`apt`, `rpm_md`, …) turns what a repository says into [`SuiteIndex`]es; the
//! rules of a family of distributions turn those into [`KernelSet`]s, because which packages make a
//! kernel is a matter of names. All else, from fetching to the store, knows only the types of this
//! page.

use super::{apk::keys::Keys, openpgp::Keyring, version::Version};
use nfdrop_db::{KernelRelease, Series};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// What vouches for a package.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The index, which gives its hash and is signed.
    Index {
        /// Fingerprint of the key, upper-case hex.
        signed_by: String,
    },
    /// A signature of the package's own, which is checked once it is there.
    Package(PackageSignature),
    /// Nothing. Let in because the operator said so.
    Nothing,
}

/// Where the signature of a single package is, and the keys it is checked with.
#[derive(Debug, Clone)]
pub enum PackageSignature {
    /// In the index that lists the package, see [`Package::signature`].
    Listed {
        /// Whose signatures count.
        keys: Arc<Keyring>,
    },
    /// A detached OpenPGP signature beside the package, whose name has this suffix more: `.sig`.
    Beside {
        /// Of the URL.
        suffix: &'static str,
        /// Whose signatures count.
        keys: Arc<Keyring>,
    },
    /// The index, which gives the hash of what stands in front of the package's files, and of them that
    /// has the hash: an .apk. See [`Package::signature`].
    Apk {
        /// Who signed the index.
        signed_by: String,
        /// Whose signatures in packages are looked at too.
        keys: Arc<Keys>,
    },
    /// In the package, which is an RPM.
    Rpm {
        /// Whose signatures count.
        keys: Arc<Keyring>,
    },
}

/// A package as an index describes it.
#[derive(Debug, Clone)]
pub struct Package {
    /// `linux-image-6.1.0-56-cloud-amd64`, `kernel-core`.
    pub name: String,
    /// The package's version, with epoch and revision or release.
    pub version: Version,
    /// The distribution's name of the architecture, `amd64`.
    pub architecture: String,
    /// What it depends on, as written; empty where there is nothing or it does not matter.
    pub depends: String,
    /// Path below the repository's root, checked to lead nowhere else.
    pub path: String,
    /// Bytes of the package, where the index says.
    pub size: Option<u64>,
    /// Of the package, where the index says.
    pub sha256: Option<[u8; 32]>,
    /// A detached OpenPGP signature of the package that the index holds; of an .apk the hash of its
    /// control stream, 20 bytes of SHA-1 or 32 of SHA-256.
    pub signature: Option<Arc<[u8]>>,
}

/// The kernel packages of one suite.
#[derive(Debug, Clone)]
pub struct SuiteIndex {
    /// `trixie-security`, `41-updates`.
    pub suite: String,
    /// The repository's URL, without a slash at the end.
    pub base: String,
    /// What vouches for its packages.
    pub trust: Trust,
    /// Those that may be parts of kernels.
    pub packages: Vec<Package>,
}

/// A package and everywhere it was found. The same name and version with other content is another
/// package.
#[derive(Debug, Clone)]
pub struct PackageRef {
    /// `linux-image-6.1.0-56-cloud-amd64`.
    pub name: String,
    /// The package's version.
    pub version: Version,
    /// `amd64`.
    pub arch: String,
    /// In bytes, where an index says.
    pub size: Option<u64>,
    /// Of the package, where an index says.
    pub sha256: Option<[u8; 32]>,
    /// The package's dependencies.
    pub depends: String,
    /// At least one, in the order of the indices.
    pub listings: Vec<Listing>,
}

impl PackageRef {
    /// The suites that list it, in the order of the indices.
    pub fn suites(&self) -> impl Iterator<Item = &str> {
        self.listings.iter().map(|listing| listing.suite.as_str())
    }

    /// Whether one suite lists both.
    pub fn shares_suite(&self, other: &Self) -> bool {
        self.suites().any(|suite| other.suites().any(|other| other == suite))
    }
}

/// One index that lists a package.
#[derive(Debug, Clone)]
pub struct Listing {
    /// `trixie-security`.
    pub suite: String,
    /// Where the package is.
    pub url: String,
    /// What vouches for it there.
    pub trust: Trust,
    /// As of the index's [`Package`].
    pub signature: Option<Arc<[u8]>>,
}

/// One kernel, as its packages describe it.
#[derive(Debug, Clone)]
pub struct KernelSet {
    /// `debian`.
    pub distro: String,
    /// The suites that list its packages, in the order of the indices.
    pub suites: Vec<String>,
    /// `6.12`.
    pub series: Series,
    /// `cloud-amd64`; empty for a distribution's only or main kernel.
    pub flavour: String,
    /// As `uname -r` prints it: `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    /// Of the packages.
    pub version: Version,
    /// What has to be fetched.
    pub packages: PackageSet,
}

/// The packages of a kernel.
#[derive(Debug, Clone)]
pub enum PackageSet {
    /// There is everything that is needed.
    Complete {
        /// Holds vmlinuz.
        image: Arc<PackageRef>,
        /// Holds the modules; `None` where `image` holds both.
        modules: Option<Arc<PackageRef>>,
    },
    /// There is not.
    Incomplete {
        /// What the indices list.
        found: Vec<Arc<PackageRef>>,
        /// Names of the packages that no index lists in this version.
        missing: Vec<String>,
    },
}

impl KernelSet {
    /// A kernel that is in one package.
    pub fn whole(distro: &str, package: Arc<PackageRef>, release: String, flavour: String) -> Self {
        let series = KernelRelease(&release).series().unwrap_or(Series::UNKNOWN);
        let version = package.version.clone();
        let packages = PackageSet::Complete { image: package, modules: None };
        let (distro, suites) = (distro.to_owned(), packages.suites());
        Self { distro, suites, series, flavour, release, version, packages }
    }
}

impl PackageSet {
    /// Whether there is everything that is needed.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete { .. })
    }

    /// The packages that the indices list, each once.
    pub fn found(&self) -> Vec<&PackageRef> {
        match self {
            Self::Complete { image, modules } => {
                [Some(image), modules.as_ref()].into_iter().flatten().map(AsRef::as_ref).collect()
            }
            Self::Incomplete { found, .. } => found.iter().map(AsRef::as_ref).collect(),
        }
    }

    /// The suites that list any of them, in the order of the indices.
    pub fn suites(&self) -> Vec<String> {
        let mut suites: Vec<String> = Vec::new();
        for listing in self.found().into_iter().flat_map(|package| &package.listings) {
            if !suites.contains(&listing.suite) {
                suites.push(listing.suite.clone());
            }
        }
        suites
    }
}

/// The packages of an architecture in all indices, those that several list once. Packages whose hash
/// is not known are told apart by where they are.
pub fn merge(indices: &[SuiteIndex], arch: &str) -> Vec<Arc<PackageRef>> {
    let mut merged: Vec<PackageRef> = Vec::new();
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    for index in indices {
        for package in index.packages.iter().filter(|p| p.architecture == arch) {
            let url = format!("{}/{}", index.base, package.path);
            let by_place = package.sha256.is_none().then(|| url.clone());
            let (trust, signature) = (index.trust.clone(), package.signature.clone());
            let listing = Listing { suite: index.suite.clone(), url, trust, signature };
            match places.entry((&package.name, package.sha256, by_place)) {
                Entry::Occupied(place) => {
                    let listings = &mut merged[*place.get()].listings;
                    if listings.iter().all(|known| known.suite != listing.suite) {
                        listings.push(listing);
                    }
                }
                Entry::Vacant(place) => {
                    place.insert(merged.len());
                    merged.push(PackageRef {
                        name: package.name.clone(),
                        version: package.version.clone(),
                        arch: package.architecture.clone(),
                        size: package.size,
                        sha256: package.sha256,
                        depends: package.depends.clone(),
                        listings: vec![listing],
                    });
                }
            }
        }
    }
    merged.into_iter().map(Arc::new).collect()
}

/// Ascending by series, flavour, version and release.
pub fn sort(kernels: &mut [KernelSet]) {
    kernels.sort_by(|a, b| {
        let key = |k: &KernelSet| (k.series, k.flavour.clone(), k.version.clone());
        key(a).cmp(&key(b)).then_with(|| a.release.cmp(&b.release))
    });
}

/// Of every distribution, series and flavour the newest complete kernel, and the newest of all where
/// that is newer and incomplete: what is missing has to be said, not skipped. Ascending by series and
/// flavour, the complete one first.
pub fn newest_per_series(
    kernels: &[KernelSet],
    filter: impl Fn(&KernelSet) -> bool,
) -> Vec<&KernelSet> {
    let mut groups: BTreeMap<_, Vec<&KernelSet>> = BTreeMap::new();
    for kernel in kernels.iter().filter(|kernel| filter(kernel)) {
        let group = (kernel.series, &kernel.distro, &kernel.flavour);
        groups.entry(group).or_default().push(kernel);
    }
    let mut chosen = Vec::new();
    for mut group in groups.into_values() {
        // Stable: of equal versions the one with the lesser release stays in front.
        group.sort_by_key(|kernel| Reverse(&kernel.version));
        chosen.extend(group.iter().find(|kernel| kernel.packages.is_complete()));
        chosen.extend(group.first().filter(|kernel| !kernel.packages.is_complete()));
    }
    chosen
}
