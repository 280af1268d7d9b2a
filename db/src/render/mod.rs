//! A plan in the language of other tools, and a record for people. Nothing but what the plan says
//! goes into them: no kernel headers, no BTF and no installed nfdrop are needed to run them.

mod bpftrace;
mod html;
mod kprobe_events;
mod text;

pub use bpftrace::bpftrace;
pub use html::escape;
pub use kprobe_events::kprobe_events;
pub use text::text;

use crate::{Plan, Reg, plan::fields};

/// The register's name in `struct pt_regs`, which bpftrace and tracefs use: `rax` is `ax` there, `r8`
/// is `r8` (arch/x86/kernel/ptrace.c, `regoffset_table`).
fn pt_regs_name(reg: Reg) -> &'static str {
    let name = reg.name();
    match reg {
        Reg::R8 | Reg::R9 | Reg::R10 | Reg::R11 | Reg::R12 | Reg::R13 | Reg::R14 | Reg::R15 => name,
        _ => &name[1..],
    }
}

/// Offsets from `struct nft_pktinfo *` to the packet's length: of the pointer to the packet, and of
/// the length behind it. `None` where the plan does not tell.
fn packet_length(plan: &Plan) -> Option<(u32, u32)> {
    let offset = |name| plan.layout.offsets.get(name).copied();
    Some((offset(fields::PKTINFO_SKB)?, offset(fields::SKB_LEN)?))
}

/// What a plan without the packet's length says about that.
const NO_LENGTH: &str = "The packet's length is left out: this plan has no offset of sk_buff.len.";

#[cfg(test)]
mod tests;
