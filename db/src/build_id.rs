//! The identity of a kernel build: the GNU build-id note of the ELF object that holds
//! `nft_do_chain`. A release string is never an identity.

use crate::hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A GNU build-id: the descriptor of the ELF note with name `GNU` and type 3, 20 bytes as linkers
/// write it by default. Written as lower-case hex.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^([0-9a-f]{2}){4,64}$"))]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

/// Why something is not a build-id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildIdError {
    /// Not hex, upper-case hex, or an odd number of digits.
    #[error("a build-id is lower-case hex with an even number of digits, found {0:?}")]
    NotHex(String),
    /// Outside [`BuildId::MIN_LEN`]..=[`BuildId::MAX_LEN`] bytes.
    #[error("a build-id has 4 to 64 bytes, found {0}")]
    Length(usize),
}

impl BuildId {
    /// Fewest bytes accepted.
    pub const MIN_LEN: usize = 4;
    /// Most bytes accepted; linkers write 8 (fast), 16 (md5, uuid) or 20 (sha1).
    pub const MAX_LEN: usize = 64;

    /// The build-id with these raw bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BuildIdError> {
        if (Self::MIN_LEN..=Self::MAX_LEN).contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(BuildIdError::Length(bytes.len()))
        }
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for BuildId {
    type Err = BuildIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 2 * Self::MAX_LEN {
            return Err(BuildIdError::Length(text.len() / 2));
        }
        let bytes = hex::decode(text).ok_or_else(|| BuildIdError::NotHex(text.to_owned()))?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

impl Serialize for BuildId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BuildId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_a_build_id() {
        assert_eq!("0484".parse::<BuildId>(), Err(BuildIdError::Length(2)));
        assert!(matches!("0484CF00".parse::<BuildId>(), Err(BuildIdError::NotHex(_))));
        assert!(matches!("../../..".parse::<BuildId>(), Err(BuildIdError::NotHex(_))));
        assert_eq!("00".repeat(65).parse::<BuildId>(), Err(BuildIdError::Length(65)));
        assert_eq!("0484cf00".parse::<BuildId>().unwrap().to_string(), "0484cf00");
    }
}
