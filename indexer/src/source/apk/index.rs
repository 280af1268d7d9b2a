//! A repository's index, `APKINDEX.tar.gz`, behind its signatures: a tar archive with the text
//! `APKINDEX`, a paragraph for every package, of lines that begin with one letter and a colon.

use crate::{
    package::{ApkError, Kind, Limits, MembersError, apk, is_word, tarball},
    source::{kernel::Package, version::Version},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::MultiGzDecoder;
use std::{
    io,
    ops::ControlFlow::{Break, Continue},
};

/// What is looked at of an index. Alpine's largest has 25,000 packages, in 15 MiB.
const LIMITS: Limits = Limits { entries: 100, member: 256 << 20, total: 300 << 20, name: 1024 };

/// Why an index is refused.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Its signatures cannot be told from the rest.
    #[error(transparent)]
    Streams(#[from] ApkError),
    /// Something in the archive is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// It cannot be read.
    #[error("the index cannot be read: {0}")]
    Read(#[from] io::Error),
    /// There is no `APKINDEX`.
    #[error("the archive has no file APKINDEX")]
    NoIndex,
    /// A kernel package that cannot be fetched as it is described.
    #[error(
        "the index describes {package} with the field {field} as {found:?}, expected {expected}"
    )]
    Field {
        /// The package's name.
        package: String,
        /// Its letter.
        field: char,
        /// Its value; empty where there is none.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
}

/// The packages of these names in what is signed of an index, in its order.
pub fn read(signed: &[u8], names: &[&str]) -> Result<Vec<Package>, IndexError> {
    read_within(signed, names, &LIMITS)
}

/// The same, with other limits.
pub fn read_within(
    signed: &[u8],
    names: &[&str],
    limits: &Limits,
) -> Result<Vec<Package>, IndexError> {
    let mut text = None;
    let decoder = MultiGzDecoder::new(signed);
    tarball::walk(decoder, limits, |path, kind, size, bytes| {
        if path != b"APKINDEX" || kind != Kind::Regular {
            return Ok::<_, IndexError>(Continue(()));
        }
        if size > limits.member {
            let name = "APKINDEX".to_owned();
            return Err(MembersError::Member { name, found: size, max: limits.member }.into());
        }
        let mut whole = Vec::new();
        bytes.read_to_end(&mut whole)?;
        text = Some(whole);
        Ok(Break(()))
    })?;
    let text = text.ok_or(IndexError::NoIndex)?;
    // A description may be in any encoding, what is used here is ASCII.
    let text = String::from_utf8_lossy(&text);
    let packages = text.split("\n\n").filter_map(|paragraph| package(paragraph, names));
    packages.collect()
}

fn package(paragraph: &str, names: &[&str]) -> Option<Result<Package, IndexError>> {
    let value = |field: char| {
        let of = |line: &&str| line.starts_with(field) && line[1..].starts_with(':');
        paragraph.lines().find(of).map(|line| &line[2..])
    };
    let name = value('P').filter(|name| names.contains(name))?;
    let wrong = |field, expected| {
        let found = value(field).unwrap_or_default().chars().take(200).collect();
        IndexError::Field { package: name.to_owned(), field, found, expected }
    };
    let word = |field, expected| {
        value(field).filter(|value| is_word(value)).ok_or_else(|| wrong(field, expected))
    };
    let read = || {
        let (version, arch) = (word('V', "a version")?, word('A', "an architecture")?);
        let size = value('S').and_then(|size| size.parse().ok());
        let hash = value('C').and_then(control_hash);
        Ok(Package {
            name: name.to_owned(),
            version: Version::apk(version),
            architecture: arch.to_owned(),
            depends: String::new(),
            path: format!("{name}-{version}.apk"),
            size: Some(size.ok_or_else(|| wrong('S', "a number of bytes"))?),
            sha256: None,
            signature: Some(
                hash.ok_or_else(|| wrong('C', "Q1 or Q2 and a hash in base64"))?.into(),
            ),
        })
    };
    Some(read())
}

/// Hash of a package's control stream: `Q1` is SHA-1, `Q2` SHA-256.
fn control_hash(text: &str) -> Option<Vec<u8>> {
    let (text, length) = match text.split_at_checked(2)? {
        ("Q1", text) => (text, 20),
        ("Q2", text) => (text, 32),
        _ => return None,
    };
    STANDARD.decode(text).ok().filter(|hash| hash.len() == length)
}

/// Signatures and what they are of.
pub fn take_apart(index: &[u8]) -> Result<apk::SignedIndex, IndexError> {
    Ok(apk::signed_index(index)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::apk::tests::gzip;
    use proptest::prelude::*;

    const TEXT: &str = "C:Q1p4IHqDzN6uqnJCgWMGpFO3y5QjE=\nP:linux-lts\nV:6.12.13-r0\nA:x86_64\n\
        S:98765432\nI:123456789\nT:Linux lts kernel\nU:https://www.kernel.org\nL:GPL-2.0-only\n\
        o:linux-lts\nt:1739000000\nD:initramfs-generator\n";

    /// As `apk index` makes it.
    fn index(text: &str) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, text) in [("DESCRIPTION", "v3.21.3"), ("APKINDEX", text)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        gzip(&archive.into_inner().unwrap())
    }

    const NAMES: &[&str] = &["linux-lts", "linux-virt"];

    #[test]
    fn reads_kernel_packages() {
        let other = "C:Q1p4IHqDzN6uqnJCgWMGpFO3y5QjE=\nP:linux-lts-dev\nV:6.12.13-r0\n";
        let virt = TEXT.replace("P:linux-lts", "P:linux-virt");
        let strong = format!("C:Q2{}", STANDARD.encode([7; 32]));
        let virt = virt.replace("C:Q1p4IHqDzN6uqnJCgWMGpFO3y5QjE=", &strong);
        let packages = read(&index(&format!("{TEXT}\n{other}\n{virt}\n")), NAMES).unwrap();
        let lines: Vec<_> = packages
            .iter()
            .map(|p| {
                let hash = p.signature.as_ref().map(|hash| nfdrop_db::hex::encode(hash));
                format!("{} {} {} {:?} {}", p.name, p.version, p.path, p.size, hash.unwrap())
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        linux-lts 6.12.13-r0 linux-lts-6.12.13-r0.apk Some(98765432) a78207a83ccdeaeaa7242816306a453b7cb94231
        linux-virt 6.12.13-r0 linux-virt-6.12.13-r0.apk Some(98765432) 0707070707070707070707070707070707070707070707070707070707070707
        "#);
    }

    #[test]
    fn says_what_is_wrong() {
        let with = |from: &str, to: &str| {
            read(&index(&TEXT.replace(from, to)), NAMES).unwrap_err().to_string()
        };
        let no_index = gzip(&tar::Builder::new(Vec::new()).into_inner().unwrap());
        let good = index(TEXT);
        let cases = [
            with("V:", "v:"),
            with("6.12.13-r0", "../6.12.13-r0"),
            with("A:x86_64", "A:x 8"),
            with("98765432", "-1"),
            with("Q1p4", "Q3p4"),
            with("Q1p4", "Q1"),
            with("Q1p4", "Q2p4"),
            read(&no_index, NAMES).unwrap_err().to_string(),
            read(&good[..good.len() / 2], NAMES).unwrap_err().to_string(),
            read_within(&good, NAMES, &Limits { member: 10, ..LIMITS }).unwrap_err().to_string(),
            read_within(&good, NAMES, &Limits { total: 10, ..LIMITS }).unwrap_err().to_string(),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the index describes linux-lts with the field V as "", expected a version
        the index describes linux-lts with the field V as "../6.12.13-r0", expected a version
        the index describes linux-lts with the field A as "x 8", expected an architecture
        the index describes linux-lts with the field S as "-1", expected a number of bytes
        the index describes linux-lts with the field C as "Q3p4IHqDzN6uqnJCgWMGpFO3y5QjE=", expected Q1 or Q2 and a hash in base64
        the index describes linux-lts with the field C as "Q1IHqDzN6uqnJCgWMGpFO3y5QjE=", expected Q1 or Q2 and a hash in base64
        the index describes linux-lts with the field C as "Q2p4IHqDzN6uqnJCgWMGpFO3y5QjE=", expected Q1 or Q2 and a hash in base64
        the archive has no file APKINDEX
        the index cannot be read: incomplete deflate stream
        APKINDEX has 196 bytes, expected at most 10
        the archive has more than 10 bytes when decompressed
        "#);
    }

    proptest! {
        #[test]
        fn never_panics(text in "([CPVAS]:(linux-lts|Q1|.{0,4})?\n{1,2}){0,9}") {
            let _ = read(&index(&text), NAMES);
        }
    }
}
