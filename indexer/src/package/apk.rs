//! A package of apk, Alpine's, version 2: gzip streams one after the other, each a piece of one tar
//! archive.
//!
//! ```text
//! signatures   .SIGN.RSA.<key>, .SIGN.RSA256.<key>: over the bytes of the next gzip stream
//! control      .PKGINFO, with `datahash`: SHA-256 of all bytes behind this gzip stream
//! data         boot/vmlinuz-lts, lib/modules/R/…
//! ```
//!
//! What is signed and hashed is compressed, so where exactly a gzip stream ends matters. Each piece
//! may only hold what belongs there: a reader that goes by streams and one that goes by names would
//! else see different packages. Whether a signature holds is for `source::apk` to say.

use super::{
    members::{KernelFiles, Limits, MembersError, Sink, Wanted},
    pkginfo::{self, PkgInfo, PkgInfoError},
    tarball,
};
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use nfdrop_db::{Reason, hex};
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, BufReader, Read};
use tar::EntryType;

/// Compressed bytes are taken in pieces of this size.
const INPUT: usize = 256 << 10;
/// How gzip begins.
const GZIP: &[u8] = b"\x1f\x8b";
/// How files of apk's version 3 begin.
const VERSION_3: &[u8] = b"ADB";
/// What the names of signatures begin with.
const SIGNATURE: &str = ".SIGN.";
/// Most signatures of a package; there is one.
const MAX_SIGNATURES: usize = 8;
/// Longest signature, in bytes: RSA with 16,384 bits.
const MAX_SIGNATURE: usize = 2048;
/// Most bytes of a signature or control stream, as it is and unpacked. Kernels have 10 KiB.
const MAX_STREAM: u64 = 4 << 20;
/// Most members of one.
const MAX_MEMBERS: usize = 64;

/// What stands in front of the files of a package or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// In the order of the file; none: not signed.
    pub signatures: Vec<Signature>,
    /// The control stream, compressed: what is signed, and what an index has the hash of.
    pub control: Vec<u8>,
    /// From the control stream.
    pub info: PkgInfo,
}

/// A signature that may be good or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Its member's name without `.SIGN.`: `RSA.alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub`.
    pub name: String,
    /// The signature itself.
    pub bytes: Vec<u8>,
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApkError {
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("not a package of apk: it begins with {0:02x?}, expected gzip")]
    Magic(Vec<u8>),
    /// A version that is not known.
    #[error("a package of apk's version 3, expected version 2")]
    Version3,
    /// A gzip stream that is longer than any package's.
    #[error("signatures and control data have more than {max} bytes", max = MAX_STREAM)]
    TooLong,
    /// Too many members.
    #[error("signatures or control data have more than {max} members", max = MAX_MEMBERS)]
    Crowded,
    /// Too many signatures, or one that is too long.
    #[error(
        "more than {max} signatures, or one with more than {bytes} bytes",
        max = MAX_SIGNATURES,
        bytes = MAX_SIGNATURE
    )]
    Signatures,
    /// A member where it does not belong.
    #[error("the {stream} stream holds {name:?}, which does not belong there")]
    Misplaced {
        /// `signature` or `control`.
        stream: &'static str,
        /// The member's name.
        name: String,
    },
    /// There is no `.PKGINFO`.
    #[error("not a package of apk: its control stream has no .PKGINFO")]
    NoInfo,
    /// What the package says of itself is refused.
    #[error(transparent)]
    Info(#[from] PkgInfoError),
    /// The files are not vouched for.
    #[error("the package has no datahash, so that nothing vouches for its files")]
    NoDataHash,
    /// The files are not those that the control stream vouches for.
    #[error("the data stream has the SHA-256 {found}, expected {expected}")]
    DataHash {
        /// As `.PKGINFO` says.
        expected: String,
        /// What there is.
        found: String,
    },
    /// Something in the archive is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
}

impl ApkError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoDataHash | Self::DataHash { .. } => Reason::VerificationFailed,
            _ => Reason::MalformedPackage,
        }
    }
}

/// Takes the wanted kernel files out of a package, whoever signed it.
pub fn kernel_files(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, ApkError> {
    Apk::open(reader)?.kernel_files(wanted, limits)
}

/// Offers the files of a package to a sink until that has enough, whoever signed it.
pub(super) fn offer(
    reader: impl Read,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), ApkError> {
    let data = Apk::open(reader)?.data;
    Ok(tarball::offer(MultiGzDecoder::new(data), limits, sink)?)
}

/// Whether a file that begins with these bytes is a signed package, or an index. A few KiB are
/// enough. What is not signed is told by [`super::pacman::is_tar`], and read alike.
pub fn is_signed(start: &[u8]) -> bool {
    let mut name = Vec::new();
    let _ = GzDecoder::new(start).take(SIGNATURE.len() as u64).read_to_end(&mut name);
    name == SIGNATURE.as_bytes()
}

/// A package of which all has been read that stands in front of its files.
#[derive(Debug)]
pub struct Apk<R> {
    /// That.
    pub head: Head,
    /// The data stream, compressed.
    data: BufReader<R>,
}

impl<R: Read> Apk<R> {
    /// Reads signatures and control stream.
    pub fn open(reader: R) -> Result<Self, ApkError> {
        let mut streams = Streams::new(reader)?;
        let mut signatures = Vec::new();
        let members = loop {
            let members = streams.next()?;
            if !is_signature(&members) {
                break members;
            }
            add_signatures(&mut signatures, members)?;
        };
        let mut info = None;
        for Member { name, bytes } in members {
            let again = name.as_bytes() == pkginfo::NAME
                && info.replace(PkgInfo::read(&bytes[..])?).is_some();
            if again || !name.starts_with('.') || name.starts_with(SIGNATURE) {
                return Err(ApkError::Misplaced { stream: "control", name });
            }
        }
        let info = info.ok_or(ApkError::NoInfo)?;
        let Streams { reader, taken: control } = streams;
        Ok(Self { head: Head { signatures, control, info }, data: reader })
    }

    /// Takes the wanted kernel files out of the data stream.
    pub fn kernel_files(self, wanted: Wanted, limits: &Limits) -> Result<KernelFiles, ApkError> {
        Ok(tarball::search(MultiGzDecoder::new(self.data), wanted, limits)?)
    }

    /// Whether the files are those that the control stream vouches for: reads all of them.
    pub fn check_data(mut self) -> Result<(), ApkError> {
        let expected = self.head.info.datahash.ok_or(ApkError::NoDataHash)?;
        let mut hash = Sha256::new();
        loop {
            let bytes = self.data.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            hash.update(bytes);
            let length = bytes.len();
            self.data.consume(length);
        }
        let found: [u8; 32] = hash.finalize().into();
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (hex::encode(&expected), hex::encode(&found));
        Err(ApkError::DataHash { expected, found })
    }
}

/// An index and its signatures, in place of a package's files what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIndex {
    /// In the order of the file; none: not signed.
    pub signatures: Vec<Signature>,
    /// All bytes behind the signatures: a tar archive in gzip.
    pub signed: Vec<u8>,
}

/// Takes signatures and signed bytes of an index, `APKINDEX.tar.gz`, apart.
pub fn signed_index(bytes: &[u8]) -> Result<SignedIndex, ApkError> {
    let mut signed = bytes;
    let mut signatures = Vec::new();
    while is_signed(signed) {
        let mut streams = Streams::new(signed)?;
        add_signatures(&mut signatures, streams.next()?)?;
        signed = &signed[streams.taken.len()..];
    }
    Ok(SignedIndex { signatures, signed: signed.to_vec() })
}

/// A member of a stream in front of the files.
struct Member {
    name: String,
    bytes: Vec<u8>,
}

fn is_signature(members: &[Member]) -> bool {
    members.first().is_some_and(|member| member.name.starts_with(SIGNATURE))
}

fn add_signatures(known: &mut Vec<Signature>, members: Vec<Member>) -> Result<(), ApkError> {
    for Member { name, bytes } in members {
        let Some(kind) = name.strip_prefix(SIGNATURE).filter(|name| pkginfo::is_word(name)) else {
            return Err(ApkError::Misplaced { stream: "signature", name });
        };
        if known.len() == MAX_SIGNATURES || bytes.len() > MAX_SIGNATURE {
            return Err(ApkError::Signatures);
        }
        known.push(Signature { name: kind.to_owned(), bytes });
    }
    Ok(())
}

/// Reads the gzip streams in front of the files one after the other.
struct Streams<R> {
    reader: BufReader<R>,
    /// The compressed bytes of the last one.
    taken: Vec<u8>,
}

impl<R: Read> Streams<R> {
    fn new(reader: R) -> Result<Self, ApkError> {
        let mut reader = BufReader::with_capacity(INPUT, reader);
        let start = reader.fill_buf()?;
        let start = &start[..start.len().min(8)];
        if start.starts_with(VERSION_3) {
            return Err(ApkError::Version3);
        }
        if !start.starts_with(GZIP) {
            return Err(ApkError::Magic(start.to_vec()));
        }
        Ok(Self { reader, taken: Vec::new() })
    }

    /// The members of the next stream, which is read to its end.
    fn next(&mut self) -> Result<Vec<Member>, ApkError> {
        self.taken.clear();
        let mut unpacked = GzDecoder::new(&mut *self).take(MAX_STREAM + 1);
        let members = members(&mut unpacked).and_then(|members| {
            io::copy(&mut unpacked, &mut io::sink())?;
            Ok(members)
        });
        let exceeded = unpacked.limit() == 0 || self.taken.len() as u64 > MAX_STREAM;
        if exceeded { Err(ApkError::TooLong) } else { members }
    }
}

impl<R: Read> Read for Streams<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Streams<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken.len() as u64 > MAX_STREAM {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.reader.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        let buffer = self.reader.buffer();
        self.taken.extend_from_slice(&buffer[..length.min(buffer.len())]);
        self.reader.consume(length);
    }
}

/// All members of a stream. Their names have to begin with a dot: those of files do not.
fn members(unpacked: impl Read) -> Result<Vec<Member>, ApkError> {
    let mut members = Vec::new();
    for entry in tar::Archive::new(unpacked).entries()?.raw(true) {
        let mut entry = entry?;
        let misplaced = |name: &[u8]| {
            let name = String::from_utf8_lossy(name).into_owned();
            ApkError::Misplaced { stream: "control", name }
        };
        let kind = entry.header().entry_type();
        if kind == EntryType::XHeader {
            // Of times and owners, but not of names.
            match tarball::pax_path(&mut entry)? {
                None => continue,
                Some(name) => return Err(misplaced(&name)),
            }
        }
        let name = entry.path_bytes().into_owned();
        let plain = std::str::from_utf8(&name).ok().filter(|name| name.starts_with('.'));
        let Some(name) = plain.filter(|_| kind == EntryType::Regular).map(str::to_owned) else {
            return Err(misplaced(&name));
        };
        if members.len() == MAX_MEMBERS {
            return Err(ApkError::Crowded);
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != entry.size() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        members.push(Member { name, bytes });
    }
    Ok(members)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{super::deb::tests::Hostile, *};
    use proptest::prelude::*;
    use std::io::Write as _;

    const RELEASE: &str = "6.12.13-0-lts";
    const IMAGE: &str = "boot/vmlinuz-lts";
    const MODULE: &str = "lib/modules/6.12.13-0-lts/kernel/net/netfilter/nf_tables.ko.gz";
    const KEY: &str = ".SIGN.RSA.builder@mirror.example-1.rsa.pub";

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A package's streams, as abuild makes them: the first two have no end of a tar archive.
    #[derive(Clone)]
    struct Parts {
        signature: Vec<u8>,
        control: Vec<u8>,
        data: Vec<u8>,
    }

    impl Parts {
        fn whole(&self) -> Vec<u8> {
            let pieces = [&self.signature, &self.control, &self.data];
            pieces.into_iter().flat_map(|bytes| gzip_unless_empty(bytes)).collect()
        }
    }

    fn gzip_unless_empty(bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() { Vec::new() } else { gzip(bytes) }
    }

    fn info(data: &[u8]) -> String {
        let hash = hex::encode(&Sha256::digest(data));
        format!("pkgname = linux-lts\npkgver = 6.12.13-r0\narch = x86_64\ndatahash = {hash}\n")
    }

    fn good() -> Parts {
        // Each file has its hash in a PAX header.
        let record = b"68 APK-TOOLS.checksum.SHA1=da39a3ee5e6b4b0d3255bfef95601890afd80709\n";
        let size = record.len() as u64;
        let data = Hostile::default()
            .entry("boot/", EntryType::Directory, 0, b"")
            .file("boot/config-6.12.13-0-lts", b"config")
            .entry("boot/PaxHeaders/vmlinuz-lts", EntryType::XHeader, size, record)
            .file(IMAGE, b"image")
            .file(MODULE, b"module")
            .file("usr/share/kernel/lts/kernel.release", b"6.12.13-0-lts\n")
            .tar();
        let control = Hostile::default()
            .file(".PKGINFO", info(&gzip(&data)).as_bytes())
            .file(".trigger", b"#!/bin/sh\n")
            .0;
        Parts { signature: Hostile::default().file(KEY, &[7; 256]).0, control, data }
    }

    fn read(package: &[u8]) -> Result<KernelFiles, ApkError> {
        kernel_files(package, Wanted::Both, &Limits::default())
    }

    #[test]
    fn takes_a_package_apart() {
        let parts = good();
        let package = parts.whole();
        assert!(is_signed(&package));
        let apk = Apk::open(&package[..]).unwrap();
        let names: Vec<_> = apk.head.signatures.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["RSA.builder@mirror.example-1.rsa.pub"]);
        assert_eq!(apk.head.signatures[0].bytes, [7; 256]);
        // Exactly the compressed bytes.
        assert_eq!(apk.head.control, gzip(&parts.control));
        assert_eq!(apk.head.info.version, "6.12.13-r0");
        apk.check_data().unwrap();
        let files = read(&package).unwrap();
        assert_eq!(files.release.as_deref(), Some(RELEASE));
        assert_eq!(files.vmlinuz.as_deref(), Some(&b"image"[..]));
        assert_eq!(files.nf_tables.unwrap().name, "nf_tables.ko.gz");
        // The image's release is known from other files only.
        let image = kernel_files(&package[..], Wanted::Vmlinuz, &Limits::default()).unwrap();
        assert_eq!((image.release, image.vmlinuz.is_some()), (None, true));
        // Without a signature it is one too.
        let unsigned = Parts { signature: Vec::new(), ..parts }.whole();
        assert!(!is_signed(&unsigned) && super::super::pacman::is_tar(&unsigned));
        assert_eq!(read(&unsigned).unwrap(), read(&package).unwrap());
        assert_eq!(Apk::open(&unsigned[..]).unwrap().head.signatures, []);
    }

    #[test]
    fn the_data_stream_is_what_is_vouched_for() {
        let package = good().whole();
        let checked = |package: &[u8]| Apk::open(package).unwrap().check_data();
        for changed in [
            [&package[..], b"more"].concat(),
            package[..package.len() - 1].to_vec(),
            package
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ u8::from(at == package.len() - 9))
                .collect(),
        ] {
            let error = checked(&changed).unwrap_err();
            assert!(matches!(error, ApkError::DataHash { .. }), "{error}");
            assert_eq!(error.reason(), Reason::VerificationFailed);
        }
        let bare = Hostile::default().file(".PKGINFO", b"pkgname = a\npkgver = 1\narch = b\n").0;
        let bare = Parts { control: bare, ..good() }.whole();
        insta::assert_snapshot!(checked(&bare).unwrap_err().to_string(), @"the package has no datahash, so that nothing vouches for its files");
    }

    #[test]
    fn an_index_is_taken_apart() {
        let tar = Hostile::default().file("DESCRIPTION", b"v3.21").file("APKINDEX", b"P:a\n").tar();
        let [signature, signed] = [gzip(&good().signature), gzip(&tar)];
        let index = signed_index(&[&signature[..], &signed].concat()).unwrap();
        assert_eq!((index.signatures.len(), &index.signed), (1, &signed));
        let two = signed_index(&[&signature[..], &signature, &signed].concat()).unwrap();
        assert_eq!((two.signatures.len(), &two.signed), (2, &signed));
        assert_eq!(signed_index(&signed).unwrap().signatures, []);
    }

    #[test]
    fn refuses_hostile_packages() {
        let refused = |package: &[u8]| match Apk::open(package) {
            Ok(apk) => apk.kernel_files(Wanted::Both, &Limits::default()).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let with = |change: fn(&mut Parts)| {
            let mut parts = good();
            change(&mut parts);
            refused(&parts.whole())
        };
        let package = good().whole();
        let mut crc = gzip(&good().signature);
        let end = crc.len() - 8;
        crc[end] ^= 1;
        let many = (0..100).fold(Hostile::default(), |tar, _| tar.file(".a", b""));
        let cases = [
            refused(b""),
            refused(b"\x7fELF"),
            refused(b"ADBd\x01"),
            refused(&package[..100]),
            refused(&gzip(&good().signature)),
            refused(&crc),
            refused(&gzip(b"no tar")),
            with(|parts| parts.signature = Hostile::default().file(".SIGN.RSA.../x", b"x").0),
            with(|parts| parts.signature = Hostile::default().file(KEY, &[0; 4096]).0),
            with(|parts| {
                parts.signature = (0..9).fold(Hostile::default(), |t, _| t.file(KEY, b"x")).0;
            }),
            // The files in the streams before the one that they belong to.
            with(|parts| parts.signature.extend(Hostile::default().file(IMAGE, b"x").0)),
            with(|parts| parts.signature.extend(Hostile::default().file(".PKGINFO", b"x").0)),
            with(|parts| parts.control.extend(Hostile::default().file(IMAGE, b"x").0)),
            with(|parts| parts.control.extend(Hostile::default().file(KEY, b"x").0)),
            with(|parts| {
                let info = info(b"");
                parts.control.extend(Hostile::default().file(".PKGINFO", info.as_bytes()).0);
            }),
            with(|parts| {
                let kind = EntryType::Symlink;
                parts.control = Hostile::default().entry(".PKGINFO", kind, 0, b"").0;
            }),
            with(|parts| {
                let record = b"13 path=boot\n";
                let kind = EntryType::XHeader;
                parts.control = Hostile::default().entry("x", kind, 13, record).0;
            }),
            with(|parts| parts.control = Hostile::default().file(".post-install", b"x").0),
            with(|parts| {
                let kind = EntryType::Regular;
                parts.control = Hostile::default().entry(".PKGINFO", kind, 1 << 40, b"x").0;
            }),
            refused(&gzip(&many.0)),
            // 16 MiB of zeros.
            refused(&gzip(&Hostile::default().file(".a", &vec![0; 16 << 20]).0)),
            with(|parts| {
                let kind = EntryType::Regular;
                parts.data = Hostile::default().entry(IMAGE, kind, 1 << 40, b"x").0;
            }),
            with(|parts| {
                parts.data = Hostile::default().file(IMAGE, b"a").file("boot/vmlinuz-virt", b"b").0;
            }),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        not a package of apk: it begins with [], expected gzip
        not a package of apk: it begins with [7f, 45, 4c, 46], expected gzip
        a package of apk's version 3, expected version 2
        the package cannot be read: unexpected end of file
        the package cannot be read: unexpected end of file
        the package cannot be read: corrupt gzip stream does not have a matching checksum
        the package cannot be read: failed to read entire block
        the signature stream holds ".SIGN.RSA.../x", which does not belong there
        more than 8 signatures, or one with more than 2048 bytes
        more than 8 signatures, or one with more than 2048 bytes
        the control stream holds "boot/vmlinuz-lts", which does not belong there
        the signature stream holds ".PKGINFO", which does not belong there
        the control stream holds "boot/vmlinuz-lts", which does not belong there
        the control stream holds ".SIGN.RSA.builder@mirror.example-1.rsa.pub", which does not belong there
        the control stream holds ".PKGINFO", which does not belong there
        the control stream holds ".PKGINFO", which does not belong there
        the control stream holds "boot", which does not belong there
        not a package of apk: its control stream has no .PKGINFO
        the package cannot be read: unexpected end of file
        signatures or control data have more than 64 members
        signatures and control data have more than 4194304 bytes
        boot/vmlinuz-lts has 1099511627776 bytes, expected at most 50331648
        the archive holds a second kernel image, boot/vmlinuz-virt: which one the kernel uses is not known
        "#);
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        // 100 GB of zeros are said to come, and more than the limit does: 16 MiB a stream.
        let kind = EntryType::Regular;
        let header = Hostile::default().entry("usr/zeros", kind, 100 << 30, b"").0;
        let data = [gzip(&header[..512]), gzip(&vec![0; 16 << 20]).repeat(100)].concat();
        let parts = good();
        let bomb = [gzip(&parts.signature), gzip(&parts.control), data].concat();
        let limits = Limits { total: 64 << 20, ..Limits::default() };
        let error = kernel_files(&bomb[..], Wanted::Both, &limits).unwrap_err();
        let expected = "the archive has more than 67108864 bytes when decompressed";
        assert_eq!(error.to_string(), expected);
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), cut in any::<prop::sample::Index>()) {
            let mut package = good().whole();
            for (place, value) in flips {
                let place = place.index(package.len());
                package[place] = value;
            }
            package.truncate(cut.index(package.len() + 1));
            let _ = read(&package);
            let _ = signed_index(&package);
            let _ = is_signed(&package);
            let _ = Apk::open(&package[..]).map(Apk::check_data);
        }
    }
}
