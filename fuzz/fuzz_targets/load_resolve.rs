//! ELF, relocations, jump table, BTF and code together: kernels of the corpus, changed in a few
//! places, are loaded and resolved.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::{changed, resolve_and_check, seeds};
use nfdrop_resolver::image;

fuzz_target!(init: seeds::write_for("load_resolve"), |data: &[u8]| {
    let Some(([module, vmlinux], kernel)) = changed(data) else { return };
    if let Ok(function) = image::load(&module, Some(&vmlinux)) {
        resolve_and_check(function, kernel);
    }
});
