//! FILE arguments: whatever a person has that nft_do_chain is in.

use anyhow::Context as _;
use nfdrop_db::Reason;
use nfdrop_indexer::package::{Format, KernelFiles, Limits, PackageError, START, Wanted, unpack};
use nfdrop_resolver::{
    image::{Function, compress},
    kernel::{self, Files, NoFunction},
};
use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
};

/// A kernel, or a part of one, that was given.
pub(super) struct Input {
    /// The file, or the two packages, for messages.
    pub(super) name: String,
    /// One or two.
    pub(super) paths: Vec<PathBuf>,
    pub(super) content: Result<Content, NoFunction>,
}

pub(super) enum Content {
    /// A module, kernel image or extract: which one is seen when it is loaded.
    File(Vec<u8>),
    /// From a package, or two.
    Packages(KernelFiles),
}

impl Content {
    /// With the kernel image of `--vmlinux` where there is no other.
    pub(super) fn files<'a>(&'a self, vmlinux: Option<&'a [u8]>) -> Files<'a> {
        match self {
            // With a module as its only file the loader takes any kind of object.
            Self::File(file) => Files { vmlinuz: vmlinux, nf_tables: Some(file) },
            Self::Packages(files) => Files {
                vmlinuz: files.vmlinuz.as_deref().or(vmlinux),
                nf_tables: files.nf_tables.as_ref().map(|file| file.bytes.as_slice()),
            },
        }
    }
}

/// Reads files one after the other and joins packages that hold one kernel together.
#[derive(Default)]
pub(super) struct Inputs {
    /// Packages that hold a part of a kernel.
    parts: Vec<(PathBuf, KernelFiles)>,
}

impl Inputs {
    /// The kernel in a file; `None`: a part of one, which is kept until the other part is there.
    pub(super) fn read(&mut self, path: &Path) -> anyhow::Result<Option<Input>> {
        let name = path.display().to_string();
        let content = match read(path)? {
            Read::File(bytes) => Ok(Content::File(bytes)),
            Read::Package(Err(error)) => Err(error),
            Read::Package(Ok(files)) => match (&files.vmlinuz, &files.nf_tables) {
                (Some(_), Some(_)) => Ok(Content::Packages(files)),
                (None, None) => Err(NoFunction {
                    reason: Reason::NoNfTables,
                    detail: "the package holds neither a kernel image nor an nf_tables module; \
                             from 6.19 on Debian's linux-image-* is empty: give linux-binary-* and \
                             linux-modules-* together, and of Fedora and its kin kernel-core and \
                             kernel-modules-core"
                        .to_owned(),
                }),
                _ => return Ok(self.join(path, files)),
            },
        };
        Ok(Some(Input { name, paths: vec![path.to_owned()], content }))
    }

    fn join(&mut self, path: &Path, files: KernelFiles) -> Option<Input> {
        let fits = |(_, other): &(PathBuf, KernelFiles)| {
            other.release == files.release && other.vmlinuz.is_some() != files.vmlinuz.is_some()
        };
        let Some(place) = self.parts.iter().position(fits) else {
            self.parts.push((path.to_owned(), files));
            return None;
        };
        let (other_path, other) = self.parts.remove(place);
        let image_first = other.vmlinuz.is_some();
        let joined = KernelFiles {
            release: files.release,
            vmlinuz: files.vmlinuz.or(other.vmlinuz),
            nf_tables: files.nf_tables.or(other.nf_tables),
        };
        let name = format!("{} and {}", other_path.display(), path.display());
        // The image in front, as everywhere.
        let mut paths = vec![other_path, path.to_owned()];
        if !image_first {
            paths.reverse();
        }
        Some(Input { name, paths, content: Ok(Content::Packages(joined)) })
    }

    /// The parts that stayed alone.
    pub(super) fn rest(self) -> impl Iterator<Item = Input> {
        let input = |(path, files): (PathBuf, KernelFiles)| Input {
            name: path.display().to_string(),
            paths: vec![path],
            content: Ok(Content::Packages(files)),
        };
        self.parts.into_iter().map(input)
    }
}

/// The function in the files of one kernel, with what messages call them; `what` is made of it.
pub(super) fn function(
    files: &[PathBuf],
    vmlinux: Option<&PathBuf>,
    what: &str,
) -> anyhow::Result<(String, Result<Function, NoFunction>)> {
    let image = self::vmlinux(vmlinux)?;
    let mut inputs = Inputs::default();
    let mut found = Vec::new();
    for path in files {
        found.extend(inputs.read(path)?);
    }
    found.extend(inputs.rest());
    let count = found.len();
    let Ok([input]) = <[Input; 1]>::try_from(found) else {
        anyhow::bail!("{what} is of one kernel, these files are of {count}");
    };
    let function = match input.content {
        Ok(content) => kernel::load(content.files(image.as_deref())).0,
        Err(error) => Err(error),
    };
    Ok((input.name, function))
}

/// The kernel image in a file: vmlinux, vmlinuz, or a package that holds it.
pub(super) fn vmlinux(path: Option<&PathBuf>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    match read(path)? {
        Read::File(bytes) => Ok(Some(bytes)),
        Read::Package(files) => {
            let vmlinuz = files.with_context(|| path.display().to_string())?.vmlinuz;
            let missing = || format!("{} holds no kernel image", path.display());
            vmlinuz.with_context(missing).map(Some)
        }
    }
}

enum Read {
    File(Vec<u8>),
    Package(Result<KernelFiles, NoFunction>),
}

fn read(path: &Path) -> anyhow::Result<Read> {
    let cannot = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let mut bytes = Vec::new();
    (&file).take(START).read_to_end(&mut bytes).with_context(cannot)?;
    if Format::of(&bytes).is_some() {
        file.rewind().with_context(cannot)?;
        let files = unpack(&file, Wanted::Both, &Limits::default());
        let refused =
            |error: PackageError| NoFunction { reason: error.reason(), detail: error.to_string() };
        return Ok(Read::Package(files.map_err(refused)));
    }
    // vmlinux of a debug package may be larger than what it is unpacked to elsewhere.
    let max = 4 * compress::MAX_BYTES as u64;
    file.take(max).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 >= max {
        anyhow::bail!("{} has more than {max} bytes, too many for a kernel", path.display());
    }
    Ok(Read::File(bytes))
}
