//! Which build an object is: its build-id and its release. Taken from the object itself, never from
//! a file name.

use super::elf::Elf;
use crate::image::function::ObjectKind;
use nfdrop_db::BuildId;

/// `NT_GNU_BUILD_ID`.
const GNU_BUILD_ID: u32 = 3;
/// Longest release accepted; `uname -r` has 64 bytes.
const MAX_RELEASE: usize = 64;
/// Longest vermagic or banner read; `UTS_VERSION` has 64 bytes, names of compilers more.
const MAX_BANNER: usize = 1024;

/// The GNU build-id, from whichever note section or segment has it.
pub(super) fn build_id(elf: &Elf<'_>) -> Option<BuildId> {
    elf.notes().find_map(build_id_note)
}

/// Finds the note with name `GNU` and type 3 among other notes: { u32 name size; u32 descriptor
/// size; u32 type; name; descriptor }, name and descriptor padded to 4 bytes.
fn build_id_note(mut notes: &[u8]) -> Option<BuildId> {
    loop {
        let (name_len, rest) = notes.split_first_chunk::<4>()?;
        let (desc_len, rest) = rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let name_len = u32::from_le_bytes(*name_len) as usize;
        let desc_len = u32::from_le_bytes(*desc_len) as usize;
        let name = rest.get(..name_len)?;
        let rest = rest.get(name_len.checked_next_multiple_of(4)?..)?;
        let desc = rest.get(..desc_len)?;
        if name == b"GNU\0" && u32::from_le_bytes(*kind) == GNU_BUILD_ID {
            return BuildId::from_bytes(desc).ok();
        }
        notes = rest.get(desc_len.checked_next_multiple_of(4)?..)?;
    }
}

/// What `uname -r` prints: the first word of the vermagic or banner.
pub(super) fn release(elf: &Elf<'_>) -> Option<String> {
    first_word(versions(elf).next()?)
}

/// `CONFIG_PREEMPTION`: the words `preempt` or `preempt_rt` of the vermagic
/// (include/linux/vermagic.h), or `PREEMPT`, `PREEMPT_DYNAMIC`, `PREEMPT_RT` of the banner, behind
/// the build's number (init/Makefile).
pub(super) fn preemption(elf: &Elf<'_>) -> Option<bool> {
    // From 6.1 on there is a banner without a number in front of the one that holds.
    versions(elf).find_map(|version| words_of_preemption(elf.kind, version))
}

fn words_of_preemption(kind: ObjectKind, version: &[u8]) -> Option<bool> {
    let version = version.get(..version.len().min(MAX_BANNER))?;
    let end = version.iter().position(|byte| matches!(byte, 0 | b'\n'))?;
    let mut words = version[..end].split(|byte| *byte == b' ');
    if kind == ObjectKind::Vmlinux {
        // The names of builder and compiler come first and may say anything.
        words.by_ref().find(|word| {
            word.strip_prefix(b"#")
                .is_some_and(|number| number.first().is_some_and(u8::is_ascii_digit))
        })?;
    }
    Some(words.any(|word| word.to_ascii_lowercase().starts_with(b"preempt")))
}

/// A module's vermagic, or the banners of vmlinux behind `Linux version`, and what follows.
fn versions<'a>(elf: &Elf<'a>) -> impl Iterator<Item = &'a [u8]> {
    let section = |name| elf.section(name).map_or(&[][..], |(_, section)| section.bytes);
    let vermagic = section(".modinfo")
        .split_inclusive(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"vermagic="))
        .filter(|_| elf.kind == ObjectKind::Module);
    let rodata = match elf.kind {
        ObjectKind::Module => &[][..],
        ObjectKind::Vmlinux => section(".rodata"),
    };
    // Others quote the words, in format strings; only a banner goes on with a digit.
    let banners = occurrences(rodata, b"Linux version ")
        .filter(|rest| rest.first().is_some_and(u8::is_ascii_digit));
    vermagic.into_iter().chain(banners)
}

fn first_word(text: &[u8]) -> Option<String> {
    let text = text.get(..text.len().min(MAX_RELEASE + 1))?;
    let end = text.iter().position(|byte| !byte.is_ascii_graphic())?;
    (end > 0).then(|| String::from_utf8_lossy(&text[..end]).into_owned())
}

/// What follows each occurrence of `needle`.
fn occurrences<'a>(mut haystack: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        loop {
            let start = haystack.iter().position(|byte| Some(byte) == needle.first())?;
            haystack = &haystack[start..];
            if let Some(rest) = haystack.strip_prefix(needle) {
                haystack = rest;
                return Some(rest);
            }
            haystack = &haystack[1..];
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, desc.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for field in [name, desc] {
            note.extend(field);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let id = [0xab; 20];
        let notes = [
            note(b"Linux\0", 0x101, &[1, 2]),
            note(b"Xen\0", 3, &[0; 8]),
            note(b"GNU\0", 5, &[0; 16]),
            note(b"GNU\0", 3, &id),
        ]
        .concat();
        assert_eq!(build_id_note(&notes), Some(BuildId::from_bytes(&id).unwrap()));
        for end in 0..notes.len() {
            assert_eq!(build_id_note(&notes[..end]), None, "cut at {end}");
        }
        // Lengths that overflow.
        assert_eq!(build_id_note(&[0xff; 64]), None);
    }

    #[test]
    fn preemption_is_told_by_vermagic_and_banner() {
        use ObjectKind::{Module, Vmlinux};
        let banner = |flags: &str| {
            format!("6.1.0-56-amd64 (preempt@builder) (gcc-12 PREEMPT #x) #1 SMP{flags} Debian\n\0")
        };
        for (kind, text, expected) in [
            (Module, "6.1.0-56-amd64 SMP preempt mod_unload modversions \0".to_owned(), Some(true)),
            (Module, "6.1.0-56-rt-amd64 SMP preempt_rt mod_unload \0".to_owned(), Some(true)),
            (Module, "5.10.0-46-amd64 SMP mod_unload modversions \0".to_owned(), Some(false)),
            (Module, "5.10.0-46-amd64 SMP".to_owned(), None),
            (Vmlinux, banner(" PREEMPT_DYNAMIC"), Some(true)),
            (Vmlinux, banner(" PREEMPT_RT"), Some(true)),
            (Vmlinux, banner(""), Some(false)),
            (Vmlinux, "6.1.0 (preempt) (gcc)\n".to_owned(), None),
        ] {
            assert_eq!(words_of_preemption(kind, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_release_ends_with_a_space_or_nul() {
        assert_eq!(first_word(b"6.1.0-56-amd64 SMP"), Some("6.1.0-56-amd64".into()));
        assert_eq!(first_word(b"6.1\0"), Some("6.1".into()));
        assert_eq!(first_word(b" "), None);
        assert_eq!(first_word(&[b'6'; 100]), None);
        let text = b"Linux LLinux version %s\0Linux version 7.3.4 (gcc)";
        let found: Vec<_> = occurrences(text, b"Linux version ").map(<[u8]>::len).collect();
        assert_eq!(found, [28, 11]);
    }
}
