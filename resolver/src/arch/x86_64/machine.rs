//! The interpreter: one instruction at a time over registers and memory. What it does not know it
//! refuses, so that a run is either right or ends.
//!
//! Source of all semantics: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.

use super::flags::{ALL, CF, Flags, OF, PF, SF, ZF, mask};
use super::{Instruction, instruction::is_undefined};
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
        let unsupported = Trap::Unsupported(i.code());
        if i.has_lock_prefix() && i.op0_kind() != OpKind::Memory {
            return Err(unsupported);
        }
        match i.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch => {
                if i.mnemonic() == Mnemonic::Jrcxz {
                    let taken = self.get(Reg::Rcx) == 0;
                    if taken {
                        self.rip = i.near_branch_target();
                    }
                    return Ok(Step::Branch(taken));
                }
                if !i.is_jcc_short_or_near() {
                    return Err(unsupported);
                }
                let holds = self.flags.condition(i.condition_code());
                let taken = holds.ok_or(Trap::UndefinedFlag(i.code()))?;
                if taken {
                    self.rip = i.near_branch_target();
                }
                return Ok(Step::Branch(taken));
            }
            FlowControl::UnconditionalBranch if i.is_jmp_short_or_near() => {
                self.rip = i.near_branch_target();
                return Ok(Step::Jump);
            }
            FlowControl::IndirectBranch if i.is_jmp_near_indirect() => {
                self.rip = self.read(memory, i, 0)?;
                return Ok(Step::Jump);
            }
            FlowControl::Call if i.is_call_near() => {
                self.push(memory, i.next_ip(), Origin::COMPUTED)?;
                self.rip = i.near_branch_target();
                return Ok(Step::Call);
            }
            FlowControl::IndirectCall if i.is_call_near_indirect() => {
                let target = self.read(memory, i, 0)?;
                self.push(memory, i.next_ip(), Origin::COMPUTED)?;
                self.rip = target;
                return Ok(Step::Call);
            }
            FlowControl::Return if i.code() == Code::Retnq => {
                (self.rip, _) = self.pop(memory)?;
                return Ok(Step::Return);
            }
            FlowControl::Exception if is_undefined(i) => return Ok(Step::Undefined),
            _ => return Err(unsupported),
        }
        if i.has_rep_prefix() || i.has_repne_prefix() {
            self.string(memory, i)?;
            return Ok(Step::Next);
        }
        let bits = self.operand_bits(i, 0);
        match i.mnemonic() {
            Mnemonic::Nop
            | Mnemonic::Endbr64
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetchw => {}
            // With a REX.B prefix some processors exchange r8 and rax instead.
            Mnemonic::Pause if i.len() == 2 => {}
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movnti => {
                let value = self.read(memory, i, 1)?;
                self.write_from(memory, i, 0, value, self.seen)?;
            }
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let from = self.operand_bits(i, 1);
                let value = sign_extend(self.read(memory, i, 1)?, from);
                let origin = self.seen.sign_extended(from as usize / 8);
                self.write_from(memory, i, 0, value, origin)?;
            }
            Mnemonic::Lea => {
                let plain = i.segment_prefix() == Register::None;
                let address = self.address_of(i).filter(|_| plain).ok_or(unsupported)?;
                let origin = match i.memory_index_scale() {
                    1 => self.address_origin(i).carried(),
                    _ => self.address_origin(i).mixed(),
                };
                self.write_from(memory, i, 0, address.0, origin)?;
            }
            Mnemonic::Push => {
                // With an operand-size prefix two bytes are pushed, whatever the operand is.
                if i.stack_pointer_increment() != -8 {
                    return Err(unsupported);
                }
                let value = self.read(memory, i, 0)?;
                self.push(memory, value, self.seen)?;
            }
            Mnemonic::Pop if bits == 64 => {
                let (value, origin) = self.pop(memory)?;
                self.write_from(memory, i, 0, value, origin)?;
            }
            Mnemonic::Leave if i.code() == Code::Leaveq => {
                self.set(Reg::Rsp, self.get(Reg::Rbp), self.origin(Reg::Rbp));
                let (value, origin) = self.pop(memory)?;
                self.set(Reg::Rbp, value, origin);
            }
            Mnemonic::Xchg => {
                let a = self.read(memory, i, 0)?;
                let origin = std::mem::replace(&mut self.seen, Origin::COMPUTED);
                let b = self.read(memory, i, 1)?;
                self.write_from(memory, i, 0, b, self.seen)?;
                self.write_from(memory, i, 1, a, origin)?;
            }
            Mnemonic::Add | Mnemonic::Adc | Mnemonic::Sub | Mnemonic::Sbb | Mnemonic::Cmp => {
                let (a, b) = (self.read(memory, i, 0)?, self.read(memory, i, 1)?);
                if matches!(i.mnemonic(), Mnemonic::Sub | Mnemonic::Sbb) && is_twice(i) {
                    self.seen = Origin::COMPUTED;
                }
                let carry = match i.mnemonic() {
                    Mnemonic::Adc | Mnemonic::Sbb => self.flag(CF, i)?,
                    _ => false,
                };
                let result = match i.mnemonic() {
                    Mnemonic::Add | Mnemonic::Adc => self.add(a, b, carry, bits),
                    _ => self.subtract(a, b, carry, bits),
                };
                if i.mnemonic() != Mnemonic::Cmp {
                    self.write_from(memory, i, 0, result, self.seen.carried())?;
                }
            }
            Mnemonic::Inc | Mnemonic::Dec => {
                let a = self.read(memory, i, 0)?;
                let carry = self.flags.get(CF);
                let earlier = self.flags_origin;
                let result = match i.mnemonic() {
                    Mnemonic::Inc => self.add(a, 1, false, bits),
                    _ => self.subtract(a, 1, false, bits),
                };
                // Unlike add and sub these leave the carry alone.
                match carry {
                    Some(carry) => self.flags.set(CF, carry),
                    None => self.flags.undefine(CF),
                }
                self.flags_origin |= earlier;
                self.write_from(memory, i, 0, result, self.seen.carried())?;
            }
            Mnemonic::Neg => {
                let a = self.read(memory, i, 0)?;
                let result = self.subtract(0, a, false, bits);
                self.write_from(memory, i, 0, result, self.seen.carried())?;
            }
            Mnemonic::Not => {
                let a = self.read(memory, i, 0)?;
                self.write_from(memory, i, 0, !a, self.seen)?;
            }
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => {
                let (a, b) = (self.read(memory, i, 0)?, self.read(memory, i, 1)?);
                let result = match i.mnemonic() {
                    Mnemonic::Or => a | b,
                    Mnemonic::Xor => a ^ b,
                    _ => a & b,
                };
                // What a constant masks away is known, whatever it was.
                let known = match i.mnemonic() {
                    Mnemonic::Xor if is_twice(i) => 0xff,
                    Mnemonic::And | Mnemonic::Test if is_immediate(i.op1_kind()) => bytes_of(b, 0),
                    Mnemonic::Or if is_immediate(i.op1_kind()) => bytes_of(b, 0xff),
                    _ => 0,
                };
                self.seen = self.seen.except(known);
                self.logic(result, bits);
                if i.mnemonic() != Mnemonic::Test {
                    self.write_from(memory, i, 0, result, self.seen)?;
                }
            }
            Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar => self.shift(memory, i, bits)?,
            Mnemonic::Rol | Mnemonic::Ror => self.rotate(memory, i, bits)?,
            Mnemonic::Shlx | Mnemonic::Shrx | Mnemonic::Sarx | Mnemonic::Rorx => {
                let (a, count) = (self.read(memory, i, 1)?, self.read(memory, i, 2)?);
                let count = count as u32 & if bits == 64 { 63 } else { 31 };
                let result = match i.mnemonic() {
                    Mnemonic::Shlx => a << count,
                    Mnemonic::Shrx => a >> count,
                    Mnemonic::Sarx => (sign_extend(a, bits) as i64 >> count) as u64,
                    _ if count == 0 => a,
                    _ => a >> count | a << (bits - count),
                };
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Shld | Mnemonic::Shrd => self.double_shift(memory, i, bits)?,
            // Other flags stay, and with them where they come from.
            Mnemonic::Clc => self.flags.set(CF, false),
            Mnemonic::Stc => self.flags.set(CF, true),
            Mnemonic::Cmc => {
                let carry = self.flag(CF, i)?;
                self.flags.set(CF, !carry);
            }
            Mnemonic::Xadd => {
                let (a, b) = (self.read(memory, i, 0)?, self.read(memory, i, 1)?);
                let sum = self.add(a, b, false, bits);
                if i.op0_kind() == OpKind::Memory {
                    // Before the register changes, which may be of the address.
                    self.write(memory, i, 0, sum)?;
                    self.write(memory, i, 1, a)?;
                } else {
                    self.write(memory, i, 1, a)?;
                    self.write(memory, i, 0, sum)?;
                }
            }
            // With a register in the place of memory processors differ in what they zero-extend.
            Mnemonic::Cmpxchg if i.op0_kind() == OpKind::Memory => {
                let (a, b) = (self.read(memory, i, 0)?, self.read(memory, i, 1)?);
                let accumulator = match bits {
                    8 => Register::AL,
                    16 => Register::AX,
                    32 => Register::EAX,
                    _ => Register::RAX,
                };
                let expected = self.register(accumulator).ok_or(unsupported)?;
                self.seen |= self.register_origin(accumulator);
                self.subtract(expected, a, false, bits);
                if expected == a {
                    self.write(memory, i, 0, b)?;
                } else {
                    self.set_register(accumulator, a, self.seen.mixed()).ok_or(unsupported)?;
                }
            }
            Mnemonic::Mul | Mnemonic::Imul if i.op_count() == 1 => {
                self.multiply(memory, i, bits)?;
            }
            Mnemonic::Mulx => {
                let (a, b) = (self.read(memory, i, 2)?, self.get(Reg::Rdx) & mask(bits));
                self.seen |= self.origin(Reg::Rdx);
                let wide = u128::from(a) * u128::from(b);
                // The high half is written last, should both be the same register.
                self.write(memory, i, 1, wide as u64 & mask(bits))?;
                self.write(memory, i, 0, (wide >> bits) as u64 & mask(bits))?;
            }
            Mnemonic::Popcnt => {
                let result = u64::from(self.read(memory, i, 1)?.count_ones());
                self.flags.set(ALL, false);
                self.flags.set(ZF, result == 0);
                self.flags_origin = self.seen.mixed();
                self.write(memory, i, 0, result)?;
            }
            // As processors with BMI1 and LZCNT do; for others compilers make sure that the source
            // is not zero and do not use the flags.
            Mnemonic::Tzcnt | Mnemonic::Lzcnt => {
                let a = self.read(memory, i, 1)? & mask(bits);
                let zeros = match i.mnemonic() {
                    Mnemonic::Tzcnt => a.trailing_zeros(),
                    _ => a.leading_zeros() - (64 - bits),
                };
                let result = zeros.min(bits);
                self.flags = Flags::UNDEFINED;
                self.flags_origin = self.seen.mixed();
                self.flags.set(CF, a == 0);
                self.flags.set(ZF, result == 0);
                self.write(memory, i, 0, u64::from(result))?;
            }
            Mnemonic::Bsf | Mnemonic::Bsr => {
                let a = self.read(memory, i, 1)? & mask(bits);
                // The result is undefined then.
                if a == 0 {
                    return Err(unsupported);
                }
                let bit = match i.mnemonic() {
                    Mnemonic::Bsf => a.trailing_zeros(),
                    _ => a.ilog2(),
                };
                self.flags = Flags::UNDEFINED;
                self.flags_origin = self.seen.mixed();
                self.flags.set(ZF, false);
                self.write(memory, i, 0, u64::from(bit))?;
            }
            Mnemonic::Blsr | Mnemonic::Blsi | Mnemonic::Blsmsk => {
                let a = self.read(memory, i, 1)? & mask(bits);
                let less = a.wrapping_sub(1);
                let (result, carry) = match i.mnemonic() {
                    Mnemonic::Blsr => (a & less, a == 0),
                    Mnemonic::Blsi => (a & a.wrapping_neg(), a != 0),
                    _ => (a ^ less, a == 0),
                };
                self.logic(result, bits);
                self.flags.undefine(PF);
                self.flags.set(CF, carry);
                self.write(memory, i, 0, result & mask(bits))?;
            }
            Mnemonic::Bzhi => {
                let (a, index) = (self.read(memory, i, 1)?, self.read(memory, i, 2)? as u32 & 0xff);
                let result = if index < bits { a & !(u64::MAX << index) } else { a };
                self.logic(result, bits);
                self.flags.undefine(PF);
                self.flags.set(CF, index >= bits);
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Pdep | Mnemonic::Pext => {
                let (a, mut bits_of) = (self.read(memory, i, 1)?, self.read(memory, i, 2)?);
                let mut result = 0;
                let mut number = 0;
                while bits_of != 0 {
                    let bit = bits_of & bits_of.wrapping_neg();
                    let (from, to) = match i.mnemonic() {
                        Mnemonic::Pdep => (1_u64 << number, bit),
                        _ => (bit, 1_u64 << number),
                    };
                    if a & from != 0 {
                        result |= to;
                    }
                    bits_of ^= bit;
                    number += 1;
                }
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Movbe => {
                let a = self.read(memory, i, 1)?;
                self.write(memory, i, 0, a.swap_bytes() >> (64 - bits))?;
            }
            Mnemonic::Andn => {
                let (a, b) = (self.read(memory, i, 1)?, self.read(memory, i, 2)?);
                let result = !a & b;
                self.logic(result, bits);
                self.flags.undefine(PF);
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Bextr => {
                let (a, control) = (self.read(memory, i, 1)?, self.read(memory, i, 2)?);
                let (start, len) = (control as u32 & 0xff, control as u32 >> 8 & 0xff);
                let shifted = a.checked_shr(start).unwrap_or(0);
                let result = if len == 0 { 0 } else { shifted & mask(len.min(64)) };
                self.flags = Flags::UNDEFINED;
                self.flags_origin = self.seen.mixed();
                self.flags.set(CF | OF, false);
                self.flags.set(ZF, result & mask(bits) == 0);
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Imul if i.op_count() >= 2 => {
                let first = u32::from(i.op_count() == 3);
                let a = sign_extend(self.read(memory, i, first)?, bits) as i64;
                let b = sign_extend(self.read(memory, i, first + 1)?, bits) as i64;
                let wide = i128::from(a) * i128::from(b);
                let result = wide as u64;
                let fits = wide == i128::from(sign_extend(result, bits) as i64);
                self.flags = Flags::UNDEFINED;
                self.flags_origin = self.seen.mixed();
                self.flags.set(CF | OF, !fits);
                self.write(memory, i, 0, result)?;
            }
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
                // With a register index into memory the address is not the operand's: refused.
                if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register {
                    return Err(unsupported);
                }
                let (a, index) = (self.read(memory, i, 0)?, self.read(memory, i, 1)?);
                let bit = 1_u64 << (index as u32 & (bits - 1));
                self.flags.undefine(PF | SF | OF);
                self.flags.set(CF, a & bit != 0);
                self.flags_origin |= self.seen.mixed();
                match i.mnemonic() {
                    Mnemonic::Bts => self.write(memory, i, 0, a | bit)?,
                    Mnemonic::Btr => self.write(memory, i, 0, a & !bit)?,
                    Mnemonic::Btc => self.write(memory, i, 0, a ^ bit)?,
                    _ => {}
                }
            }
            // One of these is a vector's too, and refused there.
            Mnemonic::Stosb
            | Mnemonic::Stosw
            | Mnemonic::Stosd
            | Mnemonic::Stosq
            | Mnemonic::Movsb
            | Mnemonic::Movsw
            | Mnemonic::Movsd
            | Mnemonic::Movsq => self.string(memory, i)?,
            Mnemonic::Bswap if bits >= 32 => {
                let a = self.read(memory, i, 0)?;
                self.write(memory, i, 0, a.swap_bytes() >> (64 - bits))?;
            }
            Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe => {
                let (from, to) = match i.mnemonic() {
                    Mnemonic::Cbw => (8, Register::AX),
                    Mnemonic::Cwde => (16, Register::EAX),
                    _ => (32, Register::RAX),
                };
                let value = sign_extend(self.get(Reg::Rax), from);
                let origin = self.origin(Reg::Rax).sign_extended(from as usize / 8);
                self.set_register(to, value, origin).ok_or(unsupported)?;
            }
            Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => {
                let (bits, to) = match i.mnemonic() {
                    Mnemonic::Cwd => (16, Register::DX),
                    Mnemonic::Cdq => (32, Register::EDX),
                    _ => (64, Register::RDX),
                };
                let sign = self.get(Reg::Rax) >> (bits - 1) & 1;
                let origin = self.origin(Reg::Rax).down(bits / 8 - 1).low(1).mixed();
                self.set_register(to, 0_u64.wrapping_sub(sign), origin).ok_or(unsupported)?;
            }
            // setcc has one operand, cmovcc two; jcc was handled above.
            _ if i.condition_code() != ConditionCode::None && i.op_count() <= 2 => {
                self.conditional(memory, i)?;
            }
            _ => return Err(unsupported),
        }
        Ok(Step::Next)
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

    fn shift(&mut self, memory: &mut Memory, i: &Raw, bits: u32) -> Result<(), Trap> {
        let a = self.read(memory, i, 0)? & mask(bits);
        let count = self.read(memory, i, 1)? as u32 & if bits == 64 { 63 } else { 31 };
        if count == 0 {
            // Neither value nor flags change, but a 32-bit register is zero-extended.
            return self.write_from(memory, i, 0, a, self.seen);
        }
        let whole_bytes = is_immediate(i.op1_kind()) && count.is_multiple_of(8) && count < bits;
        let origin = match i.mnemonic() {
            Mnemonic::Shl if whole_bytes => self.seen.up(count as usize / 8),
            Mnemonic::Shr if whole_bytes => self.seen.down(count as usize / 8),
            _ => self.seen.mixed(),
        };
        let (result, carry) = match i.mnemonic() {
            Mnemonic::Shl => {
                let wide = u128::from(a) << count;
                (wide as u64, wide >> bits & 1 != 0)
            }
            Mnemonic::Shr => (a >> count, a >> (count - 1) & 1 != 0),
            _ => {
                let signed = i128::from(sign_extend(a, bits) as i64);
                ((signed >> count) as u64, signed >> (count - 1) & 1 != 0)
            }
        };
        self.flags.set_result(result, bits);
        if count >= bits && i.mnemonic() != Mnemonic::Sar {
            self.flags.undefine(CF);
        } else {
            self.flags.set(CF, carry);
        }
        self.flags.undefine(OF);
        if count == 1 {
            let overflow = match i.mnemonic() {
                Mnemonic::Shl => (result & sign_bit(bits) != 0) != carry,
                Mnemonic::Shr => a & sign_bit(bits) != 0,
                _ => false,
            };
            self.flags.set(OF, overflow);
        }
        self.flags_origin = self.seen.mixed();
        self.write_from(memory, i, 0, result, origin)
    }

    /// `shld` and `shrd`: bits of the second operand are shifted in.
    fn double_shift(&mut self, memory: &mut Memory, i: &Raw, bits: u32) -> Result<(), Trap> {
        let a = self.read(memory, i, 0)? & mask(bits);
        let b = self.read(memory, i, 1)? & mask(bits);
        let count = self.read(memory, i, 2)? as u32 & if bits == 64 { 63 } else { 31 };
        // With more than the operand's bits the result is undefined.
        if count > bits {
            return Err(Trap::Unsupported(i.code()));
        }
        if count == 0 {
            return self.write(memory, i, 0, a);
        }
        let wide = u128::from(a) << bits | u128::from(b);
        let (result, carry) = if i.mnemonic() == Mnemonic::Shld {
            (((wide << count) >> bits) as u64, a >> (bits - count) & 1 != 0)
        } else {
            let wide = u128::from(b) << bits | u128::from(a);
            ((wide >> count) as u64, a >> (count - 1) & 1 != 0)
        };
        let result = result & mask(bits);
        self.flags.set_result(result, bits);
        self.flags.set(CF, carry);
        self.flags.undefine(OF);
        if count == 1 {
            self.flags.set(OF, (a ^ result) & sign_bit(bits) != 0);
        }
        self.flags_origin = self.seen.mixed();
        self.write(memory, i, 0, result)
    }

    /// `mul` and the `imul` of one operand: both halves of the product.
    fn multiply(&mut self, memory: &Memory, i: &Raw, bits: u32) -> Result<(), Trap> {
        let unsupported = Trap::Unsupported(i.code());
        let a = self.get(Reg::Rax) & mask(bits);
        let b = self.read(memory, i, 0)? & mask(bits);
        self.seen |= self.origin(Reg::Rax).low(bits as usize / 8);
        let origin = self.seen.mixed();
        let (wide, fits) = if i.mnemonic() == Mnemonic::Mul {
            let wide = u128::from(a) * u128::from(b);
            (wide, wide >> bits == 0)
        } else {
            let signed = |value| i128::from(sign_extend(value, bits) as i64);
            let wide = signed(a) * signed(b);
            (wide as u128, wide == signed(wide as u64 & mask(bits)))
        };
        let (low, high) = (wide as u64 & mask(bits), (wide >> bits) as u64 & mask(bits));
        let (low_to, high_to) = match bits {
            8 => (Register::AL, Register::AH),
            16 => (Register::AX, Register::DX),
            32 => (Register::EAX, Register::EDX),
            _ => (Register::RAX, Register::RDX),
        };
        self.set_register(low_to, low, origin).ok_or(unsupported)?;
        self.set_register(high_to, high, origin).ok_or(unsupported)?;
        self.flags = Flags::UNDEFINED;
        self.flags.set(CF | OF, !fits);
        Ok(())
    }

    fn rotate(&mut self, memory: &mut Memory, i: &Raw, bits: u32) -> Result<(), Trap> {
        let a = self.read(memory, i, 0)? & mask(bits);
        let masked = self.read(memory, i, 1)? as u32 & if bits == 64 { 63 } else { 31 };
        let count = masked % bits;
        let left = if i.mnemonic() == Mnemonic::Rol { count } else { (bits - count) % bits };
        let result = if left == 0 { a } else { (a << left | a >> (bits - left)) & mask(bits) };
        if masked != 0 {
            let top = result & sign_bit(bits) != 0;
            let second = result >> (bits - 2) & 1 != 0;
            let (carry, overflow) = match i.mnemonic() {
                Mnemonic::Rol => (result & 1 != 0, top != (result & 1 != 0)),
                _ => (top, top != second),
            };
            self.flags.set(CF, carry);
            self.flags.undefine(OF);
            if masked == 1 {
                self.flags.set(OF, overflow);
            }
            self.flags_origin |= self.seen.mixed();
        }
        self.write(memory, i, 0, result)
    }

    /// `stos` and `movs`, with and without `rep`. The direction flag is clear, as the kernel's ABI
    /// wants it.
    fn string(&mut self, memory: &mut Memory, i: &Raw) -> Result<(), Trap> {
        let unsupported = Trap::Unsupported(i.code());
        let (size, moves) = match i.code() {
            Code::Stosb_m8_AL => (1, false),
            Code::Stosw_m16_AX => (2, false),
            Code::Stosd_m32_EAX => (4, false),
            Code::Stosq_m64_RAX => (8, false),
            Code::Movsb_m8_m8 => (1, true),
            Code::Movsw_m16_m16 => (2, true),
            Code::Movsd_m32_m32 => (4, true),
            Code::Movsq_m64_m64 => (8, true),
            _ => return Err(unsupported),
        };
        let narrow = i.op0_kind() != OpKind::MemoryESRDI;
        if narrow || i.has_repne_prefix() || i.segment_prefix() != Register::None {
            return Err(unsupported);
        }
        let count = if i.has_rep_prefix() { self.get(Reg::Rcx) } else { 1 };
        if count > MAX_REP {
            return Err(unsupported);
        }
        for _ in 0..count {
            let to = self.get(Reg::Rdi);
            let (value, origin) = if moves {
                let from = self.get(Reg::Rsi);
                self.registers[Reg::Rsi as usize] = from.wrapping_add(size as u64);
                memory.load(Address(from), size)?
            } else {
                (self.get(Reg::Rax), self.origin(Reg::Rax))
            };
            memory.write(Address(to), size, value, origin)?;
            self.registers[Reg::Rdi as usize] = to.wrapping_add(size as u64);
        }
        if i.has_rep_prefix() {
            self.set(Reg::Rcx, 0, Origin::COMPUTED);
        }
        Ok(())
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

/// Which bits of a general register an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GprPart {
    All,
    Bits32,
    Bits16,
    Bits8,
    /// The second byte: `ah`, `ch`, `dh`, `bh`.
    High,
}

/// A general register's number and which part of it is meant. This is asked several times for every
/// instruction that is run, and iced numbers registers in the order of their encoding.
fn general(register: Register) -> Option<(usize, GprPart)> {
    const AL: usize = Register::AL as usize;
    const AH: usize = Register::AH as usize;
    const SPL: usize = Register::SPL as usize;
    const AX: usize = Register::AX as usize;
    const EAX: usize = Register::EAX as usize;
    const RAX: usize = Register::RAX as usize;
    const R15: usize = Register::R15 as usize;
    let register = register as usize;
    Some(match register {
        RAX..=R15 => (register - RAX, GprPart::All),
        EAX..RAX => (register - EAX, GprPart::Bits32),
        AX..EAX => (register - AX, GprPart::Bits16),
        // After `bl` come `ah` to `bh`, which take the numbers of `spl` to `dil`.
        SPL..AX => (register - SPL + 4, GprPart::Bits8),
        AH..SPL => (register - AH, GprPart::High),
        AL..AH => (register - AL, GprPart::Bits8),
        _ => return None,
    })
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

/// The 64-bit register that a general register is, or is a part of.
pub(super) fn number_of(register: Register) -> Option<Reg> {
    general(register).map(|(number, _)| Reg::ALL[number])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::decode;

    #[test]
    fn general_registers_are_what_iced_says() {
        for register in Register::values() {
            let high = [Register::AH, Register::CH, Register::DH, Register::BH].contains(&register);
            let expected = register.is_gpr().then(|| {
                let full = register.full_register().number();
                match register.size() {
                    8 => (full, GprPart::All),
                    4 => (full, GprPart::Bits32),
                    2 => (full, GprPart::Bits16),
                    _ if high => (register as usize - Register::AH as usize, GprPart::High),
                    _ => (full, GprPart::Bits8),
                }
            });
            assert_eq!(general(register), expected, "{register:?}");
        }
    }

    /// `native.rs` compares what is run with the processor; this is what must not be.
    #[test]
    fn what_is_not_modelled_is_refused() {
        let mut memory = Memory::default();
        memory.map(Address(0x1000), vec![0; 256], true);
        let refused: [(&str, &[u8]); 9] = [
            ("push of two bytes", &[0x66, 0x6a, 0x01]),
            ("leave of two bytes", &[0x66, 0xc9]),
            ("bit string in memory", &[0x0f, 0xa3, 0x08]),
            ("fs", &[0x64, 0x8b, 0x00]),
            ("popf", &[0x9d]),
            ("std", &[0xfd]),
            ("vector", &[0xf2, 0x0f, 0x10, 0xc1]),
            ("mov from cr0", &[0x0f, 0x20, 0xc0]),
            ("far return", &[0x48, 0xcb]),
        ];
        for (name, bytes) in refused {
            let i = decode(bytes, 0x40, 0).unwrap();
            let mut cpu = Cpu::new([0x1080; 16], 0x40);
            let result = cpu.step(&mut memory, &i);
            assert_eq!(result, Err(Trap::Unsupported(i.0.code())), "{name}");
            assert_eq!((cpu.rip, cpu.registers), (0x40, [0x1080; 16]), "{name}");
        }
    }

    #[test]
    fn undefined_flags_are_not_read() {
        let mut memory = Memory::default();
        let mut cpu = Cpu::new([2; 16], 0);
        // shl eax, 3 leaves OF undefined: jo is refused, je is not.
        cpu.step(&mut memory, &decode(&[0xc1, 0xe0, 3], 0, 0).unwrap()).unwrap();
        let jo = decode(&[0x70, 0], 3, 0).unwrap();
        assert_eq!(cpu.step(&mut memory, &jo), Err(Trap::UndefinedFlag(jo.0.code())));
        let je = decode(&[0x74, 0], 3, 0).unwrap();
        assert_eq!(cpu.step(&mut memory, &je), Ok(Step::Branch(false)));
    }
}
