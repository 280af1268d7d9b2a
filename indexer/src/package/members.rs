//! The kernel files among the members of a tar stream. The walk ends with the last file that is
//! wanted, because decompression is most of what a kernel costs.
//!
//! Long names are put together here and not by the tar crate, which would read them whole whatever
//! size they claim.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufReader, Read},
};
use tar::EntryType;

/// Decompressed bytes are taken in pieces of this size; tar asks for 512 at a time.
const OUTPUT: usize = 256 << 10;
/// Longest PAX header read, in bytes.
const MAX_PAX: u64 = 64 << 10;
/// Longest kernel release, in bytes: `__NEW_UTS_LEN` of the kernel.
const MAX_RELEASE: usize = 64;

/// What may be taken from a package. The defaults are several times what kernels need: a compressed
/// image has 15 MiB, a module with debug information 20 MiB. Two members and what they are unpacked to
/// fit into 512 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members, wanted or not.
    pub entries: u32,
    /// Bytes of a wanted member.
    pub member: u64,
    /// Bytes of the whole archive, decompressed.
    pub total: u64,
    /// Bytes of a member's name.
    pub name: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 200_000, member: 48 << 20, total: 4 << 30, name: 4096 }
    }
}

/// Which files to look for. The walk ends when they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// The kernel image: `linux-binary-*`.
    Vmlinuz,
    /// The module: `linux-modules-*`.
    NfTables,
    /// Both, `linux-image-*` up to 6.18. Where one is not there the whole archive is read.
    Both,
}

/// The kernel files of a package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelFiles {
    /// As the paths of the files say; `None`: nothing was found.
    pub release: Option<String>,
    /// The compressed kernel image.
    pub vmlinuz: Option<Vec<u8>>,
    /// The module as it is in the package, often compressed.
    pub nf_tables: Option<NamedBytes>,
}

/// A file's name and bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedBytes {
    /// Without directories: `nf_tables.ko.xz`.
    pub name: String,
    /// As they are in the package.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for NamedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamedBytes({:?}, {} bytes)", self.name, self.bytes.len())
    }
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// It cannot be read, decompressed or is not a tar archive.
    #[error("the archive cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Too many members.
    #[error("the archive has more than {0} members")]
    Entries(u32),
    /// Too long when decompressed.
    #[error("the archive has more than {0} bytes when decompressed")]
    Total(u64),
    /// A member's name is too long.
    #[error("the archive has a member whose name is longer than {0} bytes")]
    Name(usize),
    /// A wanted member is too long.
    #[error("{name} has {found} bytes, expected at most {max}")]
    Member {
        /// Its name.
        name: String,
        /// Its size.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A wanted member ends early.
    #[error("{name} ends after {found} bytes, expected {expected}")]
    Truncated {
        /// Its name.
        name: String,
        /// As the header says.
        expected: u64,
        /// What there was.
        found: u64,
    },
    /// A wanted member is a link, device or another thing that is not a file.
    #[error("{name} is not a regular file but of tar type {kind:?}")]
    NotRegular {
        /// Its name.
        name: String,
        /// The type byte.
        kind: char,
    },
    /// A wanted member is there twice.
    #[error("the archive holds a second {what}, {name}: which one the kernel uses is not known")]
    Duplicate {
        /// What it is.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Files of different kernels.
    #[error("the archive holds files of two kernels, {first} and {second}")]
    Releases {
        /// Found first.
        first: String,
        /// Found later.
        second: String,
    },
    /// Two extension headers for the same member, or one that readers disagree on.
    #[error("the archive has an extension header that is not accepted: {0}")]
    Extension(&'static str),
}

/// Takes the wanted files out of a decompressed tar stream.
pub(super) fn search(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, MembersError> {
    let exceeded = Cell::new(false);
    let reader = Bounded { reader, rest: limits.total, exceeded: &exceeded };
    let mut archive = tar::Archive::new(BufReader::with_capacity(OUTPUT, reader));
    let found = walk(&mut archive, wanted, limits);
    if exceeded.get() { Err(MembersError::Total(limits.total)) } else { found }
}

fn walk(
    archive: &mut tar::Archive<impl Read>,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, MembersError> {
    let mut files = KernelFiles::default();
    let mut long_name: Option<Vec<u8>> = None;
    let mut count = 0;
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        count += 1;
        if count > limits.entries {
            return Err(MembersError::Entries(limits.entries));
        }
        let kind = entry.header().entry_type();
        let extension = match kind {
            EntryType::GNULongName => Some(gnu_long_name(&mut entry, limits)?),
            EntryType::XHeader => pax_path(&mut entry)?,
            EntryType::GNULongLink | EntryType::XGlobalHeader => None,
            _ => {
                let name = long_name.take();
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                if name.len() > limits.name {
                    return Err(MembersError::Name(limits.name));
                }
                take(&mut entry, &name, wanted, limits, &mut files)?;
                let (vmlinuz, module) = (files.vmlinuz.is_some(), files.nf_tables.is_some());
                let done = match wanted {
                    Wanted::Vmlinuz => vmlinuz,
                    Wanted::NfTables => module,
                    Wanted::Both => vmlinuz && module,
                };
                if done {
                    break;
                }
                continue;
            }
        };
        if let Some(name) = extension
            && long_name.replace(name).is_some()
        {
            return Err(MembersError::Extension("two names for one member"));
        }
    }
    Ok(files)
}

/// Keeps the member if it is wanted.
fn take(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &[u8],
    wanted: Wanted,
    limits: &Limits,
    files: &mut KernelFiles,
) -> Result<(), MembersError> {
    let Some((what, release)) = std::str::from_utf8(name).ok().and_then(kernel_file) else {
        return Ok(());
    };
    if !matches!((what, wanted), (_, Wanted::Both))
        && matches!(what, KernelFile::Vmlinuz) != matches!(wanted, Wanted::Vmlinuz)
    {
        return Ok(());
    }
    let name = || String::from_utf8_lossy(name).into_owned();
    let kind = entry.header().entry_type();
    if kind != EntryType::Regular {
        return Err(MembersError::NotRegular { name: name(), kind: char::from(kind.as_byte()) });
    }
    match &files.release {
        Some(first) if first != release => {
            let (first, second) = (first.clone(), release.to_owned());
            return Err(MembersError::Releases { first, second });
        }
        _ => files.release = Some(release.to_owned()),
    }
    let (what, twice) = match what {
        KernelFile::Vmlinuz => ("kernel image", files.vmlinuz.is_some()),
        KernelFile::NfTables(_) => ("nf_tables module", files.nf_tables.is_some()),
    };
    if twice {
        return Err(MembersError::Duplicate { what, name: name() });
    }
    let expected = entry.size();
    if expected > limits.member {
        return Err(MembersError::Member { name: name(), found: expected, max: limits.member });
    }
    // A header may claim more than there is: memory follows the bytes beyond this.
    let mut bytes = Vec::with_capacity(expected.min(32 << 20) as usize);
    entry.read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found != expected {
        return Err(MembersError::Truncated { name: name(), expected, found });
    }
    let path = name();
    match kernel_file(&path) {
        Some((KernelFile::NfTables(name), _)) => {
            files.nf_tables = Some(NamedBytes { name: name.to_owned(), bytes });
        }
        _ => files.vmlinuz = Some(bytes),
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelFile<'a> {
    Vmlinuz,
    /// The name without directories.
    NfTables(&'a str),
}

/// What a member is, and of which kernel release.
pub(super) fn kernel_file(path: &str) -> Option<(KernelFile<'_>, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let path = path.strip_prefix('/').unwrap_or(path);
    if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
        return is_release(release).then_some((KernelFile::Vmlinuz, release));
    }
    let path = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    let (release, path) = path.split_once('/')?;
    let name = path.rsplit('/').next()?;
    let file = match name {
        "vmlinuz" if path == name => KernelFile::Vmlinuz,
        "nf_tables.ko" | "nf_tables.ko.xz" | "nf_tables.ko.zst" | "nf_tables.ko.gz" => {
            KernelFile::NfTables(name)
        }
        _ => return None,
    };
    is_release(release).then_some((file, release))
}

fn is_release(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"+-._~".contains(&c);
    text.len() <= MAX_RELEASE
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(plain)
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
fn pax_path(entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<Vec<u8>>, MembersError> {
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

/// Fails once more bytes are there than allowed.
struct Bounded<'a, R> {
    reader: R,
    rest: u64,
    exceeded: &'a Cell<bool>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        let Some(rest) = self.rest.checked_sub(read as u64) else {
            self.exceeded.set(true);
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.rest = rest;
        Ok(read)
    }
}
