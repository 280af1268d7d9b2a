//! What moves values, from place to place and from size to size.

use super::{
    Address, Code, Cpu, MAX_REP, Memory, Mnemonic, OpKind, Origin, Raw, Reg, Register, Trap,
    sign_extend,
};

impl Cpu {
    /// Moves and conversions. Whether the instruction is one of them.
    pub(super) fn moves(&mut self, memory: &mut Memory, i: &Raw, bits: u32) -> Result<bool, Trap> {
        let unsupported = Trap::Unsupported(i.code());
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
            Mnemonic::Movbe => {
                let a = self.read(memory, i, 1)?;
                self.write(memory, i, 0, a.swap_bytes() >> (64 - bits))?;
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
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `stos` and `movs`, with and without `rep`. The direction flag is clear, as the kernel's ABI
    /// wants it.
    pub(super) fn string(&mut self, memory: &mut Memory, i: &Raw) -> Result<(), Trap> {
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
}
