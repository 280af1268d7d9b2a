//! x86-64: instructions, running them, how functions are called, and the kernel's rules for kprobes.

pub mod calls;
pub mod flags;
mod instruction;
pub mod kprobe;
pub mod machine;
#[cfg(test)]
mod native;
pub mod patch;
pub(crate) mod references;
mod registers;
pub(crate) mod text;

pub use instruction::{Access, Flow, Instruction, MemoryOperand, Registers, Successors, decode};
pub use kprobe::{Era, Rules};
pub use machine::{Cpu, Step, Trap};
pub use text::Syntax;
