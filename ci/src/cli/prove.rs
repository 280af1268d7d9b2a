//! `nfdrop-ci prove`.

use super::{put, say};
use anyhow::Context as _;
use nfdrop_ci::prove::{
    machine::{Accel, Qemu},
    programs,
    run::{self, Prover, Selection, Tally, Tried},
};
use nfdrop_db::{BuildId, ProofResult, Store};
use nfdrop_indexer::{
    fetch::{Fetcher, Options, default_cache},
    signing::SigningKey,
};
use regex::Regex;
use std::{env, io, num::NonZeroU16, path::PathBuf, sync::Arc, time::Duration};

/// Boot kernels of a database, attach their plans, and store what was seen
///
/// Of every build with a plan the kernel is taken from its packages (from the crawl's cache, else fetched again
/// and checked) and booted in QEMU. There the client attaches the plan, packets are dropped, and what the probes
/// saw is compared with what the rules counted. The outcome is stored beside the plan: `proven`, `contradicted`,
/// or `not_bootable` with the console's last lines. It may be stopped: started again it goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-ci prove --db nfdrop.sqlite
  nfdrop-ci prove --db nfdrop.sqlite --new --jobs 4
  nfdrop-ci prove --db nfdrop.sqlite --filter '^6\\.12\\..*cloud'

A line for each build on stdout: build-id, result, drops seen, seconds, kernel. Why a plan is not proven is
told on stderr, and by the server's page of the build.

Exit codes: 0 all are proven, or there is nothing to do; 1 some could not be booted or fetched; 2 a plan is
contradicted, also beside 1; 3 error.")]
pub(super) struct ProveArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Only this build, again where it was proven before; may be given several times
    #[arg(long, value_name = "HEX", num_args = 1.., conflicts_with_all = ["new", "filter"])]
    build_id: Vec<BuildId>,
    /// Only builds that were never tried; without it those that could not be booted are tried again
    #[arg(long, conflicts_with = "filter")]
    new: bool,
    /// Only builds of kernels whose release matches this regular expression
    #[arg(long, value_name = "RE")]
    filter: Option<Regex>,
    /// Guests at a time; one wants a processor and half a GiB
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroU16,
    /// Where packages are kept [default: as of `nfdrop-indexer crawl`]
    #[arg(long, value_name = "DIR", env = "NFDROP_CACHE_PATH")]
    cache: Option<PathBuf>,
    /// The client that is run in the guest [default: beside this program, else in PATH]
    #[arg(long, value_name = "FILE")]
    client: Option<PathBuf>,
    /// The nft that is run in the guest [default: in PATH]
    #[arg(long, value_name = "FILE")]
    nft: Option<PathBuf>,
    /// QEMU for the kernels' architecture
    #[arg(long, value_name = "FILE", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// What runs the guests' instructions [default: kvm where it works, else tcg]
    #[arg(long, value_enum)]
    accel: Option<AccelName>,
    /// Seconds after which a guest that is not done is ended
    #[arg(long, value_name = "SECONDS", default_value = "180")]
    time_limit: NonZeroU16,
    /// Sign the proofs with this secret key, as `nfdrop-indexer keygen` writes it; `nfdrop-indexer sign`
    /// does so later
    #[arg(long, value_name = "FILE", env = "NFDROP_SIGN_KEY")]
    sign_key: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum AccelName {
    Kvm,
    Tcg,
}

pub(super) fn prove(args: &ProveArgs) -> anyhow::Result<u8> {
    let store = open(args)?;
    let selection = match (&args.filter, args.new) {
        _ if !args.build_id.is_empty() => Selection::Builds(args.build_id.clone()),
        (Some(pattern), _) => Selection::Matching(pattern.clone()),
        (None, true) => Selection::New,
        (None, false) => Selection::Open,
    };
    let builds = run::select(&store, &selection)?;
    if builds.is_empty() {
        say("nothing to prove: every plan that was asked for has its proof");
        return Ok(0);
    }
    let prover = prover(args)?;
    say(format_args!(
        "{} plans to prove, with QEMU {} ({}), {} at a time",
        builds.len(),
        prover.qemu.version,
        prover.qemu.accel.name(),
        args.jobs
    ));
    let tally = prover.run(&store, &builds, tell)?;
    store.finish().context("ending the database's log")?;
    Ok(code(&tally))
}

fn open(args: &ProveArgs) -> anyhow::Result<Store> {
    let store = Store::open(&args.db)?;
    let Some(path) = &args.sign_key else { return Ok(store) };
    let password = || {
        env::var("NFDROP_SIGN_PASSWORD")
            .map_err(|_| io::Error::other("NFDROP_SIGN_PASSWORD is not set"))
    };
    let (key, open) = SigningKey::read(path, password)?;
    if let Some(mode) = open {
        let path = path.display();
        say(format_args!(
            "warning: others can read the secret key {path} (mode {mode:04o}): chmod 600 {path}"
        ));
    }
    Ok(store.signing(Arc::new(key)))
}

fn prover(args: &ProveArgs) -> anyhow::Result<Prover> {
    let nft = args.nft.clone().or_else(|| programs::find("nft"));
    let nft = nft.context(
        "nft is not installed, and the guest needs it: install nftables, or name it with --nft",
    )?;
    let beside = env::current_exe().ok().map(|program| program.with_file_name("nfdrop-client"));
    let beside = beside.filter(|program| program.is_file());
    let client = args.client.clone().or(beside).or_else(|| programs::find("nfdrop-client"));
    let client = client.context(
        "there is no nfdrop-client beside this program or in PATH: install it, or name it with --client",
    )?;
    let accel = match args.accel {
        Some(AccelName::Kvm) => Accel::Kvm,
        Some(AccelName::Tcg) => Accel::Tcg,
        None => Accel::fastest(),
    };
    let mut qemu = Qemu::new(&args.qemu, accel)?;
    qemu.time_limit = Duration::from_secs(u64::from(args.time_limit.get()));
    let cache = args.cache.clone().or_else(default_cache);
    let cache = cache.context("there is no place for packages: set HOME, or give --cache")?;
    Ok(Prover {
        qemu,
        programs: run::programs(&client, &nft)?,
        fetcher: Fetcher::new(Options::new(cache))?,
        jobs: usize::from(args.jobs.get()),
    })
}

/// A line for each build, and why where it is not proven.
fn tell(tried: &Tried) {
    let Tried { build_id, name, outcome, took } = tried;
    let seconds = took.as_secs_f64();
    let line = |result: &str, drops: u64| {
        // Whoever does not read to the end has seen enough.
        let line = format!("{build_id}  {result:<12}  {drops:>4}  {seconds:>5.1}  {name}\n");
        let _ = put(line.as_bytes());
    };
    match outcome {
        Ok(proof) => {
            line(proof.result.name(), proof.seen.rule_drop + proof.seen.policy_drop);
            if let Some(detail) = &proof.detail {
                say(format_args!("{}: {name}: {detail}", proof.result));
            }
        }
        Err(error) => {
            line("not_tried", 0);
            say(format_args!("not tried: {name}: {error:#}"));
        }
    }
}

fn code(tally: &Tally) -> u8 {
    let [proven, contradicted, not_bootable] = ProofResult::ALL.map(|result| tally.of(result));
    let mut parts = vec![format!("{proven} proven")];
    for (count, what) in [
        (
            contradicted,
            "contradicted: these plans are wrong, see above; `nfdrop-ci gate` stops them",
        ),
        (not_bootable, "not bootable"),
        (tally.failed, "not tried"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    say(parts.join(", "));
    match (contradicted, not_bootable + tally.failed) {
        (1.., _) => 2,
        (0, 1..) => 1,
        (0, 0) => 0,
    }
}
