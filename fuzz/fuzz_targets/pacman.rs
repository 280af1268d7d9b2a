//! Packages of pacman, as mirrors send them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_indexer::package::{Limits, Wanted, pacman};

fuzz_target!(init: seeds::write_for("pacman"), |data: &[u8]| {
    let limits = Limits { entries: 1000, member: 4 << 20, total: 16 << 20, name: 256 };
    for wanted in [Wanted::Both, Wanted::Vmlinuz, Wanted::NfTables] {
        let Ok(files) = pacman::kernel_files(data, wanted, &limits) else { continue };
        let module = files.nf_tables.map_or(0, |file| file.bytes.len());
        let image = files.vmlinuz.map_or(0, |bytes| bytes.len());
        assert!(module.max(image) as u64 <= limits.member);
    }
    let _ = pacman::info(data);
    let _ = pacman::is_tar(data);
});
