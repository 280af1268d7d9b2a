//! The interpreter: one instruction at a time over registers and memory. What it does not know it
//! refuses, so that a run is either right or ends.
//!
//! Source of all semantics: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.

mod arithmetic;
mod bits;
mod moves;

use super::flags::{ALL, CF, Flags, OF, PF, SF, ZF, mask};
use super::{
    Instruction,
    instruction::is_undefined,
    registers::{GprPart, general},
};
use crate::resolve::memory::{Address, Fault, Memory};
use crate::resolve::origin::Origin;
use iced_x86::{Code, ConditionCode, FlowControl, Instruction as Raw, Mnemonic, OpKind, Register};
use nfdrop_db::Reg;

/// `%gs`-relative memory (per-CPU data) lies here.
pub const PER_CPU: u64 = 0xffff_8880_7fc0_0000;
/// Bytes of per-CPU memory that are there. Offsets count modulo this: per-CPU symbols have addresses
/// like all others here, not small offsets as in a kernel.
pub const PER_CPU_SIZE: usize = 64 << 10;
/// Most iterations of one `rep`.
const MAX_REP: u64 = 1 << 12;

/// Registers, flags and the next instruction's address.
#[derive(Debug, Clone)]
pub struct Cpu {
    /// By the number of the encoding: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub registers: [u64; 16],
    /// Status flags.
    pub flags: Flags,
    /// Of the next instruction.
    pub rip: u64,
    /// Where the registers' values come from.
    pub origins: [Origin; 16],
    /// Where the flags come from.
    flags_origin: Origin,
    /// What the instruction under way has read.
    seen: Origin,
}

/// Why a step was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trap {
    /// Not in the interpreter's set.
    #[error("instruction {0:?} is not supported")]
    Unsupported(Code),
    /// Reads a flag that no instruction defined.
    #[error("instruction {0:?} reads an undefined flag")]
    UndefinedFlag(Code),
    /// Touches memory that is not there.
    #[error(transparent)]
    Memory(#[from] Fault),
}

/// What the caller has to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: `rip` is the next instruction.
    Next,
    /// A conditional branch was met; taken?
    Branch(bool),
    /// A jump, direct or indirect, to `rip`.
    Jump,
    /// A call to `rip`; the return address is pushed.
    Call,
    /// A return to `rip`; the return address is popped.
    Return,
    /// `ud2`, or one of its kin, at the address `rip` was; `rip` is the next instruction.
    Undefined,
}

impl Cpu {
    /// Before the first instruction, at `rip`: all registers are left over.
    pub fn new(registers: [u64; 16], rip: u64) -> Self {
        Self {
            registers,
            flags: Flags::UNDEFINED,
            rip,
            origins: [Origin::LEFTOVER; 16],
            flags_origin: Origin::LEFTOVER,
            seen: Origin::COMPUTED,
        }
    }

    /// Where a 64-bit register's value comes from.
    pub fn origin(&self, reg: Reg) -> Origin {
        self.origins[reg as usize]
    }

    /// A 64-bit register.
    pub fn get(&self, reg: Reg) -> u64 {
        self.registers[reg as usize]
    }

    /// Sets a 64-bit register to a value of this origin.
    pub fn set(&mut self, reg: Reg, value: u64, origin: Origin) {
        self.registers[reg as usize] = value;
        self.origins[reg as usize] = origin;
    }

    /// Pushes a u64 of this origin.
    pub fn push(&mut self, memory: &mut Memory, value: u64, origin: Origin) -> Result<(), Fault> {
        let rsp = self.get(Reg::Rsp).wrapping_sub(8);
        memory.write(Address(rsp), 8, value, origin)?;
        self.registers[Reg::Rsp as usize] = rsp;
        Ok(())
    }

    /// Pops a u64, with its origin.
    pub fn pop(&mut self, memory: &Memory) -> Result<(u64, Origin), Fault> {
        let rsp = self.get(Reg::Rsp);
        let value = memory.load(Address(rsp), 8)?;
        self.registers[Reg::Rsp as usize] = rsp.wrapping_add(8);
        Ok(value)
    }

    /// Where a register operand's value comes from.
    fn register_origin(&self, register: Register) -> Origin {
        let Some((number, part)) = general(register) else { return Origin::LEFTOVER };
        let origin = self.origins[number];
        match part {
            GprPart::All => origin,
            GprPart::Bits32 => origin.low(4),
            GprPart::Bits16 => origin.low(2),
            GprPart::Bits8 => origin.low(1),
            GprPart::High => origin.down(1).low(1),
        }
    }

    /// Where the address of a memory operand comes from.
    fn address_origin(&self, i: &Raw) -> Origin {
        let of = |register| match register {
            Register::None => Origin::COMPUTED,
            // Where symbols are differs from boot to boot.
            Register::RIP | Register::EIP => Origin::DATA,
            register => self.register_origin(register),
        };
        of(i.memory_base()) | of(i.memory_index())
    }

    /// A register operand of any width; `None` for registers that are not general.
    fn register(&self, register: Register) -> Option<u64> {
        let (number, part) = general(register)?;
        let value = self.registers[number];
        Some(match part {
            GprPart::All => value,
            GprPart::Bits32 => value & 0xffff_ffff,
            GprPart::Bits16 => value & 0xffff,
            GprPart::Bits8 => value & 0xff,
            GprPart::High => value >> 8 & 0xff,
        })
    }

    fn set_register(&mut self, register: Register, value: u64, origin: Origin) -> Option<()> {
        let (number, part) = general(register)?;
        let from = &mut self.origins[number];
        *from = match part {
            GprPart::All => origin,
            GprPart::Bits32 => origin.low(4),
            GprPart::Bits16 => from.with_low(2, origin),
            GprPart::Bits8 => from.with_low(1, origin),
            GprPart::High => from.except(2) | origin.low(1).up(1),
        };
        let slot = &mut self.registers[number];
        *slot = match part {
            GprPart::All => value,
            // Writes of 32 bits clear the upper half.
            GprPart::Bits32 => value & 0xffff_ffff,
            GprPart::Bits16 => *slot & !0xffff | value & 0xffff,
            GprPart::Bits8 => *slot & !0xff | value & 0xff,
            GprPart::High => *slot & !0xff00 | (value & 0xff) << 8,
        };
        Some(())
    }

    /// The address of an instruction's memory operand; `None` for segments other than `gs` with a
    /// base other than zero, and for vector indices.
    pub fn effective_address(&self, instruction: &Instruction) -> Option<Address> {
        self.address_of(&instruction.0)
    }

    fn address_of(&self, instruction: &Raw) -> Option<Address> {
        let segment = |offset: u64| match instruction.segment_prefix() {
            Register::GS => Some(Address(PER_CPU + offset % PER_CPU_SIZE as u64)),
            Register::FS => None,
            _ => Some(Address(offset)),
        };
        if instruction.is_ip_rel_memory_operand() {
            return segment(instruction.ip_rel_memory_address());
        }
        let part = |register| match register {
            Register::None => Some(0),
            register => self.register(register),
        };
        let base = part(instruction.memory_base())?;
        let index = part(instruction.memory_index())?;
        let scale = u64::from(instruction.memory_index_scale());
        let sum = base
            .wrapping_add(index.wrapping_mul(scale))
            .wrapping_add(instruction.memory_displacement64());
        // With 32-bit base registers the address wraps at 32 bits.
        let narrow = instruction.memory_base().is_gpr32() || instruction.memory_index().is_gpr32();
        let sum = if narrow { sum & 0xffff_ffff } else { sum };
        segment(sum)
    }

    /// Where an indirect call or jump goes.
    pub fn indirect_target(&self, instruction: &Instruction, memory: &Memory) -> Option<u64> {
        let i = &instruction.0;
        match i.op0_kind() {
            OpKind::Register if i.op0_register().is_gpr64() => self.register(i.op0_register()),
            OpKind::Memory => memory.read(self.address_of(i)?, 8).ok(),
            _ => None,
        }
    }

    /// How much work an instruction is: 1, or the number of its repetitions.
    #[inline]
    pub fn cost(&self, instruction: &Instruction) -> u64 {
        let instruction = &instruction.0;
        let repeated = instruction.has_rep_prefix() && instruction.is_string_instruction();
        if repeated { 1 + self.get(Reg::Rcx).min(MAX_REP) } else { 1 }
    }

    /// Runs one instruction.
    pub fn step(&mut self, memory: &mut Memory, i: &Instruction) -> Result<Step, Trap> {
        let i = &i.0;
        let before = self.rip;
        self.rip = i.next_ip();
        let result = self.execute(memory, i);
        if result.is_err() {
            self.rip = before;
        }
        result
    }

    fn execute(&mut self, memory: &mut Memory, i: &Raw) -> Result<Step, Trap> {
        self.seen = Origin::COMPUTED;
        if i.has_lock_prefix() && i.op0_kind() != OpKind::Memory {
            return Err(Trap::Unsupported(i.code()));
        }
        if let Some(step) = self.jump(memory, i)? {
            return Ok(step);
        }
        if i.has_rep_prefix() || i.has_repne_prefix() {
            self.string(memory, i)?;
            return Ok(Step::Next);
        }
        let bits = self.operand_bits(i, 0);
        let is_known = self.moves(memory, i, bits)?
            || self.arithmetic(memory, i, bits)?
            || self.bits(memory, i, bits)?;
        // setcc has one operand, cmovcc two; jcc was handled above.
        if !is_known && i.condition_code() != ConditionCode::None && i.op_count() <= 2 {
            self.conditional(memory, i)?;
        } else if !is_known {
            return Err(Trap::Unsupported(i.code()));
        }
        Ok(Step::Next)
    }

    /// Jumps, calls, returns and what stops; `None`: execution goes on behind the instruction.
    fn jump(&mut self, memory: &mut Memory, i: &Raw) -> Result<Option<Step>, Trap> {
        match i.flow_control() {
            FlowControl::Next => Ok(None),
            FlowControl::ConditionalBranch => {
                if i.mnemonic() == Mnemonic::Jrcxz {
                    let taken = self.get(Reg::Rcx) == 0;
                    if taken {
                        self.rip = i.near_branch_target();
                    }
                    return Ok(Some(Step::Branch(taken)));
                }
                if !i.is_jcc_short_or_near() {
                    return Err(Trap::Unsupported(i.code()));
                }
                let holds = self.flags.condition(i.condition_code());
                let taken = holds.ok_or(Trap::UndefinedFlag(i.code()))?;
                if taken {
                    self.rip = i.near_branch_target();
                }
                Ok(Some(Step::Branch(taken)))
            }
            FlowControl::UnconditionalBranch if i.is_jmp_short_or_near() => {
                self.rip = i.near_branch_target();
                Ok(Some(Step::Jump))
            }
            FlowControl::IndirectBranch if i.is_jmp_near_indirect() => {
                self.rip = self.read(memory, i, 0)?;
                Ok(Some(Step::Jump))
            }
            FlowControl::Call if i.is_call_near() => {
                self.push(memory, i.next_ip(), Origin::COMPUTED)?;
                self.rip = i.near_branch_target();
                Ok(Some(Step::Call))
            }
            FlowControl::IndirectCall if i.is_call_near_indirect() => {
                let target = self.read(memory, i, 0)?;
                self.push(memory, i.next_ip(), Origin::COMPUTED)?;
                self.rip = target;
                Ok(Some(Step::Call))
            }
            FlowControl::Return if i.code() == Code::Retnq => {
                (self.rip, _) = self.pop(memory)?;
                Ok(Some(Step::Return))
            }
            FlowControl::Exception if is_undefined(i) => Ok(Some(Step::Undefined)),
            _ => Err(Trap::Unsupported(i.code())),
        }
    }

    fn conditional(&mut self, memory: &mut Memory, i: &Raw) -> Result<(), Trap> {
        let holds = self.flags.condition(i.condition_code());
        let holds = holds.ok_or(Trap::UndefinedFlag(i.code()))?;
        if i.op_count() == 1 {
            return self.write_from(memory, i, 0, u64::from(holds), self.flags_origin.low(1));
        }
        // The source is read, and a 32-bit destination zero-extended, either way.
        let source = self.read(memory, i, 1)?;
        let mut value = source;
        if !holds {
            self.seen = Origin::COMPUTED;
            value = self.read(memory, i, 0)?;
        }
        // What a flag of unknown origin chooses may be either.
        self.write_from(memory, i, 0, value, self.seen | self.flags_origin)
    }

    fn flag(&mut self, flag: u8, i: &Raw) -> Result<bool, Trap> {
        self.seen |= self.flags_origin;
        self.flags.get(flag).ok_or(Trap::UndefinedFlag(i.code()))
    }

    fn logic(&mut self, result: u64, bits: u32) {
        self.flags.set(CF | OF, false);
        self.flags.set_result(result, bits);
        self.flags_origin = self.seen.mixed();
    }

    fn add(&mut self, a: u64, b: u64, carry: bool, bits: u32) -> u64 {
        let (a, b) = (a & mask(bits), b & mask(bits));
        let wide = u128::from(a) + u128::from(b) + u128::from(carry);
        let result = wide as u64 & mask(bits);
        self.flags.set(CF, wide > u128::from(mask(bits)));
        self.flags.set(OF, (a ^ result) & (b ^ result) & sign_bit(bits) != 0);
        self.flags.set_result(result, bits);
        self.flags_origin = self.seen.mixed();
        result
    }

    fn subtract(&mut self, a: u64, b: u64, borrow: bool, bits: u32) -> u64 {
        let (a, b) = (a & mask(bits), b & mask(bits));
        let result = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & mask(bits);
        self.flags.set(CF, u128::from(a) < u128::from(b) + u128::from(borrow));
        self.flags.set(OF, (a ^ b) & (a ^ result) & sign_bit(bits) != 0);
        self.flags.set_result(result, bits);
        self.flags_origin = self.seen.mixed();
        result
    }

    #[expect(clippy::unused_self, reason = "reads like its neighbours")]
    fn operand_bits(&self, i: &Raw, operand: u32) -> u32 {
        match i.op_kind(operand) {
            OpKind::Register => i.op_register(operand).size() as u32 * 8,
            OpKind::Memory => i.memory_size().size() as u32 * 8,
            _ => 64,
        }
        .clamp(8, 64)
    }

    /// An operand, zero-extended; immediates sign-extended as the instruction says.
    fn read(&mut self, memory: &Memory, i: &Raw, operand: u32) -> Result<u64, Trap> {
        let unsupported = Trap::Unsupported(i.code());
        match i.op_kind(operand) {
            OpKind::Register => {
                let register = i.op_register(operand);
                self.seen |= self.register_origin(register);
                self.register(register).ok_or(unsupported)
            }
            OpKind::Memory => {
                let size = i.memory_size().size();
                if !(1..=8).contains(&size) {
                    return Err(unsupported);
                }
                let address = self.address_of(i).ok_or(unsupported)?;
                let (value, origin) = memory.load(address, size)?;
                self.seen |= origin | self.address_origin(i).of_address().low(size);
                Ok(value)
            }
            kind if is_immediate(kind) => Ok(i.immediate(operand)),
            _ => Err(unsupported),
        }
    }

    /// Writes what every byte of all that was read may have a part in.
    fn write(
        &mut self,
        memory: &mut Memory,
        i: &Raw,
        operand: u32,
        value: u64,
    ) -> Result<(), Trap> {
        self.write_from(memory, i, operand, value, self.seen.mixed())
    }

    fn write_from(
        &mut self,
        memory: &mut Memory,
        i: &Raw,
        operand: u32,
        value: u64,
        origin: Origin,
    ) -> Result<(), Trap> {
        let unsupported = Trap::Unsupported(i.code());
        match i.op_kind(operand) {
            OpKind::Register => {
                self.set_register(i.op_register(operand), value, origin).ok_or(unsupported)
            }
            OpKind::Memory => {
                let size = i.memory_size().size();
                if !(1..=8).contains(&size) {
                    return Err(unsupported);
                }
                let address = self.address_of(i).ok_or(unsupported)?;
                Ok(memory.write(address, size, value, origin)?)
            }
            _ => Err(unsupported),
        }
    }

    /// What a call leaves of the caller-saved registers and flags: nothing (System V psABI).
    pub fn clobber(&mut self, mut leftover: impl FnMut() -> u64) {
        use Reg::{R8, R9, R10, R11, Rax, Rcx, Rdi, Rdx, Rsi};
        for reg in [Rax, Rcx, Rdx, Rsi, Rdi, R8, R9, R10, R11] {
            self.set(reg, leftover(), Origin::LEFTOVER);
        }
        self.flags.undefine(ALL);
    }
}

/// Whether both operands are the same register: the result is the same, whatever it holds.
fn is_twice(i: &Raw) -> bool {
    i.op0_kind() == OpKind::Register
        && i.op1_kind() == OpKind::Register
        && i.op0_register() == i.op1_register()
}

/// Which bytes of a value are this one.
fn bytes_of(value: u64, byte: u8) -> u8 {
    let bits = value.to_le_bytes().into_iter().enumerate();
    bits.fold(0, |all, (number, other)| all | u8::from(other == byte) << number)
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

fn sign_bit(bits: u32) -> u64 {
    1 << (bits - 1)
}

fn sign_extend(value: u64, bits: u32) -> u64 {
    ((value << (64 - bits)) as i64 >> (64 - bits)) as u64
}

#[cfg(test)]
mod tests;
