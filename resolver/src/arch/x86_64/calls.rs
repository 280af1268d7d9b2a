//! How functions are called: the kernel's convention (System V psABI), the thunks that mitigations put in between,
//! and what is called from assembly.

use super::{Instruction, machine::Cpu};
use crate::resolve::{
    memory::{Fault, Memory},
    origin::Origin,
};
use iced_x86::Code;
use nfdrop_db::Reg;

/// Where arguments are, in order.
pub const ARGUMENTS: [Reg; 4] = [Reg::Rdi, Reg::Rsi, Reg::Rdx, Reg::Rcx];
/// Where the result is.
pub const RESULT: Reg = Reg::Rax;
/// The stack pointer.
pub const STACK_POINTER: Reg = Reg::Rsp;
/// Registers whose values may be addresses in the frame: the stack pointer and the frame pointer.
pub const FRAME: [Reg; 2] = [Reg::Rsp, Reg::Rbp];
/// What a function leaves as it was.
pub const KEPT: [Reg; 7] = [Reg::Rbx, Reg::Rsp, Reg::Rbp, Reg::R12, Reg::R13, Reg::R14, Reg::R15];
/// Bytes below the stack pointer of the caller at which a function begins: the return address.
pub const ENTRY: u64 = 8;

/// As a call does it: where the called function returns to.
pub fn call(cpu: &mut Cpu, memory: &mut Memory, return_to: u64) -> Result<(), Fault> {
    cpu.push(memory, return_to, Origin::DATA)
}

/// As the called function does it at its end.
pub fn return_to_caller(cpu: &mut Cpu, memory: &Memory) -> Result<(), Fault> {
    (cpu.rip, _) = cpu.pop(memory)?;
    Ok(())
}

/// Code that stands for one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thunk {
    /// A return.
    Return,
    /// A jump to where a register says.
    Jump(Reg),
}

/// What a symbol stands for: `__x86_return_thunk`, and `__x86_indirect_thunk_rax` and its kin
/// (arch/x86/lib/retpoline.S).
pub fn thunk(name: &str) -> Option<Thunk> {
    if name == "__x86_return_thunk" {
        return Some(Thunk::Return);
    }
    let register = name
        .strip_prefix("__x86_indirect_thunk_")
        .or_else(|| name.strip_prefix("__x86_indirect_call_thunk_"))
        .or_else(|| name.strip_prefix("__x86_indirect_jump_thunk_"))?;
    Reg::ALL.into_iter().find(|reg| reg.name() == register).map(Thunk::Jump)
}

/// What is called from assembly in C and therefore keeps all registers: the tracer at a function's
/// start (`arch/x86/kernel/ftrace_64.S`) and the scheduler where preemption is enabled again
/// (arch/x86/include/asm/preempt.h, arch/x86/entry/thunk.S).
pub fn keeps_registers(name: &str) -> bool {
    const THUNKS: [&str; 9] = [
        "__fentry__",
        "__mcount",
        "mcount",
        "preempt_schedule_thunk",
        "preempt_schedule_notrace_thunk",
        "___preempt_schedule",
        "___preempt_schedule_notrace",
        "__SCT__preempt_schedule",
        "__SCT__preempt_schedule_notrace",
    ];
    THUNKS.contains(&name)
}

/// kCFI: the hash of its type that lies in front of a function, read by `add reg, [callee - d]` where
/// the register holds what makes the sum 0 (LLVM's `X86AsmPrinter::LowerKCFI_CHECK`), or compared at
/// once. What an instruction that reads there expects to find.
pub fn expected_hash(cpu: &Cpu, instruction: &Instruction, fault: Fault) -> Option<u32> {
    let i = &instruction.0;
    match i.code() {
        Code::Add_r32_rm32 if !fault.write => {
            let register = Reg::ALL.get(i.op0_register().number())?;
            Some((cpu.get(*register) as u32).wrapping_neg())
        }
        Code::Cmp_rm32_imm32 => Some(i.immediate32()),
        _ => None,
    }
}
