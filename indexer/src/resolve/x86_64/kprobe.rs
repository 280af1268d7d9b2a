//! The kernel's rules for kprobes on x86: which instructions it refuses, single-steps, boosts or
//! replaces by a jump.
//!
//! Sources: `can_boost` in arch/x86/kernel/kprobes/core.c, `can_optimize` and
//! `copy_optimized_instructions` in arch/x86/kernel/kprobes/opt.c (6.12; before 6.5 also
//! `insn_is_indirect_jump`).

use crate::image::function::{Function, KeepOff};
use crate::resolve::link::{Decoded, Linked};
use iced_x86::{Code, FlowControl, Instruction, OpKind};
use nfdrop_db::Cost;
use std::ops::Range;

/// Bytes of the jump that replaces an optimized probe's instructions.
const JUMP_SIZE: u32 = 5;

/// What of a function decides about probes.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    function: &'a Function,
    /// Instructions of the function itself, by offset.
    instructions: Vec<(Range<u32>, Instruction)>,
    /// Direct branch targets inside the function.
    targets: Vec<u32>,
    optimizable: bool,
    /// Whether `can_boost` looks into opcode groups 2 to 5.
    groups: bool,
}

impl<'a> Rules<'a> {
    /// Of a function linked in any state of its static keys.
    pub fn new(function: &'a Function, linked: &Linked) -> Self {
        let base = linked.parts[0].0.0;
        let mut instructions: Vec<_> = linked
            .instructions
            .iter()
            .filter(|decoded| decoded.place.part == 0)
            .map(|Decoded { place, instruction }| {
                (place.offset..place.offset + instruction.len() as u32, *instruction)
            })
            .collect();
        instructions.sort_by_key(|(range, _)| range.start);
        let mut targets: Vec<u32> = linked
            .instructions
            .iter()
            .filter(|decoded| is_direct_branch(&decoded.instruction))
            .filter_map(|d| {
                u32::try_from(d.instruction.near_branch_target().wrapping_sub(base)).ok()
            })
            .collect();
        let labels = function.jump_labels.iter().flatten();
        targets.extend(labels.filter(|l| l.target.part == 0).map(|l| l.target.offset));
        targets.sort_unstable();
        let thunks = linked.instructions.iter().any(|decoded| {
            let i = &decoded.instruction;
            let jump = i.flow_control() == FlowControl::IndirectBranch;
            let direct =
                is_direct_branch(i) && i.flow_control() == FlowControl::UnconditionalBranch;
            let target = super::super::memory::Address(i.near_branch_target());
            let name = linked.name_at(target).filter(|_| direct);
            jump || name.is_some_and(|name| name.starts_with("__x86_"))
        });
        // Before 6.5 a function with an indirect jump, or a jump to a thunk, is not optimized.
        // An unknown version is taken for an old one: a promise of speed must hold.
        let version = version(function.release.as_deref()).unwrap_or((0, 0));
        let old = version < (6, 5);
        let optimizable = !(function.has_exception_entries || old && thunks);
        Self { function, instructions, targets, optimizable, groups: version >= (6, 9) }
    }

    /// The instruction at an offset of the function, if a probe may be put there: nothing patches
    /// it, nothing refers to it, and its bytes in memory are those in the file.
    pub fn probe_site(&self, offset: u32) -> Option<&Instruction> {
        let index =
            self.instructions.binary_search_by_key(&offset, |(range, _)| range.start).ok()?;
        let (range, instruction) = &self.instructions[index];
        let overlaps = |other: &Range<u32>| other.start < range.end && range.start < other.end;
        let kept_off = |keep: &KeepOff| overlaps(&keep.range);
        let relocated = self.function.parts[0].relocations.iter().any(|relocation| {
            overlaps(&(relocation.offset..relocation.offset + relocation.kind.size()))
        });
        let refused = offset == 0
            || self.function.keep_off.iter().any(kept_off)
            || relocated
            || matches!(instruction.code(), Code::Endbr64 | Code::Ud2 | Code::Int3)
            // Long nops are where the kernel patches, whether or not a table says so.
            || instruction.mnemonic() == iced_x86::Mnemonic::Nop;
        (!refused).then_some(instruction)
    }

    /// How cheaply the kernel runs a probe at an offset, where [`Rules::probe_site`] allows one.
    pub fn cost(&self, offset: u32) -> Cost {
        let Ok(index) = self.instructions.binary_search_by_key(&offset, |(range, _)| range.start)
        else {
            return Cost::Trap;
        };
        let code = &self.function.parts[0].bytes;
        let boostable = |(range, _): &(Range<u32>, Instruction)| {
            let bytes = code.get(range.start as usize..range.end as usize).unwrap_or_default();
            can_boost(bytes, self.groups)
        };
        if !boostable(&self.instructions[index]) {
            return Cost::Trap;
        }
        // Whole instructions that the jump overwrites, one after the other.
        let mut end = offset;
        for entry in &self.instructions[index..] {
            if end - offset >= JUMP_SIZE {
                break;
            }
            if entry.0.start != end || !boostable(entry) {
                return Cost::Boosted;
            }
            end = entry.0.end;
        }
        let whole = end - offset >= JUMP_SIZE && end <= code.len() as u32;
        let region = offset..end;
        // `insn_jump_into_range` counts the byte behind the jump too, whether or not it is replaced.
        let last = end.max(offset + JUMP_SIZE + 1);
        let entered = self.targets.iter().any(|&target| offset < target && target < last);
        let patched = self
            .function
            .keep_off
            .iter()
            .any(|keep| keep.range.start < region.end && region.start < keep.range.end);
        if whole && self.optimizable && !entered && !patched {
            Cost::Optimized
        } else {
            Cost::Boosted
        }
    }
}

fn is_direct_branch(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch64)
        && instruction.flow_control() != FlowControl::Call
}

/// `(major, minor)` of a release such as `6.12.117+deb13-cloud-amd64`.
fn version(release: Option<&str>) -> Option<(u32, u32)> {
    let mut numbers = release?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `can_boost`: whether the instruction may be run out of place and followed by a jump back.
fn can_boost(bytes: &[u8], groups: bool) -> bool {
    // Legacy and REX prefixes come before the opcode.
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        match first {
            // CS override and address size are not boostable.
            0x2e | 0x67 => return false,
            0x26 | 0x36 | 0x3e | 0x64..=0x66 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f => rest = tail,
            _ => break,
        }
    }
    let modrm_reg = rest.get(1).map_or(0, |modrm| modrm >> 3 & 7);
    match rest {
        [0x0f, second, ..] => match second {
            0x38 | 0x3a => false,
            second => TWO_BYTE_BOOSTABLE[usize::from(second >> 4)] >> (second & 15) & 1 != 0,
        },
        [opcode, ..] => match opcode {
            // Groups 2 to 5: since 6.9 all but the reserved ones and those that use rip.
            0xc0 | 0xc1 | 0xd0..=0xd3 => groups && modrm_reg != 6,
            0xf6 | 0xf7 => groups && modrm_reg != 1,
            0xfe => groups && modrm_reg < 2,
            0xff => modrm_reg == 4 || groups && modrm_reg < 2,
            // bound, jcc, far call, breakpoints, x87, loops, near call and jumps, hlt; and VEX, which
            // has more than one opcode byte as the kernel counts them.
            0x62
            | 0x70..=0x7f
            | 0x9a
            | 0xcc..=0xce
            | 0xd6
            | 0xd8..=0xdf
            | 0xe0..=0xe3
            | 0xe8
            | 0xe9
            | 0xeb
            | 0xf0..=0xf4
            | 0xc4
            | 0xc5 => false,
            _ => true,
        },
        [] => false,
    }
}

/// `twobyte_is_boostable`: bit n of row r is opcode `0f rn`.
const TWO_BYTE_BOOSTABLE: [u16; 16] = [
    0x034c, 0x8000, 0x000f, 0x0002, 0xffff, 0x0000, 0xcfff, 0xc0f0, // 00 to 70
    0x0000, 0xffff, 0xbb3b, 0xf8ff, 0xff03, 0xbb2e, 0xbb26, 0x772e, // 80 to f0
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::function::{ObjectKind, Part, PartKind, Patched, SYMBOL};
    use crate::resolve::link::{KeyState, Placement};

    fn function(release: &str) -> Function {
        // mov rax, rdi; mov rbx, rsi; xor edx, edx; 8: inc eax; jne 8; ret
        let code = [0x48, 0x89, 0xf8, 0x48, 0x89, 0xf3, 0x31, 0xd2, 0xff, 0xc0, 0x75, 0xfc, 0xc3];
        let (name, kind, bytes) = (SYMBOL.to_owned(), PartKind::Code, code.to_vec());
        Function {
            release: Some(release.to_owned()),
            build_id: None,
            object: ObjectKind::Module,
            parts: vec![Part { name, kind, bytes, relocations: Vec::new() }],
            jump_labels: Some(Vec::new()),
            keep_off: vec![KeepOff { range: 5..6, why: Patched::StaticCall }],
            bugs: Vec::new(),
            has_exception_entries: false,
            fields: std::collections::BTreeMap::new(),
        }
    }

    fn costs(function: &Function, offsets: &[u32]) -> Vec<Cost> {
        let linked = Linked::new(function, &[], KeyState(0), Placement::Odd).unwrap();
        let rules = Rules::new(function, &linked);
        offsets.iter().map(|&offset| rules.cost(offset)).collect()
    }

    #[test]
    fn jumps_to_right_behind_the_replaced_bytes_prevent_optimization() {
        use Cost::{Boosted, Optimized, Trap};
        let mut function = function("6.12.1");
        function.keep_off.clear();
        assert_eq!(costs(&function, &[0, 3, 8, 10]), [Optimized, Boosted, Boosted, Trap]);
        function.release = Some("6.8".to_owned());
        assert_eq!(costs(&function, &[0, 8]), [Optimized, Trap], "group 5 is boosted from 6.9");
        function.has_exception_entries = true;
        assert_eq!(costs(&function, &[0]), [Boosted]);
    }

    #[test]
    fn no_probe_where_the_kernel_refuses_one() {
        let function = function("6.12.1");
        let linked = Linked::new(&function, &[], KeyState(0), Placement::Odd).unwrap();
        let rules = Rules::new(&function, &linked);
        let allowed: Vec<u32> = (0..14).filter(|&o| rules.probe_site(o).is_some()).collect();
        assert_eq!(allowed, [6, 8, 10, 12], "not the entry, not inside instructions, not patched");
        assert_eq!(rules.cost(0), Cost::Boosted, "a patched byte in the replaced ones");
    }
}
