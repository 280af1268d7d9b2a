//! A kernel's ELF object as one map of places, whether relocatable (a module) or linked (vmlinux):
//! a place is a section and an offset in it, so the code above never asks which of the two it reads.
//! References are relocation entries in a module and plain addresses in vmlinux; both end as the
//! place they mean.
//!
//! Everything here is read from hostile bytes: an offset is used only after it was found inside its
//! section, and a broken table is an error or no table, never a panic.

use super::{
    ImageError,
    function::ObjectKind,
    kallsyms::{self, Missing, Region},
};
use object::{
    LittleEndian, SectionIndex, elf,
    read::elf::{FileHeader, ProgramHeader, Rela, SectionHeader, Sym},
};
use std::{borrow::Cow, collections::HashMap, fmt, ops::Range};

type Header = elf::FileHeader64<LittleEndian>;
type RelaEntry = elf::Rela64<LittleEndian>;
const ENDIAN: LittleEndian = LittleEndian;

/// How far back [`Elf::covering`] looks for a symbol that covers a place: symbols nest little.
const NESTING: usize = 64;

/// Most symbols, and most relocations: ten times what the largest kernels have.
const MAX_ENTRIES: usize = 2 << 20;
/// Most note sections and segments looked at, and most bytes of each.
const MAX_NOTES: (usize, usize) = (64, 64 << 10);
/// Longest name of a symbol or section; longer ones count as none. `KSYM_NAME_LEN` is 512.
const MAX_NAME: usize = 512;

/// A parsed object.
pub(super) struct Elf<'data> {
    pub(super) kind: ObjectKind,
    pub(super) names: Names,
    pub(super) sections: Vec<Section<'data>>,
    symbols: Vec<Symbol<'data>>,
    /// Indices of the symbols that cover bytes, by section and start; the best of equals last.
    covering: Vec<usize>,
    /// How many places a name is defined at.
    definitions: HashMap<Cow<'data, str>, Vec<Place>>,
    /// Loaded sections by address.
    by_address: Vec<usize>,
    notes: Vec<&'data [u8]>,
}

/// A section.
pub(super) struct Section<'data> {
    pub(super) name: &'data str,
    /// 0 in most modules, and of no meaning there.
    pub(super) address: u64,
    pub(super) size: u64,
    /// Empty for one without bytes in the file.
    pub(super) bytes: &'data [u8],
    flags: elf::SectionFlags,
    /// Ascending by offset.
    relocations: Vec<RawRelocation>,
}

impl Section<'_> {
    /// `.data` of Debian's kernels from 6.16 on is executable, for a few bytes of some function.
    pub(super) fn is_code(&self) -> bool {
        self.flags.contains(elf::SHF_EXECINSTR) && !self.name.starts_with(".data")
    }

    /// Constants, but not merged strings.
    pub(super) fn is_constant(&self) -> bool {
        !self.flags.contains(elf::SHF_WRITE) && !self.flags.contains(elf::SHF_STRINGS)
    }

    fn is_loaded(&self) -> bool {
        self.flags.contains(elf::SHF_ALLOC)
    }
}

/// A relocation entry.
#[derive(Clone, Copy)]
pub(super) struct RawRelocation {
    /// Of the field, from the start of its section.
    pub(super) offset: u64,
    /// `R_X86_64_…`.
    pub(super) r_type: u32,
    symbol: usize,
    addend: i64,
}

/// Which symbols an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Those of its symbol table.
    Table,
    /// All, from kallsyms: sizes reach to the next symbol (`CONFIG_KALLSYMS_ALL`).
    All,
    /// Those of code, from kallsyms: as above, and nothing says where data is.
    Code,
}

/// A symbol.
pub(super) struct Symbol<'data> {
    pub(super) name: Cow<'data, str>,
    /// `None`: undefined, or an absolute value.
    pub(super) place: Option<Place>,
    /// In vmlinux; ends of sections are in no section, so that they have no place.
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) kind: SymbolKind,
    global: bool,
}

/// What a symbol names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SymbolKind {
    Section,
    Other,
    Object,
    Function,
}

/// A byte of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) section: usize,
    pub(super) offset: u64,
}

/// What a field means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A byte of this object.
    Here(Place),
    /// A symbol of another object, and what is added to it.
    Elsewhere(String, i64),
}

impl Target {
    /// The place, if it is of this object.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Here(place) => Some(*place),
            Self::Elsewhere(..) => None,
        }
    }
}

fn broken(what: impl fmt::Display) -> ImageError {
    ImageError::Malformed(format!("broken ELF object: {what}"))
}

/// Whether these bytes begin as an ELF object does.
pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl<'data> Elf<'data> {
    /// Reads headers, symbols and relocations.
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self, ImageError> {
        check_machine(bytes)?;
        let header = Header::parse(bytes).map_err(broken)?;
        let kind = match header.e_type(ENDIAN) {
            elf::ET_REL => ObjectKind::Module,
            elf::ET_EXEC | elf::ET_DYN => ObjectKind::Vmlinux,
            other => {
                return Err(broken(format_args!("expected type 1, 2 or 3, found {}", other.0)));
            }
        };
        let table = header.sections(ENDIAN, bytes).map_err(broken)?;
        let mut sections = Vec::with_capacity(table.len());
        let mut notes = Vec::new();
        for section in table.iter() {
            let name = table.section_name(ENDIAN, section).map_err(broken)?;
            let content = section.data(ENDIAN, bytes).map_err(broken)?;
            if section.sh_type(ENDIAN) == elf::SHT_NOTE {
                notes.push(content);
            }
            sections.push(Section {
                name: text(name),
                address: section.sh_addr(ENDIAN),
                size: section.sh_size(ENDIAN),
                bytes: content,
                flags: section.sh_flags(ENDIAN),
                relocations: Vec::new(),
            });
        }
        for segment in header.program_headers(ENDIAN, bytes).map_err(broken)? {
            if segment.p_type(ENDIAN) == elf::PT_NOTE {
                notes.push(segment.data(ENDIAN, bytes).map_err(|()| broken("a segment's extent"))?);
            }
        }
        let mut object = Self {
            kind,
            names: Names::Table,
            sections,
            symbols: Vec::new(),
            covering: Vec::new(),
            definitions: HashMap::new(),
            by_address: Vec::new(),
            notes,
        };
        let symbols = table.symbols(ENDIAN, bytes, elf::SHT_SYMTAB).map_err(broken)?;
        if symbols.len() > MAX_ENTRIES {
            return Err(broken(format_args!(
                "at most {MAX_ENTRIES} symbols are accepted, found {}",
                symbols.len()
            )));
        }
        for (index, symbol) in symbols.enumerate() {
            let name = symbols.symbol_name(ENDIAN, symbol).map_err(broken)?;
            let name = text(name);
            let section = symbols.symbol_section(ENDIAN, symbol, index).map_err(broken)?;
            object.add_symbol(name, section, symbol);
        }
        if kind == ObjectKind::Module {
            let mut left = MAX_ENTRIES;
            for section in table.iter() {
                left = object.add_relocations(section, bytes, left)?;
            }
        }
        object.index();
        Ok(object)
    }

    fn add_symbol(
        &mut self,
        name: &'data str,
        section: Option<SectionIndex>,
        symbol: &elf::Sym64<LittleEndian>,
    ) {
        let section =
            section.and_then(|SectionIndex(index)| Some((index, self.sections.get(index)?)));
        let place = section.and_then(|(section, header)| {
            let base = if self.kind == ObjectKind::Vmlinux { header.address } else { 0 };
            let offset = symbol.st_value(ENDIAN).checked_sub(base)?;
            Some(Place { section, offset })
        });
        let kind = match symbol.st_type() {
            elf::STT_SECTION => SymbolKind::Section,
            elf::STT_FUNC => SymbolKind::Function,
            elf::STT_OBJECT => SymbolKind::Object,
            _ => SymbolKind::Other,
        };
        let (address, mut size) = (symbol.st_value(ENDIAN), symbol.st_size(ENDIAN));
        if size == 0 && is_thunk(name) {
            size = 1;
        }
        let global = symbol.st_bind() != elf::STB_LOCAL;
        let name = Cow::Borrowed(name);
        self.symbols.push(Symbol { name, place, address, size, kind, global });
    }

    /// Takes the symbols that the kernel carries for itself, where a vmlinux has no others.
    pub(super) fn read_kallsyms(&mut self) -> Result<(), Missing> {
        let loaded = || self.by_address.iter().map(|&index| &self.sections[index]);
        let end = |section: &Section<'_>| section.address.saturating_add(section.size);
        let code = loaded().filter(|section| section.is_code());
        let bounds = code.map(|code| code.address..end(code));
        let code = bounds.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
        let Some(code) = code else { return Err(Missing::Tables) };
        let data = self.data().map(|(_, data)| Region { address: data.address, bytes: data.bytes });
        let mut entries = kallsyms::find(&data.collect::<Vec<_>>(), &code)?;
        entries.sort_by_key(|entry| entry.address);
        let is_text = |kind: u8| matches!(kind.to_ascii_lowercase(), b't' | b'w');
        let only_code = entries.iter().all(|entry| is_text(entry.kind));
        self.names = if only_code { Names::Code } else { Names::All };
        let mut next = None;
        for entry in entries.into_iter().rev() {
            let address = entry.address;
            let place = self.at_address(address);
            // Of several symbols at an address each reaches to the next address.
            let (at, behind) = match next {
                Some((at, behind)) if at == address => (at, behind),
                Some((at, _)) => (address, at),
                None => (address, u64::MAX),
            };
            next = Some((at, behind));
            let size = place.map_or(0, |place| {
                end(&self.sections[place.section]).min(behind).saturating_sub(address)
            });
            let in_code = place.is_some_and(|place| self.sections[place.section].is_code());
            let kind = if in_code { SymbolKind::Function } else { SymbolKind::Object };
            let (name, global) = (Cow::Owned(entry.name), entry.kind.is_ascii_uppercase());
            self.symbols.push(Symbol { name, place, address, size, kind, global });
        }
        self.index();
        Ok(())
    }

    fn add_relocations(
        &mut self,
        section: &elf::SectionHeader64<LittleEndian>,
        bytes: &'data [u8],
        left: usize,
    ) -> Result<usize, ImageError> {
        let Some((entries, _)) = section.rela(ENDIAN, bytes).map_err(broken)? else {
            return Ok(left);
        };
        let target = section.sh_info(ENDIAN) as usize;
        let Some(target) = self.sections.get_mut(target) else {
            return Err(broken(format_args!(
                "relocations for section {target}, which is not there"
            )));
        };
        if !target.is_loaded() {
            return Ok(left); // debug information has millions
        }
        let Some(left) = left.checked_sub(entries.len()) else {
            return Err(broken(format_args!("at most {MAX_ENTRIES} relocations are accepted")));
        };
        target.relocations.extend(entries.iter().map(|entry: &RelaEntry| RawRelocation {
            offset: entry.r_offset(ENDIAN),
            r_type: entry.r_type(ENDIAN, false).0,
            symbol: entry.r_sym(ENDIAN, false) as usize,
            addend: entry.r_addend(ENDIAN),
        }));
        Ok(left)
    }

    fn index(&mut self) {
        for section in &mut self.sections {
            section.relocations.sort_by_key(|relocation| relocation.offset);
        }
        let sections = &self.sections;
        self.by_address = (0..sections.len()).filter(|&i| sections[i].is_loaded()).collect();
        self.by_address.sort_by_key(|&index| sections[index].address);
        let symbols = &self.symbols;
        let mut covering: Vec<usize> = (0..symbols.len())
            .filter(|&index| {
                let symbol = &symbols[index];
                // `__pfx_` and `__cfi_` name the padding in front of a function.
                symbol.place.is_some()
                    && symbol.size > 0
                    && symbol.kind != SymbolKind::Section
                    && !is_label(&symbol.name)
                    && !symbol.name.starts_with("__pfx_")
                    && !symbol.name.starts_with("__cfi_")
            })
            .collect();
        covering.sort_by_key(|&index| {
            let symbol = &symbols[index];
            (
                symbol.place,
                is_thunk(&symbol.name),
                symbol.global,
                symbol.kind,
                symbol.size,
                &symbol.name,
            )
        });
        self.definitions.clear();
        for &index in &covering {
            let symbol = &symbols[index];
            if let Some(place) = symbol.place {
                let places = self.definitions.entry(symbol.name.clone()).or_default();
                if !places.contains(&place) && places.len() < NESTING {
                    places.push(place);
                }
            }
        }
        self.covering = covering;
    }

    /// The symbol whose bytes this place is among; the innermost one, and of several equal ones
    /// the global one.
    pub(super) fn covering(&self, place: Place) -> Option<&Symbol<'data>> {
        let end = self.covering.partition_point(|&index| self.symbols[index].place <= Some(place));
        self.covering[..end].iter().rev().take(NESTING).map(|&index| &self.symbols[index]).find(
            |symbol| {
                symbol.place.is_some_and(|start| {
                    start.section == place.section && place.offset - start.offset < symbol.size
                })
            },
        )
    }

    /// Where the next symbol behind this place begins, in the same section.
    pub(super) fn next_symbol(&self, place: Place) -> Option<u64> {
        let next = self.covering.partition_point(|&index| self.symbols[index].place <= Some(place));
        let next = self.symbols[*self.covering.get(next)?].place?;
        (next.section == place.section).then_some(next.offset)
    }

    /// All symbols of this name.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Symbol<'data>> {
        self.symbols.iter().filter(move |symbol| symbol.name == name)
    }

    /// Whether there is a symbol table to look names up in.
    pub(super) fn has_symbols(&self) -> bool {
        self.symbols.len() > 1
    }

    /// The symbol's name; where several places have that name, with its place behind a dot, so that
    /// a name means one place.
    pub(super) fn unique_name(&self, symbol: &Symbol<'data>) -> String {
        let ambiguous = self.definitions.get(&symbol.name).is_some_and(|places| places.len() > 1);
        match symbol.place {
            Some(place) if ambiguous && !symbol.global => {
                format!("{}.{}", symbol.name, self.place_name(place))
            }
            _ => symbol.name.clone().into_owned(),
        }
    }

    /// `section+0xoffset`.
    pub(super) fn place_name(&self, place: Place) -> String {
        let section = self.sections.get(place.section).map_or("", |section| section.name);
        format!("{section}+0x{:x}", place.offset)
    }

    /// The bytes of a range that must lie in the section.
    pub(super) fn bytes(&self, section: usize, range: Range<u64>) -> Option<&'data [u8]> {
        let bytes = self.sections.get(section)?.bytes;
        bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// The sections of data that are loaded, with their index.
    pub(super) fn data(&self) -> impl Iterator<Item = (usize, &Section<'data>)> {
        let sections = self.by_address.iter().map(|&index| (index, &self.sections[index]));
        sections.filter(|(_, section)| !section.is_code())
    }

    /// The section of this name, with its index.
    pub(super) fn section(&self, name: &str) -> Option<(usize, &Section<'data>)> {
        self.sections.iter().enumerate().find(|(_, section)| section.name == name)
    }

    /// The place a linked address means.
    pub(super) fn at_address(&self, address: u64) -> Option<Place> {
        let address_of = |index: usize| self.sections[index].address;
        let end = self.by_address.partition_point(|&index| address_of(index) <= address);
        self.by_address[..end].iter().rev().take(NESTING).find_map(|&index| {
            let offset = address - address_of(index);
            (offset < self.sections[index].size).then_some(Place { section: index, offset })
        })
    }

    /// The linked address of a place.
    pub(super) fn address(&self, place: Place) -> u64 {
        let base = self.sections.get(place.section).map_or(0, |section| section.address);
        base.wrapping_add(place.offset)
    }

    /// The relocations of the fields in a range of a section, ascending.
    pub(super) fn relocations(&self, section: usize, range: Range<u64>) -> &[RawRelocation] {
        let Some(section) = self.sections.get(section) else { return &[] };
        let all = &section.relocations;
        let start = all.partition_point(|relocation| relocation.offset < range.start);
        let end = all.partition_point(|relocation| relocation.offset < range.end);
        all.get(start..end).unwrap_or_default()
    }

    /// What a relocated field means. `bias` is what the addend of a PC-relative field lacks because
    /// the processor counts from the end of the instruction, not from the field; 0 for others.
    pub(super) fn target(
        &self,
        relocation: &RawRelocation,
        bias: i64,
    ) -> Result<Target, ImageError> {
        let addend = relocation.addend;
        let Some(symbol) = self.symbols.get(relocation.symbol) else {
            return Err(broken(format_args!(
                "a relocation refers to symbol {} of {}",
                relocation.symbol,
                self.symbols.len()
            )));
        };
        let Some(start) = symbol.place else {
            if symbol.name.is_empty() {
                // Relative to no symbol: the addend is an address.
                return Ok(Target::Elsewhere(address_name(0), addend));
            }
            return Ok(Target::Elsewhere(symbol.name.clone().into_owned(), addend));
        };
        let offset = i128::from(start.offset) + i128::from(addend) + i128::from(bias);
        match u64::try_from(offset) {
            Ok(offset) => Ok(Target::Here(Place { section: start.section, offset })),
            // In front of its section: only arithmetic can bring that back.
            Err(_) if symbol.kind == SymbolKind::Section => {
                Ok(Target::Elsewhere(self.place_name(start), addend))
            }
            Err(_) => Ok(Target::Elsewhere(symbol.name.clone().into_owned(), addend)),
        }
    }

    /// The symbol a relocation names, unless it is only a section or a compiler's label.
    pub(super) fn named_symbol(&self, relocation: &RawRelocation) -> Option<&Symbol<'data>> {
        self.symbols.get(relocation.symbol).filter(|symbol| {
            symbol.kind != SymbolKind::Section && !symbol.name.is_empty() && !is_label(&symbol.name)
        })
    }

    /// The addend as it is in the file.
    pub(super) fn addend(relocation: &RawRelocation) -> i64 {
        relocation.addend
    }

    /// The contents of note sections and segments.
    pub(super) fn notes(&self) -> impl Iterator<Item = &'data [u8]> {
        let (count, len) = MAX_NOTES;
        self.notes.iter().take(count).map(move |notes| &notes[..notes.len().min(len)])
    }
}

fn text(name: &[u8]) -> &str {
    if name.len() > MAX_NAME { "" } else { std::str::from_utf8(name).unwrap_or_default() }
}

/// The name of an address that is in no section.
pub(super) fn address_name(address: u64) -> String {
    format!("address+{address:#x}")
}

/// Labels of compilers that assemblers left in the table: they name no object.
fn is_label(name: &str) -> bool {
    name.starts_with(".L") || name.is_empty()
}

/// Thunks of arch/x86/lib/retpoline.S. They are labels without a size, and the first of them is
/// where their array begins, which has one.
fn is_thunk(name: &str) -> bool {
    name.starts_with("__x86_") && !name.ends_with("_array")
}

fn check_machine(bytes: &[u8]) -> Result<(), ImageError> {
    if !is_elf(bytes) {
        let found = bytes.get(..4.min(bytes.len())).unwrap_or_default();
        return Err(ImageError::Malformed(format!(
            "expected an ELF object, found {} bytes that begin with {found:02x?}",
            bytes.len()
        )));
    }
    let [class, data] = bytes.get(4..6).and_then(|ident| ident.try_into().ok()).unwrap_or([0; 2]);
    let machine: [u8; 2] =
        bytes.get(18..20).and_then(|field| field.try_into().ok()).ok_or_else(|| {
            broken(format_args!("it ends after {} bytes, inside its header", bytes.len()))
        })?;
    let little = data == elf::ELFDATA2LSB.0;
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    let name = match machine {
        3 => "i386",
        8 => "mips",
        20 | 21 => "powerpc",
        22 => "s390",
        40 => "arm",
        62 if class == elf::ELFCLASS32.0 => "x32",
        62 if class == elf::ELFCLASS64.0 && little => return Ok(()),
        62 => return Err(broken(format_args!("x86-64 with class {class} and byte order {data}"))),
        183 => "arm64",
        243 => "riscv",
        258 => "loongarch",
        other => return Err(ImageError::UnsupportedArch(format!("ELF machine {other}"))),
    };
    Err(ImageError::UnsupportedArch(name.to_owned()))
}
