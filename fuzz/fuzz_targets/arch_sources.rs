//! Databases and pages of Arch's mirrors, indices and keys of Alpine's, and the orders of their versions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_indexer::package::Limits;
use nfdrop_indexer::package::apk::Signature;
use nfdrop_indexer::source::apk::{index, keys::Keys};
use nfdrop_indexer::source::pacman::{archive, db};
use nfdrop_indexer::source::version::Version;

fuzz_target!(init: seeds::write_for("arch_sources"), |data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let limits = Limits { entries: 1000, member: 1 << 20, total: 8 << 20, name: 256 };
    match which % 6 {
        0 => {
            let Ok(packages) = db::read_within(data, &["linux", "linux-lts"], &limits) else { return };
            assert!(packages.iter().all(|package| !package.path.contains('/')));
        }
        1 => {
            let Ok(packages) = archive::read(&text, "l/linux/", "linux", "x86_64") else { return };
            for package in packages {
                let file = package.path.strip_prefix("l/linux/").unwrap_or("/");
                assert!(!file.contains('/'), "{file}");
            }
        }
        2 => {
            let Ok(packages) = index::read_within(data, &["linux-lts"], &limits) else { return };
            assert!(packages.iter().all(|package| !package.path.contains('/')));
        }
        3 => {
            let mut keys = Keys::default();
            let _ = keys.add("a", data);
            let signature = Signature { name: "RSA256.a".to_owned(), bytes: vec![1; 256] };
            assert!(keys.verify(&[signature], data).is_err());
        }
        kind => {
            let version = |line: &str| if kind == 4 { Version::pacman(line) } else { Version::apk(line) };
            let mut lines = text.lines().map(version);
            let (a, b, c) = (lines.next(), lines.next(), lines.next());
            let (Some(a), Some(b), Some(c)) = (a, b, c) else { return };
            assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            assert!(!(a <= b && b <= c) || a <= c, "{a} <= {b} <= {c}");
        }
    }
});
