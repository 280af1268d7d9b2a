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
    /// bzip2.
    Bzip2,
    /// lzma of before xz.
    Lzma,
    /// lzop.
    Lzo,
    /// lz4's later framing, which kernels do not have: not supported.
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
        Compression::Bzip2 => {
            let decoder = bzip2::bufread::BzDecoder::new(bytes);
            decoder.take(most).read_to_end(&mut out).map_err(broken)?;
        }
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY);
            let stream = stream.map_err(|error| broken(error.into()))?;
            let decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
            decoder.take(most).read_to_end(&mut out).map_err(broken)?;
        }
        Compression::Lzo => lzop(bytes, limit, &mut out)?,
        Compression::Lz4Frame => return Err(CompressError::Unsupported(compression)),
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

/// What lzop writes, as `lib/decompress_unlzo.c` reads it: magic, { u16 version; u16 library; from
/// 0.940: u16 needed; u8 method; from 0.940: u8 level; u32 flags; by flag u32 filter; u32 mode; u32
/// time; from 0.940: u32 time; u8 length and a name; u32 checksum }, then blocks { u32 size; u32
/// compressed size; by flags u32 checksums; data } up to one of size 0. All big-endian. Checksums are
/// not compared: the object has to make sense.
fn lzop(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CompressError> {
    const HAS_FILTER: u32 = 0x800;
    const OF_CONTENT: [u32; 2] = [0x1, 0x100];
    const OF_DATA: [u32; 2] = [0x2, 0x200];
    let compression = Compression::Lzo;
    let broken = |message: &str| CompressError::Broken { compression, message: message.to_owned() };
    let mut rest = bytes;
    let mut take = |len: usize| {
        let (taken, after) = rest.split_at_checked(len).ok_or_else(|| broken("it ends early"))?;
        rest = after;
        Ok::<_, CompressError>(taken)
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
    take(9)?;
    let new = number(take(2)?) >= 0x940;
    take(if new { 2 + 2 + 1 + 1 } else { 2 + 1 })?;
    let flags = number(take(4)?);
    take(if flags & HAS_FILTER != 0 { 4 } else { 0 })?;
    take(if new { 12 } else { 8 })?;
    let name = number(take(1)?) as usize;
    take(name + 4)?;
    let checksums = |of: [u32; 2]| 4 * of.iter().filter(|flag| flags & **flag != 0).count();
    loop {
        let size = number(take(4)?) as usize;
        if size == 0 {
            return Ok(());
        }
        let packed = number(take(4)?) as usize;
        take(checksums(OF_CONTENT))?;
        if packed < size {
            take(checksums(OF_DATA))?;
        }
        let data = take(packed)?;
        let start = out.len();
        if start + size > limit {
            return Err(CompressError::TooLarge { compression, limit });
        }
        if packed == size {
            out.extend(data);
            continue;
        }
        out.resize(start + size, 0);
        let filled = lzo::decompress_into(data, &mut out[start..]);
        let filled = filled.map_err(|error| broken(&error.to_string()))?;
        if filled != size {
            return Err(broken("a block is shorter than it says"));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes in the given compression.
    pub(in crate::image) fn compress(bytes: &[u8], with: Compression) -> Vec<u8> {
        let all = |encoder: &mut dyn Read| {
            let mut out = Vec::new();
            encoder.read_to_end(&mut out).unwrap();
            out
        };
        match with {
            Compression::Xz => liblzma::encode_all(bytes, 1).unwrap(),
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
            Compression::Gzip => {
                all(&mut flate2::bufread::GzEncoder::new(bytes, flate2::Compression::fast()))
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
            Compression::Bzip2 => {
                all(&mut bzip2::bufread::BzEncoder::new(bytes, bzip2::Compression::fast()))
            }
            Compression::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
                all(&mut liblzma::bufread::XzEncoder::new_stream(bytes, stream))
            }
            Compression::Lzo => {
                // Blocks of literals only: 17 + their number, they themselves, the end.
                let mut out = b"\x89LZO\0\r\n\x1a\n\x10\x30\x20\xa0\x09\x40\x01\x05".to_vec();
                out.extend([0, 0, 0, 1].iter().chain(&[0; 12]).chain(b"\x02vm").chain(&[0; 4]));
                for block in bytes.chunks(200) {
                    let packed = [&[17 + block.len() as u8], block, &[0x11, 0, 0]].concat();
                    // As long as what is in it, or longer, a block is not compressed.
                    let size = block.len() as u32;
                    out.extend([size, size, 0].map(u32::to_be_bytes).as_flattened());
                    out.extend(block);
                    assert!(packed.len() > block.len());
                }
                out.extend([0; 4]);
                out
            }
            other => panic!("{other} is not written"),
        }
    }

    const ALL: [Compression; 7] = [
        Compression::Xz,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Lz4Legacy,
        Compression::Bzip2,
        Compression::Lzma,
        Compression::Lzo,
    ];

    /// What `lzop -9` makes of the ten digits, thirty times.
    const LZOP: &[u8] =
        b"\x89LZO\0\x0d\x0a\x1a\x0a\x10@ \xa0\x09@\x03\x09\x03\0\0\x01\0\0\x81\xa4k\x04\xc7t\0\
        \0\0\0\x06in.txtX\xb5\x06\xa4\0\0\x01,\0\0\0\x13$\xe4=\x87\x1b0123456789 \0\x02$\0\
        \x11\0\0\0\0\0\0";

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
            for end in 9..packed.len() {
                let result = decompress(&packed[..end], 1000);
                assert!(matches!(result, Err(CompressError::Broken { .. })), "{with} cut at {end}");
            }
        }
    }

    #[test]
    fn what_lzop_writes() {
        assert_eq!(decompress(LZOP, 300).unwrap(), b"0123456789".repeat(30));
        let limit = 299;
        let compression = Compression::Lzo;
        let error = CompressError::TooLarge { compression, limit };
        assert_eq!(decompress(LZOP, limit), Err(error));
        for end in 9..LZOP.len() {
            let result = decompress(&LZOP[..end], 300);
            assert!(matches!(result, Err(CompressError::Broken { .. })), "cut at {end}");
        }
    }

    #[test]
    fn names_what_is_not_supported() {
        let error = decompress(b"\x04\x22\x4d\x18abcd", 10).unwrap_err();
        assert_eq!(error, CompressError::Unsupported(Compression::Lz4Frame));
        assert!(error.to_string().contains("lz4"), "{error}");
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
            // What no longer says what it is compressed with comes back as it is.
            if let Ok(Cow::Owned(out)) = decompress(&packed, 300) {
                prop_assert!(out.len() <= 300);
            }
        }
    }
}
