//! Finds network namespaces by their inode numbers, and does things inside.
//!
//! A namespace's inode number is given to another one as soon as it is gone, which with containers
//! happens often. So what is known about a namespace is kept only as long as a file or socket of it
//! is open here, which keeps it alive, and both are let go once nobody else has it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

/// Directories whose files are namespaces that `ip netns` and container engines keep.
const KEPT: [&str; 2] = ["run/netns", "run/docker/netns"];

/// The inode number of a namespace's file.
pub fn inode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok()?.ino().try_into().ok()
}

/// The namespace of this thread.
pub fn own(root: &Path) -> Option<u32> {
    inode(&root.join("proc/thread-self/ns/net"))
}

/// A file of the namespace with this inode number: one that is kept, else one of a process.
pub fn find(root: &Path, wanted: u32) -> Option<PathBuf> {
    let entries = |directory: &str| fs::read_dir(root.join(directory)).into_iter().flatten();
    let kept = KEPT.into_iter().flat_map(entries).flatten().map(|entry| entry.path());
    let is_process = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    let of_processes = entries("proc")
        .flatten()
        .filter(|entry| is_process(entry.file_name().as_encoded_bytes()))
        .map(|entry| entry.path().join("ns/net"));
    kept.chain(of_processes).find(|path| inode(path) == Some(wanted))
}

/// Opens it, if it still is that one.
pub fn open(path: &Path, wanted: u32) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.ino() == u64::from(wanted) {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the namespace is gone"))
}

/// Does it in that namespace: in a thread of its own, which is all that moves there.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned());
        let handle = thread.spawn_scoped(scope, || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)?;
            Ok(work())
        })?;
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files: their inode numbers stand for those of namespaces.
    #[test]
    fn kept_ones_come_first_then_processes() {
        let root = tempfile::tempdir().unwrap();
        let place = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        let process = place("proc/17/ns/net");
        fs::write(&process, "").unwrap();
        fs::hard_link(&process, place("proc/self-like/net")).unwrap();
        let wanted = inode(&process).unwrap();
        assert_eq!(find(root.path(), wanted), Some(process.clone()));
        let kept = place("run/netns/blue");
        fs::hard_link(&process, &kept).unwrap();
        assert_eq!(find(root.path(), wanted), Some(kept.clone()));
        assert!(open(&kept, wanted).is_ok());

        let other = place("run/netns/other");
        fs::write(&other, "").unwrap();
        assert_eq!(open(&other, wanted).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::remove_file(kept).unwrap();
        fs::remove_file(process).unwrap();
        assert_eq!(find(root.path(), wanted), None);
    }

    #[test]
    fn the_own_namespace_is_a_processs() {
        let root = Path::new("/");
        assert!(find(root, own(root).unwrap()).is_some());
    }
}
