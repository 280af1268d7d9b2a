//! The tables by which a kernel patches itself, read for what they say of `nft_do_chain`: jump
//! labels with their keys, `ud2`s, and every byte where a kprobe is refused or would read other
//! bytes than the file's.
//!
//! Layouts differ by version and configuration, and no version number tells them. So the size of an
//! entry is found out: it is the one with which the first field of every entry points where such
//! entries point.

mod unnamed;

use super::{
    ImageError,
    elf::{Elf, Names, Place, Section, Target},
    function::{self, Bug, JumpLabel, KeepOff, ObjectKind, Patched},
    parts::Parts,
};
use std::ops::Range;

/// Most bytes of a table: ten times the longest of the largest kernels.
const MAX_TABLE: u64 = 16 << 20;

/// What the tables say.
pub(super) struct Patches {
    pub(super) jump_labels: Vec<JumpLabel>,
    pub(super) keep_off: Vec<KeepOff>,
    pub(super) bugs: Vec<Bug>,
    pub(super) has_exception_entries: bool,
}

/// Reads the jump labels first, since code they lead to becomes a part; then, with all parts known,
/// everything else.
pub(super) fn read<'data>(
    elf: &Elf<'data>,
    parts: &mut Parts<'_, 'data>,
) -> Result<Patches, ImageError> {
    let jump_labels = jump_labels(elf, parts)?;
    parts.collect_data()?;
    let mut keep_off = Vec::new();
    for label in &jump_labels {
        keep_instruction(parts, label.code, Patched::JumpLabel, &mut keep_off);
    }
    let bugs = bugs(elf, parts)?;
    for bug in &bugs {
        keep_instruction(parts, bug.place, Patched::Bug, &mut keep_off);
    }
    for list in LISTS {
        for place in list.places(elf, parts)? {
            keep_instruction(parts, place, list.why, &mut keep_off);
        }
    }
    alternatives(elf, parts, &mut keep_off)?;
    paravirt(elf, parts, &mut keep_off)?;
    calls(parts, &mut keep_off)?;
    if elf.names == Names::Code {
        unnamed::ftrace(parts, &mut keep_off);
        unnamed::check_nops(parts, &jump_labels, &keep_off)?;
    }
    keep_off.sort_by_key(|keep| (keep.range.start, keep.range.end, keep.why));
    keep_off.dedup();
    let has_exception_entries = has_exception_entries(elf, parts)?;
    Ok(Patches { jump_labels, keep_off, bugs, has_exception_entries })
}

/// A table that is a section of its own, or in vmlinux a part of one between two symbols.
struct Table<'elf, 'data> {
    elf: &'elf Elf<'data>,
    name: &'static str,
    section: usize,
    range: Range<u64>,
}

/// How a field holds a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 4 bytes, from the field itself.
    Near,
    /// 8 bytes, from the field itself.
    Far,
    /// 8 bytes, an address.
    Absolute,
}

impl<'elf, 'data> Table<'elf, 'data> {
    fn find(
        elf: &'elf Elf<'data>,
        name: &'static str,
        bounds: [&'static str; 2],
    ) -> Result<Option<Self>, ImageError> {
        let found = |section: usize, range: Range<u64>| {
            if elf.bytes(section, range.clone()).is_none() {
                return Err(ImageError::Malformed(format!("{name} has no bytes in the file")));
            }
            let len = range.end.saturating_sub(range.start);
            if len > MAX_TABLE {
                return Err(ImageError::Malformed(format!(
                    "{name} should have at most {MAX_TABLE} bytes, found {len}"
                )));
            }
            Ok((range.start < range.end).then_some(Self { elf, name, section, range }))
        };
        if let Some((index, section)) = elf.section(name) {
            return found(index, 0..section.size);
        }
        if elf.kind == ObjectKind::Module {
            return Ok(None);
        }
        let bound = |name| elf.named(name).map(|symbol| symbol.address).next();
        let (Some(start), Some(end)) = (bound(bounds[0]), bound(bounds[1])) else {
            return Ok(None);
        };
        match (elf.at_address(start), end.checked_sub(start)) {
            (Some(place), Some(len)) if len > 0 => {
                found(place.section, place.offset..place.offset.saturating_add(len))
            }
            _ => Ok(None),
        }
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn field<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let start = self.range.start + offset;
        self.elf.bytes(self.section, start..start + N as u64)?.try_into().ok()
    }

    /// What the field at this offset points to; `None` where no pointer of this form is.
    fn target(&self, offset: u64, form: Form) -> Option<Target> {
        let place = Place { section: self.section, offset: self.range.start + offset };
        if self.elf.kind == ObjectKind::Module {
            let entries = self.elf.relocations(place.section, place.offset..place.offset + 1);
            let types: &[u32] = match form {
                Form::Near => &[2],
                Form::Far => &[24],
                Form::Absolute => &[1],
            };
            let entry = entries.first().filter(|entry| types.contains(&entry.r_type))?;
            return self.elf.target(entry, 0).ok();
        }
        let address = self.elf.address(place);
        let address = match form {
            Form::Near => {
                address.wrapping_add_signed(i32::from_le_bytes(self.field(offset)?).into())
            }
            Form::Far => address.wrapping_add_signed(i64::from_le_bytes(self.field(offset)?)),
            Form::Absolute => u64::from_le_bytes(self.field(offset)?),
        };
        Some(Target::Here(self.elf.at_address(address)?))
    }

    fn place(&self, offset: u64, form: Form) -> Option<Place> {
        self.target(offset, form)?.place()
    }

    /// The first of `sizes` with which every entry is `fit`ting.
    fn entry_size(&self, sizes: &[u64], fit: impl Fn(u64) -> bool) -> Result<u64, ImageError> {
        let len = self.len();
        let fits = |size: u64| len.is_multiple_of(size) && self.entries(size).all(&fit);
        sizes.iter().copied().find(|&size| fits(size)).ok_or_else(|| {
            ImageError::Malformed(format!(
                "{} should have entries of one of {sizes:?} bytes, which its {len} bytes do not fit",
                self.name
            ))
        })
    }

    /// The offsets of the entries.
    fn entries(&self, size: u64) -> impl Iterator<Item = u64> + use<> {
        (0..self.len()).step_by(size as usize)
    }

    fn points_to_code(&self, offset: u64, form: Form) -> bool {
        self.place(offset, form)
            .and_then(|place| self.elf.sections.get(place.section))
            .is_some_and(Section::is_code)
    }
}

/// `__jump_table`: { s32 code; s32 target; long key } since 4.19, three u64 before.
fn jump_labels<'data>(
    elf: &Elf<'data>,
    parts: &mut Parts<'_, 'data>,
) -> Result<Vec<JumpLabel>, ImageError> {
    let bounds = ["__start___jump_table", "__stop___jump_table"];
    let table = match elf.names {
        Names::Code => unnamed::jump_table(elf)?,
        _ => Table::find(elf, "__jump_table", bounds)?,
    };
    let Some(table) = table else { return Ok(Vec::new()) };
    let form = |size| match size {
        16 => (Form::Near, 4, 8, Form::Far),
        _ => (Form::Absolute, 8, 16, Form::Absolute),
    };
    let size = if table.points_to_code(0, Form::Near) { 16 } else { 24 };
    let (code_form, target_at, key_at, key_form) = form(size);
    table.entry_size(&[size], |at| {
        table.points_to_code(at, code_form) && table.points_to_code(at + target_at, code_form)
    })?;
    // Code a label leads to can hold labels itself: go round until there is nothing new.
    let mut known = 0;
    loop {
        let inside: Vec<u64> = table
            .entries(size)
            .filter(|&at| table.place(at, code_form).and_then(|p| parts.code_at(p)).is_some())
            .collect();
        if inside.len() == known {
            break;
        }
        known = inside.len();
        for at in inside {
            if let Some(target) = table.place(at + target_at, code_form) {
                parts.require(target)?;
            }
        }
    }
    let mut labels = Vec::new();
    for at in table.entries(size) {
        let place = |at| table.place(at, code_form).and_then(|place| parts.code_at(place));
        let (Some(code), Some(target)) = (place(at), place(at + target_at)) else { continue };
        let key = key_of(&table, at + key_at, key_form);
        let (key, branch) = key.ok_or_else(|| {
            ImageError::Malformed(format!("the entry at {at:#x} of {} has no key", table.name))
        })?;
        let key = match key {
            Target::Here(place) => match parts.name(place) {
                (symbol, 0) => symbol,
                (symbol, offset) => format!("{symbol}+{offset:#x}"),
            },
            Target::Elsewhere(symbol, 0) => symbol,
            Target::Elsewhere(symbol, offset) => format!("{symbol}+{offset:#x}"),
        };
        labels.push(JumpLabel { code, target, key, branch });
    }
    labels.sort_by_key(|label| label.code);
    Ok(labels)
}

/// The key without the two bits kept in its address, and the lower of those.
fn key_of(table: &Table<'_, '_>, at: u64, form: Form) -> Option<(Target, bool)> {
    Some(match table.target(at, form)? {
        Target::Here(place) => {
            (Target::Here(Place { offset: place.offset & !3, ..place }), place.offset & 1 == 1)
        }
        Target::Elsewhere(symbol, addend) => {
            (Target::Elsewhere(symbol, addend & !3), addend & 1 == 1)
        }
    })
}

/// `__bug_table` of include/asm-generic/bug.h: { s32 address; [s32 format;] [s32 file; u16 line;]
/// u16 flags }, padded to 4 bytes.
fn bugs(elf: &Elf<'_>, parts: &Parts<'_, '_>) -> Result<Vec<Bug>, ImageError> {
    const BUGFLAG_WARNING: u16 = 1;
    let bounds = ["__start___bug_table", "__stop___bug_table"];
    let Some(table) = Table::find(elf, "__bug_table", bounds)? else { return Ok(Vec::new()) };
    let size = table.entry_size(&[8, 12, 16], |at| table.points_to_code(at, Form::Near))?;
    let half = |at| table.field(at).map(u16::from_le_bytes);
    // The flags are last, unless what is last is padding, which is zero in all entries.
    let padded =
        size == 8 || (size == 12 && table.entries(size).all(|at| half(at + 10) == Some(0)));
    let flags_at = if padded { size - 4 } else { size - 2 };
    let bugs = table.entries(size).filter_map(|at| {
        let place = parts.code_at(table.place(at, Form::Near)?)?;
        let flags = half(at + flags_at)?;
        Some(Bug { place, warning: flags & BUGFLAG_WARNING != 0 })
    });
    let mut bugs: Vec<Bug> = bugs.collect();
    bugs.sort_by_key(|bug| bug.place);
    Ok(bugs)
}

/// A table of instructions.
struct List {
    name: &'static str,
    bounds: [&'static str; 2],
    form: Form,
    size: u64,
    why: Patched,
}

const LISTS: &[List] = &[
    List {
        name: ".static_call_sites",
        bounds: ["__start_static_call_sites", "__stop_static_call_sites"],
        form: Form::Near,
        size: 8,
        why: Patched::StaticCall,
    },
    List {
        name: ".smp_locks",
        bounds: ["__smp_locks", "__smp_locks_end"],
        form: Form::Near,
        size: 4,
        why: Patched::SmpLock,
    },
    List {
        name: "__mcount_loc",
        bounds: ["__start_mcount_loc", "__stop_mcount_loc"],
        form: Form::Absolute,
        size: 8,
        why: Patched::Ftrace,
    },
    List {
        name: ".retpoline_sites",
        bounds: ["__retpoline_sites", "__retpoline_sites_end"],
        form: Form::Near,
        size: 4,
        why: Patched::Retpoline,
    },
    List {
        name: ".return_sites",
        bounds: ["__return_sites", "__return_sites_end"],
        form: Form::Near,
        size: 4,
        why: Patched::ReturnThunk,
    },
    List {
        name: ".call_sites",
        bounds: ["__call_sites", "__call_sites_end"],
        form: Form::Near,
        size: 4,
        why: Patched::CallThunk,
    },
    List {
        name: ".ibt_endbr_seal",
        bounds: ["__ibt_endbr_seal", "__ibt_endbr_seal_end"],
        form: Form::Near,
        size: 4,
        why: Patched::EndbrSeal,
    },
];

impl List {
    fn places(
        &self,
        elf: &Elf<'_>,
        parts: &Parts<'_, '_>,
    ) -> Result<Vec<function::Place>, ImageError> {
        let Some(table) = Table::find(elf, self.name, self.bounds)? else { return Ok(Vec::new()) };
        // All versions have the same layout, and linkers leave entries of dropped code zero.
        let entries = table.entries(self.size);
        let places = entries.filter_map(|at| parts.code_at(table.place(at, self.form)?));
        Ok(places.collect())
    }
}

/// `.altinstructions`: { s32 instruction; s32 replacement; u16 or u32 features; u8 length; u8
/// replacement length }; with a u8 of padding from 4.1 to 5.12.
fn alternatives(
    elf: &Elf<'_>,
    parts: &Parts<'_, '_>,
    keep_off: &mut Vec<KeepOff>,
) -> Result<(), ImageError> {
    let bounds = ["__alt_instructions", "__alt_instructions_end"];
    let Some(table) = Table::find(elf, ".altinstructions", bounds)? else { return Ok(()) };
    let size = table.entry_size(&[12, 13, 14], |at| {
        table.points_to_code(at, Form::Near) && table.points_to_code(at + 4, Form::Near)
    })?;
    for at in table.entries(size) {
        let Some(place) = table.place(at, Form::Near).and_then(|place| parts.code_at(place)) else {
            continue;
        };
        let length =
            table.field(at + if size == 14 { 12 } else { 10 }).map_or(1, u8::from_le_bytes);
        keep(parts, place, length.into(), Patched::Alternative, keep_off);
    }
    Ok(())
}

/// `.parainstructions`, up to 6.7: { u64 instruction; u8 type; u8 length }, in 16 bytes. They are
/// alternatives by another name.
fn paravirt(
    elf: &Elf<'_>,
    parts: &Parts<'_, '_>,
    keep_off: &mut Vec<KeepOff>,
) -> Result<(), ImageError> {
    let bounds = ["__parainstructions", "__parainstructions_end"];
    let Some(table) = Table::find(elf, ".parainstructions", bounds)? else { return Ok(()) };
    // The last entry may lack its padding.
    for at in (0..table.len()).step_by(16) {
        let place = table.place(at, Form::Absolute).and_then(|place| parts.code_at(place));
        if let (Some(place), Some([length])) = (place, table.field(at + 9)) {
            keep(parts, place, length.into(), Patched::Alternative, keep_off);
        }
    }
    Ok(())
}

/// The call that ftrace turns into a nop, and static calls, also where no table tells of them.
fn calls(parts: &Parts<'_, '_>, keep_off: &mut Vec<KeepOff>) -> Result<(), ImageError> {
    for relocation in parts.finish()?.into_iter().take(1).flat_map(|part| part.relocations) {
        let why = match relocation.symbol.as_str() {
            "__fentry__" | "mcount" => Patched::Ftrace,
            // STATIC_CALL_TRAMP_PREFIX of include/linux/static_call_types.h.
            name if name.starts_with("__SCT__") => Patched::StaticCall,
            _ => continue,
        };
        if let Some(offset) = relocation.offset.checked_sub(1) {
            keep(parts, function::Place { part: 0, offset }, 5, why, keep_off);
        }
    }
    Ok(())
}

/// `__ex_table`: { s32 instruction; s32 fixup; s32 handler or data }, here any place it names.
fn has_exception_entries(elf: &Elf<'_>, parts: &Parts<'_, '_>) -> Result<bool, ImageError> {
    let bounds = ["__start___ex_table", "__stop___ex_table"];
    let Some(table) = Table::find(elf, "__ex_table", bounds)? else { return Ok(false) };
    let in_function = |at| {
        table
            .place(at, Form::Near)
            .and_then(|place| parts.code_at(place))
            .is_some_and(|p| p.part == 0)
    };
    Ok((0..table.len()).step_by(4).any(in_function))
}

fn keep_instruction(
    parts: &Parts<'_, '_>,
    place: function::Place,
    why: Patched,
    keep_off: &mut Vec<KeepOff>,
) {
    keep(parts, place, parts.instruction_len(place), why, keep_off);
}

fn keep(
    parts: &Parts<'_, '_>,
    place: function::Place,
    length: u32,
    why: Patched,
    keep_off: &mut Vec<KeepOff>,
) {
    if place.part == 0 && length > 0 {
        let rest = parts.bytes_at(place).len() as u32;
        let range = place.offset..place.offset + length.min(rest);
        keep_off.push(KeepOff { range, why });
    }
}
