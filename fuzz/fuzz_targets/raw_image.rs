//! Any bytes as a kernel image, module or extract, compressed or not.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_fuzz::seeds;
use nfdrop_resolver::image;

fuzz_target!(init: seeds::write_for("raw_image"), |data: &[u8]| {
    // The first two bytes say where one file ends and the other begins.
    let Some((cut, files)) = data.split_first_chunk::<2>() else { return };
    let cut = usize::from(u16::from_le_bytes(*cut));
    let (file, vmlinux) = files.split_at_checked(cut).unwrap_or((files, &[]));
    for file in [file, vmlinux] {
        let _ = image::build_id(file);
        let _ = image::vmlinux_btf(file);
    }
    let vmlinux = Some(vmlinux).filter(|vmlinux| !vmlinux.is_empty());
    if let Ok(function) = image::load(file, vmlinux) {
        let text = image::extract::to_json(&function);
        let again = image::extract::from_json(text.as_bytes());
        assert_eq!(again.as_ref(), Ok(&function), "an extract is the function");
    }
});
