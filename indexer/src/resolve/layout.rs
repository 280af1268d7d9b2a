//! Structure layouts: which members are wanted from BTF.

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
