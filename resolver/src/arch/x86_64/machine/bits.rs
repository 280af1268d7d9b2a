//! What works on bits: logic, shifts, counts, single bits.

use super::{
    ALL, CF, Cpu, Flags, Memory, Mnemonic, OF, OpKind, PF, Raw, SF, Trap, ZF, bytes_of,
    is_immediate, is_twice, mask, sign_bit, sign_extend,
};

impl Cpu {
    /// Logic, shifts and bits. Whether the instruction is one of them.
    pub(super) fn bits(&mut self, memory: &mut Memory, i: &Raw, bits: u32) -> Result<bool, Trap> {
        let unsupported = Trap::Unsupported(i.code());
        match i.mnemonic() {
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
            _ => return Ok(false),
        }
        Ok(true)
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
}
