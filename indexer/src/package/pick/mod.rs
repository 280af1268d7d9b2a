//! The kernel files of a .deb without decoding all of it. Debian compresses `data.tar` in blocks of
//! 24 MiB that do not depend on each other, and of a package of 107 MB two hold what is wanted.
//!
//! Which ones they are: dpkg-deb sorts members by path, and the first header in a block tells how
//! far the paths have got there, so a search by halves looks at the beginnings of a few blocks.
//!
//! A tar archive can only be read from its beginning: from anywhere else, what looks like a header
//! may be a file's content, of an archive inside the archive for one. So nothing that is found here
//! is believed for the way it was found. `control.tar` lists every file of the package with its MD5
//! (`md5sums`, see `dh_md5sums(1)`); the path has to be listed, no other path like it may be, and the
//! bytes have to be the listed ones. Then it does not matter how they were come by: a walk from the
//! beginning would give the same bytes, or the package contradicts itself. One that was made to
//! contradict itself gains nothing over one that holds the other file to begin with.
//!
//! Whatever is not as expected, order, headers, sums, compression, ends as a [`PickError`], and the
//! package is read from its beginning to its end as ever. What is in the blocks that are not read
//! goes unnoticed, as what follows the last wanted file always has.

mod error;
mod xz;

pub use error::{PickError, Shape};

use super::{
    ar::{ArReader, MAX_MEMBERS},
    decoder::decoder,
    members::{KernelFile, KernelFiles, Limits, MembersError, Wanted, kernel_file},
    random::RandomAccess,
    tarball,
};
use md5::{Digest as _, Md5};
use std::{
    io::{self, Read},
    ops::Range,
};
use xz::{Block, Blocks};

/// Longest `md5sums` read, in bytes: thirty times that of Debian's largest kernel package.
const MAX_SUMS: u64 = 16 << 20;
/// Members of `control.tar` looked at.
const MAX_CONTROL: usize = 64;
/// How far into a block its first header is looked for, in bytes: over the largest file.
const MAX_PROBE: u64 = 64 << 20;
const SECTOR: usize = 512;

/// A wanted file as `md5sums` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    wanted: Wanted,
    path: String,
    md5: [u8; 16],
}

/// Takes the wanted kernel files out of a .deb, of which as little as possible is read and decoded.
pub(super) fn pick(
    source: &dyn RandomAccess,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, PickError> {
    let (sums, data) = outline(source)?;
    let targets = targets(&sums, wanted)?;
    let blocks = Blocks::read(source, data)?;
    let [_, _, ..] = blocks.blocks() else { return Err(Shape::OneBlock.into()) };
    let mut found = Vec::new();
    for target in &targets {
        found.push(Place::of(target, &blocks)?);
    }
    let files = match &found[..] {
        [one, other] if one.block == other.block => one.take(wanted, &blocks, limits)?,
        [one, other] => {
            let take = |place: &Place, target: &Target| place.take(target.wanted, &blocks, limits);
            let (one, other) = rayon::join(|| take(one, &targets[0]), || take(other, &targets[1]));
            let (one, other) = (one?, other?);
            if one.release != other.release {
                return Err(Shape::Other.into());
            }
            let (vmlinuz, nf_tables) =
                (one.vmlinuz.or(other.vmlinuz), other.nf_tables.or(one.nf_tables));
            KernelFiles { release: one.release, vmlinuz, nf_tables }
        }
        [one] => one.take(wanted, &blocks, limits)?,
        _ => return Err(Shape::Sums.into()),
    };
    if targets.iter().all(|target| target.is(&files)) {
        Ok(files)
    } else {
        Err(Shape::Other.into())
    }
}

/// The `md5sums`, and where `data.tar.xz` is.
fn outline(source: &dyn RandomAccess) -> Result<(String, Range<u64>), PickError> {
    let size = source.size()?;
    let mut archive = ArReader::new(Counted { reader: source.part(0..size), count: 0 })?;
    if archive.next()?.as_deref() != Some("debian-binary") {
        return Err(Shape::Members.into());
    }
    let mut sums = None;
    for _ in 0..MAX_MEMBERS {
        let name = archive.next()?.ok_or(Shape::Members)?;
        if name == "data.tar.xz" {
            let start = archive.inner().count;
            let end = start.checked_add(archive.rest()).filter(|end| *end <= size);
            return Ok((sums.ok_or(Shape::Sums)?, start..end.ok_or(Shape::Members)?));
        }
        if let Some(suffix) = name.strip_prefix("control.tar") {
            let control = decoder(suffix, archive.member()).ok_or(Shape::Members)?;
            sums = md5sums(control?)?;
        }
    }
    Err(Shape::Members.into())
}

struct Counted<R> {
    reader: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        self.count += read as u64;
        Ok(read)
    }
}

fn md5sums(control: impl Read) -> Result<Option<String>, PickError> {
    let mut archive = tar::Archive::new(control.take(MAX_SUMS));
    for entry in archive.entries()?.raw(true).take(MAX_CONTROL) {
        let mut entry = entry?;
        if matches!(&*entry.path_bytes(), b"./md5sums" | b"md5sums") {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// The wanted files, image first. Each has to be listed once: of several a walk from the beginning
/// takes the first, and which one that is cannot be told.
fn targets(sums: &str, wanted: Wanted) -> Result<Vec<Target>, Shape> {
    let kinds: &[Wanted] = match wanted {
        Wanted::Both => &[Wanted::Vmlinuz, Wanted::NfTables],
        Wanted::Vmlinuz => &[Wanted::Vmlinuz],
        Wanted::NfTables => &[Wanted::NfTables],
    };
    let mut targets: Vec<Option<Target>> = vec![None; kinds.len()];
    for line in sums.lines() {
        let Some((sum, path)) = line.split_once("  ") else { continue };
        let kind = match kernel_file(path) {
            Some((KernelFile::Vmlinuz, _)) => Wanted::Vmlinuz,
            Some((KernelFile::NfTables(_), _)) => Wanted::NfTables,
            // Debian's have none.
            Some((KernelFile::Vmlinux, _)) | None => continue,
        };
        let Some(slot) = kinds.iter().position(|other| *other == kind) else { continue };
        let md5 = nfdrop_db::hex::decode(sum).and_then(|sum| sum.try_into().ok());
        let target = Target { wanted: kind, path: path.to_owned(), md5: md5.ok_or(Shape::Sums)? };
        if targets[slot].replace(target).is_some() {
            return Err(Shape::Sums);
        }
    }
    targets.into_iter().collect::<Option<_>>().ok_or(Shape::Sums)
}

impl Target {
    /// Whether this is among the files, with the listed content.
    fn is(&self, files: &KernelFiles) -> bool {
        let bytes = match (kernel_file(&self.path), &files.release) {
            (Some((_, listed)), Some(release))
                if listed.is_some_and(|listed| listed != release) =>
            {
                None
            }
            (Some((KernelFile::NfTables(name), _)), _) => {
                files.nf_tables.as_ref().filter(|file| file.name == name).map(|file| &file.bytes)
            }
            (Some((KernelFile::Vmlinuz, _)), _) => files.vmlinuz.as_ref(),
            (Some((KernelFile::Vmlinux, _)) | None, _) => None,
        };
        bytes.is_some_and(|bytes| Md5::digest(bytes)[..] == self.md5)
    }
}

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    block: Block,
    /// Bytes of it before its first header.
    skip: u64,
}

impl Place {
    /// Where the last block begins whose first path is not behind the target's.
    fn of(target: &Target, blocks: &Blocks<'_>) -> Result<Self, PickError> {
        let list = blocks.blocks();
        // The archive begins with a header.
        let mut place = Self { block: list[0], skip: 0 };
        let (mut low, mut high) = (0, list.len());
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            let block = list[middle];
            let (skip, path) = first_header(blocks, block)?;
            if components(&path).le(components(target.path.as_bytes())) {
                low = middle;
                place = Self { block, skip };
            } else {
                high = middle;
            }
        }
        Ok(place)
    }

    /// Walks from here.
    fn take(
        &self,
        wanted: Wanted,
        blocks: &Blocks<'_>,
        limits: &Limits,
    ) -> Result<KernelFiles, PickError> {
        let mut reader = blocks.from(self.block)?;
        io::copy(&mut reader.by_ref().take(self.skip), &mut io::sink())?;
        tarball::search(reader, wanted, limits).map_err(|error| match error {
            MembersError::Read(error) => error.into(),
            // Reading all of it will say so again, or something else.
            _ => Shape::Other.into(),
        })
    }
}

/// What paths are sorted by.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// How many bytes into the block something begins that looks like a member, and its path or the
/// beginning of it.
fn first_header(blocks: &Blocks<'_>, block: Block) -> Result<(u64, Vec<u8>), PickError> {
    let mut reader = blocks.from(block)?.take(MAX_PROBE);
    let mut skip = block.plain.wrapping_neg() % SECTOR as u64;
    io::copy(&mut reader.by_ref().take(skip), &mut io::sink())?;
    let mut sector = [0; SECTOR];
    let mut start = None;
    loop {
        match reader.read_exact(&mut sector) {
            // The reader is not told from one that cannot go on: the last block may hold no header.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Shape::Header.into());
            }
            read => read?,
        }
        let at = skip;
        skip += SECTOR as u64;
        let Some(header) = header(&sector) else {
            if start.is_some() {
                return Err(Shape::Header.into());
            }
            continue;
        };
        let start = *start.get_or_insert(at);
        let kind = header.entry_type();
        let belongs_to_next = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !belongs_to_next {
            return Ok((start, header.path_bytes().into_owned()));
        }
        // The header behind it has the beginning of the path, which is enough.
        let size = header.entry_size()?.checked_next_multiple_of(SECTOR as u64);
        let size = size.filter(|size| *size < MAX_PROBE).ok_or(Shape::Header)?;
        skip += io::copy(&mut reader.by_ref().take(size), &mut io::sink())?;
    }
}

/// The header in a sector, if it has a magic and the right checksum.
fn header(sector: &[u8; SECTOR]) -> Option<&tar::Header> {
    let header = tar::Header::from_byte_slice(sector);
    let is_known = header.as_ustar().is_some() || header.as_gnu().is_some();
    let blank = sector.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    });
    (is_known && header.cksum().ok()? == blank.sum::<u32>()).then_some(header)
}

#[cfg(test)]
pub(super) mod tests;
