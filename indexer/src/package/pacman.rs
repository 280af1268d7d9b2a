//! A package of pacman, Arch's: one tar archive, compressed with zstd, before 2020 with xz, in
//! earlier times with gzip, or not at all. The kernel is in it whole: `vmlinuz` lies among its
//! modules. The name says how it is compressed, but is nobody's word: the first bytes tell.

use super::{
    decoder::decoder,
    members::{KernelFiles, Limits, MembersError, Sink, Wanted},
    pkginfo::{self, PkgInfo, PkgInfoError},
    tarball,
};
use nfdrop_db::Reason;
use std::io::{self, Read};

/// The first block of a tar archive, which is enough to tell one.
const BLOCK: usize = 512;
/// How a file of each compression begins, and its suffix. A tar archive is told by its first block.
const MAGICS: [(&[u8], &str); 3] =
    [(b"\x28\xb5\x2f\xfd", ".zst"), (b"\xfd7zXZ\0", ".xz"), (b"\x1f\x8b", ".gz")];
/// Members looked at for `.PKGINFO`; it is one of the first four.
const MAX_BEFORE_INFO: usize = 16;

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum PacmanError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file, or another compression.
    #[error(
        "not a package of pacman: it begins with {0:02x?}, expected a tar archive, plain or in \
         zstd, xz or gzip"
    )]
    Magic(Vec<u8>),
    /// There is no `.PKGINFO` where it belongs.
    #[error("not a package of pacman: none of its first {max} members is .PKGINFO", max = MAX_BEFORE_INFO)]
    NoInfo,
    /// What the package says of itself is refused.
    #[error(transparent)]
    Info(#[from] PkgInfoError),
    /// Something in the archive is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
}

impl PacmanError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        Reason::MalformedPackage
    }
}

/// Takes the wanted kernel files out of a package.
pub fn kernel_files(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, PacmanError> {
    Ok(tarball::search(tar(reader)?, wanted, limits)?)
}

/// Offers the files of a package to a sink until that has enough.
pub(super) fn offer(
    reader: impl Read,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), PacmanError> {
    Ok(tarball::offer(tar(reader)?, limits, sink)?)
}

/// Who the package says it is. Reads no further than that.
pub fn info(reader: impl Read) -> Result<PkgInfo, PacmanError> {
    let mut archive = tar::Archive::new(tar(reader)?);
    for entry in archive.entries()?.raw(true).take(MAX_BEFORE_INFO) {
        let entry = entry?;
        let name = entry.path_bytes();
        if name.strip_prefix(b"./").unwrap_or(&name) == pkginfo::NAME
            && entry.header().entry_type().is_file()
        {
            return Ok(PkgInfo::read(entry)?);
        }
    }
    Err(PacmanError::NoInfo)
}

/// Whether a file that begins with these bytes is a tar archive, compressed or not. zstd gives nothing
/// before all of a block is there, which has up to 128 KiB.
pub fn is_tar(start: &[u8]) -> bool {
    let mut block = Vec::new();
    // What is cut off is an error, after what there is was read.
    let _ = tar(start).map(|reader| reader.take(BLOCK as u64).read_to_end(&mut block));
    is_tar_block(&block)
}

fn is_tar_block(block: &[u8]) -> bool {
    block.get(257..262) == Some(b"ustar")
}

/// The tar archive in a package, or in a repository's database.
pub(crate) fn tar<'a>(mut reader: impl Read + 'a) -> Result<Box<dyn Read + 'a>, PacmanError> {
    let mut start = Vec::with_capacity(BLOCK);
    reader.by_ref().take(BLOCK as u64).read_to_end(&mut start)?;
    let suffix = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
    let suffix = suffix.map(|(_, suffix)| *suffix).or(is_tar_block(&start).then_some(""));
    let refused = |mut start: Vec<u8>| {
        start.truncate(8);
        PacmanError::Magic(start)
    };
    let Some(suffix) = suffix else { return Err(refused(start)) };
    let whole = io::Cursor::new(start).chain(reader);
    match decoder(suffix, whole) {
        Some(decoder) => Ok(decoder?),
        None => Err(refused(Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::deb::tests::Hostile, *};
    use proptest::prelude::*;
    use tar::EntryType;

    const RELEASE: &str = "6.2.10-arch1-1";
    const IMAGE: &str = "usr/lib/modules/6.2.10-arch1-1/vmlinuz";
    const MODULE: &str = "usr/lib/modules/6.2.10-arch1-1/kernel/net/netfilter/nf_tables.ko.zst";
    const INFO: &[u8] = b"pkgname = linux\npkgver = 6.2.10.arch1-1\narch = x86_64\n";

    /// As makepkg packs them.
    fn good() -> Hostile {
        Hostile::default()
            .file(".BUILDINFO", b"format = 2\n")
            .file(".MTREE", b"\x1f\x8b")
            .file(".PKGINFO", INFO)
            .entry("usr/", EntryType::Directory, 0, b"")
            .file(MODULE, b"module")
            .file(IMAGE, b"image")
    }

    fn compressed(tar: &[u8]) -> [Vec<u8>; 4] {
        let (mut xz, mut gz) = (Vec::new(), Vec::new());
        liblzma::read::XzEncoder::new(tar, 6).read_to_end(&mut xz).unwrap();
        let level = flate2::Compression::fast();
        flate2::read::GzEncoder::new(tar, level).read_to_end(&mut gz).unwrap();
        [tar.to_vec(), xz, gz, zstd::encode_all(tar, 3).unwrap()]
    }

    fn read(package: &[u8]) -> Result<KernelFiles, PacmanError> {
        kernel_files(package, Wanted::Both, &Limits::default())
    }

    #[test]
    fn reads_every_compression() {
        for package in compressed(&good().tar()) {
            assert!(is_tar(&package));
            let files = read(&package).unwrap();
            assert_eq!(files.release.as_deref(), Some(RELEASE));
            assert_eq!(files.vmlinuz.as_deref(), Some(&b"image"[..]));
            assert_eq!(files.nf_tables.unwrap().name, "nf_tables.ko.zst");
            let info = info(&package[..]).unwrap();
            assert_eq!((info.name.as_str(), info.version.as_str()), ("linux", "6.2.10.arch1-1"));
        }
        for package in &compressed(&good().tar())[1..] {
            // Cut anywhere there is an error, and never less than all files.
            for cut in 0..package.len() - 1 {
                let Ok(files) = read(&package[..cut]) else { continue };
                assert!(files.vmlinuz.is_some() && files.nf_tables.is_some(), "{cut}");
            }
        }
        // A first member that cannot be compressed: .MTREE is long, and in gzip.
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(400 << 10)
        .collect();
        for package in compressed(&Hostile::default().file(".MTREE", &noise).tar()) {
            assert!(is_tar(&package[..super::super::any::START as usize]));
        }
        for other in compressed(b"\x7fELF\x02\x01\x01") {
            assert!(!is_tar(&other));
        }
    }

    #[test]
    fn stops_where_all_is_found() {
        // Behind the image there is rubbish, which is never looked at; and behind .PKGINFO.
        let tar = good().tar();
        let cut = zstd::encode_all(&[&tar[..tar.len() - 1024], &[0xff; 8192]].concat()[..], 3);
        assert!(read(&cut.unwrap()).is_ok());
        let cut = [&tar[..6 * 512], &[0xff; 8192][..]].concat();
        assert!(info(&cut[..]).is_ok() && read(&cut).is_err());
    }

    #[test]
    fn refuses_hostile_packages() {
        let refused = |package: &[u8]| read(package).unwrap_err().to_string();
        let no_info = |package: &[u8]| info(package).unwrap_err().to_string();
        let [_, xz, gz, zst] = compressed(&good().tar());
        let mut flipped = zst.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let bzip2 = b"BZh91AY&SY";
        let image = |kind| Hostile::default().file("x", b"").entry(IMAGE, kind, 0, b"").tar();
        let other = "usr/lib/modules/6.2.11-arch1-1/vmlinuz";
        let two = Hostile::default().file(IMAGE, b"a").file(other, b"b").tar();
        let huge = Hostile::default().entry(IMAGE, EntryType::Regular, 1 << 40, b"few").tar();
        let huge_info = Hostile::default().entry(".PKGINFO", EntryType::Regular, 1 << 40, b"#");
        let early = Hostile::default().file("usr/bin/x", b"").entry("y", EntryType::Link, 0, b"");
        // In here, and compressed once more: a package is unpacked once.
        let nested = zstd::encode_all(&zst[..], 3).unwrap();
        let cases = [
            refused(b""),
            refused(bzip2),
            refused(&nested),
            refused(&xz[..xz.len() / 2]),
            refused(&gz[..gz.len() / 2]),
            refused(&flipped),
            refused(&image(EntryType::Symlink)),
            refused(&image(EntryType::Link)),
            refused(&two),
            refused(&huge),
            no_info(&huge_info.tar()),
            no_info(&early.tar()),
            no_info(&Hostile::default().entry(".PKGINFO", EntryType::Symlink, 0, b"").tar()),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        not a package of pacman: it begins with [], expected a tar archive, plain or in zstd, xz or gzip
        not a package of pacman: it begins with [42, 5a, 68, 39, 31, 41, 59, 26], expected a tar archive, plain or in zstd, xz or gzip
        the archive cannot be read: failed to read entire block
        the archive cannot be read: premature eof
        the archive cannot be read: incomplete deflate stream
        the archive cannot be read: archive header checksum mismatch
        usr/lib/modules/6.2.10-arch1-1/vmlinuz is not a regular file but a symbolic link
        usr/lib/modules/6.2.10-arch1-1/vmlinuz is not a regular file but a hard link
        the archive holds files of two kernels, 6.2.10-arch1-1 and 6.2.11-arch1-1
        usr/lib/modules/6.2.10-arch1-1/vmlinuz has 1099511627776 bytes, expected at most 50331648
        .PKGINFO has the pkgname "", expected a package's name
        not a package of pacman: none of its first 16 members is .PKGINFO
        not a package of pacman: none of its first 16 members is .PKGINFO
        "#);
        let traversal = Hostile::default()
            .file("usr/lib/modules/../../etc/vmlinuz", b"x")
            .file("/etc/nf_tables.ko.zst", b"x")
            .file("usr/lib/modules/6.2.10-arch1-1/../nf_tables.ko.zst/x", b"x");
        assert_eq!(read(&traversal.tar()).unwrap(), KernelFiles::default());
    }

    /// 100 GB of zeros, in zstd's 3 MB: blocks of one repeated byte.
    fn zeros() -> Vec<u8> {
        // Magic; no checksum, no content size; window of 128 KiB.
        let mut frame = b"\x28\xb5\x2f\xfd\x00\x38".to_vec();
        for _ in 0..100_000_000_000_u64 / (128 << 10) {
            let header: u32 = 1 << 1 | (128 << 10) << 3;
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.push(0);
        }
        let last = frame.len() - 4;
        frame[last] |= 1;
        frame
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let limits = Limits { total: 64 << 20, ..Limits::default() };
        let header = |name: &str| {
            let mut tar = Hostile::default().entry(name, EntryType::Regular, 100 << 30, b"").0;
            tar.truncate(512);
            zstd::encode_all(&tar[..], 3).unwrap()
        };
        for (name, expected) in [
            ("usr/share/doc/zeros", "the archive has more than 67108864 bytes when decompressed"),
            (
                IMAGE,
                "usr/lib/modules/6.2.10-arch1-1/vmlinuz has 107374182400 bytes, expected at most \
                 50331648",
            ),
        ] {
            // Two frames of zstd are one stream.
            let bomb = [header(name), zeros()].concat();
            let error = kernel_files(&bomb[..], Wanted::Both, &limits).unwrap_err();
            assert_eq!(
                (error.to_string().as_str(), error.reason()),
                (expected, Reason::MalformedPackage)
            );
        }
        assert!(matches!(
            info(&[header(".PKGINFO"), zeros()].concat()[..]),
            Err(PacmanError::Info(PkgInfoError::TooLong))
        ));
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), which in 0_usize..4, cut in any::<prop::sample::Index>()) {
            let mut package = compressed(&good().tar())[which].clone();
            for (place, value) in flips {
                let place = place.index(package.len());
                package[place] = value;
            }
            package.truncate(cut.index(package.len() + 1));
            let _ = read(&package);
            let _ = info(&package[..]);
            let _ = is_tar(&package);
        }
    }
}
