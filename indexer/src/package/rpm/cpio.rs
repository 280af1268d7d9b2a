//! The members of an rpm's archive: cpio in the format "newc", or, in packages with files of 4 GiB
//! and in those of rpm 6, in one of rpm's own that refers to the package's header.
//!
//! Of files that are hard links of each other only the last member has the data. The names of those
//! before it are kept, if they are wanted, and offered with the data when it is there.

use super::{
    super::members::{Kind, Limits, MembersError, Sink},
    files::{Files, is_regular},
    header::{Header, HeaderError},
};
use std::io::{self, Read};

/// Bytes of a header in newc, and in rpm's format.
const NEWC: usize = 110;
const STRIPPED: usize = 14;
const MAGIC: usize = 6;
/// The member that says that there are no more.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Most wanted names that wait for their data: there are three files and few places for each.
const MAX_WAITING: usize = 16;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// A header that cannot be read.
    #[error(
        "a member of the package's archive begins with {0:?}, expected 070701, 070702 or 07070X"
    )]
    Magic(String),
    /// A header that cannot be read.
    #[error("the package's archive has a malformed member header")]
    Header,
    /// A number of a file that the package does not have.
    #[error("the package's archive has file {0}, which the package does not list")]
    File(u64),
    /// What the package lists cannot be read.
    #[error("the package's header: {0}")]
    Files(#[from] HeaderError),
    /// Links to a file without data.
    #[error("{0} is a hard link to a file that is not in the package")]
    Link(String),
    /// More of them than any package has.
    #[error("more than {max} of the wanted files are hard links without data", max = MAX_WAITING)]
    Links,
    /// Something in the archive is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
}

impl From<io::Error> for CpioError {
    fn from(error: io::Error) -> Self {
        Self::Members(error.into())
    }
}

struct Member {
    name: Vec<u8>,
    mode: u64,
    /// Bytes that follow.
    size: u64,
    link: Option<(u64, u64)>,
}

/// Offers the members to a sink until that has enough.
pub(super) fn walk(
    reader: &mut impl Read,
    header: &Header,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), CpioError> {
    let mut archive = Archive { reader, position: 0, header, files: None };
    let mut waiting: Vec<((u64, u64), Vec<u8>)> = Vec::new();
    while let Some(member) = archive.next(limits)? {
        sink.count()?;
        let Member { name, mode, size, link } = member;
        let kind = kind(mode);
        let mut data = archive.reader.by_ref().take(size);
        match link.filter(|_| kind == Kind::Regular) {
            Some(link) if size == 0 => {
                if sink.wants(&name) {
                    if waiting.len() == MAX_WAITING {
                        return Err(CpioError::Links);
                    }
                    waiting.push((link, name));
                }
            }
            Some(link) if waiting.iter().any(|(other, _)| *other == link) => {
                let mut bytes = Vec::new();
                data.by_ref().take(limits.member).read_to_end(&mut bytes)?;
                let fits = |(other, _): &mut ((u64, u64), Vec<u8>)| *other == link;
                let names = waiting.extract_if(.., fits).map(|(_, name)| name);
                for name in names.chain([name]) {
                    sink.offer(&name, kind, size, &mut &bytes[..])?;
                }
            }
            _ => sink.offer(&name, kind, size, &mut data)?,
        }
        if sink.is_done() {
            return Ok(());
        }
        // Also where the member was taken whole: then there is nothing left of it.
        let rest = data.limit();
        if io::copy(&mut data, &mut io::sink())? != rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        archive.position += size;
        archive.align()?;
    }
    match waiting.into_iter().next() {
        Some((_, name)) => Err(CpioError::Link(String::from_utf8_lossy(&name).into_owned())),
        None => Ok(()),
    }
}

fn kind(mode: u64) -> Kind {
    match mode & 0o170_000 {
        _ if is_regular(mode) => Kind::Regular,
        0o120_000 => Kind::Symlink,
        0o040_000 => Kind::Other('d'),
        0o060_000 => Kind::Other('b'),
        0o020_000 => Kind::Other('c'),
        0o010_000 => Kind::Other('p'),
        0o140_000 => Kind::Other('s'),
        _ => Kind::Other('?'),
    }
}

struct Archive<'a, R> {
    reader: R,
    /// Bytes read.
    position: u64,
    header: &'a Header,
    /// Read when the first member refers to it.
    files: Option<Files<'a>>,
}

impl<R: Read> Archive<'_, R> {
    /// The next member, whose data is then to be read; `None` at the trailer.
    fn next(&mut self, limits: &Limits) -> Result<Option<Member>, CpioError> {
        let mut header = [0; NEWC];
        self.fill(&mut header[..STRIPPED])?;
        match &header[..MAGIC] {
            b"07070X" => self.stripped(&header).map(Some),
            b"070701" | b"070702" => {
                self.fill(&mut header[STRIPPED..])?;
                self.newc(&header, limits)
            }
            other => Err(CpioError::Magic(String::from_utf8_lossy(other).into_owned())),
        }
    }

    fn newc(&mut self, header: &[u8; NEWC], limits: &Limits) -> Result<Option<Member>, CpioError> {
        let field = |index: usize| hex(&header[MAGIC + 8 * index..][..8]);
        let (mode, links, size, length) = (field(1)?, field(4)?, field(6)?, field(11)?);
        let identity = (field(7)? << 32 | field(8)?, field(0)?);
        if length > limits.name as u64 + 1 {
            return Err(MembersError::Name(limits.name).into());
        }
        let mut name = vec![0; length as usize];
        self.fill(&mut name)?;
        self.align()?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(CpioError::Header);
        }
        if name == TRAILER {
            return Ok(None);
        }
        Ok(Some(Member { name, mode, size, link: (links > 1).then_some(identity) }))
    }

    fn stripped(&mut self, header: &[u8; NEWC]) -> Result<Member, CpioError> {
        let index = hex(&header[MAGIC..STRIPPED])?;
        self.align()?;
        let files = match &mut self.files {
            Some(files) => files,
            none => none.insert(Files::of(self.header)?),
        };
        let file = usize::try_from(index).ok().and_then(|index| files.get(index));
        let file = file.ok_or(CpioError::File(index))?;
        let has_data = file.has_data && matches!(kind(file.mode), Kind::Regular | Kind::Symlink);
        let size = if has_data { file.size } else { 0 };
        Ok(Member { name: file.name, mode: file.mode, size, link: file.link })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Members and their data begin at multiples of four.
    fn align(&mut self) -> io::Result<()> {
        let padding = self.position.next_multiple_of(4) - self.position;
        self.fill(&mut [0; 4][..padding as usize])
    }
}

fn hex(digits: &[u8]) -> Result<u64, CpioError> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(CpioError::Header);
    }
    let text = std::str::from_utf8(digits).map_err(|_| CpioError::Header)?;
    u64::from_str_radix(text, 16).map_err(|_| CpioError::Header)
}
