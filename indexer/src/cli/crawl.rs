//! `nfdrop-indexer crawl`.

use super::{ERROR, progress::Progress, put, say};
use anyhow::Context as _;
use clap::ValueEnum;
use nfdrop_db::Store;
use nfdrop_indexer::{
    crawl::{Crawl, CrawlReporter, Selection, Survey, survey},
    fetch::{DownloadReporter, Fetcher, Options, default_cache},
    source::{
        apt_config::{self, SignedBy},
        debian::{ArchiveKind, PackageSet},
        mirror::{self, Archive},
    },
};
use regex::Regex;
use std::{
    fmt::Write as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// Resolve the kernels that a distribution's mirror offers, and store the plans
///
/// The mirror and its keys are those of this machine's apt configuration. Only packages that a
/// verified index lists are used. What is stored already is not fetched again; nothing is deleted.
/// It may be stopped, or killed, at any time: started again it goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer crawl --db nfdrop.sqlite --newest --filter cloud-amd64
  nfdrop-indexer crawl --db nfdrop.sqlite --filter '^6\\.(1|12)\\.' --jobs 4
  nfdrop-indexer crawl --dry-run --mirror debian=http://mirror.example/debian

Exit code: 0 done, unresolved kernels included; 1 error, or a suite or package could not be read.")]
pub(super) struct Args {
    /// Where kernels come from
    #[arg(value_enum, value_name = "SOURCE", default_values_t = [SourceName::Debian])]
    sources: Vec<SourceName>,
    /// The database, created where there is none
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    db: Option<PathBuf>,
    /// Kernels analysed at a time [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// At most so many kernels, the newest series first
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only kernels whose release or flavour matches this regular expression
    #[arg(long, value_name = "RE")]
    filter: Option<Regex>,
    /// Only the newest kernel of every series and flavour
    #[arg(long)]
    newest: bool,
    /// Use this archive (debian=URL, debian-security=URL) and not apt's configuration
    #[arg(long = "mirror", value_name = "NAME=URL")]
    mirrors: Vec<Mirror>,
    /// Keys that --mirror's indices are signed with [default: those that apt trusts]
    #[arg(long, value_name = "FILE", requires = "mirrors")]
    keyring: Option<PathBuf>,
    /// Where downloads are kept [default: $XDG_CACHE_HOME/nfdrop]
    #[arg(long, value_name = "DIR", env = "NFDROP_CACHE_PATH")]
    cache: Option<PathBuf>,
    /// Print what would be fetched, and fetch nothing but indices
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SourceName {
    /// Debian: all suites from bullseye on, updates, security and backports
    Debian,
}

#[derive(Clone)]
struct Mirror {
    kind: ArchiveKind,
    url: String,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, url) = match text.split_once('=') {
            Some(("debian", url)) => (ArchiveKind::Main, url),
            Some(("debian-security", url)) => (ArchiveKind::Security, url),
            _ => return Err("expected debian=URL or debian-security=URL".to_owned()),
        };
        Ok(Self { kind, url: url.trim_end_matches('/').to_owned() })
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<u8> {
    let progress = Arc::new(Progress::new());
    let writer = progress.writer();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .init();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the network threads")?;
    let code = runtime.block_on(crawl(args, &progress));
    progress.finish();
    // Requests that were broken off are not waited for.
    runtime.shutdown_background();
    code
}

async fn crawl(args: Args, progress: &Arc<Progress>) -> anyhow::Result<u8> {
    let begun = Instant::now();
    let cache = args.cache.clone().or_else(default_cache);
    let cache =
        cache.context("there is no place for downloads: set HOME or name one with --cache")?;
    let fetcher = Fetcher::new(Options::new(cache))?;
    // What the database says is wanted before anything is fetched.
    let store = match &args.db {
        Some(db) if !args.dry_run => Some(Store::create_or_open(db)?),
        Some(db) if db.exists() => Some(Store::open_read_only(db)?),
        _ => None,
    };
    let now = SystemTime::now();
    let archives = archives(&args, &fetcher, now, progress).await?;
    for archive in &archives {
        progress.line(&format!("{}: {}", archive.kind, archive.base));
    }
    let downloads = Arc::clone(progress) as Arc<dyn DownloadReporter>;
    let survey = survey(&fetcher, &archives, now, &downloads).await;
    let read = survey.suites.iter().filter(|suite| matches!(suite.result, Ok(Some(_)))).count();
    progress.line(&format!("{read} suites list {} kernels", survey.kernels.len()));
    let selection = Selection { filter: args.filter, newest: args.newest, limit: args.limit };
    if args.dry_run {
        return dry_run(&survey, &selection, store.as_ref());
    }
    let store = store.context("--db names no database")?;
    let jobs = args.jobs.or(std::thread::available_parallelism().ok());
    let crawl = Crawl {
        fetcher,
        store,
        jobs: jobs.map_or(1, NonZeroUsize::get),
        reporter: Arc::clone(progress) as Arc<dyn CrawlReporter>,
    };
    let stop = async {
        // Where the signal cannot be caught it ends the process, which is safe too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let summary = crawl.run(&survey, &selection, stop).await?;
    progress.finish();
    say(summary.text(begun.elapsed().as_secs()).trim_end());
    if summary.suites.is_empty() {
        anyhow::bail!("no suite was found; check the mirror's URL");
    }
    Ok(if summary.is_complete() { 0 } else { ERROR })
}

/// The archives that were named, else those of apt's configuration.
async fn archives(
    args: &Args,
    fetcher: &Fetcher,
    now: SystemTime,
    progress: &Progress,
) -> anyhow::Result<Vec<Archive>> {
    if args.mirrors.is_empty() {
        let root = Path::new("/");
        let found = mirror::discover(fetcher, &apt_config::read(root), root, now).await;
        for warning in &found.warnings {
            progress.line(&format!("warning: {warning}"));
        }
        if found.archives.is_empty() {
            anyhow::bail!(
                "apt's configuration names no Debian archive that can be read; name one with \
                 --mirror debian=URL"
            );
        }
        return Ok(found.archives);
    }
    let files = args.keyring.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    let signed_by = SignedBy { files, ..SignedBy::default() };
    let keyring = mirror::load_keyring(Path::new("/"), &signed_by)?;
    let archive = |Mirror { kind, url }: &Mirror| Archive {
        kind: *kind,
        base: url.clone(),
        keyring: keyring.clone(),
    };
    Ok(args.mirrors.iter().map(archive).collect())
}

fn dry_run(survey: &Survey, selection: &Selection, store: Option<&Store>) -> anyhow::Result<u8> {
    let mut out = String::new();
    let (mut packages, mut bytes) = (0, 0);
    for kernel in selection.apply(&survey.kernels) {
        let name = format!("{} in {}", kernel.release, kernel.suites.join(", "));
        if let PackageSet::Incomplete { missing, .. } = &kernel.packages {
            say(format_args!("{name}: incomplete, no index lists {}", missing.join(", ")));
            continue;
        }
        if store.map(|store| Crawl::is_known(store, kernel)).transpose()? == Some(true) {
            say(format_args!("{name}: known"));
            continue;
        }
        for package in kernel.packages.found() {
            packages += 1;
            bytes += package.size;
            let (package, version, size) = (&package.name, package.version.as_str(), package.size);
            writeln!(out, "{package}\t{version}\t{size}\tno outcome stored for {name}")?;
        }
    }
    put(out.as_bytes())?;
    say(format_args!("{packages} packages with {bytes} bytes would be fetched"));
    let mut code = 0;
    for suite in &survey.suites {
        if let Err(error) = &suite.result {
            say(format_args!("failed: suite {}: {}: {error}", suite.suite, error.reason()));
            code = ERROR;
        }
    }
    Ok(code)
}
