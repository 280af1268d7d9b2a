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
    let regions = [region(0x1003, &noise), region(RODATA, &bytes), region(RODATA + (1 << 24), &[])];
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
        let word =
            |n: usize| u64::from(u32::from_le_bytes(*tables[at + 4 * n..].first_chunk().unwrap()));
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
