//! Made-up but valid records for tests of the crates that hand plans on. Behind the feature
//! `test-util`: nothing here comes from a kernel, so nothing here may reach one.

use crate::{
    Arch, BitField, BuildId, Cost, Drops, Event, Evidence, FnOffset, HexBytes, Layout,
    LayoutSource, Location, Machine, Method, Observed, Part, Plan, Probe, Proof, Reason, Record,
    Reg, SCENARIO, SCHEMA, SYMBOL, SetProbe, Share, plan::fields,
};

/// A valid plan for this build: one drop-only probe per event, where Debian's
/// 6.12.117+deb13-cloud-amd64 has them.
pub fn plan(build_id: BuildId) -> Plan {
    let probe = |event, offset, rule| Probe {
        event,
        offset: FnOffset(offset),
        bytes: HexBytes(vec![0x48, 0x8b, 0x75, 0x00]),
        cost: Cost::Optimized,
        when: vec![],
        rule,
        pkt: Location::reg(Reg::Rbp),
        base_chain: Location::memory(Reg::Rsp, 0),
    };
    let offsets = [
        (fields::PKTINFO_SKB, 0),
        (fields::PKTINFO_STATE, 8),
        (fields::CHAIN_NAME, 88),
        (fields::SKB_LEN, 112),
    ];
    Plan {
        schema: SCHEMA,
        build_id,
        object: "nf_tables".to_owned(),
        arch: Arch::X86_64,
        symbol: SYMBOL.to_owned(),
        symbol_size: 1569,
        body_sha256: HexBytes((0..32).collect()),
        probes: vec![
            probe(Event::RuleDrop, 0x3fe, Some(Location::reg(Reg::R14))),
            probe(Event::PolicyDrop, 0x5bc, None),
        ],
        layout: Layout {
            source: LayoutSource::Btf,
            rule_handle: BitField { offset: 0, shift: 13, bits: 42 },
            offsets: offsets.map(|(name, offset)| (name.to_owned(), offset)).into(),
        },
        evidence: Evidence {
            method: Method::Executed,
            runs: 1200,
            rule_drops: 488,
            policy_drops: 288,
            edges: Share::of(97, 100),
            analyzer: "0.1.0".to_owned(),
        },
    }
}

/// The record of a build with [`plan()`].
pub fn resolved(build_id: BuildId) -> Record {
    Record::resolved(plan(build_id))
}

/// The record of a build without a plan.
pub fn unresolved(build_id: BuildId) -> Record {
    Record::unresolved(build_id, Reason::NoSite, "no set of sites sees every drop exactly once")
}

/// A proof of the plan in this record.
///
/// # Panics
/// Where there is none.
pub fn proof(record: &Record) -> Proof {
    let plan = record.plan.as_ref().expect("a sample with a plan");
    let drops = Drops { rule_drop: 40, policy_drop: 8 };
    let probes = plan.probes.iter().map(|probe| SetProbe {
        offset: probe.offset,
        cost: probe.cost,
        kernel_says: "[OPTIMIZED]".to_owned(),
    });
    let observed = Observed {
        scenario: SCENARIO,
        parts: vec![Part::Base, Part::Jump, Part::Policy, Part::Accept],
        left_out: vec![],
        expected: drops,
        seen: drops,
        missed: 0,
        probes: probes.collect(),
        contradictions: vec![],
    };
    let [qemu, cpu, accel] = ["7.2.22", "EPYC", "tcg"].map(str::to_owned);
    Proof::of(plan, observed, Machine { qemu, cpu, accel })
}

/// This record as a crawl would store it: found in the signed package of a kernel of this release.
#[cfg(feature = "sqlite")]
pub fn kernel(record: Record, release: &str) -> crate::store::KernelOutcome {
    use crate::store::{Build, Kernel, KernelOutcome, Outcome, Package};
    let name = format!("linux-image-{release}");
    // One package per release: its hash is made of its name.
    let mut sha256 = crate::hex::encode(name.as_bytes());
    sha256 = sha256.chars().rev().chain("0".repeat(64).chars()).take(64).collect();
    let url = format!("https://mirror.example/pool/{name}.deb");
    KernelOutcome {
        kernel: Kernel {
            distro: "debian".to_owned(),
            suite: "trixie".to_owned(),
            release: release.to_owned(),
            version: "6.12.117-1".to_owned(),
            arch: "amd64".to_owned(),
            signed_by: Some("B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8".to_owned()),
            packages: vec![Package {
                name: name.clone(),
                url,
                sha256: Some(sha256),
                by_hash: true,
                transport_only: false,
            }],
        },
        outcome: Outcome::Build(Box::new(Build {
            record,
            object: "nf_tables".to_owned(),
            arch: "x86_64".to_owned(),
            analyzer: "0.1.0".to_owned(),
            input: None,
            package: name,
            vmlinux_build_id: None,
            listing: None,
        })),
        indexed_at: 1_763_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_valid_records() {
        let build_id: BuildId = "0484cf00".parse().unwrap();
        for record in [resolved(build_id.clone()), unresolved(build_id)] {
            assert_eq!(Record::parse_canonical(&record.to_bytes()), Ok(record));
        }
    }
}
