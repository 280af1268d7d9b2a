//! Collects `nft_do_chain` and what is needed to run it: its cold part, the local callees the
//! resolver runs, the tables of its switches. All references between them and to the rest of the
//! kernel end up as relocations by name, whoever resolved them before.

use super::{
    ImageError, code,
    code::Value,
    elf::{self, Elf, Place, RawRelocation, Section, Symbol, SymbolKind, Target},
    function::{
        self, MAX_PART, MAX_PARTS, ObjectKind, PartKind, Relocation, RelocationKind, SYMBOL,
    },
};
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
        code::instruction_len(rest.get(place.offset as usize..).unwrap_or_default())
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
            None => (self.elf.place_name(place), 0),
        }
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
                        && callee(symbol.name) == Callee::Run;
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
        match symbol.place {
            Some(place) => self.add(self.elf.unique_name(symbol), kind, place, symbol.size),
            None => Ok(()),
        }
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
            (ObjectKind::Vmlinux, PartKind::Data) => self.linked_data(bytes),
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
        for decoded in code::decode(bytes, start.offset) {
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
        for decoded in code::decode(bytes, address) {
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

    fn linked_data(&self, bytes: &[u8]) -> Vec<Field> {
        let (slots, _) = bytes.as_chunks::<8>();
        let places = slots.iter().enumerate().filter_map(|(index, slot)| {
            let address = u64::from_le_bytes(*slot);
            let place = self.elf.at_address(address).filter(|_| address >= KERNEL_BASE)?;
            Some((index as u32 * 8, place))
        });
        let kind = RelocationKind::Abs64;
        places
            .map(|(offset, place)| Field {
                offset,
                kind,
                bias: 0,
                target: Target::Here(place),
                written: None,
            })
            .collect()
    }

    fn add_data(&mut self, place: Place, limit: Option<Place>) -> Result<(), ImageError> {
        let Some(section) = self.elf.sections.get(place.section) else { return Ok(()) };
        let readable = section.name.starts_with(".rodata")
            && section.is_constant()
            && place.offset < section.bytes.len() as u64;
        if !readable || self.at(place).is_some() {
            return Ok(());
        }
        if let Some(symbol) = self.elf.covering(place) {
            // What compilers make of a switch that only picks a value.
            let made =
                ["CSWTCH.", "switch.table."].iter().any(|made| symbol.name.starts_with(made));
            return if made { self.add_symbol(symbol, PartKind::Data) } else { Ok(()) };
        }
        let size = match self.switch_table_size(place) {
            0 => {
                let next = [
                    self.elf.next_symbol(place),
                    limit.filter(|limit| limit.section == place.section).map(|limit| limit.offset),
                ];
                let end = next.into_iter().flatten().min().unwrap_or(u64::MAX);
                let end = end.min(section.bytes.len() as u64);
                end.saturating_sub(place.offset).min(MAX_LOOSE_DATA)
            }
            size => size,
        };
        self.add(self.elf.place_name(place), PartKind::Data, place, size)
    }

    /// Bytes from `place` on that are a table of places in code parts; 0 if there is none.
    fn switch_table_size(&self, place: Place) -> u64 {
        let end = place.offset.saturating_add(MAX_PART);
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
        while size + 8 <= MAX_PART {
            let slot = place.offset + size..place.offset + size + 8;
            let leads_to_code = self
                .elf
                .bytes(place.section, slot)
                .and_then(|slot| Some(u64::from_le_bytes(slot.try_into().ok()?)))
                .and_then(|address| self.code_at(self.elf.at_address(address)?))
                .is_some();
            if !leads_to_code {
                break;
            }
            size += 8;
        }
        size
    }
}

/// `__START_KERNEL_map` of `arch/x86/include/asm/page_64_types.h`.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// Name, place and size of the function itself.
fn entry(elf: &Elf<'_>) -> Result<(String, Place, u64), ImageError> {
    if !elf.has_symbols() {
        return Err(ImageError::NoSymbol(
            "the object has no symbol table; give the vmlinux of the debug package".into(),
        ));
    }
    let mut found: Vec<(Place, u64)> = elf
        .named(SYMBOL)
        .filter(|symbol| symbol.kind == SymbolKind::Function)
        .filter_map(|symbol| Some((symbol.place?, symbol.size)))
        .filter(|(place, _)| elf.sections.get(place.section).is_some_and(Section::is_code))
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
