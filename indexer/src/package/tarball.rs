//! The members of a tar stream.
//!
//! Long names are put together here and not by the tar crate, which would read them whole whatever
//! size they claim.

use super::members::{KernelFiles, Kind, Limits, MembersError, Search, Sink, Wanted, bounded};
use std::{
    io::Read,
    ops::ControlFlow::{self, Break, Continue},
};
use tar::EntryType;

/// Longest PAX header read, in bytes.
const MAX_PAX: u64 = 64 << 10;

/// Takes the wanted files out of a decompressed tar stream.
pub(super) fn search(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, MembersError> {
    let mut search = Search::new(wanted, limits);
    offer(reader, limits, &mut search)?;
    search.finish()
}

/// Offers the members of a decompressed tar stream to a sink until that has enough.
pub(super) fn offer(
    reader: impl Read,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), MembersError> {
    walk(reader, limits, |name, kind, size, bytes| {
        sink.offer(name, kind, size, bytes)?;
        Ok(if sink.is_done() { Break(()) } else { Continue(()) })
    })
}

/// Shows the members of a decompressed tar stream to `visit`, with name, kind and size as their headers
/// say, until it breaks off.
pub(crate) fn walk<E: From<MembersError>>(
    reader: impl Read,
    limits: &Limits,
    visit: impl FnMut(&[u8], Kind, u64, &mut dyn Read) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    bounded(reader, limits, |reader| walk_bounded(reader, limits, visit))
}

fn walk_bounded<E: From<MembersError>>(
    reader: &mut dyn Read,
    limits: &Limits,
    mut visit: impl FnMut(&[u8], Kind, u64, &mut dyn Read) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(reader);
    let mut long_name: Option<Vec<u8>> = None;
    let mut count = 0;
    for entry in archive.entries().map_err(MembersError::from)?.raw(true) {
        let mut entry = entry.map_err(MembersError::from)?;
        count += 1;
        if count > limits.entries {
            return Err(MembersError::Entries(limits.entries).into());
        }
        let kind = entry.header().entry_type();
        let extension = match kind {
            EntryType::GNULongName => Some(gnu_long_name(&mut entry, limits)?),
            EntryType::XHeader => pax_path(&mut entry)?,
            EntryType::GNULongLink | EntryType::XGlobalHeader => None,
            _ => {
                let name = long_name.take();
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                let size = entry.size();
                if visit(&name, self::kind(kind), size, &mut entry)?.is_break() {
                    break;
                }
                continue;
            }
        };
        if let Some(name) = extension
            && long_name.replace(name).is_some()
        {
            return Err(MembersError::Extension("two names for one member").into());
        }
    }
    Ok(())
}

fn kind(kind: EntryType) -> Kind {
    match kind {
        EntryType::Regular => Kind::Regular,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        other => Kind::Other(char::from(other.as_byte())),
    }
}

fn gnu_long_name(
    entry: &mut tar::Entry<'_, impl Read>,
    limits: &Limits,
) -> Result<Vec<u8>, MembersError> {
    // One byte more for the NUL at its end.
    if entry.size() > limits.name as u64 + 1 {
        return Err(MembersError::Name(limits.name));
    }
    let mut name = Vec::new();
    entry.read_to_end(&mut name)?;
    name.truncate(name.iter().position(|c| *c == 0).unwrap_or(name.len()));
    Ok(name)
}

/// The path in a PAX header, if it has one.
pub(super) fn pax_path(
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<Option<Vec<u8>>, MembersError> {
    if entry.size() > MAX_PAX {
        return Err(MembersError::Extension("a PAX header that is too long"));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text)?;
    let mut path = None;
    for record in tar::PaxExtensions::new(&text) {
        let record = record?;
        match record.key_bytes() {
            b"path" => path = Some(record.value_bytes().to_vec()),
            // Readers that heed it and readers that do not see different archives.
            b"size" => return Err(MembersError::Extension("a PAX header with a size")),
            _ => {}
        }
    }
    Ok(path)
}
