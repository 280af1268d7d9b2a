//! Decompression to memory with a limit on the result. What a file is compressed with is told by
//! its first bytes, never by its name, and a limit holds however little the input is: a package
//! that claims to be a kernel must not fill the machine's memory.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Read},
};

/// Largest result accepted where nothing says otherwise, in bytes: four times the largest
/// distribution kernel.
pub const MAX_BYTES: usize = 256 << 20;

/// Memory the xz decoder may use: its largest preset needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// log2 of the largest window a zstd decoder accepts: what `zstd --ultra -22` makes, with which
/// kernels and modules are compressed.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Uncompressed size of a full block of the legacy lz4 framing.
const LZ4_BLOCK: usize = 8 << 20;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not, or with something unheard of.
    Plain,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// gzip.
    Gzip,
    /// The legacy framing of lz4, which kernel images have and modules have not.
    Lz4Legacy,
    /// bzip2: not supported.
    Bzip2,
    /// lzma of before xz: not supported.
    Lzma,
    /// lzop: not supported.
    Lzo,
    /// lz4's later framing: not supported.
    Lz4Frame,
}

/// Why bytes cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// More comes out than is accepted.
    #[error("{compression} data of more than {limit} bytes")]
    TooLarge {
        /// What it is compressed with.
        compression: Compression,
        /// Most bytes accepted.
        limit: usize,
    },
    /// The decoder refuses it.
    #[error("broken {compression} data: {message}")]
    Broken {
        /// What it is compressed with.
        compression: Compression,
        /// As the decoder says it.
        message: String,
    },
    /// Nothing here decodes it.
    #[error("compressed with {0}, which is not supported: decompress it first")]
    Unsupported(Compression),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "uncompressed",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4Legacy => "legacy lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Lz4Frame => "lz4",
        })
    }
}

impl Compression {
    /// What the first bytes say.
    pub fn of(bytes: &[u8]) -> Self {
        const MAGIC: &[(&[u8], Compression)] = &[
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
            (b"\x04\x22\x4d\x18", Compression::Lz4Frame),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\x89LZO\0\r\n\x1a\n", Compression::Lzo),
        ];
        let known = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
        known.map_or(Self::Plain, |(_, compression)| *compression)
    }
}

/// The content of a compressed file, or the bytes themselves if they are not compressed; at most
/// `limit` bytes. What follows the first stream is ignored.
pub fn decompress(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, CompressError> {
    decompress_sized(bytes, limit, 0)
}

/// As [`decompress`], for an expected size, which saves time and is not relied on.
pub(super) fn decompress_sized(
    bytes: &[u8],
    limit: usize,
    expected: usize,
) -> Result<Cow<'_, [u8]>, CompressError> {
    let compression = Compression::of(bytes);
    let broken =
        |error: io::Error| CompressError::Broken { compression, message: error.to_string() };
    let mut out = Vec::with_capacity(expected.min(limit).saturating_add(1));
    // One byte more than is allowed tells that there is more.
    let most = (limit as u64).saturating_add(1);
    match compression {
        Compression::Plain => return Ok(Cow::Borrowed(bytes)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0);
            let stream = stream.map_err(|error| broken(error.into()))?;
            let decoder = liblzma::read::XzDecoder::new_stream(bytes, stream);
            decoder.take(most).read_to_end(&mut out).map_err(broken)?;
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(bytes).map_err(broken)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(broken)?;
            decoder.take(most).read_to_end(&mut out).map_err(broken)?;
        }
        Compression::Gzip => {
            let decoder = flate2::bufread::GzDecoder::new(bytes);
            decoder.take(most).read_to_end(&mut out).map_err(broken)?;
        }
        Compression::Lz4Legacy => lz4_legacy(bytes, limit, &mut out)?,
        Compression::Bzip2 | Compression::Lzma | Compression::Lzo | Compression::Lz4Frame => {
            return Err(CompressError::Unsupported(compression));
        }
    }
    if out.len() > limit {
        return Err(CompressError::TooLarge { compression, limit });
    }
    Ok(Cow::Owned(out))
}

/// Magic, then blocks of u32 compressed size and data; the magic may come again between blocks.
fn lz4_legacy(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    const MAGIC: u32 = 0x184c_2102;
    let compression = Compression::Lz4Legacy;
    let broken = |message: String| CompressError::Broken { compression, message };
    let mut rest = bytes;
    let mut filled = 0;
    while let Some((word, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*word);
        rest = after;
        if size == MAGIC {
            continue;
        }
        let Some((block, after)) = rest.split_at_checked(size as usize) else {
            let left = rest.len();
            return Err(broken(format!("a block of {size} bytes where {left} are left")));
        };
        rest = after;
        // What a block leaves of its room is the next one's: clearing it anew for each would take an
        // hour for a few megabytes of blocks that hold nothing.
        if out.len() < filled + LZ4_BLOCK {
            out.resize(filled + LZ4_BLOCK, 0);
        }
        filled += lz4_flex::block::decompress_into(block, &mut out[filled..])
            .map_err(|error| broken(error.to_string()))?;
        if filled > limit {
            return Err(CompressError::TooLarge { compression, limit });
        }
    }
    out.truncate(filled);
    match rest {
        [] => Ok(()),
        _ => Err(broken(format!("{} bytes where a block's size should be", rest.len()))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// The bytes in the given compression.
    pub(in crate::image) fn compress(bytes: &[u8], with: Compression) -> Vec<u8> {
        match with {
            Compression::Xz => liblzma::encode_all(bytes, 1).unwrap(),
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Lz4Legacy => {
                let mut out = b"\x02\x21\x4c\x18".to_vec();
                for block in bytes.chunks(LZ4_BLOCK) {
                    let block = lz4_flex::block::compress(block);
                    out.extend((block.len() as u32).to_le_bytes());
                    out.extend(block);
                }
                out
            }
            other => panic!("{other} is not written"),
        }
    }

    const ALL: [Compression; 4] =
        [Compression::Xz, Compression::Zstd, Compression::Gzip, Compression::Lz4Legacy];

    #[test]
    fn gives_back_what_was_compressed() {
        let bytes: Vec<u8> = (0..LZ4_BLOCK + 1000).map(|i| ((i * i) >> 7) as u8).collect();
        for with in ALL {
            let packed = compress(&bytes, with);
            assert_eq!(Compression::of(&packed), with);
            assert!(decompress(&packed, bytes.len()).unwrap() == bytes, "{with}");
            let limit = bytes.len() - 1;
            assert_eq!(
                decompress(&packed, limit),
                Err(CompressError::TooLarge { compression: with, limit })
            );
        }
        assert_eq!(decompress(b"plain", 3), Ok(Cow::Borrowed(&b"plain"[..])));
    }

    #[test]
    fn blocks_that_hold_nothing_take_no_time() {
        // Half a million of them: clearing 8 MiB for each is four terabytes.
        let block = lz4_flex::block::compress(&[]);
        let block = [&(block.len() as u32).to_le_bytes(), &block[..]].concat();
        let packed = [&b"\x02\x21\x4c\x18"[..], &block.repeat(500_000)].concat();
        assert_eq!(decompress(&packed, 10), Ok(Cow::Owned(vec![])));
    }

    #[test]
    fn a_cut_is_an_error() {
        for with in ALL {
            let packed = compress(&[7; 1000], with);
            for end in 8..packed.len() {
                let result = decompress(&packed[..end], 1000);
                assert!(matches!(result, Err(CompressError::Broken { .. })), "{with} cut at {end}");
            }
        }
    }

    #[test]
    fn names_what_is_not_supported() {
        for (bytes, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\x5d\0\0\0\x04", "lzma")] {
            let error = decompress(bytes, 10).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_neither_panics_nor_grows(
            with in 0..ALL.len(), noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0..200usize, flip in 1..=255u8,
        ) {
            let mut packed = compress(&noise, ALL[with]);
            let at = at % packed.len();
            packed[at] ^= flip;
            if let Ok(out) = decompress(&packed, 300) {
                prop_assert!(out.len() <= 300);
            }
        }
    }
}
