//! Values that nobody has set: in registers when the function is entered and when a callee has
//! returned, and on the stack below its frame. A plan that uses one is refused by its [`Origin`]; these
//! values are chosen such that it would be wrong as well.
//!
//! [`Origin`]: super::origin::Origin

use super::memory::{Address, Memory};
use super::random::Random;
use std::sync::{Arc, LazyLock};

/// What is left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Each value is one of the others.
    Mixed,
    /// Any bits.
    Junk,
    /// Addresses where nothing is: what a client reads there is an error, what others read is 0.
    Unreadable,
    /// Small numbers: verdicts, lengths, flags.
    Small,
    /// Addresses around which all is zero, as a policy of drop is.
    Zeros,
    /// Addresses of chains, rules, packet and policy, mostly not of those that matter.
    Objects,
}

impl Leftover {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Mixed, Self::Junk, Self::Unreadable, Self::Small, Self::Zeros, Self::Objects];
}

/// Where nothing is: poisoned list entries (include/linux/poison.h), a user's address, none at all.
const UNREADABLE: [u64; 5] =
    [0xdead_0000_0000_0100, 0xdead_0000_0000_0122, 0x7ffd_5a3c_1000, 0xffff_f000_1234_5678, 16];
const SMALL: [u64; 10] = [0, 1, 2, 3, 0xff, 0x100, 0xffff_fffb, 0xffff_ffff, u64::MAX, 0x1_0000];
/// A page of zeros, in the direct mapping and away from all else.
const ZEROS: u64 = 0xffff_8c00_0000_0000;
const ZEROS_SIZE: usize = 4096;

/// Makes them; the same for the same seed.
#[derive(Debug, Clone)]
pub struct Leftovers {
    kind: Leftover,
    random: Random,
    objects: Arc<Vec<u64>>,
}

impl Leftovers {
    /// Of this kind, among objects at these addresses; adds the zeros to the memory.
    pub fn new(kind: Leftover, seed: u64, objects: Vec<u64>, memory: &mut Memory) -> Self {
        static PAGE: LazyLock<Arc<Vec<u8>>> = LazyLock::new(|| Arc::new(vec![0; ZEROS_SIZE]));
        memory.map(Address(ZEROS), Arc::clone(&PAGE), false);
        Self { kind, random: Random::new(seed), objects: Arc::new(objects) }
    }

    /// The same with another seed.
    #[must_use]
    pub fn again(&self, seed: u64) -> Self {
        Self { random: Random::new(seed), ..self.clone() }
    }

    /// The next value.
    pub fn value(&mut self) -> u64 {
        let random = &mut self.random;
        let kind = match self.kind {
            Leftover::Mixed => *random.pick(&Leftover::ALL[1..]),
            kind => kind,
        };
        match kind {
            Leftover::Mixed | Leftover::Junk => random.junk(),
            Leftover::Unreadable => *random.pick(&UNREADABLE),
            Leftover::Small => *random.pick(&SMALL),
            Leftover::Zeros => ZEROS + 1024 + 8 * random.below(256),
            Leftover::Objects => *random.pick(&self.objects),
        }
    }

    /// `len` bytes of such values.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let values = std::iter::repeat_with(|| self.value().to_le_bytes());
        let mut bytes: Vec<u8> = values.take(len.div_ceil(8)).flatten().collect();
        bytes.truncate(len);
        bytes
    }
}
