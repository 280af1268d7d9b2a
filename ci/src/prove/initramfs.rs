//! The guest's file system: a cpio archive of the kernel's own format, "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::{BTreeMap, BTreeSet};

/// Files by path, without a slash in front.
pub type FilesByPath = BTreeMap<String, Entry>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file: its bytes, and whether it may be executed.
    File(Vec<u8>, bool),
    /// A symbolic link, and where it leads.
    Link(String),
}

const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

/// The files as an archive. Directories are made where files need them; `/bin`, `/lib`, `/lib64` and
/// `/sbin` lead below `/usr`.
pub fn archive(files: &FilesByPath) -> Vec<u8> {
    let mut archive = Archive::default();
    let mut directories = BTreeSet::new();
    for directory in ["dev", "proc", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"] {
        archive.parents(&format!("{directory}/"), &mut directories);
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        archive.add(name, LINK, format!("usr/{name}").as_bytes());
    }
    for (path, entry) in files {
        archive.parents(path, &mut directories);
        match entry {
            Entry::File(bytes, false) => archive.add(path, FILE, bytes),
            Entry::File(bytes, true) => archive.add(path, PROGRAM, bytes),
            Entry::Link(target) => archive.add(path, LINK, target.as_bytes()),
        }
    }
    archive.add("TRAILER!!!", 0, b"");
    archive.bytes
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    /// The directories that lead to a path, once each.
    fn parents(&mut self, path: &str, made: &mut BTreeSet<String>) {
        for (end, _) in path.match_indices('/') {
            if made.insert(path[..end].to_owned()) {
                self.add(&path[..end], DIRECTORY, b"");
            }
        }
    }

    fn add(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.count += 1;
        let (size, name_size) = (bytes.len() as u32, path.len() as u32 + 1);
        // Inode, mode, user, group, links, time, size, device and its rdev, name, checksum.
        let fields = [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        let end = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(end, 0);
    }
}
