//! Plans for this crate's tests.

use crate::{
    BitField, BuildId, Condition, FnOffset, HexBytes, LayoutSource, Location, Plan, Probe, Reg,
    plan::fields, sample,
};

/// Debian's 6.12.117+deb13-cloud-amd64, but for the body's hash and the evidence: what its scripts
/// print was seen on that kernel.
pub(crate) fn plan() -> Plan {
    sample::plan("d1dc1d6d4a4b24407eebf424adbeefc47f1d5501".parse().unwrap())
}

/// As in 5.10: two sites for rule drops with a condition, an older rule, no BTF.
pub(crate) fn conditional_plan() -> Plan {
    let mut plan = plan();
    plan.build_id = BuildId::from_bytes(&[0x5a; 20]).unwrap();
    plan.layout.source = LayoutSource::Shape;
    plan.layout.rule_handle = BitField { offset: 16, shift: 0, bits: 42 };
    plan.layout.offsets = [(fields::PKTINFO_SKB.to_owned(), 0)].into();
    let verdict = Condition { value: Location::reg(Reg::Rdx), mask: 0xff, equals: 0 };
    let code = Condition {
        value: Location::memory(Reg::Rsp, 0x40),
        mask: 0x8000_0000_0000_00f0,
        equals: 0x8000_0000_0000_0010,
    };
    let first = Probe {
        when: vec![verdict],
        offset: FnOffset(0x3bf),
        bytes: HexBytes(b"\xf6\xc2\xfc".to_vec()),
        rule: Some(Location { reg: Reg::Rbx, deref: None, add: Some(-8) }),
        base_chain: Location::memory(Reg::Rsp, 0x10),
        ..plan.probes[0].clone()
    };
    let second = Probe { when: vec![verdict, code], offset: FnOffset(0x47a), ..first.clone() };
    plan.probes.splice(..1, [first, second]);
    plan
}
