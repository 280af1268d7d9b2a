//! The index `primary`: from the description of every package of a repository to the few that may be
//! parts of kernels. Read as a stream, since Fedora's has more than 100 MB: memory is bounded by one
//! package and what is kept.

use super::{
    checksum::{Checksum, ChecksumError},
    location::{LocationError, below},
    xml::{Element, Visitor, XmlError, short, walk},
};
use crate::source::{kernel::Package, version::Version};
use std::io::Read;

/// Most bytes of an index after decompression.
pub const MAX_INDEX: u64 = 2 << 30;
/// Most packages kept from one index; archives of years have some hundreds. With at most 20 kB each, an
/// index takes at most 200 MB.
pub(super) const MAX_KEPT: usize = 10_000;
/// Most dependencies kept of a package: those on other parts of the kernel.
const MAX_DEPENDS: usize = 64;
/// Longest of them, in bytes.
const MAX_DEPEND: usize = 200;

/// Why an index is refused.
#[derive(Debug, thiserror::Error)]
pub enum PrimaryError {
    /// It cannot be read.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Another document.
    #[error("the document is a {0:?}, expected the metadata of packages")]
    Root(String),
    /// More kernel packages than any repository has.
    #[error("the index lists more than {max} kernel packages", max = MAX_KEPT)]
    TooMany,
    /// A package that does not say what it is.
    #[error("the index describes {package:?} without {field}")]
    Missing {
        /// Its name.
        package: String,
        /// What is not there.
        field: &'static str,
    },
    /// A name, version or architecture that is not plain text.
    #[error("the index describes {package:?} with the {field} {found:?}")]
    Field {
        /// Its name.
        package: String,
        /// Which.
        field: &'static str,
        /// What it is.
        found: String,
    },
    /// A package whose content cannot be checked.
    #[error("the index describes {package:?}: {error}")]
    Checksum {
        /// Its name.
        package: String,
        /// Why.
        error: ChecksumError,
    },
    /// A package that is somewhere else.
    #[error("the index describes {package:?}: {error}")]
    Location {
        /// Its name.
        package: String,
        /// Why.
        error: LocationError,
    },
}

/// The packages with wanted names, in the order of the index.
pub fn read(
    reader: impl Read,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Package>, PrimaryError> {
    let mut primary = Primary { wanted, found: Vec::new(), entry: Entry::default() };
    walk(reader, MAX_INDEX, &mut primary)?;
    Ok(primary.found)
}

/// What an index says of a package, as it is written.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) arch: String,
    pub(super) epoch: String,
    pub(super) version: String,
    pub(super) release: String,
    pub(super) checksum: Option<(String, String)>,
    pub(super) base: Option<String>,
    pub(super) href: String,
    pub(super) size: Option<u64>,
    /// Names of kernel packages and what they provide.
    pub(super) depends: Vec<String>,
}

impl Entry {
    pub(super) fn package(self) -> Result<Package, PrimaryError> {
        let package = || self.name.chars().take(80).collect::<String>();
        for (field, value) in [
            ("name", &self.name),
            ("architecture", &self.arch),
            ("version", &self.version),
            ("release", &self.release),
        ] {
            if value.is_empty() {
                return Err(PrimaryError::Missing { package: package(), field });
            }
            let plain = |c: u8| c.is_ascii_alphanumeric() || b"+-._~^".contains(&c);
            let dash = field != "name" && value.contains('-');
            if value.len() > 200 || dash || !value.bytes().all(plain) {
                let found = value.chars().take(80).collect();
                return Err(PrimaryError::Field { package: package(), field, found });
            }
        }
        if !self.epoch.bytes().all(|c| c.is_ascii_digit()) || self.epoch.len() > 20 {
            let found = self.epoch.chars().take(80).collect();
            return Err(PrimaryError::Field { package: package(), field: "epoch", found });
        }
        let checksum = match &self.checksum {
            Some((kind, digits)) => Checksum::parse(kind, digits),
            None => Err(ChecksumError::Missing),
        };
        let checksum =
            checksum.map_err(|error| PrimaryError::Checksum { package: package(), error })?;
        let path = below(self.base.as_deref(), &self.href)
            .map_err(|error| PrimaryError::Location { package: package(), error })?;
        let epoch = match self.epoch.trim_start_matches('0') {
            "" => String::new(),
            epoch => format!("{epoch}:"),
        };
        Ok(Package {
            version: Version::rpm(format!("{epoch}{}-{}", self.version, self.release)),
            name: self.name,
            architecture: self.arch,
            depends: self.depends.join(", "),
            path,
            size: self.size,
            sha256: checksum.sha256(),
            signature: None,
        })
    }

    pub(super) fn depend(&mut self, name: String) {
        let fits = name.len() <= MAX_DEPEND && self.depends.len() < MAX_DEPENDS;
        if name.starts_with("kernel") && fits {
            self.depends.push(name);
        }
    }
}

struct Primary<F> {
    wanted: F,
    found: Vec<Package>,
    entry: Entry,
}

impl<F: Fn(&str) -> bool> Visitor for Primary<F> {
    type Error = PrimaryError;

    fn open(&mut self, path: &str, element: &Element<'_>) -> Result<bool, PrimaryError> {
        let entry = &mut self.entry;
        let attribute = |name| Ok::<_, XmlError>(element.attribute(name)?.unwrap_or_default());
        match path {
            "metadata" => {}
            "metadata/package" => *entry = Entry::default(),
            "metadata/package/name" | "metadata/package/arch" => return Ok(true),
            "metadata/package/version" => {
                entry.epoch = attribute("epoch")?;
                entry.version = attribute("ver")?;
                entry.release = attribute("rel")?;
            }
            "metadata/package/checksum" => {
                entry.checksum = Some((attribute("type")?, String::new()));
                return Ok(true);
            }
            "metadata/package/size" => entry.size = attribute("package")?.parse().ok(),
            "metadata/package/location" => {
                entry.href = attribute("href")?;
                entry.base = element.attribute("xml:base")?;
            }
            "metadata/package/format/requires/entry" => entry.depend(attribute("name")?),
            other if !other.contains('/') => return Err(PrimaryError::Root(other.to_owned())),
            _ => {}
        }
        Ok(false)
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), PrimaryError> {
        match path {
            "metadata/package/name" => short(text)?.clone_into(&mut self.entry.name),
            "metadata/package/arch" => short(text)?.clone_into(&mut self.entry.arch),
            "metadata/package/checksum" => {
                if let Some((_, digits)) = &mut self.entry.checksum {
                    short(text)?.clone_into(digits);
                }
            }
            "metadata/package" if (self.wanted)(&self.entry.name) => {
                if self.found.len() == MAX_KEPT {
                    return Err(PrimaryError::TooMany);
                }
                self.found.push(std::mem::take(&mut self.entry).package()?);
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
    use std::io;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn package(name: &str) -> String {
        format!(
            "<package type=\"rpm\"><name>{name}</name><arch>x86_64</arch>\
             <version epoch=\"0\" ver=\"6.8.5\" rel=\"301.fc40\"/>\
             <checksum type=\"sha256\" pkgid=\"YES\">{SHA256}</checksum>\
             <summary>a &amp; b</summary><description>x</description>\
             <size package=\"12\" installed=\"1\" archive=\"2\"/>\
             <location href=\"Packages/k/a.rpm\"/><format><rpm:license>GPL</rpm:license>\
             <rpm:requires><rpm:entry name=\"kernel-core-uname-r\" flags=\"EQ\"/>\
             <rpm:entry name=\"bash\"/></rpm:requires></format></package>"
        )
    }

    fn metadata(packages: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metadata packages=\"9\" \
             xmlns=\"http://linux.duke.edu/metadata/common\" \
             xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">{packages}</metadata>"
        )
    }

    fn read(text: &str) -> Result<Vec<Package>, PrimaryError> {
        super::read(text.as_bytes(), |name| name.starts_with("kernel"))
    }

    fn refused(from: &str, to: &str) -> String {
        let text = metadata(&package("kernel"));
        assert!(text.contains(from), "{from}");
        read(&text.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn wanted_packages_are_kept() {
        let odd = package("bash").replace(SHA256, "odd").replace("Packages", "..");
        let epoch = package("kernel-core").replace("epoch=\"0\"", "epoch=\"2\"");
        let packages = read(&metadata(&[&odd[..], &package("kernel"), &epoch].concat())).unwrap();
        let line = |p: &Package| {
            format!(
                "{} {} {} {} {:?} {}",
                p.name, p.version, p.architecture, p.path, p.size, p.depends
            )
        };
        let lines: Vec<_> = packages.iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        kernel 6.8.5-301.fc40 x86_64 Packages/k/a.rpm Some(12) kernel-core-uname-r
        kernel-core 2:6.8.5-301.fc40 x86_64 Packages/k/a.rpm Some(12) kernel-core-uname-r
        "#);
        assert!(packages.iter().all(|package| package.sha256.is_some()));
        let sha512 = metadata(&package("kernel")).replace(SHA256, &"ab".repeat(64));
        let packages = read(&sha512.replace("sha256", "sha512")).unwrap();
        assert_eq!(packages[0].sha256, None);
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            refused("sha256", "sha"),
            refused("sha256", "md5"),
            refused(SHA256, ""),
            refused("Packages/k", "/Packages"),
            refused("Packages/k", "http://other.example"),
            refused("<location ", "<location xml:base=\"http://other.example/\" "),
            refused("<arch>x86_64</arch>", ""),
            refused("ver=\"6.8.5\"", "ver=\"6.8-5\""),
            refused("epoch=\"0\"", "epoch=\"-1\""),
            refused("kernel</name>", "kernel \u{202e}</name>"),
            refused("metadata", "repomd"),
            refused("</format>", ""),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the index describes "kernel": sha is not secure any more, expected sha256, sha384 or sha512
        the index describes "kernel": md5 is not secure any more, expected sha256, sha384 or sha512
        the index describes "kernel": "" is no sha256
        the index describes "kernel": its location is "/Packages/a.rpm", expected a path that leads nowhere else
        the index describes "kernel": its location is "http://other.example/a.rpm", expected a path that leads nowhere else
        the index describes "kernel": its location is at "http://other.example/", expected a path below the repository's own URL
        the index describes "kernel" without architecture
        the index describes "kernel" with the version "6.8-5"
        the index describes "kernel" with the epoch "-1"
        the index describes "kernel \u{202e}" with the name "kernel \u{202e}"
        the document is a "repomd", expected the metadata of packages
        the document is not well-formed: ill-formed document: expected `</format>`, but `</package>` was found
        "#);
    }

    #[test]
    fn a_text_without_end_is_not_kept_in_memory() {
        let start = metadata("<package><description>").replace("</metadata>", "");
        let endless = start.as_bytes().chain(io::repeat(b'a'));
        let error = super::read(endless, |_| true).unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"the document has a tag or text of more than 4194304 bytes"#);
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)) {
            let mut bytes = metadata(&package("kernel")).into_bytes();
            for (place, value) in flips {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            let _ = super::read(&bytes[..], |_| true);
        }
    }
}
