//! A repository's database, `core.db`: a tar archive with a file `desc` for every package, whose fields
//! are a `%NAME%` and lines up to an empty one.

use crate::{
    package::{Kind, Limits, MembersError, PacmanError, pacman, tarball},
    source::{kernel::Package, pacman::is_file, version::Version},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    io::{self, Read},
    ops::ControlFlow::Continue,
};

/// What is looked at of a database. Arch's largest has 15,000 packages, in 60 MiB.
const LIMITS: Limits = Limits { entries: 1_000_000, member: 1 << 20, total: 1 << 30, name: 1024 };

/// Most kernel packages of a database; Arch's have two.
const MAX_PACKAGES: usize = 1000;

/// Why a database is refused.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// More kernel packages than any database has.
    #[error("the database has more than {max} kernel packages", max = MAX_PACKAGES)]
    TooMany,
    /// It is not an archive of the kinds that pacman reads.
    #[error(transparent)]
    Archive(#[from] PacmanError),
    /// Something in the archive is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// It cannot be read.
    #[error("the database cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A description that is longer than any package's.
    #[error("{0} has more than {max} bytes", max = LIMITS.member)]
    TooLong(String),
    /// A kernel package that cannot be fetched as it is described.
    #[error("{file} has the {field} {found:?}, expected {expected}")]
    Field {
        /// Name of the description.
        file: String,
        /// Of the description.
        field: &'static str,
        /// Its value; empty where there is none.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// A kernel package is there twice: which one it means is not known.
    #[error("the database has two packages {0}")]
    Twice(String),
}

/// The packages of these names, in the order of the database.
pub fn read(database: &[u8], names: &[&str]) -> Result<Vec<Package>, DbError> {
    read_within(database, names, &LIMITS)
}

/// The same, with other limits.
pub fn read_within(
    database: &[u8],
    names: &[&str],
    limits: &Limits,
) -> Result<Vec<Package>, DbError> {
    let mut packages: Vec<Package> = Vec::new();
    tarball::walk(pacman::tar(database)?, limits, |path, kind, size, bytes| {
        let Some(path) = std::str::from_utf8(path).ok().filter(|_| kind == Kind::Regular) else {
            return Ok(Continue(()));
        };
        let folder = path.strip_prefix("./").unwrap_or(path).strip_suffix("/desc");
        // Most packages are not kernels: what the folder is named after needs no reading.
        if !folder.is_some_and(|folder| names.iter().any(|name| folder.starts_with(name))) {
            return Ok(Continue(()));
        }
        if size > limits.member {
            return Err(DbError::TooLong(path.to_owned()));
        }
        let mut text = String::new();
        bytes.take(limits.member).read_to_string(&mut text)?;
        if let Some(package) = package(path, &text, names)? {
            let same =
                |p: &&Package| p.name == package.name && p.architecture == package.architecture;
            if packages.iter().any(|known| same(&known)) {
                return Err(DbError::Twice(package.name));
            }
            // Of every name one for each architecture, and there are few of both.
            if packages.len() == MAX_PACKAGES {
                return Err(DbError::TooMany);
            }
            packages.push(package);
        }
        Ok(Continue(()))
    })?;
    Ok(packages)
}

/// The package that a description is of, if its name is one of these.
fn package(file: &str, text: &str, names: &[&str]) -> Result<Option<Package>, DbError> {
    let name = value(text, "NAME").unwrap_or_default();
    if !names.contains(&name) {
        return Ok(None);
    }
    let wrong = |field, found: Option<&str>, expected| {
        let found = found.unwrap_or_default().chars().take(200).collect();
        DbError::Field { file: file.to_owned(), field, found, expected }
    };
    let get = |field, holds: &dyn Fn(&str) -> bool, expected| {
        let found = value(text, field);
        found.filter(|found| holds(found)).ok_or_else(|| wrong(field, found, expected))
    };
    let word = crate::package::is_word;
    let version = get("VERSION", &word, "a version")?;
    let architecture = get("ARCH", &word, "an architecture")?;
    let path = get("FILENAME", &is_file, "a package's file name")?;
    let size = get("CSIZE", &|size| size.parse::<u64>().is_ok(), "a number of bytes")?;
    let hex = value(text, "SHA256SUM");
    let decoded = hex.and_then(nfdrop_db::hex::decode).and_then(|hash| hash.try_into().ok());
    let Some(sha256) = decoded else {
        return Err(wrong("SHA256SUM", hex, "64 hexadecimal digits"));
    };
    let signature = value(text, "PGPSIG").map(|signature| {
        let decoded = STANDARD.decode(signature);
        decoded.map_err(|_| wrong("PGPSIG", Some(signature), "base64"))
    });
    Ok(Some(Package {
        name: name.to_owned(),
        version: Version::pacman(version),
        architecture: architecture.to_owned(),
        depends: String::new(),
        path: path.to_owned(),
        size: size.parse().ok(),
        sha256: Some(sha256),
        signature: signature.transpose()?.map(Into::into),
    }))
}

/// The first line behind `%FIELD%`.
fn value<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find(|line| {
        line.strip_prefix('%').and_then(|line| line.strip_suffix('%')) == Some(field)
    })?;
    lines.next().filter(|line| !line.is_empty())
}

#[cfg(test)]
pub(in crate::source) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::source) const DESC: &str = "%FILENAME%\nlinux-6.2.10.arch1-1-x86_64.pkg.tar.zst\n\n\
        %NAME%\nlinux\n\n%BASE%\nlinux\n\n%VERSION%\n6.2.10.arch1-1\n\n%DESC%\nThe Linux kernel\n\n\
        %CSIZE%\n175001234\n\n%ISIZE%\n181012345\n\n%MD5SUM%\n0123456789abcdef0123456789abcdef\n\n\
        %SHA256SUM%\nabababababababababababababababababababababababababababababababab\n\n\
        %PGPSIG%\naGVsbG8=\n\n%ARCH%\nx86_64\n\n%BUILDDATE%\n1680000000\n\n\
        %DEPENDS%\ncoreutils\nkmod\ninitramfs\n\n";

    /// A database as repo-add makes it, of folders and their descriptions.
    pub(in crate::source) fn database(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (folder, desc) in entries {
            for (name, bytes) in [("", None), ("desc", Some(desc.as_bytes()))] {
                let mut header = tar::Header::new_gnu();
                let bytes = bytes.unwrap_or_default();
                header.set_size(bytes.len() as u64);
                let kind = if name.is_empty() {
                    tar::EntryType::Directory
                } else {
                    tar::EntryType::Regular
                };
                header.set_entry_type(kind);
                archive.append_data(&mut header, format!("{folder}/{name}"), bytes).unwrap();
            }
        }
        archive.into_inner().unwrap()
    }

    const NAMES: &[&str] = &["linux", "linux-lts"];

    #[test]
    fn reads_kernel_packages_in_every_compression() {
        let lts = DESC.replace("\nlinux\n", "\nlinux-lts\n").replace("PGPSIG", "OTHER");
        let headers = DESC.replace("%NAME%\nlinux\n", "%NAME%\nlinux-headers\n");
        let database = database(&[
            ("acl-2.3.2-1", "%NAME%\nacl\n"),
            ("linux-6.2.10.arch1-1", DESC),
            ("linux-headers-6.2.10.arch1-1", &headers),
            ("linux-lts-6.1.23-1", &lts),
        ]);
        let mut gz = Vec::new();
        let level = flate2::Compression::fast();
        flate2::read::GzEncoder::new(&database[..], level).read_to_end(&mut gz).unwrap();
        let zst = zstd::encode_all(&database[..], 3).unwrap();
        let xz = liblzma::encode_all(&database[..], 6).unwrap();
        for bytes in [database, gz, zst, xz] {
            let packages = read(&bytes, NAMES).unwrap();
            assert_eq!(packages.len(), 2);
            let [linux, lts] = [&packages[0], &packages[1]];
            assert_eq!((linux.name.as_str(), lts.name.as_str()), ("linux", "linux-lts"));
            assert_eq!(
                (linux.version.as_str(), linux.architecture.as_str()),
                ("6.2.10.arch1-1", "x86_64")
            );
            assert_eq!(linux.path, "linux-6.2.10.arch1-1-x86_64.pkg.tar.zst");
            assert_eq!((linux.size, linux.sha256), (Some(175_001_234), Some([0xab; 32])));
            assert_eq!(linux.signature.as_deref(), Some(&b"hello"[..]));
            assert_eq!(lts.signature, None);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let with = |from: &str, to: &str| {
            let desc = DESC.replace(from, to);
            read(&database(&[("linux-1", &desc)]), NAMES).unwrap_err().to_string()
        };
        let long = "x".repeat(2 << 20);
        let cases = [
            read(b"\x7fELF", NAMES).unwrap_err().to_string(),
            read(&[&b"\x1f\x8b"[..], &[0; 600]].concat(), NAMES).unwrap_err().to_string(),
            read(&database(&[("linux-1", DESC), ("linux-2", DESC)]), NAMES)
                .unwrap_err()
                .to_string(),
            read(&database(&[("linux-1", &long)]), NAMES).unwrap_err().to_string(),
            with("linux-6.2.10.arch1-1-x86_64.pkg.tar.zst", "../../etc/x.pkg.tar.zst"),
            with("linux-6.2.10.arch1-1-x86_64.pkg.tar.zst", "x/y.pkg.tar.zst"),
            with("linux-6.2.10.arch1-1-x86_64.pkg.tar.zst", "y.tar.zst"),
            with("%FILENAME%", "%X%"),
            with("6.2.10.arch1-1\n\n%DESC", "6 2\n\n%DESC"),
            with("175001234", "-1"),
            with("abab", "ab"),
            with("aGVsbG8=", "!"),
            with("x86_64\n\n%BUILD", "\n\n%BUILD"),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        not a package of pacman: it begins with [7f, 45, 4c, 46], expected a tar archive, plain or in zstd, xz or gzip
        the archive cannot be read: invalid gzip header
        the database has two packages linux
        linux-1/desc has more than 1048576 bytes
        linux-1/desc has the FILENAME "../../etc/x.pkg.tar.zst", expected a package's file name
        linux-1/desc has the FILENAME "x/y.pkg.tar.zst", expected a package's file name
        linux-1/desc has the FILENAME "y.tar.zst", expected a package's file name
        linux-1/desc has the FILENAME "", expected a package's file name
        linux-1/desc has the VERSION "6 2", expected a version
        linux-1/desc has the CSIZE "-1", expected a number of bytes
        linux-1/desc has the SHA256SUM "abababababababababababababababab", expected 64 hexadecimal digits
        linux-1/desc has the PGPSIG "!", expected base64
        linux-1/desc has the ARCH "", expected an architecture
        "#);
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), cut in any::<prop::sample::Index>()) {
            let mut bytes = database(&[("linux-1", DESC)]);
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = read(&bytes, NAMES);
        }
    }
}
