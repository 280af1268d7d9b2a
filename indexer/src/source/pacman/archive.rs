//! The archive of old packages: a web server's list of a folder, as HTML. Of the page only the targets
//! of links are read. It has no hashes and nobody signed it: each package's own signature vouches for
//! it, and the name and version that are in the package say whether it is the one that is listed.

use crate::source::{kernel::Package, pacman::is_file, version::Version};
use std::collections::BTreeSet;

/// Most packages of one name. Arch's kernels have some 600.
const MAX_PACKAGES: usize = 20_000;
/// What the names of detached signatures have more.
pub(super) const SIGNATURE: &str = ".sig";

/// Why a page is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// More packages than any page has.
    #[error("the page lists more than {max} packages", max = MAX_PACKAGES)]
    TooMany,
}

/// The packages of a name and architecture that have a signature beside them, by version as the page
/// has them. `folder` is where the page is, below the archive's root.
pub fn read(
    page: &str,
    folder: &str,
    name: &str,
    arch: &str,
) -> Result<Vec<Package>, ArchiveError> {
    let links: Vec<String> = links(page).collect();
    let signed: BTreeSet<&str> =
        links.iter().filter_map(|link| link.strip_suffix(SIGNATURE)).collect();
    let mut packages: Vec<Package> = Vec::new();
    let mut versions = BTreeSet::new();
    for file in links.iter().filter(|link| is_file(link) && signed.contains(link.as_str())) {
        let Some(version) = version(file, name, arch) else { continue };
        if packages.len() == MAX_PACKAGES {
            return Err(ArchiveError::TooMany);
        }
        // A version in two compressions is the same package twice.
        let version = Version::pacman(version);
        if !versions.insert(version.clone()) {
            continue;
        }
        packages.push(Package {
            name: name.to_owned(),
            version,
            architecture: arch.to_owned(),
            depends: String::new(),
            path: format!("{folder}{file}"),
            size: None,
            sha256: None,
            signature: None,
        });
    }
    Ok(packages)
}

/// The version in `linux-6.2.10.arch1-1-x86_64.pkg.tar.zst`. Behind a longer name, as of
/// `linux-headers`, there is none.
fn version<'a>(file: &'a str, name: &str, arch: &str) -> Option<&'a str> {
    let (rest, _) = file.split_once(".pkg.tar")?;
    let version = rest.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(arch)?;
    let version = version.strip_suffix('-')?;
    let numbered = version.starts_with(|c: char| c.is_ascii_digit());
    (numbered && version.contains('-')).then_some(version)
}

/// The targets of the page's links that are plain file names.
fn links(page: &str) -> impl Iterator<Item = String> {
    page.split("href=").skip(1).filter_map(|rest| {
        let quote = rest.chars().next().filter(|c| *c == '"' || *c == '\'')?;
        let (target, _) = rest[1..].split_once(quote)?;
        decode(target.strip_prefix("./").unwrap_or(target))
    })
}

/// Without the `%3A` of epochs and the like. Longer than any file's name, and it is none.
fn decode(target: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = target.as_bytes();
    if rest.len() > 1024 {
        return None;
    }
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match first {
            b'%' => {
                let (digits, behind) = rest.split_at_checked(2)?;
                rest = behind;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = r#"<html><head><title>Index of /packages/l/linux/</title></head><body>
<h1>Index of /packages/l/linux/</h1><hr><pre><a href="../">../</a>
<a href="linux-3.7.10-1-x86_64.pkg.tar.xz">linux-3.7.10-1-x86_64.pkg.tar.xz</a>  28-Feb-2013 21:22  60M
<a href="linux-3.7.10-1-x86_64.pkg.tar.xz.sig">linux-3.7.10-1-x86_64.pkg.tar.xz.sig</a>  28-Feb-2013  72
<a href='linux-6.2.10.arch1-1-x86_64.pkg.tar.zst'>linux</a><a href='linux-6.2.10.arch1-1-x86_64.pkg.tar.zst.sig'>s</a>
<a href="linux-1%3A6.3.arch1-1-x86_64.pkg.tar.zst">e</a><a href="linux-1%3A6.3.arch1-1-x86_64.pkg.tar.zst.sig">e</a>
<a href="linux-6.2.11.arch1-1-x86_64.pkg.tar.zst">not signed</a>
<a href="linux-6.2.12.arch1-1-i686.pkg.tar.zst">other</a><a href="linux-6.2.12.arch1-1-i686.pkg.tar.zst.sig">s</a>
<a href="linux-headers-6.2.10.arch1-1-x86_64.pkg.tar.zst">h</a><a href="linux-headers-6.2.10.arch1-1-x86_64.pkg.tar.zst.sig">h</a>
<a href="/etc/linux-6.2.13.arch1-1-x86_64.pkg.tar.zst">x</a><a href="/etc/linux-6.2.13.arch1-1-x86_64.pkg.tar.zst.sig">x</a>
<a href="%2e%2e/linux-6.2.13.arch1-1-x86_64.pkg.tar.zst">x</a><a href="%zz">x</a><a href="%">x</a><a href=x>
</pre><hr></body></html>"#;

    #[test]
    fn lists_what_is_signed() {
        let packages = read(PAGE, "l/linux/", "linux", "x86_64").unwrap();
        let lines: Vec<_> =
            packages.iter().map(|p| format!("{} {} {:?}", p.version, p.path, p.sha256)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        3.7.10-1 l/linux/linux-3.7.10-1-x86_64.pkg.tar.xz None
        6.2.10.arch1-1 l/linux/linux-6.2.10.arch1-1-x86_64.pkg.tar.zst None
        1:6.3.arch1-1 l/linux/linux-1:6.3.arch1-1-x86_64.pkg.tar.zst None
        "#);
        assert_eq!(read(PAGE, "l/linux/", "linux-lts", "x86_64").unwrap().len(), 0);
    }

    proptest! {
        #[test]
        fn never_panics(page in "(href=[\"'](linux-|%[0-9a-f]{0,2}|1-1-x86_64\\.pkg\\.tar|.){0,9}[\"']){0,4}") {
            let _ = read(&page, "l/", "linux", "x86_64");
        }
    }
}
