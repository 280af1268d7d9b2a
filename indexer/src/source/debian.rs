//! Debian: which suites may exist, and which kernels their indices offer.
//!
//! Until 6.18 a package `linux-image-R` holds the kernel R whole. From 6.19 on it is empty and
//! depends on `linux-binary-R` (vmlinuz) and `linux-modules-R` (modules) of exactly its version; an
//! index can list one without the other, and then there is nothing to analyse:
//! [`PackageSet::Incomplete`] names what is missing. Parts are joined over all indices that were
//! read, since updates move between suites.

use super::{packages::Package, version::Version};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// The only architecture that is analysed, by Debian's name.
pub const ARCH: &str = "amd64";
/// The component kernels are in.
pub const COMPONENT: &str = "main";

/// Debian's releases from the oldest that is crawled, with their numbers. A name that a mirror does
/// not have costs one request, so names to come are listed as soon as they are known.
pub const CODENAMES: &[(&str, u32)] =
    &[("bullseye", 11), ("bookworm", 12), ("trixie", 13), ("forky", 14), ("duke", 15)];

/// Which of Debian's archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArchiveKind {
    /// Releases, updates and backports.
    Main,
    /// Security updates.
    Security,
}

impl fmt::Display for ArchiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main archive",
            Self::Security => "security archive",
        })
    }
}

impl ArchiveKind {
    /// The archive that signs Release files with this origin and label, if it is one of Debian's.
    pub fn of(origin: &str, label: &str) -> Option<Self> {
        match (origin, label) {
            ("Debian", "Debian-Security") => Some(Self::Security),
            ("Debian" | "Debian Backports", _) => Some(Self::Main),
            _ => None,
        }
    }

    /// The suites that may exist there. The aliases (stable, testing, unstable) are left out: they
    /// are these by another name.
    pub fn candidates(self) -> Vec<String> {
        const MAIN: [&str; 4] = ["", "-updates", "-backports", "-backports-sloppy"];
        let suffixes: &[&str] = if self == Self::Main { &MAIN } else { &["-security"] };
        let of = |name: &str| suffixes.iter().map(|s| format!("{name}{s}")).collect::<Vec<_>>();
        let mut suites: Vec<_> = CODENAMES.iter().flat_map(|(name, _)| of(name)).collect();
        if self == Self::Main {
            suites.extend(["sid", "experimental"].map(str::to_owned));
        }
        suites
    }
}

/// The kernel packages of one suite.
#[derive(Debug, Clone)]
pub struct SuiteIndex {
    /// `trixie-security`.
    pub suite: String,
    /// The archive's URL, without a slash at the end.
    pub base: String,
    /// Fingerprint of the key that signed the index, upper-case hex.
    pub signed_by: String,
    /// Those whose names begin with [`PREFIX`].
    pub packages: Vec<Package>,
}

/// What the names of all kernel packages begin with.
pub const PREFIX: &str = "linux-";

/// A package and everywhere it was found. The same name and version with other content is another
/// package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRef {
    /// `linux-image-6.1.0-56-cloud-amd64`.
    pub name: String,
    /// The package's version.
    pub version: Version,
    /// `amd64`.
    pub arch: String,
    /// In bytes.
    pub size: u64,
    /// Of the package.
    pub sha256: [u8; 32],
    /// The package's `Depends`.
    pub depends: String,
    /// At least one, in the order of the indices.
    pub listings: Vec<Listing>,
}

/// One index that lists a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// `trixie-security`.
    pub suite: String,
    /// Where the package is.
    pub url: String,
    /// Fingerprint of the key that signed the index, upper-case hex.
    pub signed_by: String,
}

/// The first two numbers of a kernel's version, `6.12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series(pub u16, pub u16);

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Not two numbers with a dot between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kernel series, expected one such as `6.12`")]
pub struct SeriesError(String);

impl FromStr for Series {
    type Err = SeriesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (major, minor) = text.split_once('.')?;
            Some(Self(major.parse().ok()?, minor.parse().ok()?))
        };
        parse().ok_or_else(|| SeriesError(text.to_owned()))
    }
}

/// One kernel, as its packages describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSet {
    /// `debian`.
    pub distro: &'static str,
    /// The suites that list its packages, in the order of the indices.
    pub suites: Vec<String>,
    /// `6.12`.
    pub series: Series,
    /// `cloud-amd64`.
    pub flavour: String,
    /// As `uname -r` prints it: `6.12.117+deb13-cloud-amd64`.
    pub release: String,
    /// Of the packages.
    pub version: Version,
    /// What has to be fetched.
    pub packages: PackageSet,
}

/// The packages of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageSet {
    /// There is everything that is needed.
    Complete {
        /// Holds vmlinuz.
        image: Arc<PackageRef>,
        /// Holds the modules; equal to `image` where one package holds both.
        modules: Arc<PackageRef>,
    },
    /// There is not.
    Incomplete {
        /// What the indices list.
        found: Vec<Arc<PackageRef>>,
        /// Names of the packages that no index lists in this version.
        missing: Vec<String>,
    },
}

impl PackageSet {
    /// Whether there is everything that is needed.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete { .. })
    }

    /// The packages that the indices list, each once.
    pub fn found(&self) -> Vec<&PackageRef> {
        match self {
            Self::Complete { image, modules } if image == modules => vec![image],
            Self::Complete { image, modules } => vec![image, modules],
            Self::Incomplete { found, .. } => found.iter().map(AsRef::as_ref).collect(),
        }
    }
}

/// The kernels that the indices offer, each once, ascending by series, flavour and version.
pub fn kernels(indices: &[SuiteIndex]) -> Vec<KernelSet> {
    let packages: Vec<_> = merge(indices).into_iter().map(Arc::new).collect();
    // Same name and version but other content is another build: each whole package is a set.
    let mut sets: Vec<(&str, &Version, PackageSet)> = Vec::new();
    let mut split: BTreeMap<(&str, &Version), BTreeSet<String>> = BTreeMap::new();
    for package in &packages {
        let Some((role, release)) = role(&package.name) else { continue };
        let key = (release, &package.version);
        match role {
            Role::Image => match dependencies(package) {
                Dependencies::Meta => {}
                Dependencies::None => sets.push((release, &package.version, whole(package))),
                Dependencies::Parts(parts) => split.entry(key).or_default().extend(parts),
            },
            // A part that no image asks for (yet) still says that there is such a kernel.
            Role::Binary | Role::Modules => {
                let parts = [format!("linux-binary-{release}"), format!("linux-modules-{release}")];
                split.entry(key).or_default().extend(parts);
            }
        }
    }
    let mut by_name: BTreeMap<&str, Vec<&Arc<PackageRef>>> = BTreeMap::new();
    for package in &packages {
        by_name.entry(&package.name).or_default().push(package);
    }
    for ((release, version), needed) in split {
        sets.push((release, version, join(needed, &by_name, version)));
    }
    let kernel = |(release, version, packages): (&str, &Version, PackageSet)| {
        let (series, flavour) = split_release(release)?;
        let mut suites = Vec::new();
        for listing in packages.found().iter().flat_map(|package| &package.listings) {
            if !suites.contains(&listing.suite) {
                suites.push(listing.suite.clone());
            }
        }
        let (release, version) = (release.to_owned(), version.clone());
        Some(KernelSet { distro: "debian", suites, series, flavour, release, version, packages })
    };
    let mut kernels: Vec<_> = sets.into_iter().filter_map(kernel).collect();
    kernels.sort_by(|a, b| {
        let key = |k: &KernelSet| (k.series, k.flavour.clone(), k.version.clone());
        key(a).cmp(&key(b)).then_with(|| a.release.cmp(&b.release))
    });
    kernels
}

/// Of every series and flavour the newest complete kernel, and the newest of all where that is
/// newer and incomplete: what is missing has to be said, not skipped. Ascending by series and
/// flavour, the complete one first.
pub fn newest_per_series(
    kernels: &[KernelSet],
    filter: impl Fn(&KernelSet) -> bool,
) -> Vec<&KernelSet> {
    let mut groups: BTreeMap<_, Vec<&KernelSet>> = BTreeMap::new();
    for kernel in kernels.iter().filter(|kernel| filter(kernel)) {
        groups.entry((kernel.series, &kernel.flavour)).or_default().push(kernel);
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

/// The packages of all indices, those that several list once.
fn merge(indices: &[SuiteIndex]) -> Vec<PackageRef> {
    let mut merged: Vec<PackageRef> = Vec::new();
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    for index in indices {
        for package in index.packages.iter().filter(|p| p.architecture == ARCH) {
            let listing = Listing {
                suite: index.suite.clone(),
                url: format!("{}/{}", index.base, package.filename),
                signed_by: index.signed_by.clone(),
            };
            match places.entry((&package.name, package.sha256)) {
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
    merged
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Image,
    Binary,
    Modules,
}

/// What a package is to which kernel; `None` for everything that holds no kernel.
fn role(name: &str) -> Option<(Role, &str)> {
    let prefixes = [
        ("linux-image-", Role::Image),
        ("linux-binary-", Role::Binary),
        ("linux-modules-", Role::Modules),
    ];
    let (role, release) =
        prefixes.into_iter().find_map(|(prefix, role)| Some((role, name.strip_prefix(prefix)?)))?;
    let other = ["-dbg", "-unsigned", "-template"].iter().any(|s| release.ends_with(s));
    let numbered = release.starts_with(|c: char| c.is_ascii_digit());
    (numbered && !other).then_some((role, release))
}

/// The series and flavour of a release: of `6.1.0-0.deb11.52-rt-amd64` they are 6.1 and `rt-amd64`.
fn split_release(release: &str) -> Option<(Series, String)> {
    let mut parts = release.split('-');
    let mut numbers = parts.next()?.split(['.', '+']);
    let series = Series(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    // Between version and flavour stands the ABI's number, `rc7` or `trunk`, or nothing.
    let abi = |part: &&str| {
        let number = part.strip_prefix("rc").unwrap_or(part);
        *part == "trunk" || number.starts_with(|c: char| c.is_ascii_digit())
    };
    let flavour = parts.skip_while(abi).collect::<Vec<_>>().join("-");
    (!flavour.is_empty()).then_some((series, flavour))
}

fn whole(package: &Arc<PackageRef>) -> PackageSet {
    PackageSet::Complete { image: Arc::clone(package), modules: Arc::clone(package) }
}

/// Looks for the packages of these names in exactly this version.
fn join(
    needed: BTreeSet<String>,
    by_name: &BTreeMap<&str, Vec<&Arc<PackageRef>>>,
    version: &Version,
) -> PackageSet {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in needed {
        let packages = by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        match packages.iter().find(|package| package.version == *version) {
            Some(package) => found.push(Arc::clone(package)),
            None => missing.push(name),
        }
    }
    let of = |wanted| found.iter().find(|p| role(&p.name).is_some_and(|(r, _)| r == wanted));
    match (of(Role::Binary), of(Role::Modules)) {
        (Some(image), Some(modules)) if missing.is_empty() => {
            PackageSet::Complete { image: Arc::clone(image), modules: Arc::clone(modules) }
        }
        _ => PackageSet::Incomplete { found, missing },
    }
}

/// What a `linux-image` depends on, as far as it tells what it is.
#[derive(Debug, PartialEq, Eq)]
enum Dependencies {
    /// On nothing of interest: it holds the kernel.
    None,
    /// On another image: it only points to the current kernel.
    Meta,
    /// On these parts of its own version.
    Parts(Vec<String>),
}

fn dependencies(package: &PackageRef) -> Dependencies {
    let mut parts = Vec::new();
    for dependency in package.depends.split(',') {
        let (name, version) = dependency.trim().split_once(' ').unwrap_or((dependency.trim(), ""));
        match role(name) {
            Some((Role::Image, _)) => return Dependencies::Meta,
            Some(_) if exact(version).is_some_and(|v| v == package.version) => {
                parts.push(name.to_owned());
            }
            _ => {}
        }
    }
    if parts.is_empty() { Dependencies::None } else { Dependencies::Parts(parts) }
}

/// The version in `(= 7.2.12-1~bpo13+1)`.
fn exact(restriction: &str) -> Option<Version> {
    let inner = restriction.trim().strip_prefix("(=")?.strip_suffix(')')?;
    Some(Version::new(inner.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, depends: &str) -> Package {
        let mut sha256 = [0; 32];
        for (at, byte) in name.bytes().chain(version.bytes()).enumerate() {
            sha256[at % 32] ^= byte.rotate_left(at as u32 / 32);
        }
        Package {
            name: name.to_owned(),
            version: Version::new(version),
            architecture: ARCH.to_owned(),
            depends: depends.to_owned(),
            filename: format!("pool/{name}_{version}_amd64.deb"),
            size: 1000,
            sha256,
        }
    }

    fn split(release: &str, version: &str) -> [Package; 3] {
        let depends = format!(
            "kmod | x, linux-base-{release} (= {version}), linux-binary-{release} (= {version}), \
             linux-modules-{release} (= {version})"
        );
        [
            package(&format!("linux-image-{release}"), version, &depends),
            package(&format!("linux-binary-{release}"), version, ""),
            package(&format!("linux-modules-{release}"), version, "kmod"),
        ]
    }

    fn index(suite: &str, packages: impl IntoIterator<Item = Package>) -> SuiteIndex {
        SuiteIndex {
            suite: suite.to_owned(),
            base: "http://mirror.example/debian".to_owned(),
            signed_by: "AB".to_owned(),
            packages: packages.into_iter().collect(),
        }
    }

    fn describe<'a>(kernels: impl IntoIterator<Item = &'a KernelSet>) -> String {
        let line = |k: &KernelSet| {
            let packages = match &k.packages {
                PackageSet::Complete { image, modules } if image == modules => "whole".to_owned(),
                PackageSet::Complete { .. } => "in parts".to_owned(),
                PackageSet::Incomplete { missing, .. } => format!("missing {}", missing.join(" ")),
            };
            let suites = k.suites.join(",");
            format!(
                "{} {} {} {} [{suites}] {packages}\n",
                k.series, k.flavour, k.release, k.version
            )
        };
        kernels.into_iter().map(line).collect()
    }

    #[test]
    fn tells_kernels_from_what_is_named_alike() {
        let all = [
            package("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2", "kmod, linux-base (>= 4.3~)"),
            package("linux-image-6.1.0-0.deb11.52-rt-amd64", "6.1.180-1~deb11u1", "kmod"),
            package("linux-image-6.12.90+deb13.1-amd64", "6.12.90-2", ""),
            package(
                "linux-image-6.1-cloud-amd64",
                "6.1.1-1",
                "linux-image-6.1.0-0-cloud-amd64 (= 6.1.1-1)",
            ),
            package(
                "linux-image-cloud-amd64",
                "6.1.1-1",
                "linux-image-6.1.0-0-cloud-amd64 (= 6.1.1-1)",
            ),
            package("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1.192-2", ""),
            package("linux-image-6.1.0-56-cloud-amd64-unsigned", "6.1.192-2", ""),
            package("linux-image-amd64-signed-template", "6.1.192-2", ""),
            package("linux-binary-unsigned-7.2.6+deb13-amd64", "7.2.6-1", ""),
            package("linux-modules-cloud-amd64", "7.2.6-1", ""),
            package("linux-headers-6.1.0-56-amd64", "6.1.192-2", ""),
        ];
        let rc = split("7.3-cloud-amd64", "7.3~rc7-1~exp1");
        let kernels = kernels(&[index("a", all), index("experimental", rc)]);
        insta::assert_snapshot!(describe(&kernels), @r#"
        6.1 cloud-amd64 6.1.0-56-cloud-amd64 6.1.192-2 [a] whole
        6.1 rt-amd64 6.1.0-0.deb11.52-rt-amd64 6.1.180-1~deb11u1 [a] whole
        6.12 amd64 6.12.90+deb13.1-amd64 6.12.90-2 [a] whole
        7.3 cloud-amd64 7.3-cloud-amd64 7.3~rc7-1~exp1 [experimental] in parts
        "#);
    }

    #[test]
    fn joins_parts_of_exactly_one_version() {
        let [image, binary, modules] = split("7.2.6+deb13-amd64", "7.2.6-1");
        let [later_image, later_binary, _] = split("7.2.9+deb13-amd64", "7.2.9-1");
        let [_, orphan, _] = split("7.2.11+deb13-amd64", "7.2.11-1");
        let other = package("linux-modules-7.2.9+deb13-amd64", "7.2.9-1~bpo", "");
        let first = index("backports", [image, binary, later_image, later_binary, orphan]);
        // The other part may be listed in another suite.
        let kernels = kernels(&[first, index("security", [modules, other])]);
        insta::assert_snapshot!(describe(&kernels), @r#"
        7.2 amd64 7.2.6+deb13-amd64 7.2.6-1 [backports,security] in parts
        7.2 amd64 7.2.9+deb13-amd64 7.2.9-1~bpo [security] missing linux-binary-7.2.9+deb13-amd64
        7.2 amd64 7.2.9+deb13-amd64 7.2.9-1 [backports] missing linux-modules-7.2.9+deb13-amd64
        7.2 amd64 7.2.11+deb13-amd64 7.2.11-1 [backports] missing linux-modules-7.2.11+deb13-amd64
        "#);
        let newest = newest_per_series(&kernels, |_| true);
        insta::assert_snapshot!(describe(newest), @r#"
        7.2 amd64 7.2.6+deb13-amd64 7.2.6-1 [backports,security] in parts
        7.2 amd64 7.2.11+deb13-amd64 7.2.11-1 [backports] missing linux-modules-7.2.11+deb13-amd64
        "#);
    }

    #[test]
    fn a_package_in_two_suites_is_one_download() {
        let one = package("linux-image-6.12.117+deb13-amd64", "6.12.117-1", "");
        let rebuilt = Package { sha256: [7; 32], ..one.clone() };
        let kernels = kernels(&[
            index("trixie", [one.clone()]),
            index("trixie-security", [one]),
            index("odd", [rebuilt]),
        ]);
        insta::assert_snapshot!(describe(&kernels), @r#"
        6.12 amd64 6.12.117+deb13-amd64 6.12.117-1 [trixie,trixie-security] whole
        6.12 amd64 6.12.117+deb13-amd64 6.12.117-1 [odd] whole
        "#);
        let found = kernels[0].packages.found();
        assert_eq!(found.len(), 1);
        let suites: Vec<_> = found[0].listings.iter().map(|l| l.suite.as_str()).collect();
        assert_eq!(suites, ["trixie", "trixie-security"]);
    }

    #[test]
    fn the_newest_is_by_dpkg_order_and_per_flavour() {
        let image =
            |release: &str, version| package(&format!("linux-image-{release}"), version, "");
        let kernels = kernels(&[index(
            "a",
            [
                image("6.12.9+deb13-amd64", "6.12.9-1"),
                image("6.12.117+deb12-amd64", "6.12.117-1~bpo12+1"),
                image("6.12.117+deb13-amd64", "6.12.117-1"),
                image("6.12.9+deb13-cloud-amd64", "6.12.9-1"),
                image("5.10.0-46-amd64", "5.10.262-1"),
            ],
        )]);
        insta::assert_snapshot!(describe(newest_per_series(&kernels, |_| true)), @r#"
        5.10 amd64 5.10.0-46-amd64 5.10.262-1 [a] whole
        6.12 amd64 6.12.117+deb13-amd64 6.12.117-1 [a] whole
        6.12 cloud-amd64 6.12.9+deb13-cloud-amd64 6.12.9-1 [a] whole
        "#);
        let cloud = newest_per_series(&kernels, |kernel| kernel.flavour == "cloud-amd64");
        assert_eq!(cloud.len(), 1);
    }

    #[test]
    fn splits_releases() {
        let split = |release| split_release(release).map(|(s, f)| format!("{s} {f}"));
        assert_eq!(split("5.10.0-46-cloud-amd64").as_deref(), Some("5.10 cloud-amd64"));
        assert_eq!(split("6.1.0-0.deb11.52-rt-amd64").as_deref(), Some("6.1 rt-amd64"));
        assert_eq!(split("7.3-amd64").as_deref(), Some("7.3 amd64"));
        assert_eq!(split("7.3-rc7-amd64").as_deref(), Some("7.3 amd64"));
        assert_eq!(split("6.0.0-trunk-amd64").as_deref(), Some("6.0 amd64"));
        for wrong in ["", "7", "7.3", "7.x-amd64", "99999.1-amd64", "7.3-"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn candidates_have_no_aliases() {
        let main = ArchiveKind::Main.candidates();
        assert_eq!(main.len(), CODENAMES.len() * 4 + 2);
        assert!(main.contains(&"trixie-backports".to_owned()));
        assert!(!main.iter().any(|suite| suite.contains("stable") || suite.contains("testing")));
        assert_eq!(ArchiveKind::Security.candidates()[0], "bullseye-security");
        assert_eq!("6.12".parse(), Ok(Series(6, 12)));
        assert!("6".parse::<Series>().is_err());
    }
}
