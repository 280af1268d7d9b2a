//! A header of an rpm: an index of tags and a store that they point into, all in network order. The
//! signatures in front of it and the package's description have the same form.

use std::io::{self, Read};

const MAGIC: &[u8; 4] = b"\x8e\xad\xe8\x01";
/// Magic, four reserved bytes, entries in the index, bytes in the store.
const INTRO: usize = 16;
/// Bytes of an entry.
const ENTRY: usize = 16;
/// Most entries; kernels have about 100.
const MAX_ENTRIES: u32 = 4096;
/// Largest store, in bytes. What has 20,000 files with digests has 3 MiB.
const MAX_STORE: u32 = 64 << 20;

/// Tags that are read, by rpm's names.
pub(crate) mod tag {
    /// In the header of signatures, over the header alone: `SHA256`, `DSA`, `RSA`, `OPENPGP`.
    pub(crate) const SIGNATURE_DSA: u32 = 267;
    pub(crate) const SIGNATURE_RSA: u32 = 268;
    pub(crate) const SIGNATURE_SHA256: u32 = 273;
    pub(crate) const SIGNATURE_OPENPGP: u32 = 278;
    /// Over header and archive: `PGP`, `GPG`.
    pub(crate) const SIGNATURE_PGP: u32 = 1002;
    pub(crate) const SIGNATURE_GPG: u32 = 1005;
    pub(crate) const NAME: u32 = 1000;
    pub(crate) const VERSION: u32 = 1001;
    pub(crate) const RELEASE: u32 = 1002;
    pub(crate) const EPOCH: u32 = 1003;
    pub(crate) const ARCH: u32 = 1022;
    pub(crate) const FILE_SIZES: u32 = 1028;
    pub(crate) const FILE_MODES: u32 = 1030;
    pub(crate) const FILE_FLAGS: u32 = 1037;
    pub(crate) const FILE_DEVICES: u32 = 1095;
    pub(crate) const FILE_INODES: u32 = 1096;
    pub(crate) const DIR_INDEXES: u32 = 1116;
    pub(crate) const BASE_NAMES: u32 = 1117;
    pub(crate) const DIR_NAMES: u32 = 1118;
    pub(crate) const PAYLOAD_FORMAT: u32 = 1124;
    pub(crate) const PAYLOAD_COMPRESSOR: u32 = 1125;
    pub(crate) const LONG_FILE_SIZES: u32 = 5008;
    pub(crate) const PAYLOAD_DIGEST: u32 = 5092;
    pub(crate) const PAYLOAD_DIGEST_HASH: u32 = 5093;
    pub(crate) const RPM_FORMAT: u32 = 5114;
}

/// Longest list of a header that is taken apart: a hundred times the files of the largest kernel package.
const MAX_LIST: usize = 1 << 20;

/// Why a header is refused.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Reading failed, or the file ends in it.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// There is none.
    #[error("it begins with {0:02x?}, expected 8e ad e8 01")]
    Magic([u8; 4]),
    /// Too many entries.
    #[error("it has {0} entries, expected at most {max}", max = MAX_ENTRIES)]
    Entries(u32),
    /// Too long.
    #[error("it has {0} bytes of data, expected at most {max}", max = MAX_STORE)]
    Store(u32),
    /// An entry of another type, or outside of the store.
    #[error("its tag {tag} is not {expected} within the data")]
    Tag {
        /// The number.
        tag: u32,
        /// What it has to be.
        expected: &'static str,
    },
    /// Arrays with one entry a file, of different lengths.
    #[error(
        "its lists of files are of different lengths: tag {tag} has {found}, expected {expected}"
    )]
    Files {
        /// The number of one of them.
        tag: u32,
        /// Its length.
        found: usize,
        /// How many files there are.
        expected: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u32,
    kind: u32,
    offset: u32,
    count: u32,
}

/// A header that was read. Nothing in it is checked before it is asked for.
#[derive(Debug)]
pub(crate) struct Header {
    /// As in the file, which is what signatures and digests cover.
    raw: Vec<u8>,
    entries: Vec<Entry>,
}

impl Header {
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, HeaderError> {
        let mut raw = vec![0; INTRO];
        reader.read_exact(&mut raw)?;
        let word = |at: usize| number(&raw[at..at + 4]) as u32;
        if &raw[..4] != MAGIC {
            return Err(HeaderError::Magic([raw[0], raw[1], raw[2], raw[3]]));
        }
        let (count, store) = (word(8), word(12));
        if count > MAX_ENTRIES {
            return Err(HeaderError::Entries(count));
        }
        if store > MAX_STORE {
            return Err(HeaderError::Store(store));
        }
        let rest = ENTRY as u64 * u64::from(count) + u64::from(store);
        // Memory follows the bytes, not the claim.
        let read = reader.take(rest).read_to_end(&mut raw)?;
        if read as u64 != rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let index = &raw[INTRO..INTRO + ENTRY * count as usize];
        let entry = |entry: &[u8]| {
            let word = |at: usize| number(&entry[at..at + 4]) as u32;
            Entry { tag: word(0), kind: word(4), offset: word(8), count: word(12) }
        };
        let entries = index.chunks_exact(ENTRY).map(entry).collect();
        Ok(Self { raw, entries })
    }

    /// As in the file.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The store from where an entry begins, and the entry.
    fn find(
        &self,
        tag: u32,
        expected: &'static str,
    ) -> Result<Option<(Entry, &[u8])>, HeaderError> {
        let Some(entry) = self.entries.iter().find(|entry| entry.tag == tag) else {
            return Ok(None);
        };
        let store = &self.raw[INTRO + ENTRY * self.entries.len()..];
        let data = store.get(entry.offset as usize..);
        data.map(|data| Some((*entry, data))).ok_or(HeaderError::Tag { tag, expected })
    }

    /// A tag with one text.
    pub(crate) fn string(&self, tag: u32) -> Result<Option<&str>, HeaderError> {
        let expected = "a text";
        let wrong = HeaderError::Tag { tag, expected };
        let Some((entry, data)) = self.find(tag, expected)? else { return Ok(None) };
        let text = data.split(|byte| *byte == 0).next().filter(|text| text.len() < data.len());
        match (entry.kind, text.map(std::str::from_utf8)) {
            // One text, or the first of its translations or of a list of one.
            (6, Some(Ok(text))) => Ok(Some(text)),
            (8 | 9, Some(Ok(text))) if entry.count > 0 => Ok(Some(text)),
            _ => Err(wrong),
        }
    }

    /// A tag with a list of texts, which are not always UTF-8.
    pub(crate) fn strings(&self, tag: u32) -> Result<Option<Vec<&[u8]>>, HeaderError> {
        let expected = "a list of texts";
        let Some((entry, data)) = self.find(tag, expected)? else { return Ok(None) };
        let count = entry.count as usize;
        if count > MAX_LIST {
            return Err(HeaderError::Tag { tag, expected });
        }
        // Behind the last text there is one more piece, after its NUL.
        let mut texts: Vec<_> =
            data.split(|byte| *byte == 0).take(count.saturating_add(1)).collect();
        if !matches!(entry.kind, 6 | 8 | 9) || texts.len() <= count {
            return Err(HeaderError::Tag { tag, expected });
        }
        texts.truncate(count);
        Ok(Some(texts))
    }

    /// A tag with a list of numbers, of any width.
    pub(crate) fn numbers(&self, tag: u32) -> Result<Option<Vec<u64>>, HeaderError> {
        let expected = "a list of numbers";
        let Some((entry, data)) = self.find(tag, expected)? else { return Ok(None) };
        let width = match entry.kind {
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Err(HeaderError::Tag { tag, expected }),
        };
        let count = entry.count as usize;
        let bytes = width * count;
        if count > MAX_LIST {
            return Err(HeaderError::Tag { tag, expected });
        }
        let data = data.get(..bytes).ok_or(HeaderError::Tag { tag, expected })?;
        Ok(Some(data.chunks_exact(width).map(number).collect()))
    }

    /// A tag with bytes.
    pub(crate) fn bytes(&self, tag: u32) -> Result<Option<&[u8]>, HeaderError> {
        let expected = "bytes";
        let Some((entry, data)) = self.find(tag, expected)? else { return Ok(None) };
        let data = data.get(..entry.count as usize).filter(|_| entry.kind == 7);
        data.map(Some).ok_or(HeaderError::Tag { tag, expected })
    }
}

/// In network order.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
