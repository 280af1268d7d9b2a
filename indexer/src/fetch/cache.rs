//! Files on disk: `packages/<sha256>` whole and checked, `partial/<sha256>` under way, and beside it
//! `partial/<sha256>.validator` with what says that the server's file is still the same.
//!
//! Whoever downloads a file holds a lock on its partial file, so two processes, or two kernels that
//! need the same package, fetch it once.

use super::{FetchError, cache_error, hex32};
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
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

/// A file under way. Holds the lock on it.
pub(super) struct Partial {
    pub(super) size: u64,
    sha256: [u8; 32],
    whole: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
    validator: Option<String>,
}

/// Finds the file in the cache, or takes the lock to fetch it. Blocks while another does.
pub(super) fn open(cache: &Path, size: u64, sha256: [u8; 32]) -> Result<Opened, FetchError> {
    let name = hex32(&sha256);
    let (whole, path) = (cache.join(WHOLE).join(&name), cache.join(PARTIAL).join(&name));
    let opened = || -> io::Result<Opened> {
        loop {
            if is_whole(&whole, size, sha256)? {
                return Ok(Opened::Whole(whole.clone()));
            }
            let file = File::options().read(true).append(true).create(true).open(&path)?;
            file.lock()?;
            // Who held the lock before may have moved the file to its place: then this is not the
            // file at the path any more.
            match fs::metadata(&path) {
                Ok(there) if there.ino() == file.metadata()?.ino() => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let validator = fs::read_to_string(validator_path(&path)).ok();
            let (path, whole, hash) = (path.clone(), whole.clone(), Sha256::new());
            let mut partial = Partial { size, sha256, whole, path, file, len: 0, hash, validator };
            partial.take_up()?;
            return Ok(Opened::Partial(Box::new(partial)));
        }
    };
    opened().map_err(|error| cache_error(&path, &error))
}

/// Whether the cache has the file, with the right content; what has other content is removed.
fn is_whole(path: &Path, size: u64, sha256: [u8; 32]) -> io::Result<bool> {
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
    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the server's file had to say of its version when this was begun.
    pub(super) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Takes up what is there from another time.
    fn take_up(&mut self) -> io::Result<()> {
        if self.validator.is_none() || self.file.metadata()?.len() > self.size {
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
            Some(text) => fs::write(path, text)?,
            None => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        self.validator = validator;
        Ok(())
    }

    /// Adds bytes, never more than the file may have.
    pub(super) fn append(&mut self, url: &Url, bytes: &[u8]) -> Result<(), FetchError> {
        if bytes.len() as u64 > self.size - self.len {
            let error = FetchError::TooLarge { url: url.to_string(), max: self.size };
            self.restart(None)?;
            return Err(error);
        }
        self.file.write_all(bytes).map_err(|error| cache_error(&self.path, &error))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Whether this is the whole file with the right content.
    pub(super) fn check(&self, url: &Url) -> Result<(), FetchError> {
        let (url, found) = (url.to_string(), self.len);
        if found != self.size {
            return Err(FetchError::WrongSize { url, expected: self.size, found });
        }
        let found: [u8; 32] = self.hash.clone().finalize().into();
        if found != self.sha256 {
            let (expected, found) = (hex32(&self.sha256), hex32(&found));
            return Err(FetchError::HashMismatch { url, expected, found });
        }
        Ok(())
    }

    /// Moves the checked file to its place, so that it is there whole or not at all.
    pub(super) fn keep(self) -> Result<PathBuf, FetchError> {
        let keep = || -> io::Result<()> {
            self.file.sync_all()?;
            match fs::remove_file(validator_path(&self.path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(&self.path, &self.whole)
        };
        keep().map_err(|error| cache_error(&self.whole, &error))?;
        Ok(self.whole)
    }
}
