//! Arch's and Alpine's repositories, crawled: the plans are those of the same kernels in Debian's.

use super::{
    crawl::{Place, build_id, image, nf_tables, reads, rebuilt, run},
    support::{
        apk::{self, flip},
        elf, extract, indexer,
        mirror::{self, Server},
        pacman::{self, have},
    },
};
use nfdrop_db::Store;
use nfdrop_resolver::image::Function;
use std::{fmt::Write as _, fs, io::Write as _, path::Path, process::Command};

/// What Arch's and Alpine's tests need.
const TOOLS: [&str; 2] = ["bsdtar", "repo-add"];

/// The same builds in Debian's packages: the records by build-id.
fn debian_records(functions: &[&Function]) -> Vec<Vec<u8>> {
    let mut debian = mirror::Mirror::new();
    for (index, function) in functions.iter().enumerate() {
        let versions = ["6.12.1-1", "6.12.2-1", "6.12.3-1", "6.12.4-1"];
        // A release that Debian's rules know a flavour in; the record does not have it.
        debian.add("trixie", &image(function, versions[index], 0x81));
    }
    debian.publish();
    let server = Server::new(debian.root.path());
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&debian, &server.url, &[]));
    assert_eq!(code, 0, "{stderr}");
    records(&place, functions)
}

fn records(place: &Place, functions: &[&Function]) -> Vec<Vec<u8>> {
    let store = Store::open_read_only(place.db()).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let record = |function: &&Function| {
        let id = function.build_id.as_ref().unwrap();
        store.record(id).unwrap().unwrap_or_else(|| panic!("no record of {id}"))
    };
    functions.iter().map(record).collect()
}

/// A crawl of what a catalogue of these entries says.
fn crawl(place: &Place, entries: &str, more: &[&str]) -> Command {
    let catalogue = place.0.path().join("sources.toml");
    fs::write(&catalogue, entries).unwrap();
    let mut command = indexer(&["crawl", "all", "--catalogue"]);
    command.arg(catalogue).arg("--db").arg(place.db());
    command.arg("--cache").arg(place.0.path().join("cache")).args(more);
    command
}

fn arch_entry(mirror: &pacman::Mirror, url: &str) -> String {
    let keys = mirror.path("keyring.gpg").to_str().unwrap().to_owned();
    format!(
        "[[source]]\nname = \"arch\"\nkind = \"pacman\"\narch = \"x86_64\"\nmirror = \"{url}\"\n\
         keys = [{keys:?}]\nsuites = [{{ name = \"core\", urls = [\"{{mirror}}/core\"] }}]\n"
    )
}

fn archive_entry(mirror: &pacman::Mirror, url: &str) -> String {
    let keys = mirror.path("keyring.gpg").to_str().unwrap().to_owned();
    format!(
        "[[source]]\nname = \"arch-archive\"\ndistro = \"arch\"\nkind = \"pacman-archive\"\n\
         arch = \"x86_64\"\nkeys = [{keys:?}]\nmirror = \"{url}/packages\"\n\
         suites = [{{ name = \"archive\" }}]\n"
    )
}

/// The files of a kernel as Arch packs them, the module compressed.
fn arch_files(function: &Function, byte: u8) -> Vec<(String, Vec<u8>)> {
    let release = function.release.as_deref().unwrap();
    let (path, module) = nf_tables(function);
    let module = zstd::encode_all(&module[..], 3).unwrap();
    let image = elf::vmlinux(function, &build_id(byte));
    vec![
        (format!("usr/lib/modules/{release}/vmlinuz"), image),
        (format!("{path}.zst"), module),
        (format!("usr/lib/modules/{release}/pkgbase"), b"linux\n".to_vec()),
    ]
}

#[test]
fn arch_gives_the_plans_that_debian_gives() {
    if !have(&TOOLS) {
        return;
    }
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let builds = [
        ("linux", "6.12.1.arch1-1", "6.12.1-arch1-1", "zst"),
        ("linux-lts", "6.12.2-1", "6.12.2-1-lts", "xz"),
        ("linux-zen", "6.12.3.zen1-1", "6.12.3-zen1-1-zen", "gz"),
    ];
    let functions: Vec<_> =
        (1..).zip(&builds).map(|(byte, build)| rebuilt(&real, build.2, byte)).collect();
    let functions: Vec<_> = functions.iter().collect();
    let expected = debian_records(&functions);
    // The database in every compression, signed; and not, so that the packages' signatures count, which
    // the database holds.
    for (database, is_signed) in [("gz", true), ("zst", true), ("xz", false)] {
        let mirror = pacman::Mirror::create();
        let mut packages = Vec::new();
        for ((name, version, _, compression), function) in builds.iter().zip(&functions) {
            let files = arch_files(function, 0x81);
            let package = mirror.package("core", name, version, compression, &files);
            if !is_signed {
                mirror.sign(&package);
            }
            packages.push(package);
        }
        packages.push(mirror.package(
            "core",
            "linux-headers",
            "6.12.1.arch1-1",
            "zst",
            &[("usr/src/linux".to_owned(), Vec::new())],
        ));
        mirror.publish("core", "core", database, &packages);
        if is_signed {
            mirror.sign(&mirror.path("core/core.db"));
        }
        let server = Server::new(mirror.root.path());
        let place = Place::new();
        let entry = arch_entry(&mirror, &server.url);
        let (code, stderr) = run(crawl(&place, &entry, &[]));
        assert_eq!(code, 0, "{database}: {stderr}");
        assert_eq!(records(&place, &functions), expected, "{database}");
        let store = Store::open_read_only(place.db()).unwrap();
        for ((name, version, release, _), function) in builds.iter().zip(&functions) {
            let provenance = store.provenance(function.build_id.as_ref().unwrap()).unwrap();
            let found = provenance
                .iter()
                .map(|p| (p.distro.as_str(), p.suite.as_str()))
                .collect::<Vec<_>>();
            assert_eq!(found, [("arch", "core")]);
            let p = &provenance[0];
            assert_eq!(
                (p.package.as_str(), p.version.as_str(), p.release.as_str()),
                (*name, *version, *release)
            );
            assert!(p.signed_by.is_some(), "{database}");
        }
    }
}

#[test]
fn the_archive_of_arch_is_vouched_for_by_its_packages() {
    if !have(&TOOLS) {
        return;
    }
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let function = rebuilt(&real, "6.12.1-arch1-1", 1);
    let expected = debian_records(&[&function]);
    let mirror = pacman::Mirror::create();
    let folder = "packages/l/linux";
    let good =
        mirror.package(folder, "linux", "6.12.1.arch1-1", "zst", &arch_files(&function, 0x81));
    mirror.sign(&good);
    // Signed by nobody that is known, altered behind its signature, and another version's file.
    let other = rebuilt(&real, "6.12.2-arch1-1", 2);
    let files = arch_files(&other, 0x82);
    let unknown = mirror.package(folder, "linux", "6.12.2.arch1-1", "zst", &files);
    pacman::Mirror::create().sign(&unknown);
    let altered = mirror.package(folder, "linux", "6.12.3.arch1-1", "zst", &files);
    mirror.sign(&altered);
    flip(&altered, 100);
    let renamed = mirror.path(&format!("{folder}/linux-6.12.4.arch1-1-x86_64.pkg.tar.zst"));
    fs::copy(&good, &renamed).unwrap();
    fs::copy(format!("{}.sig", good.display()), format!("{}.sig", renamed.display())).unwrap();
    let mut page = String::from("<html><a href=\"../\">../</a>\n");
    for entry in fs::read_dir(mirror.path(folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        writeln!(page, "<a href=\"{name}\">{name}</a> 28-Feb-2013 21:22 60M").unwrap();
    }
    fs::write(mirror.path(folder).join("index.html"), page).unwrap();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    let entry = archive_entry(&mirror, &server.url);
    let (code, stderr) = run(crawl(&place, &entry, &[]));
    assert_eq!(code, 1, "{stderr}");
    reads(
        &stderr,
        &[
            "6.12.1-arch1-1: resolved",
            "6.12.2-arch1-1: failed, verification_failed",
            "the package's signature: signed by unknown keys only",
            "6.12.3-arch1-1: failed, verification_failed",
            "does not fit",
            "6.12.4-arch1-1: failed, verification_failed",
            "the package is linux 6.12.1.arch1-1 x86_64, expected linux 6.12.4.arch1-1 x86_64",
        ],
    );
    assert_eq!(records(&place, &[&function]), expected);
    let store = Store::open_read_only(place.db()).unwrap();
    assert_eq!(store.counts().unwrap().resolved, 1);
    // Withdrawn by those who maintain the keyring: nothing of it counts any more.
    fs::write(mirror.path("keyring-revoked"), format!("{}\n", mirror.fingerprint())).unwrap();
    let place = Place::new();
    let (code, stderr) = run(crawl(&place, &entry, &[]));
    assert_eq!(code, 1, "{stderr}");
    reads(&stderr, &["6.12.1-arch1-1: failed, verification_failed", "which is revoked"]);
}

fn alpine_entry(mirror: &apk::Mirror, url: &str, is_weak: bool) -> String {
    let keys = mirror.keys();
    format!(
        "[[source]]\nname = \"alpine\"\nkind = \"apk\"\narch = \"x86_64\"\nmirror = \"{url}\"\n\
         keys = [{keys:?}]\nweak = {is_weak}\n\
         suites = [{{ name = \"v3.21\", urls = [\"{{mirror}}/main\"] }}]\n"
    )
}

/// The files of a kernel as Alpine packs them, the module compressed.
fn alpine_files(function: &Function, flavour: &str, byte: u8) -> Vec<(String, Vec<u8>)> {
    let release = function.release.as_deref().unwrap();
    let (path, module) = nf_tables(function);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&module).unwrap();
    let path = path.strip_prefix("usr/").unwrap();
    vec![
        (format!("boot/config-{release}"), b"CONFIG_NF_TABLES=m\n".to_vec()),
        (format!("boot/vmlinuz-{flavour}"), elf::vmlinux(function, &build_id(byte))),
        (format!("{path}.gz"), gzip.finish().unwrap()),
        (format!("usr/share/kernel/{flavour}/kernel.release"), format!("{release}\n").into_bytes()),
    ]
}

#[test]
fn alpine_gives_the_plans_that_debian_gives() {
    if !have(&["openssl"]) {
        return;
    }
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let builds = [rebuilt(&real, "6.12.13-0-lts", 1), rebuilt(&real, "6.12.13-0-virt", 2)];
    let functions: Vec<_> = builds.iter().collect();
    let expected = debian_records(&functions);
    for (kind, is_weak, signed_by) in
        [("RSA256", false, apk::KEY.to_owned()), ("RSA", true, format!("{} (SHA-1)", apk::KEY))]
    {
        let mut mirror = apk::Mirror::new(kind);
        for (flavour, function) in ["lts", "virt"].iter().zip(&functions) {
            let files = alpine_files(function, flavour, 0x81);
            mirror.add(&format!("linux-{flavour}"), "6.12.13-r0", &files);
        }
        mirror.add("linux-lts-dev", "6.12.13-r0", &[("usr/src/linux".to_owned(), Vec::new())]);
        mirror.publish();
        let server = Server::new(mirror.root.path());
        let place = Place::new();
        let (code, stderr) = run(crawl(&place, &alpine_entry(&mirror, &server.url, is_weak), &[]));
        assert_eq!(code, 0, "{kind}: {stderr}");
        assert_eq!(records(&place, &functions), expected, "{kind}");
        let store = Store::open_read_only(place.db()).unwrap();
        let provenance = store.provenance(&build_id(1)).unwrap();
        assert_eq!(provenance[0].signed_by.as_deref(), Some(signed_by.as_str()));
        assert_eq!(provenance[0].release, "6.12.13-0-lts");
        // SHA-1 without consent: nothing is read.
        let place = Place::new();
        let (code, stderr) = run(crawl(&place, &alpine_entry(&mirror, &server.url, false), &[]));
        let refused = stderr.contains("with SHA-1, which is not secure any more");
        assert_eq!((code == 1, refused), (kind == "RSA", kind == "RSA"), "{stderr}");
    }
}

#[test]
fn what_alpine_did_not_sign_is_refused() {
    if !have(&["openssl"]) {
        return;
    }
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let function = rebuilt(&real, "6.12.13-0-lts", 1);
    let mut mirror = apk::Mirror::new("RSA256");
    mirror.add("linux-lts", "6.12.13-r0", &alpine_files(&function, "lts", 0x81));
    mirror.publish();
    let server = Server::new(mirror.root.path());
    let refused = |words: &[&str]| {
        let place = Place::new();
        let (code, stderr) = run(crawl(&place, &alpine_entry(&mirror, &server.url, false), &[]));
        assert_eq!(code, 1, "{stderr}");
        reads(&stderr, words);
        let store = Store::open_read_only(place.db()).unwrap();
        assert_eq!(store.counts().unwrap().resolved, 0);
    };
    // A byte of the files.
    let package = mirror.path("main/linux-lts-6.12.13-r0.apk");
    flip(&package, 200);
    refused(&["6.12.13-0-lts: failed, verification_failed", "the data stream has the SHA-256"]);
    flip(&package, 200);
    // A byte of the index.
    let index = mirror.path("main/APKINDEX.tar.gz");
    flip(&index, 20);
    refused(&["the signature by builder@mirror.example-1.rsa.pub does not fit the file"]);
    flip(&index, 20);
    // Another key of the same name.
    fs::copy(
        apk::Mirror::new("RSA256").path(&format!("keys/{}", apk::KEY)),
        mirror.path(&format!("keys/{}", apk::KEY)),
    )
    .unwrap();
    refused(&["the signature by builder@mirror.example-1.rsa.pub does not fit the file"]);
}

#[test]
fn files_of_both_are_resolved() {
    if !have(&["bsdtar", "openssl"]) {
        return;
    }
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let arch = rebuilt(&real, "6.12.1-arch1-1", 1);
    let alpine = rebuilt(&real, "6.12.13-0-lts", 2);
    let pacman = pacman::Mirror::create();
    let mut paths = Vec::new();
    for compression in ["zst", "xz", "gz"] {
        let files = arch_files(&arch, 0x81);
        paths.push(pacman.package(compression, "linux", "6.12.1.arch1-1", compression, &files));
    }
    let mut apk = apk::Mirror::new("RSA");
    apk.add("linux-lts", "6.12.13-r0", &alpine_files(&alpine, "lts", 0x82));
    paths.push(apk.path("main/linux-lts-6.12.13-r0.apk"));
    let output = indexer(&["resolve"]).args(&paths).output().unwrap();
    let (code, stdout, stderr) = super::support::done(&output);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    let [zst, xz, gz, apk] = lines.try_into().unwrap();
    assert_eq!([zst, xz], [gz, gz]);
    assert_eq!(zst.replace(&"01".repeat(20), &"02".repeat(20)), apk);
}

#[test]
fn versions_are_ordered_as_vercmp_does() {
    if !have(&["vercmp"]) {
        return;
    }
    let versions = [
        "6.2.10.arch1-1",
        "6.2.10.arch1-2",
        "6.2.10.arch2-1",
        "6.2.10-1",
        "6.2.9.arch1-1",
        "6.12.arch1-1",
        "6.12.1.zen1-1",
        "1:6.1-1",
        "6.2.10.1-1",
        "6.2rc1-1",
        "6.2-1",
        "6.2.rc1-1",
        "6.2_rc1-1",
        "6..2-1",
        "06.2-1",
        "6a1-1",
        "6a-1",
        "6.-1",
    ];
    for left in versions {
        for right in versions {
            let output = pacman::tool(Path::new("/"), "vercmp", &[left, right]);
            let expected: i8 = String::from_utf8(output).unwrap().trim().parse().unwrap();
            let version = nfdrop_indexer::source::version::Version::pacman;
            let found = version(left).cmp(&version(right)) as i8;
            // pacman's order of versions that end with a separator is none, and not taken over.
            if ![left, right].contains(&"6.-1") {
                assert_eq!(found, expected, "{left} {right}");
            }
        }
    }
}
