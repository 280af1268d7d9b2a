//! The resolver on real functions: every plan is kept as a snapshot, and functions that were changed
//! get a reason or the same plan, never another one.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_db::{BuildId, Cost, Event, Location, Plan, Reason, Reg};
use nfdrop_resolver::image::Function;
use nfdrop_resolver::resolve::{self, Findings};
use nfdrop_tests::{Extract, corpus, record};

fn some_id() -> BuildId {
    BuildId::from_bytes(&[0; 20]).unwrap()
}

fn extract(name: &str) -> Function {
    let found = corpus().unwrap().into_iter().find(|extract| extract.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in tests/corpus")).function
}

#[test]
fn every_extract_has_its_plan() {
    for Extract { name, function } in corpus().unwrap() {
        let record = record(&function, &some_id());
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!(name, record);
        });
    }
}

#[test]
fn the_published_listing_resolves_to_what_a_person_found() {
    let findings = resolve::resolve(&extract("arch-6.2.10-arch1-1")).unwrap();
    let rule: Vec<_> = findings.probes.iter().filter(|p| p.event == Event::RuleDrop).collect();
    let [probe] = rule[..] else { panic!("{} rule-drop probes, expected 1", rule.len()) };
    assert_eq!(probe.offset.0, 0x21b);
    assert_eq!(probe.rule, Some(Location::reg(Reg::R13)));
    assert_eq!(probe.pkt, Location::reg(Reg::R14));
    assert_eq!(probe.base_chain, Location::memory(Reg::Rsp, 0x10));
    let [condition] = probe.when[..] else { panic!("{:?}", probe.when) };
    assert_eq!(condition.to_string(), "rdx & 0xff == 0x0");
    assert!(findings.probes.iter().any(|p| p.event == Event::PolicyDrop));
}

#[test]
fn debian_kernels_from_6_1_on_have_drop_only_sites() {
    for Extract { name, function } in corpus().unwrap() {
        // 6.1 got its shape at .191: one block of its own for drops.
        let conditional = ["arch-6.2.10", "debian-5.10", "debian-6.1.0-47", "debian-6.1.0-0.deb11"];
        let conditional = conditional.iter().any(|old| name.starts_with(old));
        let findings =
            resolve::resolve(&function).unwrap_or_else(|error| panic!("{name}: {error}"));
        let drop_only = findings.probes.iter().all(|probe| probe.when.is_empty());
        assert_eq!(drop_only, !conditional, "{name}");
        let optimized = findings.probes.iter().all(|probe| probe.cost == Cost::Optimized);
        let old = conditional || name.contains("-6.1.");
        assert_eq!(optimized, !old, "{name}: kernels before 6.5 do not optimize here");
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    for Extract { name, function } in corpus().unwrap() {
        let [a, b] = [(); 2].map(|()| record(&function, &some_id()).to_bytes());
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn plans_are_valid() {
    for Extract { name, function } in corpus().unwrap() {
        let findings =
            resolve::resolve(&function).unwrap_or_else(|error| panic!("{name}: {error}"));
        let plan: Plan = findings.plan(some_id());
        plan.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// What 16 bytes in the middle of the function may be overwritten with.
const FILLS: [(&str, [u8; 16]); 5] = [
    ("zeros", [0; 16]),
    ("ones", [0xff; 16]),
    ("breakpoints", [0xcc; 16]),
    ("nops", [0x90; 16]),
    ("returns", [0xc3; 16]),
];

/// Overwrites 16 bytes of the function.
fn overwrite(function: &Function, offset: usize, fill: &[u8; 16]) -> Function {
    let mut function = function.clone();
    let part = &mut function.parts[0];
    let end = (offset + 16).min(part.bytes.len());
    part.bytes[offset..end].copy_from_slice(&fill[..end - offset]);
    function
}

#[test]
fn bytes_altered_in_the_middle_are_noticed() {
    for Extract { name, function } in corpus().unwrap() {
        if function.jump_labels.is_none() {
            // A bare listing: where its tables lead, and what the packet's structures are, is not
            // known, so that a part of it is not run.
            continue;
        }
        let middle = function.parts[0].bytes.len() / 2;
        for (fill_name, fill) in FILLS {
            let altered = overwrite(&function, middle, &fill);
            let result = resolve::resolve(&altered);
            assert!(result.is_err(), "{name}: {fill_name} at +{middle:#x} were not noticed");
        }
    }
}

/// The sites, without what only describes the build.
fn sites(findings: &Findings) -> String {
    serde_json::to_string(&findings.probes).unwrap()
}

#[test]
fn an_altered_function_never_gets_another_plan() {
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    for Extract { name, function } in corpus().unwrap() {
        let original = resolve::resolve(&function).map(|findings| sites(&findings)).unwrap();
        let size = function.parts[0].bytes.len();
        for offset in (0..size).step_by(48) {
            let (fill_name, fill) = FILLS[offset / 48 % FILLS.len()];
            match resolve::resolve(&overwrite(&function, offset, &fill)) {
                Ok(findings) => {
                    assert_eq!(sites(&findings), original, "{name}: {fill_name} at +{offset:#x}");
                    *outcomes.entry("the same plan".to_owned()).or_default() += 1;
                }
                Err(error) => *outcomes.entry(error.reason.to_string()).or_default() += 1,
            }
        }
    }
    println!("{outcomes:?}");
    assert!(outcomes.keys().any(|reason| reason == Reason::Diverged.name()), "{outcomes:?}");
}

#[test]
fn a_flipped_byte_never_gives_another_plan() {
    let mut random = resolve::random::Random::new(1);
    for Extract { name, function } in corpus().unwrap() {
        let original = resolve::resolve(&function).map(|findings| sites(&findings)).unwrap();
        for _ in 0..16 {
            let mut flipped = function.clone();
            let bytes = &mut flipped.parts[0].bytes;
            let offset = random.below(bytes.len() as u64) as usize;
            let flip = 1 + random.below(255) as u8;
            bytes[offset] ^= flip;
            if let Ok(findings) = resolve::resolve(&flipped) {
                let found = sites(&findings);
                // The bytes at a site are part of its probe.
                let at_site = findings.probes.iter().any(|probe| {
                    let start = probe.offset.0 as usize;
                    (start..start + probe.bytes.0.len()).contains(&offset)
                });
                assert!(at_site || found == original, "{name}: {flip:#x} at +{offset:#x}: {found}");
            }
        }
    }
}
