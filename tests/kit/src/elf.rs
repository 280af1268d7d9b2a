//! Kernel files of a real function: the module it was taken from, as far as it matters, and the
//! kernel image with the BTF that tells its fields.

use crate::btf;
use nfdrop_db::BuildId;
use nfdrop_resolver::image::{
    Function,
    function::{KeepOff, Part, PartKind, Patched, RelocationKind},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
    write::{Object, Relocation, RelocationFlags, SectionId, Symbol, SymbolId, SymbolSection},
};
use std::collections::{BTreeMap, HashMap};

/// In front of the first part in a section.
const START: u64 = 0x10;

struct Writer {
    object: Object<'static>,
    /// By name; sections among them.
    symbols: HashMap<String, SymbolId>,
}

impl Writer {
    fn new() -> Self {
        let object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        Self { object, symbols: HashMap::new() }
    }

    fn section(&mut self, name: &str, kind: SectionKind, bytes: &[u8]) -> SectionId {
        let id = self.object.add_section(Vec::new(), name.into(), kind);
        self.object.append_section_data(id, bytes, 8);
        let symbol = self.object.section_symbol(id);
        self.symbols.insert(name.to_owned(), symbol);
        id
    }

    fn symbol(&mut self, name: &str, at: Option<(SectionId, u64, u64)>) -> SymbolId {
        if let Some(known) = self.symbols.get(name) {
            return *known;
        }
        let (section, value, size, kind, scope) = match at {
            Some((section, value, size)) => {
                let section = SymbolSection::Section(section);
                (section, value, size, SymbolKind::Text, SymbolScope::Dynamic)
            }
            None => (SymbolSection::Undefined, 0, 0, SymbolKind::Unknown, SymbolScope::Unknown),
        };
        let (name_bytes, flags) = (name.into(), SymbolFlags::None);
        let symbol =
            Symbol { name: name_bytes, value, size, kind, scope, weak: false, section, flags };
        let id = self.object.add_symbol(symbol);
        self.symbols.insert(name.to_owned(), id);
        id
    }

    fn relocate(&mut self, section: SectionId, offset: u64, r_type: u32, name: &str, addend: i64) {
        // `.data+0x1c0`: a place without a symbol.
        let place = name.split_once("+0x").and_then(|(section, offset)| {
            Some((self.symbols.get(section).copied()?, i64::from_str_radix(offset, 16).ok()?))
        });
        let (symbol, base) = place.unwrap_or_else(|| (self.symbol(name, None), 0));
        let flags = RelocationFlags::Elf { r_type: elf::RelocationType(r_type) };
        let relocation = Relocation { offset, symbol, addend: base + addend, flags };
        self.object.add_relocation(section, relocation).unwrap();
    }

    /// A table of entries of `size` bytes, each with a PC-relative place in the function at its
    /// start.
    fn table(&mut self, name: &str, size: usize, main: &Placed, offsets: &[u32]) {
        if offsets.is_empty() {
            return;
        }
        let id = self.section(name, SectionKind::ReadOnlyData, &vec![0; size * offsets.len()]);
        for (index, offset) in offsets.iter().enumerate() {
            self.relocate(id, (index * size) as u64, PC32, &main.section, main.at(*offset));
        }
    }

    fn note(&mut self, id: Option<&BuildId>) {
        let Some(id) = id else { return };
        let id = id.as_bytes();
        let words = [4, id.len() as u32, 3].map(u32::to_le_bytes);
        let note = [words.as_flattened(), b"GNU\0", id].concat();
        self.section(".note.gnu.build-id", SectionKind::Note, &note);
    }
}

const ABS64: u32 = 1;
const PC32: u32 = 2;
const ABS32: u32 = 10;
const ABS32S: u32 = 11;
const PC64: u32 = 24;

fn r_type(kind: RelocationKind) -> u32 {
    match kind {
        RelocationKind::Abs64 => ABS64,
        RelocationKind::Abs32 => ABS32,
        RelocationKind::Abs32Signed => ABS32S,
        RelocationKind::Pc32 => PC32,
        RelocationKind::Pc64 => PC64,
    }
}

/// Where a part is.
struct Placed {
    section: String,
    start: u64,
}

impl Placed {
    /// In the section, for an addend.
    fn at(&self, offset: u32) -> i64 {
        (self.start + u64::from(offset)) as i64
    }
}

/// Where every part goes: those named after a place go there, all others behind them.
fn place(parts: &[Part]) -> Vec<Placed> {
    let named = |part: &Part| {
        let (section, offset) = part.name.split_once("+0x")?;
        Some((section.to_owned(), u64::from_str_radix(offset, 16).ok()?))
    };
    let mut ends: HashMap<String, u64> = HashMap::new();
    for part in parts {
        let Some((section, start)) = named(part) else { continue };
        let end = ends.entry(section).or_default();
        *end = (*end).max(start + part.bytes.len() as u64);
    }
    let place = |part: &Part| {
        let (section, start) = named(part).unwrap_or_else(|| {
            let section = match part.kind {
                PartKind::Data => ".rodata",
                PartKind::Code if part.name.split('.').next_back() == Some("cold") => {
                    ".text.unlikely"
                }
                PartKind::Code => ".text",
            };
            let end = ends.entry(section.to_owned()).or_default();
            let start = end.next_multiple_of(16).max(START);
            *end = start + part.bytes.len() as u64;
            (section.to_owned(), start)
        });
        Placed { section, start }
    };
    parts.iter().map(place).collect()
}

/// Whether all of a function can be written: the lengths of alternatives cannot.
pub fn can_write(function: &Function) -> bool {
    let written = |keep: &KeepOff| keep.why != Patched::Alternative;
    function.release.is_some() && function.keep_off.iter().all(written)
}

/// `nf_tables.ko` of a function.
pub fn module(function: &Function) -> Vec<u8> {
    module_with(function, &[])
}

/// The same, with the content of `.BTF`.
fn module_with(function: &Function, btf: &[u8]) -> Vec<u8> {
    assert!(can_write(function));
    let mut writer = Writer::new();
    let placed = place(&function.parts);
    let mut sections: BTreeMap<&str, (PartKind, Vec<u8>)> = BTreeMap::new();
    for (part, Placed { section, start }) in function.parts.iter().zip(&placed) {
        let (_, bytes) = sections.entry(section).or_insert((part.kind, Vec::new()));
        let end = *start as usize + part.bytes.len();
        bytes.resize(bytes.len().max(end), 0x90);
        bytes[*start as usize..end].copy_from_slice(&part.bytes);
    }
    let mut ids = HashMap::new();
    for (name, (kind, bytes)) in &sections {
        let kind = match kind {
            PartKind::Code => SectionKind::Text,
            PartKind::Data => SectionKind::ReadOnlyData,
        };
        ids.insert((*name).to_owned(), writer.section(name, kind, bytes));
    }
    if !ids.contains_key(".data") {
        writer.section(".data", SectionKind::Data, &[0; 0x1000]);
    }
    for (part, Placed { section, start }) in function.parts.iter().zip(&placed) {
        if !part.name.contains("+0x") {
            let size = part.bytes.len() as u64;
            writer.symbol(&part.name, Some((ids[section], *start, size)));
        }
    }
    for (part, Placed { section, start }) in function.parts.iter().zip(&placed) {
        for relocation in &part.relocations {
            let offset = start + u64::from(relocation.offset);
            let (name, addend) = (&relocation.symbol, relocation.addend);
            writer.relocate(ids[section], offset, r_type(relocation.kind), name, addend);
        }
    }
    let labels = function.jump_labels.as_deref().unwrap_or_default();
    if function.jump_labels.is_some() {
        let size = 16 * labels.len();
        let table = writer.section("__jump_table", SectionKind::Data, &vec![0; size]);
        for (index, label) in labels.iter().enumerate() {
            let at = 16 * index as u64;
            for (at, place) in [(at, label.code), (at + 4, label.target)] {
                let part = &placed[usize::from(place.part)];
                writer.relocate(table, at, PC32, &part.section, part.at(place.offset));
            }
            writer.relocate(table, at + 8, PC64, &label.key, label.branch.into());
        }
    }
    if !function.bugs.is_empty() {
        // { address; file; line; flags } in 12 bytes.
        let flags = function.bugs.iter().flat_map(|bug| {
            let mut entry = [0; 12];
            entry[10..].copy_from_slice(&u16::from(bug.warning).to_le_bytes());
            entry
        });
        let bytes: Vec<u8> = flags.collect();
        let table = writer.section("__bug_table", SectionKind::Data, &bytes);
        for (index, bug) in function.bugs.iter().enumerate() {
            let part = &placed[usize::from(bug.place.part)];
            let at = part.at(bug.place.offset);
            writer.relocate(table, 12 * index as u64, PC32, &part.section, at);
            writer.relocate(table, 12 * index as u64 + 4, PC32, ".data", 0);
        }
    }
    let of = |why| -> Vec<u32> {
        let keep_off = function.keep_off.iter().filter(|keep| keep.why == why);
        keep_off.map(|keep| keep.range.start).collect()
    };
    for (name, why) in [
        (".smp_locks", Patched::SmpLock),
        (".retpoline_sites", Patched::Retpoline),
        (".return_sites", Patched::ReturnThunk),
        (".call_sites", Patched::CallThunk),
        (".ibt_endbr_seal", Patched::EndbrSeal),
    ] {
        writer.table(name, 4, &placed[0], &of(why));
    }
    writer.table(".static_call_sites", 8, &placed[0], &of(Patched::StaticCall));
    if function.has_exception_entries {
        writer.table("__ex_table", 12, &placed[0], &[0]);
    }
    if let Some(release) = &function.release {
        // Cut off, nothing is said of preemption.
        let flags = match function.preemption {
            Some(true) => " SMP preempt mod_unload modversions \0",
            Some(false) => " SMP mod_unload modversions \0",
            None => " SMP",
        };
        let info = format!("license=GPL\0vermagic={release}{flags}");
        writer.section(".modinfo", SectionKind::ReadOnlyData, info.as_bytes());
    }
    if !btf.is_empty() {
        writer.section(".BTF", SectionKind::ReadOnlyData, btf);
    }
    writer.note(function.build_id.as_ref());
    writer.object.write().unwrap()
}

/// A kernel image with the function's fields as BTF.
pub fn vmlinux(function: &Function, build_id: &BuildId) -> Vec<u8> {
    vmlinux_with(function, build_id, &btf::btf(&function.fields))
}

fn vmlinux_with(function: &Function, build_id: &BuildId, btf: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    let release = function.release.as_deref().unwrap();
    let banner = format!("Linux version %s\0Linux version {release} (builder) #1 SMP\n\0");
    writer.section(".rodata", SectionKind::ReadOnlyData, banner.as_bytes());
    writer.section(".BTF", SectionKind::ReadOnlyData, btf);
    writer.note(Some(build_id));
    let mut bytes = writer.object.write().unwrap();
    // e_type: ET_EXEC.
    bytes[16..18].copy_from_slice(&2_u16.to_le_bytes());
    bytes
}

/// Module and kernel image, with nf_tables' own structures in the module's split BTF.
pub fn split(function: &Function, build_id: &BuildId) -> [Vec<u8>; 2] {
    let is_own = |name: &str| name.starts_with("nft_");
    let (own, base) = function.fields.clone().into_iter().partition(|(name, _)| is_own(name));
    let [base, own] = btf::split(&base, &own);
    [module_with(function, &own), vmlinux_with(function, build_id, &base)]
}
