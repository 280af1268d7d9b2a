//! The machine's own mirror: the only test that needs a network. It fetches five kernels at most and
//! keeps them in the indexer's cache, outside of the repository.
//!
//! Set `NFDROP_OFFLINE` to leave it out.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_db::{Store, store::KernelFilter};
use std::{path::Path, process::Command};

fn crawl(db: &Path, filter: &str, limit: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfdrop-indexer"));
    command.args(["crawl", "--newest", "--filter", filter, "--limit", limit, "--db"]).arg(db);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "the crawl failed:\n{stderr}");
    stderr
}

#[test]
fn kernels_of_the_machines_mirror_resolve() {
    if std::env::var_os("NFDROP_OFFLINE").is_some() {
        println!("NFDROP_OFFLINE is set: not run");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let db = directory.path().join("nfdrop.sqlite");
    // The two newest series, and, as long as the mirror has them, those whose packages, compression
    // and layouts are of older kinds.
    let crawls = [("cloud-amd64$", "2"), (r"^(5\.10|6\.1|6\.12)\..*cloud-amd64$", "3")];
    let said = crawls.map(|(filter, limit)| crawl(&db, filter, limit)).concat();
    let store = Store::open_read_only(&db).unwrap();
    let counts = store.counts().unwrap();
    assert!(counts.resolved >= 1, "{said}");
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    for build in store.kernels(&KernelFilter::default(), None, 100).unwrap() {
        assert_eq!(build.reason, None, "{build:?}\n{said}");
        let provenance = store.provenance(&build.build_id).unwrap();
        assert!(provenance.iter().all(|entry| entry.signed_by.is_some()), "{provenance:?}");
    }
    // Again: all is known, nothing changes.
    let content = store.content_dump().unwrap();
    let said = crawls.map(|(filter, limit)| crawl(&db, filter, limit)).concat();
    assert_eq!(store.content_dump().unwrap(), content, "{said}");
}
