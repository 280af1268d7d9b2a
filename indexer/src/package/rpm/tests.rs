//! Packages that no rpmbuild would make, and some that it does.

use super::{super::members::NamedBytes, *};
use proptest::prelude::*;
use std::io::Write as _;

/// A header to be written.
#[derive(Default, Clone)]
pub(crate) struct HeaderBuilder {
    entries: Vec<[u32; 4]>,
    store: Vec<u8>,
}

impl HeaderBuilder {
    /// A tag of any type with any count and bytes.
    pub(crate) fn raw(mut self, tag: u32, kind: u32, count: u32, bytes: &[u8]) -> Self {
        self.entries.push([tag, kind, self.store.len() as u32, count]);
        self.store.extend_from_slice(bytes);
        self
    }

    pub(crate) fn string(self, tag: u32, text: &str) -> Self {
        self.raw(tag, 6, 1, format!("{text}\0").as_bytes())
    }

    pub(crate) fn strings(self, tag: u32, texts: &[&str]) -> Self {
        let bytes = texts.join("\0") + if texts.is_empty() { "" } else { "\0" };
        self.raw(tag, 8, texts.len() as u32, bytes.as_bytes())
    }

    pub(crate) fn numbers(self, tag: u32, numbers: &[u32]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.raw(tag, 4, numbers.len() as u32, &bytes)
    }

    pub(crate) fn bytes(self, tag: u32, bytes: &[u8]) -> Self {
        self.raw(tag, 7, bytes.len() as u32, bytes)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut header = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
        let (entries, store) = (self.entries.len() as u32, self.store.len() as u32);
        for word in [entries, store].iter().chain(self.entries.as_flattened()) {
            header.extend_from_slice(&word.to_be_bytes());
        }
        header.extend_from_slice(&self.store);
        header
    }
}

/// A package of these headers and this archive.
pub(crate) fn rpm(signatures: &HeaderBuilder, main: &HeaderBuilder, archive: &[u8]) -> Vec<u8> {
    let mut lead = [0; LEAD];
    lead[..6].copy_from_slice(b"\xed\xab\xee\xdb\x03\0");
    let mut signatures = signatures.build();
    signatures.resize(signatures.len().next_multiple_of(ALIGNMENT), 0);
    [&lead[..], &signatures, &main.build(), archive].concat()
}

/// What a member claims.
#[derive(Debug, Clone, Copy)]
struct Claim {
    mode: u32,
    inode: u32,
    links: u32,
    size: u32,
}

const FILE: Claim = Claim { mode: 0o100_644, inode: 1, links: 1, size: 0 };

/// Builds archives.
#[derive(Default, Clone)]
struct Cpio(Vec<u8>);

impl Cpio {
    fn entry(mut self, name: &[u8], claim: Claim, bytes: &[u8]) -> Self {
        let Claim { mode, inode, links, size } = claim;
        let length = name.len() as u32 + 1;
        self.0.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, links, 0, size, 8, 1, 0, 0, length, 0] {
            write!(self.0, "{field:08x}").unwrap();
        }
        self.0.extend_from_slice(name);
        self.0.push(0);
        self.data(bytes)
    }

    /// A member in rpm's own format.
    fn stripped(mut self, index: u32, bytes: &[u8]) -> Self {
        write!(self.0, "07070X{index:08x}").unwrap();
        self.data(bytes)
    }

    fn data(mut self, bytes: &[u8]) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.entry(name.as_bytes(), Claim { size: bytes.len() as u32, ..FILE }, bytes)
    }

    fn end(self) -> Vec<u8> {
        self.file("TRAILER!!!", b"").0
    }

    fn rpm(self) -> Vec<u8> {
        package(&plain(), &self.end())
    }
}

fn plain() -> HeaderBuilder {
    HeaderBuilder::default().string(tag::NAME, "kernel-core").string(tag::PAYLOAD_FORMAT, "cpio")
}

fn package(main: &HeaderBuilder, archive: &[u8]) -> Vec<u8> {
    rpm(&HeaderBuilder::default().string(269, "odd"), main, archive)
}

fn read(rpm: &[u8]) -> Result<KernelFiles, RpmError> {
    kernel_files(rpm, Wanted::Both, &Limits::default())
}

fn refused(rpm: &[u8]) -> String {
    read(rpm).unwrap_err().to_string()
}

const RELEASE: &str = "6.8.5-301.fc40.x86_64";
const IMAGE: &str = "./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz";
const MODULE: &str = "./lib/modules/6.8.5-301.fc40.x86_64/kernel/net/netfilter/nf_tables.ko.xz";

fn good() -> Cpio {
    let directory = Claim { mode: 0o040_755, ..FILE };
    let link = Claim { mode: 0o120_777, size: 3, ..FILE };
    Cpio::default()
        .entry(b"./boot", directory, b"")
        .entry(b"./boot/vmlinuz-6.8.5-301.fc40.x86_64", link, b"../")
        .file("./lib/modules/6.8.5-301.fc40.x86_64/config", b"config")
        .file(IMAGE, b"image")
        .file(MODULE, b"module")
}

fn check(files: &KernelFiles) {
    assert_eq!(files.release.as_deref(), Some(RELEASE));
    assert_eq!(files.vmlinuz.as_deref(), Some(&b"image"[..]));
    let module = NamedBytes { name: "nf_tables.ko.xz".to_owned(), bytes: b"module".to_vec() };
    assert_eq!(files.nf_tables.as_ref(), Some(&module));
}

#[test]
fn reads_every_compression() {
    let archive = good().end();
    let all = |mut reader: Box<dyn Read + '_>| {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let level = flate2::Compression::fast();
    let gzip = all(Box::new(flate2::read::GzEncoder::new(&archive[..], level)));
    let bzip2 =
        all(Box::new(bzip2::read::BzEncoder::new(&archive[..], bzip2::Compression::fast())));
    let xz = all(Box::new(liblzma::read::XzEncoder::new(&archive[..], 6)));
    let lzma = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    let lzma = liblzma::stream::Stream::new_lzma_encoder(&lzma).unwrap();
    let lzma = all(Box::new(liblzma::read::XzEncoder::new_stream(&archive[..], lzma)));
    let zstd = zstd::encode_all(&archive[..], 3).unwrap();
    let of = |name| plain().string(tag::PAYLOAD_COMPRESSOR, name);
    for (header, data) in [
        (plain(), &archive),
        (plain(), &gzip),
        (of("gzip"), &gzip),
        (of("bzip2"), &bzip2),
        (of("xz"), &xz),
        (of("lzma"), &lzma),
        (of("zstd"), &zstd),
    ] {
        check(&read(&package(&header, data)).unwrap());
        assert!(read(&package(&header, &data[..data.len() / 2])).is_err());
        assert!(read(&package(&header, b"")).is_err());
    }
    check(&read(&package(&plain().numbers(tag::RPM_FORMAT, &[6]), &archive)).unwrap());
    // It is told by its first bytes.
    let files = super::super::unpack(&&good().rpm()[..], Wanted::Both, &Limits::default());
    check(&files.unwrap());
}

#[test]
fn takes_what_is_wanted_and_stops_there() {
    // Behind the module there is rubbish, which is never looked at.
    let cut = package(&plain(), &[&good().0[..], &[0xff; 4096]].concat());
    check(&read(&cut).unwrap());
    let image = kernel_files(&cut[..], Wanted::Vmlinuz, &Limits::default()).unwrap();
    assert_eq!((image.vmlinuz.is_some(), image.nf_tables), (true, None));
    let module = kernel_files(&cut[..], Wanted::NfTables, &Limits::default()).unwrap();
    assert_eq!((module.vmlinuz.is_some(), module.nf_tables.is_some()), (false, true));
    let empty = read(&Cpio::default().file("./usr/share/doc/x", b"").rpm()).unwrap();
    assert_eq!(empty, KernelFiles::default());
}

#[test]
fn of_hard_links_the_last_has_the_data() {
    let link = Claim { links: 3, inode: 9, ..FILE };
    let other = Claim { inode: 8, ..link };
    let copy = format!("{MODULE}.copy");
    let cpio = |last: &str| {
        Cpio::default()
            .entry(MODULE.as_bytes(), link, b"")
            .entry(b"./x", Claim { size: 5, ..other }, b"other")
            .entry(copy.as_bytes(), link, b"")
            .file(IMAGE, b"image")
            .entry(last.as_bytes(), Claim { size: 6, ..link }, b"module")
    };
    check(&read(&cpio("./y").rpm()).unwrap());
    // The same file by two wanted names.
    let updates = MODULE.replace("kernel/net/netfilter", "updates");
    check(&read(&cpio(&updates).rpm()).unwrap());
    // The other way about: the name is with the data.
    let last = Cpio::default().entry(b"./x", link, b"").file(IMAGE, b"image").entry(
        MODULE.as_bytes(),
        Claim { size: 6, ..link },
        b"module",
    );
    check(&read(&last.rpm()).unwrap());
    let without = Cpio::default().entry(MODULE.as_bytes(), link, b"").file(IMAGE, b"image");
    let large = Limits { member: 5, ..Limits::default() };
    let large = kernel_files(&cpio("./y").rpm()[..], Wanted::NfTables, &large).unwrap_err();
    insta::assert_snapshot!([refused(&without.rpm()), large.to_string()].join("\n"), @r#"
    ./lib/modules/6.8.5-301.fc40.x86_64/kernel/net/netfilter/nf_tables.ko.xz is a hard link to a file that is not in the package
    ./lib/modules/6.8.5-301.fc40.x86_64/kernel/net/netfilter/nf_tables.ko.xz has 6 bytes, expected at most 5
    "#);
}

/// The header of a package with three files, the last two of them one.
fn listed() -> HeaderBuilder {
    plain()
        .strings(
            tag::DIR_NAMES,
            &[
                "/lib/modules/6.8.5-301.fc40.x86_64/",
                "/lib/modules/6.8.5-301.fc40.x86_64/kernel/net/netfilter/",
            ],
        )
        .strings(tag::BASE_NAMES, &["vmlinuz", "nf_tables.ko.xz", "copy", "ghost"])
        .numbers(tag::DIR_INDEXES, &[0, 1, 1, 1])
        .numbers(tag::FILE_SIZES, &[5, 6, 6, 6])
        .numbers(tag::FILE_MODES, &[0o100_644; 4])
        .numbers(tag::FILE_FLAGS, &[0, 0, 0, 64])
        .numbers(tag::FILE_DEVICES, &[1; 4])
        .numbers(tag::FILE_INODES, &[1, 2, 2, 2])
}

#[test]
fn reads_archives_that_refer_to_the_header() {
    let archive =
        Cpio::default().stripped(0, b"image").stripped(1, b"").stripped(2, b"module").end();
    check(&read(&package(&listed(), &archive)).unwrap());
    let short = HeaderBuilder::default().numbers(tag::LONG_FILE_SIZES, &[1]);
    let short =
        HeaderBuilder { entries: [&short.entries[..], &listed().entries[..]].concat(), ..listed() };
    let cases = [
        refused(&package(&listed(), &Cpio::default().stripped(4, b"").end())),
        refused(&package(&plain(), &archive)),
        refused(&package(&short, &archive)),
        refused(&package(&listed().numbers(tag::LONG_FILE_SIZES, &[1]), &archive)),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    the package's archive has file 4, which the package does not list
    the package's archive has file 0, which the package does not list
    the package's header: its lists of files are of different lengths: tag 5008 has 1, expected 4
    the package's header: its lists of files are of different lengths: tag 5008 has 1, expected 4
    "#);
}

#[test]
fn refuses_hostile_packages() {
    let of = |mode| Claim { mode, ..FILE };
    let one = |claim| Cpio::default().entry(IMAGE.as_bytes(), claim, b"few").rpm();
    let twice = Cpio::default().file(IMAGE, b"a").file(&IMAGE[1..], b"b");
    let other = Cpio::default().file(IMAGE, b"a").file("./boot/vmlinuz-7.3.0", b"b");
    let mut odd = Cpio::default().file(IMAGE, b"a");
    odd.0[20] = b'x';
    let signed = good().0[..].strip_prefix(b"070701").map(|rest| [b"070707", rest].concat());
    let no_nul = {
        let mut cpio = Cpio::default().file("./a", b"");
        cpio.0[NEWC + 3] = b'b';
        cpio
    };
    let long = Cpio::default().entry(&[b'a'; 5000], FILE, b"");
    let (mut source, mut lead) = (good().rpm(), good().rpm());
    source[7] = 1;
    lead[4] = 9;
    let header = |bytes: &[u8]| {
        let start = rpm(&HeaderBuilder::default(), &HeaderBuilder::default(), b"");
        [&start[..LEAD + 16], bytes].concat()
    };
    let archive = good().end();
    let with = |header: HeaderBuilder| package(&header, &archive);
    let cases = [
        refused(&one(Claim { size: 3, ..of(0o120_777) })),
        refused(&one(of(0o020_644))),
        refused(&one(of(0))),
        refused(&one(Claim { size: 1 << 30, ..FILE })),
        refused(&one(Claim { size: 40 << 20, ..FILE })),
        refused(&twice.rpm()),
        refused(&other.rpm()),
        refused(&odd.rpm()),
        refused(&package(&plain(), &signed.unwrap())),
        refused(&no_nul.rpm()),
        refused(&long.rpm()),
        refused(
            &Cpio::default()
                .entry(b"", FILE, b"")
                .entry(b"./x", of(u32::MAX), b"")
                .file("", b"x")
                .0,
        ),
        refused(&package(&plain(), &good().0[..200])),
        refused(&with(plain().string(tag::PAYLOAD_COMPRESSOR, "lz4"))),
        refused(&with(plain().string(tag::PAYLOAD_COMPRESSOR, "xz"))),
        refused(&with(HeaderBuilder::default().string(tag::PAYLOAD_FORMAT, "drpm"))),
        refused(&with(HeaderBuilder::default().numbers(tag::PAYLOAD_FORMAT, &[1]))),
        refused(&with(HeaderBuilder::default().raw(tag::PAYLOAD_FORMAT, 6, 1, b"cpio"))),
        refused(&with(plain().numbers(tag::RPM_FORMAT, &[5]))),
        refused(&with(plain().raw(tag::RPM_FORMAT, 4, u32::MAX, b""))),
        refused(&header(b"\x8e\xad\xe8\x02\0\0\0\0\0\0\0\0\0\0\0\0")),
        refused(&header(b"\x8e\xad\xe8\x01\0\0\0\0\xff\xff\xff\xff\0\0\0\0")),
        refused(&header(b"\x8e\xad\xe8\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff")),
        refused(&header(b"\x8e\xad\xe8\x01\0\0\0\0\0\0\0\x01\0\0\0\x01")),
        refused(&source),
        refused(&lead),
        refused(b"\x89PNG\r\n\x1a\n"),
        refused(b""),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    ./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz is not a regular file but a symbolic link
    ./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz is not a regular file but of type 'c'
    ./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz is not a regular file but of type '?'
    ./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz has 1073741824 bytes, expected at most 50331648
    ./lib/modules/6.8.5-301.fc40.x86_64/vmlinuz ends after 128 bytes, expected 41943040
    the archive holds a second kernel image, /lib/modules/6.8.5-301.fc40.x86_64/vmlinuz: which one the kernel uses is not known
    the archive holds files of two kernels, 6.8.5-301.fc40.x86_64 and 7.3.0
    the package's archive has a malformed member header
    a member of the package's archive begins with "070707", expected 070701, 070702 or 07070X
    the package's archive has a malformed member header
    the archive has a member whose name is longer than 4096 bytes
    not an rpm: it begins with [30, 37, 30, 37]
    the archive cannot be read: failed to fill whole buffer
    the rpm's archive is compressed with "lz4", expected gzip, bzip2, xz, lzma or zstd
    the archive cannot be read: stream/file format not recognized
    the rpm's archive has format "drpm", expected "cpio"
    the rpm's header: its tag 1124 is not a text within the data
    the rpm's header: its tag 1124 is not a text within the data
    the rpm has format 5, expected 3, 4 or 6
    the rpm's header: its tag 5114 is not a list of numbers within the data
    the rpm's header: it begins with [8e, ad, e8, 02], expected 8e ad e8 01
    the rpm's header: it has 4294967295 entries, expected at most 4096
    the rpm's header: it has 4294967295 bytes of data, expected at most 67108864
    the rpm's header: it cannot be read: unexpected end of file
    a source package, which holds no kernel
    the rpm has format 9, expected 3, 4 or 6
    not an rpm: it begins with [89, 50, 4e, 47]
    the package cannot be read: failed to fill whole buffer
    "#);
}

const NEWC: usize = 110;

#[test]
fn keeps_to_its_limits() {
    let rpm = good().rpm();
    let with = |limits: &Limits| {
        let error = kernel_files(&rpm[..], Wanted::Both, limits).unwrap_err();
        assert_eq!(error.reason(), Reason::MalformedPackage);
        error.to_string()
    };
    let limits = Limits::default();
    let waiting = (0..17).fold(Cpio::default(), |cpio, number| {
        let name = MODULE.replace("kernel", &number.to_string());
        cpio.entry(name.as_bytes(), Claim { links: 2, ..FILE }, b"")
    });
    let cases = [
        with(&Limits { entries: 3, ..limits }),
        with(&Limits { member: 5, ..limits }),
        with(&Limits { total: 512, ..limits }),
        with(&Limits { name: 40, ..limits }),
        refused(&waiting.rpm()),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    the archive has more than 3 members
    ./lib/modules/6.8.5-301.fc40.x86_64/kernel/net/netfilter/nf_tables.ko.xz has 6 bytes, expected at most 5
    the archive has more than 512 bytes when decompressed
    the archive has a member whose name is longer than 40 bytes
    more than 16 of the wanted files are hard links without data
    "#);
}

/// What unpacks to 100 GiB ends at the limit.
#[test]
fn a_bomb_is_not_unpacked() {
    // Frames one after the other, each a MiB of zeros in some 50 bytes.
    let frame = zstd::encode_all(&vec![0; 1 << 20][..], 19).unwrap();
    let start = Cpio::default().entry(b"./x", Claim { size: u32::MAX, ..FILE }, b"").0;
    let start = zstd::encode_all(&start[..], 3).unwrap();
    let bomb = [start, frame.repeat(100 << 10)].concat();
    assert!(bomb.len() < 8 << 20);
    let bomb = package(&plain().string(tag::PAYLOAD_COMPRESSOR, "zstd"), &bomb);
    let limits = Limits { total: 64 << 20, ..Limits::default() };
    let error = kernel_files(&bomb[..], Wanted::Both, &limits).unwrap_err();
    insta::assert_snapshot!(error, @r#"the archive has more than 67108864 bytes when decompressed"#);
}

proptest! {
    #[test]
    fn never_panics(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
        stripped in any::<bool>(),
    ) {
        let archive =
            Cpio::default().stripped(0, b"image").stripped(1, b"").stripped(2, b"module").end();
        let mut rpm = if stripped { package(&listed(), &archive) } else { good().rpm() };
        for (place, value) in flips {
            let place = place.index(rpm.len());
            rpm[place] = value;
        }
        rpm.truncate(cut.index(rpm.len() + 1));
        let _ = read(&rpm);
    }

    #[test]
    fn a_header_has_what_was_written(
        texts in proptest::collection::vec("[a-z]{0,9}", 0..9),
        numbers in proptest::collection::vec(any::<u32>(), 0..9),
    ) {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let header = HeaderBuilder::default().strings(1, &texts).numbers(2, &numbers).build();
        let header = Header::read(&mut &header[..]).unwrap();
        let expected: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
        prop_assert_eq!(header.strings(1).unwrap().unwrap(), expected);
        let expected: Vec<_> = numbers.iter().map(|number| u64::from(*number)).collect();
        prop_assert_eq!(header.numbers(2).unwrap().unwrap(), expected);
        prop_assert_eq!(header.numbers(3).unwrap(), None);
        prop_assert!(header.numbers(1).is_err() && header.strings(2).is_err());
    }
}
