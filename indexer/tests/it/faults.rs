//! Faults between the crawler and a mirror: never a wrong record, never a lost one, always a reason,
//! always an end. After each the crawl is made again without, and ends with what it would have had.

use super::{
    crawl::{Place, build_id, image, nf_tables, reads, rebuilt, run, vmlinuz},
    support::{
        extract,
        mirror::{Deb, Mirror, Server},
        proxy::{Fault, Proxy},
    },
};
use nfdrop_db::Store;

const RELEASE_FILE: &str = "dists/sid/InRelease";
const INDEX: &str = "dists/sid/main/binary-amd64/Packages";
const DEB: &str = "pool/linux-image-6.12.1-cloud-amd64_6.12.1-1_amd64.deb";
const OTHER: &str = "/pool/linux-image-6.12.2-cloud-amd64_6.12.2-1_amd64.deb";
const BUILDS: [u8; 3] = [1, 2, 3];
/// More than anything is tried.
const ALWAYS: usize = 1000;

/// Three kernels in two suites; the package of one is large, and made for being read in parts.
fn mirror() -> Mirror {
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let mut mirror = Mirror::new();
    let build = |number: u8| rebuilt(&real, &format!("6.12.{number}-cloud-amd64"), number);
    mirror.add("sid", &image(&build(1), "6.12.1-1", 0x81));
    mirror.add("sid", &image(&build(2), "6.12.2-1", 0x82));
    let large = build(3);
    let noise = (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ n as u8);
    let module = nf_tables(&large);
    let filler = module.0.replace("net/netfilter/nf_tables", "drivers/filler");
    let files = vec![vmlinuz(&large, 0x83), (filler, noise.collect()), module];
    let name = "linux-image-6.12.3-cloud-amd64".to_owned();
    mirror.add("trixie", &Deb { name, version: "6.12.3-1", depends: String::new(), files });
    mirror.publish();
    mirror
}

fn records(place: &Place) -> Vec<Option<Vec<u8>>> {
    let store = Store::open_read_only(place.db()).unwrap();
    BUILDS.iter().map(|number| store.record(&build_id(*number)).unwrap()).collect()
}

/// A place where everything was crawled without faults.
struct Clean {
    mirror: Mirror,
    server: Server,
    content: String,
    records: Vec<Option<Vec<u8>>>,
}

impl Clean {
    fn new() -> Self {
        let mirror = mirror();
        let server = Server::new(mirror.root.path());
        let place = Place::new();
        let (code, stderr) = run(place.crawl(&mirror, &server.url, &[]));
        assert_eq!(code, 0, "{stderr}");
        let (content, records) = (place.content(), records(&place));
        assert!(records.iter().all(Option::is_some));
        Self { mirror, server, content, records }
    }

    /// Crawls through a fault, and then without. Whether the fault was got over.
    fn survives(&self, path: &'static str, fault: Fault, times: usize, more: &[&str]) -> bool {
        let what = format!("{path} {fault:?} {times} {more:?}");
        let proxy = Proxy::new(&self.server.url);
        proxy.spoil(path, fault, times);
        let place = Place::new();
        let arguments = [&["--retries", "2", "--pause", "0.001"], more].concat();
        let (code, stderr) = run(place.crawl(&self.mirror, &proxy.url, &arguments));
        let found = records(&place);
        for (found, clean) in found.iter().zip(&self.records) {
            assert!(found.is_none() || found == clean, "{what}: another record\n{stderr}");
        }
        match code {
            0 => assert_eq!(found, self.records, "{what}: lost\n{stderr}"),
            _ => reads(&stderr, &["failed: "]),
        }
        proxy.pass_all();
        // Each proxy has a port of its own, which is part of what is stored of a kernel.
        let (again, stderr) = run(place.crawl(&self.mirror, &proxy.url, &["--retries", "0"]));
        assert_eq!(again, 0, "{what}: {stderr}");
        assert_eq!(records(&place), self.records, "{what}");
        // What was fetched in parts was fetched again as a whole.
        let content = place.content().replace(&proxy.url, &self.server.url);
        assert_eq!(content, self.content, "{what}");
        code == 0
    }
}

#[test]
fn faults_that_pass_are_got_over() {
    let clean = Clean::new();
    let busy = "429 Slow\r\nRetry-After: 0";
    for path in [RELEASE_FILE, INDEX, DEB] {
        for fault in [Fault::Cut, Fault::Status("500 No"), Fault::Status(busy)] {
            assert!(clean.survives(path, fault, 2, &[]), "{path} {fault:?}");
        }
        assert!(clean.survives(path, Fault::Stall, 1, &["--timeout", "2"]), "{path}");
    }
}

#[test]
fn faults_that_stay_are_told() {
    let clean = Clean::new();
    for path in [RELEASE_FILE, INDEX, DEB] {
        for fault in [
            Fault::Cut,
            Fault::Status("500 No"),
            Fault::Status("403 No"),
            Fault::Corrupt,
            Fault::Swap(OTHER),
            Fault::Shrink,
            Fault::Circle,
        ] {
            assert!(!clean.survives(path, fault, ALWAYS, &[]), "{path} {fault:?}");
        }
        assert!(!clean.survives(path, Fault::Stall, ALWAYS, &["--timeout", "1"]), "{path}");
    }
    // A suite without an InRelease file is one that the mirror does not offer.
    for path in [INDEX, DEB] {
        assert!(!clean.survives(path, Fault::Status("404 No"), ALWAYS, &[]), "{path}");
    }
}

const LARGE: &str = "linux-image-6.12.3-cloud-amd64";

#[test]
fn parts_of_a_package_do_where_they_are_asked_for() {
    let clean = Clean::new();
    clean.server.at_every_point(|_, _| {});
    let place = Place::new();
    let (code, stderr) = run(place.crawl(&clean.mirror, &clean.server.url, &["--partial"]));
    assert_eq!((code, records(&place)), (0, clean.records.clone()), "{stderr}");
    let store = Store::open_read_only(place.db()).unwrap();
    let transport = |number| store.provenance(&build_id(number)).unwrap()[0].transport_only;
    // The small ones have one block, and are fetched as a whole.
    assert_eq!([1, 2, 3].map(transport), [false, false, true]);
    let requests = clean.server.log().iter().filter(|path| path.contains(LARGE)).count();
    assert!(requests > 1, "{:?}", clean.server.log());
    assert!(!place.has_package(&clean.mirror, LARGE), "all of it was fetched");
}

#[test]
fn parts_that_are_not_to_be_trusted_are_not_used() {
    let clean = Clean::new();
    for fault in [Fault::WrongRange, Fault::WholeForRange, Fault::Shrink, Fault::Corrupt] {
        for times in [1, ALWAYS] {
            clean.survives(LARGE, fault, times, &["--partial"]);
        }
    }
}
