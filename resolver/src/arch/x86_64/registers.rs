//! General registers and their parts.

use iced_x86::Register;
use nfdrop_db::Reg;

/// Which bits of a general register an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GprPart {
    All,
    Bits32,
    Bits16,
    Bits8,
    /// The second byte: `ah`, `ch`, `dh`, `bh`.
    High,
}

/// A general register's number and which part of it is meant. This is asked several times for every
/// instruction that is run, and iced numbers registers in the order of their encoding.
pub(super) fn general(register: Register) -> Option<(usize, GprPart)> {
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

/// The 64-bit register that a general register is, or is a part of.
pub(super) fn number_of(register: Register) -> Option<Reg> {
    general(register).map(|(number, _)| Reg::ALL[number])
}
