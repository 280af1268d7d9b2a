//! x86-64: decoding, running, and the kernel's kprobe rules.

pub mod flags;
pub mod kprobe;
pub mod machine;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

/// Decodes the instruction at `offset` of `code`, which lies at `base`; `None` where there is none.
pub fn decode(code: &[u8], base: u64, offset: usize) -> Option<Instruction> {
    let rest = code.get(offset..)?;
    let ip = base.wrapping_add(offset as u64);
    let mut decoder = Decoder::with_ip(64, rest, ip, DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Where execution may go after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successors {
    /// The instruction behind, if execution can get there.
    pub next: Option<u64>,
    /// A direct branch's or call's target.
    pub branch: Option<u64>,
    /// A call or trap, behind which there need not be anything.
    pub may_not_return: bool,
}

/// Where execution may go after an instruction, as far as it can be told without running it.
pub fn successors(instruction: &Instruction) -> Successors {
    let next = Some(instruction.next_ip());
    let near = matches!(
        instruction.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    let branch = near.then(|| instruction.near_branch_target());
    match instruction.flow_control() {
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

/// `ud2`, or what clang's sanitizers trap with instead.
pub fn is_undefined(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Ud1 | Mnemonic::Ud2)
}

/// Whether a compiler may have made an instruction out of C code in the kernel. Privileged and
/// floating-point instructions, breakpoints, interrupts and the like mean that bytes were changed
/// or that data was taken for code.
pub fn plausible(instruction: &Instruction) -> bool {
    let flow = instruction.flow_control();
    let strange_flow = matches!(flow, FlowControl::Interrupt | FlowControl::XbeginXabortXend)
        || flow == FlowControl::Exception && !is_undefined(instruction);
    let far = instruction.is_jmp_far()
        || instruction.is_call_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    let strange = instruction.is_privileged()
        || instruction.is_save_restore_instruction()
        || instruction.fpu_stack_increment_info().increment() != 0
        || instruction.is_loop()
        || instruction.is_loopcc();
    !(strange_flow || far || strange)
}
