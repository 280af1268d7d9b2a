//! Keys from files: whose signatures count for a repository.

use super::{
    apk::rsa::RsaKeyError,
    openpgp::{Keyring, KeyringError},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Debian's own keyring, which apt falls back to.
const DEBIAN_KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";
/// Longest keyring read, in bytes.
const MAX_KEYRING: u64 = 16 << 20;

/// Where the keys of a repository are. All empty: every key that apt trusts, for apt repositories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFiles {
    /// Keyrings, by absolute path.
    pub files: Vec<PathBuf>,
    /// Only these of them, upper-case hex; none: all.
    pub fingerprints: Vec<String>,
    /// An armored key block that stands in apt's configuration itself.
    pub embedded: Option<String>,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadKeysError {
    /// A file cannot be read.
    #[error("the keyring {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It holds something else.
    #[error("{}: {error}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyringError,
    },
    /// It holds no RSA key, which apk's are.
    #[error("{}: {error}", path.display())]
    Rsa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: RsaKeyError,
    },
    /// The key block in the entry itself.
    #[error("the key block in Signed-By: {0}")]
    Embedded(KeyringError),
    /// No file of a folder is a key, or none has the fingerprint that is asked for.
    #[error(
        "no RSA key found; name the files that the distribution has in /etc/apk/keys, or a folder with \
         them, in the catalogue or with --keyring"
    )]
    NoRsa,
    /// There are no keys at all.
    #[error(
        "no keyring found; install the package debian-archive-keyring or name one with Signed-By"
    )]
    None,
}

impl KeyFiles {
    /// The OpenPGP keys; those of Debian and apt where none are named. Files are looked for below
    /// `root`, which is `/` but in tests and containers. One of several files that is not there is
    /// passed over: a distribution's keys come and go.
    pub fn openpgp(&self, root: &Path) -> Result<Keyring, LoadKeysError> {
        let mut keyring = Keyring::default();
        if let Some(block) = &self.embedded {
            keyring.add(block.as_bytes()).map_err(LoadKeysError::Embedded)?;
            return Ok(keyring);
        }
        let mut missing = None;
        for path in &self.files {
            let path = root.join(path.strip_prefix("/").unwrap_or(path));
            match add_file(&mut keyring, &path) {
                Err(error @ LoadKeysError::Read { .. }) => missing = missing.or(Some(error)),
                added => added?,
            }
        }
        match missing {
            Some(error) if keyring.is_empty() => return Err(error),
            Some(error) => tracing::debug!("{error}; the other keys are used"),
            None => {}
        }
        if !self.files.is_empty() {
            return Ok(keyring.only(&self.fingerprints));
        }
        for path in trusted_files(root) {
            // One file that is broken must not take the others away; a signature by its keys will be
            // reported as by an unknown key.
            if let Err(error) = add_file(&mut keyring, &path) {
                tracing::warn!("{error}; skipped");
            }
        }
        if keyring.is_empty() {
            return Err(LoadKeysError::None);
        }
        Ok(keyring.only(&self.fingerprints))
    }
}

fn trusted_files(root: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<_> = fs::read_dir(root.join("etc/apt/trusted.gpg.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "gpg" || e == "asc"))
        .collect();
    parts.sort();
    let whole = ["etc/apt/trusted.gpg", DEBIAN_KEYRING].map(|path| root.join(path));
    parts.extend(whole.into_iter().filter(|path| path.exists()));
    parts
}

fn add_file(keyring: &mut Keyring, path: &Path) -> Result<(), LoadKeysError> {
    let bytes = read_file(path)?;
    let wrong = |error| LoadKeysError::Keys { path: path.to_owned(), error };
    keyring.add(&bytes).map_err(wrong)?;
    keyring.revoke(withdrawn(path)?);
    Ok(())
}

/// The fingerprints in a file beside a keyring: of `archlinux.gpg` it is `archlinux-revoked`, which
/// pacman-key(8) heeds.
fn withdrawn(keyring: &Path) -> Result<Vec<String>, LoadKeysError> {
    let Some(name) = keyring.file_stem() else { return Ok(Vec::new()) };
    let mut name = name.to_owned();
    name.push("-revoked");
    let path = keyring.with_file_name(name);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = read_file(&path)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.split_whitespace().map(str::to_ascii_uppercase).collect())
}

/// A file with keys, if it is of a size that such files have.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, LoadKeysError> {
    let unreadable = |error| LoadKeysError::Read { path: path.to_owned(), error };
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_KEYRING {
        return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read(path).map_err(unreadable)
}
