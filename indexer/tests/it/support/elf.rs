//! Kernel files of a real function: the module it was taken from, as far as it matters, and the
//! kernel image with the BTF that tells its fields.

use super::btf::btf;
use nfdrop_db::BuildId;
use nfdrop_indexer::image::{
    Function,
    function::{Patched, RelocationKind},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
    write::{Object, Relocation, RelocationFlags, SectionId, Symbol, SymbolId, SymbolSection},
};
use std::collections::HashMap;

/// The function begins here in `.text`.
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

    /// A table of entries of `size` bytes, each with a PC-relative place in `.text` at its start.
    fn table(&mut self, name: &str, size: usize, offsets: &[u32]) -> Option<SectionId> {
        if offsets.is_empty() {
            return None;
        }
        let id = self.section(name, SectionKind::ReadOnlyData, &vec![0; size * offsets.len()]);
        for (index, offset) in offsets.iter().enumerate() {
            let addend = (START + u64::from(*offset)) as i64;
            self.relocate(id, (index * size) as u64, PC32, ".text", addend);
        }
        Some(id)
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

/// `nf_tables.ko` of a function that has one part.
pub(crate) fn module(function: &Function) -> Vec<u8> {
    let [part] = &function.parts[..] else { panic!("functions of one part only") };
    let mut writer = Writer::new();
    let text = [&[0x90; START as usize][..], &part.bytes].concat();
    let text = writer.section(".text", SectionKind::Text, &text);
    writer.section(".data", SectionKind::Data, &[0; 0x1000]);
    writer.symbol(&part.name, Some((text, START, part.bytes.len() as u64)));
    for relocation in &part.relocations {
        let offset = START + u64::from(relocation.offset);
        let (name, addend) = (&relocation.symbol, relocation.addend);
        writer.relocate(text, offset, r_type(relocation.kind), name, addend);
    }
    let labels = function.jump_labels.as_deref().unwrap_or_default();
    if function.jump_labels.is_some() {
        let size = 16 * labels.len();
        let table = writer.section("__jump_table", SectionKind::Data, &vec![0; size]);
        for (index, label) in labels.iter().enumerate() {
            let at = 16 * index as u64;
            let place = |offset: u32| (START + u64::from(offset)) as i64;
            writer.relocate(table, at, PC32, ".text", place(label.code.offset));
            writer.relocate(table, at + 4, PC32, ".text", place(label.target.offset));
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
            let place = (START + u64::from(bug.place.offset)) as i64;
            writer.relocate(table, 12 * index as u64, PC32, ".text", place);
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
        writer.table(name, 4, &of(why));
    }
    writer.table(".static_call_sites", 8, &of(Patched::StaticCall));
    assert!(of(Patched::Alternative).is_empty(), "their lengths would have to be written");
    if function.has_exception_entries {
        writer.table("__ex_table", 12, &[0]);
    }
    if let Some(release) = &function.release {
        let info = format!("license=GPL\0vermagic={release} SMP preempt mod_unload modversions \0");
        writer.section(".modinfo", SectionKind::ReadOnlyData, info.as_bytes());
    }
    writer.note(function.build_id.as_ref());
    writer.object.write().unwrap()
}

/// A kernel image with the function's fields as BTF.
pub(crate) fn vmlinux(function: &Function, build_id: &BuildId) -> Vec<u8> {
    let mut writer = Writer::new();
    let release = function.release.as_deref().unwrap();
    let banner = format!("Linux version %s\0Linux version {release} (builder) #1 SMP\n\0");
    writer.section(".rodata", SectionKind::ReadOnlyData, banner.as_bytes());
    writer.section(".BTF", SectionKind::ReadOnlyData, &btf(&function.fields));
    writer.note(Some(build_id));
    let mut bytes = writer.object.write().unwrap();
    // e_type: ET_EXEC.
    bytes[16..18].copy_from_slice(&2_u16.to_le_bytes());
    bytes
}
