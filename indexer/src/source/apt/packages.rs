//! Packages indices: from the bytes of an index to the few paragraphs that are about kernels.
//!
//! An index has up to 70 MB of which kernels are a thousandth, so paragraphs are told apart by a
//! search for empty lines and only those of kernels are taken to pieces. Reads as a stream: memory
//! is bounded by the longest paragraph.

use super::release::Compression;
use crate::source::{kernel::Package, version::Version};
use memchr::memmem;
use std::io::{self, Read};

/// Most bytes of an index after decompression.
pub const MAX_INDEX: u64 = 512 << 20;
/// Longest paragraph, in bytes. Debian's are below 200 KiB.
const MAX_PARAGRAPH: usize = 4 << 20;
/// Most packages kept from one index; Debian's have some 200.
const MAX_KEPT: usize = 100_000;
const CHUNK: usize = 1 << 20;

/// Why an index is refused.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It cannot be read or decompressed.
    #[error("the index cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Longer than [`MAX_INDEX`].
    #[error("the index has more than {max} bytes", max = MAX_INDEX)]
    TooLong,
    /// A paragraph without an end.
    #[error("the index has a paragraph of more than {max} bytes", max = MAX_PARAGRAPH)]
    Paragraph,
    /// More kernel packages than any archive has.
    #[error("the index lists more than {max} kernel packages", max = MAX_KEPT)]
    TooMany,
    /// A kernel package that cannot be fetched as it is described.
    #[error("the index describes {package} with the {field} {found:?}, expected {expected}")]
    Field {
        /// The package's name.
        package: String,
        /// Of the paragraph.
        field: &'static str,
        /// Its value; empty where there is none.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
}

/// The decompressed bytes of an index; reading ends with an error beyond [`MAX_INDEX`].
pub fn decompress<'a>(
    reader: impl Read + 'a,
    compression: Compression,
) -> Result<Box<dyn Read + 'a>, IndexError> {
    Ok(match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Compression::Xz => Box::new(crate::package::xz_decoder(reader)?),
    })
}

/// The packages whose name begins with `prefix`, in the order of the index.
pub fn read(reader: impl Read, prefix: &str) -> Result<Vec<Package>, IndexError> {
    read_chunks(reader, prefix, CHUNK)
}

fn read_chunks(
    mut reader: impl Read,
    prefix: &str,
    chunk: usize,
) -> Result<Vec<Package>, IndexError> {
    let mut kept = Vec::new();
    let mut buffer = Vec::with_capacity(2 * chunk);
    let mut total = 0;
    loop {
        let before = buffer.len();
        let read = reader.by_ref().take(chunk as u64).read_to_end(&mut buffer)?;
        total += read as u64;
        if total > MAX_INDEX {
            return Err(IndexError::TooLong);
        }
        if read == 0 {
            break;
        }
        // An empty line may begin with the last byte of the chunk before.
        let tail = &buffer[before.saturating_sub(1)..];
        if let Some(end) = memmem::rfind(tail, b"\n\n") {
            let end = before.saturating_sub(1) + end + 1;
            scan(&buffer[..end], prefix, &mut kept)?;
            buffer.drain(..end);
        }
        if buffer.len() > MAX_PARAGRAPH {
            return Err(IndexError::Paragraph);
        }
    }
    scan(&buffer, prefix, &mut kept)?;
    Ok(kept)
}

/// Keeps what is wanted of whole paragraphs.
fn scan(text: &[u8], prefix: &str, kept: &mut Vec<Package>) -> Result<(), IndexError> {
    let mut from = 0;
    let ends = memmem::find_iter(text, b"\n\n").map(|end| end + 1).chain([text.len()]);
    for end in ends {
        let paragraph = &text[from..end];
        from = end;
        if let Some(package) = parse(paragraph, prefix)? {
            if kept.len() == MAX_KEPT {
                return Err(IndexError::TooMany);
            }
            kept.push(package);
        }
    }
    Ok(())
}

fn parse(paragraph: &[u8], prefix: &str) -> Result<Option<Package>, IndexError> {
    let Some(name) = value(paragraph, "Package") else { return Ok(None) };
    if !name.starts_with(prefix.as_bytes()) {
        return Ok(None);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(&value[..value.len().min(200)]).into_owned();
    let wrong = |field, found: &[u8], expected| IndexError::Field {
        package: text(name),
        field,
        found: text(found),
        expected,
    };
    // All that is kept is printable ASCII, so that it can stand in URLs, messages and the store.
    let ascii = |field: &'static str| {
        let value = value(paragraph, field).unwrap_or_default();
        match std::str::from_utf8(value) {
            Ok(value) if value.bytes().all(|c| matches!(c, b' '..=b'~')) => Ok(value.to_owned()),
            _ => Err(wrong(field, value, "printable ASCII")),
        }
    };
    let needed = |field: &'static str| match ascii(field)? {
        value if value.is_empty() => Err(wrong(field, b"", "a value")),
        value => Ok(value),
    };
    let filename = needed("Filename")?;
    if !is_plain_path(&filename) {
        return Err(wrong("Filename", filename.as_bytes(), "a path below the archive's root"));
    }
    let size = needed("Size")?;
    let size = size.parse().map_err(|_| wrong("Size", size.as_bytes(), "a number"))?;
    let sha256 = needed("SHA256")?;
    let sha256 = nfdrop_db::hex::decode(&sha256)
        .and_then(|hash| hash.try_into().ok())
        .ok_or_else(|| wrong("SHA256", sha256.as_bytes(), "64 lower-case hex digits"))?;
    Ok(Some(Package {
        name: needed("Package")?,
        version: Version::dpkg(needed("Version")?),
        architecture: needed("Architecture")?,
        depends: ascii("Depends")?,
        path: filename,
        size: Some(size),
        sha256: Some(sha256),
        signature: None,
    }))
}

/// The value of the first field of this name, names compared without case. Kernel packages fold none
/// of the fields that are read here, so lines that continue one are left out.
fn value<'a>(paragraph: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let lines = paragraph.split(|c| *c == b'\n');
    let mut values = lines.filter_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    });
    values.next()
}

/// Whether joining `path` to a URL leads below that URL.
fn is_plain_path(path: &str) -> bool {
    let odd = |c: char| matches!(c, '\\' | '?' | '#' | ' ' | ':');
    !path.contains(odd) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARAGRAPH: &str = "Package: linux-image-x\nVersion: 1-1\nArchitecture: amd64\n\
        Depends: a, b (= 1)\nDescription: first\n .\n second\nFilename: pool/x_1-1.deb\nSize: 12\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";

    fn read_text(text: &str) -> Result<Vec<Package>, IndexError> {
        read(text.as_bytes(), "linux-")
    }

    #[test]
    fn keeps_kernel_packages_only() {
        let other = PARAGRAPH.replace("linux-image", "bash-linux-image");
        let late = PARAGRAPH.replace("Package: linux-image-x\n", "") + "package: linux-late\n";
        let text = format!("\n{other}\n{PARAGRAPH}\n\n{other}\n{late}\n{other}");
        let packages = read_text(&text).unwrap();
        let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["linux-image-x", "linux-late"]);
        let package = &packages[0];
        assert_eq!((package.depends.as_str(), package.size), ("a, b (= 1)", Some(12)));
        assert_eq!(package.path, "pool/x_1-1.deb");
        assert_eq!(package.sha256.unwrap()[..2], [0xe3, 0xb0]);
    }

    #[test]
    fn says_what_is_wrong() {
        let refused =
            |from: &str, to: &str| read_text(&PARAGRAPH.replace(from, to)).unwrap_err().to_string();
        let cases = [
            refused("pool/x_1-1.deb", "../../etc/passwd"),
            refused("pool/x_1-1.deb", "/pool/x"),
            refused("pool/x_1-1.deb", "pool/x?y"),
            refused("Filename: pool/x_1-1.deb\n", ""),
            refused("Size: 12", "Size: -12"),
            refused("e3b0", "E3B0"),
            refused("1-1\n", "1\u{e9}1\n"),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the index describes linux-image-x with the Filename "../../etc/passwd", expected a path below the archive's root
        the index describes linux-image-x with the Filename "/pool/x", expected a path below the archive's root
        the index describes linux-image-x with the Filename "pool/x?y", expected a path below the archive's root
        the index describes linux-image-x with the Filename "", expected a value
        the index describes linux-image-x with the Size "-12", expected a number
        the index describes linux-image-x with the SHA256 "E3B0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", expected 64 lower-case hex digits
        the index describes linux-image-x with the Version "1é1", expected printable ASCII
        "#);
        let endless = "Package: linux-x\n".repeat(MAX_PARAGRAPH / 16);
        assert!(matches!(read_text(&endless), Err(IndexError::Paragraph)));
    }

    proptest! {
        /// Wherever a chunk ends, the same packages come out.
        #[test]
        fn chunks_do_not_matter(chunk in 1usize..700, count in 1usize..6) {
            let text = format!("{PARAGRAPH}\n").repeat(count);
            let packages = read_chunks(text.as_bytes(), "linux-", chunk).unwrap();
            prop_assert_eq!(packages.len(), count);
        }

        #[test]
        fn never_panics(text in "(Package: linux-|Size: |\n|\n\n|[ -~\u{e9}]){0,60}") {
            let _ = read_text(&text);
        }

        #[test]
        fn plain_paths_stay_below(path in "[a-z./\\\\:?#%]{0,12}") {
            if is_plain_path(&path) {
                let base = reqwest::Url::parse("http://mirror.example/debian/").unwrap();
                prop_assert!(base.join(&path).unwrap().as_str().starts_with(base.as_str()));
            }
        }
    }
}
