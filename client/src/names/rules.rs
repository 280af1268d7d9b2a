//! The rules of a listing, in little memory: a host can have 100,000 of them, of which a few drop.
//!
//! Texts of rules resemble each other, so they are packed in blocks; an index of sixteen bytes a rule
//! tells where each is. Finding a rule unpacks its block, of which the last one stays unpacked.

use super::RuleName;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::sync::Arc;

/// Most bytes of a block before it is packed: places in it have 16 bits.
const BLOCK: usize = 48 << 10;
/// A rule's bytes in front of its text: its chain, the text's length, whether it rejects.
const HEAD: usize = 7;

/// Rules by the handles of table and rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Sorted once all are there.
    index: Vec<Entry>,
    /// Their handles.
    tables: Vec<u64>,
    chains: Vec<Arc<str>>,
    /// Blocks, and whether packing made them smaller.
    packed: Vec<(bool, Box<[u8]>)>,
    /// The block that is being filled.
    open: Vec<u8>,
    /// The block that was unpacked last, and its number.
    recent: Option<(u32, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    handle: u64,
    /// In `tables`.
    table: u32,
    /// The block's number and, in the low half, the place in it.
    at: u32,
}

impl Rules {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// One more. Of `text` no more than a block holds is kept.
    pub fn push(&mut self, table: u64, handle: u64, chain: &Arc<str>, text: &str, reject: bool) {
        let text = &text[..text.floor_char_boundary(BLOCK - HEAD)];
        if self.open.len() + HEAD + text.len() > BLOCK {
            self.pack();
        }
        if self.tables.last() != Some(&table) {
            self.tables.push(table);
        }
        if self.chains.last() != Some(chain) {
            self.chains.push(chain.clone());
        }
        let at = (self.packed.len() as u32) << 16 | self.open.len() as u32;
        self.index.push(Entry { handle, table: self.tables.len() as u32 - 1, at });
        self.open.extend((self.chains.len() as u32 - 1).to_le_bytes());
        self.open.extend((text.len() as u16).to_le_bytes());
        self.open.push(reject.into());
        self.open.extend(text.as_bytes());
    }

    fn pack(&mut self) {
        let mut block = Vec::with_capacity(self.open.len() + 64);
        let status = Compress::new(Compression::fast(), false).compress_vec(
            &self.open,
            &mut block,
            FlushCompress::Finish,
        );
        let smaller = matches!(status, Ok(Status::StreamEnd)) && block.len() < self.open.len();
        if !smaller {
            block.clone_from(&self.open);
        }
        self.packed.push((smaller, block.into_boxed_slice()));
        self.open.clear();
    }

    /// All are there.
    pub fn finish(&mut self) {
        if !self.open.is_empty() {
            self.pack();
        }
        self.open = vec![];
        let tables = &self.tables;
        // Of two with the same handles, which there should not be, the later is found.
        self.index.sort_by_key(|entry| (tables[entry.table as usize], entry.handle));
        self.index.shrink_to_fit();
    }

    /// Whether there is a rule of these handles.
    pub fn contains(&self, table: u64, handle: u64) -> bool {
        self.find(table, handle).is_some()
    }

    fn find(&self, table: u64, handle: u64) -> Option<Entry> {
        let key = |entry: &Entry| (self.tables[entry.table as usize], entry.handle);
        let after = self.index.partition_point(|entry| key(entry) <= (table, handle));
        let entry = self.index.get(after.checked_sub(1)?)?;
        (key(entry) == (table, handle)).then_some(*entry)
    }

    /// The rule of these handles, once all are there.
    pub fn get(&mut self, table: u64, handle: u64) -> Option<RuleName> {
        let at = self.find(table, handle)?.at;
        let (number, place) = (at >> 16, (at & 0xffff) as usize);
        if self.recent.as_ref().is_none_or(|(recent, _)| *recent != number) {
            self.recent = Some((number, unpack(self.packed.get(number as usize)?)?));
        }
        let (_, block) = self.recent.as_ref()?;
        let (head, rest) = block.get(place..)?.split_at_checked(HEAD)?;
        let chain = u32::from_le_bytes(head[..4].try_into().ok()?);
        let length = u16::from_le_bytes(head[4..6].try_into().ok()?);
        let text = str::from_utf8(rest.get(..length.into())?).ok()?;
        let chain = self.chains.get(chain as usize)?.clone();
        Some(RuleName { chain, text: text.into(), reject: head[6] != 0 })
    }

    /// Nothing stays unpacked.
    pub fn rest(&mut self) {
        self.recent = None;
    }

    /// The handles of tables and rules, in order.
    #[cfg(test)]
    pub(super) fn handles(&self) -> Vec<(u64, u64)> {
        self.index.iter().map(|entry| (self.tables[entry.table as usize], entry.handle)).collect()
    }
}

fn unpack((packed, bytes): &(bool, Box<[u8]>)) -> Option<Vec<u8>> {
    if !packed {
        return Some(bytes.to_vec());
    }
    let mut block = Vec::with_capacity(BLOCK);
    let status = Decompress::new(false).decompress_vec(bytes, &mut block, FlushDecompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn every_rule_is_found_again(
            rules in proptest::collection::btree_map(
                (0_u64..5, any::<u64>()),
                ("\\PC{0,40}", 0_usize..3, any::<bool>(), 0_usize..800),
                0..100,
            ),
        ) {
            let chains = ["a", "b", "c"].map(Arc::<str>::from);
            let mut stored = Rules::default();
            let mut expected = BTreeMap::new();
            for ((table, handle), (text, chain, reject, times)) in rules {
                let text = text.repeat(times);
                let text = &text[..text.floor_char_boundary(4096)];
                stored.push(table, handle, &chains[chain], text, reject);
                let chain = chains[chain].clone();
                expected.insert((table, handle), RuleName { chain, text: text.into(), reject });
            }
            stored.finish();
            prop_assert_eq!(stored.len(), expected.len());
            for ((table, handle), rule) in expected {
                prop_assert!(stored.contains(table, handle));
                prop_assert_eq!(stored.get(table, handle), Some(rule));
                prop_assert!(!stored.contains(table + 5, handle));
            }
        }
    }

    #[test]
    fn rules_that_resemble_each_other_take_little() {
        let mut rules = Rules::default();
        let chain = "forward".into();
        let mut whole = 0;
        for number in 0..100_000_u32 {
            let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
            let text = format!("ip saddr 10.{a}.{b}.{c} tcp dport {} counter drop", number % 9999);
            whole += text.len();
            rules.push(1, u64::from(number) + 5, &chain, &text, false);
        }
        rules.finish();
        let packed: usize = rules.packed.iter().map(|(_, block)| block.len()).sum();
        assert!(packed * 2 < whole, "{packed} of {whole} bytes");
        assert_eq!(rules.index.capacity() * size_of::<Entry>(), 1_600_000);
        assert!(rules.get(1, 77).is_some() && rules.get(1, 100_005).is_none());
    }
}
