//! The blocks of an .xz file, each of which can be decoded without the others. The index at the end
//! of the file says where they are.
//!
//! Format: The .xz File Format, version 1.2.1, sections 2 and 4. The index is believed as far as it
//! agrees with the size of the file. Where it lies the decoder, which is begun at the place it names,
//! finds no block there.

use super::error::{PickError, Shape};
use crate::package::{decoder::xz_decoder, random::RandomAccess};
use std::{
    io::{self, Read},
    ops::Range,
};

/// Stream header and footer.
const END: u64 = 12;
/// Largest index read: 100,000 blocks. Packages have one for every 24 MiB.
const MAX_INDEX: u64 = 1 << 20;

/// A file of one stream with several blocks.
pub(super) struct Blocks<'a> {
    source: &'a dyn RandomAccess,
    header: [u8; END as usize],
    /// Where each block begins.
    starts: Vec<Block>,
    /// Behind the last one.
    end: u64,
}

/// Where a block begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// In the source.
    packed: u64,
    /// In what is decompressed.
    pub(super) plain: u64,
}

impl<'a> Blocks<'a> {
    /// Reads the index of the file that is at this place of the source.
    pub(super) fn read(source: &'a dyn RandomAccess, place: Range<u64>) -> Result<Self, PickError> {
        let exact = |from: u64, bytes: &mut [u8]| {
            source.part(from..from + bytes.len() as u64).read_exact(bytes)
        };
        let len = place.end.saturating_sub(place.start);
        if len < 2 * END {
            return Err(Shape::NotXz.into());
        }
        let (mut header, mut footer) = ([0; END as usize], [0; END as usize]);
        exact(place.start, &mut header)?;
        exact(place.end - END, &mut footer)?;
        let [f0, f1, f2, f3, b0, b1, b2, b3, flags @ .., y, z] = footer;
        let is_whole = header.starts_with(b"\xfd7zXZ\0")
            && [y, z] == *b"YZ"
            && flags == header[6..8]
            && u32::from_le_bytes([f0, f1, f2, f3]) == crc32(&footer[4..10]);
        if !is_whole {
            // More than one stream, padding behind it, or something else.
            return Err(Shape::NotXz.into());
        }
        let size = (u64::from(u32::from_le_bytes([b0, b1, b2, b3])) + 1) * 4;
        if size > MAX_INDEX || size > len - 2 * END {
            return Err(Shape::Index.into());
        }
        let mut index = vec![0; size as usize];
        let end = place.end - END - size;
        exact(end, &mut index)?;
        let starts = starts(&index, place.start + END, end).ok_or(Shape::Index)?;
        Ok(Self { source, header, starts, end })
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.starts
    }

    /// What is decompressed, from the beginning of a block on. Ends with an error and not with the
    /// last block, since the decoder never gets to see an index.
    pub(super) fn from(&self, block: Block) -> io::Result<impl Read + '_> {
        // To the decoder this is a file that begins with this block.
        xz_decoder(io::Cursor::new(self.header).chain(self.source.part(block.packed..self.end)))
    }
}

/// The blocks that an index lists; `None` where it is broken, or where they do not go from `start`
/// to `end`.
fn starts(index: &[u8], start: u64, end: u64) -> Option<Vec<Block>> {
    let (content, checksum) = index.split_last_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != crc32(content) {
        return None;
    }
    let mut rest = content.strip_prefix(&[0])?;
    let count = number(&mut rest)?;
    // A record has two bytes at least.
    if count > rest.len() as u64 / 2 {
        return None;
    }
    let mut blocks = Vec::with_capacity(count as usize);
    let (mut packed, mut plain) = (start, 0_u64);
    for _ in 0..count {
        blocks.push(Block { packed, plain });
        packed = packed.checked_add(number(&mut rest)?.checked_next_multiple_of(4)?)?;
        plain = plain.checked_add(number(&mut rest)?)?;
    }
    let is_padding = rest.len() < 4 && rest.iter().all(|byte| *byte == 0);
    (is_padding && packed == end).then_some(blocks)
}

/// A multibyte integer (section 1.2).
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            // One number is not written in two ways.
            return (*byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
