//! The memory a run sees: a handful of regions. What is in none of them is not there, and touching
//! it ends the run. All values are little-endian.

use std::sync::Arc;

/// An address in the simulated kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    bytes: Arc<Vec<u8>>,
    writable: bool,
}

/// All regions of a run.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    /// Adds a region; regions must not overlap. Bytes that are shared are copied when first written.
    pub fn map(&mut self, base: Address, bytes: impl Into<Arc<Vec<u8>>>, writable: bool) {
        self.regions.push(Region { base: base.0, bytes: bytes.into(), writable });
    }

    fn locate(&self, address: u64, size: usize) -> Option<(usize, usize)> {
        self.regions.iter().enumerate().find_map(|(index, region)| {
            let offset = usize::try_from(address.wrapping_sub(region.base)).ok()?;
            let end = offset.checked_add(size)?;
            (end <= region.bytes.len()).then_some((index, offset))
        })
    }

    /// `size` bytes (1 to 8), zero-extended.
    pub fn read(&self, address: Address, size: usize) -> Result<u64, Fault> {
        let fault = Fault { address, size, write: false };
        let (index, offset) = self.locate(address.0, size).ok_or(fault)?;
        let mut value = [0; 8];
        value[..size].copy_from_slice(&self.regions[index].bytes[offset..offset + size]);
        Ok(u64::from_le_bytes(value))
    }

    /// The u64s from an address on, as many as are wanted and there: one look-up for all of them.
    pub fn words(&self, address: Address, most: usize) -> impl Iterator<Item = u64> {
        let found = self.locate(address.0, 8);
        let rest = found.map_or(&[][..], |(index, offset)| &self.regions[index].bytes[offset..]);
        rest.as_chunks::<8>().0.iter().take(most).map(|word| u64::from_le_bytes(*word))
    }

    /// The low `size` bytes (1 to 8) of `value`.
    pub fn write(&mut self, address: Address, size: usize, value: u64) -> Result<(), Fault> {
        let fault = Fault { address, size, write: true };
        let (index, offset) = self.locate(address.0, size).ok_or(fault)?;
        let region = &mut self.regions[index];
        if !region.writable {
            return Err(fault);
        }
        let bytes = Arc::make_mut(&mut region.bytes);
        bytes[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
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
        assert_eq!(memory.write(Address(0x1008), 1, 0xffee), Ok(()));
        assert_eq!(memory.read(Address(0x1008), 1), Ok(0xee));
        assert!(memory.write(Address(0x2000), 1, 0).is_err(), "read-only");
        let words = |at, most| memory.words(Address(at), most).count();
        assert_eq!((words(0x1000, 9), words(0x1001, 0), words(0x1002, 1)), (1, 0, 0));
        assert_eq!(memory.words(Address(0x1001), 1).next(), memory.read(Address(0x1001), 8).ok());
    }
}
