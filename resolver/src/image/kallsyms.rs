//! The symbol table a kernel carries for itself: the only one in a vmlinux that comes out of a
//! vmlinuz. It has names, types and addresses, no sizes, and nothing says where it is; so it is
//! found by how it is made.
//!
//! `scripts/kallsyms.c` writes these tables behind each other into `.rodata`:
//!
//! | kernels | order | alignment |
//! |---|---|---|
//! | before 4.6 | addresses, `num_syms`, names, markers, tokens | 8 |
//! | 4.6 to 6.4 | offsets, base, `num_syms`, names, markers, (from 6.2: sequence,) tokens | 8 |
//! | 6.5 to 6.19 | `num_syms`, names, markers, tokens, offsets, base, sequence | 8 |
//! | 7.0 and later | `num_syms`, names, markers, tokens, offsets from themselves, sequence | 4 |
//!
//! Stable kernels take over changes, so a version tells nothing here either. What is common to all is
//! found first: 256 tokens that lie between NULs, with an index of them; in front of that a count
//! with as many names; behind the names markers that say where each 256th is. Every byte of this is
//! compared, so nothing else passes for it. Of the addresses all forms are tried, and the one holds
//! that ascends and puts every function into code.

use std::{fmt, ops::Range};

/// Longest name, its type included, `KSYM_NAME_LEN` in kernels from 6.1 on.
const MAX_NAME: usize = 512;
/// Most symbols; the largest kernels have 300 thousand.
const MAX_SYMBOLS: usize = 2 << 20;
/// Most bytes of all names together.
const MAX_NAMES: usize = 64 << 20;
/// Most places, tokens and names looked at on the search, wrong beginnings included: ten times what
/// the largest kernels take.
const MAX_STEPS: usize = 64 << 20;
/// Symbols per marker.
const PER_MARKER: usize = 256;

/// A symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// As nm prints it: `T`, `t`, `d`, …
    pub(super) kind: u8,
    /// At link time.
    pub(super) address: u64,
}

/// A section's address and bytes.
#[derive(Clone, Copy)]
pub(super) struct Region<'data> {
    pub(super) address: u64,
    pub(super) bytes: &'data [u8],
}

/// Why there are no symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The image holds no such tables: `CONFIG_KALLSYMS` is off.
    Tables,
    /// There are names, and no addresses in any known form.
    Addresses,
    /// Two forms of addresses both look right.
    Ambiguous,
    /// Too many symbols, or too much that looks like some.
    Bounds,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tables => "the image has neither a symbol table nor kallsyms",
            Self::Addresses => "the image has no symbol table, and kallsyms of an unknown form",
            Self::Ambiguous => "the image has no symbol table, and its kallsyms can be read twice",
            Self::Bounds => "the image has no symbol table, and kallsyms beyond all bounds",
        })
    }
}

/// The symbols of an image, ascending by address. `code` is the addresses functions may have.
pub(super) fn find(regions: &[Region<'_>], code: &Range<u64>) -> Result<Vec<Entry>, Missing> {
    let mut steps = Steps(MAX_STEPS);
    let mut missing = Missing::Tables;
    for region in regions {
        for index in Tokens::places(region) {
            let Some(tokens) = Tokens::at(region, index, &mut steps)? else { continue };
            let Some(names) = Names::before(region, &tokens, &mut steps)? else { continue };
            match addresses(region, &tokens, &names, code) {
                Ok(addresses) => return entries(&tokens, &names, &addresses),
                Err(reason) => missing = reason,
            }
        }
    }
    Err(missing)
}

/// What is left of the search.
struct Steps(usize);

impl Steps {
    fn take(&mut self) -> Result<(), Missing> {
        self.0 = self.0.checked_sub(1).ok_or(Missing::Bounds)?;
        Ok(())
    }
}

impl Region<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The first offset from `at` on whose address is a multiple of `alignment`, if what lies
    /// between is zero.
    fn aligned(&self, at: usize, alignment: u64) -> Option<usize> {
        let address = self.address.checked_add(at as u64)?;
        let pad = (alignment - address % alignment) % alignment;
        let end = at + pad as usize;
        self.bytes.get(at..end)?.iter().all(|byte| *byte == 0).then_some(end)
    }

    /// The last offset up to `at` whose address is a multiple of `alignment`.
    fn aligned_down(&self, at: usize, alignment: u64) -> Option<usize> {
        let address = self.address.checked_add(at as u64)?;
        at.checked_sub((address % alignment) as usize)
    }
}

/// `kallsyms_token_table`: 256 strings; and `kallsyms_token_index`: where each begins.
struct Tokens<'data> {
    strings: Vec<&'data [u8]>,
    start: usize,
    /// Of the index.
    end: usize,
}

impl<'data> Tokens<'data> {
    const INDEX: usize = 256 * 2;

    /// Where their index may be.
    fn places(region: &Region<'_>) -> impl Iterator<Item = usize> {
        let first = (4 - region.address % 4) as usize % 4;
        let last = region.bytes.len().saturating_sub(Self::INDEX);
        let region = *region;
        // All begin with 0, and go on with more.
        let begins = move |at: &usize| region.u16(*at) == Some(0) && region.u16(at + 2) != Some(0);
        (first..=last).step_by(4).filter(begins)
    }

    /// The tokens whose index is at this offset.
    fn at(
        region: &Region<'data>,
        index: usize,
        steps: &mut Steps,
    ) -> Result<Option<Self>, Missing> {
        let Some(starts) = region.bytes.get(index..index + Self::INDEX) else { return Ok(None) };
        let (starts, _) = starts.as_chunks::<2>();
        let starts: Vec<usize> = starts.iter().map(|b| u16::from_le_bytes(*b).into()).collect();
        let (Some(last), true) =
            (starts.last(), starts.is_sorted_by(|a, b| a < b && b - a <= MAX_NAME + 1))
        else {
            return Ok(None);
        };
        // The strings end in front of the index; how far, the last one's length says, and padding.
        let first = index.checked_sub(last + 1);
        let Some(mut start) = first.and_then(|first| region.aligned_down(first, 4)) else {
            return Ok(None);
        };
        for _ in 0..=(MAX_NAME + 8) / 4 {
            if let Some(tokens) = Self::from(region, start, &starts, index, steps)? {
                return Ok(Some(tokens));
            }
            let Some(before) = start.checked_sub(4) else { break };
            start = before;
        }
        Ok(None)
    }

    /// The tokens whose strings begin at `start`, each at its distance, and end at the index.
    fn from(
        region: &Region<'data>,
        start: usize,
        starts: &[usize],
        index: usize,
        steps: &mut Steps,
    ) -> Result<Option<Self>, Missing> {
        let mut strings = Vec::new();
        let mut at = start;
        for &distance in starts {
            steps.take()?;
            let rest = region.bytes.get(at..).unwrap_or_default();
            let len = rest.iter().take(MAX_NAME + 1).position(|byte| *byte == 0);
            let Some(len) = len.filter(|_| at == start + distance) else { return Ok(None) };
            strings.push(&rest[..len]);
            at += len + 1;
        }
        let padded = [4, 8].iter().any(|to| region.aligned(at, *to) == Some(index));
        Ok(padded.then(|| Self { strings, start, end: index + Self::INDEX }))
    }

    /// The type of the symbol whose name begins with this token.
    fn kind(&self, token: u8) -> Option<u8> {
        self.strings[usize::from(token)].first().copied()
    }

    fn expand(&self, compressed: &[u8]) -> Option<Vec<u8>> {
        let mut name = Vec::with_capacity(48);
        for &token in compressed {
            name.extend(self.strings[usize::from(token)]);
            if name.len() > MAX_NAME {
                return None;
            }
        }
        Some(name)
    }
}

/// `kallsyms_names`: a length and so many tokens per symbol. The length has one byte, or two for
/// 128 and more, the lower 7 bits first.
struct Names<'data> {
    compressed: Vec<&'data [u8]>,
    /// Where `kallsyms_num_syms` is.
    count_at: usize,
}

impl<'data> Names<'data> {
    /// The names in front of these tokens, nearest first.
    fn before(
        region: &Region<'data>,
        tokens: &Tokens<'data>,
        steps: &mut Steps,
    ) -> Result<Option<Self>, Missing> {
        let mut start = tokens.start;
        while let Some(at) = start.checked_sub(4) {
            steps.take()?;
            start = at;
            // The count is right in front of the names, or behind it is padding, or it has 8 bytes.
            for distance in [4, 8] {
                if let Some(count_at) = at.checked_sub(distance)
                    && (distance == 4 || region.u32(at - 4) == Some(0))
                    && let Some(names) = Self::at(region, tokens, count_at, at, steps)?
                {
                    return Ok(Some(names));
                }
            }
        }
        Ok(None)
    }

    fn at(
        region: &Region<'data>,
        tokens: &Tokens<'data>,
        count_at: usize,
        start: usize,
        steps: &mut Steps,
    ) -> Result<Option<Self>, Missing> {
        let Some(count) = region.u32(count_at).map(|count| count as usize) else { return Ok(None) };
        // A symbol takes 2 bytes at least, and 3 more where the names' sequence is there too.
        let room = tokens.start - start;
        if count == 0 || count > room / 2 || room / count > MAX_NAME + 8 {
            return Ok(None);
        }
        if count > MAX_SYMBOLS {
            return Err(Missing::Bounds);
        }
        let bytes = &region.bytes[..tokens.start];
        let mut compressed = Vec::new();
        let mut markers = Vec::new();
        let mut at = start;
        for number in 0..count {
            steps.take()?;
            if number % PER_MARKER == 0 {
                markers.push(at - start);
            }
            let name = match bytes.get(at..) {
                Some([len, rest @ ..]) if *len < 0x80 => rest.get(..usize::from(*len)),
                Some([low, high, rest @ ..]) => {
                    at += 1;
                    rest.get(..usize::from(low & 0x7f) | usize::from(*high) << 7)
                }
                _ => None,
            };
            let Some(name @ [first, ..]) = name else { return Ok(None) };
            if !tokens.kind(*first).is_some_and(|kind| kind.is_ascii_alphabetic() || kind == b'?') {
                return Ok(None);
            }
            compressed.push(name);
            at += 1 + name.len();
        }
        let here = Region { bytes, ..*region };
        let marked = |alignment: u64, width: usize| {
            let first = here.aligned(at, alignment)?;
            let marker = |number: usize| {
                let at = first + number * width;
                if width == 8 { here.u64(at) } else { here.u32(at).map(u64::from) }
            };
            markers
                .iter()
                .enumerate()
                .all(|(number, offset)| marker(number) == Some(*offset as u64))
                .then_some(())
        };
        let found = [(8, 8), (8, 4), (4, 4)].into_iter().find_map(|(a, width)| marked(a, width));
        Ok(found.map(|()| Self { compressed, count_at }))
    }
}

/// The addresses of all symbols, in the one form that makes sense.
fn addresses(
    region: &Region<'_>,
    tokens: &Tokens<'_>,
    names: &Names<'_>,
    code: &Range<u64>,
) -> Result<Vec<u64>, Missing> {
    let count = names.compressed.len();
    let sensible = |addresses: &Vec<u64>| {
        let mut functions = names.compressed.iter().zip(addresses);
        addresses.is_sorted()
            && functions.all(|(name, address)| {
                let text =
                    tokens.kind(name[0]).is_some_and(|kind| kind.eq_ignore_ascii_case(&b't'));
                // `_etext` is where code ends.
                !text || code.contains(address) || *address == code.end
            })
    };
    let mut found = forms(region, tokens.end, names.count_at, count);
    found.retain(sensible);
    found.dedup();
    match found.len() {
        0 => Err(Missing::Addresses),
        1 => Ok(found.remove(0)),
        _ => Err(Missing::Ambiguous),
    }
}

/// The addresses in every form they could have.
fn forms(region: &Region<'_>, tokens_end: usize, count_at: usize, count: usize) -> Vec<Vec<u64>> {
    let mut found = Vec::new();
    let mut form = |address: &dyn Fn(usize) -> Option<u64>| {
        found.extend((0..count).map(address).collect::<Option<Vec<u64>>>());
    };
    let offset = |table: usize, index: usize| region.u32(table + 4 * index);
    // Behind the tokens, and in front of the count.
    let behind = region.aligned(tokens_end, 8).and_then(|table| {
        let base = region.aligned(table + 4 * count, 8)?;
        Some((table, region.u64(base)?))
    });
    let in_front = count_at.checked_sub(8).and_then(|base| {
        let table = region.aligned_down(base.checked_sub(4 * count)?, 8)?;
        Some((table, region.u64(base)?))
    });
    for (table, base) in [behind, in_front].into_iter().flatten() {
        form(&|index| Some(base.wrapping_add(offset(table, index)?.into())));
        // --absolute-percpu: what is not negative is an address.
        form(&|index| {
            let offset = i64::from(offset(table, index)? as i32);
            let relative = base.wrapping_sub(1).wrapping_add_signed(-offset);
            Some(if offset >= 0 { offset as u64 } else { relative })
        });
    }
    if let Some(table) = region.aligned(tokens_end, 4) {
        form(&|index| {
            let distance = offset(table, index)? as i32;
            let at = region.address + (table + 4 * index) as u64;
            Some(at.wrapping_add_signed(distance.into()))
        });
    }
    if let Some(table) = count_at.checked_sub(8 * count) {
        form(&|index| region.u64(table + 8 * index));
    }
    found
}

fn entries(
    tokens: &Tokens<'_>,
    names: &Names<'_>,
    addresses: &[u64],
) -> Result<Vec<Entry>, Missing> {
    let mut left = MAX_NAMES;
    let mut entries = Vec::with_capacity(addresses.len());
    for (name, &address) in names.compressed.iter().zip(addresses) {
        let expanded = tokens.expand(name).ok_or(Missing::Bounds)?;
        left = left.checked_sub(expanded.len()).ok_or(Missing::Bounds)?;
        let [kind, name @ ..] = &expanded[..] else { continue };
        let (kind, name) = (*kind, String::from_utf8_lossy(name).into_owned());
        entries.push(Entry { name, kind, address });
    }
    Ok(entries)
}

#[cfg(test)]
pub(super) mod tests;
