//! `nfdrop-indexer add`.

use super::{
    ERROR, UNRESOLVED,
    inputs::{self, Content, Input, Inputs},
    put, say,
    signing::{self, SignKey},
};
use anyhow::Context as _;
use nfdrop_db::{
    Reason, Record, Store,
    body::BodyOutcome,
    hex,
    store::{Kernel, KernelOutcome, Outcome, Package},
};
use nfdrop_indexer::analysis::{Bodies, analyse};
use nfdrop_resolver::{kernel::NoFunction, resolve::ANALYZER};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Resolve kernel files of your own, and store the plans beside those of the crawl
///
/// FILE is what resolve takes: a module, a kernel image, or packages. What is stored says that nobody
/// has verified where it comes from.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer add nf_tables.ko --vmlinux vmlinuz-6.12.9-acme --db nfdrop.sqlite
  nfdrop-indexer add linux-image-6.12.9-acme_1_amd64.deb --distro acme --db nfdrop.sqlite

Exit code: 0 all resolved, 2 some are not (they are stored with the reason), 1 error.")]
pub(super) struct Args {
    /// Files to add
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The database, created where there is none
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// The kernel image that goes with a module; its BTF tells offsets that the client reads
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// What the files are of, as lists and pages show it
    #[arg(long, value_name = "NAME", default_value = "local")]
    distro: String,
    /// Which part of it
    #[arg(long, value_name = "NAME", default_value = "local")]
    suite: String,
    #[command(flatten)]
    key: SignKey,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let store = args.key.open(&args.db)?;
    let vmlinux = inputs::vmlinux(args.vmlinux.as_ref())?;
    let (mut inputs, mut found, mut code) = (Inputs::default(), Vec::new(), 0);
    for path in &args.files {
        match inputs.read(path) {
            Ok(input) => found.extend(input),
            // The other files are still worth adding.
            Err(error) => {
                say(format_args!("error: {error:#}"));
                code = ERROR;
            }
        }
    }
    found.extend(inputs.rest());
    let bodies = Bodies::with_listings();
    for input in found {
        let added = add(&input, vmlinux.as_deref(), args, &store, &bodies);
        match added.with_context(|| input.name.clone()) {
            Ok(resolved) if resolved || code == ERROR => {}
            Ok(_) => code = UNRESOLVED,
            Err(error) => {
                say(format_args!("error: {error:#}"));
                code = ERROR;
            }
        }
    }
    if !signing::finish(&store)? {
        code = ERROR;
    }
    Ok(code)
}

/// Whether there is a plan.
fn add(
    input: &Input,
    vmlinux: Option<&[u8]>,
    args: &Args,
    store: &Store,
    bodies: &Bodies,
) -> anyhow::Result<bool> {
    let name = &input.name;
    let content = match &input.content {
        Ok(content) => content,
        Err(NoFunction { reason, detail }) => anyhow::bail!("{reason}: {detail}; not stored"),
    };
    let stored = |key: &_| store.body(key, ANALYZER).ok().flatten();
    let analysis = analyse(content.files(vmlinux), bodies, stored);
    let packages: Vec<_> =
        input.paths.iter().map(|path| package(path)).collect::<Result<_, _>>()?;
    let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let Some(build) = analysis.build(&names) else {
        let why = match &analysis.body.outcome {
            BodyOutcome::Unresolved { reason, detail } => {
                format!("{reason}: {}", detail.as_deref().unwrap_or_default())
            }
            BodyOutcome::Plan(_) => "it has no build-id, by which clients ask".to_owned(),
        };
        anyhow::bail!("{why}; not stored");
    };
    let of_package = match content {
        Content::Packages(files) => files.release.clone(),
        Content::File(_) => None,
    };
    let release = analysis.release.or(of_package).unwrap_or_else(|| "unknown".to_owned());
    let Record { build_id, plan, reason, detail, .. } = &build.record;
    let resolved = plan.is_some();
    if resolved {
        put(format!("{build_id}  {release}  resolved\n").as_bytes())?;
    } else {
        let reason = reason.unwrap_or(Reason::MalformedImage);
        put(format!("{build_id}  {release}  {reason}\n").as_bytes())?;
        say(format_args!("{name}: {reason}: {}", detail.as_deref().unwrap_or_default()));
    }
    let kernel = Kernel {
        distro: args.distro.clone(),
        suite: args.suite.clone(),
        version: release.clone(),
        release,
        arch: "x86_64".to_owned(),
        signed_by: None,
        packages,
    };
    let indexed_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let outcome = Outcome::Build(Box::new(build));
    store.put_kernel(&KernelOutcome { kernel, outcome, indexed_at })?;
    Ok(resolved)
}

/// The file as a package. Where it lies is this machine's own affair and not told to clients.
fn package(path: &Path) -> anyhow::Result<Package> {
    let name = path.file_name().context("not a file")?.to_string_lossy().into_owned();
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(Package {
        url: format!("file:{name}"),
        name,
        sha256: Some(hex::encode(&hash.0.finalize())),
        by_hash: true,
        transport_only: false,
    })
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
