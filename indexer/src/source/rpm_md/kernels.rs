//! Which packages of rpm distributions make up kernels.
//!
//! A kernel is whole in one package (`kernel` of Amazon and Azure Linux, `kernel-default` of openSUSE,
//! `linux` of Photon), or in `kernel-core`, beside which `kernel` holds nothing. From Fedora 38 and
//! RHEL 9.2 on, `kernel-core` has the image only and `kernel-modules-core` the modules. Which of the two
//! a `kernel-core` is, it does not say, so its repository has to: where it lists
//! `kernel-modules-core`, every `kernel-core` from the version of the oldest on has one, and if that is
//! not there the kernel is incomplete. Parts belong together if version and release are the same.

use crate::source::{
    kernel::{KernelSet, PackageRef, PackageSet, SuiteIndex, merge, sort},
    version::Version,
};
use nfdrop_db::{KernelRelease, Series};
use std::{collections::BTreeMap, sync::Arc};

/// How the release of a running kernel is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// `6.8.5-301.fc40.x86_64`.
    RedHat,
    /// `6.4.0-150600.21-default`: without the count of rebuilds, with the flavour.
    Suse,
    /// `6.1.83-1.ph5-esx`.
    Photon,
}

/// The packages that kernels are named after, their flavours, and whose they are. A new flavour is a
/// line here: with a pattern instead, dozens of tools, drivers and debug packages would be taken.
const BASES: &[(&str, &str, Spelling)] = &[
    ("kernel", "", Spelling::RedHat),
    ("kernel-automotive", "automotive", Spelling::RedHat),
    ("kernel-hwe", "hwe", Spelling::RedHat),
    ("kernel-lt", "lt", Spelling::RedHat),
    ("kernel-lts", "lts", Spelling::RedHat),
    ("kernel-ml", "ml", Spelling::RedHat),
    ("kernel-mshv", "mshv", Spelling::RedHat),
    ("kernel-plus", "plus", Spelling::RedHat),
    ("kernel-rt", "rt", Spelling::RedHat),
    ("kernel-uek", "uek", Spelling::RedHat),
    ("kernel-azure", "azure", Spelling::Suse),
    ("kernel-default", "default", Spelling::Suse),
    ("kernel-kvmsmall", "kvmsmall", Spelling::Suse),
    ("kernel-longterm", "longterm", Spelling::Suse),
    ("kernel-preempt", "preempt", Spelling::Suse),
    ("kernel-vanilla", "vanilla", Spelling::Suse),
    ("linux", "", Spelling::Photon),
    ("linux-aws", "aws", Spelling::Photon),
    ("linux-esx", "esx", Spelling::Photon),
    ("linux-rt", "rt", Spelling::Photon),
    ("linux-secure", "secure", Spelling::Photon),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The whole kernel, or nothing where there is a core.
    Whole,
    /// The image, and in older layouts the modules.
    Core,
    /// The modules that belong to a core.
    ModulesCore,
    /// More modules; UEK has nf_tables there.
    Modules,
}

/// The package a kernel is named after, as it is written, and which part a package is of it.
fn part(name: &str) -> Option<(&str, Part)> {
    let suffixes =
        [("-modules-core", Part::ModulesCore), ("-modules", Part::Modules), ("-core", Part::Core)];
    let cut = |(suffix, part)| Some((name.strip_suffix(suffix)?, part));
    let (base, part) = suffixes.into_iter().find_map(cut).unwrap_or((name, Part::Whole));
    // Of all others the modules are where the core says, or are not needed.
    let wanted = part != Part::Modules || base == "kernel-uek";
    (wanted && self::base(base).is_some()).then_some((base, part))
}

/// Flavour and spelling of what kernels are named after. `kernel6.12` is a kernel beside the main one.
fn base(base: &str) -> Option<(&'static str, Spelling)> {
    let numbered = base
        .strip_prefix("kernel")
        .filter(|rest| rest.contains('.') && rest.split('.').all(|n| n.parse::<u16>().is_ok()));
    let name = if numbered.is_some() { "kernel" } else { base };
    let found = BASES.iter().find(|(known, ..)| *known == name)?;
    Some((found.1, found.2))
}

/// Whether a package of this name may be a part of a kernel.
pub fn is_wanted(name: &str) -> bool {
    part(name).is_some()
}

/// A package name and a version.
type Key<'a> = (&'a str, &'a Version);

/// The kernels that the indices offer, each once, ascending by series, flavour and version.
pub fn kernels(distro: &str, arch: &str, indices: &[SuiteIndex]) -> Vec<KernelSet> {
    let packages = merge(indices, arch);
    let mut groups: BTreeMap<Key<'_>, BTreeMap<Part, Vec<&Arc<PackageRef>>>> = BTreeMap::new();
    // Of every suite and base, the version of the oldest package with the core's modules.
    let mut split_since: BTreeMap<(&str, &str), &Version> = BTreeMap::new();
    for package in &packages {
        let Some((base, part)) = part(&package.name) else { continue };
        let parts = groups.entry((base, &package.version)).or_default();
        parts.entry(part).or_default().push(package);
        if part == Part::ModulesCore {
            for listing in &package.listings {
                let since = split_since.entry((&listing.suite, base)).or_insert(&package.version);
                *since = (*since).min(&package.version);
            }
        }
    }
    let mut kernels = Vec::new();
    for ((base, version), parts) in groups {
        let is_split = |core: &PackageRef| {
            core.listings.iter().any(|listing| {
                let since = split_since.get(&(listing.suite.as_str(), base));
                since.is_some_and(|since| core.version >= **since)
            })
        };
        for packages in sets(base, &parts, is_split) {
            kernels.extend(kernel(distro, arch, base, version, packages));
        }
    }
    sort(&mut kernels);
    kernels
}

/// The sets of packages of one version: one, or as many as there are builds of it.
fn sets(
    base: &str,
    parts: &BTreeMap<Part, Vec<&Arc<PackageRef>>>,
    is_split: impl Fn(&PackageRef) -> bool,
) -> Vec<PackageSet> {
    let of = |part| parts.get(&part).map(Vec::as_slice).unwrap_or_default();
    let complete = |image: &Arc<PackageRef>, modules: Option<&Arc<PackageRef>>| {
        let (image, modules) = (Arc::clone(image), modules.cloned());
        PackageSet::Complete { image, modules }
    };
    let incomplete = |found: &[&Arc<PackageRef>], missing: &str| PackageSet::Incomplete {
        found: found.iter().map(|package| Arc::clone(package)).collect(),
        missing: vec![format!("{base}{missing}")],
    };
    let (cores, modules_core) = (of(Part::Core), of(Part::ModulesCore));
    if cores.is_empty() && !modules_core.is_empty() {
        return vec![incomplete(modules_core, "-core")];
    }
    if cores.is_empty() {
        let is_empty = |package: &PackageRef| needs_core(base, &package.depends);
        return of(Part::Whole)
            .iter()
            .map(|package| {
                if is_empty(package) {
                    incomplete(&[package], "-core")
                } else {
                    complete(package, None)
                }
            })
            .collect();
    }
    let set = |core: &&Arc<PackageRef>| match beside(core, modules_core) {
        Some(modules) => complete(core, Some(modules)),
        None if is_split(core) => incomplete(&[core], "-modules-core"),
        None => complete(core, beside(core, of(Part::Modules))),
    };
    cores.iter().map(set).collect()
}

/// Of several builds of one version that in the image's own suites, else the first: parts may be in
/// different suites.
fn beside<'a>(image: &PackageRef, modules: &[&'a Arc<PackageRef>]) -> Option<&'a Arc<PackageRef>> {
    let with_it = |modules: &&&Arc<PackageRef>| image.shares_suite(modules);
    let same = |modules: &&&Arc<PackageRef>| image.suites().eq(modules.suites());
    modules.iter().find(same).or_else(|| modules.iter().find(with_it)).or(modules.first()).copied()
}

/// Whether a package with these dependencies only gathers others.
fn needs_core(base: &str, depends: &str) -> bool {
    depends.split(", ").any(|name| {
        let rest = name.strip_prefix(base).unwrap_or_default();
        matches!(rest, "-core" | "-core-uname-r")
    })
}

fn kernel(
    distro: &str,
    arch: &str,
    base: &str,
    version: &Version,
    packages: PackageSet,
) -> Option<KernelSet> {
    let (flavour, spelling) = self::base(base)?;
    let text = version.as_str();
    let text = text.split_once(':').map_or(text, |(_, text)| text);
    Some(KernelSet {
        distro: distro.to_owned(),
        suites: packages.suites(),
        series: KernelRelease(text).series().unwrap_or(Series::UNKNOWN),
        flavour: flavour.to_owned(),
        release: match text.split_once('-') {
            Some((number, release)) => spell(spelling, number, release, flavour, arch),
            None => text.to_owned(),
        },
        version: version.clone(),
        packages,
    })
}

/// As `uname -r` will most likely print it; what the packages hold decides.
fn spell(spelling: Spelling, number: &str, release: &str, flavour: &str, arch: &str) -> String {
    let has = |tag: &str| release.split('.').any(|part| part.starts_with(tag));
    let red_hat = ["el", "fc", "amzn", "azl", "cm"].into_iter().any(has);
    match (spelling, flavour) {
        (Spelling::Photon, "") => format!("{number}-{release}"),
        (Spelling::Photon, _) => format!("{number}-{release}-{flavour}"),
        (Spelling::RedHat, "rt") if !red_hat => suse(number, release, flavour),
        (Spelling::Suse, _) => suse(number, release, flavour),
        // Azure Linux and its predecessor leave the architecture out.
        (Spelling::RedHat, _) if has("azl") || has("cm") => format!("{number}-{release}"),
        // Since 9.3 it is built with the others and told apart by a suffix.
        (Spelling::RedHat, "rt") if !has("rt") => format!("{number}-{release}.{arch}+rt"),
        (Spelling::RedHat, _) => format!("{number}-{release}.{arch}"),
    }
}

/// Without the count of rebuilds, which is the last part, or the one before the commit.
fn suse(number: &str, release: &str, flavour: &str) -> String {
    let mut parts: Vec<_> = release.split('.').collect();
    let commit = parts.last().is_some_and(|part| part.starts_with('g'));
    let place = parts.len().saturating_sub(if commit { 2 } else { 1 });
    if place > 0 {
        parts.remove(place);
    }
    format!("{number}-{}-{flavour}", parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kernel::{Package, Trust};

    /// `name version [depends]`.
    fn package(line: &str) -> Package {
        let mut words = line.split(' ');
        let (name, version) = (words.next().unwrap(), words.next().unwrap());
        Package {
            name: name.to_owned(),
            version: Version::rpm(version),
            architecture: "x86_64".to_owned(),
            depends: words.collect::<Vec<_>>().join(", "),
            path: format!("{name}-{version}.rpm"),
            size: Some(1),
            sha256: Some([line.len() as u8; 32]),
            signature: None,
        }
    }

    fn suite(suite: &str, lines: &[&str]) -> SuiteIndex {
        SuiteIndex {
            suite: suite.to_owned(),
            base: "http://mirror.example".to_owned(),
            trust: Trust::Nothing,
            packages: lines.iter().map(|line| package(line)).collect(),
        }
    }

    fn lines(indices: &[SuiteIndex]) -> String {
        let line = |kernel: &KernelSet| {
            let KernelSet { series, flavour, release, .. } = kernel;
            let packages = match &kernel.packages {
                PackageSet::Complete { image, modules: None } => image.name.clone(),
                PackageSet::Complete { image, modules: Some(modules) } => {
                    format!("{} + {}", image.name, modules.name)
                }
                PackageSet::Incomplete { missing, .. } => format!("no {}", missing.join(", ")),
            };
            format!("{series} {flavour:?} {release}: {packages} {:?}", kernel.suites)
        };
        kernels("d", "x86_64", indices).iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn names_are_parts_or_nothing() {
        for name in ["kernel-core", "kernel6.12", "kernel-uek-modules", "kernel-rt-modules-core"] {
            assert!(is_wanted(name), "{name}");
        }
        for name in [
            "kernel-devel",
            "kernel-debug-core",
            "kernel-modules",
            "kernel-modules-extra",
            "kernel-modules-internal",
            "kernel-modules-core-matched",
            "kernel-headers",
            "kernel-64k-core",
            "kernel-uki-virt",
            "kernel-default-devel",
            "kernel-default-base",
            "kernel-debuginfo",
            "kernel-tools",
            "kernel-doc",
            "kernel-source",
            "linux-firmware",
            "linux-esx-devel",
            "kernel-firmware-all",
            "kernel6",
            "kernel6.x",
            "bash",
            "",
        ] {
            assert!(!is_wanted(name), "{name}");
        }
        assert!(BASES.iter().all(|(base, ..)| is_wanted(base)));
    }

    #[test]
    fn split_kernels_are_joined() {
        let meta = "kernel-core-uname-r kernel-modules-core-uname-r";
        let old = suite(
            "9",
            &[
                &format!("kernel 5.14.0-70.el9 {meta}"),
                "kernel-core 5.14.0-70.el9",
                "kernel-core 5.14.0-284.11.1.el9_2",
                "kernel-modules-core 5.14.0-284.11.1.el9_2",
                &format!("kernel 5.14.0-284.11.1.el9_2 {meta}"),
                "kernel-core 5.14.0-427.13.1.el9_4",
                "kernel-modules-core 5.14.0-500.el9_5",
                "kernel-rt-core 5.14.0-427.13.1.el9_4",
                &format!("kernel 5.14.0-600.el9 {meta}"),
            ],
        );
        let new = suite("9-updates", &["kernel-core 5.14.0-500.el9_5"]);
        insta::assert_snapshot!(lines(&[old, new]), @r#"
        5.14 "" 5.14.0-70.el9.x86_64: kernel-core ["9"]
        5.14 "" 5.14.0-284.11.1.el9_2.x86_64: kernel-core + kernel-modules-core ["9"]
        5.14 "" 5.14.0-500.el9_5.x86_64: kernel-core + kernel-modules-core ["9-updates", "9"]
        5.14 "" 5.14.0-600.el9.x86_64: no kernel-core ["9"]
        5.14 "rt" 5.14.0-427.13.1.el9_4.x86_64+rt: kernel-rt-core ["9"]
        "#);
    }

    #[test]
    fn two_builds_of_one_version_are_not_mixed() {
        let of = |name: &str, mark: &str| {
            let parts = ["kernel-core", "kernel-modules-core"];
            let lines = parts.map(|part| format!("{part} 6.8.5-301.fc40 {mark}"));
            suite(name, &lines.each_ref().map(String::as_str))
        };
        let kernels = kernels("d", "x86_64", &[of("testing", "a"), of("updates", "ab")]);
        let suites = kernels.iter().map(|kernel| kernel.suites.join(" ")).collect::<Vec<_>>();
        assert_eq!(suites, ["testing", "updates"]);
    }

    #[test]
    fn releases_are_spelled_as_they_run() {
        let all = suite(
            "all",
            &[
                "kernel-core 6.8.5-301.fc40",
                "kernel-modules-core 6.8.5-301.fc40",
                "kernel-core 0:4.18.0-553.5.1.el8_10",
                "kernel-rt-core 4.18.0-553.rt7.342.el8_10",
                "kernel 5.10.214-202.855.amzn2",
                "kernel6.12 6.12.20-23.97.amzn2023",
                "kernel 6.6.96.1-1.azl3",
                "kernel-uek 5.4.17-2136.330.7.1.el8uek",
                "kernel-uek 5.15.0-204.147.6.2.el9uek kernel-uek-core-uname-r",
                "kernel-uek-core 5.15.0-204.147.6.2.el9uek",
                "kernel-uek-modules 5.15.0-204.147.6.2.el9uek",
                "kernel-default 6.4.0-150600.21.2",
                "kernel-default 6.9.1-2.1.gabcdef0",
                "kernel-rt 6.4.0-150600.8.3",
                "kernel-rt 5.14.0-427.el9",
                "linux 6.1.83-1.ph5",
                "linux-esx 6.1.83-1.ph5",
                "kernel odd",
                "kernel 66-1",
            ],
        );
        insta::assert_snapshot!(lines(&[all]), @r#"
        0.0 "" odd: kernel ["all"]
        0.0 "" 66-1.x86_64: kernel ["all"]
        4.18 "" 4.18.0-553.5.1.el8_10.x86_64: kernel-core ["all"]
        4.18 "rt" 4.18.0-553.rt7.342.el8_10.x86_64: kernel-rt-core ["all"]
        5.4 "uek" 5.4.17-2136.330.7.1.el8uek.x86_64: kernel-uek ["all"]
        5.10 "" 5.10.214-202.855.amzn2.x86_64: kernel ["all"]
        5.14 "rt" 5.14.0-427.el9.x86_64+rt: kernel-rt ["all"]
        5.15 "uek" 5.15.0-204.147.6.2.el9uek.x86_64: kernel-uek-core + kernel-uek-modules ["all"]
        6.1 "" 6.1.83-1.ph5: linux ["all"]
        6.1 "esx" 6.1.83-1.ph5-esx: linux-esx ["all"]
        6.4 "default" 6.4.0-150600.21-default: kernel-default ["all"]
        6.4 "rt" 6.4.0-150600.8-rt: kernel-rt ["all"]
        6.6 "" 6.6.96.1-1.azl3: kernel ["all"]
        6.8 "" 6.8.5-301.fc40.x86_64: kernel-core + kernel-modules-core ["all"]
        6.9 "default" 6.9.1-2.gabcdef0-default: kernel-default ["all"]
        6.12 "" 6.12.20-23.97.amzn2023.x86_64: kernel6.12 ["all"]
        "#);
    }
}
