//! One kernel of Debian's in the packages of other distributions, each compressed, named and signed as there.

use crate::{apk, pacman, rpm};
use nfdrop_db::Series;
use nfdrop_indexer::package::{self, Limits};
use nfdrop_resolver::image::compress::{self, decompress};
use nfdrop_tests::vm::{
    machine,
    mirror::{Mirror, is_gone},
};
use std::{any::Any, collections::BTreeMap, fs::File, io::Write as _, path::Path, sync::LazyLock};

/// What cloud machines run, and the smallest packages.
const CLOUD: &str = "cloud-amd64";
const SERIES: Series = Series(6, 12);
/// Modules that a kernel's packages have here, below `lib/modules/<release>/`: those that the scenario may need, and
/// as many that it does not.
const PLACES: [&str; 6] = [
    "kernel/net/netfilter/",
    "kernel/net/ipv4/netfilter/",
    "kernel/net/ipv6/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/drivers/net/veth.ko",
];
/// Most bytes of image and modules.
const MOST: u64 = 256 << 20;

/// A repository on this machine, and what a catalogue says of it.
pub(crate) struct Repository {
    /// The source's name.
    pub(crate) name: &'static str,
    /// Of its kernels.
    pub(crate) releases: Vec<String>,
    /// `sources.toml`.
    pub(crate) catalogue: String,
    /// Its folders, which go when this does.
    _folders: Box<dyn Any>,
}

/// The kernel as Debian's packages have it.
struct Debian {
    /// `6.12.117`.
    version: String,
    vmlinuz: Vec<u8>,
    /// By their paths below `lib/modules/<release>/`, without compression.
    modules: BTreeMap<String, Vec<u8>>,
}

static DEBIAN: LazyLock<Option<Debian>> = LazyLock::new(debian);

/// The kernel, or why nothing is run.
fn kernel() -> Option<&'static Debian> {
    let missing = if std::env::var_os("NFDROP_OFFLINE").is_some() {
        "NFDROP_OFFLINE is set"
    } else if !machine::is_there() {
        "there is no qemu-system-x86_64"
    } else if nfdrop_ci::prove::programs::find("nft").is_none() {
        "nft is missing (ci/install-deps)"
    } else if DEBIAN.is_none() {
        "the mirror has no kernel"
    } else {
        return DEBIAN.as_ref();
    };
    println!("{missing}: not run");
    None
}

fn debian() -> Option<Debian> {
    let mirror = Mirror::open().unwrap();
    let mut set = mirror.newest_of(SERIES, CLOUD)?;
    let packages = loop {
        match mirror.packages(set) {
            // Listed, and no longer there.
            Err(error) if is_gone(&error) => set = mirror.before(set)?,
            packages => break packages.unwrap(),
        }
    };
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let version = set.release.split(|c| !digits(c)).next().unwrap().to_owned();
    let (mut vmlinuz, mut modules) = (Vec::new(), BTreeMap::new());
    for package in packages {
        for (path, bytes) in files(&package, &set.release) {
            match path.split_once(".ko") {
                Some((name, _)) => {
                    let bytes = decompress(&bytes, compress::MAX_BYTES).unwrap().into_owned();
                    modules.insert(format!("{name}.ko"), bytes);
                }
                None => vmlinuz = bytes,
            }
        }
    }
    println!("{}: {} modules", set.release, modules.len());
    assert!(!vmlinuz.is_empty() && modules.len() > 10, "{}", set.release);
    Some(Debian { version, vmlinuz, modules })
}

/// The image, and the modules by their paths below the release's folder.
fn files(package: &Path, release: &str) -> Vec<(String, Vec<u8>)> {
    let (image, folder) = (format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/"));
    let wants = |path: &str| {
        let below = path.strip_prefix(&folder);
        path == image || below.is_some_and(|path| PLACES.iter().any(|at| path.starts_with(at)))
    };
    let file = File::open(package).unwrap();
    let found = package::collect(&file, &wants, MOST, &Limits::default()).unwrap();
    let below = |path: String| path.strip_prefix(&folder).map_or(path.clone(), str::to_owned);
    found.into_iter().map(|(path, bytes)| (below(path), bytes)).collect()
}

impl Debian {
    /// The modules as a package has them: in this folder, with this ending, compressed in this way.
    fn modules(
        &self,
        folder: &str,
        ending: &str,
        pack: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Vec<(String, Vec<u8>)> {
        let packed = self.modules.iter();
        packed.map(|(path, module)| (format!("{folder}/{path}{ending}"), pack(module))).collect()
    }

    /// Another build of it: `nf_tables` has another build-id, this one's with the first byte inverted. Its signature
    /// would not fit, and a module without one is loaded.
    fn rebuilt(&self) -> Self {
        const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
        const SIGNED: &[u8] = b"~Module signature appended~\n";
        let mut modules = self.modules.clone();
        let module = modules.get_mut("kernel/net/netfilter/nf_tables.ko").unwrap();
        let at = module.windows(NOTE.len()).position(|bytes| bytes == NOTE).unwrap();
        module[at + NOTE.len()] ^= 0xff;
        assert!(module.ends_with(SIGNED));
        module.truncate(module.len() - SIGNED.len());
        Self { version: self.version.clone(), vmlinuz: self.vmlinuz.clone(), modules }
    }
}

fn catalogue(name: &str, kind: &str, folder: &Path, keys: &Path) -> String {
    let (mirror, keys) = (format!("file://{}", folder.display()), keys.display());
    format!(
        "[[source]]\nname = \"{name}\"\nkind = \"{kind}\"\narch = \"x86_64\"\nmirror = \"{mirror}\"\n\
         keys = [\"{keys}\"]\nsuites = [{{ name = \"core\", urls = [\"{{mirror}}/core\"] }}]\n"
    )
}

/// Image and modules in packages of their own, each signed; modules in xz.
pub(crate) fn fedora() -> Option<Repository> {
    let kernel = kernel().filter(|_| rpm::tools())?;
    let folder = tempfile::tempdir().unwrap();
    let (repo, key) = (rpm::Repo::new(folder.path(), "core"), rpm::Key::generate());
    let release = format!("{}-301.fc41.x86_64", kernel.version);
    let modules = format!("lib/modules/{release}");
    let package = |name, files| rpm::Rpm {
        name,
        version: kernel.version.clone().leak(),
        release: "301.fc41",
        payload: "w3.zstdio",
        files,
        ..rpm::Rpm::default()
    };
    let requires = "kernel-core-uname-r, kernel-modules-core-uname-r";
    let xz = |bytes: &[u8]| liblzma::encode_all(bytes, 0).unwrap();
    for rpm in [
        rpm::Rpm { requires, ..package("kernel", vec![]) },
        package("kernel-core", vec![(format!("{modules}/vmlinuz"), kernel.vmlinuz.clone())]),
        package("kernel-modules-core", kernel.modules(&modules, ".xz", xz)),
    ] {
        repo.add(&rpm, Some((&key, false)));
    }
    repo.index(&["--no-database", "--general-compress-type", "xz"]);
    let catalogue = catalogue("fedora", "rpm-md", folder.path(), &key.public());
    let folders = Box::new((folder, key));
    Some(Repository { name: "fedora", releases: vec![release], catalogue, _folders: folders })
}

/// `linux` and, as another build, `linux-lts`, as many as are wanted, in a signed database; modules in zstd.
pub(crate) fn arch(kernels: usize) -> Option<Repository> {
    let kernel = kernel().filter(|_| pacman::have(&["bsdtar", "repo-add"]))?;
    let mirror = pacman::Mirror::create();
    let version = &kernel.version;
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let (mut packages, mut releases) = (Vec::new(), Vec::new());
    let rebuilt = kernel.rebuilt();
    let builds = [
        ("linux", kernel, format!("{version}.arch1-1"), format!("{version}-arch1-1")),
        ("linux-lts", &rebuilt, format!("{version}-1"), format!("{version}-1-lts")),
    ];
    for (name, build, package_version, release) in builds.into_iter().take(kernels) {
        let folder = format!("usr/lib/modules/{release}");
        let mut files = build.modules(&folder, ".zst", zstd);
        files.push((format!("{folder}/vmlinuz"), build.vmlinuz.clone()));
        files.push((format!("{folder}/pkgbase"), format!("{name}\n").into_bytes()));
        packages.push(mirror.package("core", name, &package_version, "zst", &files));
        releases.push(release);
    }
    mirror.publish("core", "core", "zst", &packages);
    mirror.sign(&mirror.path("core/core.db"));
    let keys = mirror.path("keyring.gpg");
    let catalogue = catalogue("arch", "pacman", mirror.root.path(), &keys);
    Some(Repository { name: "arch", releases, catalogue, _folders: Box::new(mirror) })
}

/// All of it in one package, the release in a file of its own; modules in gzip.
pub(crate) fn alpine() -> Option<Repository> {
    let kernel = kernel().filter(|_| pacman::have(&["openssl"]))?;
    let mut mirror = apk::Mirror::new("RSA256");
    let release = format!("{}-0-lts", kernel.version);
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    let mut files = kernel.modules(&format!("lib/modules/{release}"), ".gz", gzip);
    files.push(("boot/vmlinuz-lts".to_owned(), kernel.vmlinuz.clone()));
    let line = format!("{release}\n").into_bytes();
    files.push(("usr/share/kernel/lts/kernel.release".to_owned(), line));
    mirror.add("linux-lts", &format!("{}-r0", kernel.version), &files);
    mirror.publish();
    let catalogue = catalogue("alpine", "apk", mirror.root.path(), Path::new(&mirror.keys()));
    let catalogue = catalogue.replace("{mirror}/core", "{mirror}/main");
    Some(Repository {
        name: "alpine",
        releases: vec![release],
        catalogue,
        _folders: Box::new(mirror),
    })
}
