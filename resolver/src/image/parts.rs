//! Collects `nft_do_chain` and what is needed to run it: its cold part, the local callees the
//! resolver runs, the tables of its switches. All references between them and to the rest of the
//! kernel end up as relocations by name, whoever resolved them before.

use super::{
    ImageError,
    elf::{self, Elf, Names, Place, RawRelocation, Section, Symbol, SymbolKind, Target},
    function::{
        self, MAX_PART, MAX_PARTS, ObjectKind, PartKind, Relocation, RelocationKind, SYMBOL,
    },
};
use crate::arch::references::{self, Value};
use crate::resolve::layout::{Callee, callee};
use std::collections::{BTreeMap, HashMap};

/// Most bytes of data that no symbol bounds and that is no table of code addresses.
const MAX_LOOSE_DATA: u64 = 1 << 10;

/// The parts, with where they are in the object.
pub(super) struct Parts<'elf, 'data> {
    elf: &'elf Elf<'data>,
    found: Vec<Found<'data>>,
}

struct Found<'data> {
    name: String,
    kind: PartKind,
    start: Place,
    bytes: &'data [u8],
    fields: Vec<Field>,
}

/// A field of a part, before it is known which parts there are.
struct Field {
    offset: u32,
    kind: RelocationKind,
    /// What to add to the field's `S + A` to get the place it means: for PC-relative ones in code
    /// the distance to the end of the instruction, in a table the distance back to its start.
    bias: i64,
    target: Target,
    /// The symbol and addend the file itself has.
    written: Option<(String, i64)>,
}

impl<'elf, 'data> Parts<'elf, 'data> {
    /// `nft_do_chain` and everything its calls and jumps lead to.
    pub(super) fn collect(elf: &'elf Elf<'data>) -> Result<Self, ImageError> {
        let mut parts = Self { elf, found: Vec::new() };
        let (name, place, size) = entry(elf)?;
        parts.add(name, PartKind::Code, place, size)?;
        parts.follow_code(0)?;
        Ok(parts)
    }

    /// Adds the function around `place`, if there is none yet: what a jump label leads to.
    pub(super) fn require(&mut self, place: Place) -> Result<(), ImageError> {
        if self.at(place).is_some() {
            return Ok(());
        }
        let Some(symbol) = self.elf.covering(place) else {
            return Err(ImageError::Malformed(format!(
                "a jump label leads to {}, which is in no function",
                self.elf.place_name(place)
            )));
        };
        let first = self.found.len();
        self.add_symbol(symbol, PartKind::Code)?;
        self.follow_code(first)
    }

    /// Adds the read-only data that the code reads and no symbol of an object names.
    pub(super) fn collect_data(&mut self) -> Result<(), ImageError> {
        let mut next = 0;
        while next < self.found.len() {
            let mut places: Vec<Place> =
                self.found[next].fields.iter().filter_map(|field| field.target.place()).collect();
            places.sort_unstable();
            places.dedup();
            for (index, &place) in places.iter().enumerate() {
                let limit = places.get(index + 1).copied();
                self.add_data(place, limit)?;
            }
            next += 1;
        }
        Ok(())
    }

    /// The part a place is in, and where in it.
    pub(super) fn at(&self, place: Place) -> Option<function::Place> {
        let part = self.found.iter().position(|found| {
            found.start.section == place.section
                && place
                    .offset
                    .checked_sub(found.start.offset)
                    .is_some_and(|offset| offset < found.bytes.len() as u64)
        })?;
        let offset = place.offset - self.found[part].start.offset;
        Some(function::Place { part: part as u16, offset: offset as u32 })
    }

    /// As [`Parts::at`], in code only.
    pub(super) fn code_at(&self, place: Place) -> Option<function::Place> {
        self.at(place).filter(|at| self.found[usize::from(at.part)].kind == PartKind::Code)
    }

    /// Bytes of the instruction at a place of a part.
    pub(super) fn instruction_len(&self, place: function::Place) -> u32 {
        let rest = self.found.get(usize::from(place.part)).map_or(&[][..], |found| found.bytes);
        references::instruction_len(rest.get(place.offset as usize..).unwrap_or_default())
    }

    /// The bytes of a part from a place on.
    pub(super) fn bytes_at(&self, place: function::Place) -> &'data [u8] {
        let found = self.found.get(usize::from(place.part));
        found.and_then(|found| found.bytes.get(place.offset as usize..)).unwrap_or_default()
    }

    /// What a place is called: by its part, else the symbol around it, else its section; and what
    /// is to be added.
    pub(super) fn name(&self, place: Place) -> (String, i64) {
        if let Some(at) = self.at(place) {
            return (self.found[usize::from(at.part)].name.clone(), i64::from(at.offset));
        }
        match self.elf.covering(place).and_then(|symbol| Some((symbol, symbol.place?))) {
            Some((symbol, start)) => {
                (self.elf.unique_name(symbol), (place.offset - start.offset) as i64)
            }
            None => (self.ops_name(place).unwrap_or_else(|| self.elf.place_name(place)), 0),
        }
    }

    /// The name of a `struct nft_expr_ops`, which code compares with, where data has no names: told
    /// by its `init`, among the first of its members in all versions. Of the two with the `init` of
    /// payload expressions it is the fast one that `nft_do_chain` knows.
    fn ops_name(&self, place: Place) -> Option<String> {
        if self.elf.names != Names::Code {
            return None;
        }
        let range = place.offset..place.offset.checked_add(6 * 8)?;
        let (words, _) = self.elf.bytes(place.section, range)?.as_chunks::<8>();
        words.iter().find_map(|word| {
            let function = self.elf.at_address(u64::from_le_bytes(*word))?;
            let symbol = self.elf.covering(function)?;
            let name = symbol.name.strip_suffix("_init").filter(|_| symbol.place == Some(function));
            match name? {
                "nft_payload" => Some("nft_payload_fast_ops".to_owned()),
                name => name.starts_with("nft_").then(|| format!("{name}_ops")),
            }
        })
    }

    /// The parts as the resolver gets them.
    pub(super) fn finish(&self) -> Result<Vec<function::Part>, ImageError> {
        self.found.iter().map(|found| self.finish_part(found)).collect()
    }

    fn finish_part(&self, found: &Found<'data>) -> Result<function::Part, ImageError> {
        let mut relocations = Vec::with_capacity(found.fields.len());
        let mut end = 0;
        for field in &found.fields {
            let size = field.kind.size();
            if field.offset < end || u64::from(field.offset + size) > found.bytes.len() as u64 {
                return Err(ImageError::Malformed(format!(
                    "the relocation at {}+{:#x} overlaps another or the end of it",
                    found.name, field.offset
                )));
            }
            end = field.offset + size;
            let (symbol, addend) = self.name_field(field);
            relocations.push(Relocation { offset: field.offset, kind: field.kind, symbol, addend });
        }
        Ok(function::Part {
            name: found.name.clone(),
            kind: found.kind,
            bytes: found.bytes.to_vec(),
            relocations,
        })
    }

    fn name_field(&self, field: &Field) -> (String, i64) {
        match (&field.target, &field.written) {
            (Target::Elsewhere(symbol, addend), _) => (symbol.clone(), *addend),
            (Target::Here(place), Some(written)) if self.at(*place).is_none() => written.clone(),
            (Target::Here(place), _) => {
                let (symbol, addend) = self.name(*place);
                (symbol, addend.wrapping_sub(field.bias))
            }
        }
    }

    /// Goes through the code parts from `next` on and adds what they call.
    fn follow_code(&mut self, mut next: usize) -> Result<(), ImageError> {
        while next < self.found.len() {
            if self.found[next].kind == PartKind::Code {
                let callees: Vec<Place> = self.found[next]
                    .fields
                    .iter()
                    .filter(|field| field.kind == RelocationKind::Pc32)
                    .filter_map(|field| field.target.place())
                    .collect();
                for place in callees {
                    let Some(symbol) = self.elf.covering(place) else { continue };
                    let run = symbol.kind != SymbolKind::Object
                        && self.elf.sections[place.section].is_code()
                        && callee(&symbol.name) == Callee::Run;
                    if run && self.at(place).is_none() {
                        self.add_symbol(symbol, PartKind::Code)?;
                    }
                }
            }
            next += 1;
        }
        Ok(())
    }

    fn add_symbol(&mut self, symbol: &Symbol<'data>, kind: PartKind) -> Result<(), ImageError> {
        let Some(place) = symbol.place else { return Ok(()) };
        let size = match kind {
            PartKind::Code => function_size(self.elf, place, symbol.size),
            PartKind::Data => symbol.size,
        };
        self.add(self.elf.unique_name(symbol), kind, place, size)
    }

    fn add(
        &mut self,
        name: String,
        kind: PartKind,
        start: Place,
        size: u64,
    ) -> Result<(), ImageError> {
        if size == 0 || size > MAX_PART {
            return Err(ImageError::Malformed(format!(
                "{name} should have 1 to {MAX_PART} bytes, its symbol says {size}"
            )));
        }
        if self.found.len() >= MAX_PARTS {
            return Err(ImageError::Malformed(format!(
                "{SYMBOL} needs more than {MAX_PARTS} parts, {name} among them"
            )));
        }
        let range = start.offset..start.offset.saturating_add(size);
        let Some(bytes) = self.elf.bytes(start.section, range.clone()) else {
            return Err(ImageError::Malformed(format!(
                "{name} should be {size} bytes at {}, which the file does not have",
                self.elf.place_name(start)
            )));
        };
        let fields = match (self.elf.kind, kind) {
            (ObjectKind::Module, PartKind::Code) => self.module_code(start, bytes)?,
            (ObjectKind::Module, PartKind::Data) => self.module_data(start, bytes)?,
            (ObjectKind::Vmlinux, PartKind::Code) => self.linked_code(start, bytes),
            (ObjectKind::Vmlinux, PartKind::Data) => self.linked_data(start, bytes),
        };
        self.found.push(Found { name, kind, start, bytes, fields });
        Ok(())
    }

    fn module_code(&self, start: Place, bytes: &[u8]) -> Result<Vec<Field>, ImageError> {
        let size = bytes.len() as u64;
        let entries = self.elf.relocations(start.section, start.offset..start.offset + size);
        // By the field's offset: where the instruction ends, and what is already filled in.
        let mut ends = Vec::new();
        let mut filled = HashMap::new();
        for decoded in references::decode(bytes, start.offset) {
            ends.push(decoded.offset + decoded.len);
            for field in decoded.fields {
                if let Value::Branch(target) | Value::Relative(target) = field.value {
                    filled.insert(field.offset, target);
                }
            }
        }
        let bias = |offset: u32| {
            let end = ends.partition_point(|end| *end <= offset);
            ends.get(end).map_or(4, |end| i64::from(end - offset))
        };
        let mut fields = BTreeMap::new();
        for entry in entries {
            if let Some(field) = self.module_field(start, entry, bias)? {
                filled.remove(&field.offset);
                if fields.insert(field.offset, field).is_some() {
                    return Err(ImageError::Malformed(format!(
                        "two relocations at {}",
                        self.elf.place_name(Place { offset: entry.offset, ..start })
                    )));
                }
            }
        }
        for (offset, target) in filled {
            // Inside the part it stays right wherever the part is.
            if target.wrapping_sub(start.offset) < size {
                continue;
            }
            let target = match target as i64 {
                0.. => Target::Here(Place { section: start.section, offset: target }),
                // In front of the section: nonsense decoded from data.
                _ => continue,
            };
            let bias = bias(offset);
            let kind = RelocationKind::Pc32;
            fields.insert(offset, Field { offset, kind, bias, target, written: None });
        }
        Ok(fields.into_values().collect())
    }

    fn module_data(&self, start: Place, bytes: &[u8]) -> Result<Vec<Field>, ImageError> {
        let range = start.offset..start.offset + bytes.len() as u64;
        let entries = self.elf.relocations(start.section, range);
        // Distances in a table are counted from its start, not from the field.
        let bias = |offset: u32| -i64::from(offset);
        let fields = entries.iter().map(|entry| self.module_field(start, entry, bias));
        fields.filter_map(Result::transpose).collect()
    }

    fn module_field(
        &self,
        start: Place,
        entry: &RawRelocation,
        bias: impl Fn(u32) -> i64,
    ) -> Result<Option<Field>, ImageError> {
        let offset = (entry.offset - start.offset) as u32;
        let kind = match entry.r_type {
            0 => return Ok(None),
            1 => RelocationKind::Abs64,
            2 | 4 => RelocationKind::Pc32,
            10 => RelocationKind::Abs32,
            11 => RelocationKind::Abs32Signed,
            24 => RelocationKind::Pc64,
            other => {
                return Err(ImageError::Malformed(format!(
                    "the relocation at {} is of type {other}, which no module may have",
                    self.elf.place_name(Place { offset: entry.offset, ..start })
                )));
            }
        };
        let bias = match kind {
            RelocationKind::Pc32 | RelocationKind::Pc64 => bias(offset),
            _ => 0,
        };
        let target = self.elf.target(entry, bias)?;
        let named = self.elf.named_symbol(entry);
        let written = named.map(|symbol| (self.elf.unique_name(symbol), Elf::addend(entry)));
        Ok(Some(Field { offset, kind, bias, target, written }))
    }

    fn linked_code(&self, start: Place, bytes: &[u8]) -> Vec<Field> {
        let address = self.elf.address(start);
        let inside = |target: u64| target.wrapping_sub(address) < bytes.len() as u64;
        let mut fields = Vec::new();
        for decoded in references::decode(bytes, address) {
            for field in decoded.fields {
                let (kind, target) = match field.value {
                    Value::Branch(target) | Value::Relative(target) if inside(target) => continue,
                    Value::Branch(target) | Value::Relative(target) => {
                        (RelocationKind::Pc32, target)
                    }
                    Value::Signed(target) => (RelocationKind::Abs32Signed, target),
                    Value::Wide(target) => (RelocationKind::Abs64, target),
                };
                let relative = kind == RelocationKind::Pc32;
                let bias = if relative { decoded.offset + decoded.len - field.offset } else { 0 };
                let target = match self.elf.at_address(target) {
                    // Small constants are not addresses; the kernel is in the uppermost 2 GiB.
                    Some(place) if relative || target >= KERNEL_BASE => Target::Here(place),
                    None if relative => {
                        let addend = i64::from(bias).wrapping_neg();
                        Target::Elsewhere(elf::address_name(target), addend)
                    }
                    _ => continue,
                };
                let (offset, bias) = (field.offset, i64::from(bias));
                fields.push(Field { offset, kind, bias, target, written: None });
            }
        }
        fields
    }

    fn linked_data(&self, start: Place, bytes: &[u8]) -> Vec<Field> {
        let field = |offset: usize, kind, bias, target| {
            let (offset, target) = (offset as u32, Target::Here(target));
            Field { offset, kind, bias, target, written: None }
        };
        let places = wide(bytes).enumerate().filter_map(|(index, address)| {
            let place = self.elf.at_address(address).filter(|_| address >= KERNEL_BASE)?;
            Some(field(8 * index, RelocationKind::Abs64, 0, place))
        });
        let places: Vec<Field> = places.collect();
        if !places.is_empty() {
            return places;
        }
        // A table of distances from its start, of code that is here.
        let table = near(bytes, self.elf.address(start)).enumerate().map(|(index, address)| {
            let place = self.elf.at_address(address).filter(|&place| self.code_at(place).is_some());
            place.map(|place| field(4 * index, RelocationKind::Pc32, -4 * index as i64, place))
        });
        table.collect::<Option<_>>().unwrap_or_default()
    }

    fn add_data(&mut self, place: Place, limit: Option<Place>) -> Result<(), ImageError> {
        let Some(section) = self.elf.sections.get(place.section) else { return Ok(()) };
        let readable = section.name.starts_with(".rodata")
            // In vmlinux it is writable until the kernel has started.
            && (section.is_constant() || self.elf.kind == ObjectKind::Vmlinux)
            && place.offset < section.bytes.len() as u64;
        if !readable || self.at(place).is_some() {
            return Ok(());
        }
        let end = limit.filter(|limit| limit.section == place.section).map(|limit| limit.offset);
        // Before names are asked: without a symbol table everything reaches to the next one.
        let table = self.switch_table_size(place, end.unwrap_or(u64::MAX));
        if table > 0 {
            return self.add(self.elf.place_name(place), PartKind::Data, place, table);
        }
        if let Some(symbol) = self.elf.covering(place) {
            // What compilers make of a switch that only picks a value.
            let made =
                ["CSWTCH.", "switch.table."].iter().any(|made| symbol.name.starts_with(made));
            return if made { self.add_symbol(symbol, PartKind::Data) } else { Ok(()) };
        }
        // What is in vmlinux has a symbol, unless only functions have.
        let named = self.elf.names != Names::Code || self.ops_name(place).is_some();
        if self.elf.kind == ObjectKind::Vmlinux && named {
            return Ok(());
        }
        let end = [self.elf.next_symbol(place), end].into_iter().flatten().min();
        let end = end.unwrap_or(u64::MAX).min(section.bytes.len() as u64);
        let size = end.saturating_sub(place.offset).min(MAX_LOOSE_DATA);
        self.add(self.elf.place_name(place), PartKind::Data, place, size)
    }

    /// Bytes from `place` on that are a table of places in code parts, up to `end`, where something
    /// else begins; 0 if there is none.
    fn switch_table_size(&self, place: Place, end: u64) -> u64 {
        let end = end.min(place.offset.saturating_add(MAX_PART));
        let mut size = 0;
        if self.elf.kind == ObjectKind::Module {
            for entry in self.elf.relocations(place.section, place.offset..end) {
                let width = if matches!(entry.r_type, 1 | 24) { 8 } else { 4 };
                let bias = if entry.r_type == 2 { -(size as i64) } else { 0 };
                let leads_to_code = self
                    .elf
                    .target(entry, bias)
                    .ok()
                    .and_then(|target| self.code_at(target.place()?))
                    .is_some();
                if entry.offset != place.offset + size || !leads_to_code {
                    break;
                }
                size += width;
            }
            return size;
        }
        let whole = self.elf.sections.get(place.section).map_or(0, |section| section.bytes.len());
        let end = end.min(whole as u64);
        let bytes = self.elf.bytes(place.section, place.offset..end).unwrap_or_default();
        let leads_to_code = |address: &u64| {
            self.elf.at_address(*address).is_some_and(|p| self.code_at(p).is_some())
        };
        let addresses = wide(bytes).take_while(leads_to_code).count() as u64;
        let distances = near(bytes, self.elf.address(place)).take_while(leads_to_code).count();
        match (addresses, distances as u64) {
            (0, 0 | 1) => 0,
            (0, distances) => 4 * distances,
            (addresses, _) => 8 * addresses,
        }
    }
}

/// A switch table's entries as addresses.
fn wide(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// A switch table's entries as distances of 4 bytes from its start.
fn near(bytes: &[u8], start: u64) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(move |word| start.wrapping_add_signed(i32::from_le_bytes(*word).into()))
}

/// `__START_KERNEL_map` of `arch/x86/include/asm/page_64_types.h`.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// Bytes of the function that begins at a place. Without a symbol table they are known up to the next
/// symbol only, with padding: what is behind the last instruction that can be run is left out.
fn function_size(elf: &Elf<'_>, place: Place, size: u64) -> u64 {
    if elf.names == Names::Table {
        return size;
    }
    let end = place.offset.saturating_add(size.min(MAX_PART));
    elf.bytes(place.section, place.offset..end).map_or(size, |bytes| {
        let unpadded = references::unpadded_len(bytes) as u64;
        // More than a function may have is refused later, with its size.
        if size > MAX_PART { size } else { unpadded }
    })
}

/// Name, place and size of the function itself.
fn entry(elf: &Elf<'_>) -> Result<(String, Place, u64), ImageError> {
    if !elf.has_symbols() {
        return Err(ImageError::NoSymbol(
            "the object has no symbol table; give the one it was stripped from".into(),
        ));
    }
    let mut found: Vec<(Place, u64)> = elf
        .named(SYMBOL)
        .filter(|symbol| symbol.kind == SymbolKind::Function)
        .filter_map(|symbol| Some((symbol.place?, symbol.size)))
        .filter(|(place, _)| elf.sections.get(place.section).is_some_and(Section::is_code))
        .map(|(place, size)| (place, function_size(elf, place, size)))
        .collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] => Err(ImageError::NoSymbol("the symbol table does not define it".into())),
        [(place, size)] => Ok((SYMBOL.to_owned(), place, size)),
        _ => Err(ImageError::Malformed(format!(
            "expected one function {SYMBOL}, found {}",
            found.len()
        ))),
    }
}
