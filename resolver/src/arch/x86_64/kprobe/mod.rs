//! The kernel's rules for kprobes on x86: which instructions it refuses, single-steps, boosts or
//! replaces by a jump.
//!
//! Read in arch/x86/kernel/kprobes/core.c (`can_probe`, `prepare_emulation`, `can_boost`,
//! `prepare_singlestep`) and opt.c (`can_optimize`, `copy_optimized_instructions`) of 4.19, 5.10.13,
//! 5.10.262, 6.1.192, 6.12.117, 6.18.15 and 7.3.4; [`Era`] names what changed in between.
//!
//! Two things are not the kernel's rules, but ours:
//!
//! - **Never faster than promised.** Where the outcome depends on what is not known here (the
//!   version, the mitigations chosen at boot), the class is the slowest possible one.
//! - **Never where the kernel harms itself.** `can_optimize` looks for jumps into the bytes it
//!   replaces in the function's own code as it is at that time. It sees neither what jumps back from
//!   the cold part, nor a static key's jump that is a nop now. A probe whose replacement would have
//!   such a target inside is none.

mod boost;
mod era;

pub use era::Era;

use crate::image::function::{Function, KeepOff, Part, PartKind, Patched, RelocationKind, SYMBOL};
use crate::resolve::link::{Decoded, Linked};
use crate::resolve::memory::Address;
use boost::can_boost;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};
use nfdrop_db::Cost;
use std::ops::Range;

/// Bytes of the jump that replaces an optimized probe's instructions.
const JUMP_SIZE: u32 = 5;
/// Most bytes of a boosted instruction: with the jump behind it, it has to fit `MAX_INSN_SIZE`, 15.
const MAX_BOOSTED: usize = 10;

/// What of a function decides about probes.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    function: &'a Function,
    /// Instructions of the function itself, by offset.
    instructions: Vec<(Range<u32>, Instruction)>,
    /// Offsets that branches of the function's own code lead to.
    targets: Vec<u32>,
    /// Offsets that are reached in ways the kernel does not look for.
    hidden: Vec<u32>,
    /// Instructions that `can_boost` accepts are boosted.
    boosts: bool,
    /// Nothing of the function as a whole prevents optimization.
    optimizes: bool,
    /// Since opcode groups 2 to 5 may be boosted.
    groups: bool,
    /// From here on the kernel does not find the instructions' boundaries.
    lost: u32,
}

impl<'a> Rules<'a> {
    /// Of a function linked in any state of its static keys.
    pub fn new(function: &'a Function, linked: &Linked) -> Self {
        let era = Era::of(function.release.as_deref());
        let base = linked.parts[0].0.0;
        let own = |decoded: &&Decoded| decoded.place.part == 0;
        let mut instructions: Vec<_> = linked
            .instructions
            .iter()
            .filter(own)
            .map(|Decoded { place, instruction }| {
                (place.offset..place.offset + instruction.len() as u32, instruction.0)
            })
            .collect();
        instructions.sort_by_key(|(range, _)| range.start);
        let offset = |address: u64| u32::try_from(address.wrapping_sub(base)).ok();
        let branches = |own: bool| {
            let of = move |decoded: &&Decoded| (decoded.place.part == 0) == own;
            let branches =
                linked.instructions.iter().filter(of).map(|decoded| decoded.instruction.0);
            branches.filter(is_branch).filter_map(|i| offset(i.near_branch_target()))
        };
        let targets = branches(true).collect();
        let labels = function.jump_labels.iter().flatten().map(|label| label.target);
        let labels = labels.filter(|target| target.part == 0).map(|target| target.offset);
        let hidden = labels.chain(branches(false)).chain(tables(&function.parts)).collect();
        let thunk = |i: &Instruction| {
            let name = linked.name_at(Address(i.near_branch_target())).filter(|_| is_branch(i));
            name.is_some_and(|name| name.starts_with("__x86_"))
        };
        let all = || instructions.iter().map(|(_, instruction)| instruction);
        let indirect = all().any(|i| i.flow_control() == FlowControl::IndirectBranch);
        let lost = lost_boundaries(function, &instructions).unwrap_or(u32::MAX);
        let jumps_anywhere = if era >= Era::TrustsRetpolines {
            indirect && !has_no_jump_tables(function, &instructions)
        } else {
            indirect || all().any(thunk)
        };
        let preemption = function.preemption != Some(false);
        // Of a bare listing nothing is known but the code.
        let tables_unknown = function.jump_labels.is_none();
        Self {
            optimizes: !function.has_exception_entries
                && !tables_unknown
                && !jumps_anywhere
                && (!preemption || era >= Era::OptimizesPreemptible)
                && (!era.stops_at_int3() || lost == u32::MAX),
            // One of the entries may be this very instruction's.
            boosts: !preemption && !function.has_exception_entries && !tables_unknown,
            groups: era >= Era::BoostsGroups,
            lost: if era.stops_at_int3() { lost } else { u32::MAX },
            function,
            instructions,
            targets,
            hidden,
        }
    }

    /// The instruction at an offset of the function, if a probe may be put there: the kernel takes it
    /// and comes to no harm, nothing patches the instruction, nothing refers to it, and its bytes in
    /// memory are those in the file.
    pub fn probe_site(&self, offset: u32) -> Option<&Instruction> {
        let index = self.index(offset)?;
        let (range, instruction) = &self.instructions[index];
        let overlaps = |other: &Range<u32>| other.start < range.end && range.start < other.end;
        let kept_off = |keep: &KeepOff| overlaps(&keep.range);
        let relocated = self.function.parts[0].relocations.iter().any(|relocation| {
            overlaps(&(relocation.offset..relocation.offset + relocation.kind.size()))
        });
        let refused = offset == 0
            || offset >= self.lost
            || self.function.keep_off.iter().any(kept_off)
            || relocated
            || is_refused(instruction)
            || self.is_cfi_check(index)
            || self.may_be_entered_unseen(index);
        (!refused).then_some(instruction)
    }

    /// How cheaply the kernel runs a probe at an offset, where [`Rules::probe_site`] allows one.
    pub fn cost(&self, offset: u32) -> Cost {
        let Some(index) = self.index(offset) else { return Cost::Trap };
        if self.optimizes && self.is_replaceable(index) {
            return Cost::Optimized;
        }
        let bytes = self.bytes(index);
        if self.boosts && bytes.len() <= MAX_BOOSTED && can_boost(bytes, self.groups) {
            Cost::Boosted
        } else {
            Cost::Trap
        }
    }

    fn index(&self, offset: u32) -> Option<usize> {
        self.instructions.binary_search_by_key(&offset, |(range, _)| range.start).ok()
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let range = &self.instructions[index].0;
        let code = &self.function.parts[0].bytes;
        code.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// The whole instructions that a jump would overwrite, if all can be run elsewhere.
    fn replaced(&self, index: usize, groups: bool) -> Option<Range<u32>> {
        let start = self.instructions[index].0.start;
        let mut end = start;
        for (number, (range, _)) in self.instructions.iter().enumerate().skip(index) {
            if range.start != end || !can_boost(self.bytes(number), groups) {
                return None;
            }
            end = range.end;
            if end - start >= JUMP_SIZE {
                return Some(start..end);
            }
        }
        None
    }

    /// Whether a jump may replace what is at a place.
    fn is_replaceable(&self, index: usize) -> bool {
        let Some(region) = self.replaced(index, self.groups) else { return false };
        // `insn_jump_into_range` counts the byte behind the jump too.
        let entered = |&target: &u32| region.start < target && target <= region.start + JUMP_SIZE;
        let patched =
            |keep: &KeepOff| keep.range.start < region.end && region.start < keep.range.end;
        !self.targets.iter().chain(&self.hidden).any(entered)
            && !self.function.keep_off.iter().any(patched)
    }

    /// Whether the kernel, or a later one of the series, could put a jump where something jumps into
    /// the middle of it, see above.
    fn may_be_entered_unseen(&self, index: usize) -> bool {
        let start = self.instructions[index].0.start;
        let entered = |&target: &u32| start < target && target < start + JUMP_SIZE;
        self.hidden.iter().any(entered) && self.replaced(index, true).is_some()
    }

    /// `movl $-hash, %r10d; addl -n(%reg), %r10d; je over; ud2`: what kCFI puts in front of an
    /// indirect call. The kernel reads it when a check fails (6.7 refuses probes there), and `FineIBT`
    /// rewrites it when the module is loaded (`cfi_rewrite_callers` in alternative.c, from 6.2).
    fn is_cfi_check(&self, index: usize) -> bool {
        (index.saturating_sub(3)..=index).any(|first| {
            let Some([hash, add, jump, trap]) = self.instructions.get(first..first + 4) else {
                return false;
            };
            let adjoin =
                [hash, add, jump, trap].windows(2).all(|two| two[0].0.end == two[1].0.start);
            adjoin
                && hash.1.code() == Code::Mov_r32_imm32
                && hash.1.op0_register() == Register::R10D
                && add.1.code() == Code::Add_r32_rm32
                && add.1.op0_register() == Register::R10D
                && jump.1.mnemonic() == Mnemonic::Je
                && trap.1.code() == Code::Ud2
        })
    }
}

/// A jump whose target is part of the instruction.
fn is_branch(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch64)
        && instruction.flow_control() != FlowControl::Call
}

/// Where tables of jumps lead to in the function.
fn tables(parts: &[Part]) -> impl Iterator<Item = u32> {
    let data = parts.iter().filter(|part| part.kind == PartKind::Data);
    let relocations = data.flat_map(|part| &part.relocations);
    relocations.filter(|relocation| relocation.symbol == SYMBOL).filter_map(|relocation| {
        let addend = match relocation.kind {
            // Relative to the table, not to the entry.
            RelocationKind::Pc32 | RelocationKind::Pc64 => {
                relocation.addend.checked_sub(i64::from(relocation.offset))?
            }
            _ => relocation.addend,
        };
        u32::try_from(addend).ok()
    })
}

/// Whether the kernel was built with retpolines or IBT, and so without jump tables: it refers to a
/// thunk (those for returns depend on retpolines), or begins with `endbr64`.
fn has_no_jump_tables(function: &Function, instructions: &[(Range<u32>, Instruction)]) -> bool {
    let relocations = function.parts.iter().flat_map(|part| &part.relocations);
    let mut thunks = relocations.filter(|relocation| {
        relocation.symbol.starts_with("__x86_indirect_")
            || relocation.symbol == "__x86_return_thunk"
    });
    let endbr = instructions.first().is_some_and(|(_, first)| first.code() == Code::Endbr64);
    endbr || thunks.next().is_some()
}

/// The first `int3` there is, or may be once returns and jumps through thunks are patched: `ret` or
/// `jmp *reg` and `int3` (`apply_returns`, `apply_retpolines` in alternative.c).
fn lost_boundaries(function: &Function, instructions: &[(Range<u32>, Instruction)]) -> Option<u32> {
    let code = &function.parts[0].bytes;
    let gaps = instructions.iter().map(|(range, _)| range.end);
    let padding = gaps.filter(|&end| code.get(end as usize) == Some(&0xcc)).min();
    let patched = function.keep_off.iter().filter(|keep| match keep.why {
        Patched::ReturnThunk => true,
        Patched::Retpoline => code.get(keep.range.start as usize) != Some(&0xe8),
        _ => false,
    });
    padding.into_iter().chain(patched.map(|keep| keep.range.end.min(keep.range.start + 1))).min()
}

/// What the kernel refuses to probe, in any version from some on.
fn is_refused(instruction: &Instruction) -> bool {
    let memory = instruction.op0_kind() == OpKind::Memory;
    let flow = instruction.flow_control();
    let indirect = matches!(flow, FlowControl::IndirectBranch | FlowControl::IndirectCall);
    matches!(
        instruction.mnemonic(),
        // `is_exception_insn`, from 6.9: EILSEQ.
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Int3 | Mnemonic::Int1 | Mnemonic::Int
        // `prepare_emulation`, from 5.13 and in 5.10.262: EOPNOTSUPP.
        | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq
        // Where IBT may have made a nop of it, and nops are where the kernel patches, whether or not
        // a table says so.
        | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Nop
        // Emulated with the wrong condition before 6.0 (`kprobe_emulate_jcc`, from 5.13).
        | Mnemonic::Jg | Mnemonic::Jle
        // Emulated with the wrong count (`kprobe_emulate_loop`).
        | Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne
    )
    // Calls and jumps through memory, far ones among them, are not emulated.
    || indirect && memory
    // `insn_masking_exception`.
    || instruction.op0_register() == Register::SS
}

#[cfg(test)]
mod tests;
