//! The outer container of a .deb: an ar archive of three members, see deb(5). Sixty lines of our
//! own, since a reader for this needs no index, no long names and no writing.

use std::io::{self, Read};

pub(super) const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;
/// Members of a Debian package looked at before `data.tar`: three, and some room for what dpkg would skip.
pub(super) const MAX_MEMBERS: usize = 16;

/// Reads members one after the other.
#[derive(Debug)]
pub(super) struct ArReader<R> {
    reader: R,
    /// Bytes of the current member that were not read yet, and its padding.
    rest: u64,
    padding: u64,
}

/// Why bytes are not an ar archive.
#[derive(Debug, thiserror::Error)]
pub enum ArError {
    /// Reading failed, or the file ends in the middle of something.
    #[error("the ar archive cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("not an ar archive: it begins with {0:02x?}")]
    Magic([u8; 8]),
    /// A header that cannot be read.
    #[error("the ar archive has a malformed member header")]
    Header,
}

impl<R: Read> ArReader<R> {
    pub(super) fn new(mut reader: R) -> Result<Self, ArError> {
        let mut magic = [0; 8];
        reader.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(ArError::Magic(magic));
        }
        Ok(Self { reader, rest: 0, padding: 0 })
    }

    /// The name of the next member, whose bytes are then read through [`ArReader::member`].
    pub(super) fn next(&mut self) -> Result<Option<String>, ArError> {
        let skip = self.rest + self.padding;
        let skipped = io::copy(&mut self.reader.by_ref().take(skip), &mut io::sink())?;
        // The padding of the last member may be missing.
        if skipped < self.rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut header = Vec::with_capacity(HEADER);
        match self.reader.by_ref().take(HEADER as u64).read_to_end(&mut header)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
        let text = |range| std::str::from_utf8(&header[range]).ok().map(str::trim_end);
        let (Some(name), Some(size), b"`\n") = (text(0..16), text(48..58), &header[58..]) else {
            return Err(ArError::Header);
        };
        if name.is_empty() || !size.bytes().all(|c| c.is_ascii_digit()) {
            return Err(ArError::Header);
        }
        self.rest = size.parse().map_err(|_| ArError::Header)?;
        self.padding = self.rest % 2;
        Ok(Some(name.strip_suffix('/').unwrap_or(name).to_owned()))
    }

    /// What is read from, which is at the beginning of a member after [`ArReader::next`].
    pub(super) fn inner(&self) -> &R {
        &self.reader
    }

    /// Bytes of the current member that were not read yet.
    pub(super) fn rest(&self) -> u64 {
        self.rest
    }

    /// The bytes of the current member.
    pub(super) fn member(&mut self) -> Member<'_, R> {
        Member(self)
    }
}

pub(super) struct Member<'a, R>(&'a mut ArReader<R>);

impl<R: Read> Read for Member<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.rest).unwrap_or(usize::MAX).min(out.len());
        let read = self.0.reader.read(&mut out[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.rest -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::deb::tests::ar, *};
    use proptest::prelude::*;

    fn members(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArError> {
        let mut reader = ArReader::new(bytes)?;
        let mut members = Vec::new();
        while let Some(name) = reader.next()? {
            let mut bytes = Vec::new();
            reader.member().read_to_end(&mut bytes)?;
            members.push((name, bytes));
        }
        Ok(members)
    }

    #[test]
    fn says_what_is_wrong() {
        let good = ar(&[("debian-binary", b"2.0\n"), ("x", b"odd")]);
        let mut negative = good.clone();
        negative[8 + 48..8 + 50].copy_from_slice(b"-4");
        let mut no_end = good.clone();
        no_end[8 + 58] = b' ';
        let cases = [&b"\x7fELF\x02\x01\x01\0\0"[..], b"!<arch>", &negative, &no_end, &good[..40]];
        let errors: Vec<_> = cases.map(|case| members(case).unwrap_err().to_string()).into();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        not an ar archive: it begins with [7f, 45, 4c, 46, 02, 01, 01, 00]
        the ar archive cannot be read: failed to fill whole buffer
        the ar archive has a malformed member header
        the ar archive has a malformed member header
        the ar archive cannot be read: unexpected end of file
        "#);
        // The last byte is padding, which some writers leave out.
        assert_eq!(members(&good[..good.len() - 1]).unwrap(), members(&good).unwrap());
    }

    proptest! {
        #[test]
        fn reads_what_was_written(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5)) {
            let written: Vec<_> = contents.iter().map(|bytes| ("name", bytes.as_slice())).collect();
            let read = members(&ar(&written)).unwrap();
            prop_assert_eq!(read.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), contents);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in any::<bool>()) {
            let mut bytes = bytes;
            if start {
                bytes.splice(0..0, *MAGIC);
            }
            let _ = members(&bytes);
        }
    }
}
