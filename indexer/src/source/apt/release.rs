//! Release files: which indices a suite has, with their hashes. See `DebianRepository/Format` in
//! Debian's wiki.
//!
//! **Departure from apt: an index whose Valid-Until has passed is used, and marked.** apt refuses it
//! because a mirror that withholds updates keeps machines vulnerable. Nothing is installed here: a
//! plan is keyed by the build-id of the kernel it was computed from, so an old index can offer old
//! kernels, never wrong ones. What it can do is hide new kernels, so [`Release::stale_since`] says it
//! and the crawl's summary names it.

use crate::source::date;
use std::{collections::BTreeMap, time::SystemTime};

/// Most indices read from one Release file; Debian's have some 3000.
const MAX_INDICES: usize = 100_000;

/// What a Release file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `Debian`, `Debian Backports`.
    pub origin: String,
    /// `Debian`, `Debian-Security`.
    pub label: String,
    /// `stable-security`: changes its meaning at every release.
    pub suite: String,
    /// `trixie-security`; `rc-buggy` in experimental.
    pub codename: String,
    /// When it was made.
    pub date: SystemTime,
    /// When it should have been replaced.
    pub valid_until: Option<SystemTime>,
    /// Whether indices are offered by hash too, so that they cannot change between two requests.
    pub by_hash: bool,
    /// By path below the Release file.
    indices: BTreeMap<String, IndexHash>,
}

/// Size and hash of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHash {
    /// In bytes.
    pub size: u64,
    /// Of these bytes.
    pub sha256: [u8; 32],
}

/// An index to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Below the Release file: `main/binary-amd64/Packages.xz`.
    pub path: String,
    /// Below the Release file, `…/by-hash/SHA256/…`, where the repository has it.
    pub by_hash: Option<String>,
    /// What was used to make it smaller.
    pub compression: Compression,
    /// Size and hash as fetched.
    pub hash: IndexHash,
}

/// How an index is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// `.gz`.
    Gzip,
    /// `.xz`.
    Xz,
}

/// Why a Release file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Not UTF-8.
    #[error("the Release file is not UTF-8")]
    NotText,
    /// A field is not there.
    #[error("the Release file has no {0}")]
    Missing(&'static str),
    /// A field occurs twice.
    #[error("the Release file has the field {0} twice")]
    Twice(&'static str),
    /// A date that cannot be read.
    #[error(
        "the Release file's {field} is {found:?}, expected a date such as `Sat, 21 Nov 2026 02:10:46 UTC`"
    )]
    Date {
        /// Its name.
        field: &'static str,
        /// Its value.
        found: String,
    },
    /// A line of the table of hashes that cannot be read.
    #[error("the Release file's SHA256 has {0:?}, expected a hash, a size and a path")]
    Line(String),
    /// The same path with two hashes.
    #[error("the Release file's SHA256 lists {0:?} twice")]
    Duplicate(String),
    /// More indices than any suite has.
    #[error("the Release file lists more than {max} indices", max = MAX_INDICES)]
    TooMany,
    /// The index that is wanted is not listed.
    #[error("the Release file lists no {0}")]
    NoIndex(String),
}

impl Release {
    /// Reads the text of a Release file, which has to be verified already.
    pub fn parse(text: &[u8]) -> Result<Self, ReleaseError> {
        let text = std::str::from_utf8(text).map_err(|_| ReleaseError::NotText)?;
        let value = |name: &'static str| -> Result<Option<&str>, ReleaseError> {
            let mut found = text.lines().filter_map(|line| field(line, name));
            match (found.next(), found.next()) {
                (_, Some(_)) => Err(ReleaseError::Twice(name)),
                (value, None) => Ok(value),
            }
        };
        let needed = |name| value(name)?.ok_or(ReleaseError::Missing(name));
        let moment = |field, found: &str| {
            let wrong = || ReleaseError::Date { field, found: shorten(found) };
            date::parse(found).ok_or_else(wrong)
        };
        let plain = |name| Ok::<_, ReleaseError>(value(name)?.unwrap_or_default().to_owned());
        needed("SHA256")?;
        Ok(Self {
            origin: plain("Origin")?,
            label: plain("Label")?,
            suite: plain("Suite")?,
            codename: needed("Codename")?.to_owned(),
            date: moment("Date", needed("Date")?)?,
            valid_until: value("Valid-Until")?.map(|v| moment("Valid-Until", v)).transpose()?,
            by_hash: value("Acquire-By-Hash")?.is_some_and(|v| v.eq_ignore_ascii_case("yes")),
            indices: indices(text)?,
        })
    }

    /// Since when this Release file should have been replaced, if so at `now`.
    pub fn stale_since(&self, now: SystemTime) -> Option<SystemTime> {
        self.valid_until.filter(|until| *until < now)
    }

    /// The spellings of the index of binary packages, the one to try first in front; at least one.
    /// That is the smallest compressed one. Debian lists the plain one too but does not offer it,
    /// and an empty index is smallest when plain.
    pub fn packages(&self, component: &str, arch: &str) -> Result<Vec<Index>, ReleaseError> {
        let directory = format!("{component}/binary-{arch}");
        let spellings =
            [(".xz", Compression::Xz), (".gz", Compression::Gzip), ("", Compression::None)];
        let listed = spellings.into_iter().filter_map(|(suffix, compression)| {
            let path = format!("{directory}/Packages{suffix}");
            let hash = *self.indices.get(&path)?;
            let sha256 = nfdrop_db::hex::encode(&hash.sha256);
            let by_hash = self.by_hash.then(|| format!("{directory}/by-hash/SHA256/{sha256}"));
            Some(Index { path, by_hash, compression, hash })
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by_key(|index| (index.compression == Compression::None, index.hash.size));
        if listed.is_empty() {
            return Err(ReleaseError::NoIndex(format!("{directory}/Packages")));
        }
        Ok(listed)
    }
}

/// The value of the field `name`, if it is on this line. Names are compared without case.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    found.eq_ignore_ascii_case(name).then(|| value.trim())
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

fn indices(text: &str) -> Result<BTreeMap<String, IndexHash>, ReleaseError> {
    let mut indices = BTreeMap::new();
    let table = text.lines().skip_while(|line| field(line, "SHA256").is_none()).skip(1);
    for line in table.take_while(|line| line.starts_with([' ', '\t'])) {
        let wrong = || ReleaseError::Line(shorten(line.trim()));
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().ok_or_else(wrong);
        let (hash, size, path) = (word()?, word()?, word()?);
        let sha256 = nfdrop_db::hex::decode(hash).and_then(|hash| hash.try_into().ok());
        let (Some(sha256), Ok(size), None) = (sha256, size.parse(), words.next()) else {
            return Err(wrong());
        };
        if indices.len() == MAX_INDICES {
            return Err(ReleaseError::TooMany);
        }
        if indices.insert(path.to_owned(), IndexHash { size, sha256 }).is_some() {
            return Err(ReleaseError::Duplicate(shorten(path)));
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn text(table: &str) -> String {
        format!(
            "Origin: Debian\nLabel: Debian-Security\nSuite: stable-security\n\
             Codename: trixie-security\nDate: Sat, 21 Nov 2026 00:53:03 UTC\n\
             Valid-Until: Sat, 28 Nov 2026 00:53:03 UTC\nAcquire-By-Hash: yes\n\
             MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 main/binary-amd64/Packages\n\
             SHA256:\n{table}Description: x\n"
        )
    }

    fn refused(text: &str) -> String {
        Release::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn prefers_the_smallest_compressed_index() {
        let table = format!(
            " {HASH} 0 main/binary-amd64/Packages\n {HASH}   40 main/binary-amd64/Packages.gz\n \
             {HASH} 30 main/binary-amd64/Packages.xz\n {HASH} 3 main/binary-arm64/Packages\n"
        );
        let release = Release::parse(text(&table).as_bytes()).unwrap();
        assert_eq!(
            (release.origin.as_str(), release.label.as_str()),
            ("Debian", "Debian-Security")
        );
        let indices = release.packages("main", "amd64").unwrap();
        let sizes: Vec<_> = indices.iter().map(|index| index.hash.size).collect();
        assert_eq!(sizes, [30, 40, 0]);
        assert_eq!(indices[0].compression, Compression::Xz);
        assert_eq!(indices[0].path, "main/binary-amd64/Packages.xz");
        let by_hash = format!("main/binary-amd64/by-hash/SHA256/{HASH}");
        assert_eq!(indices[0].by_hash, Some(by_hash));
        let only_plain = release.packages("main", "arm64").unwrap();
        assert_eq!(only_plain[0].compression, Compression::None);
        let missing = release.packages("contrib", "amd64").unwrap_err().to_string();
        insta::assert_snapshot!(missing, @r#"the Release file lists no contrib/binary-amd64/Packages"#);
    }

    #[test]
    fn is_stale_after_valid_until_only() {
        let release = Release::parse(text("").as_bytes()).unwrap();
        let until = release.valid_until.unwrap();
        assert_eq!(release.stale_since(until), None);
        assert_eq!(release.stale_since(until + Duration::from_secs(1)), Some(until));
        let forever = text("").replace("Valid-Until", "X-Until");
        let forever = Release::parse(forever.as_bytes()).unwrap();
        assert_eq!(forever.stale_since(until + Duration::from_secs(1 << 40)), None);
    }

    #[test]
    fn says_what_is_wrong() {
        let line = format!(" {HASH} 1 a\n");
        let cases = [
            refused(""),
            refused(&text("").replace("Codename", "Code")),
            refused(&text("").replace("21 Nov 2026 00:53:03", "yesterday")),
            refused(&text("").replace("Label: ", "Codename: ")),
            refused(&text(" e3b0 1 a\n")),
            refused(&text(&line.replace(" 1 ", " -1 "))),
            refused(&text(&line.repeat(2))),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the Release file has no SHA256
        the Release file has no Codename
        the Release file's Date is "Sat, yesterday UTC", expected a date such as `Sat, 21 Nov 2026 02:10:46 UTC`
        the Release file has the field Codename twice
        the Release file's SHA256 has "e3b0 1 a", expected a hash, a size and a path
        the Release file's SHA256 has "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 -1 a", expected a hash, a size and a path
        the Release file's SHA256 lists "a" twice
        "#);
        assert_eq!(Release::parse(b"\xff"), Err(ReleaseError::NotText));
    }

    proptest! {
        #[test]
        fn never_panics(lines in proptest::collection::vec("(Codename|Date|SHA256|Valid-Until|X)?:? ?[ -~]{0,80}", 0..12)) {
            let _ = Release::parse(lines.join("\n").as_bytes());
        }

        #[test]
        fn reads_every_line_of_the_table(sizes in proptest::collection::vec(any::<u64>(), 0..20)) {
            let line = |(at, size): (usize, &u64)| format!(" {HASH} {size} path/{at}\n");
            let table: String = sizes.iter().enumerate().map(line).collect();
            let release = Release::parse(text(&table).as_bytes()).unwrap();
            prop_assert_eq!(release.indices.len(), sizes.len());
            for (at, size) in sizes.iter().enumerate() {
                prop_assert_eq!(release.indices[&format!("path/{at}")].size, *size);
            }
        }
    }
}
