//! A Debian package as a stream: an ar archive with `debian-binary`, `control.tar.*` and, last,
//! `data.tar.*`, see deb(5).

use super::{
    ar::{ArError, ArReader, MAX_MEMBERS},
    decoder::decoder,
    members::{KernelFiles, Limits, MembersError, Wanted},
    pick::{self, PickError},
    random::RandomAccess,
    tarball,
};
use nfdrop_db::Reason;
use std::io::{self, Read};

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The outer container is broken.
    #[error(transparent)]
    Ar(#[from] ArError),
    /// It cannot be read.
    #[error("the package cannot be read: {0}")]
    Read(#[from] io::Error),
    /// An ar archive, but no Debian package.
    #[error("not a Debian package: its first member is {0:?}, expected \"debian-binary\"")]
    NotDeb(String),
    /// A format that is not known.
    #[error("the Debian package has format {0:?}, expected 2.x")]
    Format(String),
    /// There is no `data.tar`.
    #[error("the Debian package has no data.tar")]
    NoData,
    /// A compression that is not known.
    #[error("the Debian package has {0:?}, expected data.tar, .xz, .zst, .gz, .bz2 or .lzma")]
    Compression(String),
    /// Something in `data.tar` is refused.
    #[error(transparent)]
    Members(#[from] MembersError),
}

impl DebError {
    /// As it is written in records.
    pub fn reason(&self) -> Reason {
        Reason::MalformedPackage
    }
}

/// Takes the wanted kernel files out of a .deb. The reader should be cheap to read from: a file.
pub fn kernel_files(
    reader: impl Read,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, DebError> {
    with_data(reader, |data| Ok(tarball::search(data, wanted, limits)?))
}

/// As [`kernel_files`], from what can be read from any place: only the parts that hold the files are
/// decoded, where the package is made so that they can be found, else it is read from its beginning.
pub fn kernel_files_at(
    source: &dyn RandomAccess,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, DebError> {
    match pick::pick(source, wanted, limits) {
        Ok(files) => Ok(files),
        // It will fail in the same way, or it does not matter.
        Err(_) => kernel_files(source.part(0..source.size()?), wanted, limits),
    }
}

/// As [`kernel_files_at`], but where only a part of the package can be decoded: else an error, and
/// the rest of the package is not read.
pub fn pick_kernel_files(
    source: &dyn RandomAccess,
    wanted: Wanted,
    limits: &Limits,
) -> Result<KernelFiles, PickError> {
    pick::pick(source, wanted, limits)
}

/// Hands the decompressed `data.tar` of a .deb to `read`, which is the one that sets limits.
pub fn with_data<T, E: From<DebError>>(
    reader: impl Read,
    read: impl FnOnce(&mut dyn Read) -> Result<T, E>,
) -> Result<T, E> {
    let mut archive = ArReader::new(reader).map_err(DebError::from)?;
    let first = archive.next().map_err(DebError::from)?.unwrap_or_default();
    if first != "debian-binary" {
        return Err(DebError::NotDeb(first).into());
    }
    let mut format = String::new();
    archive.member().take(16).read_to_string(&mut format).map_err(DebError::from)?;
    if !format.starts_with("2.") {
        return Err(DebError::Format(format).into());
    }
    for _ in 0..MAX_MEMBERS {
        let Some(name) = archive.next().map_err(DebError::from)? else { break };
        let Some(suffix) = name.strip_prefix("data.tar") else { continue };
        let Some(data) = decoder(suffix, archive.member()) else {
            return Err(DebError::Compression(name).into());
        };
        return read(&mut data.map_err(DebError::from)?);
    }
    Err(DebError::NoData.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use tar::EntryType;

    /// An ar archive of these members.
    pub(in super::super) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = b"!<arch>\n".to_vec();
        for (name, bytes) in members {
            let size = bytes.len();
            writeln!(archive, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, "100644")
                .unwrap();
            archive.extend_from_slice(bytes);
            archive.extend_from_slice(&b"\n"[..size % 2]);
        }
        archive
    }

    /// Builds tar archives that no tar program would write.
    #[derive(Default)]
    pub(in super::super) struct Hostile(pub(in super::super) Vec<u8>);

    impl Hostile {
        /// A member with any name, type and claimed size.
        pub(in super::super) fn entry(
            mut self,
            name: &str,
            kind: EntryType,
            size: u64,
            bytes: &[u8],
        ) -> Self {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            self.0.extend_from_slice(header.as_bytes());
            self.0.extend_from_slice(bytes);
            let end = self.0.len().next_multiple_of(512);
            self.0.resize(end, 0);
            self
        }

        pub(in super::super) fn file(self, name: &str, bytes: &[u8]) -> Self {
            self.entry(name, EntryType::Regular, bytes.len() as u64, bytes)
        }

        pub(in super::super) fn tar(mut self) -> Vec<u8> {
            self.0.extend_from_slice(&[0; 1024]);
            self.0
        }

        fn deb(self) -> Vec<u8> {
            deb("data.tar", &self.tar())
        }
    }

    fn deb(name: &str, data: &[u8]) -> Vec<u8> {
        ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)])
    }

    fn read(deb: &[u8]) -> Result<KernelFiles, DebError> {
        kernel_files(deb, Wanted::Both, &Limits::default())
    }

    fn refused(deb: &[u8]) -> String {
        read(deb).unwrap_err().to_string()
    }

    const RELEASE: &str = "6.1.0-56-cloud-amd64";
    const IMAGE: &str = "./boot/vmlinuz-6.1.0-56-cloud-amd64";
    const MODULE: &str = "./lib/modules/6.1.0-56-cloud-amd64/kernel/net/netfilter/nf_tables.ko";

    fn good() -> Hostile {
        Hostile::default()
            .entry("./boot/", EntryType::Directory, 0, b"")
            .file(IMAGE, b"image")
            .file("./boot/System.map-6.1.0-56-cloud-amd64", b"map")
            .file(MODULE, b"module")
    }

    fn check(files: &KernelFiles) {
        assert_eq!(files.release.as_deref(), Some(RELEASE));
        assert_eq!(files.vmlinuz.as_deref(), Some(&b"image"[..]));
        let module = NamedBytes { name: "nf_tables.ko".to_owned(), bytes: b"module".to_vec() };
        assert_eq!(files.nf_tables.as_ref(), Some(&module));
    }
    use super::super::members::NamedBytes;

    #[test]
    fn reads_every_compression() {
        let tar = good().tar();
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&tar[..], 6).read_to_end(&mut xz).unwrap();
        let mut gz = Vec::new();
        let level = flate2::Compression::fast();
        flate2::read::GzEncoder::new(&tar[..], level).read_to_end(&mut gz).unwrap();
        let zst = zstd::encode_all(&tar[..], 3).unwrap();
        for (name, data) in [
            ("data.tar", &tar),
            ("data.tar.xz", &xz),
            ("data.tar.gz", &gz),
            ("data.tar.zst/", &zst),
        ] {
            check(&read(&deb(name, data)).unwrap());
        }
        for cut in [0, 20, xz.len() / 2] {
            assert!(read(&deb("data.tar.xz", &xz[..cut])).is_err(), "{cut}");
        }
    }

    #[test]
    fn takes_what_is_wanted_and_stops_there() {
        let tar = good().tar();
        // Behind the image there is rubbish, which is never looked at.
        let end = 4 * 512;
        let cut = deb("data.tar", &[&tar[..end], &[0xff; 4096][..]].concat());
        let files = kernel_files(&cut[..], Wanted::Vmlinuz, &Limits::default()).unwrap();
        assert_eq!((files.vmlinuz.is_some(), files.nf_tables), (true, None));
        assert!(read(&cut).is_err());
        let all = deb("data.tar", &tar);
        let files = kernel_files(&all[..], Wanted::NfTables, &Limits::default()).unwrap();
        assert_eq!((files.vmlinuz.is_some(), files.nf_tables.is_some()), (false, true));
        let empty = read(&Hostile::default().file("./usr/share/doc/x", b"").deb()).unwrap();
        assert_eq!(empty, KernelFiles::default());
    }

    #[test]
    fn knows_the_places_of_both_files() {
        let at = |path: &str| read(&Hostile::default().file(path, b"x").deb()).unwrap();
        for path in [
            "boot/vmlinuz-7.3-amd64",
            "./usr/lib/modules/7.3-amd64/vmlinuz",
            "lib/modules/7.3-amd64/vmlinuz",
            "/lib/modules/7.3-amd64/vmlinuz",
        ] {
            let files = at(path);
            assert!(
                files.vmlinuz.is_some() && files.release.as_deref() == Some("7.3-amd64"),
                "{path}"
            );
        }
        for suffix in ["", ".xz", ".zst", ".gz"] {
            let name = format!("nf_tables.ko{suffix}");
            let files = at(&format!("./usr/lib/modules/7.3-amd64/kernel/net/netfilter/{name}"));
            assert_eq!(files.nf_tables.map(|file| file.name), Some(name));
        }
        for path in [
            "boot/vmlinuz",
            "boot/vmlinuz-",
            "boot/vmlinuz-../x",
            "boot/vmlinuz-7/x",
            "srv/boot/vmlinuz-7.3-amd64",
            "lib/modules/7.3-amd64/build/vmlinuz",
            "lib/modules/7.3-amd64/kernel/nf_tables.ko.bz2",
            "lib/modules/../kernel/nf_tables.ko",
            "lib/modules/nf_tables.ko",
        ] {
            assert_eq!(at(path), KernelFiles::default(), "{path}");
        }
    }

    #[test]
    fn refuses_hostile_archives() {
        let link = |kind| Hostile::default().entry(IMAGE, kind, 0, b"").deb();
        let twice = Hostile::default().file(IMAGE, b"a").file(&IMAGE[2..], b"b");
        let other = Hostile::default().file(IMAGE, b"a").file("boot/vmlinuz-7.3-amd64", b"b");
        let long = Hostile::default().entry("././@LongLink", EntryType::GNULongName, 1 << 40, b"");
        let names = Hostile::default().entry("l", EntryType::GNULongName, 2, b"a\0").entry(
            "l",
            EntryType::GNULongName,
            2,
            b"b\0",
        );
        let pax = Hostile::default().entry("p", EntryType::XHeader, 10, b"10 size=1\n");
        let pax_long = Hostile::default().entry("p", EntryType::XHeader, 1 << 40, b"");
        let claims = Hostile::default().entry(IMAGE, EntryType::Regular, 40 << 20, b"few");
        let large = Hostile::default().entry(IMAGE, EntryType::Regular, 1 << 30, b"few");
        let endless = Hostile::default().entry("./x", EntryType::Regular, u64::MAX, b"few");
        let mut sum = good().tar();
        sum[3] ^= 1;
        let cases = [
            refused(&link(EntryType::Symlink)),
            refused(&link(EntryType::Link)),
            refused(&link(EntryType::Char)),
            refused(&link(EntryType::GNUSparse)),
            refused(&twice.deb()),
            refused(&other.deb()),
            refused(&long.deb()),
            refused(&names.deb()),
            refused(&pax.deb()),
            refused(&pax_long.deb()),
            refused(&claims.deb()),
            refused(&large.deb()),
            refused(&endless.deb()),
            refused(&deb("data.tar", &sum)),
            refused(&deb("data.tar.lz4", b"")),
            refused(&deb("data.tar.xz", b"no xz at all")),
            refused(&deb("other", b"")),
            refused(&ar(&[("debian-binary", b"3.0\n")])),
            refused(&ar(&[("data.tar", b"")])),
            refused(&ar(&[])),
            refused(b"\x89PNG\r\n\x1a\n"),
            refused(b""),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 is not a regular file but a symbolic link
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 is not a regular file but a hard link
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 is not a regular file but of type '3'
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 is not a regular file but of type 'S'
        the archive holds a second kernel image, boot/vmlinuz-6.1.0-56-cloud-amd64: which one the kernel uses is not known
        the archive holds files of two kernels, 6.1.0-56-cloud-amd64 and 7.3-amd64
        the archive has a member whose name is longer than 4096 bytes
        the archive has an extension header that is not accepted: two names for one member
        the archive has an extension header that is not accepted: a PAX header with a size
        the archive has an extension header that is not accepted: a PAX header that is too long
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 ends after 1536 bytes, expected 41943040
        ./boot/vmlinuz-6.1.0-56-cloud-amd64 has 1073741824 bytes, expected at most 50331648
        the archive cannot be read: size overflow
        the archive cannot be read: archive header checksum mismatch
        the Debian package has "data.tar.lz4", expected data.tar, .xz, .zst, .gz, .bz2 or .lzma
        the archive cannot be read: stream/file format not recognized
        the Debian package has no data.tar
        the Debian package has format "3.0\n", expected 2.x
        not a Debian package: its first member is "data.tar", expected "debian-binary"
        not a Debian package: its first member is "", expected "debian-binary"
        not an ar archive: it begins with [89, 50, 4e, 47, 0d, 0a, 1a, 0a]
        the ar archive cannot be read: failed to fill whole buffer
        "#);
    }

    #[test]
    fn keeps_to_its_limits() {
        let deb = good().deb();
        let with = |limits: &Limits| {
            let error = kernel_files(&deb[..], Wanted::Both, limits).unwrap_err();
            assert_eq!(error.reason(), Reason::MalformedPackage);
            error.to_string()
        };
        let limits = Limits::default();
        let cases = [
            with(&Limits { entries: 3, ..limits }),
            with(&Limits { member: 5, ..limits }),
            with(&Limits { total: 2048, ..limits }),
            with(&Limits { name: 40, ..limits }),
        ];
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the archive has more than 3 members
        ./lib/modules/6.1.0-56-cloud-amd64/kernel/net/netfilter/nf_tables.ko has 6 bytes, expected at most 5
        the archive has more than 2048 bytes when decompressed
        the archive has a member whose name is longer than 40 bytes
        "#);
    }

    #[test]
    fn reads_long_names() {
        let release = "6.12.117+deb13-with-a-rather-long-flavour-amd64";
        let path = format!("./usr/lib/modules/{release}/kernel/net/netfilter/nf_tables.ko.xz");
        assert!(path.len() > 100);
        let (kind, size) = (EntryType::GNULongName, path.len() as u64 + 1);
        let gnu = Hostile::default()
            .entry("././@LongLink", kind, size, format!("{path}\0").as_bytes())
            .file("shortened", b"module");
        let record = format!("{} path={path}\n", path.len() + 10);
        let pax = Hostile::default()
            .entry("x", EntryType::XHeader, record.len() as u64, record.as_bytes())
            .file("shortened", b"module");
        for hostile in [gnu, pax] {
            let files = read(&hostile.deb()).unwrap();
            assert_eq!(files.release.as_deref(), Some(release));
            assert!(files.nf_tables.is_some());
        }
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), cut in any::<prop::sample::Index>()) {
            let mut deb = good().deb();
            for (place, value) in flips {
                let place = place.index(deb.len());
                deb[place] = value;
            }
            deb.truncate(cut.index(deb.len() + 1));
            let _ = read(&deb);
        }
    }
}
