//! Bytes that can be read from any place: a file here, or one on a server that serves ranges.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt as _,
};

/// Something of known size that can be read from any place, by several threads at once.
pub trait RandomAccess: Sync {
    /// In bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads a part of it, which may be begun and not read to its end. Ends early where the part
    /// goes beyond the end.
    fn part(&self, range: Range<u64>) -> Box<dyn Read + Send + '_>;
}

impl RandomAccess for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn part(&self, range: Range<u64>) -> Box<dyn Read + Send + '_> {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.len());
        Box::new(self.get(place(range.start)..place(range.end)).unwrap_or_default())
    }
}

impl RandomAccess for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn part(&self, range: Range<u64>) -> Box<dyn Read + Send + '_> {
        Box::new(FilePart { file: self, range })
    }
}

/// Has a place of its own, unlike the file.
struct FilePart<'a> {
    file: &'a File,
    range: Range<u64>,
}

impl Read for FilePart<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = self.range.end.saturating_sub(self.range.start);
        let most = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        let read = self.file.read_at(&mut out[..most], self.range.start)?;
        self.range.start += read as u64;
        Ok(read)
    }
}
