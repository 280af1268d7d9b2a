//! Checksums as repositories write them: a type and hexadecimal digits.

use nfdrop_db::hex;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::fmt;

/// What a file has to hash to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// `sha256`.
    Sha256([u8; 32]),
    /// `sha384`.
    Sha384([u8; 48]),
    /// `sha512`.
    Sha512([u8; 64]),
}

/// Why a checksum is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// Files with the same one can be made.
    #[error("{0} is not secure any more, expected sha256, sha384 or sha512")]
    Weak(String),
    /// Another hash function.
    #[error("unknown hash function {0:?}, expected sha256, sha384 or sha512")]
    Unknown(String),
    /// Not as many digits as it has.
    #[error("{found:?} is no {kind}")]
    Digits {
        /// The hash function.
        kind: String,
        /// What stands there.
        found: String,
    },
    /// There is none.
    #[error("there is no checksum")]
    Missing,
}

impl Checksum {
    /// Reads a checksum of a type.
    pub fn parse(kind: &str, digits: &str) -> Result<Self, ChecksumError> {
        fn bytes<const N: usize>(kind: &str, digits: &str) -> Result<[u8; N], ChecksumError> {
            let bytes = hex::decode(digits).and_then(|bytes| bytes.try_into().ok());
            let found = digits.chars().take(160).collect();
            bytes.ok_or(ChecksumError::Digits { kind: kind.to_owned(), found })
        }
        match kind {
            "sha256" => bytes(kind, digits).map(Self::Sha256),
            "sha384" => bytes(kind, digits).map(Self::Sha384),
            "sha512" => bytes(kind, digits).map(Self::Sha512),
            // Repositories call SHA-1 `sha`.
            "sha" | "sha1" | "md5" | "md2" | "sha224" => Err(ChecksumError::Weak(kind.to_owned())),
            _ => Err(ChecksumError::Unknown(kind.chars().take(40).collect())),
        }
    }

    /// Whether these bytes have it.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Sha256(expected) => Sha256::digest(bytes)[..] == expected[..],
            Self::Sha384(expected) => Sha384::digest(bytes)[..] == expected[..],
            Self::Sha512(expected) => Sha512::digest(bytes)[..] == expected[..],
        }
    }

    /// The one kind that downloads are checked with while they run.
    pub fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::Sha256(sha256) => Some(*sha256),
            _ => None,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", &bytes[..]),
            Self::Sha384(bytes) => ("sha384", &bytes[..]),
            Self::Sha512(bytes) => ("sha512", &bytes[..]),
        };
        write!(f, "{kind} {}", hex::encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_unknown_ones_are_told_apart() {
        let text = Checksum::parse("sha512", &"ab".repeat(64)).unwrap().to_string();
        assert_eq!(text, format!("sha512 {}", "ab".repeat(64)));
        for kind in ["sha256", "sha384", "sha512"] {
            let digits = match kind {
                "sha256" => hex::encode(&Sha256::digest(b"x")),
                "sha384" => hex::encode(&Sha384::digest(b"x")),
                _ => hex::encode(&Sha512::digest(b"x")),
            };
            let checksum = Checksum::parse(kind, &digits).unwrap();
            assert!(checksum.is_of(b"x") && !checksum.is_of(b"y"), "{kind}");
            assert_eq!(checksum.sha256().is_some(), kind == "sha256");
        }
        let refused = |kind, digits| Checksum::parse(kind, digits).unwrap_err().to_string();
        let cases = [
            refused("sha", "00"),
            refused("md5", "00"),
            refused("crc", "00"),
            refused("sha256", "00"),
            refused("sha512", "zz"),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        sha is not secure any more, expected sha256, sha384 or sha512
        md5 is not secure any more, expected sha256, sha384 or sha512
        unknown hash function "crc", expected sha256, sha384 or sha512
        "00" is no sha256
        "zz" is no sha512
        "#);
    }
}
