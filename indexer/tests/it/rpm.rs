//! Crawls of rpm repositories, laid out as distributions do, with the same kernels as a mirror of
//! Debian's.

use super::support::{
    done, elf, extract, indexer,
    mirror::{Deb, Mirror, Server},
    rpm::{Key, Repo, Rpm, tools},
};
use nfdrop_db::{BuildId, Store, hex};
use nfdrop_resolver::image::Function;
use sha2::{Digest as _, Sha256, Sha512};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

fn build_id(byte: u8) -> BuildId {
    BuildId::from_bytes(&[byte; 20]).unwrap()
}

/// A function of the corpus as if it were of another build and release.
fn kernel(name: &str, release: &str, byte: u8) -> Function {
    let (release, build_id) = (Some(release.to_owned()), Some(build_id(byte)));
    Function { release, build_id, ..extract(name) }
}

/// The kernels, and the release each has in Debian and in the rpms.
const KERNELS: [(&str, &str, &str, u8); 5] = [
    ("debian-6.12.117+deb13-cloud-amd64", "6.12.1-1-amd64", "6.12.1-301.fc41.x86_64", 1),
    ("debian-5.10.0-46-amd64", "5.10.2-1-amd64", "5.10.2-553.el8.x86_64", 2),
    ("debian-6.16.12+deb13-cloud-amd64", "6.16.3-1-amd64", "6.16.3-150600.21-default", 3),
    ("debian-6.1.0-56-cloud-amd64", "6.1.4-1-amd64", "6.1.4-202.855.amzn2.x86_64", 4),
    ("debian-7.2.13+deb14-cloud-amd64", "7.2.5-1-amd64", "7.2.5-1.ph5-esx", 5),
];

fn function(index: usize, debian: bool) -> Function {
    let (name, of_debian, of_rpm, byte) = KERNELS[index];
    kernel(name, if debian { of_debian } else { of_rpm }, byte)
}

fn image(index: usize, debian: bool) -> Vec<u8> {
    elf::vmlinux(&function(index, debian), &build_id(0x80 + KERNELS[index].3))
}

fn module(index: usize, debian: bool) -> Vec<u8> {
    elf::module(&function(index, debian))
}

fn debian(mirror: &mut Mirror) {
    for (index, (_, release, ..)) in KERNELS.iter().enumerate() {
        let files = vec![
            (format!("boot/vmlinuz-{release}"), image(index, true)),
            (
                format!("lib/modules/{release}/kernel/net/netfilter/nf_tables.ko"),
                module(index, true),
            ),
        ];
        let (name, depends) = (format!("linux-image-{release}"), String::new());
        mirror.add("trixie", &Deb { name, version: "1-1", depends, files });
    }
    mirror.publish();
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    liblzma::encode_all(bytes, 1).unwrap()
}

/// `kernel`, which is empty, `kernel-core` and `kernel-modules-core`; packages signed, the index not.
fn fedora(mirror: &Path, key: &Key) {
    let repo = Repo::new(mirror, "fedora/41");
    let release = KERNELS[0].2;
    let rpm = |name| Rpm {
        name,
        version: "6.12.1",
        release: "301.fc41",
        payload: "w19.zstdio",
        ..Rpm::default()
    };
    let requires = "kernel-core-uname-r, kernel-modules-core-uname-r";
    repo.add(&Rpm { requires, ..rpm("kernel") }, Some((key, false)));
    let core = Rpm {
        files: vec![(format!("lib/modules/{release}/vmlinuz"), image(0, false))],
        ghosts: vec![format!("boot/vmlinuz-{release}")],
        ..rpm("kernel-core")
    };
    repo.add(&core, Some((key, false)));
    let path = format!("lib/modules/{release}/kernel/net/netfilter/nf_tables.ko.xz");
    let files = vec![(path, xz(&module(0, false)))];
    repo.add(&Rpm { files, ..rpm("kernel-modules-core") }, Some((key, false)));
    repo.index(&["--no-database", "--general-compress-type", "xz"]);
}

/// All of it in `kernel-core`, the module a hard link; the index is signed.
fn red_hat(mirror: &Path, key: &Key) {
    let repo = Repo::new(mirror, "el/8/BaseOS");
    let release = KERNELS[1].2;
    let (version, payload) = ("5.10.2", "w6.xzdio");
    let modules = format!("lib/modules/{release}/kernel/net/netfilter");
    let core = Rpm {
        name: "kernel-core",
        version,
        release: "553.el8",
        payload,
        files: vec![
            (format!("lib/modules/{release}/vmlinuz"), image(1, false)),
            (format!("{modules}/nf_tables.ko.xz"), xz(&module(1, false))),
        ],
        copies: vec![(format!("{modules}/x_copy"), format!("{modules}/nf_tables.ko.xz"))],
        ..Rpm::default()
    };
    repo.add(&core, None);
    let requires = "kernel-core-uname-r, kernel-modules-uname-r";
    let meta =
        Rpm { name: "kernel", version, release: "553.el8", payload, requires, ..Rpm::default() };
    repo.add(&meta, None);
    repo.index(&["--no-database", "--general-compress-type", "gz"]);
    repo.sign(key);
}

/// `kernel-default` with a link in the image's old place and a vmlinux; checksums are SHA-512 and the
/// index is in zstd, which `createrepo_c` of Debian 12 cannot make.
fn suse(mirror: &Path, key: &Key) {
    let repo = Repo::new(mirror, "leap/15.6");
    let release = KERNELS[2].2;
    let modules = format!("usr/lib/modules/{release}");
    let module = zstd::encode_all(&module(2, false)[..], 3).unwrap();
    let default = Rpm {
        name: "kernel-default",
        version: "6.16.3",
        release: "150600.21.2",
        payload: "w19.zstdio",
        files: vec![
            (format!("boot/vmlinux-{release}.gz"), b"not looked at".to_vec()),
            (format!("{modules}/kernel/net/netfilter/nf_tables.ko.zst"), module),
            (format!("{modules}/vmlinuz"), image(2, false)),
        ],
        links: vec![(format!("boot/vmlinuz-{release}"), format!("../{modules}/vmlinuz"))],
        ..Rpm::default()
    };
    repo.add(&default, None);
    repo.index(&["--no-database", "--general-compress-type", "gz", "--repomd-checksum", "sha512"]);
    let path = repo.primary();
    let mut xml = Vec::new();
    let gz = fs::read(&path).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gz[..]), &mut xml).unwrap();
    let packed = zstd::encode_all(&xml[..], 3).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut repomd = fs::read_to_string(repo.repomd()).unwrap();
    for (old, new) in [
        (name.to_owned(), "primary.xml.zst".to_owned()),
        (hex::encode(&Sha512::digest(&gz)), hex::encode(&Sha512::digest(&packed))),
        (format!("<size>{}</size>", gz.len()), format!("<size>{}</size>", packed.len())),
    ] {
        assert!(repomd.contains(&old), "{old} is not in {repomd}");
        repomd = repomd.replace(&old, &new);
    }
    fs::remove_file(&path).unwrap();
    fs::write(path.with_file_name("primary.xml.zst"), packed).unwrap();
    fs::write(repo.repomd(), repomd).unwrap();
    repo.sign(key);
}

/// A database for an index, a list of mirrors; packages are signed in the old way too.
fn amazon(mirror: &Path, key: &Key, url: &str) {
    let repo = Repo::new(mirror, "amazon/2/core/0123");
    let release = KERNELS[3].2;
    let kernel = Rpm {
        name: "kernel",
        version: "6.1.4",
        release: "202.855.amzn2",
        payload: "w9.gzdio",
        files: vec![
            (format!("boot/vmlinuz-{release}"), image(3, false)),
            (format!("lib/modules/{release}/kernel/net/netfilter/nf_tables.ko"), module(3, false)),
        ],
        ..Rpm::default()
    };
    repo.add(&kernel, Some((key, true)));
    repo.index(&["--database", "--general-compress-type", "gz"]);
    repo.remove("primary");
    let places = ["gone", "broken", "0123/"].map(|place| format!("{url}/amazon/2/core/{place}\n"));
    let list = places.concat();
    let broken = mirror.join("amazon/2/core/broken/repodata");
    fs::create_dir_all(&broken).unwrap();
    fs::write(broken.join("repomd.xml"), "not found").unwrap();
    fs::create_dir_all(mirror.join("amazon/2/core/latest/x86_64")).unwrap();
    fs::write(mirror.join("amazon/2/core/latest/x86_64/mirror.list"), list).unwrap();
}

/// `linux-esx`, the last compression, and an index in bzip2.
fn photon(mirror: &Path, key: &Key) {
    let repo = Repo::new(mirror, "photon/5.0");
    let release = KERNELS[4].2;
    let esx = Rpm {
        name: "linux-esx",
        version: "7.2.5",
        release: "1.ph5",
        payload: "w9.bzdio",
        files: vec![
            (format!("boot/vmlinuz-{release}"), image(4, false)),
            (
                format!("lib/modules/{release}/kernel/net/netfilter/nf_tables.ko.xz"),
                xz(&module(4, false)),
            ),
        ],
        ..Rpm::default()
    };
    repo.add(&esx, Some((key, false)));
    repo.index(&["--no-database", "--general-compress-type", "bz2"]);
}

/// A catalogue of these repositories.
fn catalogue(path: &Path, url: &str, key: &Path) -> PathBuf {
    let mut text = String::new();
    for (name, suite, place) in [
        ("fedora", "41", "fedora/41"),
        ("rhel", "8", "el/8/BaseOS"),
        ("opensuse-leap", "15.6", "leap/15.6"),
        ("amazon", "2", "amazon/2/core/latest/x86_64/mirror.list"),
        ("photon", "5.0", "photon/5.0"),
    ] {
        writeln!(
            text,
            "[[source]]\nname = \"{name}\"\nkind = \"rpm-md\"\narch = \"x86_64\"\n\
             mirror = \"{url}\"\nkeys = [\"{}\"]\n\
             suites = [{{ name = \"{suite}\", urls = [\"{{mirror}}/{place}\"] }}]",
            key.display()
        )
        .unwrap();
    }
    let file = path.join("sources.toml");
    fs::write(&file, text).unwrap();
    file
}

/// A crawl's exit code and what it says.
fn crawl(place: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = indexer(&["crawl"]);
    command.arg("--db").arg(place.join("db.sqlite"));
    command.arg("--cache").arg(place.join("cache")).args(arguments);
    let (code, _, stderr) = done(&command.output().unwrap());
    (code, stderr)
}

fn records(place: &Path) -> Vec<String> {
    let store = Store::open_read_only(place.join("db.sqlite")).unwrap();
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let record = |(.., byte): &(&str, &str, &str, u8)| {
        let record = store.record(&build_id(*byte)).unwrap();
        String::from_utf8(record.unwrap_or_default()).unwrap()
    };
    KERNELS.iter().map(record).collect()
}

#[test]
fn rpm_repositories_give_the_plans_that_debian_does() {
    if !tools() {
        return;
    }
    let mut mirror = Mirror::new();
    debian(&mut mirror);
    let server = Server::new(mirror.root.path());
    let key = Key::generate();
    let root = mirror.root.path().to_owned();
    fedora(&root, &key);
    red_hat(&root, &key);
    suse(&root, &key);
    amazon(&root, &key, &server.url);
    photon(&root, &key);
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [of_debian, of_rpm] = places.each_ref().map(tempfile::TempDir::path);
    let archive = format!("debian={}", server.url);
    let (code, stderr) = crawl(of_debian, &["--mirror", &archive, "--keyring", &mirror.keyring()]);
    assert_eq!(code, 0, "{stderr}");
    let catalogue = catalogue(of_rpm, &server.url, &key.public());
    let all = ["all", "--catalogue", catalogue.to_str().unwrap()];
    let (code, stderr) = crawl(of_rpm, &all);
    assert_eq!(code, 0, "{stderr}");
    for (_, _, release, _) in KERNELS {
        assert!(stderr.contains(&format!("{release}: resolved")), "{release} in:\n{stderr}");
    }
    let failed = format!("passed over: {}/amazon/2/core/broken: ", server.url);
    assert!(stderr.contains(&failed), "{failed:?} is missing in:\n{stderr}");
    assert!(!stderr.contains("core/gone"), "what a mirror does not have is no failure:\n{stderr}");
    let records = [of_debian, of_rpm].map(records);
    assert!(records[0].iter().all(|record| record.contains("\"status\":\"resolved\"")));
    assert_eq!(records[0], records[1]);
    // The second crawl fetches indices only.
    server.at_every_point(|_, _| {});
    let (code, stderr) = crawl(of_rpm, &all);
    assert_eq!(code, 0, "{stderr}");
    let log = server.log();
    let package = log.iter().find(|path| path.contains("x86_64.rpm"));
    assert!(package.is_none() && !log.is_empty(), "{log:?}");
}

#[test]
fn an_old_index_is_told() {
    if !tools() {
        return;
    }
    let (mirror, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (root, place) = (mirror.path(), place.path());
    let (server, key) = (Server::new(root), Key::generate());
    red_hat(root, &key);
    let catalogue = catalogue(place, &server.url, &key.public());
    let arguments = ["rhel", "--catalogue", catalogue.to_str().unwrap()];
    let (code, stderr) = crawl(place, &arguments);
    assert_eq!((code, stderr.contains("older:")), (0, false), "{stderr}");
    let repo = Repo::new(root, "el/8/BaseOS");
    let new = fs::read_to_string(repo.repomd()).unwrap();
    let old = new.replace("<timestamp>1", "<timestamp>0");
    assert_ne!(old, new);
    fs::write(repo.repomd(), old).unwrap();
    repo.sign(&key);
    // However often it is sent.
    for _ in 0..2 {
        let (code, stderr) = crawl(place, &arguments);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("older: the index of rhel 8 is of "), "{stderr}");
    }
}

#[test]
fn what_nobody_vouches_for_is_not_used() {
    if !tools() {
        return;
    }
    let (mirror, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (root, place) = (mirror.path(), place.path());
    let server = Server::new(root);
    let [key, other] = [Key::generate(), Key::generate()];
    // Signed index by another key; packages signed by another key, and not at all.
    red_hat(root, &other);
    photon(root, &other);
    fedora(root, &key);
    let unsigned = root.join("fedora/41/kernel-core-6.12.1-301.fc41.x86_64.rpm");
    assert!(
        std::process::Command::new("rpmsign")
            .arg("--delsign")
            .arg(&unsigned)
            .status()
            .unwrap()
            .success()
    );
    Repo::new(root, "fedora/41").index(&["--no-database", "--general-compress-type", "xz"]);
    let catalogue = catalogue(place, &server.url, &key.public());
    let all = ["fedora", "rhel", "photon", "--catalogue", catalogue.to_str().unwrap()];
    let (code, stderr) = crawl(place, &all);
    assert_eq!(code, 1, "{stderr}");
    for words in [
        "signed by unknown keys only",
        "7.2.5-1.ph5-esx: failed, verification_failed",
        "6.12.1-301.fc41.x86_64: failed, verification_failed",
        "the rpm is not signed",
        "repomd.xml.asc",
    ] {
        assert!(stderr.contains(words), "{words:?} is missing in:\n{stderr}");
    }
    // A file that was changed after it was indexed.
    photon(root, &key);
    let esx = root.join("photon/5.0/linux-esx-7.2.5-1.ph5.x86_64.rpm");
    let mut bytes = fs::read(&esx).unwrap();
    let listed = hex::encode(&Sha256::digest(&bytes));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&esx, bytes).unwrap();
    let photon = ["photon", "--catalogue", catalogue.to_str().unwrap()];
    let (code, stderr) = crawl(place, &photon);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&listed), "{stderr}");
}

/// What `resolve` is given are files, whatever they are called.
#[test]
fn resolve_takes_rpms() {
    if !tools() {
        return;
    }
    let mirror = tempfile::tempdir().unwrap();
    let key = Key::generate();
    fedora(mirror.path(), &key);
    let folder = mirror.path().join("fedora/41");
    let file = |name: &str| folder.join(format!("{name}-6.12.1-301.fc41.x86_64.rpm"));
    let renamed = folder.join("kernel.deb");
    fs::rename(file("kernel-modules-core"), &renamed).unwrap();
    let mut command = indexer(&["resolve"]);
    let output = command.arg(file("kernel-core")).arg(&renamed).output().unwrap();
    let (code, stdout, stderr) = done(&output);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&build_id(1).to_string()), "{stdout}");
    let output = indexer(&["resolve"]).arg(file("kernel")).output().unwrap();
    let (code, _, stderr) = done(&output);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("kernel-core and kernel-modules-core"), "{stderr}");
}
