//! An rpm as a stream: a lead that only says what it is, a header of signatures, a header that
//! describes the package, and a compressed cpio archive. See rpm's manual, `format_v4` and
//! `format_v6`. Three hundred lines of our own: the `rpm` crate reads the whole header into its own
//! types before it hands out a member, and bounds neither.

mod cpio;
mod files;
mod header;

pub use cpio::CpioError;
pub use header::HeaderError;

use super::{
    decoder::decoder,
    members::{KernelFiles, Limits, MembersError, Search, Sink, Wanted, bounded},
};
use header::Header;
pub(crate) use header::tag;
use nfdrop_db::Reason;
use std::io::{self, BufRead as _, BufReader, Read};

/// How the lead begins.
pub(super) const MAGIC: &[u8; 4] = b"\xed\xab\xee\xdb";
const LEAD: usize = 96;
/// The header of signatures is filled up to a multiple of this.
const ALIGNMENT: usize = 8;
/// How gzip begins.
const GZIP: &[u8; 2] = b"\x1f\x8b";

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum RpmError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("not an rpm: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// A format that is not known.
    #[error("the rpm has format {0}, expected 3, 4 or 6")]
    Format(u64),
    /// Sources.
    #[error("a source package, which holds no kernel")]
    Source,
    /// A header that is refused.
    #[error("the rpm's {which}: {error}")]
    Header {
        /// Which of the two.
        which: &'static str,
        /// Why.
        error: HeaderError,
    },
    /// Another archive than cpio.
    #[error("the rpm's archive has format {0:?}, expected \"cpio\"")]
    Archive(String),
    /// A compression that is not known.
    #[error("the rpm's archive is compressed with {0:?}, expected gzip, bzip2, xz, lzma or zstd")]
    Compression(String),
    /// Something in the archive is refused.
    #[error(transparent)]
    Cpio(#[from] CpioError),
}

impl From<MembersError> for RpmError {
    fn from(error: MembersError) -> Self {
        Self::Cpio(error.into())
    }
}

impl RpmError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        Reason::MalformedPackage
    }
}

/// What is in front of the archive.
pub(crate) struct Headers {
    /// Signatures and digests.
    pub(crate) signatures: Header,
    /// The package's description.
    pub(crate) main: Header,
}

impl Headers {
    /// Reads up to where the archive begins.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Self, RpmError> {
        let mut lead = [0; LEAD];
        reader.read_exact(&mut lead[..MAGIC.len()])?;
        if !lead.starts_with(MAGIC) {
            return Err(RpmError::Magic([lead[0], lead[1], lead[2], lead[3]]));
        }
        reader.read_exact(&mut lead[MAGIC.len()..])?;
        if !matches!(lead[4], 3 | 4) {
            return Err(RpmError::Format(lead[4].into()));
        }
        if lead[6..8] != [0, 0] {
            return Err(RpmError::Source);
        }
        let refused = |which| move |error| RpmError::Header { which, error };
        let signatures = Header::read(reader).map_err(refused("signature header"))?;
        let length = signatures.raw().len();
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        reader.read_exact(&mut [0; ALIGNMENT][..padding])?;
        let main = Header::read(reader).map_err(refused("header"))?;
        match main.numbers(tag::RPM_FORMAT).map_err(refused("header"))?.as_deref() {
            None | Some([4 | 6]) => Ok(Self { signatures, main }),
            Some(other) => Err(RpmError::Format(other.first().copied().unwrap_or(0))),
        }
    }

    fn text(&self, tag: u32) -> Result<Option<&str>, RpmError> {
        self.main.string(tag).map_err(|error| RpmError::Header { which: "header", error })
    }
}

/// Takes the wanted kernel files out of an rpm. The reader should be cheap to read from: a file.
pub fn kernel_files(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, RpmError> {
    let mut search = Search::new(wanted, limits);
    offer(reader, limits, &mut search)?;
    Ok(search.finish().map_err(CpioError::from)?)
}

/// Offers the files of an rpm to a sink until that has enough.
pub(super) fn offer(
    reader: impl Read,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), RpmError> {
    let mut reader = BufReader::new(reader);
    let headers = Headers::read(&mut reader)?;
    match headers.text(tag::PAYLOAD_FORMAT)? {
        None | Some("cpio") => {}
        Some(other) => return Err(RpmError::Archive(other.to_owned())),
    }
    let suffix = match headers.text(tag::PAYLOAD_COMPRESSOR)? {
        Some("gzip") => ".gz",
        Some("bzip2") => ".bz2",
        Some("xz") => ".xz",
        Some("lzma") => ".lzma",
        Some("zstd") => ".zst",
        // rpm takes it for gzip, whose reader hands on what is not compressed.
        None if reader.fill_buf()?.starts_with(GZIP) => ".gz",
        None => "",
        Some(other) => return Err(RpmError::Compression(other.to_owned())),
    };
    let Some(archive) = decoder(suffix, reader) else {
        return Err(RpmError::Compression(suffix.to_owned()));
    };
    bounded(archive?, limits, |mut archive| {
        Ok(cpio::walk(&mut archive, &headers.main, limits, sink)?)
    })
}

#[cfg(test)]
pub(crate) mod tests;
