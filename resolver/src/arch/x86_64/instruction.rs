//! An instruction as the engine sees it: where it is, where execution goes from there, and what it does to
//! registers and memory as far as more than the machine wants to know it.

use super::registers::number_of;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register};
use nfdrop_db::Reg;
use std::fmt;

/// An instruction, with its address.
#[derive(Debug, Clone, Copy)]
pub struct Instruction(pub(super) iced_x86::Instruction);

/// Where execution goes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// On.
    Next,
    /// On, or to the target, by a condition.
    Branch,
    /// To the target.
    Jump,
    /// To where a register or memory says.
    IndirectJump,
    /// To the target, and back.
    Call,
    /// To where a register or memory says, and back.
    IndirectCall,
    /// To the caller.
    Return,
    /// Nowhere: `ud2` and its kin, which the kernel may go on behind.
    Exception,
    /// Interrupts and the like, which compiled code does not have.
    Other,
}

/// Where execution may go after an instruction, as far as it can be told without running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successors {
    /// The instruction behind, if execution can get there.
    pub next: Option<u64>,
    /// A direct branch's or call's target.
    pub branch: Option<u64>,
    /// A call or trap, behind which there need not be anything.
    pub may_not_return: bool,
}

/// What an instruction does with its operand in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Takes its address.
    Address,
    /// Stores into it, and nothing else.
    Store,
    /// Reads it, and may write it.
    Read,
}

/// An operand in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The 64-bit register that its address begins with.
    pub base: Option<Reg>,
    /// Whether the address is the base, or zero where there is none, and [`MemoryOperand::offset`]: no index,
    /// no segment, no register of another size.
    pub is_plain: bool,
    /// What is added to the base; the address itself where it has none.
    pub offset: u64,
    /// Bytes.
    pub size: usize,
    /// What is done with it.
    pub access: Access,
    /// Whether it is the operand that is written or compared first.
    pub is_first: bool,
}

/// What an instruction does with registers, in the forms that carry a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registers {
    /// Compares a register with a number, or subtracts it.
    Compare(Reg, u64),
    /// Sets a register to a number.
    Set(u64),
    /// Copies one 64-bit register to another: the one that is read.
    Copy(Reg),
    /// Looks whether a register is zero.
    Test(Reg),
}

/// Decodes the instruction at `offset` of `code`, which lies at `base`; `None` where there is none.
pub fn decode(code: &[u8], base: u64, offset: usize) -> Option<Instruction> {
    let rest = code.get(offset..)?;
    let ip = base.wrapping_add(offset as u64);
    let mut decoder = Decoder::with_ip(64, rest, ip, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(Instruction(instruction))
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Instruction {
    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.ip()
    }

    /// Where the next one is.
    pub fn next_address(&self) -> u64 {
        self.0.next_ip()
    }

    /// Bytes; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Its kind, for messages.
    pub fn name(&self) -> impl fmt::Debug + use<> {
        self.0.code()
    }

    /// Where execution goes.
    pub fn flow(&self) -> Flow {
        match self.0.flow_control() {
            FlowControl::Next => Flow::Next,
            FlowControl::ConditionalBranch => Flow::Branch,
            FlowControl::UnconditionalBranch => Flow::Jump,
            FlowControl::IndirectBranch => Flow::IndirectJump,
            FlowControl::Call => Flow::Call,
            FlowControl::IndirectCall => Flow::IndirectCall,
            FlowControl::Return => Flow::Return,
            FlowControl::Exception => Flow::Exception,
            FlowControl::Interrupt | FlowControl::XbeginXabortXend => Flow::Other,
        }
    }

    /// The target of a direct branch or call.
    pub fn target(&self) -> Option<u64> {
        let near = matches!(
            self.0.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        );
        near.then(|| self.0.near_branch_target())
    }

    /// Where execution may go.
    pub fn successors(&self) -> Successors {
        let (next, branch) = (Some(self.next_address()), self.target());
        match self.0.flow_control() {
            FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::Return
            | FlowControl::Interrupt => Successors { next: None, branch, may_not_return: false },
            FlowControl::Call | FlowControl::IndirectCall | FlowControl::Exception => {
                Successors { next, branch, may_not_return: true }
            }
            _ => Successors { next, branch, may_not_return: false },
        }
    }

    /// `ud2`, which warnings and bugs of the kernel's own code are made of.
    pub fn is_bug(&self) -> bool {
        self.0.mnemonic() == Mnemonic::Ud2
    }

    /// What compilers and the kernel fill gaps with: `nop` and `int3`.
    pub fn is_padding(&self) -> bool {
        matches!(self.0.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
    }

    /// Does nothing.
    pub fn is_nop(&self) -> bool {
        self.0.mnemonic() == Mnemonic::Nop
    }

    /// Marks a place rather than doing something: `endbr64`, `ud2`, `int3`.
    pub fn is_marker(&self) -> bool {
        matches!(self.0.mnemonic(), Mnemonic::Endbr64 | Mnemonic::Ud2 | Mnemonic::Int3)
    }

    /// Whether a compiler may have made it out of C code in the kernel. Privileged and floating-point
    /// instructions, breakpoints, interrupts and the like mean that bytes were changed or that data was taken
    /// for code.
    pub fn is_plausible(&self) -> bool {
        let i = &self.0;
        let flow = i.flow_control();
        let strange_flow = matches!(flow, FlowControl::Interrupt | FlowControl::XbeginXabortXend)
            || flow == FlowControl::Exception && !is_undefined(i);
        let far = i.is_jmp_far()
            || i.is_call_far()
            || i.is_jmp_far_indirect()
            || i.is_call_far_indirect();
        let strange = i.is_privileged()
            || i.is_save_restore_instruction()
            || i.fpu_stack_increment_info().increment() != 0
            || i.is_loop()
            || i.is_loopcc();
        !(strange_flow || far || strange)
    }

    /// The operand in memory.
    pub fn memory(&self) -> Option<MemoryOperand> {
        let i = &self.0;
        let operand = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory)?;
        let base = i.memory_base();
        let access = match i.mnemonic() {
            Mnemonic::Lea => Access::Address,
            Mnemonic::Mov if operand == 0 => Access::Store,
            _ => Access::Read,
        };
        let known_base = base.is_gpr64() || matches!(base, Register::None | Register::RIP);
        Some(MemoryOperand {
            base: if base.is_gpr64() { number_of(base) } else { None },
            is_plain: i.memory_index() == Register::None
                && i.segment_prefix() == Register::None
                && known_base,
            offset: i.memory_displacement64(),
            size: i.memory_size().size(),
            access,
            is_first: operand == 0,
        })
    }

    /// Whether the operand in memory begins with the stack pointer and has no index.
    pub fn is_on_stack(&self) -> bool {
        self.0.memory_base() == Register::RSP && self.0.memory_index() == Register::None
    }

    /// The variable at a fixed address that it looks at: address and bytes.
    pub fn global_read(&self) -> Option<(u64, usize)> {
        let looks = matches!(
            self.0.mnemonic(),
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsxd
        );
        let memory = self.memory()?;
        let direct = memory.is_plain && memory.base.is_none();
        (looks && direct && memory.access == Access::Read).then_some((memory.offset, memory.size))
    }

    /// Whether it makes the frame pointer point into the stack.
    pub fn sets_frame_pointer(&self) -> bool {
        let i = &self.0;
        let moves = matches!(i.mnemonic(), Mnemonic::Mov | Mnemonic::Lea);
        let from_stack = i.op1_register() == Register::RSP || i.memory_base() == Register::RSP;
        moves && i.op0_register() == Register::RBP && from_stack
    }

    /// Whether it reads the stack protector's value: `%gs:0x28`.
    pub fn reads_stack_protector(&self) -> bool {
        self.0.segment_prefix() == Register::GS && self.0.memory_displacement64() == 0x28
    }

    /// Whether it tests one bit or byte against 1.
    pub fn tests_for_one(&self) -> bool {
        let i = &self.0;
        i.mnemonic() == Mnemonic::Test && i.op1_kind() == OpKind::Immediate8 && i.immediate8() == 1
    }

    /// The register whose value it stores into its operand in memory, or combines with it there.
    pub fn stored(&self) -> Option<Reg> {
        let i = &self.0;
        let into_memory = i.op0_kind() == OpKind::Memory && i.op_count() == 2;
        into_memory.then(|| number_of(i.op1_register())).flatten()
    }

    /// What it does with registers, where its operands are registers and numbers only.
    pub fn registers(&self) -> Option<Registers> {
        let i = &self.0;
        if i.op_count() != 2 || i.op0_kind() != OpKind::Register {
            return None;
        }
        let first = number_of(i.op0_register());
        let mnemonic = i.mnemonic();
        match i.op1_kind() {
            OpKind::Memory => None,
            OpKind::Register => {
                let wide = i.op0_register().is_gpr64() && i.op1_register().is_gpr64();
                match mnemonic {
                    Mnemonic::Mov if wide => Some(Registers::Copy(number_of(i.op1_register())?)),
                    Mnemonic::Test if i.op0_register() == i.op1_register() => {
                        Some(Registers::Test(first?))
                    }
                    _ => None,
                }
            }
            _ => match mnemonic {
                Mnemonic::Cmp | Mnemonic::Sub => Some(Registers::Compare(first?, i.immediate(1))),
                Mnemonic::Mov => Some(Registers::Set(i.immediate(1))),
                _ => None,
            },
        }
    }

    /// The register that it sets without reading it first, and that is not the stack pointer; for tests that
    /// change code.
    pub fn writes_register(&self) -> bool {
        let sets = matches!(
            self.0.mnemonic(),
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Lea | Mnemonic::Xor | Mnemonic::Pop
        );
        sets && self.0.op0_kind() == OpKind::Register && self.0.op0_register() != Register::RSP
    }
}

/// `ud2`, or what clang's sanitizers trap with instead.
pub(super) fn is_undefined(instruction: &iced_x86::Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Ud1 | Mnemonic::Ud2)
}
