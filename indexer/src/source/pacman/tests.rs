//! Which kernels databases and pages list.

use super::*;

fn package(name: &str, version: &str, sha256: Option<[u8; 32]>) -> Package {
    Package {
        name: name.to_owned(),
        version: Version::pacman(version),
        architecture: "x86_64".to_owned(),
        depends: String::new(),
        path: format!("{name}-{version}-x86_64.pkg.tar.zst"),
        size: None,
        sha256,
        signature: None,
    }
}

fn index(suite: &str, packages: impl IntoIterator<Item = Package>) -> SuiteIndex {
    SuiteIndex {
        suite: suite.to_owned(),
        base: format!("http://mirror.example/{suite}"),
        trust: Trust::Nothing,
        packages: packages.into_iter().collect(),
    }
}

#[test]
fn a_kernel_is_a_package_wherever_it_is_listed() {
    let core = [
        package("linux", "6.2.10.arch1-1", Some([1; 32])),
        package("linux-lts", "6.12.9-1", Some([2; 32])),
        package("linux-zen", "6.12.9.zen1-1", Some([3; 32])),
        package("linux-hardened", "6.12.9.hardened1-1", Some([4; 32])),
    ];
    let archive = [
        package("linux", "6.2.10.arch1-1", None),
        package("linux", "6.12.arch1-1", None),
        package("linux", "3.7.10-1", None),
        package("linux", "odd-1", None),
    ];
    let kernels = kernels("arch", "x86_64", &[index("core", core), index("archive", archive)]);
    let lines: Vec<_> = kernels
        .iter()
        .map(|k| format!("{} {:?} {} {} {:?}", k.series, k.flavour, k.release, k.version, k.suites))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    0.0 "" odd-1 odd-1 ["archive"]
    3.7 "" 3.7.10-1 3.7.10-1 ["archive"]
    6.2 "" 6.2.10-arch1-1 6.2.10.arch1-1 ["core", "archive"]
    6.12 "" 6.12.0-arch1-1 6.12.arch1-1 ["archive"]
    6.12 "hardened" 6.12.9-hardened1-1-hardened 6.12.9.hardened1-1 ["core"]
    6.12 "lts" 6.12.9-1-lts 6.12.9-1 ["core"]
    6.12 "zen" 6.12.9-zen1-1-zen 6.12.9.zen1-1 ["core"]
    "#);
}

#[test]
fn another_package_than_the_listed_one_is_refused() {
    let package_of = |info: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(info.len() as u64);
        archive.append_data(&mut header, ".PKGINFO", info.as_bytes()).unwrap();
        archive.into_inner().unwrap()
    };
    let core = index("core", [package("linux", "6.2.10.arch1-1", None)]);
    let listed = &merge(&[core], "x86_64")[0];
    let info = "pkgname = linux\npkgver = 6.2.10.arch1-1\narch = x86_64\n";
    check_identity(&package_of(info)[..], listed).unwrap();
    for (from, to) in [("linux", "linux-lts"), ("6.2.10", "6.2.9"), ("x86_64", "any")] {
        let other = package_of(&info.replace(from, to));
        let error = check_identity(&other[..], listed).unwrap_err();
        assert!(matches!(error, IdentityError::Other { .. }), "{error}");
    }
    let error = check_identity(&package_of("pkgname = linux\n")[..], listed).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r#".PKGINFO has the pkgver "", expected a version"#);
}
