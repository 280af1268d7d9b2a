//! Signing with what crawls and merges: the commands, from outside.

use super::{
    crawl::{Place, build_id, image, reads, rebuilt, run},
    support::{
        done, extract, indexer,
        mirror::{Mirror, Server},
    },
};
use nfdrop_db::{
    Record, Store, sample,
    store::{Signer as _, plan_comment},
};
use nfdrop_indexer::signing::SigningKey;
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

/// Whether all of these builds are signed with this key, in a database that is sound.
fn all_signed(database: &Path, key: &Path, builds: &[u8]) -> bool {
    let never = || Err(std::io::Error::other("it has no password"));
    let (key, _) = SigningKey::read(key, never).unwrap();
    let store = Store::open_read_only(database).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    builds.iter().all(|byte| {
        let id = build_id(*byte);
        let record = store.record(&id).unwrap().unwrap();
        assert!(Record::parse_canonical(&record).unwrap().plan.is_some());
        store.signature(&id).unwrap() == Some(key.sign(&plan_comment(&id), &record))
    })
}

#[test]
fn a_crawl_with_a_key_signs_what_it_finds_and_what_is_there() {
    let real = extract("debian-6.12.117+deb13-cloud-amd64");
    let mut mirror = Mirror::new();
    for (byte, release) in [(1, "6.12.1-cloud-amd64"), (2, "6.12.2-cloud-amd64")] {
        mirror.add("trixie", &image(&rebuilt(&real, release, byte), "6.12.1-1", 0x80 | byte));
    }
    mirror.publish();
    let server = Server::new(mirror.root.path());
    let place = Place::new();
    let path = |name: &str| place.0.path().join(name);
    for key in ["a.key", "b.key"] {
        let (code, stdout, stderr) = done(&indexer(&["keygen"]).arg(path(key)).output().unwrap());
        assert_eq!((code, stdout.lines().count()), (0, 1), "{stderr}");
    }
    let crawl = |more: &[&str]| run(place.crawl(&mirror, &server.url, more));
    let (code, stderr) = crawl(&["--limit", "1"]);
    assert_eq!(code, 0, "{stderr}");
    let (a, b) = (path("a.key"), path("b.key"));
    let (code, stderr) = crawl(&["--sign-key", a.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    reads(&stderr, &["1 builds had no signature of this key: signed"]);
    assert!(all_signed(&place.db(), &a, &[1, 2]));
    // Without a key nothing is taken away; a database without one keeps what it merges.
    assert_eq!(crawl(&[]).0, 0);
    let merge = |more: &[&str]| {
        let mut command = indexer(&["merge"]);
        done(&command.arg(place.db()).arg("--db").arg(path("merged")).args(more).output().unwrap())
    };
    assert_eq!(merge(&[]).0, 0);
    assert!(all_signed(&path("merged"), &a, &[1, 2]));
    let merged = Store::open_read_only(path("merged")).unwrap().content_dump().unwrap();
    assert_eq!(merged, place.content());
    // With one of its own it has its own.
    fs::set_permissions(&b, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, stderr) = merge(&["--sign-key", b.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    reads(&stderr, &["warning: others can read the secret key", "chmod 600"]);
    assert!(all_signed(&path("merged"), &b, &[1, 2]));
}

#[test]
fn a_key_that_cannot_be_used_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("no.key"), "not a key").unwrap();
    let (db, extract) = (path("db"), super::support::corpus("debian-6.12.117+deb13-cloud-amd64"));
    for key in ["no.key", "missing.key"] {
        let mut command = indexer(&["add"]);
        command.arg(&extract).arg("--db").arg(&db).arg("--sign-key").arg(path(key));
        let (code, stdout, stderr) = done(&command.output().unwrap());
        assert_eq!((code, stdout.as_str()), (1, ""));
        reads(&stderr, &["error: ", "secret key", "`nfdrop-indexer keygen`"]);
    }
    let mut command = indexer(&["sign"]);
    command.arg("--db").arg(&db).env("NFDROP_SIGN_KEY", path("no.key"));
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    assert!(!db.exists());
}

#[test]
fn a_proof_is_signed_and_exported_beside_its_plan() {
    let place = Place::new();
    let path = |name: &str| place.0.path().join(name);
    let (code, _, stderr) = done(&indexer(&["keygen"]).arg(path("a.key")).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    let record = sample::resolved(build_id(1));
    let store = Store::create_or_open(path("db")).unwrap();
    store.put_kernel(&sample::kernel(record.clone(), "6.12.1-cloud-amd64")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = indexer(arguments);
        let (code, stdout, stderr) = done(&command.arg("--db").arg(path("db")).output().unwrap());
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    let (out, key) = (path("out"), path("a.key"));
    let (out, key) = (out.to_str().unwrap(), key.to_str().unwrap());
    let file = |name: &str| path("out").join(format!("buildid/{}/{name}", build_id(1)));
    run(&["export", out]);
    assert!(!file("proof").exists());

    store.put_proof(&sample::proof(&record)).unwrap();
    let said = run(&["sign", "--sign-key", key]);
    assert!(said.contains("1 builds, 1 signed now, and 1 proofs"), "{said}");
    run(&["export", out]);
    let bytes = fs::read(file("proof")).unwrap();
    assert_eq!(bytes, sample::proof(&record).to_bytes());
    let public = minisign::PublicKeyBox::from_string(&fs::read_to_string(path("a.pub")).unwrap());
    let public = public.unwrap().into_public_key().unwrap();
    let text = fs::read_to_string(file("proof.minisig")).unwrap();
    let signature = minisign::SignatureBox::from_string(&text).unwrap();
    let comment = format!("nfdrop proof of build {}", build_id(1));
    assert_eq!(signature.trusted_comment().unwrap(), comment);
    let verify = |bytes: &[u8]| {
        minisign::verify(&public, &signature, std::io::Cursor::new(bytes), true, false, false)
    };
    verify(&bytes).unwrap();
    assert!(verify(&bytes[1..]).is_err());
}
