//! Records as servers send them: what is accepted has one canonical form, and can be rendered.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nfdrop_db::{Record, render};
use nfdrop_fuzz::seeds;

fuzz_target!(init: seeds::write_for("records"), |data: &[u8]| {
    let Ok(record) = Record::parse(data) else { return };
    let bytes = record.to_bytes();
    assert_eq!(Record::parse_canonical(&bytes).as_ref(), Ok(&record));
    let _ = render::text(&record);
    if let Some(plan) = &record.plan {
        let _ = render::bpftrace(plan);
        let _ = render::kprobe_events(plan);
    }
});
