//! Decompressors with bounded memory, chosen by the name of a member.

use std::io::{self, BufRead, BufReader, Read};

/// Compressed bytes are handed over in pieces of this size.
const INPUT: usize = 256 << 10;
/// Most memory the xz decoder may take: xz -9 needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// log2 of the largest window of zstd: 128 MiB, what `zstd --ultra -22` makes.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Decompresses xz, several streams one after the other included.
pub(crate) fn xz_decoder(
    reader: impl Read,
) -> io::Result<liblzma::bufread::XzDecoder<impl BufRead>> {
    let stream =
        liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
    let reader = BufReader::with_capacity(INPUT, reader);
    Ok(liblzma::bufread::XzDecoder::new_stream(reader, stream))
}

/// The suffix that a file beginning with these bytes should have; none for what is not compressed in a
/// way that is known.
pub(crate) fn suffix_of(start: &[u8]) -> &'static str {
    let starts: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", ".gz"),
        (b"\xfd7zXZ\0", ".xz"),
        (b"\x28\xb5\x2f\xfd", ".zst"),
        (b"BZh", ".bz2"),
    ];
    starts.iter().find(|(magic, _)| start.starts_with(magic)).map_or("", |(_, suffix)| suffix)
}

/// Decompresses what a file with this suffix holds; `None` for a suffix that is not known.
pub(crate) fn decoder<'a>(
    suffix: &str,
    reader: impl Read + 'a,
) -> Option<io::Result<Box<dyn Read + 'a>>> {
    Some(match suffix {
        "" => Ok(Box::new(reader)),
        ".xz" => xz_decoder(reader).map(|decoder| Box::new(decoder) as Box<dyn Read>),
        ".lzma" => liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY)
            .map_err(io::Error::from)
            .map(|stream| {
                let reader = BufReader::with_capacity(INPUT, reader);
                Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream)) as Box<dyn Read>
            }),
        ".bz2" => Ok(Box::new(bzip2::read::MultiBzDecoder::new(reader))),
        ".gz" => Ok(Box::new(flate2::read::MultiGzDecoder::new(reader))),
        ".zst" => zstd::stream::read::Decoder::new(reader).and_then(|mut decoder| {
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Box::new(decoder) as Box<dyn Read>)
        }),
        _ => return None,
    })
}
