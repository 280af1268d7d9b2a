//! Structure layouts: which members are wanted from BTF, what BTF's absence is filled with, and what
//! of it a plan carries.

use crate::image::function::{Field, Fields};
use nfdrop_db::plan::fields as plan_fields;
use nfdrop_db::{BitField, Layout, LayoutSource};
use std::collections::BTreeMap;

/// Members wanted from BTF, as `struct.member`; several names stand for one member where kernels
/// differ. Absent ones are no error.
pub const WANTED: &[&str] = &[
    "nft_pktinfo.skb",
    "nft_pktinfo.state",
    "nft_pktinfo.xt.state",
    "nft_pktinfo.flags",
    "nft_pktinfo.tprot_set",
    "nft_pktinfo.tprot",
    "nft_pktinfo.fragoff",
    "nft_pktinfo.thoff",
    "nft_pktinfo.xt.thoff",
    "nft_pktinfo.inneroff",
    "nft_base_chain.chain",
    "nft_base_chain.policy",
    "nft_chain.blob_gen_0",
    "nft_chain.blob_gen_1",
    "nft_chain.rules_gen_0",
    "nft_chain.rules_gen_1",
    "nft_chain.table",
    "nft_chain.name",
    "nft_chain.handle",
    "nft_table.name",
    "nft_table.handle",
    "nft_table.family",
    "nft_rule.handle",
    "nft_rule.dlen",
    "nft_rule.data",
    "nft_rule_blob.size",
    "nft_rule_blob.data",
    "nft_rule_dp.is_last",
    "nft_rule_dp.dlen",
    "nft_rule_dp.handle",
    "nft_rule_dp.data",
    "nft_rule_dp_last.chain",
    "nft_expr.ops",
    "nft_expr.data",
    "nft_expr_ops.eval",
    "nft_expr_ops.size",
    "nft_regs.verdict",
    "nft_regs.data",
    "nft_verdict.code",
    "nft_verdict.chain",
    "nft_cmp_fast_expr.data",
    "nft_cmp_fast_expr.mask",
    "nft_cmp_fast_expr.sreg",
    "nft_cmp_fast_expr.len",
    "nft_cmp_fast_expr.inv",
    "nft_cmp16_fast_expr.data",
    "nft_cmp16_fast_expr.mask",
    "nft_cmp16_fast_expr.sreg",
    "nft_cmp16_fast_expr.len",
    "nft_cmp16_fast_expr.inv",
    "nft_bitwise_fast_expr.mask",
    "nft_bitwise_fast_expr.xor",
    "nft_bitwise_fast_expr.sreg",
    "nft_bitwise_fast_expr.dreg",
    "nft_payload.base",
    "nft_payload.offset",
    "nft_payload.len",
    "nft_payload.dreg",
    "nf_hook_state.hook",
    "nf_hook_state.pf",
    "nf_hook_state.in",
    "nf_hook_state.out",
    "nf_hook_state.net",
    "net.ns.inum",
    "net.nft.gencursor",
    "net_device.ifindex",
    "net_device.name",
    "sk_buff.len",
    "sk_buff.data_len",
    "sk_buff.mark",
    "sk_buff.protocol",
    "sk_buff.head",
    "sk_buff.data",
    "sk_buff.end",
    "sk_buff.tail",
    "sk_buff.mac_header",
    "sk_buff.network_header",
    "sk_buff.transport_header",
    "sk_buff.vlan_proto",
    "sk_buff.vlan_tci",
    "sk_buff.nf_trace",
];

/// What the resolver does with a function that `nft_do_chain` calls. The loader takes along the
/// code of those that are [`Callee::Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Callee {
    /// Part of the function by another name (`.cold`, a fast path that was not inlined): run.
    Run,
    /// An expression's `eval`: replaced by the world's own, which writes a chosen verdict.
    Expression,
    /// Anything else: clobbers the caller-saved registers and returns garbage.
    Opaque,
}

/// What the resolver does with the local function of this name.
pub fn callee(name: &str) -> Callee {
    // Suffixes such as .isra.0, .constprop.0 and .part.0 are the compiler's.
    let base = name.split('.').next().unwrap_or(name);
    if base == "nft_do_chain" {
        return Callee::Run;
    }
    let inlined = [
        "nft_cmp_fast_eval",
        "nft_cmp16_fast_eval",
        "nft_bitwise_fast_eval",
        "nft_payload_fast_eval",
        "expr_call_ops_eval",
        "nft_rule_next",
    ];
    if inlined.contains(&base) {
        return Callee::Run;
    }
    if base.starts_with("nft_") && base.ends_with("_eval") {
        return Callee::Expression;
    }
    Callee::Opaque
}

/// Everything a run needs to lay out a ruleset as the kernel does. Offsets in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abi {
    /// Where it comes from.
    pub source: LayoutSource,
    /// A name for messages.
    pub name: &'static str,
    /// How a chain's rules are kept.
    pub rules: RuleStore,
    /// In `struct nft_chain`: the rules of generation 0 and 1.
    pub chain_generations: [u32; 2],
    /// From the `struct nft_chain` of a base chain to its `u8` policy.
    pub policy: i32,
    /// In `struct nft_pktinfo`.
    pub pkt_skb: u32,
    /// Where the function finds the network namespace.
    pub net: NetSource,
    /// What its second argument is.
    pub entry: Entry,
    /// Verdicts and ends that the version does not have, and rulesets do without.
    pub lacks: Lacks,
    /// The rule's handle, from the rule pointer.
    pub rule_handle: BitField,
    /// Bytes of the rule's expressions.
    pub rule_dlen: BitField,
    /// The marker at the end of a blob.
    pub rule_is_last: Option<BitField>,
    /// The first expression, from the rule pointer.
    pub rule_data: u32,
    /// In `struct nft_expr`.
    pub expr_data: u32,
    /// In `struct nft_expr_ops`.
    pub ops_eval: u32,
    /// In `struct nft_expr_ops`, u32.
    pub ops_size: u32,
    /// In `struct nft_regs`, u32.
    pub verdict_code: u32,
    /// In `struct nft_regs`.
    pub verdict_chain: u32,
    /// `eval` functions that were inlined at link time, by name: what their operands mean is not known,
    /// and rulesets do without them.
    pub inlined_evals: Vec<String>,
    /// Inlined expressions.
    pub cmp: Option<CmpAbi>,
    /// Inlined expressions.
    pub cmp16: Option<CmpAbi>,
    /// Inlined expressions.
    pub bitwise: Option<BitwiseAbi>,
    /// Inlined expressions.
    pub payload: Option<PayloadAbi>,
}

/// How a chain's rules are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleStore {
    /// From 5.17: `struct nft_rule_blob` with this offset of its data.
    Blob {
        /// `u64`: bytes of all rules.
        size: u32,
        /// The first rule.
        data: u32,
    },
    /// 4.18 to 5.16: a NULL-terminated array of `struct nft_rule *`.
    Array,
    /// Before 4.18: a list of `struct nft_rule`, of both generations; `struct nft_chain` and
    /// `struct nft_rule` begin with the list's head and node.
    List {
        /// In a rule, two bits: bit n says that it is not in generation n.
        genmask: BitField,
    },
}

/// Where the function finds the network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetSource {
    /// From 4.10: in the `struct nf_hook_state` that the pktinfo points to.
    State {
        /// In `struct nft_pktinfo`.
        pkt: u32,
        /// In `struct nf_hook_state`.
        net: u32,
    },
    /// 4.4 to 4.9: in `struct nft_pktinfo`.
    Pkt(u32),
    /// Before: from the `struct nft_chain` of the base chain.
    Chain(i32),
}

/// What the second argument of `nft_do_chain` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// From 4.4: `void *priv`, the base chain.
    Chain,
    /// Before: `const struct nf_hook_ops *` with the base chain at this offset (`priv`).
    Ops(u32),
}

/// What a version lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacks {
    /// `NF_STOLEN` as a rule's verdict: a warning before 4.9.
    pub stolen: bool,
    /// A way on when the jump stack overflows: `BUG_ON` before 4.2.
    pub overflow: bool,
    /// Registers of 32 bits: before 4.1 they have 128, and operands number those.
    pub words: bool,
}

/// `struct nft_cmp_fast_expr` and `struct nft_cmp16_fast_expr`, from the expression's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmpAbi {
    /// u32 or four of them.
    pub data: u32,
    /// Which bits are compared.
    pub mask: CmpMask,
    /// u8.
    pub sreg: u32,
    /// bool, from 5.12 on.
    pub inv: Option<u32>,
}

/// Which bits a comparison compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpMask {
    /// Those set in a u32, or four of them, at this offset.
    Stored(u32),
    /// So many, from the lowest on: a u8 (before 5.12).
    Length(u32),
}

/// `struct nft_bitwise_fast_expr`, from the expression's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitwiseAbi {
    /// u32.
    pub mask: u32,
    /// u32.
    pub xor: u32,
    /// u8.
    pub sreg: u32,
    /// u8.
    pub dreg: u32,
}

/// `struct nft_payload`, from the expression's data, and what of the packet it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadAbi {
    /// u8.
    pub base: u32,
    /// u8 or, in newer kernels, u16.
    pub offset: Field,
    /// u8.
    pub len: u32,
    /// u8.
    pub dreg: u32,
    /// In `struct nft_pktinfo`: the byte whose bit 0 says that the transport header is known; before
    /// 4.9 it always is.
    pub pkt_l4: Option<u32>,
    /// In `struct nft_pktinfo`: the transport header, from the network header.
    pub pkt_thoff: Field,
    /// In `struct sk_buff`, pointer.
    pub skb_head: u32,
    /// In `struct sk_buff`, pointer; the transport header is counted from it in some versions.
    pub skb_data: Option<u32>,
    /// In `struct sk_buff`, u32 from head.
    pub skb_tail: u32,
    /// In `struct sk_buff`, u16 from head.
    pub skb_network_header: u32,
}

/// Where the inlined payload expression reads `struct sk_buff` and `struct nft_pktinfo`: seen, where
/// no BTF tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFields {
    /// As in [`PayloadAbi`].
    pub l4: Option<u32>,
    /// As in [`PayloadAbi`].
    pub thoff: Field,
    /// As in [`PayloadAbi`].
    pub head: u32,
    /// As in [`PayloadAbi`].
    pub data: Option<u32>,
    /// As in [`PayloadAbi`].
    pub tail: u32,
    /// As in [`PayloadAbi`].
    pub network_header: u32,
}

/// No layout can be made of what the file tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("BTF has nf_tables' types, but {0} is missing or of an unexpected size")]
pub struct MissingField(&'static str);

impl Abi {
    /// The layouts to try: what BTF says, else every known shape. Shapes come without inlined
    /// expressions, which [`Abi::inlined`] has.
    pub fn candidates(fields: &Fields) -> Result<Vec<Self>, MissingField> {
        if fields.contains_key("nft_pktinfo.skb") {
            return Ok(vec![Self::from_btf(fields)?]);
        }
        let blob = RuleStore::Blob { size: 0, data: 8 };
        let list = RuleStore::List { genmask: BitField { offset: 16, shift: 42, bits: 2 } };
        let state = |pkt| NetSource::State { pkt, net: 32 };
        let old = Lacks { stolen: true, ..Lacks::default() };
        let older = Lacks { overflow: true, ..old };
        let oldest = Lacks { words: true, ..older };
        let shape = |name, rules, net| Self::shape(name, rules, net);
        let with = |abi: Self, entry, lacks| Self { entry, lacks, ..abi };
        Ok(vec![
            shape("blob of rules (from 5.17)", blob, state(8)),
            shape("array of rules, state in pktinfo (5.14 to 5.16)", RuleStore::Array, state(8)),
            shape("array of rules, state in xt (4.18 to 5.13)", RuleStore::Array, state(32)),
            shape("list of rules, state in xt (4.10 to 4.17)", list, state(32)),
            with(
                shape("list of rules, net in pktinfo (4.4 to 4.9)", list, NetSource::Pkt(8)),
                Entry::Chain,
                old,
            ),
            with(
                shape("list of rules, net in base chain (4.1 to 4.3)", list, NetSource::Chain(-32)),
                Entry::Ops(32),
                older,
            ),
            with(
                shape("list of rules, net in chain (3.16 to 4.0)", list, NetSource::Chain(32)),
                Entry::Ops(32),
                oldest,
            ),
        ])
    }

    /// The known layouts of inlined expressions: of each kind all versions, newest first. Those of the
    /// packet are given the members of `struct sk_buff` and `struct nft_pktinfo` that were seen used.
    pub fn inlined(&self, seen: &[PacketFields]) -> [Vec<Self>; 4] {
        let with = |change: &dyn Fn(&mut Self)| {
            let mut abi = self.clone();
            change(&mut abi);
            abi
        };
        let byte = |byte: u32, bytes: u32| Field { bit_offset: byte * 8, bit_size: bytes * 8 };
        let bitwise = BitwiseAbi { mask: 0, xor: 4, sreg: 8, dreg: 9 };
        let cmp = CmpAbi { data: 0, mask: CmpMask::Stored(4), sreg: 8, inv: Some(10) };
        let older = CmpAbi { data: 0, mask: CmpMask::Length(5), sreg: 4, inv: None };
        let cmp16 = CmpAbi { data: 0, mask: CmpMask::Stored(16), sreg: 32, inv: Some(34) };
        // `offset` is a u16 from 7.2 on.
        let operands = [(byte(1, 1), 2), (byte(2, 2), 4)].into_iter();
        let payloads = operands.flat_map(|operands| seen.iter().map(move |seen| (operands, seen)));
        let payloads = payloads.map(|((offset, len), seen)| PayloadAbi {
            base: 0,
            offset,
            len,
            dreg: len + 1,
            pkt_l4: seen.l4,
            pkt_thoff: seen.thoff,
            skb_head: seen.head,
            skb_data: seen.data,
            skb_tail: seen.tail,
            skb_network_header: seen.network_header,
        });
        [
            vec![with(&|abi| abi.bitwise = Some(bitwise))],
            payloads.map(|payload| with(&|abi| abi.payload = Some(payload))).collect(),
            [cmp, older].map(|cmp| with(&|abi| abi.cmp = Some(cmp))).into(),
            vec![with(&|abi| abi.cmp16 = Some(cmp16))],
        ]
    }

    fn from_btf(fields: &Fields) -> Result<Self, MissingField> {
        let bytes = |name: &'static str| {
            fields.get(name).and_then(|f| f.byte_offset()).ok_or(MissingField(name))
        };
        let either = |a: &'static str, b: &'static str| bytes(a).or_else(|_| bytes(b));
        let bits = |name: &'static str| {
            let field = fields.get(name).ok_or(MissingField(name))?;
            bit_field(*field).ok_or(MissingField(name))
        };
        let blob = fields.contains_key("nft_chain.blob_gen_0");
        let verdict = bytes("nft_regs.verdict")?;
        let chain = bytes("nft_base_chain.chain")?;
        let policy = bytes("nft_base_chain.policy")?;
        let mut abi = Self {
            source: LayoutSource::Btf,
            name: "BTF",
            rules: RuleStore::Array,
            chain_generations: [0, 8],
            policy: policy as i32 - chain as i32,
            pkt_skb: bytes("nft_pktinfo.skb")?,
            net: NetSource::State {
                pkt: either("nft_pktinfo.state", "nft_pktinfo.xt.state")?,
                net: bytes("nf_hook_state.net")?,
            },
            entry: Entry::Chain,
            lacks: Lacks::default(),
            rule_handle: BitField { offset: 0, shift: 0, bits: 1 },
            rule_dlen: BitField { offset: 0, shift: 0, bits: 1 },
            rule_is_last: None,
            rule_data: 0,
            expr_data: bytes("nft_expr.data")?,
            ops_eval: bytes("nft_expr_ops.eval")?,
            ops_size: bytes("nft_expr_ops.size")?,
            verdict_code: verdict + bytes("nft_verdict.code")?,
            verdict_chain: verdict + bytes("nft_verdict.chain")?,
            inlined_evals: Vec::new(),
            cmp: cmp(fields, "nft_cmp_fast_expr", 32),
            cmp16: cmp(fields, "nft_cmp16_fast_expr", 128),
            bitwise: bitwise(fields),
            payload: payload(fields),
        };
        if bytes("nft_expr.ops")? != 0 {
            return Err(MissingField("nft_expr.ops"));
        }
        if blob {
            abi.rules = RuleStore::Blob {
                size: bytes("nft_rule_blob.size")?,
                data: bytes("nft_rule_blob.data")?,
            };
            abi.chain_generations =
                [bytes("nft_chain.blob_gen_0")?, bytes("nft_chain.blob_gen_1")?];
            abi.rule_handle = bits("nft_rule_dp.handle")?;
            abi.rule_dlen = bits("nft_rule_dp.dlen")?;
            abi.rule_is_last = Some(bits("nft_rule_dp.is_last")?);
            abi.rule_data = bytes("nft_rule_dp.data")?;
        } else {
            abi.chain_generations =
                [bytes("nft_chain.rules_gen_0")?, bytes("nft_chain.rules_gen_1")?];
            abi.rule_handle = bits("nft_rule.handle")?;
            abi.rule_dlen = bits("nft_rule.dlen")?;
            abi.rule_data = bytes("nft_rule.data")?;
        }
        Ok(abi)
    }

    /// As `include/net/netfilter/nf_tables.h` has it in the named versions, on a 64-bit kernel.
    fn shape(name: &'static str, rules: RuleStore, net: NetSource) -> Self {
        let bit = |offset, shift, bits| BitField { offset, shift, bits };
        let blob = matches!(rules, RuleStore::Blob { .. });
        Self {
            source: LayoutSource::Shape,
            name,
            rules,
            chain_generations: [0, 8],
            policy: -16,
            pkt_skb: 0,
            net,
            entry: Entry::Chain,
            lacks: Lacks::default(),
            rule_handle: if blob { bit(0, 13, 42) } else { bit(16, 0, 42) },
            rule_dlen: if blob { bit(0, 1, 12) } else { bit(16, 44, 12) },
            rule_is_last: blob.then(|| bit(0, 0, 1)),
            rule_data: if blob { 8 } else { 24 },
            expr_data: 8,
            ops_eval: 0,
            ops_size: 16,
            verdict_code: 0,
            verdict_chain: 8,
            inlined_evals: Vec::new(),
            cmp: None,
            cmp16: None,
            bitwise: None,
            payload: None,
        }
    }

    /// The part of the layout that goes into plans.
    pub fn plan_layout(&self, fields: &Fields) -> Layout {
        let mut offsets = BTreeMap::new();
        for name in plan_fields::ALL {
            let older =
                if name == plan_fields::PKTINFO_STATE { "nft_pktinfo.xt.state" } else { name };
            let field = fields.get(name).or_else(|| fields.get(older));
            if let Some(offset) = field.and_then(|field| field.byte_offset()) {
                offsets.insert(name.to_owned(), offset);
            }
        }
        let mut known = |name: &str, offset: u32| {
            offsets.entry(name.to_owned()).or_insert(offset);
        };
        // What the runs have confirmed.
        known(plan_fields::PKTINFO_SKB, self.pkt_skb);
        if let Ok(distance) = u32::try_from(-i64::from(self.policy)) {
            known(plan_fields::POLICY_TO_CHAIN, distance);
        }
        if let NetSource::State { pkt, net } = self.net {
            known(plan_fields::PKTINFO_STATE, pkt);
            known(plan_fields::STATE_NET, net);
        }
        if self.source == LayoutSource::Shape {
            match (self.rules, self.net) {
                // `struct nft_chain` since 4.18: two generations, two list heads, an rhlist head.
                (RuleStore::Blob { .. } | RuleStore::Array, _) => {
                    known(plan_fields::CHAIN_TABLE, 64);
                    known(plan_fields::CHAIN_HANDLE, 72);
                    known(plan_fields::CHAIN_NAME, 88);
                }
                // Before: two list heads, up to 4.3 the net. The name is a pointer in some only.
                (RuleStore::List { .. }, net) => {
                    let table = if net == NetSource::Chain(32) { 40 } else { 32 };
                    known(plan_fields::CHAIN_TABLE, table);
                    known(plan_fields::CHAIN_HANDLE, table + 8);
                }
            }
        }
        Layout { source: self.source, rule_handle: self.rule_handle, offsets }
    }
}

fn bit_field(field: Field) -> Option<BitField> {
    let bits = u8::try_from(field.bit_size).ok().filter(|bits| (1..=64).contains(bits))?;
    let shift = (field.bit_offset % 64) as u8;
    (shift + bits <= 64).then_some(BitField { offset: field.bit_offset / 64 * 8, shift, bits })
}

/// A member's byte offset, if it has the expected size in bits.
fn sized(fields: &Fields, name: &str, bits: u32) -> Option<u32> {
    let field = fields.get(name)?;
    (field.bit_size == bits).then(|| field.byte_offset())?
}

fn cmp(fields: &Fields, name: &str, bits: u32) -> Option<CmpAbi> {
    let member = |member: &str, bits| sized(fields, &format!("{name}.{member}"), bits);
    Some(CmpAbi {
        data: member("data", bits)?,
        mask: CmpMask::Stored(member("mask", bits)?),
        sreg: member("sreg", 8)?,
        inv: Some(member("inv", 8)?),
    })
}

fn bitwise(fields: &Fields) -> Option<BitwiseAbi> {
    let member =
        |member: &str, bits| sized(fields, &format!("nft_bitwise_fast_expr.{member}"), bits);
    Some(BitwiseAbi {
        mask: member("mask", 32)?,
        xor: member("xor", 32)?,
        sreg: member("sreg", 8)?,
        dreg: member("dreg", 8)?,
    })
}

fn payload(fields: &Fields) -> Option<PayloadAbi> {
    let bytes = |name: &str| fields.get(name)?.byte_offset();
    let whole = |name: &str| {
        let field = *fields.get(name)?;
        (field.byte_offset().is_some() && matches!(field.bit_size, 8 | 16 | 32)).then_some(field)
    };
    Some(PayloadAbi {
        base: sized(fields, "nft_payload.base", 8)?,
        offset: whole("nft_payload.offset")?,
        len: sized(fields, "nft_payload.len", 8)?,
        dreg: sized(fields, "nft_payload.dreg", 8)?,
        pkt_l4: Some(bytes("nft_pktinfo.flags").or_else(|| bytes("nft_pktinfo.tprot_set"))?),
        pkt_thoff: whole("nft_pktinfo.thoff").or_else(|| whole("nft_pktinfo.xt.thoff"))?,
        skb_head: bytes("sk_buff.head")?,
        skb_data: Some(bytes("sk_buff.data")?),
        skb_tail: sized(fields, "sk_buff.tail", 32)?,
        skb_network_header: sized(fields, "sk_buff.network_header", 16)?,
    })
}
