//! Files on disk: `packages/<sha256>` whole and checked, `partial/<sha256>` under way, and beside it
//! `partial/<sha256>.validator` with what says that the server's file is still the same. A file whose
//! hash nobody knows beforehand is under way as `partial/url-<sha256 of its URL>`.
//!
//! Whoever downloads a file holds a lock on its partial file, so two processes, or two kernels that
//! need the same package, fetch it once.

use super::{FetchError, error::cache_error};
use nfdrop_db::hex;
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process, thread,
};

const WHOLE: &str = "packages";
const PARTIAL: &str = "partial";

pub(super) fn create(cache: &Path) -> Result<(), FetchError> {
    for directory in [WHOLE, PARTIAL] {
        let path = cache.join(directory);
        fs::create_dir_all(&path).map_err(|error| cache_error(&path, &error))?;
    }
    Ok(())
}

pub(super) enum Opened {
    /// Checked.
    Whole(PathBuf),
    Partial(Box<Partial>),
}

/// What a file has to be like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    Known { size: u64, sha256: [u8; 32] },
    AtMost(u64),
}

/// A file under way. Holds the lock on it.
pub(super) struct Partial {
    expected: Expected,
    /// Its size, as far as anybody has said it.
    total: Option<u64>,
    packages: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
    validator: Option<String>,
}

/// Where a file of this content is, or would be.
pub(super) fn whole(cache: &Path, sha256: &[u8; 32]) -> PathBuf {
    cache.join(WHOLE).join(hex::encode(sha256))
}

/// Finds the file in the cache, or takes the lock to fetch it. Blocks while another does.
pub(super) fn open(cache: &Path, size: u64, sha256: [u8; 32]) -> Result<Opened, FetchError> {
    let (whole, path) = (whole(cache, &sha256), cache.join(PARTIAL).join(hex::encode(&sha256)));
    let opened = || -> io::Result<Opened> {
        loop {
            if is_whole(&whole, size, sha256)? {
                return Ok(Opened::Whole(whole.clone()));
            }
            if let Some(file) = lock(&path)? {
                let expected = Expected::Known { size, sha256 };
                let mut partial = Partial::new(cache, path.clone(), file, expected);
                partial.validator = fs::read_to_string(validator_path(&path)).ok();
                partial.take_up(size)?;
                return Ok(Opened::Partial(Box::new(partial)));
            }
        }
    };
    opened().map_err(|error| cache_error(&path, &error))
}

/// Takes the lock to fetch a file of which only the URL is known.
pub(super) fn open_unknown(cache: &Path, key: &str, max: u64) -> Result<Partial, FetchError> {
    let path = cache.join(PARTIAL).join(format!("url-{key}"));
    let opened = || -> io::Result<Partial> {
        loop {
            if let Some(file) = lock(&path)? {
                let mut partial = Partial::new(cache, path.clone(), file, Expected::AtMost(max));
                partial.clear(None)?;
                return Ok(partial);
            }
        }
    };
    opened().map_err(|error| cache_error(&path, &error))
}

/// Opens and locks a partial file; `None` where it was moved to its place meanwhile.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().read(true).append(true).create(true).open(path)?;
    file.lock()?;
    match fs::metadata(path) {
        Ok(there) if there.ino() == file.metadata()?.ino() => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the cache has the file, with the right content; what has other content is removed.
pub(super) fn is_whole(path: &Path, size: u64, sha256: [u8; 32]) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    let mut hash = Sha256::new();
    if file.metadata()?.len() == size && hash_file(&mut file, &mut hash)? == size {
        let found: [u8; 32] = hash.finalize().into();
        if found == sha256 {
            return Ok(true);
        }
    }
    fs::remove_file(path).map(|()| false)
}

fn hash_file(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let (mut buffer, mut len) = (vec![0; 256 << 10], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(len),
            read => {
                hash.update(&buffer[..read]);
                len += read as u64;
            }
        }
    }
}

fn validator_path(path: &Path) -> PathBuf {
    path.with_extension("validator")
}

impl Partial {
    fn new(cache: &Path, path: PathBuf, file: File, expected: Expected) -> Self {
        let total = match expected {
            Expected::Known { size, .. } => Some(size),
            Expected::AtMost(_) => None,
        };
        let (packages, hash) = (cache.join(WHOLE), Sha256::new());
        Self { expected, total, packages, path, file, len: 0, hash, validator: None }
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its size, where anybody has said it.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Whether all of it is there.
    pub(super) fn is_long_enough(&self) -> bool {
        self.len > 0 && self.total == Some(self.len)
    }

    /// Takes note of the size that the server says, where no index does.
    pub(super) fn announce(&mut self, total: Option<u64>) {
        if let Expected::AtMost(_) = self.expected {
            self.total = total;
        }
    }

    /// What the server's file had to say of its version when this was begun.
    pub(super) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Takes up what is there from another time.
    fn take_up(&mut self, size: u64) -> io::Result<()> {
        if self.validator.is_none() || self.file.metadata()?.len() > size {
            return self.clear(None);
        }
        self.file.rewind()?;
        self.len = hash_file(&mut self.file, &mut self.hash)?;
        Ok(())
    }

    /// Forgets what is there.
    pub(super) fn restart(&mut self, validator: Option<String>) -> Result<(), FetchError> {
        self.clear(validator).map_err(|error| cache_error(&self.path, &error))
    }

    fn clear(&mut self, validator: Option<String>) -> io::Result<()> {
        self.file.set_len(0)?;
        self.len = 0;
        self.hash = Sha256::new();
        let path = validator_path(&self.path);
        match &validator {
            // Of a file that only this process goes on with, this process remembers it.
            Some(_) if matches!(self.expected, Expected::AtMost(_)) => {}
            Some(text) => fs::write(path, text)?,
            None => remove(&path)?,
        }
        self.validator = validator;
        Ok(())
    }

    /// Adds bytes, never more than the file may have.
    pub(super) fn append(&mut self, url: &Url, bytes: &[u8]) -> Result<(), FetchError> {
        let max = match self.expected {
            Expected::Known { size, .. } => size,
            Expected::AtMost(max) => max,
        };
        if bytes.len() as u64 > max - self.len {
            let error = FetchError::TooLarge { url: url.to_string(), max };
            self.restart(None)?;
            return Err(error);
        }
        self.file.write_all(bytes).map_err(|error| cache_error(&self.path, &error))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// The SHA-256 of what is there, if it is the whole file with the right content.
    pub(super) fn check(&self, url: &Url) -> Result<[u8; 32], FetchError> {
        let (url, found) = (url.to_string(), self.len);
        if let Some(expected) = self.total.filter(|total| *total != found) {
            return Err(FetchError::WrongSize { url, expected, found });
        }
        let found: [u8; 32] = self.hash.clone().finalize().into();
        match self.expected {
            Expected::Known { sha256, .. } if sha256 != found => {
                let (expected, found) = (hex::encode(&sha256), hex::encode(&found));
                Err(FetchError::HashMismatch { url, expected, found })
            }
            _ => Ok(found),
        }
    }

    /// Moves the checked file to its place, so that it is there whole or not at all.
    pub(super) fn keep(self, sha256: &[u8; 32]) -> Result<PathBuf, FetchError> {
        let whole = self.packages.join(hex::encode(sha256));
        let keep = || -> io::Result<()> {
            self.file.sync_all()?;
            remove(&validator_path(&self.path))?;
            fs::rename(&self.path, &whole)
        };
        keep().map_err(|error| cache_error(&whole, &error))?;
        Ok(whole)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a small file, so that it is there whole or not at all.
pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), FetchError> {
    let put = || -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(parent)?;
        // Two processes do not write to the same one.
        let new = path.with_extension(format!("{}-{:?}", process::id(), thread::current().id()));
        fs::write(&new, bytes)?;
        fs::rename(&new, path)
    };
    put().map_err(|error| cache_error(path, &error))
}
