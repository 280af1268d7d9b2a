//! The memory a run sees: a handful of regions that are laid out, and around them what a kernel has
//! besides. What a kernel has not is not there, and touching it ends the run. All values are
//! little-endian, and known by their [`Origin`].

use super::origin::Origin;
use super::random::Random;
use std::collections::HashMap;
use std::sync::Arc;

/// An address in the simulated kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address(pub u64);

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An access to memory that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} of {size} bytes at {address}, where nothing is", if *.write { "write" } else { "read" })]
pub struct Fault {
    /// First byte.
    pub address: Address,
    /// Bytes.
    pub size: usize,
    /// Whether it was a write.
    pub write: bool,
}

/// A contiguous piece of memory.
#[derive(Debug, Clone)]
struct Region {
    base: u64,
    /// Bytes: asked at every access.
    len: usize,
    bytes: Bytes,
    writable: bool,
    contents: Contents,
}

/// What a region holds.
#[derive(Debug, Clone)]
enum Contents {
    /// Tables that belong to the code.
    Constants,
    /// Objects, packets, per-CPU data.
    Data,
    /// The stack: by aligned u64, where its bytes come from.
    Stack(Vec<Origin>),
}

impl Region {
    fn new(base: Address, bytes: Arc<Vec<u8>>, writable: bool, contents: Contents) -> Self {
        let (base, len) = (base.0, bytes.len());
        Self { base, len, bytes: Bytes::Shared(bytes), writable, contents }
    }

    /// `size` bytes (1 to 8) that are inside, zero-extended.
    fn value(&self, offset: usize, size: usize) -> u64 {
        let mut value = [0; 8];
        let bytes = &self.bytes.get()[offset..];
        // Of a known length: most reads are of these.
        if let (8, Some(word)) = (size, bytes.first_chunk()) {
            return u64::from_le_bytes(*word);
        }
        value[..size].copy_from_slice(&bytes[..size]);
        u64::from_le_bytes(value)
    }
}

/// Runs on the same world share its bytes, and most of what a run writes is its stack: whether that
/// is its own already is asked often, and an [`Arc`] answers it with an atomic operation.
#[derive(Debug, Clone)]
enum Bytes {
    Shared(Arc<Vec<u8>>),
    Own(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }

    /// To be written: copied the first time.
    fn own(&mut self) -> &mut [u8] {
        if let Self::Shared(bytes) = self {
            *self = Self::Own(bytes.to_vec());
        }
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(_) => &mut [],
        }
    }
}

/// All memory of a run.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    regions: Vec<Region>,
    surroundings: Option<Surroundings>,
    /// What was written to the surroundings, by the address of the aligned u64.
    written: HashMap<u64, u64>,
    /// Of the base chain's policy, one byte.
    policy: Option<Address>,
    /// The stack pointer at the function's entry.
    entry: Address,
    /// Of `regs.verdict.code`, once an expression was evaluated.
    verdict: Option<Address>,
}

/// Memory that nobody has laid out but that a kernel has: global variables, per-CPU data behind
/// pointers, KASAN's shadow. It holds junk, the same for the same seed and address.
#[derive(Debug, Clone, Copy)]
struct Surroundings {
    seed: u64,
    /// Whether there is memory at an address.
    exists: fn(u64) -> bool,
}

/// A region.
#[derive(Debug, Clone, Copy)]
pub struct Near<'a> {
    base: u64,
    bytes: &'a [u8],
    origins: &'a [Origin],
}

impl<'a> Near<'a> {
    /// Of a region, or of none.
    fn new(region: Option<&'a Region>) -> Self {
        let Some(region) = region else { return Self { base: 0, bytes: &[], origins: &[] } };
        let origins = match &region.contents {
            Contents::Stack(origins) => origins.as_slice(),
            Contents::Constants | Contents::Data => &[],
        };
        Self { base: region.base, bytes: region.bytes.get(), origins }
    }

    /// Where the u64 at an address of the stack comes from; `None` in other regions.
    pub fn origin(&self, address: u64) -> Option<Origin> {
        let start = address.checked_sub(self.base)?;
        stack_origin(self.origins, start, 8)
    }

    /// The u64 at an address, if it lies in this region.
    pub fn word(&self, address: u64) -> Option<u64> {
        let start = usize::try_from(address.wrapping_sub(self.base)).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// Where `size` bytes at a distance from the start of a stack come from.
fn stack_origin(origins: &[Origin], start: u64, size: usize) -> Option<Origin> {
    let (word, offset) = (usize::try_from(start / 8).ok()?, (start % 8) as usize);
    let mut origin = origins.get(word)?.down(offset);
    if offset + size > 8 {
        origin |= origins.get(word + 1)?.up(8 - offset);
    }
    Some(origin.low(size))
}

/// Notes where `size` bytes that are written to a stack come from.
fn set_stack_origin(origins: &mut [Origin], start: u64, size: usize, origin: Origin) {
    let mut set = |word: usize, offset: usize, size: usize, origin: Origin| {
        if let Some(entry) = origins.get_mut(word) {
            *entry = entry.except(0xff >> (8 - size) << offset) | origin.low(size).up(offset);
        }
    };
    let (word, offset) = ((start / 8) as usize, (start % 8) as usize);
    let first = size.min(8 - offset);
    set(word, offset, first, origin);
    if size > first {
        set(word + 1, 0, size - first, origin.down(first));
    }
}

/// Most u64 of the surroundings that a run may write.
const MAX_WRITTEN: usize = 4096;
/// KASAN's shadow memory (`Documentation/arch/x86/x86_64/mm.rst`, the same in all versions): one byte
/// for eight, 0 where all of them may be accessed.
const SHADOW: std::ops::Range<u64> = 0xffff_ec00_0000_0000..0xffff_fc00_0000_0000;

/// Whether an address is in KASAN's shadow memory.
pub fn is_shadow(address: Address) -> bool {
    SHADOW.contains(&address.0)
}

impl Memory {
    /// Adds a region; regions must not overlap. Bytes that are shared are copied when first written.
    pub fn map(&mut self, base: Address, bytes: impl Into<Arc<Vec<u8>>>, writable: bool) {
        self.regions.push(Region::new(base, bytes.into(), writable, Contents::Data));
    }

    /// As [`Memory::map`], for tables that belong to the code.
    pub fn map_constants(&mut self, base: Address, bytes: impl Into<Arc<Vec<u8>>>) {
        self.regions.push(Region::new(base, bytes.into(), false, Contents::Constants));
    }

    /// Adds a stack, to be looked through first: all of it is left over. `base` is 8-aligned.
    pub fn map_stack(&mut self, base: Address, bytes: Vec<u8>) {
        let contents = Contents::Stack(vec![Origin::LEFTOVER; bytes.len().div_ceil(8)]);
        self.regions.insert(0, Region::new(base, bytes.into(), true, contents));
    }

    /// Says where the base chain's policy is.
    pub fn set_policy(&mut self, at: Address) {
        self.policy = Some(at);
    }

    /// Says where the stack pointer is when the function is entered.
    pub fn set_entry(&mut self, stack: Address) {
        self.entry = stack;
    }

    /// The stack pointer at the function's entry.
    pub fn entry(&self) -> Address {
        self.entry
    }

    /// Notes where an expression has its verdict.
    pub fn set_verdict(&mut self, at: Address) {
        self.verdict = Some(at);
    }

    /// Where the verdict's code is, if an expression was evaluated in this run.
    pub fn verdict(&self) -> Option<Address> {
        self.verdict
    }

    /// Where the base chain's policy is.
    pub fn policy(&self) -> Option<Address> {
        self.policy
    }

    /// Adds junk wherever `exists` says, unless a region lies there.
    pub fn surround(&mut self, seed: u64, exists: fn(u64) -> bool) {
        self.surroundings = Some(Surroundings { seed, exists });
    }

    /// The aligned u64 at an address of the surroundings.
    fn surrounding(&self, address: u64) -> Option<u64> {
        let Surroundings { seed, exists } = self.surroundings?;
        if let Some(&word) = self.written.get(&address) {
            return Some(word);
        }
        if SHADOW.contains(&address) {
            return Some(0);
        }
        exists(address).then(|| Random::new(seed ^ address.rotate_left(7)).junk())
    }

    /// As [`Memory::read`], where no region is.
    fn read_surroundings(&self, address: u64, size: usize) -> Option<u64> {
        let (aligned, shift) = (address & !7, (address & 7) * 8);
        let mut value = self.surrounding(aligned)? >> shift;
        if shift + size as u64 * 8 > 64 {
            value |= self.surrounding(aligned.checked_add(8)?)? << (64 - shift);
        }
        Some(if size < 8 { value & ((1 << (size * 8)) - 1) } else { value })
    }

    /// As [`Memory::write`], where no region is.
    fn write_surroundings(&mut self, address: u64, size: usize, value: u64) -> Option<()> {
        let (aligned, shift) = (address & !7, (address & 7) * 8);
        let bits = size as u64 * 8;
        let low = bits.min(64 - shift);
        self.write_word(aligned, u64::MAX >> (64 - low) << shift, value << shift)?;
        if low < bits {
            let mask = u64::MAX >> (64 - (bits - low));
            self.write_word(aligned.checked_add(8)?, mask, value >> low)?;
        }
        Some(())
    }

    /// These bits of the aligned u64 at an address of the surroundings.
    fn write_word(&mut self, aligned: u64, mask: u64, value: u64) -> Option<()> {
        let word = self.surrounding(aligned)?;
        if self.written.len() >= MAX_WRITTEN && !self.written.contains_key(&aligned) {
            return None;
        }
        self.written.insert(aligned, word & !mask | value & mask);
        Some(())
    }

    fn locate(&self, address: u64, size: usize) -> Option<(usize, usize)> {
        self.regions.iter().enumerate().find_map(|(index, region)| {
            let offset = usize::try_from(address.wrapping_sub(region.base)).ok()?;
            let end = offset.checked_add(size)?;
            (end <= region.len).then_some((index, offset))
        })
    }

    /// `size` bytes (1 to 8), zero-extended.
    pub fn read(&self, address: Address, size: usize) -> Result<u64, Fault> {
        match self.locate(address.0, size) {
            Some((index, offset)) => Ok(self.regions[index].value(offset, size)),
            None => self.read_elsewhere(address, size),
        }
    }

    fn read_elsewhere(&self, address: Address, size: usize) -> Result<u64, Fault> {
        let value = self.read_surroundings(address.0, size);
        value.ok_or(Fault { address, size, write: false })
    }

    /// As [`Memory::read`], with where the bytes come from.
    pub fn load(&self, address: Address, size: usize) -> Result<(u64, Origin), Fault> {
        let (value, contents, offset) = match self.locate(address.0, size) {
            Some((index, offset)) => {
                let region = &self.regions[index];
                (region.value(offset, size), &region.contents, offset)
            }
            None => (self.read_elsewhere(address, size)?, &Contents::Data, 0),
        };
        let origin = match (contents, self.policy) {
            (Contents::Stack(origins), _) => {
                stack_origin(origins, offset as u64, size).unwrap_or(Origin::LEFTOVER)
            }
            (Contents::Constants, _) => Origin::COMPUTED,
            (Contents::Data, Some(policy)) if policy.0.wrapping_sub(address.0) < size as u64 => {
                Origin::DATA.except(1 << (policy.0 - address.0))
            }
            (Contents::Data, _) => Origin::DATA,
        };
        Ok((value, origin.low(size)))
    }

    /// What is in these bytes of a stack counts as left over from now on: a callee that was given
    /// their address may write them.
    pub fn leave(&mut self, address: Address, size: usize) {
        if let Some((index, offset)) = self.locate(address.0, size)
            && let Contents::Stack(origins) = &mut self.regions[index].contents
        {
            for at in (offset..offset + size).step_by(8) {
                let rest = (offset + size - at).min(8);
                set_stack_origin(origins, at as u64, rest, Origin::LEFTOVER);
            }
        }
    }

    /// As [`Memory::map`], to be looked through first: what most accesses go to.
    pub fn map_first(&mut self, base: Address, bytes: Vec<u8>, writable: bool) {
        self.regions.insert(0, Region::new(base, bytes.into(), writable, Contents::Data));
    }

    /// The region an address is in, for many reads near it: one look-up for all of them.
    pub fn near(&self, address: Address) -> Near<'_> {
        Near::new(self.locate(address.0, 1).map(|(index, _)| &self.regions[index]))
    }

    /// The low `size` bytes (1 to 8) of `value`, and where they come from.
    pub fn write(
        &mut self,
        address: Address,
        size: usize,
        value: u64,
        origin: Origin,
    ) -> Result<(), Fault> {
        let fault = Fault { address, size, write: true };
        let Some((index, offset)) = self.locate(address.0, size) else {
            return self.write_surroundings(address.0, size, value).ok_or(fault);
        };
        let region = &mut self.regions[index];
        if !region.writable {
            return Err(fault);
        }
        if let Contents::Stack(origins) = &mut region.contents {
            set_stack_origin(origins, offset as u64, size, origin);
        }
        let bytes = &mut region.bytes.own()[offset..];
        match bytes.first_chunk_mut() {
            Some(word) if size == 8 => *word = value.to_le_bytes(),
            _ => bytes[..size].copy_from_slice(&value.to_le_bytes()[..size]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mapped_faults() {
        let mut memory = Memory::default();
        memory.map(Address(0x1000), vec![1, 2, 3, 4, 5, 6, 7, 8, 9], true);
        memory.map(Address(0x2000), vec![0; 8], false);
        assert_eq!(memory.read(Address(0x1001), 2), Ok(0x0302));
        assert_eq!(memory.read(Address(0x1001), 8), Ok(0x0908_0706_0504_0302));
        for (address, size) in [(0xfff, 2), (0x1002, 8), (u64::MAX, 8), (0, 1)] {
            assert!(memory.read(Address(address), size).is_err(), "{address:#x}");
        }
        assert_eq!(memory.write(Address(0x1008), 1, 0xffee, Origin::DATA), Ok(()));
        assert_eq!(memory.read(Address(0x1008), 1), Ok(0xee));
        assert!(memory.write(Address(0x2000), 1, 0, Origin::DATA).is_err(), "read-only");
        let near = memory.near(Address(0x1008));
        assert_eq!(near.word(0x1001), memory.read(Address(0x1001), 8).ok());
        assert_eq!((near.word(0x1002), near.word(0xfff), near.word(0x2000)), (None, None, None));
        assert_eq!(memory.near(Address(0x3000)).word(0x3000), None);
    }

    #[test]
    fn what_is_written_to_a_stack_is_known() {
        let mut memory = Memory::default();
        memory.map_stack(Address(0x1000), vec![0; 64]);
        memory.map(Address(0x2000), vec![0; 64], true);
        memory.map_constants(Address(0x3000), vec![0; 8]);
        memory.set_policy(Address(0x2010));
        let origin =
            |memory: &Memory, address, size| memory.load(Address(address), size).unwrap().1;
        assert_eq!(origin(&memory, 0x1008, 4), Origin::LEFTOVER.low(4));
        // Across two words.
        memory.write(Address(0x100d), 6, 0, Origin::COMPUTED).unwrap();
        assert_eq!(origin(&memory, 0x100d, 6), Origin::COMPUTED);
        assert_eq!(origin(&memory, 0x100c, 2), Origin::LEFTOVER.low(1));
        assert_eq!(origin(&memory, 0x1012, 2), Origin::LEFTOVER.low(1).up(1));
        assert_eq!(
            memory.near(Address(0x1000)).origin(0x100d).unwrap().down(6),
            Origin::LEFTOVER.low(2)
        );
        memory.leave(Address(0x1010), 1);
        assert_eq!(origin(&memory, 0x100d, 6), Origin::LEFTOVER.low(1).up(3));
        assert_eq!(origin(&memory, 0x200f, 4), Origin::DATA.low(4).except(2));
        assert_eq!(origin(&memory, 0x3000, 8), Origin::COMPUTED);
        assert_eq!(memory.near(Address(0x2000)).origin(0x2000), None);
    }

    #[test]
    fn surroundings_hold_the_same_junk_until_they_are_written() {
        let mut memory = Memory::default();
        memory.map(Address(0x5000), vec![1; 16], false);
        memory.surround(7, |address| address < 0x8000);
        let word = memory.read(Address(0x4ff0), 8).unwrap();
        assert_eq!(memory.read(Address(0x4ff2), 4), Ok(word >> 16 & 0xffff_ffff));
        assert_eq!(memory.read(Address(0x5000), 1), Ok(1), "regions come first");
        memory.write(Address(0x4ff6), 4, 0x1122_3344, Origin::DATA).unwrap();
        assert_eq!(memory.read(Address(0x4ff6), 4), Ok(0x1122_3344));
        assert_eq!(memory.read(Address(0x4ff0), 4), Ok(word & 0xffff_ffff));
        assert!(memory.read(Address(0x7ffc), 8).is_err(), "half of it is not there");
        assert_eq!(memory.read(Address(SHADOW.start), 8), Ok(0));
        memory.write(Address(SHADOW.start), 2, 0xf1f1, Origin::DATA).unwrap();
        assert_eq!(memory.read(Address(SHADOW.start), 8), Ok(0xf1f1));
        assert_eq!(memory.clone().written.len(), 3);
    }
}
