//! Which kernels indices list, and what a package has to be for them to vouch for it.

use super::*;
use crate::{
    package::apk::tests::gzip,
    source::kernel::{Listing, Package},
};
use sha2::{Digest as _, Sha256};

fn package(name: &str, version: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: Version::apk(version),
        architecture: "x86_64".to_owned(),
        depends: String::new(),
        path: format!("{name}-{version}.apk"),
        size: Some(1),
        sha256: None,
        signature: Some([7; 20].as_slice().into()),
    }
}

#[test]
fn a_kernel_is_a_package() {
    let index = SuiteIndex {
        suite: "v3.21".to_owned(),
        base: "http://mirror.example/alpine/v3.21/main/x86_64".to_owned(),
        trust: Trust::Nothing,
        packages: vec![
            package("linux-virt", "6.12.13-r0"),
            package("linux-lts", "6.12.13-r0"),
            package("linux-lts", "6.12.9-r2"),
            package("linux-edge", "6.13_rc2-r0"),
            package("linux-lts", "odd"),
        ],
    };
    let kernels = kernels("alpine", "x86_64", &[index]);
    let lines: Vec<_> = kernels
        .iter()
        .map(|k| {
            format!(
                "{} {} {} {}",
                k.series,
                k.flavour,
                k.release,
                k.packages.found()[0].listings[0].url
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    0.0 lts odd-0-lts http://mirror.example/alpine/v3.21/main/x86_64/linux-lts-odd.apk
    6.12 lts 6.12.9-2-lts http://mirror.example/alpine/v3.21/main/x86_64/linux-lts-6.12.9-r2.apk
    6.12 lts 6.12.13-0-lts http://mirror.example/alpine/v3.21/main/x86_64/linux-lts-6.12.13-r0.apk
    6.12 virt 6.12.13-0-virt http://mirror.example/alpine/v3.21/main/x86_64/linux-virt-6.12.13-r0.apk
    6.13 edge 6.13-rc2-0-edge http://mirror.example/alpine/v3.21/main/x86_64/linux-edge-6.13_rc2-r0.apk
    "#);
}

fn stream(members: &[(&str, &[u8])], end: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    let mut archive = archive.into_inner().unwrap();
    archive.truncate(archive.len() - 1024);
    archive.extend_from_slice(end);
    gzip(&archive)
}

#[test]
fn a_package_has_to_be_the_listed_one() {
    let data = stream(&[("boot/vmlinuz-lts", b"image")], &[0; 1024]);
    let hash = hex::encode(&Sha256::digest(&data));
    let info =
        format!("pkgname = linux-lts\npkgver = 6.12.13-r0\narch = x86_64\ndatahash = {hash}\n");
    let control = stream(&[(".PKGINFO", info.as_bytes())], &[]);
    let name = format!(".SIGN.RSA256.{}", keys::tests::NAME);
    let wrong = stream(&[(&name, &[7; 256])], &[]);
    let unknown = stream(&[(".SIGN.RSA256.other.rsa.pub", &[7; 256])], &[]);
    let whole = [&unknown[..], &control, &data].concat();
    let listed = |name: &str, version: &str, arch: &str| PackageRef {
        name: name.to_owned(),
        version: Version::apk(version),
        arch: arch.to_owned(),
        size: None,
        sha256: None,
        depends: String::new(),
        listings: Vec::<Listing>::new(),
    };
    let good = listed("linux-lts", "6.12.13-r0", "x86_64");
    let mut keys = Keys::default();
    keys.add(keys::tests::NAME, keys::tests::KEY.as_bytes()).unwrap();
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &control).as_ref().to_vec();
    let sha256 = digest(&SHA256, &control).as_ref().to_vec();
    let check =
        |package: &[u8], listed: &PackageRef, hash: &[u8]| check(package, listed, hash, &keys);
    check(&whole, &good, &sha1).unwrap();
    check(&whole, &good, &sha256).unwrap();
    check(&[&control[..], &data].concat(), &good, &sha1).unwrap();
    let more = [&whole[..], b"more"].concat();
    let signed_badly = [&wrong[..], &control, &data].concat();
    let errors = [
        check(&whole, &good, &[7; 20]),
        check(&whole, &good, &[]),
        check(&whole, &listed("linux-virt", "6.12.13-r0", "x86_64"), &sha1),
        check(&whole, &listed("linux-lts", "6.12.14-r0", "x86_64"), &sha1),
        check(&whole, &listed("linux-lts", "6.12.13-r0", "x86"), &sha1),
        check(&signed_badly, &good, &sha1),
        check(&more, &good, &sha1),
        check(&whole[..whole.len() - 1], &good, &sha1),
    ];
    let errors = errors.map(|error| {
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Reason::VerificationFailed);
        error.to_string()
    });
    let errors = errors.join("\n");
    let hashes = regex::Regex::new("[0-9a-f]{40,}").unwrap();
    insta::assert_snapshot!(hashes.replace_all(&errors, "HASH"), @r#"
    the control stream has the hash HASH, expected HASH
    the control stream has the hash HASH, expected 
    the package is linux-lts 6.12.13-r0 x86_64, expected linux-virt 6.12.13-r0 x86_64
    the package is linux-lts 6.12.13-r0 x86_64, expected linux-lts 6.12.14-r0 x86_64
    the package is linux-lts 6.12.13-r0 x86_64, expected linux-lts 6.12.13-r0 x86
    the signature by builder@mirror.example-1.rsa.pub does not fit the file
    the data stream has the SHA-256 HASH, expected HASH
    the data stream has the SHA-256 HASH, expected HASH
    "#);
}
