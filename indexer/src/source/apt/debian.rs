//! Debian and Ubuntu: which kernels their indices offer.
//!
//! Until 6.18 a package `linux-image-R` holds the kernel R whole. From 6.19 on it is empty and
//! depends on `linux-binary-R` (vmlinuz) and `linux-modules-R` (modules) of exactly its version; an
//! index can list one without the other, and then there is nothing to analyse:
//! [`PackageSet::Incomplete`] names what is missing. Ubuntu's `linux-image-R` holds vmlinuz and depends on
//! `linux-modules-R`. Parts are joined over all indices that were read, since updates move between
//! suites.
//!
//! An image comes signed for Secure Boot and unsigned, with the same code in it: the unsigned one is
//! taken where there is no other.

use crate::source::{
    kernel::{KernelSet, PackageRef, PackageSet, SuiteIndex, merge, sort},
    version::Version,
};
use nfdrop_db::{KernelRelease, Series};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The catalogue's entry for the archive that signs Release files with this origin and label, if it is
/// one of Debian's.
pub fn source_of(origin: &str, label: &str) -> Option<&'static str> {
    match (origin, label) {
        ("Debian", "Debian-Security") => Some("debian-security"),
        ("Debian" | "Debian Backports", _) => Some("debian"),
        _ => None,
    }
}

/// What the names of all kernel packages begin with.
pub const PREFIX: &str = "linux-";

/// The kernels that the indices offer, each once, ascending by series, flavour and version.
pub fn kernels(distro: &str, arch: &str, indices: &[SuiteIndex]) -> Vec<KernelSet> {
    let packages = merge(indices, arch);
    // Same name and version but other content is another build: each whole package is a set.
    let mut sets: Vec<(&str, &Version, PackageSet)> = Vec::new();
    let mut split: BTreeMap<(&str, &Version), BTreeSet<String>> = BTreeMap::new();
    let mut unsigned = Vec::new();
    // Whether the image is a part beside `linux-image-R`, as in Debian, or that itself.
    let has_binary = packages.iter().any(|package| package.name.starts_with("linux-binary-"));
    for package in &packages {
        let Some((role, release)) = role(&package.name) else { continue };
        let key = (release, &package.version);
        match role {
            Role::Image => match dependencies(package) {
                Dependencies::Meta => {}
                Dependencies::None => sets.push((release, &package.version, whole(package))),
                Dependencies::Parts(mut parts) => {
                    if !parts.iter().any(|part| part.starts_with("linux-binary-")) {
                        parts.push(package.name.clone());
                    }
                    split.entry(key).or_default().extend(parts);
                }
            },
            Role::Unsigned => unsigned.push((key, package)),
            // A part that no image asks for (yet) still says that there is such a kernel.
            Role::Binary | Role::Modules => {
                let image = if has_binary { "linux-binary" } else { "linux-image" };
                let parts = [format!("{image}-{release}"), format!("linux-modules-{release}")];
                split.entry(key).or_default().extend(parts);
            }
        }
    }
    for ((release, version), package) in unsigned {
        let known = sets.iter().any(|(r, v, _)| (*r, *v) == (release, version))
            || split.contains_key(&(release, version));
        if !known && matches!(dependencies(package), Dependencies::None) {
            sets.push((release, version, whole(package)));
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
        let (series, flavour) = split_release(release);
        let suites = packages.suites();
        let (release, version) = (release.to_owned(), version.clone());
        let distro = distro.to_owned();
        KernelSet { distro, suites, series, flavour, release, version, packages }
    };
    let mut kernels: Vec<_> = sets.into_iter().map(kernel).collect();
    sort(&mut kernels);
    kernels
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Image,
    /// As an image, but without a signature for Secure Boot.
    Unsigned,
    Binary,
    Modules,
}

/// What a package is to which kernel; `None` for everything that holds no kernel.
fn role(name: &str) -> Option<(Role, &str)> {
    let prefixes = [
        ("linux-image-unsigned-", Role::Unsigned),
        ("linux-image-", Role::Image),
        ("linux-binary-", Role::Binary),
        ("linux-modules-", Role::Modules),
    ];
    let (role, release) =
        prefixes.into_iter().find_map(|(prefix, role)| Some((role, name.strip_prefix(prefix)?)))?;
    let (role, release) = match release.strip_suffix("-unsigned") {
        Some(release) if role == Role::Image => (Role::Unsigned, release),
        _ => (role, release),
    };
    let other = ["-dbg", "-dbgsym", "-unsigned", "-template"].iter().any(|s| release.ends_with(s));
    let numbered = release.starts_with(|c: char| c.is_ascii_digit());
    (numbered && !other).then_some((role, release))
}

/// The series and flavour of a release: of `6.1.0-0.deb11.52-rt-amd64` they are 6.1 and `rt-amd64`.
fn split_release(release: &str) -> (Series, String) {
    let series = KernelRelease(release).series().unwrap_or(Series::UNKNOWN);
    // Between version and flavour stands the ABI's number, `rc7` or `trunk`, or nothing.
    let abi = |part: &&str| {
        let number = part.strip_prefix("rc").unwrap_or(part);
        *part == "trunk" || number.starts_with(|c: char| c.is_ascii_digit())
    };
    let parts = release.split('-').skip(1);
    (series, parts.skip_while(abi).collect::<Vec<_>>().join("-"))
}

fn whole(package: &Arc<PackageRef>) -> PackageSet {
    PackageSet::Complete { image: Arc::clone(package), modules: None }
}

/// Looks for the packages of these names in exactly this version.
fn join(
    needed: BTreeSet<String>,
    by_name: &BTreeMap<&str, Vec<&Arc<PackageRef>>>,
    version: &Version,
) -> PackageSet {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    let listed = |name: &str| {
        let packages = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        packages.iter().find(|package| package.version == *version)
    };
    for name in needed {
        let unsigned = name.strip_prefix("linux-image-");
        let unsigned = unsigned.map(|release| format!("linux-image-unsigned-{release}"));
        match listed(&name).or_else(|| listed(&unsigned?)) {
            Some(package) => found.push(Arc::clone(package)),
            None => missing.push(name),
        }
    }
    let of = |wanted| found.iter().find(|p| role(&p.name).is_some_and(|(r, _)| r == wanted));
    let image = of(Role::Binary).or_else(|| of(Role::Image)).or_else(|| of(Role::Unsigned));
    match (image, of(Role::Modules)) {
        (Some(image), Some(modules)) if missing.is_empty() => {
            PackageSet::Complete { image: Arc::clone(image), modules: Some(Arc::clone(modules)) }
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
            Some((Role::Image | Role::Unsigned, _)) => return Dependencies::Meta,
            // Ubuntu names the modules without a version.
            Some(_)
                if version.is_empty() || exact(version).is_some_and(|v| v == package.version) =>
            {
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
    Some(Version::dpkg(inner.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kernel::{Package, Trust, newest_per_series};

    fn package(name: &str, version: &str, depends: &str) -> Package {
        let mut sha256 = [0; 32];
        for (at, byte) in name.bytes().chain(version.bytes()).enumerate() {
            sha256[at % 32] ^= byte.rotate_left(at as u32 / 32);
        }
        Package {
            name: name.to_owned(),
            version: Version::dpkg(version),
            architecture: "amd64".to_owned(),
            depends: depends.to_owned(),
            path: format!("pool/{name}_{version}_amd64.deb"),
            size: Some(1000),
            sha256: Some(sha256),
            signature: None,
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
            trust: Trust::Index { signed_by: "AB".to_owned() },
            packages: packages.into_iter().collect(),
        }
    }

    fn describe<'a>(kernels: impl IntoIterator<Item = &'a KernelSet>) -> String {
        let line = |k: &KernelSet| {
            let packages = match &k.packages {
                PackageSet::Complete { modules: None, .. } => "whole".to_owned(),
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
        let kernels = kernels("debian", "amd64", &[index("a", all), index("experimental", rc)]);
        insta::assert_snapshot!(describe(&kernels), @r#"
        6.1 cloud-amd64 6.1.0-56-cloud-amd64 6.1.192-2 [a] whole
        6.1 rt-amd64 6.1.0-0.deb11.52-rt-amd64 6.1.180-1~deb11u1 [a] whole
        6.12 amd64 6.12.90+deb13.1-amd64 6.12.90-2 [a] whole
        7.3 cloud-amd64 7.3-cloud-amd64 7.3~rc7-1~exp1 [experimental] in parts
        "#);
    }

    #[test]
    fn an_unsigned_image_stands_in_for_a_signed_one() {
        let kernels = kernels(
            "debian",
            "amd64",
            &[index(
                "a",
                [
                    package("linux-image-6.12.9-amd64", "6.12.9-1", ""),
                    package("linux-image-6.12.9-amd64-unsigned", "6.12.9-1", ""),
                    package("linux-image-6.12.10-amd64-unsigned", "6.12.10-1", "kmod, linux-base"),
                    package("linux-image-6.12.10-amd64-unsigned-dbg", "6.12.10-1", ""),
                ],
            )],
        );
        let names: Vec<_> = kernels.iter().map(|k| &k.packages.found()[0].name).collect();
        assert_eq!(names, ["linux-image-6.12.9-amd64", "linux-image-6.12.10-amd64-unsigned"]);
    }

    #[test]
    fn ubuntus_images_are_joined_with_their_modules() {
        let kernel = |kind: &str, release: &str, version| {
            let depends =
                format!("kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-{release}");
            package(&format!("linux-image-{kind}{release}"), version, &depends)
        };
        let modules =
            |release: &str, version| package(&format!("linux-modules-{release}"), version, "");
        let kernels = kernels(
            "ubuntu",
            "amd64",
            &[index(
                "noble",
                [
                    kernel("", "6.8.0-31-generic", "6.8.0-31.31"),
                    kernel("unsigned-", "6.8.0-31-generic", "6.8.0-31.31"),
                    modules("6.8.0-31-generic", "6.8.0-31.31"),
                    package("linux-modules-extra-6.8.0-31-generic", "6.8.0-31.31", ""),
                    kernel("unsigned-", "6.8.0-1005-gcp", "6.8.0-1005.5"),
                    modules("6.8.0-1005-gcp", "6.8.0-1005.5"),
                    kernel("", "6.8.0-35-lowlatency", "6.8.0-35.35.1"),
                    package(
                        "linux-image-generic",
                        "6.8.0-31.31",
                        "linux-image-6.8.0-31-generic, x",
                    ),
                ],
            )],
        );
        insta::assert_snapshot!(describe(&kernels), @r#"
        6.8 gcp 6.8.0-1005-gcp 6.8.0-1005.5 [noble] in parts
        6.8 generic 6.8.0-31-generic 6.8.0-31.31 [noble] in parts
        6.8 lowlatency 6.8.0-35-lowlatency 6.8.0-35.35.1 [noble] missing linux-modules-6.8.0-35-lowlatency
        "#);
        let names: Vec<_> =
            kernels[..2].iter().map(|k| k.packages.found()[0].name.as_str()).collect();
        let images = ["linux-image-unsigned-6.8.0-1005-gcp", "linux-image-6.8.0-31-generic"];
        assert_eq!(names, images);
    }

    #[test]
    fn joins_parts_of_exactly_one_version() {
        let [image, binary, modules] = split("7.2.6+deb13-amd64", "7.2.6-1");
        let [later_image, later_binary, _] = split("7.2.9+deb13-amd64", "7.2.9-1");
        let [_, orphan, _] = split("7.2.11+deb13-amd64", "7.2.11-1");
        let other = package("linux-modules-7.2.9+deb13-amd64", "7.2.9-1~bpo", "");
        let first = index("backports", [image, binary, later_image, later_binary, orphan]);
        // The other part may be listed in another suite.
        let kernels = kernels("debian", "amd64", &[first, index("security", [modules, other])]);
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
        let rebuilt = Package { sha256: Some([7; 32]), ..one.clone() };
        let kernels = kernels(
            "debian",
            "amd64",
            &[
                index("trixie", [one.clone()]),
                index("trixie-security", [one]),
                index("odd", [rebuilt]),
            ],
        );
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
        let kernels = kernels(
            "debian",
            "amd64",
            &[index(
                "a",
                [
                    image("6.12.9+deb13-amd64", "6.12.9-1"),
                    image("6.12.117+deb12-amd64", "6.12.117-1~bpo12+1"),
                    image("6.12.117+deb13-amd64", "6.12.117-1"),
                    image("6.12.9+deb13-cloud-amd64", "6.12.9-1"),
                    image("5.10.0-46-amd64", "5.10.262-1"),
                ],
            )],
        );
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
        let split = |release| {
            let (series, flavour) = split_release(release);
            format!("{series} {flavour}")
        };
        assert_eq!(split("5.10.0-46-cloud-amd64"), "5.10 cloud-amd64");
        assert_eq!(split("6.1.0-0.deb11.52-rt-amd64"), "6.1 rt-amd64");
        assert_eq!(split("7.3-amd64"), "7.3 amd64");
        assert_eq!(split("7.3-rc7-amd64"), "7.3 amd64");
        assert_eq!(split("6.0.0-trunk-amd64"), "6.0 amd64");
        // Of no series, but never left out.
        for (odd, flavour) in
            [("", ""), ("7", ""), ("7.x-amd64", "amd64"), ("99999.1-amd64", "amd64")]
        {
            assert_eq!(split(odd), format!("0.0 {flavour}"), "{odd}");
        }
        assert_eq!(split("7.3"), "7.3 ");
    }
}
