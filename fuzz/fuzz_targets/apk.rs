//! Packages of apk, as mirrors send them, and how their signatures are told from the rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_indexer::package::apk::{Apk, kernel_files, signed_index};
use nfdrop_indexer::package::{Limits, Wanted};

fuzz_target!(init: seeds::write_for("apk"), |data: &[u8]| {
    let limits = Limits { entries: 1000, member: 4 << 20, total: 16 << 20, name: 256 };
    if let Ok(files) = kernel_files(data, Wanted::Both, &limits) {
        let module = files.nf_tables.map_or(0, |file| file.bytes.len());
        let image = files.vmlinuz.map_or(0, |bytes| bytes.len());
        assert!(module.max(image) as u64 <= limits.member);
    }
    if let Ok(apk) = Apk::open(data) {
        // Exactly a part of the file.
        let control = &apk.head.control;
        assert!(data.windows(control.len()).any(|window| window == control));
        let _ = apk.check_data();
    }
    if let Ok(index) = signed_index(data) {
        assert!(data.ends_with(&index.signed));
    }
});
