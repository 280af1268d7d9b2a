//! The heap: objects between junk, at distances that code cannot foresee.

use crate::image::function::Field;
use crate::resolve::memory::Address;
use crate::resolve::random::Random;
use nfdrop_db::BitField;

/// The heap grows by this.
const HEAP_STEP: usize = 4 << 10;

/// Memory that objects are allocated in.
pub(super) struct Heap {
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) used: usize,
}

impl Heap {
    /// Junk with room for `size` bytes, 8-aligned, at an unforeseeable distance from the last piece.
    pub(super) fn allocate(&mut self, size: usize, random: &mut Random) -> Address {
        let start = self.used + 8 * (1 + random.below(12) as usize);
        self.used = (start + size).next_multiple_of(8);
        if self.bytes.len() < self.used {
            let missing = self.used.next_multiple_of(HEAP_STEP) - self.bytes.len();
            self.bytes.extend(random.junk_bytes(missing));
        }
        Address(self.base + start as u64)
    }

    pub(super) fn put(&mut self, address: Address, offset: u32, value: u64, size: usize) {
        let start = (address.0 - self.base) as usize + offset as usize;
        self.bytes[start..start + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    pub(super) fn put_bits(&mut self, address: Address, field: BitField, value: u64) {
        let start = (address.0 - self.base) as usize + field.offset as usize;
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[start..start + 8]);
        let mask = field.mask() << field.shift;
        let word = u64::from_le_bytes(word) & !mask | value << field.shift & mask;
        self.bytes[start..start + 8].copy_from_slice(&word.to_le_bytes());
    }

    pub(super) fn put_field(&mut self, address: Address, field: Field, value: u64) {
        self.put(address, field.bit_offset / 8, value, field.bit_size as usize / 8);
    }
}
