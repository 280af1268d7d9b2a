//! Which members of an archive are a kernel's files, and how much of it is looked at. The walk over
//! an archive, whatever its format, offers its members to a [`Search`], and ends with the last file
//! that is wanted, because decompression is most of what a kernel costs.
//!
//! Distributions spell the image's place differently, and some package two spellings, one of them a
//! symbolic link. Such a link is passed over as long as the file itself follows. Two files of the
//! same content are one; of two contents nobody knows which one runs, and the archive is refused.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufReader, Read},
};

/// Decompressed bytes are taken in pieces of this size; walks ask for a header at a time.
const OUTPUT: usize = 256 << 10;
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
    /// As the paths of the files say; `None`: nothing was found, or only an image whose path does not
    /// say it.
    pub release: Option<String>,
    /// The kernel image, compressed in one way or another.
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
    #[error("{name} is not a regular file but {kind}")]
    NotRegular {
        /// Its name.
        name: String,
        /// What it is.
        kind: Kind,
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

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    Regular,
    /// Another path to something.
    Symlink,
    /// Another name of something that has to be in the archive too.
    HardLink,
    /// A directory, a device and so on, by the letter its format or `ls` has for it.
    Other(char),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regular => f.write_str("a file"),
            Self::Symlink => f.write_str("a symbolic link"),
            Self::HardLink => f.write_str("a hard link"),
            Self::Other(letter) => write!(f, "of type {letter:?}"),
        }
    }
}

/// Runs a walk over a decompressed stream, of which it sees no more than the limit.
pub(super) fn bounded<T, E: From<MembersError>>(
    reader: impl Read,
    limits: &Limits,
    walk: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    let exceeded = Cell::new(false);
    let reader = Bounded { reader, rest: limits.total, exceeded: &exceeded };
    let found = walk(&mut BufReader::with_capacity(OUTPUT, reader));
    if exceeded.get() { Err(MembersError::Total(limits.total).into()) } else { found }
}

/// What a walk over an archive offers the members to.
pub(super) trait Sink {
    /// Counts a header of the archive: of a member, or of what belongs to one.
    fn count(&mut self) -> Result<(), MembersError>;

    /// Whether a file of this name would be taken, for walks that meet names before bytes. One that
    /// is too long is not.
    fn wants(&self, name: &[u8]) -> bool;

    /// Takes a member if it is wanted. `size` is what its header says, `bytes` ends with the member.
    fn offer(
        &mut self,
        name: &[u8],
        kind: Kind,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), MembersError>;

    /// Whether all that is wanted is there.
    fn is_done(&self) -> bool;
}

/// All of a wanted member, whose header says how long it is.
pub(super) fn read_member(
    name: &[u8],
    expected: u64,
    reader: &mut dyn Read,
    limits: &Limits,
) -> Result<Vec<u8>, MembersError> {
    let name = || String::from_utf8_lossy(name).into_owned();
    let max = limits.member;
    if expected > max {
        return Err(MembersError::Member { name: name(), found: expected, max });
    }
    // A header may claim more than there is: memory follows the bytes beyond this.
    let mut bytes = Vec::with_capacity(expected.min(32 << 20) as usize);
    reader.take(expected).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found != expected {
        return Err(MembersError::Truncated { name: name(), expected, found });
    }
    Ok(bytes)
}

/// Keeps the wanted ones of the members that a walk offers.
#[derive(Debug)]
pub(super) struct Search<'a> {
    wanted: Wanted,
    limits: &'a Limits,
    members: u32,
    files: KernelFiles,
    /// An image without the code that unpacks it, for where there is no other.
    vmlinux: Option<Result<Vec<u8>, MembersError>>,
    /// The first symbolic link in the place of each: an error where no file follows.
    image_link: Option<MembersError>,
    module_link: Option<MembersError>,
}

impl<'a> Search<'a> {
    pub(super) fn new(wanted: Wanted, limits: &'a Limits) -> Self {
        let files = KernelFiles::default();
        let members = 0;
        Self { wanted, limits, members, files, vmlinux: None, image_link: None, module_link: None }
    }

    fn wanted_file<'n>(&self, name: &'n [u8]) -> Option<(KernelFile<'n>, Option<&'n str>)> {
        let (what, release) = std::str::from_utf8(name).ok().and_then(kernel_file)?;
        let is_module = matches!(what, KernelFile::NfTables(_));
        let wanted = match self.wanted {
            Wanted::Both => true,
            Wanted::Vmlinuz => !is_module,
            Wanted::NfTables => is_module,
        };
        wanted.then_some((what, release))
    }

    /// What was found, when the walk has ended.
    pub(super) fn finish(mut self) -> Result<KernelFiles, MembersError> {
        if self.files.vmlinuz.is_none() {
            self.files.vmlinuz = self.vmlinux.take().transpose()?;
        }
        let image_link = self.image_link.filter(|_| self.files.vmlinuz.is_none());
        let module_link = self.module_link.filter(|_| self.files.nf_tables.is_none());
        image_link.or(module_link).map_or(Ok(self.files), Err)
    }
}

impl Sink for Search<'_> {
    fn count(&mut self) -> Result<(), MembersError> {
        self.members += 1;
        let max = self.limits.entries;
        if self.members > max { Err(MembersError::Entries(max)) } else { Ok(()) }
    }

    fn wants(&self, name: &[u8]) -> bool {
        name.len() <= self.limits.name && self.wanted_file(name).is_some()
    }

    fn offer(
        &mut self,
        name: &[u8],
        kind: Kind,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), MembersError> {
        if name.len() > self.limits.name {
            return Err(MembersError::Name(self.limits.name));
        }
        let Some((what, release)) = self.wanted_file(name) else { return Ok(()) };
        let path = name;
        let name = || String::from_utf8_lossy(name).into_owned();
        match kind {
            Kind::Regular => {}
            Kind::Symlink => {
                let link = match what {
                    KernelFile::Vmlinuz => &mut self.image_link,
                    KernelFile::NfTables(_) => &mut self.module_link,
                    KernelFile::Vmlinux => return Ok(()),
                };
                link.get_or_insert_with(|| MembersError::NotRegular { name: name(), kind });
                return Ok(());
            }
            _ => return Err(MembersError::NotRegular { name: name(), kind }),
        }
        match (&self.files.release, release) {
            (Some(first), Some(release)) if first != release => {
                let (first, second) = (first.clone(), release.to_owned());
                return Err(MembersError::Releases { first, second });
            }
            (None, Some(release)) => self.files.release = Some(release.to_owned()),
            _ => {}
        }
        match what {
            KernelFile::Vmlinux if self.files.vmlinuz.is_some() => {}
            KernelFile::Vmlinux => {
                let read = read_member(path, size, bytes, self.limits);
                self.vmlinux = Some(match (self.vmlinux.take(), read) {
                    (Some(Ok(first)), Ok(second)) if first != second => {
                        Err(MembersError::Duplicate { what: "kernel image", name: name() })
                    }
                    // Nothing after this can be read.
                    (_, Err(error @ (MembersError::Read(_) | MembersError::Truncated { .. }))) => {
                        return Err(error);
                    }
                    (Some(Err(error)), _) | (_, Err(error)) => Err(error),
                    (_, Ok(second)) => Ok(second),
                });
            }
            KernelFile::Vmlinuz => {
                let image = read_member(path, size, bytes, self.limits)?;
                if self.files.vmlinuz.as_ref().is_some_and(|first| *first != image) {
                    return Err(MembersError::Duplicate { what: "kernel image", name: name() });
                }
                self.files.vmlinuz = Some(image);
                self.vmlinux = None;
            }
            KernelFile::NfTables(file) => {
                let (file, bytes) = (file.to_owned(), read_member(path, size, bytes, self.limits)?);
                let module = NamedBytes { name: file, bytes };
                if self.files.nf_tables.as_ref().is_some_and(|first| *first != module) {
                    return Err(MembersError::Duplicate { what: "nf_tables module", name: name() });
                }
                self.files.nf_tables = Some(module);
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let (vmlinuz, module) = (self.files.vmlinuz.is_some(), self.files.nf_tables.is_some());
        match self.wanted {
            Wanted::Vmlinuz => vmlinuz,
            Wanted::NfTables => module,
            Wanted::Both => vmlinuz && module,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelFile<'a> {
    Vmlinuz,
    /// The same as an ELF file, compressed or not.
    Vmlinux,
    /// The name without directories.
    NfTables(&'a str),
}

/// What a member is, and of which kernel release if its name says so.
pub(super) fn kernel_file(path: &str) -> Option<(KernelFile<'_>, Option<&str>)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let path = path.strip_prefix('/').unwrap_or(path);
    let (file, release) = if let Some(release) = path.strip_prefix("boot/vmlinuz-") {
        if is_flavour(release) {
            return Some((KernelFile::Vmlinuz, None));
        }
        (KernelFile::Vmlinuz, release)
    } else if let Some(name) = path.strip_prefix("boot/vmlinux-") {
        (KernelFile::Vmlinux, uncompressed(name))
    } else {
        let path = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
        let (release, path) = path.split_once('/')?;
        let name = path.rsplit('/').next()?;
        let file = match uncompressed(name) {
            "vmlinuz" if path == "vmlinuz" => KernelFile::Vmlinuz,
            "vmlinux" if path == name => KernelFile::Vmlinux,
            "nf_tables.ko" => KernelFile::NfTables(name),
            _ => return None,
        };
        (file, release)
    };
    is_release(release).then_some((file, Some(release)))
}

/// A name without the suffix of its compression.
fn uncompressed(name: &str) -> &str {
    let suffix = [".xz", ".zst", ".gz"].into_iter().find(|suffix| name.ends_with(suffix));
    suffix.and_then(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn is_release(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"+-._~".contains(&c);
    text.len() <= MAX_RELEASE
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(plain)
}

/// Whether an image is named after its flavour instead of its release: `boot/vmlinuz-lts` of Alpine,
/// `boot/vmlinuz-linux` of Arch until 2019.
fn is_flavour(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= MAX_RELEASE
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(plain)
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [&str; 2] = ["boot/vmlinuz-6.4.0-default", "usr/lib/modules/6.4.0-default/vmlinuz"];
    const MODULE: &str = "usr/lib/modules/6.4.0-default/kernel/net/netfilter/nf_tables.ko.zst";

    /// Offers these members until the search is done.
    fn search(
        wanted: Wanted,
        members: &[(&str, Kind, &[u8])],
    ) -> Result<KernelFiles, MembersError> {
        let limits = Limits { member: 8, ..Limits::default() };
        let mut search = Search::new(wanted, &limits);
        for (name, kind, bytes) in members {
            search.count()?;
            search.offer(name.as_bytes(), *kind, bytes.len() as u64, &mut &**bytes)?;
            if search.is_done() {
                break;
            }
        }
        search.finish()
    }

    type Member<'a> = (&'a str, Kind, &'a [u8]);

    fn file<'a>(name: &'a str, bytes: &'a [u8]) -> Member<'a> {
        (name, Kind::Regular, bytes)
    }

    fn image(members: &[Member<'_>]) -> Result<Option<Vec<u8>>, String> {
        let found = search(Wanted::Both, members);
        found.map(|files| files.vmlinuz).map_err(|error| error.to_string())
    }

    #[test]
    fn a_link_is_passed_over_where_the_file_is_there_too() {
        let [boot, modules] = BOTH;
        let link = (boot, Kind::Symlink, &b""[..]);
        let image = file(modules, b"image");
        for order in [[link, image], [image, link]] {
            assert_eq!(self::image(&order), Ok(Some(b"image".to_vec())));
        }
        let module = (MODULE, Kind::Symlink, &b""[..]);
        let hard = (boot, Kind::HardLink, &b""[..]);
        let cases = [&[link][..], &[image, module], &[link, module], &[hard, image]];
        let errors = cases.map(|case| self::image(case).unwrap_err());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        boot/vmlinuz-6.4.0-default is not a regular file but a symbolic link
        usr/lib/modules/6.4.0-default/kernel/net/netfilter/nf_tables.ko.zst is not a regular file but a symbolic link
        boot/vmlinuz-6.4.0-default is not a regular file but a symbolic link
        boot/vmlinuz-6.4.0-default is not a regular file but a hard link
        "#);
        // Who wants only the module is not concerned.
        let files = search(Wanted::NfTables, &[link, file(MODULE, b"module")]).unwrap();
        assert_eq!((files.vmlinuz, files.nf_tables.is_some()), (None, true));
    }

    #[test]
    fn two_images_have_to_be_the_same() {
        let [boot, modules] = BOTH;
        let same = image(&[file(boot, b"one"), file(modules, b"one")]);
        assert_eq!(same, Ok(Some(b"one".to_vec())));
        let updates = MODULE.replace("kernel/net/netfilter", "updates");
        let errors = [
            image(&[file(boot, b"one"), file(modules, b"two")]).unwrap_err(),
            image(&[file(MODULE, b"one"), file(&updates, b"two")]).unwrap_err(),
        ];
        insta::assert_snapshot!(errors.join("\n"), @r#"
        the archive holds a second kernel image, usr/lib/modules/6.4.0-default/vmlinuz: which one the kernel uses is not known
        the archive holds a second nf_tables module, usr/lib/modules/6.4.0-default/updates/nf_tables.ko.zst: which one the kernel uses is not known
        "#);
    }

    #[test]
    fn vmlinux_is_taken_where_there_is_no_vmlinuz() {
        let [boot, modules] = BOTH.map(|name| name.replace("vmlinuz", "vmlinux"));
        let image_file = file(BOTH[1], b"image");
        for suffix in ["", ".xz", ".zst", ".gz"] {
            for name in [&boot, &modules] {
                let name = format!("{name}{suffix}");
                let elf = file(&name, b"elf");
                assert_eq!(image(&[elf]), Ok(Some(b"elf".to_vec())), "{name}");
                for order in [[elf, image_file], [image_file, elf]] {
                    assert_eq!(image(&order), Ok(Some(b"image".to_vec())), "{name}");
                }
            }
        }
        let long = file(&boot, b"much too long");
        let two = [file(&boot, b"one"), file(&modules, b"two")];
        for unclear in [&[long][..], &two] {
            assert!(image(&[unclear, &[image_file]].concat()).is_ok());
        }
        let errors = [image(&[long]).unwrap_err(), image(&two).unwrap_err()];
        insta::assert_snapshot!(errors.join("\n"), @r#"
        boot/vmlinux-6.4.0-default has 13 bytes, expected at most 8
        the archive holds a second kernel image, usr/lib/modules/6.4.0-default/vmlinux: which one the kernel uses is not known
        "#);
        for name in ["usr/lib/modules/6.4.0/build/vmlinux", "usr/lib/debug/boot/vmlinux-6.4.0"] {
            assert_eq!(image(&[file(name, b"elf")]), Ok(None), "{name}");
        }
    }
}
