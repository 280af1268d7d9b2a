//! Crawls of a mirror that is built here, with real functions in its kernels.

use super::support::{
    done, elf, extract, indexer,
    mirror::{Deb, Mirror, Point, Server},
};
use nfdrop_db::{BuildId, Store};
use nfdrop_resolver::image::Function;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

pub(super) fn build_id(byte: u8) -> BuildId {
    BuildId::from_bytes(&[byte; 20]).unwrap()
}

/// The function as if it were of another build and release.
pub(super) fn rebuilt(function: &Function, release: &str, byte: u8) -> Function {
    let (release, build_id) = (Some(release.to_owned()), Some(build_id(byte)));
    Function { release, build_id, ..function.clone() }
}

pub(super) fn vmlinuz(function: &Function, byte: u8) -> (String, Vec<u8>) {
    let release = function.release.as_deref().unwrap();
    (format!("boot/vmlinuz-{release}"), elf::vmlinux(function, &build_id(byte)))
}

pub(super) fn nf_tables(function: &Function) -> (String, Vec<u8>) {
    let release = function.release.as_deref().unwrap();
    let path = format!("usr/lib/modules/{release}/kernel/net/netfilter/nf_tables.ko");
    (path, elf::module(function))
}

fn deb(kind: &str, release: &str, version: &'static str, files: Vec<(String, Vec<u8>)>) -> Deb {
    Deb { name: format!("linux-{kind}-{release}"), version, depends: String::new(), files }
}

/// A package that is whole.
pub(super) fn image(function: &Function, version: &'static str, byte: u8) -> Deb {
    let release = function.release.clone().unwrap();
    deb("image", &release, version, vec![vmlinuz(function, byte), nf_tables(function)])
}

/// One body in three builds, one of them in split packages; a kernel without nf_tables, one with a
/// module that is none, one without its modules.
pub(super) fn mirror() -> Mirror {
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let mut mirror = Mirror::new();
    let first = rebuilt(&real, "6.12.1-cloud-amd64", 1);
    mirror.add("trixie", &image(&first, "6.12.1-1", 0x81));
    mirror.add("trixie-backports", &image(&first, "6.12.1-1", 0x81));
    mirror.add("trixie", &image(&rebuilt(&real, "6.12.2-cloud-amd64", 2), "6.12.2-1", 0x82));
    let split = rebuilt(&real, "6.12.3-cloud-amd64", 3);
    let release = split.release.as_deref().unwrap();
    let version = "6.12.3-1";
    let parts = ["binary", "modules"].map(|kind| format!("linux-{kind}-{release} (= {version})"));
    let depends = parts.join(", ");
    mirror.add("sid", &Deb { depends, ..deb("image", release, version, Vec::new()) });
    mirror.add("sid", &deb("binary", release, version, vec![vmlinuz(&split, 0x83)]));
    mirror.add("sid", &deb("modules", release, version, vec![nf_tables(&split)]));
    let bare = rebuilt(&real, "6.12.4-cloud-amd64", 4);
    let files = vec![vmlinuz(&bare, 0x84)];
    mirror.add("sid", &deb("image", "6.12.4-cloud-amd64", "6.12.4-1", files));
    let odd = rebuilt(&real, "6.12.5-cloud-amd64", 5);
    let files = vec![vmlinuz(&odd, 0x85), (nf_tables(&odd).0, b"\x89PNG\r\n\x1a\n".to_vec())];
    mirror.add("sid", &deb("image", "6.12.5-cloud-amd64", "6.12.5-1", files));
    let lone = rebuilt(&real, "6.12.6-cloud-amd64", 6);
    mirror.add("sid", &deb("binary", "6.12.6-cloud-amd64", "6.12.6-1", vec![vmlinuz(&lone, 0x86)]));
    mirror.publish();
    mirror
}

/// A database, and a download cache of its own.
pub(super) struct Place(pub(super) tempfile::TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn db(&self) -> PathBuf {
        self.0.path().join("nfdrop.sqlite")
    }

    pub(super) fn crawl(&self, mirror: &Mirror, url: &str, more: &[&str]) -> Command {
        let archive = format!("debian={url}");
        let (db, cache) = (self.db(), self.0.path().join("cache"));
        let mut command = indexer(&["crawl", "--mirror", &archive]);
        command.args(["--keyring", &mirror.keyring()]).arg("--db").arg(db);
        command.arg("--cache").arg(cache).args(more);
        command
    }

    pub(super) fn content(&self) -> String {
        let store = Store::open_read_only(self.db()).unwrap();
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
        store.content_dump().unwrap()
    }
}

impl Place {
    /// Whether the whole package is in the cache.
    pub(super) fn has_package(&self, mirror: &Mirror, name: &str) -> bool {
        let pool = fs::read_dir(mirror.path("pool")).unwrap().map(|entry| entry.unwrap().path());
        let deb = pool.into_iter().find(|path| path.to_str().unwrap().contains(name)).unwrap();
        let hash = nfdrop_db::hex::encode(&Sha256::digest(fs::read(deb).unwrap()));
        self.0.path().join("cache/packages").join(hash).exists()
    }
}

/// Exit code and stderr.
pub(super) fn run(mut command: Command) -> (i32, String) {
    let (code, stdout, stderr) = done(&command.output().unwrap());
    assert_eq!(stdout, "", "a crawl has no data");
    (code, stderr)
}

pub(super) fn reads(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
}

/// Some have nf_tables beside the image though modules have a package of their own.
#[test]
fn a_build_is_of_the_package_that_its_module_was_in() {
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let function = rebuilt(&real, "6.12.3-cloud-amd64", 3);
    let (release, version) = (function.release.as_deref().unwrap(), "6.12.3-1");
    let mut mirror = Mirror::new();
    let files = vec![vmlinuz(&function, 0x83), nf_tables(&function)];
    mirror.add("sid", &deb("binary", release, version, files));
    let other = format!("usr/lib/modules/{release}/kernel/drivers/net/dummy.ko");
    mirror.add("sid", &deb("modules", release, version, vec![(other, vec![0; 64])]));
    mirror.publish();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, &server.url, &[]));
    assert_eq!(code, 0, "{stderr}");
    let provenance = Store::open_read_only(place.db()).unwrap().provenance(&build_id(3)).unwrap();
    let packages: Vec<_> = provenance.iter().map(|entry| entry.package.as_str()).collect();
    assert_eq!(packages, ["linux-binary-6.12.3-cloud-amd64"], "{stderr}");
    server.at_every_point(|_, _| {});
    let (code, stderr) = run(place.crawl(&mirror, &server.url, &[]));
    assert_eq!(code, 0, "{stderr}");
    assert!(!server.log().iter().any(|path| path.starts_with("pool/")), "{:?}", server.log());
}

#[test]
fn every_kernel_has_its_outcome_and_is_fetched_once() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, &server.url, &["--jobs", "2"]));
    assert_eq!(code, 0, "{stderr}");
    reads(
        &stderr,
        &[
            "6.12.1-cloud-amd64: resolved, rule drop at +0x3fe",
            "6.12.3-cloud-amd64: resolved",
            "6.12.4-cloud-amd64: unresolved, no_nf_tables",
            "6.12.5-cloud-amd64: unresolved, malformed_image",
            "6.12.6-cloud-amd64: unresolved, incomplete_package_set: the indices list no \
             linux-modules-6.12.6-cloud-amd64",
        ],
    );
    let store = Store::open_read_only(place.db()).unwrap();
    let counts = store.counts().unwrap();
    // One body for three builds.
    assert_eq!((counts.resolved, counts.bodies, counts.sources), (3, 1, 3));
    let provenance = store.provenance(&build_id(1)).unwrap();
    let suites: Vec<_> = provenance.iter().map(|entry| entry.suite.as_str()).collect();
    assert_eq!(suites, ["trixie", "trixie-backports"]);
    assert_eq!(provenance[0].vmlinux_build_id, Some(build_id(0x81)));
    let split = store.provenance(&build_id(3)).unwrap();
    assert_eq!(split[0].package, "linux-modules-6.12.3-cloud-amd64");
    // Again, without a cache: nothing is fetched.
    let content = place.content();
    fs::remove_dir_all(place.0.path().join("cache/packages")).unwrap();
    server.at_every_point(|_, _| {});
    let (code, stderr) = run(place.crawl(&mirror, &server.url, &[]));
    assert_eq!(code, 0, "{stderr}");
    assert!(!server.log().iter().any(|path| path.starts_with("pool/")), "{:?}", server.log());
    assert_eq!(place.content(), content);
}

#[test]
fn a_crawled_database_has_figures() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    assert_eq!(run(place.crawl(&mirror, &server.url, &[])).0, 0);
    let stats = |format: &str| {
        let mut command = indexer(&["stats", "--format", format, "--db"]);
        let (code, stdout, stderr) = done(&command.arg(place.db()).output().unwrap());
        assert_eq!((code, stderr.as_str()), (0, ""));
        stdout
    };
    insta::assert_snapshot!(stats("text"), @"
    distro  series  flavour      builds  resolved  bodies  drop-only  optimizable  booted  unresolved
    debian  6.12    cloud-amd64       4         3       1      100 %        100 %     0 %  1 no_nf_tables, 1 malformed_image, 1 incomplete_package_set
    all                               4         3       1      100 %        100 %     0 %  1 no_nf_tables, 1 malformed_image, 1 incomplete_package_set
    ");
    insta::assert_snapshot!(stats("markdown"), @"
    | distro | series | flavour | builds | resolved | bodies | drop-only | optimizable | booted | unresolved |
    | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |
    | debian | 6.12 | cloud-amd64 | 4 | 3 | 1 | 100 % | 100 % | 0 % | 1 no_nf_tables, 1 malformed_image, 1 incomplete_package_set |
    | all |  |  | 4 | 3 | 1 | 100 % | 100 % | 0 % | 1 no_nf_tables, 1 malformed_image, 1 incomplete_package_set |
    ");
    let tally = r#""builds":4,"resolved":3,"bodies":1,"drop_only":3,"optimizable":3,"booted":0,"unresolved":{"no_nf_tables":1,"malformed_image":1,"incomplete_package_set":1}"#;
    let group = format!(r#"{{"distro":"debian","series":"6.12","flavour":"cloud-amd64",{tally}}}"#);
    assert_eq!(stats("json"), format!("{{\"groups\":[{group}],\"total\":{{{tally}}}}}\n"));
}

#[test]
fn the_number_of_jobs_does_not_matter() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let content = ["1", "8"].map(|jobs| {
        let place = Place::new();
        assert_eq!(run(place.crawl(&mirror, &server.url, &["--jobs", jobs])).0, 0);
        place.content()
    });
    assert_eq!(content[0], content[1]);
}

#[test]
fn a_killed_crawl_goes_on_to_the_same_content() {
    let mirror = mirror();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    let whole = place.crawl(&mirror, &server.url, &["--jobs", "2"]).stderr(Stdio::piped()).output();
    let lines = done(&whole.unwrap()).2.lines().count();
    let requests = server.log().len();
    let content = place.content();

    // At each package, index and some of the suites: before, within and behind the answer.
    let interesting: Vec<_> = (0..requests).filter(|number| number % 4 == 0).collect();
    let last: Vec<_> = (requests - 7..requests).collect();
    let points = [Point::Before, Point::Within, Point::Behind];
    let mut kills: Vec<_> = interesting.into_iter().map(|n| (n, points[n / 4 % 3])).collect();
    kills.extend(last.into_iter().flat_map(|number| points.map(|point| (number, point))));
    assert!(kills.len() >= 20, "{} requests", kills.len());
    for kill in kills {
        let place = Place::new();
        let child = Arc::new(Mutex::new(None::<std::process::Child>));
        let (victim, done) = (Arc::clone(&child), mpsc::channel::<()>());
        let sender = Mutex::new(done.0);
        server.at_every_point(move |number, point| {
            if (number, point) == kill
                && let Some(child) = victim.lock().unwrap().as_mut()
            {
                child.kill().unwrap();
                let _ = sender.lock().unwrap().send(());
            }
        });
        // Held until the child is there to be killed.
        let mut slot = child.lock().unwrap();
        let mut command = place.crawl(&mirror, &server.url, &["--jobs", "2"]);
        *slot = Some(command.stderr(Stdio::null()).spawn().unwrap());
        drop(slot);
        done.1.recv().unwrap();
        let status = child.lock().unwrap().as_mut().unwrap().wait().unwrap();
        assert_eq!(status.code(), None, "{kill:?}: it ended before it was killed");
        resume(&place, &mirror, &server, &content, &format!("{kill:?}"));
    }

    // After each of its lines, the ones about stored kernels among them.
    server.at_every_point(|_, _| {});
    for line in 0..lines {
        let place = Place::new();
        let mut command = place.crawl(&mirror, &server.url, &["--jobs", "2"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..=line {
            stderr.next();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        resume(&place, &mirror, &server, &content, &format!("line {line}"));
    }
}

/// Starts a crawl again that was killed: it ends with the content of one that was not.
fn resume(place: &Place, mirror: &Mirror, server: &Server, content: &str, what: &str) {
    server.at_every_point(|_, _| {});
    let (code, stderr) = run(place.crawl(mirror, &server.url, &["--jobs", "2"]));
    assert_eq!(code, 0, "{what}: {stderr}");
    assert_eq!(place.content(), content, "{what}");
}

/// What a crawl of a mirror that was tampered with says, and that it stores no plan from it.
fn spoilt(spoil: impl FnOnce(&Mirror)) -> (i32, String, u64) {
    let mut mirror = Mirror::new();
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let function = rebuilt(&real, "6.12.1-cloud-amd64", 1);
    mirror.add("trixie", &image(&function, "6.12.1-1", 0x81));
    mirror.publish();
    spoil(&mirror);
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &[]));
    let resolved = Store::open_read_only(place.db()).unwrap().counts().unwrap().resolved;
    (code, stderr, resolved)
}

const DEB: &str = "pool/linux-image-6.12.1-cloud-amd64_6.12.1-1_amd64.deb";

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_package_that_is_gone_is_named() {
    let (code, stderr, resolved) = spoilt(|mirror| fs::remove_file(mirror.path(DEB)).unwrap());
    assert_eq!((code, resolved), (1, 0), "{stderr}");
    reads(&stderr, &["failed: debian 6.12.1-cloud-amd64 6.12.1-1: fetch_failed", "does not exist"]);
}

#[test]
fn a_package_with_another_hash_is_refused() {
    let (code, stderr, resolved) = spoilt(|mirror| flip(&mirror.path(DEB)));
    assert_eq!((code, resolved), (1, 0), "{stderr}");
    reads(
        &stderr,
        &["failed: debian 6.12.1-cloud-amd64 6.12.1-1: verification_failed", "has SHA-256"],
    );
}

#[test]
fn an_index_that_was_tampered_with_is_refused() {
    let (code, stderr, resolved) = spoilt(|mirror| {
        let path = mirror.path("dists/trixie/InRelease");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("Label: Debian", "Label: Other")).unwrap();
    });
    assert_eq!((code, resolved), (1, 0), "{stderr}");
    reads(&stderr, &["failed: suite debian trixie: verification_failed"]);
    let (code, stderr, resolved) =
        spoilt(|mirror| flip(&mirror.path("dists/trixie/main/binary-amd64/Packages")));
    assert_eq!((code, resolved), (1, 0), "{stderr}");
    reads(&stderr, &["failed: suite debian trixie: verification_failed"]);
}

#[test]
fn an_expired_index_is_used_and_named() {
    let (code, stderr, resolved) = spoilt(|mirror| {
        mirror.publish_with("trixie", "Valid-Until: Fri, 06 Nov 2020 08:08:01 UTC\n");
    });
    assert_eq!((code, resolved), (0, 1), "{stderr}");
    reads(&stderr, &["stale: the index of debian trixie expired on 2020-11-06"]);
}

#[test]
fn a_mirror_that_has_nothing_is_an_error() {
    let mirror = Mirror::new();
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    let (code, stderr) = run(Place::new().crawl(&mirror, url.as_str(), &[]));
    assert_eq!(code, 1);
    reads(&stderr, &["no suite was found; check the mirror's URL"]);
}

#[test]
fn a_dry_run_prints_packages_and_writes_nothing() {
    let mirror = mirror();
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    let place = Place::new();
    let more = ["--dry-run", "--newest", "--filter", "^cloud-amd64$"];
    let (code, stdout, stderr) = done(&place.crawl(&mirror, url.as_str(), &more).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    // The newest that is complete; the newer one is named.
    assert!(stdout.starts_with("linux-image-6.12.5-cloud-amd64\t6.12.5-1\t"), "{stdout}");
    assert_eq!(stdout.lines().count(), 1);
    reads(&stderr, &["6.12.6-cloud-amd64 in sid: incomplete"]);
    assert!(!place.db().exists());
}

#[test]
fn a_suite_that_lost_kernels_is_named_and_what_is_known_stays() {
    let mut mirror = mirror();
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &[]));
    assert_eq!(code, 0, "{stderr}");
    let content = place.content();
    // Half of the mirror is gone: a suite, and most of another one's index.
    fs::remove_dir_all(mirror.path("dists/trixie-backports")).unwrap();
    mirror.keep("sid", "linux-image-6.12.4-cloud-amd64");
    mirror.publish_with("sid", "");
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &[]));
    assert_eq!(code, 1, "{stderr}");
    reads(
        &stderr,
        &[
            "lost: suite debian trixie-backports: no mirror offers it any more, and it listed 1 \
             kernels; if it has moved, name the place in the catalogue or with --mirror debian=URL",
            "lost: suite debian sid: it lists 1 kernels, and listed 4 when it was last crawled",
        ],
    );
    let without_sources = |text: &str| {
        text.lines().filter(|l| !l.starts_with("sources")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(without_sources(&place.content()), without_sources(&content));
    // A dry run says the same.
    let (code, _, stderr) =
        done(&place.crawl(&mirror, url.as_str(), &["--dry-run"]).output().unwrap());
    assert_eq!(code, 1);
    reads(&stderr, &["lost: suite debian trixie-backports"]);
}

#[test]
fn shards_that_are_merged_are_the_whole() {
    let mirror = mirror();
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    let whole = Place::new();
    assert_eq!(run(whole.crawl(&mirror, url.as_str(), &[])).0, 0);
    let shards = ["1/2", "2/2"].map(|shard| {
        let place = Place::new();
        let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &["--shard", shard]));
        assert_eq!(code, 0, "{stderr}");
        place
    });
    assert!(shards.iter().all(|shard| shard.content() != whole.content()));
    let merged = Place::new();
    let files = shards.each_ref().map(|shard| shard.db().to_str().unwrap().to_owned());
    for order in [[0, 1], [1, 0]] {
        let mut merge = indexer(&["merge", &files[order[0]], &files[order[1]], "--db"]);
        let (code, stdout, stderr) = done(&merge.arg(merged.db()).output().unwrap());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
        assert_eq!(merged.content(), whole.content());
    }
    let mut merge = indexer(&["merge", "/none.sqlite", "--db"]);
    let (code, _, stderr) = done(&merge.arg(merged.db()).output().unwrap());
    assert_eq!(code, 1);
    reads(&stderr, &["cannot open the database /none.sqlite"]);
}

#[test]
fn what_nobody_signed_is_taken_only_where_that_was_said() {
    let mut mirror = Mirror::new();
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    mirror.add("trixie", &image(&rebuilt(&real, "6.12.1-cloud-amd64", 1), "6.12.1-1", 1));
    mirror.publish();
    let url = reqwest::Url::from_file_path(mirror.root.path()).unwrap();
    // Only `Release`, as older repositories have it; first with a signature beside it.
    mirror.detach("trixie");
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &[]));
    assert_eq!(code, 0, "{stderr}");
    let provenance = |place: &Place| {
        let store = Store::open_read_only(place.db()).unwrap();
        store.provenance(&build_id(1)).unwrap().remove(0)
    };
    assert_eq!(provenance(&place).signed_by, Some(mirror.fingerprint()));
    fs::remove_file(mirror.path("dists/trixie/Release.gpg")).unwrap();
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &[]));
    assert_eq!(code, 1, "{stderr}");
    reads(&stderr, &["failed: suite debian trixie: verification_failed", "signature"]);
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &["--allow-unverified", "debian"]));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(provenance(&place).signed_by, None);
    let (code, stderr) = run(place.crawl(&mirror, url.as_str(), &["--allow-unverified", "fedora"]));
    assert_eq!(code, 1);
    reads(&stderr, &["--allow-unverified fedora: no such source is crawled"]);
}

#[test]
fn kernels_of_ones_own_are_added() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let own = rebuilt(&real, "6.12.9-acme", 9);
    fs::write(path("nf_tables.ko"), elf::module(&own)).unwrap();
    fs::write(path("vmlinuz"), elf::vmlinux(&own, &build_id(0x89))).unwrap();
    fs::write(path("odd.ko"), b"\x89PNG\r\n\x1a\n").unwrap();
    let db = path("db.sqlite");
    let add = |files: &[&str]| {
        let mut command = indexer(&["add", "--db", &db, "--distro", "acme"]);
        done(&command.args(files).output().unwrap())
    };
    let (code, stdout, stderr) = add(&[&path("nf_tables.ko"), "--vmlinux", &path("vmlinuz")]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("{}  6.12.9-acme  resolved\n", build_id(9)));
    let store = Store::open_read_only(&db).unwrap();
    let entry = store.provenance(&build_id(9)).unwrap().remove(0);
    assert_eq!((entry.distro.as_str(), entry.signed_by), ("acme", None));
    // The place on this machine is nobody's business.
    assert_eq!((entry.package.as_str(), entry.url.as_str()), ("nf_tables.ko", "file:nf_tables.ko"));
    let content = store.content_dump().unwrap();
    let (code, _, stderr) = add(&[&path("odd.ko"), &path("none.ko")]);
    assert_eq!(code, 1);
    reads(&stderr, &["malformed_image", "not stored", "cannot read"]);
    assert_eq!(store.content_dump().unwrap(), content);
}
