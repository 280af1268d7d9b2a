//! What differs from processor to processor: a folder each. All that the rest of the resolver knows of one are the
//! names that are listed here.

pub mod x86_64;

pub use x86_64::{
    Access, Cpu, Era, Flow, Instruction, MemoryOperand, Registers, Rules, Step, Syntax, Trap,
    calls, decode, patch,
};
pub(crate) use x86_64::{
    machine::{PER_CPU, PER_CPU_SIZE},
    references, text,
};
