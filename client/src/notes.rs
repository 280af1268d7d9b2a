//! Walks ELF notes as sysfs hands them out: `/sys/kernel/notes` and
//! `/sys/module/*/notes/.note.gnu.build-id`.
//!
//! A note is three little-endian `u32` (name size, descriptor size, type), the name and the
//! descriptor, each padded to four bytes (`Elf64_Nhdr`; the kernel's notes are 4-aligned also in
//! 64-bit objects). The running kernel's own notes hold several: Linux, Xen and GNU ones.

use nfdrop_db::{BuildId, BuildIdError};

/// Type of a build-id among the notes named `GNU` (`NT_GNU_BUILD_ID`).
const NT_GNU_BUILD_ID: u32 = 3;

/// Why notes hold no build-id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotesError {
    /// All notes were read, none is a build-id.
    #[error("{seen} ELF notes, none of them a build-id (name GNU, type 3)")]
    NoBuildId {
        /// Notes walked over.
        seen: usize,
    },
    /// A note says that it is longer than the data.
    #[error("the ELF note at byte {at} needs {needed} bytes, {found} are left")]
    Truncated {
        /// Where the note starts.
        at: usize,
        /// Bytes it says to have.
        needed: u64,
        /// Bytes from there to the end.
        found: usize,
    },
    /// The descriptor has a length no build-id has.
    #[error(transparent)]
    BuildId(#[from] BuildIdError),
}

/// The first build-id among these notes.
pub fn build_id(notes: &[u8]) -> Result<BuildId, NotesError> {
    let mut at = 0;
    let mut seen = 0;
    while let Some(rest) = notes.get(at..).filter(|rest| !rest.is_empty()) {
        let truncated = |needed| NotesError::Truncated { at, needed, found: rest.len() };
        let Some((header, body)) = rest.split_at_checked(12) else { return Err(truncated(12)) };
        let word =
            |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let (name_size, desc_size, kind) = (word(0), word(4), word(8));
        // u64: the sum of two padded u32 does not fit into a u32.
        let padded = |size: u32| u64::from(size).next_multiple_of(4);
        let desc_start = padded(name_size);
        let unpadded_end = desc_start + u64::from(desc_size);
        let fits = unpadded_end <= body.len() as u64;
        if !fits {
            return Err(truncated(12 + unpadded_end));
        }
        let name = &body[..name_size as usize];
        if name == b"GNU\0" && kind == NT_GNU_BUILD_ID {
            return Ok(BuildId::from_bytes(&body[desc_start as usize..unpadded_end as usize])?);
        }
        seen += 1;
        at += 12 + (desc_start + padded(desc_size)) as usize;
    }
    Err(NotesError::NoBuildId { seen })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        for word in [name.len() as u32, desc.len() as u32, kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [name, desc] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn finds_the_build_id_behind_other_notes() {
        let mut notes = note(b"Linux\0", 0x101, b"odd");
        notes.extend(note(b"Xen\0", 3, &[9; 8]));
        notes.extend(note(b"GNU\0", 5, &[9; 16]));
        notes.extend(note(b"GNU\0", 3, &[0xab; 20]));
        assert_eq!(build_id(&notes).unwrap().to_string(), "ab".repeat(20));
    }

    #[test]
    fn the_last_note_need_not_be_padded() {
        let mut notes = note(b"GNU\0", 3, &[1, 2, 3, 4, 5]);
        notes.truncate(12 + 4 + 5);
        assert_eq!(build_id(&notes).unwrap().to_string(), "0102030405");
    }

    #[test]
    fn says_why_there_is_none() {
        assert_eq!(build_id(&[]), Err(NotesError::NoBuildId { seen: 0 }));
        let other = note(b"Linux\0", 0x100, b"x");
        assert_eq!(build_id(&other), Err(NotesError::NoBuildId { seen: 1 }));
        let mut cut = note(b"Linux\0", 0x100, b"x");
        cut.extend([1, 2, 3]);
        assert_eq!(build_id(&cut), Err(NotesError::Truncated { at: 24, needed: 12, found: 3 }));
        let empty = note(b"GNU\0", 3, &[]);
        assert_eq!(build_id(&empty), Err(NotesError::BuildId(BuildIdError::Length(0))));
    }

    #[test]
    fn sizes_that_overflow_are_truncated_notes() {
        let mut hostile = note(b"GNU\0", 3, &[1; 20]);
        hostile[..8].fill(0xff);
        let needed = 12 + 0x1_0000_0000 + 0xffff_ffff;
        let expected = NotesError::Truncated { at: 0, needed, found: hostile.len() };
        assert_eq!(build_id(&hostile), Err(expected));
    }
}
