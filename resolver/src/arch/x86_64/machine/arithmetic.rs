//! Sums, differences and products, and the carry.

use super::{
    CF, Cpu, Flags, Memory, Mnemonic, OF, OpKind, Origin, Raw, Reg, Register, Trap, is_twice, mask,
    sign_extend,
};

impl Cpu {
    /// Arithmetic. Whether the instruction is one of them.
    pub(super) fn arithmetic(
        &mut self,
        memory: &mut Memory,
        i: &Raw,
        bits: u32,
    ) -> Result<bool, Trap> {
        let unsupported = Trap::Unsupported(i.code());
        match i.mnemonic() {
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
            _ => return Ok(false),
        }
        Ok(true)
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
}
