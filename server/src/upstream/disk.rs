//! Answers of other servers on disk: they outlive a restart, and are there when nobody answers.
//!
//! A file for each build: the record's canonical bytes, a line feed, and its signature, if it has one. The
//! file system's times say how old it is. What has not been used for longest goes first.

use super::Remote;
use moka::{notification::RemovalCause, sync::Cache};
use nfdrop_db::{BuildId, Record};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::task;

/// Older ones are asked for again.
const FRESH: Duration = Duration::from_hours(24);
/// Longest file: a record and a signature.
const MAX_FILE: u64 = Record::MAX_BYTES as u64 + 8192;
/// What a file takes at least.
const BLOCK: u64 = 4096;

/// A directory with answers, of bounded size.
#[derive(Debug, Clone)]
pub struct Disk {
    directory: PathBuf,
    /// Sizes of the files; what it lets go is deleted.
    files: Cache<BuildId, u32>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} for answers of other servers: {source}", .directory.display())]
pub struct DiskError {
    directory: PathBuf,
    source: io::Error,
}

impl Disk {
    /// Answers in this directory, at most so many bytes of them.
    pub fn open(directory: &Path, bytes: u64) -> Result<Self, DiskError> {
        let error = |source| DiskError { directory: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(error)?;
        let place = directory.to_owned();
        let files = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_: &BuildId, size: &u32| *size)
            .eviction_listener(move |id: std::sync::Arc<BuildId>, _, cause| {
                if cause == RemovalCause::Size {
                    let _ = fs::remove_file(place.join(id.to_string()));
                }
            })
            .build();
        let disk = Self { directory: directory.to_owned(), files };
        let mut found = vec![];
        for entry in fs::read_dir(directory).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Ok(id) = name.parse::<BuildId>() {
                let metadata = entry.metadata().map_err(error)?;
                found.push((metadata.modified().map_err(error)?, id, metadata.len()));
            } else if name.starts_with(".tmp") {
                // Of a server that was killed while it wrote.
                let _ = fs::remove_file(entry.path());
            }
        }
        found.sort();
        for (_, id, size) in found {
            disk.files.insert(id, weight(size));
        }
        disk.files.run_pending_tasks();
        Ok(disk)
    }

    /// What is there of a build, and whether it is fresh. What cannot be read is not there.
    pub async fn get(&self, id: &BuildId) -> Option<(Remote, bool)> {
        self.files.get(id)?;
        let (path, id) = (self.directory.join(id.to_string()), id.clone());
        let read = task::spawn_blocking(move || read(&path, &id));
        read.await.ok().flatten()
    }

    /// Keeps an answer. That it cannot be kept is said in the log, and no reason not to hand it out.
    pub async fn put(&self, id: &BuildId, remote: &Remote) {
        let mut content = remote.bytes.to_vec();
        content.push(b'\n');
        content.extend(remote.signature.as_deref().unwrap_or_default().as_bytes());
        let size = weight(content.len() as u64);
        let (directory, name) = (self.directory.clone(), id.to_string());
        let written = task::spawn_blocking(move || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(".tmp").tempfile_in(&directory)?;
            io::Write::write_all(&mut file, &content)?;
            file.persist(directory.join(name))?;
            Ok(())
        });
        match written.await {
            Ok(Ok(())) => {
                self.files.insert(id.clone(), size);
            }
            Ok(Err(error)) => {
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "an answer of another server is not kept");
            }
            Err(_) => {}
        }
    }
}

fn weight(bytes: u64) -> u32 {
    u32::try_from(bytes.next_multiple_of(BLOCK).max(BLOCK)).unwrap_or(u32::MAX)
}

fn read(path: &Path, id: &BuildId) -> Option<(Remote, bool)> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.len() <= MAX_FILE)?;
    let age = SystemTime::now().duration_since(metadata.modified().ok()?);
    let content = fs::read(path).ok()?;
    let end = memchr::memchr(b'\n', &content)?;
    let signature = String::from_utf8(content[end + 1..].to_vec()).ok()?;
    let signature = Some(signature).filter(|text| !text.is_empty());
    let Ok(remote) = Remote::new(id, content[..end].to_vec().into(), signature) else {
        let _ = fs::remove_file(path);
        return None;
    };
    // A clock that was set back makes it fresh for longer, nothing else.
    let fresh = age.map_or(true, |age| age < FRESH);
    Some((remote, fresh))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfdrop_db::sample;

    fn remote(number: u8) -> (BuildId, Remote) {
        let id = BuildId::from_bytes(&[number; 20]).unwrap();
        let bytes = sample::resolved(id.clone()).to_bytes().into();
        let remote = Remote::new(&id, bytes, Some(format!("signature\nof {number}\n"))).unwrap();
        (id, remote)
    }

    #[tokio::test]
    async fn what_is_kept_comes_back_after_a_restart_and_never_takes_more_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        for number in 0..20 {
            let (id, remote) = remote(number);
            disk.put(&id, &remote).await;
        }
        drop(disk);
        fs::write(directory.path().join(".tmpX"), "half").unwrap();
        fs::write(directory.path().join("README"), "of somebody else").unwrap();
        let disk = Disk::open(directory.path(), 10 * BLOCK).unwrap();
        let mut there = 0;
        for number in 0..20 {
            let (id, remote) = remote(number);
            let Some((found, fresh)) = disk.get(&id).await else { continue };
            assert!(fresh);
            assert_eq!((found.bytes, found.signature), (remote.bytes, remote.signature));
            there += 1;
        }
        assert!((1..=10).contains(&there), "{there}");
        let files = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, there + 1, "and README");
    }

    #[tokio::test]
    async fn what_was_changed_on_disk_is_not_handed_out() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path(), 1 << 20).unwrap();
        for content in ["", "{}\n", "no line feed", "\n\n"] {
            let (id, remote) = remote(1);
            disk.put(&id, &remote).await;
            fs::write(directory.path().join(id.to_string()), content).unwrap();
            assert!(disk.get(&id).await.is_none(), "{content}");
        }
        let ((id, one), (_, other)) = (remote(1), remote(2));
        disk.put(&id, &one).await;
        disk.put(&id, &other).await;
        assert!(disk.get(&id).await.is_none(), "of another build");
    }
}
