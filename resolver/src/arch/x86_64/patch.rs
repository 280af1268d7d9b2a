//! What the kernel writes into code: relocated fields when it loads a module, and the jumps of static keys.

use crate::image::function::RelocationKind;

/// The content of a relocated field at `place` that refers to `target`, in its low [`RelocationKind::size`] bytes,
/// and whether the field can hold it (`apply_relocate_add` of arch/x86/kernel/module.c).
pub fn relocated(kind: RelocationKind, target: u64, place: u64) -> (u64, bool) {
    match kind {
        RelocationKind::Abs64 => (target, true),
        RelocationKind::Pc64 => (target.wrapping_sub(place), true),
        RelocationKind::Abs32 => (target, u32::try_from(target).is_ok()),
        RelocationKind::Abs32Signed => (target, i32::try_from(target as i64).is_ok()),
        RelocationKind::Pc32 => {
            let value = target.wrapping_sub(place);
            (value, i32::try_from(value as i64).is_ok())
        }
    }
}

/// Makes the jump label at the beginning of `code`, which lies at `address`, a jump to `target` or a nop, as
/// `arch/x86/kernel/jump_label.c` does. `None`: no jump label is there, or the target is too far.
pub fn set_key(code: &mut [u8], address: u64, target: u64, jumps: bool) -> Option<()> {
    let size = match code {
        [0xeb, _, ..] | [0x66, 0x90, ..] => 2,
        // The last one is the padded nop that 5.x kernels put in at build time.
        [0xe9, _, _, _, _, ..] | [0x0f, 0x1f, 0x44, 0, 0, ..] | [0x3e, 0x8d, 0x74, 0x26, 0, ..] => {
            5
        }
        _ => return None,
    };
    let distance = target.wrapping_sub(address.wrapping_add(size)) as i64;
    match (jumps, size) {
        (false, 2) => code[..2].copy_from_slice(&[0x66, 0x90]),
        (false, _) => code[..5].copy_from_slice(&[0x0f, 0x1f, 0x44, 0, 0]),
        (true, 2) => code[..2].copy_from_slice(&[0xeb, i8::try_from(distance).ok()? as u8]),
        (true, _) => {
            code[0] = 0xe9;
            code[1..5].copy_from_slice(&i32::try_from(distance).ok()?.to_le_bytes());
        }
    }
    Some(())
}

/// Whether a jump label is a jump now.
pub fn jumps(code: &[u8]) -> bool {
    matches!(code.first(), Some(0xe9 | 0xeb))
}
