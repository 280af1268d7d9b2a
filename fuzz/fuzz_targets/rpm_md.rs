//! What rpm repositories send: indices in XML and as databases, signatures in packages, versions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_indexer::source::openpgp::Keyring;
use nfdrop_indexer::source::rpm_md::{database, kernels, primary, repomd, verify};
use nfdrop_indexer::source::version::Version;
use std::time::SystemTime;

fn leads_nowhere_else(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| part != "..")
}

fuzz_target!(init: seeds::write_for("rpm_md"), |data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 5 {
        0 => {
            if let Ok(index) = repomd::primary(data) {
                assert!(leads_nowhere_else(&index.path));
            }
        }
        1 => {
            for package in primary::read(data, kernels::is_wanted).unwrap_or_default() {
                assert!(kernels::is_wanted(&package.name));
                assert!(leads_nowhere_else(&package.path));
            }
        }
        2 => {
            let Ok(file) = tempfile::NamedTempFile::new() else { return };
            if std::fs::write(file.path(), data).is_ok() {
                let _ = database::read(file.path(), kernels::is_wanted);
            }
        }
        3 => {
            let _ = verify(data, &Keyring::default(), SystemTime::UNIX_EPOCH);
        }
        _ => {
            let text = std::str::from_utf8(data).unwrap_or_default();
            let mut lines = text.lines().map(Version::rpm);
            let (a, b, c) = (lines.next(), lines.next(), lines.next());
            let (Some(a), Some(b), Some(c)) = (a, b, c) else { return };
            assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            assert!(!(a <= b && b <= c) || a <= c, "{a} <= {b} <= {c}");
        }
    }
});
