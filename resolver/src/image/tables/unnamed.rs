//! Tables of a vmlinux whose own symbols are those of functions only (`CONFIG_KALLSYMS_ALL` off).
//! Most tables are sections; `__jump_table`, `.static_call_sites` and `__mcount_loc` lie among other
//! data, and nothing names their bounds. The jump table is found by what its entries say, and what
//! could be a jump label that was missed makes the function one that is not understood: a plan for a
//! part of the code would be wrong.

use super::{Form, Table, keep};
use crate::image::{
    ImageError,
    elf::{Elf, Place, Section},
    function::{self, JumpLabel, KeepOff, PartKind, Patched},
    parts::Parts,
};

/// Fewest entries of a jump table: a kernel with networking has hundreds.
const MIN_ENTRIES: u64 = 16;
/// A nop of five bytes as kernels and compilers write it, and the one of 5.x kernels.
const NOPS: [&[u8]; 3] = [&[0x0f, 0x1f, 0x44, 0, 0], &[0x3e, 0x8d, 0x74, 0x26, 0], &[0x66, 0x90]];
/// `endbr64`.
const ENDBR: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

/// The longest sequence of entries that each lead from a nop or jump to code and have a key in data.
pub(super) fn jump_table<'elf, 'data>(
    elf: &'elf Elf<'data>,
) -> Result<Option<Table<'elf, 'data>>, ImageError> {
    let mut found: Vec<Table<'_, '_>> = Vec::new();
    for (section, Section { bytes, .. }) in elf.data() {
        let name = "the jump table";
        let whole = Table { elf, name, section, range: 0..bytes.len() as u64 };
        for size in [16, 24] {
            let mut at = 0;
            while at + size <= whole.len() {
                let start = at;
                while is_entry(&whole, at, size) {
                    at += size;
                }
                if at - start >= MIN_ENTRIES * size {
                    found.push(Table { range: start..at, ..whole });
                }
                at = if at == start { at + 8 } else { at };
            }
        }
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        count => Err(ImageError::Malformed(format!(
            "the image does not say where its jump table is, and {count} places look like one; \
             give the vmlinux it was stripped from"
        ))),
    }
}

/// { s32 code; s32 target; long key } since 4.19, three u64 before.
fn is_entry(table: &Table<'_, '_>, at: u64, size: u64) -> bool {
    let (form, target_at, key_at, key_form) = match size {
        16 => (Form::Near, 4, 8, Form::Far),
        _ => (Form::Absolute, 8, 16, Form::Absolute),
    };
    if at + size > table.len() {
        return false;
    }
    // Most of the data is sorted out by this alone: the upper half of a distance or an address.
    let high = table.field(at + key_at + 4).map(i32::from_le_bytes);
    if !high.is_some_and(|high| high == -1 || (high == 0 && size == 16)) {
        return false;
    }
    let elf = table.elf;
    let starts = |place: Place| {
        let code = elf.bytes(place.section, place.offset..place.offset.saturating_add(5));
        code.is_some_and(|code| {
            matches!(code, [0xe9 | 0xeb, ..]) || NOPS.iter().any(|nop| code.starts_with(nop))
        })
    };
    table.place(at + key_at, key_form).is_some_and(|key| !elf.sections[key.section].is_code())
        && table.points_to_code(at, form)
        && table.points_to_code(at + target_at, form)
        && table.place(at, form).is_some_and(starts)
}

/// The nop at the entry that ftrace makes a call.
pub(super) fn ftrace(parts: &Parts<'_, '_>, keep_off: &mut Vec<KeepOff>) {
    let place = |offset| function::Place { part: 0, offset };
    let skipped = if parts.bytes_at(place(0)).starts_with(ENDBR) { ENDBR.len() as u32 } else { 0 };
    if parts.bytes_at(place(skipped)).starts_with(NOPS[0]) {
        keep(parts, place(skipped), NOPS[0].len() as u32, Patched::Ftrace, keep_off);
    }
}

/// Whether every nop of a jump label's size is one, or has another reason to be there.
pub(super) fn check_nops(
    parts: &Parts<'_, '_>,
    labels: &[JumpLabel],
    keep_off: &[KeepOff],
) -> Result<(), ImageError> {
    for (part, found) in parts.finish()?.iter().enumerate() {
        if found.kind != PartKind::Code {
            continue;
        }
        let mut offset = 0;
        while let Some(code) = found.bytes.get(offset..).filter(|code| !code.is_empty()) {
            let place = function::Place { part: part as u16, offset: offset as u32 };
            let kept = |keep: &KeepOff| part == 0 && keep.range.contains(&place.offset);
            if NOPS.iter().any(|nop| code.starts_with(nop))
                && !labels.iter().any(|label| label.code == place)
                && !keep_off.iter().any(kept)
            {
                return Err(ImageError::Malformed(format!(
                    "the image does not say whether the nop at {}+{offset:#x} is a jump label; \
                     give the vmlinux it was stripped from",
                    found.name
                )));
            }
            offset += parts.instruction_len(place) as usize;
        }
    }
    Ok(())
}
