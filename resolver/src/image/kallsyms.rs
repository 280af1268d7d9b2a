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
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How `scripts/kallsyms.c` of some versions writes the tables.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::image) enum Form {
        /// Up to 4.5.
        Addresses,
        /// 4.6 to 4.19, with 8 bytes for what later has 4.
        Wide,
        /// 5.x.
        InFront,
        /// 6.2 to 6.4: with the names' sequence.
        WithSequence,
        /// 6.5 to 6.14, `--absolute-percpu`.
        Behind,
        /// 6.15 to 6.19: only offsets from the base.
        Unsigned,
        /// 7.0 and later.
        FromThemselves,
    }

    const FORMS: [Form; 7] = [
        Form::Addresses,
        Form::Wide,
        Form::InFront,
        Form::WithSequence,
        Form::Behind,
        Form::Unsigned,
        Form::FromThemselves,
    ];

    const CODE: Range<u64> = 0xffff_ffff_8100_0000..0xffff_ffff_8200_0000;
    const RODATA: u64 = 0xffff_ffff_8220_0000;
    /// In front of the tables.
    const JUNK: usize = 40;

    pub(in crate::image) fn entry(kind: u8, address: u64, name: &str) -> Entry {
        Entry { name: name.to_owned(), kind, address }
    }

    /// The tables for symbols that ascend, to be put at an address.
    pub(in crate::image) fn tables(form: Form, symbols: &[Entry], address: u64) -> Vec<u8> {
        let mut tokens: Vec<Vec<u8>> =
            (0..=255).map(|b: u8| if b.is_ascii_graphic() { vec![b] } else { vec![] }).collect();
        let common = ["nft_", "do_", "_eval", "__x86_", "xx"];
        // Code 0 stands for something too, and most codes are used.
        for (code, text) in common.iter().enumerate() {
            tokens[code * 3] = text.as_bytes().to_vec();
        }
        let compress = |text: &[u8]| {
            let mut out = Vec::new();
            let mut at = 0;
            while at < text.len() {
                let found = (1..).zip(common).map(|(n, token)| ((n - 1) * 3, token));
                let mut found = found.filter(|(_, token)| text[at..].starts_with(token.as_bytes()));
                if let Some((code, token)) = found.next() {
                    out.push(code as u8);
                    at += token.len();
                } else {
                    out.push(text[at]);
                    at += 1;
                }
            }
            out
        };
        let alignment = if form == Form::FromThemselves { 4 } else { 8 };
        let wide = matches!(form, Form::Addresses | Form::Wide);
        let mut out = Writer { out: Vec::new(), address, alignment };
        let base = symbols.iter().map(|s| s.address).find(|a| *a >= CODE.start).unwrap_or_default();
        let offsets = |out: &mut Writer| {
            out.align();
            for symbol in symbols {
                let at = address + out.out.len() as u64;
                let offset = match form {
                    Form::FromThemselves => symbol.address.wrapping_sub(at),
                    Form::Unsigned => symbol.address - base,
                    _ if symbol.address < CODE.start => symbol.address,
                    _ => base.wrapping_sub(symbol.address).wrapping_sub(1),
                };
                out.put(offset, 4);
            }
            if form != Form::FromThemselves {
                out.align();
                out.put(base, 8);
            }
        };
        match form {
            Form::Addresses => {
                out.align();
                for symbol in symbols {
                    out.put(symbol.address, 8);
                }
            }
            Form::Wide | Form::InFront | Form::WithSequence => offsets(&mut out),
            _ => {}
        }
        out.align();
        out.put(symbols.len() as u64, if wide { 8 } else { 4 });
        out.align();
        let (names, mut markers) = (out.out.len(), Vec::new());
        for (number, symbol) in symbols.iter().enumerate() {
            if number % 256 == 0 {
                markers.push((out.out.len() - names) as u64);
            }
            let name = compress(&[&[symbol.kind], symbol.name.as_bytes()].concat());
            match name.len() {
                short @ ..0x80 => out.put(short as u64, 1),
                long => out.put((long & 0x7f | 0x80 | (long >> 7) << 8) as u64, 2),
            }
            out.out.extend(name);
        }
        out.align();
        for marker in markers {
            out.put(marker, if wide { 8 } else { 4 });
        }
        let sequence = |out: &mut Writer| {
            out.align();
            (0..symbols.len()).rev().for_each(|at| out.put((at as u64).swap_bytes() >> 40, 3));
        };
        if form == Form::WithSequence {
            sequence(&mut out);
        }
        out.align();
        let mut index = Vec::new();
        let start = out.out.len();
        for token in &tokens {
            index.push(out.out.len() - start);
            out.out.extend([token, &[0][..]].concat());
        }
        out.align();
        for at in index {
            out.put(at as u64, 2);
        }
        if matches!(form, Form::Behind | Form::Unsigned | Form::FromThemselves) {
            offsets(&mut out);
            sequence(&mut out);
        }
        out.out
    }

    struct Writer {
        out: Vec<u8>,
        address: u64,
        alignment: u64,
    }

    impl Writer {
        fn align(&mut self) {
            while !(self.address + self.out.len() as u64).is_multiple_of(self.alignment) {
                self.out.push(0);
            }
        }

        fn put(&mut self, value: u64, width: usize) {
            self.out.extend(&value.to_le_bytes()[..width]);
        }
    }

    /// A section with the tables among other things.
    fn section(form: Form, symbols: &[Entry]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..JUNK as u8).collect();
        bytes.extend(tables(form, symbols, RODATA + JUNK as u64));
        bytes.extend([0x77; 100]);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, Missing> {
        find(&[Region { address: RODATA, bytes }], &CODE)
    }

    /// Symbols of a made kernel: per-CPU ones at low addresses where the form has such.
    fn symbols(form: Form, count: u64) -> Vec<Entry> {
        let mut symbols = Vec::new();
        if !matches!(form, Form::Unsigned | Form::FromThemselves) {
            symbols.push(entry(b'A', 0, "__per_cpu_start"));
            symbols.push(entry(b'A', 0x1_2340, "cpu_number"));
        }
        for n in 0..count {
            symbols.push(entry(b't', CODE.start + n * 16, &format!("nft_do_{n}_eval")));
        }
        let long = "x".repeat(300);
        symbols.push(entry(b'T', CODE.start + count * 16, &long));
        symbols.push(entry(b'T', CODE.end, "_etext"));
        symbols.push(entry(b'D', RODATA + 0x10_0000, "nft_trace_enabled"));
        symbols.push(entry(b'D', RODATA + 0x10_0000, "an_alias"));
        symbols
    }

    #[test]
    fn every_form_is_read() {
        for form in FORMS {
            for count in [1, 2, 250, 255, 256, 257, 600, 2000] {
                let symbols = symbols(form, count);
                assert_eq!(read(&section(form, &symbols)), Ok(symbols), "{form:?} of {count}");
            }
        }
    }

    #[test]
    fn other_sections_do_not_matter() {
        let symbols = symbols(Form::Behind, 700);
        let bytes = section(Form::Behind, &symbols);
        let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
        let region = |address, bytes| Region { address, bytes };
        let regions =
            [region(0x1003, &noise), region(RODATA, &bytes), region(RODATA + (1 << 24), &[])];
        assert_eq!(find(&regions, &CODE), Ok(symbols));
        assert_eq!(find(&regions[..1], &CODE), Err(Missing::Tables));
        assert_eq!(find(&[], &CODE), Err(Missing::Tables));
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused() {
        for form in FORMS {
            // A function outside code.
            let mut odd = symbols(form, 300);
            odd.last_mut().unwrap().kind = b'T';
            assert_eq!(read(&section(form, &odd)), Err(Missing::Addresses), "{form:?}");
            // Not ascending.
            let mut odd = symbols(form, 300);
            odd.swap(100, 101);
            assert_eq!(read(&section(form, &odd)), Err(Missing::Addresses), "{form:?}");
        }
    }

    #[test]
    fn a_wrong_marker_is_no_marker() {
        let symbols = symbols(Form::Behind, 600);
        let bytes = section(Form::Behind, &symbols);
        // The second marker holds how many bytes the first 256 names take.
        let tables = tables(Form::Behind, &symbols, RODATA + JUNK as u64);
        let at = (0..tables.len() - 12).step_by(4).find(|&at| {
            let word = |n: usize| {
                u64::from(u32::from_le_bytes(*tables[at + 4 * n..].first_chunk().unwrap()))
            };
            word(0) == 0 && word(1) > 256 * 2 && word(2) > word(1) && word(2) < 3 * word(1)
        });
        let mut bytes_with_wrong = bytes;
        bytes_with_wrong[JUNK + at.unwrap() + 4] ^= 1;
        assert_eq!(read(&bytes_with_wrong), Err(Missing::Tables));
    }

    #[test]
    fn every_cut_is_noticed() {
        for form in FORMS {
            let symbols = symbols(form, 30);
            let bytes = section(form, &symbols);
            for end in 0..bytes.len() {
                if let Ok(found) = read(&bytes[..end]) {
                    // Only what follows the addresses may be missing.
                    assert_eq!(found, symbols, "{form:?} cut at {end}");
                }
            }
        }
    }

    #[test]
    fn much_that_looks_like_names_ends_the_search() {
        // Tokens of a real table behind nothing but counts that each could be the right one.
        let symbols = symbols(Form::Behind, 2);
        let bytes = tables(Form::Behind, &symbols, 0);
        let region = Region { address: 0, bytes: &bytes };
        let tokens = Tokens::places(&region)
            .find_map(|at| Tokens::at(&region, at, &mut Steps(MAX_STEPS)).unwrap())
            .unwrap();
        let tail = &bytes[tokens.start..tokens.end];
        // Each word is a count of 0x10000 to 0x20000 and, byte by byte, a name of two tokens.
        let names = [2, b't', 2, b't'].repeat(1 << 22);
        let mut many = names;
        for word in many.chunks_exact_mut(40) {
            word[..4].copy_from_slice(&0x0010_7402_u32.to_le_bytes());
        }
        let bytes = [&many[..], tail].concat();
        let result = find(&[Region { address: 0, bytes: &bytes }], &CODE);
        assert!(matches!(result, Err(Missing::Bounds | Missing::Tables)), "{result:?}");
    }

    #[test]
    fn much_that_looks_like_tokens_ends_the_search() {
        // Strings of 3 bytes, whose index fits wherever it is thought to begin, and many of these.
        let strings = b"abc\0".repeat(400);
        let index: Vec<u8> = (0..256_u16).flat_map(|n| (n * 4).to_le_bytes()).collect();
        let whole = [&strings[..], &index, &[1; 8]].concat();
        let bytes = whole.repeat(20_000);
        let result = find(&[Region { address: 0, bytes: &bytes }], &CODE);
        assert!(matches!(result, Err(Missing::Bounds | Missing::Tables)), "{result:?}");
    }

    proptest! {
        #[test]
        fn any_symbols_come_back(
            form in 0..FORMS.len(),
            names in proptest::collection::vec("[a-zA-Z_.$0-9]{1,200}", 1..700),
            gaps in proptest::collection::vec(0..4000u64, 700),
        ) {
            let mut address = CODE.start;
            let symbols: Vec<Entry> = names.iter().zip(gaps).map(|(name, gap)| {
                address += gap;
                entry(b'T', address, name)
            }).collect();
            let form = FORMS[form];
            prop_assert_eq!(read(&section(form, &symbols)), Ok(symbols));
        }

        #[test]
        fn flipped_bytes_neither_panic_nor_grow(
            form in 0..FORMS.len(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let form = FORMS[form];
            let symbols = symbols(form, 40);
            let mut bytes = section(form, &symbols);
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(found) = read(&bytes) {
                prop_assert_eq!(found.len(), symbols.len());
                prop_assert!(found.is_sorted_by_key(|entry| entry.address));
            }
        }
    }
}
