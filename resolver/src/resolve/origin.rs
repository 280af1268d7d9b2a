//! Where values come from, byte by byte. Reading a register that the function has not set is no
//! error: it holds what a callee or the caller left there. So the machine carries with every value
//! whether the function has made it, and of what; a plan uses nothing else.
//!
//! A leftover is a register at entry, what a call leaves in the registers it may change, its return
//! value included (many return nothing, and a kernel may change which do), and stack that was never
//! written. What is made of a leftover is one too, and so is what is read through one.

use std::ops::{BitOr, BitOrAssign};

/// Of a value of up to 8 bytes: bit n speaks of byte n, in the low half of leftovers, in the high
/// half of data. A byte that is neither was computed from constants, verdicts and policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(u16);

/// The first byte's bit in both halves.
const FIRST_BYTE: u16 = 0x0101;

impl Origin {
    /// Constants, `regs.verdict.code`, the base chain's policy, and what is computed from them: only
    /// these can tell a drop from anything else.
    pub const COMPUTED: Self = Self(0);
    /// Pointers, and whatever else is in memory: any value that a ruleset or packet may give it.
    pub const DATA: Self = Self(0xff00);
    /// Nobody has said what it is.
    pub const LEFTOVER: Self = Self(0x00ff);

    /// Whether the function has made all eight bytes.
    pub fn is_defined(self) -> bool {
        self.0.trailing_zeros() >= 8
    }

    /// Whether the lowest byte can tell a drop from anything else.
    pub fn decides(self) -> bool {
        self.0 & FIRST_BYTE == 0
    }

    /// Of the lowest `size` bytes (1 to 8); those above are zero.
    #[must_use]
    pub fn low(self, size: usize) -> Self {
        Self(self.0 & bytes(size))
    }

    /// Of the bytes from `offset` (0 to 7) on, which become the lowest; zeros follow.
    #[must_use]
    pub fn down(self, offset: usize) -> Self {
        Self(self.0 >> offset & bytes(8 - offset))
    }

    /// Of the value moved up by `offset` bytes (0 to 7); zeros come in.
    #[must_use]
    pub fn up(self, offset: usize) -> Self {
        Self((self.0 & bytes(8 - offset)) << offset)
    }

    /// With the lowest `size` bytes (1 to 8) of another.
    #[must_use]
    pub fn with_low(self, size: usize, low: Self) -> Self {
        Self(self.0 & !bytes(size) | low.0 & bytes(size))
    }

    /// Of a sum: carries only go up.
    #[must_use]
    pub fn carried(self) -> Self {
        let up = |half: u16| (half | half.wrapping_neg()) & 0xff;
        Self(up(self.0 & 0xff) | up(self.0 >> 8) << 8)
    }

    /// Where every byte may depend on each.
    #[must_use]
    pub fn mixed(self) -> Self {
        let all = |half: u16| if half == 0 { 0 } else { 0xff };
        Self(all(self.0 & 0xff) | all(self.0 >> 8) << 8)
    }

    /// Of a value of `size` bytes whose sign fills the bytes above.
    #[must_use]
    pub fn sign_extended(self, size: usize) -> Self {
        let own = self.low(size);
        own | Self(own.down(size - 1).mixed().0 & !bytes(size))
    }

    /// Without the bytes for which `known` has a bit: whatever they were made of, they are constant.
    #[must_use]
    pub fn except(self, known: u8) -> Self {
        let known = u16::from(known);
        Self(self.0 & !(known | known << 8))
    }

    /// Only the leftovers: what is read through this address is data, or as unknown as the address.
    #[must_use]
    pub fn of_address(self) -> Self {
        Self(self.0 & 0xff).mixed()
    }
}

/// The bits of the lowest `size` bytes, in both halves.
fn bytes(size: usize) -> u16 {
    let mask = 0xff_u16 >> (8 - size.clamp(1, 8));
    mask | mask << 8
}

impl BitOr for Origin {
    type Output = Self;

    /// Of what is made of both.
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Origin {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_with_their_origin() {
        let word = Origin::COMPUTED.with_low(2, Origin::LEFTOVER);
        assert!(!word.is_defined() && !word.decides());
        assert_eq!(word.down(2), Origin::COMPUTED);
        assert_eq!(word.down(1), Origin::LEFTOVER.low(1));
        assert!(word.up(1).decides() && !word.up(1).is_defined());
        assert_eq!(Origin::LEFTOVER.up(7).down(7), Origin::LEFTOVER.low(1));
        assert_eq!(Origin::DATA.low(4) | Origin::DATA.low(4).up(4), Origin::DATA);
    }

    #[test]
    fn sums_carry_up_and_signs_fill() {
        let second = Origin::LEFTOVER.low(1).up(1);
        assert!(second.carried().decides());
        assert_eq!(second.carried().down(1), Origin::LEFTOVER.low(7));
        assert_eq!(second.mixed(), Origin::LEFTOVER);
        assert_eq!(second.low(2).sign_extended(2), second.carried());
        assert_eq!(Origin::DATA.low(1).sign_extended(4), Origin::DATA.low(1));
        assert_eq!(Origin::DATA.except(0xff), Origin::COMPUTED);
        assert!(Origin::LEFTOVER.except(1).decides());
        assert_eq!(Origin::DATA.of_address(), Origin::COMPUTED);
    }
}
