//! `nfdrop-indexer db`: what it says of whole, old, new, damaged and foreign files, and what it does.

use super::{
    crawl::reads,
    support::{corpus, done, indexer},
};
use nfdrop_db::{ProofResult, Record, Store, sample};
use rusqlite::Connection;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A folder with a database of two builds.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("nfdrop.sqlite");
    let mut command = indexer(&["add", "--db"]);
    command.arg(&db);
    for name in ["debian-6.12.117+deb13-cloud-amd64", "debian-5.10.0-46-cloud-amd64"] {
        command.arg(corpus(name));
    }
    let (code, _, stderr) = done(&command.output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
    (folder, db)
}

/// Exit code, stdout and stderr of a command on this file, which is called FILE in them.
fn run(what: &[&str], db: &Path) -> (i32, String, String) {
    let (code, stdout, stderr) = done(&indexer(what).arg("--db").arg(db).output().unwrap());
    let plain = |text: String| text.replace(db.to_str().unwrap(), "FILE");
    (code, plain(stdout), plain(stderr))
}

fn sizes(db: &Path) -> u64 {
    fs::metadata(db).unwrap().len()
}

#[test]
fn a_whole_database_is_sound_and_counted() {
    let (_folder, db) = place();
    let (code, stdout, stderr) = run(&["db", "check"], &db);
    assert_eq!((code, stderr.as_str()), (0, ""));
    insta::assert_snapshot!(stdout, @"FILE: sound: schema 5, 2 builds, 2 bodies, 2 packages, 0 failures, 0 suites");
    let (code, stdout, _) = run(&["db", "migrate"], &db);
    assert_eq!((code, stdout.as_str()), (0, "FILE: schema 5 already, nothing to do\n"));
    let stats = run(&["db", "stats", "--format", "markdown"], &db);
    assert_eq!(stats.0, 0, "{stats:?}");
    assert_eq!(stats, run(&["stats", "--format", "markdown"], &db));
    reads(&stats.1, &["| 6.12 | cloud-amd64 | 1 | 1 | 1 | 100 % | 100 % | 0 % |  |"]);
}

#[test]
fn an_older_database_is_named_everywhere_and_migrated_once() {
    let (folder, db) = place();
    let store = Store::open_read_only(&db).unwrap();
    for schema in 1..=2 {
        let old = folder.path().join(format!("{schema}.sqlite"));
        store.write_older(&old, schema);
        let says = format!(
            "error: the database FILE has schema {schema}, this program reads 5: run `nfdrop-indexer \
             db migrate --db FILE`\n"
        );
        let out = folder.path().join("out");
        for what in [
            &["db", "check"][..],
            &["db", "vacuum"],
            &["db", "stats"],
            &["list"],
            &["export", out.to_str().unwrap()],
        ] {
            assert_eq!(run(what, &old), (1, String::new(), says.clone()), "{what:?}");
        }
        assert!(!out.exists());
        let (code, stdout, stderr) = run(&["db", "migrate"], &old);
        assert_eq!((code, stderr.as_str()), (0, ""));
        reads(&stdout, &[&format!("FILE: had schema {schema}, has 5 now\n  "), "  3: signatures"]);
        assert_eq!(stdout.contains("  2: which packages"), schema == 1);
        assert_eq!(run(&["db", "check"], &old).0, 0);
        let migrated = Store::open_read_only(&old).unwrap();
        // Listings, and where all packages are, older schemas did not keep.
        let rest = |store: &Store| -> String {
            let content = store.content_dump().unwrap();
            let kept =
                |line: &&str| !line.starts_with("listings") && !line.starts_with("set_packages");
            content.lines().filter(kept).collect()
        };
        assert_eq!(rest(&migrated), rest(&store));
        assert_eq!(migrated.counts().unwrap(), store.counts().unwrap());
    }
    // Who stores migrates too, and says so.
    let old = folder.path().join("by add");
    store.write_older(&old, 2);
    let mut command = indexer(&["add"]);
    command.arg(corpus("debian-6.1.0-56-cloud-amd64")).arg("--db").arg(&old);
    let (code, _, stderr) = done(&command.output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    reads(&stderr, &["by add had schema 2, has 5 now: programs of an older nfdrop"]);
    reads(&run(&["db", "check"], &old).1, &["sound: schema 5, 3 builds"]);
}

#[test]
fn a_contradicted_plan_is_named_and_the_file_is_sound() {
    let (_folder, db) = place();
    let store = Store::open(&db).unwrap();
    let id = store.provable().unwrap().remove(0).build_id;
    let record = Record::parse_canonical(&store.record(&id).unwrap().unwrap()).unwrap();
    let mut proof = sample::proof(&record);
    proof.result = ProofResult::Contradicted;
    proof.detail = Some("39 of 40 drops were seen\nand a line of the console".to_owned());
    store.put_proof(&proof).unwrap();
    let (code, stdout, stderr) = run(&["db", "check"], &db);
    assert_eq!(code, 0, "{stderr}");
    reads(&stdout, &["ALARM: build", "its kernel contradicts its plan: 39 of 40 drops", "sound"]);
}

#[test]
fn what_is_not_this_programs_is_refused_and_left_as_it_was() {
    let (folder, db) = place();
    let path = |name: &str| folder.path().join(name);
    fs::copy(&db, path("newer")).unwrap();
    let newer = Connection::open(path("newer")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    newer.close().unwrap();
    Connection::open(path("foreign")).unwrap().execute_batch("CREATE TABLE cookies (a)").unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("text"), "#!/bin/sh\n".repeat(500)).unwrap();
    for (name, says) in [
        (
            "newer",
            "the database FILE has schema 99, this program reads 5: it is newer than this program; take a \
             newer nfdrop, or crawl into a new file",
        ),
        ("foreign", "FILE is a database, but not nfdrop's: expected application id 0x6e666472"),
        ("empty", "FILE is empty; name the file that `nfdrop-indexer crawl --db` wrote"),
        ("text", "FILE is not a database; name the file that `nfdrop-indexer crawl --db` wrote"),
        ("missing", "cannot open the database FILE: unable to open database file: "),
    ] {
        let before = fs::read(path(name)).ok();
        for what in ["check", "migrate", "vacuum", "stats"] {
            let (code, stdout, stderr) = run(&["db", what], &path(name));
            assert_eq!((code, stdout.as_str()), (1, ""), "{name} {what}: {stderr}");
            assert!(stderr.starts_with(&format!("error: {says}")), "{name} {what}: {stderr}");
        }
        assert_eq!(fs::read(path(name)).ok(), before, "{name} is as it was");
    }
}

#[test]
fn damage_is_told_a_line_each_and_changes_nothing() {
    let (folder, db) = place();
    let pages = |damage: fn(&mut [u8])| {
        let mut bytes = fs::read(&db).unwrap();
        let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        let count = bytes.len() / size;
        // All but the first, by which it is known whose it is.
        for page in 1..count {
            damage(&mut bytes[page * size..][..size]);
        }
        let damaged = folder.path().join("damaged");
        fs::write(&damaged, bytes).unwrap();
        damaged
    };
    // Bits of the middle of every page; every page's kind and number of cells; all of them.
    let changes: [fn(&mut [u8]); 3] = [
        |page| page[2000..2100].iter_mut().for_each(|byte| *byte ^= 0x55),
        |page| page[..8].iter_mut().for_each(|byte| *byte ^= 0xff),
        |page| page.fill(0),
    ];
    for change in changes {
        let damaged = pages(change);
        let before = fs::read(&damaged).unwrap();
        let (code, stdout, stderr) = run(&["db", "check"], &damaged);
        assert_eq!(code, 2, "{stdout}{stderr}");
        assert!(stdout.lines().count() < 1000, "{}", stdout.lines().count());
        for line in stdout.lines() {
            assert!(line.contains("; ") || line.contains("more faults"), "{line}");
        }
        let faults = stdout.lines().count();
        assert_eq!(stderr, format!("FILE: damaged: {faults} faults\n"));
        assert_eq!(fs::read(&damaged).unwrap(), before);
    }
    // What SQLite takes for whole.
    let raw = Connection::open(&db).unwrap();
    raw.execute_batch(
        "UPDATE packages SET sha256 = 'A', place = 'b' WHERE release LIKE '5.%';
         UPDATE listings SET listing = zeroblob(9);
         PRAGMA foreign_keys = off; UPDATE packages SET build_id = '00000000' WHERE release LIKE '6.%'",
    )
    .unwrap();
    let (code, stdout, _) = run(&["db", "check"], &db);
    assert_eq!(code, 2);
    reads(
        &stdout,
        &[
            "packages: a row of builds that it refers to is missing; restore a copy",
            "its hash is not 64 lower-case hex digits; restore a copy",
            "it is not in the set that it is said to be of; restore",
            "its series, flavour or place are not those of its release; restore",
            "listing of ",
            "or merge a database that has it",
        ],
    );
}

#[test]
fn a_vacuum_tells_both_sizes_and_readers_go_on() {
    let (_folder, db) = place();
    let content = Store::open_read_only(&db).unwrap().content_dump().unwrap();
    let raw = Connection::open(&db).unwrap();
    raw.execute_batch("CREATE TABLE waste AS SELECT zeroblob(1000000) AS a; DROP TABLE waste")
        .unwrap();
    raw.close().unwrap();
    let before = sizes(&db);
    let reader = Store::open_read_only(&db).unwrap();
    assert_eq!(reader.counts().unwrap().resolved, 2);
    let (code, stdout, stderr) = run(&["db", "vacuum"], &db);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let after = sizes(&db);
    assert!(after + 900_000 < before, "{before} {after}");
    assert_eq!(stdout, format!("FILE: {before} bytes before, {after} now\n"));
    assert_eq!(reader.content_dump().unwrap(), content);
    reads(&run(&["db", "check"], &db).1, &["sound"]);
}
