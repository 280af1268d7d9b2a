//! Whether a plan is signed with a key that this machine trusts: minisign's detached signatures over
//! the record's canonical bytes, as `/buildid/<hex>/plan.minisig` hands them out
//! (<https://jedisct1.github.io/minisign/>).

use crate::failure::Refusal;
use minisign_verify::{PublicKey, Signature};
use std::path::{Path, PathBuf};

/// Longest signature file: four lines, one of which is a comment.
pub const MAX_BYTES: usize = 4096;

/// A public key, and the file it is from.
#[derive(Debug, Clone)]
pub struct Key {
    key: PublicKey,
    path: PathBuf,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}: give --pubkey a minisign public key, as `minisign -G` writes it", .path.display())]
pub struct KeyError {
    path: PathBuf,
    why: String,
}

impl Key {
    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let path = path.to_owned();
        match PublicKey::from_file(&path) {
            Ok(key) => Ok(Self { key, path }),
            Err(why) => Err(KeyError { path, why: why.to_string() }),
        }
    }

    /// Checks the signature over exactly these bytes; without one they are refused.
    pub fn verify(&self, bytes: &[u8], signature: Option<&str>) -> Result<(), Refusal> {
        let key = self.path.display().to_string();
        let Some(signature) = signature else { return Err(Refusal::Unsigned { key }) };
        let verified = Signature::decode(signature)
            .and_then(|signature| self.key.verify(bytes, &signature, false));
        verified.map_err(|why| Refusal::Signature { key, why: why.to_string() })
    }
}
