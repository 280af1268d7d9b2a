//! The oracle is the walk from the beginning: what is picked is what it finds.

use super::{super::deb::tests::ar, *};
use crate::package::{kernel_files, kernel_files_at};
use proptest::prelude::*;
use std::{fmt::Write as _, sync::Mutex};

const RELEASE: &str = "6.1.0-56-cloud-amd64";
const IMAGE: &str = "boot/vmlinuz-6.1.0-56-cloud-amd64";
const MODULE: &str = "lib/modules/6.1.0-56-cloud-amd64/kernel/net/netfilter/nf_tables.ko";

/// Bytes that do not compress.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| step()).collect()
}

/// A tar archive of these members, each of which comes once; long names as GNU tar writes them.
fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("./{path}"), &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// As xz writes it with `--block-size`: what the library makes of each piece alone, put together.
pub(in super::super) fn xz(plain: &[u8], block: usize) -> Vec<u8> {
    let (mut file, mut records, mut count) = (Vec::new(), Vec::new(), 0);
    for piece in plain.chunks(block) {
        let alone = liblzma::encode_all(piece, 0).unwrap();
        let (rest, footer) = alone.split_last_chunk::<12>().unwrap();
        let size = (u32::from_le_bytes(*footer[4..].first_chunk().unwrap()) as usize + 1) * 4;
        let (blocks, index) = rest.split_at(rest.len() - size);
        if file.is_empty() {
            file.extend_from_slice(&blocks[..12]);
        }
        file.extend_from_slice(&blocks[12..]);
        // An indicator, the number of blocks, one record of two numbers, padding, checksum.
        let numbers = index[2..].split_inclusive(|byte| byte & 0x80 == 0).take(2);
        records.extend(numbers.flatten());
        count += 1;
    }
    assert!(count < 128, "its number takes one byte");
    let mut index = [&[0, count], &records[..]].concat();
    index.resize(index.len().next_multiple_of(4), 0);
    let sum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    index.extend(sum(&index));
    let backward = (index.len() as u32 / 4 - 1).to_le_bytes();
    let flags = [file[6], file[7]];
    let footer = [&backward[..], &flags].concat();
    [&file, &index, &sum(&footer)[..], &footer, b"YZ"].concat()
}

/// A package of these members, with sums of what is listed.
fn deb_with(listed: &[(String, Vec<u8>)], tar: &[u8], block: usize) -> Vec<u8> {
    let mut sums = String::new();
    for (path, bytes) in listed {
        writeln!(sums, "{}  {path}", nfdrop_db::hex::encode(&Md5::digest(bytes))).unwrap();
    }
    let control = self::tar(&[("md5sums".to_owned(), sums.into_bytes())]);
    let control = liblzma::encode_all(&control[..], 6).unwrap();
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &control),
        ("data.tar.xz", &xz(tar, block)),
    ])
}

fn deb(members: &[(String, Vec<u8>)], block: usize) -> Vec<u8> {
    deb_with(members, &tar(members), block)
}

fn member(path: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    (path.to_owned(), bytes.to_vec())
}

/// What a kernel package is like: an image, and a few hundred kilobytes of modules.
fn members() -> Vec<(String, Vec<u8>)> {
    let modules = "lib/modules/6.1.0-56-cloud-amd64/kernel";
    let mut members = vec![member("boot/System.map-6.1.0-56-cloud-amd64", b"map")];
    members.push(member(IMAGE, &noise(1, 50_000)));
    let many = |directory: &'static str, count: u32| {
        let path = move |n| format!("{modules}/{directory}/{n:03}.ko");
        (0..count).map(move |n| (path(n), noise(n + 7, 1_000 + n as usize * 37)))
    };
    members.extend(many("drivers", 90));
    members.push(member(MODULE, &noise(2, 9_000)));
    members.extend(many("net/netfilter/x", 30));
    members.extend(many("sound", 30));
    members
}

fn limits() -> Limits {
    Limits::default()
}

fn picked(deb: &[u8], wanted: Wanted) -> Result<KernelFiles, String> {
    pick(&deb, wanted, &limits()).map_err(|error| error.to_string())
}

/// Remembers how much of it was read.
struct Watched<'a> {
    bytes: &'a [u8],
    read: Mutex<usize>,
}

struct WatchedPart<'a>(Box<dyn Read + Send + 'a>, &'a Mutex<usize>);

impl RandomAccess for Watched<'_> {
    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }

    fn part(&self, range: Range<u64>) -> Box<dyn Read + Send + '_> {
        Box::new(WatchedPart(self.bytes.part(range), &self.read))
    }
}

impl Read for WatchedPart<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(4096);
        let read = self.0.read(&mut out[..most])?;
        *self.1.lock().unwrap() += read;
        Ok(read)
    }
}

#[test]
fn picks_what_a_walk_finds() {
    let members = members();
    for block in [600, 4_096, 33_333, 100_000, 300_000] {
        let deb = deb(&members, block.max(tar(&members).len() / 120));
        for wanted in [Wanted::Both, Wanted::Vmlinuz, Wanted::NfTables] {
            let walked = kernel_files(&deb[..], wanted, &limits()).unwrap();
            assert_eq!(walked.release.as_deref(), Some(RELEASE));
            assert_eq!(picked(&deb, wanted).as_ref(), Ok(&walked), "{block} {wanted:?}");
        }
    }
}

#[test]
fn leaves_out_most_of_the_package() {
    let watched = Watched { bytes: &deb(&members(), 20_000), read: Mutex::default() };
    pick(&watched, Wanted::NfTables, &limits()).unwrap();
    let read = *watched.read.lock().unwrap();
    assert!(read * 2 < watched.bytes.len(), "{read} of {}", watched.bytes.len());
}

#[test]
fn names_longer_than_a_header_are_found() {
    let long = "usr/lib/modules/6.12.117+deb13-with-a-rather-long-flavour-amd64/kernel/drivers/net";
    let mut members: Vec<_> = (0..90)
        .map(|n| {
            (
                format!("{long}/{n:03}-and-this-too-is-longer-than-names-should-be.ko"),
                noise(n, 2000),
            )
        })
        .collect();
    let path = format!("{}/nf_tables.ko.xz", long.replace("drivers/net", "net/netfilter"));
    members.push((path, noise(3, 4000)));
    let deb = deb(&members, 20_000);
    let files = picked(&deb, Wanted::NfTables).unwrap();
    assert_eq!(files.nf_tables.unwrap().bytes, noise(3, 4000));
}

#[test]
fn an_archive_inside_a_file_is_not_the_package() {
    // Inside the content of a file that is sorted before the module is an archive with another
    // module at the same path, in a block of its own.
    let mut inner = members();
    for (path, bytes) in &mut inner {
        if path == MODULE {
            *bytes = noise(99, 9_000);
        }
    }
    let mut outer = members();
    let place = outer.iter().position(|(path, _)| path == MODULE).unwrap();
    let path = MODULE.replace("nf_tables.ko", "a.ko");
    outer.insert(place, (path, tar(&inner)));
    let mut refused = 0;
    for block in [4_096, 7_000, 20_000, 50_000, 100_000, 200_000] {
        let deb = deb(&outer, block.max(tar(&outer).len() / 120));
        let walked = kernel_files(&deb[..], Wanted::NfTables, &limits()).unwrap();
        assert_eq!(walked.nf_tables.as_ref().unwrap().bytes, noise(2, 9_000));
        match picked(&deb, Wanted::NfTables) {
            Ok(files) => assert_eq!(files, walked),
            Err(_) => refused += 1,
        }
        let read = kernel_files_at(&&deb[..], Wanted::NfTables, &limits()).unwrap();
        assert_eq!(read, walked);
    }
    assert!(refused > 0, "the inner archive never was in the way");
}

#[test]
fn says_why_nothing_is_picked() {
    let members = members();
    let (plain, block) = (tar(&members), 20_000);
    let mut unsorted = members.clone();
    unsorted.reverse();
    let mut other = members.clone();
    for (path, bytes) in &mut other {
        if path == MODULE {
            bytes[0] ^= 1;
        }
    }
    let mut twice = members.clone();
    twice.push(member(&MODULE.replace("kernel/net", "updates"), b"other"));
    let padded = [&xz(&plain, block)[..], &[0; 4]].concat();
    let two = [xz(&plain, block), xz(&plain, block)].concat();
    let sums = tar(&[member("md5sums", format!("{:032}  {MODULE}\n", 0).as_bytes())]);
    let no_sums = tar(&[member("control", b"")]);
    let with = |control: &[u8], data: &[u8]| {
        ar(&[("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar.xz", data)])
    };
    let cases = [
        picked(b"", Wanted::Both),
        picked(b"\x89PNG\r\n\x1a\n", Wanted::Both),
        picked(&ar(&[("debian-binary", b"2.0\n"), ("data.tar.gz", b"")]), Wanted::Both),
        picked(&ar(&[("debian-binary", b"2.0\n"), ("data.tar.xz", b"")]), Wanted::Both),
        picked(&with(&no_sums, b""), Wanted::Both),
        picked(&with(&sums, b""), Wanted::Both),
        picked(&with(&sums, b""), Wanted::NfTables),
        picked(&with(&sums, &padded), Wanted::NfTables),
        picked(&with(&sums, &two), Wanted::NfTables),
        picked(&with(&sums, &xz(&plain, plain.len())), Wanted::NfTables),
        picked(&with(&sums, &xz(&plain, block)), Wanted::NfTables),
        picked(&with(&sums, &xz(&vec![7; 100_000], block)), Wanted::NfTables),
        picked(&deb_with(&members, &tar(&unsorted), block), Wanted::Both),
        picked(&deb_with(&other, &plain, block), Wanted::Both),
        picked(&deb(&twice, block), Wanted::Both),
    ];
    let errors: Vec<_> = cases.into_iter().map(Result::unwrap_err).collect();
    insta::assert_snapshot!(errors.join("\n"), @"
    the package cannot be read: failed to fill whole buffer
    nothing can be picked out of the package: it is no Debian package with a control.tar and a data.tar.xz
    nothing can be picked out of the package: it is no Debian package with a control.tar and a data.tar.xz
    nothing can be picked out of the package: its md5sums do not list exactly one of each file that is wanted
    nothing can be picked out of the package: its md5sums do not list exactly one of each file that is wanted
    nothing can be picked out of the package: its md5sums do not list exactly one of each file that is wanted
    nothing can be picked out of the package: its data.tar.xz is not a single xz stream
    nothing can be picked out of the package: its data.tar.xz is not a single xz stream
    nothing can be picked out of the package: the index of its data.tar.xz is broken or does not fit
    nothing can be picked out of the package: its data.tar.xz has one block
    nothing can be picked out of the package: its data.tar is not sorted by path, or has another file than its md5sums say
    nothing can be picked out of the package: its data.tar has no member where one should begin
    nothing can be picked out of the package: its data.tar is not sorted by path, or has another file than its md5sums say
    nothing can be picked out of the package: its data.tar is not sorted by path, or has another file than its md5sums say
    nothing can be picked out of the package: its md5sums do not list exactly one of each file that is wanted
    ");
}

#[test]
fn a_package_that_lies_of_itself_yields_what_it_lists() {
    // The listed file is in the archive, inside another: nobody makes such a package by accident,
    // and who makes it could as well have put the other file in its place.
    let mut inner = members();
    inner.iter_mut().filter(|(path, _)| path == MODULE).for_each(|(_, b)| *b = noise(99, 9_000));
    let mut outer = members();
    outer.insert(2, (MODULE.replace("net/netfilter/nf_tables.ko", "a.ko"), tar(&inner)));
    let deb = deb_with(&inner, &tar(&outer), 20_000);
    if let Ok(files) = picked(&deb, Wanted::NfTables) {
        assert_eq!(files.nf_tables.unwrap().bytes, noise(99, 9_000));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the members are and wherever the blocks are cut.
    #[test]
    fn equals_the_walk(
        names in proptest::collection::btree_set("[a-z]{1,3}(/[a-z-]{1,3}){0,3}", 0..40),
        sizes in proptest::collection::vec(0..3_000usize, 42),
        module in "[a-z]{0,2}", shuffle in any::<bool>(), block in 512..20_000usize,
    ) {
        let base = "lib/modules/6.1.0-56-cloud-amd64/kernel/";
        let mut paths: Vec<String> = names.iter().map(|name| format!("{base}{name}.ko")).collect();
        paths.push(format!("{base}{module}/nf_tables.ko"));
        paths.push(IMAGE.to_owned());
        paths.sort_by(|a, b| components(a.as_bytes()).cmp(components(b.as_bytes())));
        if shuffle {
            let half = paths.len() / 2;
            paths.rotate_left(half);
        }
        let content = |n: usize| noise(n as u32, sizes[n]);
        let members: Vec<_> = paths.into_iter().enumerate().map(|(n, p)| (p, content(n))).collect();
        let deb = deb(&members, block.max(tar(&members).len() / 120));
        let walked = kernel_files(&deb[..], Wanted::Both, &limits()).unwrap();
        prop_assert_eq!(kernel_files_at(&&deb[..], Wanted::Both, &limits()).unwrap(), walked.clone());
        if let Ok(files) = pick(&&deb[..], Wanted::Both, &limits()) {
            prop_assert_eq!(files, walked);
        }
    }

    /// Damage is not a panic, nor another answer.
    #[test]
    fn equals_the_walk_of_damaged_packages(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut deb = deb(&members()[..40], 9_000);
        for (place, value) in flips {
            let place = place.index(deb.len());
            deb[place] ^= value;
        }
        deb.truncate(cut.map_or(deb.len(), |cut| cut.index(deb.len())));
        let walked = kernel_files(&deb[..], Wanted::Vmlinuz, &limits());
        if let (Ok(files), Ok(walked)) = (pick(&&deb[..], Wanted::Vmlinuz, &limits()), walked) {
            prop_assert_eq!(files, walked);
        }
    }
}
