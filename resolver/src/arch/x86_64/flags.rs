//! The status flags. A flag that an instruction leaves undefined stays so: reading it ends the run,
//! since hardware would give an answer that nobody may rely on.

use iced_x86::ConditionCode;

/// CF, PF, ZF, SF, OF and whether each is defined. AF is not modelled: no supported instruction
/// reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    values: u8,
    defined: u8,
}

/// Carry.
pub const CF: u8 = 1;
/// Parity of the low byte.
pub const PF: u8 = 2;
/// Zero.
pub const ZF: u8 = 4;
/// Sign.
pub const SF: u8 = 8;
/// Signed overflow.
pub const OF: u8 = 16;
/// All of them.
pub const ALL: u8 = CF | PF | ZF | SF | OF;

impl Flags {
    /// None is defined.
    pub const UNDEFINED: Self = Self { values: 0, defined: 0 };

    /// Sets or clears the flags in `which`.
    pub fn set(&mut self, which: u8, value: bool) {
        self.defined |= which;
        if value {
            self.values |= which;
        } else {
            self.values &= !which;
        }
    }

    /// Makes the flags in `which` undefined.
    pub fn undefine(&mut self, which: u8) {
        self.defined &= !which;
    }

    /// One flag; `None` where it is undefined.
    pub fn get(self, which: u8) -> Option<bool> {
        (self.defined & which == which).then_some(self.values & which != 0)
    }

    /// ZF, SF and PF of a result of `bits` bits.
    pub fn set_result(&mut self, result: u64, bits: u32) {
        let result = result & mask(bits);
        self.set(ZF, result == 0);
        self.set(SF, result >> (bits - 1) & 1 != 0);
        self.set(PF, (result as u8).count_ones().is_multiple_of(2));
    }

    /// Whether a condition holds; `None` where it depends on an undefined flag.
    pub fn condition(self, code: ConditionCode) -> Option<bool> {
        let get = |flag| self.get(flag);
        Some(match code {
            ConditionCode::o => get(OF)?,
            ConditionCode::no => !get(OF)?,
            ConditionCode::b => get(CF)?,
            ConditionCode::ae => !get(CF)?,
            ConditionCode::e => get(ZF)?,
            ConditionCode::ne => !get(ZF)?,
            ConditionCode::be => get(CF)? | get(ZF)?,
            ConditionCode::a => !(get(CF)? | get(ZF)?),
            ConditionCode::s => get(SF)?,
            ConditionCode::ns => !get(SF)?,
            ConditionCode::p => get(PF)?,
            ConditionCode::np => !get(PF)?,
            ConditionCode::l => get(SF)? != get(OF)?,
            ConditionCode::ge => get(SF)? == get(OF)?,
            ConditionCode::le => get(ZF)? | (get(SF)? != get(OF)?),
            ConditionCode::g => !get(ZF)? & (get(SF)? == get(OF)?),
            ConditionCode::None => return None,
        })
    }
}

/// The low `bits` bits set; `bits` is 1 to 64.
pub fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}
