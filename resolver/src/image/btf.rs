//! Where members of kernel structures are, from BTF (Documentation/bpf/btf.rst).
//!
//! A module's BTF is split: its type ids and string offsets go on where those of vmlinux end, so
//! without the very vmlinux it was built with it means nothing. A module that was built apart from
//! the kernel has in `.BTF.base` what it needs of one instead (from 6.11 on), or is not split.
//!
//! This is a reader of its own because a few dozen members are wanted out of 150 thousand types:
//! one pass over the type records notes where each begins and compares the names of structures in
//! place. The crate btf-rs builds every type and a map of all names first, which takes 30 times
//! as long.
//!
//! Every chain of types is followed for a bounded number of steps, since types of a hostile file
//! may refer to themselves.

use super::function::{Field, Fields};
use std::{collections::HashMap, fmt};

/// Longest chain of typedefs, qualifiers and arrays followed, and deepest nesting of members.
const MAX_CHAIN: usize = 32;
/// Most members looked at for one name, those of nested anonymous structures included.
const MAX_MEMBERS: usize = 16 << 10;
/// Most structures of one name that are compared.
const MAX_SAME_NAME: usize = 64;

/// Which file's BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BtfOf {
    /// vmlinux.
    Vmlinux,
    /// The module.
    Module,
}

/// Why BTF cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken BTF of {of}: {what}")]
pub struct BtfError {
    /// Whose BTF.
    pub of: BtfOf,
    /// What was expected and found.
    pub what: String,
}

impl fmt::Display for BtfOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmlinux => "vmlinux",
            Self::Module => "the module",
        })
    }
}

/// Whether these bytes begin as BTF does.
pub(super) fn is_btf(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

const MAGIC: u16 = 0xeb9f;

/// Finds the wanted members, `struct.member` with further members of members behind further dots;
/// those that are nowhere are left out. Members of anonymous structures and unions count as members
/// of what is around them, as in C. Where several structures have the same name, the module's come
/// first, and a member they disagree about is left out.
///
/// Both are contents of a `.BTF` section. Without `vmlinux` a module's has no meaning, and the
/// result is empty.
pub fn fields(
    vmlinux: Option<&[u8]>,
    module: Option<&[u8]>,
    wanted: &[&str],
) -> Result<Fields, BtfError> {
    fields_of([(BtfOf::Vmlinux, vmlinux), (BtfOf::Module, module)], wanted)
}

/// As [`fields`], of a base and of what is split from it.
fn fields_of(
    [(base_of, base), (of, split)]: [(BtfOf, Option<&[u8]>); 2],
    wanted: &[&str],
) -> Result<Fields, BtfError> {
    let Some(base) = base else { return Ok(Fields::new()) };
    let mut by_struct: HashMap<&[u8], [Vec<u32>; 2]> = HashMap::new();
    for path in wanted {
        let name = path.split('.').next().unwrap_or_default();
        by_struct.entry(name.as_bytes()).or_default();
    }
    let mut types = Types { sections: Vec::with_capacity(2) };
    types.add(base_of, base, &mut by_struct)?;
    if let Some(split) = split {
        types.add(of, split, &mut by_struct)?;
    }
    let mut fields = Fields::new();
    for path in wanted {
        let mut names = path.split('.');
        let Some(candidates) = names.next().and_then(|name| by_struct.get(name.as_bytes())) else {
            continue;
        };
        // The module's first.
        for ids in candidates.iter().rev() {
            let mut found = ids.iter().filter_map(|&id| types.member(id, names.clone()));
            let Some(first) = found.next() else { continue };
            if found.all(|other| other == first) {
                fields.insert((*path).to_owned(), first);
            }
            break;
        }
    }
    Ok(fields)
}

/// As [`fields`] for a module, which may bring its own base along: the content of `.BTF.base`. Then,
/// and where its BTF is not split, what it says itself holds, and `vmlinux` adds what it does not say.
pub fn module_fields(
    vmlinux: Option<&[u8]>,
    base: Option<&[u8]>,
    module: Option<&[u8]>,
    wanted: &[&str],
) -> Result<Fields, BtfError> {
    let own = match (base, module) {
        (Some(base), Some(module)) => {
            fields_of([(BtfOf::Module, Some(base)), (BtfOf::Module, Some(module))], wanted)?
        }
        (None, Some(module)) if is_whole(module) => {
            fields_of([(BtfOf::Module, Some(module)), (BtfOf::Module, None)], wanted)?
        }
        _ => return fields(vmlinux, module, wanted),
    };
    let mut found = fields(vmlinux, None, wanted)?;
    found.extend(own);
    Ok(found)
}

/// Whether BTF refers to nothing that is not in it.
fn is_whole(bytes: &[u8]) -> bool {
    let mut types = Types { sections: Vec::new() };
    if types.add(BtfOf::Module, bytes, &mut HashMap::new()).is_err() {
        return false;
    }
    let [section] = &types.sections[..] else { return false };
    let named = |name: u32| (name as usize) < section.strings.len().max(1);
    let known = |id: u32| id as usize <= section.starts.len();
    section.starts.iter().all(|&start| {
        let Some((name, found)) = section.read(start as usize) else { return false };
        let (members, _) = found.rest.as_chunks::<12>();
        let inside = match found.kind {
            kind::STRUCT | kind::UNION => members.iter().all(|member| {
                word(member, 0).is_some_and(named) && word(member, 4).is_some_and(known)
            }),
            kind::PTR | kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT => {
                known(found.value)
            }
            kind::ARRAY => word(found.rest, 0).is_some_and(known),
            _ => true,
        };
        named(name) && inside
    })
}

/// The types of vmlinux, and behind them those of the module.
struct Types<'data> {
    sections: Vec<Section<'data>>,
}

struct Section<'data> {
    records: &'data [u8],
    /// Where each type begins in `records`.
    starts: Vec<u32>,
    strings: &'data [u8],
    /// Sizes of what follows each kind of record: { u8 once; u8 per element; u16 flags }. Empty
    /// before 7.0.
    layout: &'data [u8],
    /// Id of the first type.
    first_id: u32,
    /// Offset of the first string.
    first_string: u32,
}

/// A type record: { u32 name; u32 info; u32 size or type }, then what its kind has.
#[derive(Clone, Copy)]
struct Type<'data> {
    kind: u8,
    /// For structures: members tell the size of bit fields.
    flag: bool,
    count: usize,
    /// Size in bytes or another type's id, by kind.
    value: u32,
    rest: &'data [u8],
}

/// `BTF_KIND_…` of include/uapi/linux/btf.h.
mod kind {
    pub(super) const INT: u8 = 1;
    pub(super) const PTR: u8 = 2;
    pub(super) const ARRAY: u8 = 3;
    pub(super) const STRUCT: u8 = 4;
    pub(super) const UNION: u8 = 5;
    pub(super) const ENUM: u8 = 6;
    pub(super) const TYPEDEF: u8 = 8;
    pub(super) const VOLATILE: u8 = 9;
    pub(super) const CONST: u8 = 10;
    pub(super) const RESTRICT: u8 = 11;
    pub(super) const FUNC_PROTO: u8 = 13;
    pub(super) const VAR: u8 = 14;
    pub(super) const DATASEC: u8 = 15;
    pub(super) const FLOAT: u8 = 16;
    pub(super) const DECL_TAG: u8 = 17;
    pub(super) const TYPE_TAG: u8 = 18;
    pub(super) const ENUM64: u8 = 19;
}

/// Bytes behind the record itself.
fn rest_len(kind: u8, count: usize) -> Option<usize> {
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        // Pointers, forward declarations, qualifiers, typedefs, functions, floats, tags.
        2 | 7..=12 | kind::FLOAT | kind::TYPE_TAG => 0,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'data> Section<'data> {
    /// The record at an offset, and its name. Kind and number of elements have more bits from 7.0
    /// on, which are 0 before.
    fn read(&self, start: usize) -> Option<(u32, Type<'data>)> {
        let name = word(self.records, start)?;
        let info = word(self.records, start + 4)?;
        let (kind, count) = ((info >> 24) as u8 & 0x7f, (info & 0x00ff_ffff) as usize);
        let value = word(self.records, start + 8)?;
        let len = rest_len(kind, count).or_else(|| self.unknown_len(kind, count))?;
        let rest = self.records.get(start + 12..)?.get(..len)?;
        Some((name, Type { kind, flag: info >> 31 == 1, count, value, rest }))
    }

    /// Bytes behind a record of a kind that is not known here.
    fn unknown_len(&self, kind: u8, count: usize) -> Option<usize> {
        let (layout, _) = self.layout.as_chunks::<4>();
        let [once, each, ..] = layout.get(usize::from(kind))?;
        Some(usize::from(*once) + usize::from(*each) * count)
    }
}

impl<'data> Types<'data> {
    /// Adds a file's types, and to `by_struct` the ids of the structures of the names in there.
    fn add(
        &mut self,
        of: BtfOf,
        bytes: &'data [u8],
        by_struct: &mut HashMap<&[u8], [Vec<u32>; 2]>,
    ) -> Result<(), BtfError> {
        let broken = |what: String| BtfError { of, what };
        let (first_id, first_string) = match self.sections.last() {
            // Type 0 is void, in no file.
            None => (1, 0),
            Some(base) => (base.first_id + base.starts.len() as u32, base.strings.len() as u32),
        };
        let [records, strings, layout] = sections(bytes).map_err(broken)?;
        let starts = Vec::new();
        let section = Section { records, starts, strings, layout, first_id, first_string };
        let index = self.sections.len();
        self.sections.push(section);
        let mut starts = Vec::with_capacity(records.len() / 24);
        let mut start = 0;
        while start < records.len() {
            let Some((name, found)) = self.sections[index].read(start) else {
                return Err(broken(format!(
                    "the type record {} at {start:#x} of {:#x} is cut off or of an unknown kind",
                    first_id as usize + starts.len(),
                    records.len()
                )));
            };
            if matches!(found.kind, kind::STRUCT | kind::UNION) && found.count > 0 {
                let ids = self.string(name).and_then(|name| by_struct.get_mut(name));
                if let Some(ids) = ids
                    && ids[index].len() < MAX_SAME_NAME
                {
                    ids[index].push(first_id + starts.len() as u32);
                }
            }
            starts.push(start as u32);
            start += 12 + found.rest.len();
        }
        self.sections[index].starts = starts;
        Ok(())
    }

    fn string(&self, offset: u32) -> Option<&'data [u8]> {
        let section = self.sections.iter().rev().find(|section| offset >= section.first_string)?;
        let rest = section.strings.get((offset - section.first_string) as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }

    fn get(&self, id: u32) -> Option<Type<'data>> {
        let section = self.sections.iter().rev().find(|section| id >= section.first_id)?;
        let start = *section.starts.get((id - section.first_id) as usize)?;
        section.read(start as usize).map(|(_, found)| found)
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Option<Type<'data>> {
        for _ in 0..MAX_CHAIN {
            let found = self.get(id)?;
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.value;
                }
                _ => return Some(found),
            }
        }
        None
    }

    /// Where the member of a member … of a structure is.
    fn member<'n>(&self, id: u32, names: impl Iterator<Item = &'n str>) -> Option<Field> {
        let mut field = Field { bit_offset: 0, bit_size: 0 };
        let mut id = id;
        let mut any = false;
        for (_, name) in (0..MAX_CHAIN).zip(names) {
            let (found, type_id) = self.direct_member(self.plain(id)?, name.as_bytes())?;
            field.bit_offset = field.bit_offset.checked_add(found.bit_offset)?;
            field.bit_size = found.bit_size;
            id = type_id;
            any = true;
        }
        any.then_some(field)
    }

    /// A member of a structure or of an anonymous one inside it, with its type.
    fn direct_member(&self, outer: Type<'data>, wanted: &[u8]) -> Option<(Field, u32)> {
        let mut inside = vec![(outer, 0u32, 0)];
        let mut seen = 0;
        while let Some((outer, base, depth)) = inside.pop() {
            if !matches!(outer.kind, kind::STRUCT | kind::UNION) {
                continue;
            }
            let (members, _) = outer.rest.as_chunks::<12>();
            for member in members {
                seen += 1;
                if seen > MAX_MEMBERS {
                    return None;
                }
                let (name, id) = (word(member, 0)?, word(member, 4)?);
                let offset = word(member, 8)?;
                let (offset, bits) =
                    if outer.flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
                let bit_offset = base.checked_add(offset)?;
                match self.string(name)? {
                    [] if depth < MAX_CHAIN => {
                        inside.extend(self.plain(id).map(|inner| (inner, bit_offset, depth + 1)));
                    }
                    name if name == wanted => {
                        let (shift, bit_size) = match bits {
                            0 => self.bits(id)?,
                            bits => (0, bits),
                        };
                        let bit_offset = bit_offset.checked_add(shift)?;
                        return Some((Field { bit_offset, bit_size }, id));
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// Size of a type in bits, and how many bits into its storage it begins: not 0 for bit fields
    /// as compilers described them before members told.
    fn bits(&self, id: u32) -> Option<(u32, u32)> {
        let mut id = id;
        let mut elements = 1u32;
        for _ in 0..MAX_CHAIN {
            let found = self.plain(id)?;
            let bits = match found.kind {
                kind::ARRAY => {
                    id = word(found.rest, 0)?;
                    elements = elements.checked_mul(word(found.rest, 8)?)?;
                    continue;
                }
                kind::INT => {
                    let encoding = word(found.rest, 0)?;
                    let (shift, bits) = (encoding >> 16 & 0xff, encoding & 0xff);
                    if elements == 1 && bits != found.value.checked_mul(8)? {
                        return Some((shift, bits));
                    }
                    found.value.checked_mul(8)?
                }
                kind::PTR => 64,
                kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                    found.value.checked_mul(8)?
                }
                _ => return None,
            };
            return Some((0, bits.checked_mul(elements)?));
        }
        None
    }
}

/// The records, the strings and, where there is one, the layout of BTF: { u16 magic; u8 version; u8
/// flags; u32 header length; u32 type offset; u32 type length; u32 string offset; u32 string length;
/// from 7.0 on u32 layout offset; u32 layout length }, offsets from the header's end.
fn sections(bytes: &[u8]) -> Result<[&[u8]; 3], String> {
    if !is_btf(bytes) {
        return Err(format!(
            "it should begin with 9f eb, found {:02x?}",
            bytes.get(..2).unwrap_or(bytes)
        ));
    }
    if bytes.get(2) != Some(&1) {
        return Err(format!("expected version 1, found {:?}", bytes.get(2)));
    }
    let header = |at| word(bytes, at).map(|value| value as usize);
    let part = |offset: usize, len: usize| {
        let start = header(4)?.checked_add(header(offset)?)?;
        bytes.get(start..)?.get(..header(len)?)
    };
    let layout = if header(4) >= Some(32) { part(24, 28) } else { Some(&[][..]) };
    match (part(8, 12), part(16, 20), layout) {
        (Some(records), Some(strings), Some(layout)) => Ok([records, strings, layout]),
        _ => Err(format!("its {} bytes are fewer than its header says", bytes.len())),
    }
}

#[cfg(test)]
mod tests;
