//! The resolver on functions that other compilers, configurations and versions make: built from kernel
//! sources, without BTF. Their plans are kept as a listing, and a larger set of rulesets has to
//! confirm each.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing")]

use nfdrop_resolver::resolve::{self, check};
use nfdrop_tests::{Extract, variants};
use rayon::prelude::*;
use std::fmt::Write as _;

/// Of the larger set of rulesets.
const SEED: u64 = 0x7661_7269_616e_7473;
/// Random rulesets in it, besides the systematic ones.
const RANDOM_CASES: usize = 80;

/// A plan in a few lines: its probes, and which share of the edges was taken.
fn described(Extract { name, function }: &Extract) -> String {
    let findings = match resolve::resolve(function) {
        Ok(findings) => findings,
        Err(unresolved) => return format!("{name}\n    {unresolved}\n"),
    };
    let confirmed = check::check(function, &findings, SEED, RANDOM_CASES);
    confirmed.unwrap_or_else(|error| panic!("{name}: a larger set of rulesets says: {error}"));
    let edges = serde_json::to_string(&findings.evidence.edges).unwrap();
    let mut lines = format!("{name}: edges {edges}\n");
    for probe in &findings.probes {
        let when: Vec<String> = probe.when.iter().map(|when| format!(" if {when}")).collect();
        let rule = probe.rule.map_or_else(String::new, |rule| format!(", rule {rule}"));
        let (event, offset, cost, when) = (probe.event, probe.offset, probe.cost, when.concat());
        let (pkt, chain) = (probe.pkt, probe.base_chain);
        writeln!(lines, "    {event} {offset} {cost}{when}{rule}, pkt {pkt}, base chain {chain}")
            .unwrap();
    }
    lines
}

#[test]
fn every_variant_has_its_plan_and_more_rulesets_confirm_it() {
    let variants = variants().unwrap();
    assert!(variants.len() >= 30, "only {} variants", variants.len());
    let listing: Vec<String> = variants.par_iter().map(described).collect();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("variants", listing.concat());
    });
}
