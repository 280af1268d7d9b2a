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
    /// In `struct nft_pktinfo`.
    pub pkt_state: u32,
    /// In `struct nf_hook_state`.
    pub state_net: u32,
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
}

/// `struct nft_cmp_fast_expr` and `struct nft_cmp16_fast_expr`, from the expression's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CmpAbi {
    /// u32 or four of them.
    pub data: u32,
    /// u32 or four of them.
    pub mask: u32,
    /// u8.
    pub sreg: u32,
    /// bool.
    pub inv: u32,
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
    /// In `struct nft_pktinfo`: the byte whose bit 0 says that the transport header is known.
    pub pkt_l4: u32,
    /// In `struct nft_pktinfo`: the transport header, from the network header.
    pub pkt_thoff: Field,
    /// In `struct sk_buff`, pointer.
    pub skb_head: u32,
    /// In `struct sk_buff`, pointer.
    pub skb_data: u32,
    /// In `struct sk_buff`, u32 from head.
    pub skb_tail: u32,
    /// In `struct sk_buff`, u16 from head.
    pub skb_network_header: u32,
}

/// No layout can be made of what the file tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("BTF has nf_tables' types, but {0} is missing or of an unexpected size")]
pub struct MissingField(&'static str);

impl Abi {
    /// The layouts to try: what BTF says, else every known shape.
    pub fn candidates(fields: &Fields) -> Result<Vec<Self>, MissingField> {
        if fields.contains_key("nft_pktinfo.skb") {
            return Ok(vec![Self::from_btf(fields)?]);
        }
        let mut candidates = Vec::new();
        for (name, rules, pkt_state) in [
            ("blob of rules (from 5.17)", RuleStore::Blob { size: 0, data: 8 }, 8),
            ("array of rules, state in pktinfo (5.14 to 5.16)", RuleStore::Array, 8),
            ("array of rules, state in xt (4.18 to 5.13)", RuleStore::Array, 32),
        ] {
            let full = Self::shape(name, rules, pkt_state, fields);
            // Inlined expressions had other operands before 5.12: the same without them.
            let plain = Self { cmp: None, cmp16: None, bitwise: None, payload: None, ..full };
            candidates.push(full);
            candidates.push(plain);
        }
        Ok(candidates)
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
            pkt_state: either("nft_pktinfo.state", "nft_pktinfo.xt.state")?,
            state_net: bytes("nf_hook_state.net")?,
            rule_handle: BitField { offset: 0, shift: 0, bits: 1 },
            rule_dlen: BitField { offset: 0, shift: 0, bits: 1 },
            rule_is_last: None,
            rule_data: 0,
            expr_data: bytes("nft_expr.data")?,
            ops_eval: bytes("nft_expr_ops.eval")?,
            ops_size: bytes("nft_expr_ops.size")?,
            verdict_code: verdict + bytes("nft_verdict.code")?,
            verdict_chain: verdict + bytes("nft_verdict.chain")?,
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
    fn shape(name: &'static str, rules: RuleStore, pkt_state: u32, fields: &Fields) -> Self {
        let field = |byte: u32, bytes: u32| Field { bit_offset: byte * 8, bit_size: bytes * 8 };
        let mut fields = fields.clone();
        let mut defaults = vec![
            ("nft_payload.base", field(0, 1)),
            ("nft_payload.offset", field(1, 1)),
            ("nft_payload.len", field(2, 1)),
            ("nft_payload.dreg", field(3, 1)),
        ];
        if pkt_state == 8 {
            defaults
                .extend([("nft_pktinfo.flags", field(16, 1)), ("nft_pktinfo.thoff", field(20, 2))]);
        } else {
            defaults.extend([
                ("nft_pktinfo.tprot_set", field(8, 1)),
                ("nft_pktinfo.xt.thoff", field(44, 4)),
            ]);
        }
        for (name, field) in defaults {
            fields.entry(name.to_owned()).or_insert(field);
        }
        let bit = |offset, shift, bits| BitField { offset, shift, bits };
        let blob = matches!(rules, RuleStore::Blob { .. });
        Self {
            source: LayoutSource::Shape,
            name,
            rules,
            chain_generations: [0, 8],
            policy: -16,
            pkt_skb: 0,
            pkt_state,
            state_net: 32,
            rule_handle: if blob { bit(0, 13, 42) } else { bit(16, 0, 42) },
            rule_dlen: if blob { bit(0, 1, 12) } else { bit(16, 44, 12) },
            rule_is_last: blob.then(|| bit(0, 0, 1)),
            rule_data: if blob { 8 } else { 24 },
            expr_data: 8,
            ops_eval: 0,
            ops_size: 16,
            verdict_code: 0,
            verdict_chain: 8,
            cmp: Some(CmpAbi { data: 0, mask: 4, sreg: 8, inv: 10 }),
            cmp16: Some(CmpAbi { data: 0, mask: 16, sreg: 32, inv: 34 }),
            bitwise: Some(BitwiseAbi { mask: 0, xor: 4, sreg: 8, dreg: 9 }),
            payload: payload(&fields),
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
        known(plan_fields::PKTINFO_STATE, self.pkt_state);
        known(plan_fields::STATE_NET, self.state_net);
        if self.source == LayoutSource::Shape {
            // `struct nft_chain` since 4.18: two generations, two list heads, an rhlist head.
            known(plan_fields::CHAIN_TABLE, 64);
            known(plan_fields::CHAIN_HANDLE, 72);
            known(plan_fields::CHAIN_NAME, 88);
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
        mask: member("mask", bits)?,
        sreg: member("sreg", 8)?,
        inv: member("inv", 8)?,
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
        pkt_l4: bytes("nft_pktinfo.flags").or_else(|| bytes("nft_pktinfo.tprot_set"))?,
        pkt_thoff: whole("nft_pktinfo.thoff").or_else(|| whole("nft_pktinfo.xt.thoff"))?,
        skb_head: bytes("sk_buff.head")?,
        skb_data: bytes("sk_buff.data")?,
        skb_tail: sized(fields, "sk_buff.tail", 32)?,
        skb_network_header: sized(fields, "sk_buff.network_header", 16)?,
    })
}
