//! Where a repository says that a file is: a path below its root, and nothing else. Repositories may
//! name another place with `xml:base`; whoever writes an index could then send the crawler anywhere.

/// Longest path, in bytes.
const MAX_PATH: usize = 1024;

/// Why a location is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// It is in another place altogether.
    #[error("its location is at {0:?}, expected a path below the repository's own URL")]
    Base(String),
    /// Not a plain path.
    #[error("its location is {0:?}, expected a path that leads nowhere else")]
    Path(String),
}

/// The path below the repository's root.
pub(super) fn below(base: Option<&str>, href: &str) -> Result<String, LocationError> {
    let shorten = |text: &str| text.chars().take(120).collect();
    if let Some(base) = base.filter(|base| !base.is_empty()) {
        return Err(LocationError::Base(shorten(base)));
    }
    let lower = href.to_ascii_lowercase();
    // URLs take %2e for a dot.
    let hidden = ["%2e", "%2f", "%5c", "%00"].iter().any(|code| lower.contains(code));
    let plain = |c: u8| c.is_ascii_graphic() && !b"\\?#\"<>|".contains(&c);
    let steps = href.split('/').all(|step| !matches!(step, "" | "." | ".."));
    let first = href.split('/').next().unwrap_or_default();
    if href.len() > MAX_PATH || hidden || !steps || !href.bytes().all(plain) || first.contains(':')
    {
        return Err(LocationError::Path(shorten(href)));
    }
    Ok(href.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_are_taken() {
        for path in ["repodata/0a-primary.xml.gz", "Packages/k/kernel-core-6.8~rc1-1.fc40^git.rpm"]
        {
            assert_eq!(below(None, path), Ok(path.to_owned()));
            assert_eq!(below(Some(""), path), Ok(path.to_owned()));
            assert!(below(Some("http://other.example/"), path).is_err());
        }
        let long = "a".repeat(MAX_PATH + 1);
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/./x",
            "a//x",
            "a/",
            "http://other.example/x",
            "file:x",
            "a\\..\\x",
            "a?b",
            "a#b",
            "%2e%2e/x",
            "a%2Fx",
            "a b",
            "ä",
            &long,
        ] {
            assert!(matches!(below(None, path), Err(LocationError::Path(_))), "{path}");
        }
    }
}
