//! What else mirrors send: indices, Release files, signatures, versions. And what a machine's apt
//! configuration may hold.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_indexer::source::apt::release::{Compression, Release};
use nfdrop_indexer::source::apt::{config, packages};
use nfdrop_indexer::source::date;
use nfdrop_indexer::source::openpgp::Keyring;
use nfdrop_indexer::source::version::Version;
use std::io::Read as _;
use std::time::SystemTime;

fuzz_target!(init: seeds::write_for("sources"), |data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data).unwrap_or_default();
    match which % 8 {
        kind @ 0..=2 => {
            let compression = [Compression::None, Compression::Gzip, Compression::Xz];
            let compression = compression[usize::from(kind)];
            let Ok(reader) = packages::decompress(data, compression) else { return };
            // The limit on indices is for real ones, and takes long to get to.
            let _ = packages::read(reader.take(8 << 20), "linux-");
        }
        3 => {
            let Ok(release) = Release::parse(data) else { return };
            let _ = release.packages("main", "amd64");
            let _ = release.stale_since(SystemTime::UNIX_EPOCH);
        }
        4 => {
            let mut keyring = Keyring::default();
            let _ = keyring.add(data);
            let _ = keyring.verify(data, SystemTime::UNIX_EPOCH);
        }
        5 => {
            let mut lines = text.lines().map(Version::dpkg);
            let (a, b, c) = (lines.next(), lines.next(), lines.next());
            let (Some(a), Some(b), Some(c)) = (a, b, c) else { return };
            assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            assert!(!(a <= b && b <= c) || a <= c, "{a} <= {b} <= {c}");
        }
        _ => {
            let _ = date::parse(text);
            let _ = config::parse_list(text);
            let _ = config::parse_sources(text);
        }
    }
});
