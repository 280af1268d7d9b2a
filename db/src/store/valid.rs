//! What a text, a hash and a kernel have to be like to be stored, and to be read from another file.

use super::{Kernel, StoreError};
use crate::hex;

/// Longest text accepted, in bytes: names, versions, URLs.
const MAX_TEXT: usize = 2048;
/// Most packages of a kernel.
const MAX_PACKAGES: usize = 64;

/// The names of all packages of a kernel, by content where the index tells it; also the check that it can be stored at all.
pub(super) fn set_sha256(kernel: &Kernel) -> Result<String, StoreError> {
    let subject = format!("kernel {} {} in {}", kernel.release, kernel.version, kernel.suite);
    let signed_by = kernel.signed_by.as_deref().unwrap_or("none");
    for (field, text) in [
        ("distro", kernel.distro.as_str()),
        ("suite", &kernel.suite),
        ("release", &kernel.release),
        ("version", &kernel.version),
        ("arch", &kernel.arch),
        ("signed_by", signed_by),
    ] {
        check_text(&subject, field, text)?;
    }
    let count = kernel.packages.len();
    if count > MAX_PACKAGES {
        let found = format!("{count} packages");
        let expected = "at most 64 packages";
        return Err(StoreError::Invalid { subject, field: "packages", expected, found });
    }
    let mut hashes = Vec::with_capacity(count);
    for package in &kernel.packages {
        check_text(&subject, "package", &package.name)?;
        check_text(&subject, "url", &package.url)?;
        if let Some(sha256) = &package.sha256 {
            check_sha256(&subject, "sha256", sha256)?;
        }
        hashes.push(match &package.sha256 {
            Some(sha256) if package.by_hash => sha256.clone(),
            // No hash has a colon in it.
            _ => package.url.replace(' ', "%20"),
        });
    }
    hashes.sort_unstable();
    hashes.dedup();
    Ok(hashes.join(" "))
}

pub(super) fn check_sha256(
    subject: &str,
    field: &'static str,
    text: &str,
) -> Result<(), StoreError> {
    if hex::decode(text).is_some_and(|bytes| bytes.len() == 32) {
        return Ok(());
    }
    let found = format!("{:?}", text.chars().take(80).collect::<String>());
    let (subject, expected) = (subject.to_owned(), "64 lower-case hex digits");
    Err(StoreError::Invalid { subject, field, expected, found })
}

pub(super) fn check_text(subject: &str, field: &'static str, text: &str) -> Result<(), StoreError> {
    if (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let expected = "1 to 2048 bytes without control characters";
    let found = format!("{:?}", text.chars().take(80).collect::<String>());
    Err(StoreError::Invalid { subject: subject.to_owned(), field, expected, found })
}
