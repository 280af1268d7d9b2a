//! Programs of this machine for the guest, with the libraries that they need: whatever distribution this is,
//! and whatever kernel is booted.

use super::initramfs::{Entry, FilesByPath};
use object::{
    Endianness, elf,
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Where libraries are in the guest: `LD_LIBRARY_PATH` of `guest/init.c`.
const LIBRARIES: &str = "usr/lib/nfdrop";
/// Most bytes of a program or library.
const MAX_FILE: u64 = 512 << 20;

/// Why a program cannot be taken along.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The program, or a library that it needs.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no program of this architecture.
    #[error("{} is no ELF program: {why}", .path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What it needs is not there.
    #[error("{} needs a library that is not there: {library}", .path.display())]
    NoLibrary {
        /// The program.
        path: PathBuf,
        /// As its loader says.
        library: String,
    },
}

/// Puts a program at this path of the guest, and its libraries and loader where it will look for them.
pub fn add(files: &mut FilesByPath, program: &Path, at: &str) -> Result<(), ProgramError> {
    let (bytes, loader) = loaded(program)?;
    if let Some(loader) = loader {
        for library in libraries(program)? {
            if let Some(name) = library.file_name() {
                let place = format!("{LIBRARIES}/{}", name.to_string_lossy());
                files.insert(place, Entry::File(loaded(&library)?.0, true));
            }
        }
        files.insert(below_usr(&loader), Entry::File(loaded(Path::new(&loader))?.0, true));
    }
    files.insert(at.to_owned(), Entry::File(bytes, true));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    let read = || {
        if fs::metadata(path)?.len() > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read(path)
    };
    read().map_err(|source| ProgramError::Read { path: path.to_owned(), source })
}

/// A program or library as far as it is loaded, and the loader that it names; a static one names none. What is
/// behind, debug information for the most part, would take a guest's memory.
fn loaded(path: &Path) -> Result<(Vec<u8>, Option<String>), ProgramError> {
    let mut bytes = read(path)?;
    let (end, loader) = segments(&bytes)
        .map_err(|error| ProgramError::NotElf { path: path.to_owned(), why: error.to_string() })?;
    bytes.truncate(end);
    // Where sections are (e_shoff, e_shnum and e_shstrndx of an ELF64 header): there are none now.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    Ok((bytes, loader))
}

/// Where the last segment that is loaded ends, and the loader.
fn segments(bytes: &[u8]) -> object::Result<(usize, Option<String>)> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let table = header.e_phoff.get(endian) + size_of_val(segments) as u64;
    let (mut end, mut loader) = (table, None);
    for segment in segments {
        if segment.p_type(endian) == elf::PT_LOAD {
            let (offset, size) = segment.file_range(endian);
            end = end.max(offset.saturating_add(size));
        }
        if let Some(name) = segment.interpreter(endian, bytes)? {
            loader = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok((usize::try_from(end).unwrap_or(usize::MAX), loader))
}

/// The libraries that its loader finds for it: what `ldd` prints. Only of a program that has a loader: a
/// static one would run.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, ProgramError> {
    let read = |source| ProgramError::Read { path: program.to_owned(), source };
    let listed =
        Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").output().map_err(read)?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        // libnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f…)
        let Some((name, path)) = line.split_once(" => ") else { continue };
        if path.starts_with("not found") {
            let (path, library) = (program.to_owned(), name.to_owned());
            return Err(ProgramError::NoLibrary { path, library });
        }
        let path = path.rsplit_once(" (0x").map_or(path, |(path, _)| path);
        libraries.push(PathBuf::from(path));
    }
    Ok(libraries)
}

/// Where `/bin`, `/lib` and `/sbin` lie below `/usr`.
fn below_usr(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let old = ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|old| path.starts_with(old));
    if old { format!("usr/{path}") } else { path.to_owned() }
}

/// A program of this machine: where `PATH` or the usual places have it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(usual);
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_libraries_and_its_loader() {
        let mut files = FilesByPath::new();
        add(&mut files, &std::env::current_exe().unwrap(), "usr/bin/this").unwrap();
        let libc = files.keys().any(|path| path.starts_with("usr/lib/nfdrop/libc."));
        let loader = files.keys().any(|path| path.contains("/ld-"));
        assert!(libc && loader && files.contains_key("usr/bin/this"), "{:?}", files.keys());
    }

    #[test]
    fn refuses_what_is_no_program() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#!/bin/sh\n").unwrap();
        let error = add(&mut FilesByPath::new(), file.path(), "usr/bin/nft").unwrap_err();
        assert!(matches!(error, ProgramError::NotElf { .. }), "{error}");
        let error = add(&mut FilesByPath::new(), Path::new("/missing"), "usr/bin/nft").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read /missing: No such file or directory (os error 2)"
        );
    }
}
