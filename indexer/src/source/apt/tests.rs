//! Against a mirror that is a directory, with indices signed here.

use super::*;
use crate::{
    fetch::{Fetcher, Options, Silent},
    source::{
        Kind, SuiteOutcome,
        catalogue::Catalogue,
        keys::LoadKeysError,
        openpgp::tests::{at, key, sign},
    },
};
use reqwest::Url;
use sequoia_openpgp::{Cert, serialize::SerializeInto as _};
use sha2::{Digest as _, Sha256};
use std::{fs, sync::Arc};

struct Mirror {
    root: tempfile::TempDir,
    cert: Cert,
    reader: Reader,
}

const PACKAGES: &str = "Package: linux-image-6.1.0-56-amd64\nVersion: 6.1.192-2\n\
    Architecture: amd64\nFilename: pool/x.deb\nSize: 12\n\
    SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\n\
    Package: bash\nVersion: 1\n";

impl Mirror {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(Options::new(root.path().join("cache"))).unwrap();
        let reader = Reader {
            fetcher,
            now: at(0),
            root: root.path().to_owned(),
            reporter: Arc::new(Silent),
        };
        let mirror = Self { root, cert: key(1000), reader };
        mirror.put("keys.gpg", &mirror.cert.to_vec().unwrap());
        mirror
    }

    fn base(&self, archive: &str) -> String {
        Url::from_file_path(self.root.path().join(archive)).unwrap().to_string()
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A suite whose index is offered by hash and plain only, though two spellings are listed.
    fn suite(&self, archive: &str, label: &str, suite: &str, fields: &str) {
        // Differs from suite to suite: the cache is named by content.
        let packages = format!("{PACKAGES}\nPackage: {suite}\n");
        let hash = nfdrop_db::hex::encode(&Sha256::digest(&packages));
        let text = format!(
            "Origin: Debian\nLabel: {label}\nSuite: x\nCodename: {suite}\n\
             Date: Sat, 21 Nov 2026 00:53:03 UTC\nAcquire-By-Hash: yes\n{fields}SHA256:\n \
             {hash} {} main/binary-amd64/Packages\n {} 32 main/binary-amd64/Packages.xz\n",
            packages.len(),
            "00".repeat(32)
        );
        let directory = format!("{archive}/dists/{suite}");
        self.put(&format!("{directory}/InRelease"), &sign(&text, &[&self.cert]));
        let path = format!("{directory}/main/binary-amd64/by-hash/SHA256/{hash}");
        self.put(&path, packages.as_bytes());
    }

    fn repository(&self, suite: &str) -> Repository {
        Repository {
            source: "debian".to_owned(),
            distro: "debian".to_owned(),
            suite: suite.to_owned(),
            kind: Kind::Apt,
            arch: "amd64".to_owned(),
            components: vec!["main".to_owned()],
            urls: vec![self.base("debian")],
            keys: KeyFiles { files: vec!["/keys.gpg".into()], ..KeyFiles::default() },
            weak: false,
            unverified: false,
        }
    }

    async fn read(&self, suite: &str) -> Result<Option<Suite>, SuiteError> {
        self.reader.read(&self.repository(suite)).await
    }
}

#[tokio::test]
async fn reads_a_suite() {
    let mirror = Mirror::new();
    mirror.suite("debian", "Debian", "bookworm", "");
    let suite = mirror.read("bookworm").await.unwrap().unwrap();
    assert_eq!(suite.index.packages.len(), 1);
    assert_eq!(suite.signed_by, Some(mirror.cert.fingerprint().to_hex()));
    assert_eq!(suite.stale_since, None);
    assert!(mirror.read("trixie").await.unwrap().is_none());
}

#[tokio::test]
async fn an_old_index_is_used_and_marked() {
    let mirror = Mirror::new();
    mirror.suite("debian", "Debian", "sid", "Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC\n");
    let suite = mirror.read("sid").await.unwrap().unwrap();
    assert_eq!(suite.index.packages.len(), 1);
    assert_eq!(suite.stale_since.map(crate::source::date::day).as_deref(), Some("2026-11-06"));
}

#[tokio::test]
async fn a_suite_that_fails_is_named_and_the_others_are_read() {
    let mirror = Mirror::new();
    mirror.suite("debian", "Debian", "bookworm", "");
    mirror.suite("debian", "Debian", "bullseye", "");
    let path = |suite| mirror.root.path().join(format!("debian/dists/{suite}"));
    // Another suite's file.
    fs::create_dir_all(path("trixie")).unwrap();
    fs::copy(path("bookworm").join("InRelease"), path("trixie").join("InRelease")).unwrap();
    // Signed by somebody else.
    mirror.put("debian/dists/forky/InRelease", &sign("Codename: forky\n", &[&key(1000)]));
    // Not signed at all.
    mirror.put("debian/dists/sid/InRelease", b"Codename: sid\n");
    // The index is gone.
    fs::remove_dir_all(path("bullseye").join("main")).unwrap();
    let catalogue = Catalogue::builtin().unwrap();
    let source = &catalogue.select(&["debian".to_owned()]).unwrap()[0];
    let mut repositories = source.repositories(Some(&mirror.base("debian")));
    let keys = mirror.repository("").keys;
    for repository in &mut repositories {
        repository.keys = keys.clone();
    }
    let outcomes = mirror.reader.read_all(&repositories).await;
    let line = |outcome: &SuiteOutcome| match &outcome.result {
        Ok(None) => None,
        Ok(Some(suite)) => {
            Some(format!("{}: {}", outcome.repository.suite, suite.index.packages.len()))
        }
        Err(error) => Some(format!("{}: {} {error}", outcome.repository.suite, error.reason())),
    };
    let lines: Vec<_> = outcomes.iter().filter_map(line).collect();
    let lines = lines.join("\n").replace(&mirror.base("debian"), "BASE");
    let masked = regex::Regex::new("[0-9A-F]{16,}|[0-9a-f]{64}").unwrap();
    insta::assert_snapshot!(masked.replace_all(&lines, "KEY"), @r#"
    bullseye: fetch_failed BASE/dists/bullseye/main/binary-amd64/Packages does not exist (status 404)
    bookworm: 1
    trixie: verification_failed BASE/dists/trixie/InRelease is signed for bookworm, expected trixie
    forky: verification_failed BASE/dists/forky/InRelease: signed by unknown keys only: KEY; expected one of 1 known keys
    sid: verification_failed BASE/dists/sid/InRelease: the file has no OpenPGP signature
    "#);
    assert_eq!(outcomes.len(), 5 * 4 + 2);
}

#[tokio::test]
async fn finds_debian_in_the_configuration_of_apt() {
    let mirror = Mirror::new();
    mirror.suite("debian", "Debian", "bookworm", "");
    mirror.suite("other", "Third", "stable", "");
    let other = sign(
        "Origin: Third\nCodename: stable\nDate: 1 Jan 2026 00:00:00 UTC\nSHA256:\n",
        &[&mirror.cert],
    );
    mirror.put("other/dists/stable/InRelease", &other);
    let armored = mirror.cert.armored().to_vec().unwrap();
    mirror.put("etc/apt/trusted.gpg.d/archive.asc", &armored);
    mirror.put("etc/apt/trusted.gpg.d/broken.gpg", b"broken");
    mirror.put("usr/share/keyrings/k.gpg", &mirror.cert.to_vec().unwrap());
    let (main, third) = (mirror.base("debian"), mirror.base("other"));
    let list = format!(
        "deb {third} stable main\ndeb {main} none main\ndeb [signed-by=/usr/share/keyrings/k.gpg] \
         {main}/ bookworm main\ndeb [signed-by=/none.gpg] {third}2 x main\n"
    );
    mirror.put("etc/apt/sources.list", list.as_bytes());
    let root = mirror.root.path();
    let found = discover(&mirror.reader, &config::read(root)).await;
    let archives: Vec<_> = found.archives.iter().map(|a| (a.source, a.base.as_str())).collect();
    assert_eq!(archives, [("debian", main.as_str())]);
    let warnings = found.warnings.join("\n").replace(&third, "THIRD");
    let warnings = warnings.replace(root.to_str().unwrap(), "");
    insta::assert_snapshot!(warnings, @r#"
    THIRD2 x: the keyring /none.gpg cannot be read: No such file or directory (os error 2); skipped
    "#);
    // Without any key nothing is trusted.
    let empty = tempfile::tempdir().unwrap();
    let error = KeyFiles::default().openpgp(empty.path()).unwrap_err();
    assert!(matches!(error, LoadKeysError::None), "{error}");
}
