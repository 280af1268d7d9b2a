//! `repodata/repomd.xml`: which indices a repository has, with their checksums.

use super::{
    checksum::{Checksum, ChecksumError},
    location::{LocationError, below},
    xml::{Element, Visitor, XmlError, short, walk},
};

/// Longest `repomd.xml`, in bytes; they have some 10 KiB.
pub const MAX_REPOMD: usize = 4 << 20;
/// Most indices of a repository; they have some twenty.
const MAX_ENTRIES: usize = 1000;

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// `primary`, `primary_db`.
    pub kind: String,
    /// Path below the repository's root.
    pub path: String,
    /// Of the file as it is fetched.
    pub checksum: Checksum,
    /// Its bytes, where the repository says.
    pub size: Option<u64>,
    /// When it was made, in seconds since 1970, where the repository says.
    pub timestamp: Option<u64>,
}

/// Why a `repomd.xml` is refused.
#[derive(Debug, thiserror::Error)]
pub enum RepomdError {
    /// It cannot be read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Another document.
    #[error("the document is a {0:?}, expected a repomd")]
    Root(String),
    /// Too many indices.
    #[error("the repository has more than {max} indices", max = MAX_ENTRIES)]
    TooMany,
    /// An index whose content cannot be checked.
    #[error("the repository's index {kind:?}: {error}")]
    Checksum {
        /// Which one.
        kind: String,
        /// Why.
        error: ChecksumError,
    },
    /// An index that is somewhere else.
    #[error("the repository's index {kind:?}: {error}")]
    Location {
        /// Which one.
        kind: String,
        /// Why.
        error: LocationError,
    },
    /// An index that is there twice.
    #[error("the repository has two indices {0:?}")]
    Twice(String),
    /// The index of packages is not there.
    #[error("the repository has neither an index `primary` nor `primary_db`")]
    NoPrimary,
}

/// The index of packages in XML, else as a database; of other indices nothing is looked at.
pub fn primary(bytes: &[u8]) -> Result<Index, RepomdError> {
    let mut repomd = Repomd::default();
    walk(bytes, MAX_REPOMD as u64, &mut repomd)?;
    let Repomd { mut found, .. } = repomd;
    let place = found.iter().position(|index| index.kind == "primary");
    let place = place.or((!found.is_empty()).then_some(0)).ok_or(RepomdError::NoPrimary)?;
    Ok(found.swap_remove(place))
}

#[derive(Default)]
struct Repomd {
    entries: usize,
    found: Vec<Index>,
    entry: Entry,
}

#[derive(Default)]
struct Entry {
    kind: String,
    checksum: Option<(String, String)>,
    location: Option<(Option<String>, String)>,
    size: Option<u64>,
    timestamp: Option<u64>,
}

impl Entry {
    fn index(self) -> Result<Index, RepomdError> {
        let kind = self.kind;
        let checksum = match &self.checksum {
            Some((of, digits)) => Checksum::parse(of, digits),
            None => Err(ChecksumError::Missing),
        };
        let checksum = match checksum {
            Ok(checksum) => checksum,
            Err(error) => return Err(RepomdError::Checksum { kind, error }),
        };
        let (base, href) = self.location.unwrap_or_default();
        match below(base.as_deref(), &href) {
            Ok(path) => {
                let (size, timestamp) = (self.size, self.timestamp);
                Ok(Index { kind, path, checksum, size, timestamp })
            }
            Err(error) => Err(RepomdError::Location { kind, error }),
        }
    }
}

impl Visitor for Repomd {
    type Error = RepomdError;

    fn open(&mut self, path: &str, element: &Element<'_>) -> Result<bool, RepomdError> {
        match path {
            "repomd" => {}
            "repomd/data" => {
                self.entries += 1;
                if self.entries > MAX_ENTRIES {
                    return Err(RepomdError::TooMany);
                }
                let kind = element.attribute("type")?.unwrap_or_default();
                self.entry = Entry { kind, ..Entry::default() };
            }
            "repomd/data/checksum" => {
                let kind = element.attribute("type")?.unwrap_or_default();
                self.entry.checksum = Some((kind, String::new()));
                return Ok(true);
            }
            "repomd/data/location" => {
                let href = element.attribute("href")?.unwrap_or_default();
                self.entry.location = Some((element.attribute("xml:base")?, href));
            }
            "repomd/data/size" | "repomd/data/timestamp" => return Ok(true),
            other if !other.contains('/') => return Err(RepomdError::Root(other.to_owned())),
            _ => {}
        }
        Ok(false)
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), RepomdError> {
        match path {
            "repomd/data" => {
                let entry = std::mem::take(&mut self.entry);
                if matches!(entry.kind.as_str(), "primary" | "primary_db") {
                    if self.found.iter().any(|index| index.kind == entry.kind) {
                        return Err(RepomdError::Twice(entry.kind));
                    }
                    self.found.push(entry.index()?);
                }
            }
            "repomd/data/checksum" => {
                if let Some((_, digits)) = &mut self.entry.checksum {
                    short(text)?.clone_into(digits);
                }
            }
            "repomd/data/size" => self.entry.size = short(text)?.parse().ok(),
            // createrepo of old wrote fractions of a second.
            "repomd/data/timestamp" => {
                let seconds = short(text)?.split('.').next().unwrap_or_default();
                self.entry.timestamp = seconds.parse().ok();
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn data(kind: &str, path: &str) -> String {
        format!(
            "<data type=\"{kind}\"><checksum type=\"sha256\">{SHA256}</checksum>\
             <open-checksum type=\"md5\">x</open-checksum><location href=\"{path}\"/>\
             <timestamp>1700000000.5</timestamp><size>12</size></data>"
        )
    }

    fn repomd(data: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd \
             xmlns=\"http://linux.duke.edu/metadata/repo\"><revision>1</revision>{data}</repomd>\n"
        )
    }

    fn refused(data: &str) -> String {
        primary(repomd(data).as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn xml_is_preferred_to_a_database() {
        let [xml, database] = [data("primary", "repodata/a.xml.gz"), data("primary_db", "b")];
        let other = data("filelists", "../../etc/passwd");
        let index = primary(repomd(&[&database[..], &other, &xml].concat()).as_bytes()).unwrap();
        assert_eq!((index.kind.as_str(), index.path.as_str()), ("primary", "repodata/a.xml.gz"));
        assert_eq!((index.size, index.timestamp), (Some(12), Some(1_700_000_000)));
        assert_eq!(index.checksum.to_string(), format!("sha256 {SHA256}"));
        let index = primary(repomd(&database).as_bytes()).unwrap();
        assert_eq!(index.kind, "primary_db");
    }

    #[test]
    fn says_what_is_wrong() {
        let good = data("primary", "a");
        let deep = "<a>".repeat(20);
        let cases = [
            refused(""),
            refused(&good.repeat(2)),
            refused(&good.replace("sha256", "sha")),
            refused(&good.replace(SHA256, "e3")),
            refused(&good.replace("checksum", "check")),
            refused(&data("primary", "../a")),
            refused(&good.replace("href=\"a\"", "href=\"a\" xml:base=\"http://other.example\"")),
            refused(&good.replace("href=\"a\"", "")),
            refused(&data("x", "y").repeat(1001)),
            refused(&deep),
            refused("<data>"),
            refused("<data></x>"),
            refused(&good.replace(SHA256, "&x;")),
            refused(&good.replace(SHA256, &" x".repeat(10_000))),
            refused(&format!("<data {}/>", "a=\"\" ".repeat(65))),
            primary(b"<metadata/>").unwrap_err().to_string(),
            primary(b"<!DOCTYPE x [<!ENTITY a \"aaa\">]><repomd/>").unwrap_err().to_string(),
            primary(b"").unwrap_err().to_string(),
            primary(&vec![b'<'; MAX_REPOMD + 1]).unwrap_err().to_string(),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the repository has neither an index `primary` nor `primary_db`
        the repository has two indices "primary"
        the repository's index "primary": sha is not secure any more, expected sha256, sha384 or sha512
        the repository's index "primary": "e3" is no sha256
        the repository's index "primary": there is no checksum
        the repository's index "primary": its location is "../a", expected a path that leads nowhere else
        the repository's index "primary": its location is at "http://other.example", expected a path below the repository's own URL
        the repository's index "primary": its location is "", expected a path that leads nowhere else
        the repository has more than 1000 indices
        the document has more than 16 elements within each other
        the document is not well-formed: ill-formed document: expected `</data>`, but `</repomd>` was found
        the document is not well-formed: ill-formed document: expected `</data>`, but `</x>` was found
        the document is not well-formed: an unknown entity &x;
        the document has a value of more than 4096 bytes
        the document has an element with more than 64 attributes
        the document is a "metadata", expected a repomd
        the document has a DTD, which is not accepted
        the repository has neither an index `primary` nor `primary_db`
        the document has more than 4194304 bytes
        "#);
        let numbered = good.replace(SHA256, &SHA256.replace('e', "&#x65;"));
        assert!(primary(repomd(&numbered).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)) {
            let mut bytes = repomd(&data("primary", "a")).into_bytes();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            let _ = primary(&bytes);
        }
    }
}
