//! The files of a package as its header lists them. Archives in the format `07070X` have nothing but
//! numbers of files, and take names, sizes and modes from here.

use super::header::{Header, HeaderError, tag};
use std::collections::HashMap;

/// `RPMFILE_GHOST`: belongs to the package but is not in its archive.
const GHOST: u64 = 1 << 6;

/// The files of a header.
#[derive(Debug)]
pub(super) struct Files<'a> {
    base_names: Vec<&'a [u8]>,
    dir_indexes: Vec<u64>,
    dir_names: Vec<&'a [u8]>,
    sizes: Vec<u64>,
    modes: Vec<u64>,
    /// Number of the last of the files that are one, by the identity they share.
    last: HashMap<(u64, u64), usize>,
    identities: Vec<(u64, u64)>,
}

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u64,
    /// Files with the same one are one file; `None`: there is no other.
    pub(super) link: Option<(u64, u64)>,
    /// Of those, the archive has the data with this one.
    pub(super) has_data: bool,
}

impl<'a> Files<'a> {
    pub(super) fn of(header: &'a Header) -> Result<Self, HeaderError> {
        let base_names = header.strings(tag::BASE_NAMES)?.unwrap_or_default();
        let count = base_names.len();
        let numbers = |tag| {
            let found = header.numbers(tag)?.unwrap_or_default();
            let wrong = HeaderError::Files { tag, found: found.len(), expected: count };
            if found.len() == count { Ok(found) } else { Err(wrong) }
        };
        let sizes = match header.numbers(tag::LONG_FILE_SIZES)? {
            Some(_) => numbers(tag::LONG_FILE_SIZES)?,
            None => numbers(tag::FILE_SIZES)?,
        };
        let (modes, flags) = (numbers(tag::FILE_MODES)?, numbers(tag::FILE_FLAGS)?);
        let devices = numbers(tag::FILE_DEVICES)?;
        let identities: Vec<_> = devices.into_iter().zip(numbers(tag::FILE_INODES)?).collect();
        let mut last = HashMap::new();
        let mut linked = HashMap::new();
        for (index, identity) in identities.iter().enumerate() {
            let linkable = is_regular(modes[index]) && flags[index] & GHOST == 0 && identity.1 != 0;
            if linkable && last.insert(*identity, index).is_some() {
                linked.insert(*identity, index);
            }
        }
        Ok(Self {
            base_names,
            dir_indexes: numbers(tag::DIR_INDEXES)?,
            dir_names: header.strings(tag::DIR_NAMES)?.unwrap_or_default(),
            sizes,
            modes,
            last: linked,
            identities,
        })
    }

    /// The file with this number.
    pub(super) fn get(&self, index: usize) -> Option<File> {
        let directory = usize::try_from(*self.dir_indexes.get(index)?).ok()?;
        let mode = self.modes[index];
        let link = Some(self.identities[index]);
        let last = link.filter(|_| is_regular(mode)).and_then(|link| self.last.get(&link));
        Some(File {
            name: [*self.dir_names.get(directory)?, self.base_names[index]].concat(),
            size: self.sizes[index],
            mode,
            link: link.filter(|_| last.is_some()),
            has_data: last.is_none_or(|last| *last == index),
        })
    }
}

pub(super) fn is_regular(mode: u64) -> bool {
    mode & 0o170_000 == 0o100_000
}
