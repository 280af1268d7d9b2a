//! The function's frame: the slots that its code names, and what they hold at a visit.

use super::link::Linked;
use super::memory::{Address, Memory, Near};
use super::origin::Origin;
use crate::arch::{Cpu, Instruction, calls};
use nfdrop_db::Reg;

/// Most u64 of the frame that are looked at. The code's own operands tell which: the most seen is 60,
/// with KASAN 90.
pub(super) const MAX_SLOTS: usize = 95;
/// Most of them that hold numbers.
pub(super) const MAX_NUMBERS: usize = 79;
/// A u64 of the frame: where it is from the stack pointer, or from the frame pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// `rsp` or `rbp`.
    pub base: Reg,
    /// In bytes.
    pub offset: i32,
}

/// The frame, as it is at a visit.
pub(super) struct Stack<'a> {
    cpu: &'a Cpu,
    region: Near<'a>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(cpu: &'a Cpu, memory: &'a Memory) -> Self {
        Self { cpu, region: memory.near(Address(cpu.get(calls::STACK_POINTER))) }
    }

    /// The u64 at register + `offset` with its origin, if the register is set and points into the
    /// frame. Below the stack pointer is nothing: the probe's own exception writes there.
    pub(super) fn word(&self, base: Reg, offset: i32) -> Option<(u64, Origin)> {
        let address = self.cpu.get(base).wrapping_add_signed(i64::from(offset));
        if !self.cpu.origin(base).is_defined() || address < self.cpu.get(calls::STACK_POINTER) {
            return None;
        }
        Some((self.region.word(address)?, self.region.origin(address)?))
    }
}

/// The frame's slots that the code itself names: whatever it keeps there it reads or writes by such
/// an operand.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// All, those that the code keeps u64 in, such as pointers, first.
    pub slots: Vec<Slot>,
    /// Those it keeps smaller numbers in, such as verdicts and policies.
    pub numbers: Vec<Slot>,
}

impl Frame {
    /// Of a function.
    pub fn new(linked: &Linked) -> Self {
        let named = named_slots(linked);
        let mut frame = Self::default();
        for (size, slot) in named {
            if frame.slots.len() < MAX_SLOTS && !frame.slots.contains(&slot) {
                frame.slots.push(slot);
            }
            let number = size < 8 && !frame.numbers.contains(&slot);
            if number && frame.numbers.len() < MAX_NUMBERS {
                frame.numbers.push(slot);
            }
        }
        frame
    }
}

/// Operands in the frame with their sizes, the largest first.
fn named_slots(linked: &Linked) -> Vec<(usize, Slot)> {
    let of = |i: &Instruction| {
        let memory = i.memory().filter(|memory| memory.is_plain)?;
        let base = memory.base.filter(|base| calls::FRAME.contains(base))?;
        let offset = i32::try_from(memory.offset as i64).ok()?;
        Some((memory.size, Slot { base, offset }))
    };
    let instructions = linked.instructions.iter().map(|decoded| &decoded.instruction);
    let has_frame_pointer = instructions.clone().any(Instruction::sets_frame_pointer);
    let mut named: Vec<(usize, Slot)> = instructions
        .filter_map(of)
        .filter(|(_, slot)| slot.base == calls::STACK_POINTER || has_frame_pointer)
        .collect();
    named.sort_by_key(|&(size, slot)| (std::cmp::Reverse(size), slot));
    named
}
