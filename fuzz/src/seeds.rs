//! What the fuzz targets begin with, made of the functions in `tests/corpus`: kernel files are made
//! here and not kept.

use crate::KERNELS;
use nfdrop_db::{BuildId, Record};
use nfdrop_resolver::image;
use nfdrop_resolver::resolve::resolve;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

type Failure = Box<dyn std::error::Error>;

/// Writes the seeds of a target to where `cargo fuzz run` looks for them. It makes the folder before
/// it runs a target; where there is none nobody looks.
pub fn write_for(target: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    if !folder.is_dir() {
        return;
    }
    let written = match target {
        "load_resolve" => load_resolve(&folder),
        "raw_image" => raw_image(&folder),
        "packages" => packages(&folder),
        "pacman" => pacman(&folder),
        "apk" => apk(&folder),
        "arch_sources" => arch_sources(&folder),
        "sources" => sources(&folder),
        "rpm_md" => rpm_md(&folder),
        _ => records(&folder),
    };
    written.unwrap_or_else(|error| panic!("seeds of {target}: {error}"));
}

/// Writes a seed, under a name of its own.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    Ok(fs::write(folder.join(format!("seed-{name}")), bytes)?)
}

/// Every kernel as it is, and with one change of every kind.
fn load_resolve(folder: &Path) -> Result<(), Failure> {
    for (index, _) in KERNELS.iter().enumerate() {
        let index = u8::try_from(index)?;
        write(folder, &format!("{index}"), &[index])?;
        for kind in 0..8 {
            let change = [index, 2 + kind, kind, 0x80, kind, 1, 0, 0, kind * 32];
            write(folder, &format!("{index}-{kind}"), &change)?;
        }
    }
    Ok(())
}

/// Modules and images, plain and compressed, and an extract.
fn raw_image(folder: &Path) -> Result<(), Failure> {
    let two = |file: &[u8], vmlinux: &[u8]| -> Result<Vec<u8>, Failure> {
        let cut = if vmlinux.is_empty() { u16::MAX } else { u16::try_from(file.len())? };
        Ok([&cut.to_le_bytes(), file, vmlinux].concat())
    };
    for kernel in KERNELS.iter() {
        let name = &kernel.name;
        let (module, vmlinux) = (&kernel.module, &kernel.vmlinux);
        write(folder, &format!("{name}-both"), &two(module, vmlinux)?)?;
        for (ending, packed) in compressed(vmlinux)? {
            let module = compressed(module)?.into_iter().find(|(other, _)| *other == ending);
            let module = module.map(|(_, bytes)| bytes).unwrap_or_default();
            write(folder, &format!("{name}-{ending}"), &two(&module, &packed)?)?;
            let image = bzimage(&packed, u32::try_from(vmlinux.len())?);
            write(folder, &format!("{name}-vmlinuz-{ending}"), &two(&module, &image)?)?;
        }
    }
    for path in extracts()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        write(folder, &format!("{name}-extract"), &two(&fs::read(path)?, &[])?)?;
    }
    Ok(())
}

fn extracts() -> Result<Vec<PathBuf>, Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn compressed(bytes: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes)?;
    // One block of literals: 15 in the token and the rest as 255 each.
    let mut block = vec![0xf0];
    let rest = bytes.len() - 15;
    block.extend(vec![255; rest / 255]);
    block.push(u8::try_from(rest % 255)?);
    block.extend(bytes);
    let size = u32::try_from(block.len())?.to_le_bytes();
    Ok(vec![
        ("gz", gzip.finish()?),
        ("xz", liblzma::encode_all(bytes, 6)?),
        ("zst", zstd::encode_all(bytes, 3)?),
        ("lz4", [&b"\x02\x21\x4c\x18"[..], &size, &block].concat()),
    ])
}

/// A kernel image with this payload (Documentation/arch/x86/boot.rst).
fn bzimage(payload: &[u8], size: u32) -> Vec<u8> {
    let mut image = vec![0; 5 * 512];
    image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    let length = payload.len() as u32 + 4;
    image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    image.extend(payload);
    image.extend(size.to_le_bytes());
    image
}

fn sources(folder: &Path) -> Result<(), Failure> {
    let index = b"Package: linux-image-6.1.0-56-cloud-amd64\nVersion: 6.1.170-1\n\
        Architecture: amd64\nDepends: kmod, linux-base (>= 4.3~)\nFilename: pool/main/l/linux/a.deb\n\
        Size: 1234\nSHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\n\
        Package: linux-libc-dev\nVersion: 6.1.170-1\n";
    write(folder, "index", &[b"\x00", &index[..]].concat())?;
    for (ending, packed) in compressed(index)? {
        let which: &[u8] = match ending {
            "gz" => b"\x01",
            "xz" => b"\x02",
            _ => continue,
        };
        write(folder, &format!("index-{ending}"), &[which, &packed].concat())?;
    }
    let release = b"Origin: Debian\nLabel: Debian\nSuite: stable\nCodename: trixie\n\
        Date: Sat, 21 Nov 2026 02:10:46 UTC\nValid-Until: Sat, 28 Nov 2026 02:10:46 UTC\n\
        Acquire-By-Hash: yes\nSHA256:\n \
        0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 1234 \
        main/binary-amd64/Packages.xz\n";
    write(folder, "release", &[b"\x03", &release[..]].concat())?;
    write(folder, "signed", b"\x04-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\na\n")?;
    write(folder, "versions", b"\x056.1.170-1\n6.1.170-1~bpo12+1\n1:6.12~rc2-1")?;
    write(
        folder,
        "list",
        b"\x06deb [signed-by=/a.gpg] http://mirror.example/debian trixie main\n",
    )?;
    let paragraph = b"\x06Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n\
        Components: main\nSigned-By: /a.gpg\n";
    write(folder, "sources", paragraph)
}

/// Indices of rpm repositories.
fn rpm_md(folder: &Path) -> Result<(), Failure> {
    let sha256 = "0123456789abcdef".repeat(4);
    let repomd = format!(
        "\x00<?xml version=\"1.0\"?><repomd xmlns=\"http://linux.duke.edu/metadata/repo\">\
         <data type=\"primary\"><checksum type=\"sha256\">{sha256}</checksum>\
         <location href=\"repodata/a.xml.gz\"/><timestamp>1.5</timestamp><size>12</size></data></repomd>"
    );
    write(folder, "repomd", repomd.as_bytes())?;
    let primary = format!(
        "\x01<metadata><package type=\"rpm\"><name>kernel</name><arch>x86_64</arch>\
         <version epoch=\"0\" ver=\"6.8.5\" rel=\"301.fc40\"/>\
         <checksum type=\"sha256\" pkgid=\"YES\">{sha256}</checksum><summary>a &amp; &#98;</summary>\
         <size package=\"12\"/><location href=\"k/a.rpm\"/><format><rpm:requires>\
         <rpm:entry name=\"kernel-core-uname-r\"/></rpm:requires></format></package></metadata>"
    );
    write(folder, "primary", primary.as_bytes())?;
    write(folder, "rpm-versions", b"\x046.8.5-301.fc40\n6.8.5^git-1\n1:6.12~rc2-1")
}

fn packages(folder: &Path) -> Result<(), Failure> {
    let Some(kernel) = KERNELS.first() else { return Ok(()) };
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [
        ("./boot/vmlinuz-6.1.0-56-cloud-amd64", &kernel.vmlinux[..512]),
        (
            "./lib/modules/6.1.0-56-cloud-amd64/kernel/net/netfilter/nf_tables.ko",
            &kernel.module[..512],
        ),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes)?;
    }
    let archive = archive.into_inner()?;
    for (ending, data) in compressed(&archive)?.into_iter().chain([("", archive.clone())]) {
        let name =
            if ending.is_empty() { "data.tar".to_owned() } else { format!("data.tar.{ending}") };
        let mut deb = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), (&name, &data)] {
            let size = content.len();
            write!(deb, "{name:16}{:12}{:6}{:6}{:8}{size:<10}`\n", 0, 0, 0, 100_644)?;
            deb.extend(content);
            deb.extend(vec![b'\n'; size % 2]);
        }
        write(folder, &format!("deb-{ending}"), &deb)?;
    }
    rpms(folder, &kernel.vmlinux[..512], &kernel.module[..512])
}

/// Of both kinds of archive, in every compression.
fn rpms(folder: &Path, image: &[u8], module: &[u8]) -> Result<(), Failure> {
    const DIRECTORY: &str = "/lib/modules/6.8.5-301.fc40.x86_64/";
    const NETFILTER: &str = "kernel/net/netfilter/";
    let newc = |name: &str, mode: u32, bytes: &[u8]| {
        let (size, length) = (bytes.len(), name.len() + 1);
        let mut member = format!("07070100000001{mode:08x}{:024x}{:08x}{size:08x}", 1, 0);
        member += &format!("{:032x}{length:08x}{:08x}{name}\0", 0, 0);
        let mut member = member.into_bytes();
        member.resize(member.len().next_multiple_of(4), 0);
        member.extend(bytes);
        member.resize(member.len().next_multiple_of(4), 0);
        member
    };
    let stripped =
        |index: u32, bytes: &[u8]| [format!("07070X{index:08x}\0\0").as_bytes(), bytes].concat();
    let file = 0o100_644;
    let trailer = newc("TRAILER!!!", 0, b"");
    let plain = [
        newc(&format!(".{DIRECTORY}vmlinuz"), file, image),
        newc(&format!(".{DIRECTORY}{NETFILTER}nf_tables.ko"), file, module),
        trailer.clone(),
    ];
    let referring = [stripped(0, image), stripped(1, module), trailer];
    let number = |number: u32| number.to_be_bytes().to_vec();
    let text = |texts: &[&str]| texts.iter().map(|text| format!("{text}\0")).collect::<String>();
    let header = |compressor: &str| {
        let pair = |value: u32| number(value).repeat(2);
        let mut tags: Vec<(u32, u32, u32, Vec<u8>)> = vec![
            (1028, 4, 2, pair(512)),
            (1030, 4, 2, pair(file)),
            (1037, 4, 2, pair(0)),
            (1095, 4, 2, pair(1)),
            (1096, 4, 2, [number(1), number(2)].concat()),
            (1116, 4, 2, [number(0), number(1)].concat()),
            (1117, 8, 2, text(&["vmlinuz", "nf_tables.ko"]).into_bytes()),
            (1118, 8, 2, text(&[DIRECTORY, &format!("{DIRECTORY}{NETFILTER}")]).into_bytes()),
            (1124, 6, 1, text(&["cpio"]).into_bytes()),
        ];
        if !compressor.is_empty() {
            tags.push((1125, 6, 1, text(&[compressor]).into_bytes()));
        }
        rpm_header(&tags)
    };
    for (kind, archive) in [("newc", plain.concat()), ("stripped", referring.concat())] {
        let packed = compressed(&archive)?.into_iter().chain([("", archive.clone())]);
        for (ending, data) in packed {
            let compressor = match ending {
                "gz" => "gzip",
                "zst" => "zstd",
                "lz4" => continue,
                other => other,
            };
            let mut rpm = b"\xed\xab\xee\xdb\x03\0".to_vec();
            rpm.resize(96, 0);
            rpm.extend(rpm_header(&[]));
            rpm.extend(header(compressor));
            rpm.extend(data);
            write(folder, &format!("rpm-{kind}-{ending}"), &rpm)?;
        }
    }
    Ok(())
}

/// Tag, type, count and bytes of each.
fn rpm_header(tags: &[(u32, u32, u32, Vec<u8>)]) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, kind, count, bytes) in tags {
        let offset = u32::try_from(store.len()).unwrap_or(u32::MAX);
        for word in [*tag, *kind, offset, *count] {
            index.extend(word.to_be_bytes());
        }
        store.extend(bytes);
    }
    let mut header = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
    for length in [tags.len(), store.len()] {
        header.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
    [header, index, store].concat()
}

/// A tar archive of these files.
fn tar(files: &[(&str, &[u8])]) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes)?;
    }
    Ok(archive.into_inner()?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

fn pacman(folder: &Path) -> Result<(), Failure> {
    let Some(kernel) = KERNELS.first() else { return Ok(()) };
    let archive = tar(&[
        (".BUILDINFO", b"format = 2\n"),
        (".PKGINFO", b"pkgname = linux\npkgver = 6.2.10.arch1-1\narch = x86_64\n"),
        (
            "usr/lib/modules/6.2.10-arch1-1/kernel/net/netfilter/nf_tables.ko.zst",
            &kernel.module[..512],
        ),
        ("usr/lib/modules/6.2.10-arch1-1/vmlinuz", &kernel.vmlinux[..512]),
    ])?;
    write(folder, "tar", &archive)?;
    for (ending, package) in compressed(&archive)? {
        write(folder, ending, &package)?;
    }
    Ok(())
}

fn apk(folder: &Path) -> Result<(), Failure> {
    let Some(kernel) = KERNELS.first() else { return Ok(()) };
    let data = gzip(&tar(&[
        ("boot/vmlinuz-lts", &kernel.vmlinux[..512]),
        ("lib/modules/6.12.13-0-lts/kernel/net/netfilter/nf_tables.ko.gz", &kernel.module[..512]),
    ])?)?;
    let hash = "ab".repeat(32);
    let info =
        format!("pkgname = linux-lts\npkgver = 6.12.13-r0\narch = x86_64\ndatahash = {hash}\n");
    // Without the end of an archive, two blocks of zeros.
    let cut = |mut archive: Vec<u8>| {
        archive.truncate(archive.len() - 1024);
        archive
    };
    let control = gzip(&cut(tar(&[(".PKGINFO", info.as_bytes())])?))?;
    let signature = gzip(&cut(tar(&[(".SIGN.RSA.a.rsa.pub", &[7; 256])])?))?;
    write(folder, "package", &[&signature[..], &control, &data].concat())?;
    write(folder, "unsigned", &[&control[..], &data].concat())
}

fn arch_sources(folder: &Path) -> Result<(), Failure> {
    let hash = "ab".repeat(32);
    let desc = format!(
        "%FILENAME%\nlinux-6.2.10.arch1-1-x86_64.pkg.tar.zst\n\n%NAME%\nlinux\n\n\
         %VERSION%\n6.2.10.arch1-1\n\n%CSIZE%\n1750\n\n%SHA256SUM%\n{hash}\n\n\
         %PGPSIG%\naGVsbG8=\n\n%ARCH%\nx86_64\n\n"
    );
    let database = tar(&[("linux-6.2.10.arch1-1/desc", desc.as_bytes())])?;
    write(folder, "db", &[b"\x00", &database[..]].concat())?;
    for (ending, packed) in compressed(&database)? {
        write(folder, &format!("db-{ending}"), &[b"\x00", &packed[..]].concat())?;
    }
    let file = "linux-1%3A6.2.10.arch1-1-x86_64.pkg.tar.zst";
    let page = format!("\x01<a href=\"{file}\">a</a><a href='{file}.sig'>b</a>");
    write(folder, "page", page.as_bytes())?;
    let index = "C:Q1p4IHqDzN6uqnJCgWMGpFO3y5QjE=\nP:linux-lts\nV:6.12.13-r0\nA:x86_64\nS:9876\n";
    let index = gzip(&tar(&[("DESCRIPTION", b"v3.21"), ("APKINDEX", index.as_bytes())])?)?;
    write(folder, "index", &[b"\x02", &index[..]].concat())?;
    write(folder, "key", b"\x03-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n")?;
    write(folder, "pacman-versions", b"\x046.2.10.arch1-1\n1:6.2-1\n6.2.a-1")?;
    write(folder, "apk-versions", b"\x056.12.13-r0\n6.13_rc2-r0\n1.2b_p1-r3")
}

fn records(folder: &Path) -> Result<(), Failure> {
    let id = BuildId::from_bytes(&[7; 20])?;
    for path in extracts()? {
        let function = image::load(&fs::read(&path)?, None)?;
        let record = match resolve(&function) {
            Ok(findings) => Record::resolved(findings.plan(id.clone())),
            Err(error) => Record::unresolved(id.clone(), error.reason, error.detail),
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        write(folder, &name, &record.to_bytes())?;
    }
    let none = Record::unresolved(id, nfdrop_db::Reason::NoSite, "nothing there");
    write(folder, "unresolved", &none.to_bytes())
}
