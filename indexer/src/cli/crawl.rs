//! `nfdrop-indexer crawl`.

use super::{
    ERROR,
    progress::Progress,
    put, say,
    signing::{self, SignKey},
};
use anyhow::Context as _;
use nfdrop_db::Store;
use nfdrop_indexer::{
    crawl::{Crawl, CrawlReporter, Selection, Shard, Survey, lost, survey},
    fetch::{DownloadReporter, Fetcher, Options, default_cache},
    source::{
        Reader, Repository,
        apt::{self, config},
        catalogue::{Catalogue, MAX_CATALOGUE, Source},
        kernel::PackageSet,
        keys::KeyFiles,
    },
};
use regex::Regex;
use std::{
    fmt::Write as _,
    io::Read as _,
    num::NonZeroUsize,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Resolve the kernels that distributions' mirrors offer, and store the plans
///
/// Debian's mirror and keys are those of this machine's apt configuration, the others' those of the
/// catalogue. Only packages that a verified index or their own signature vouches for are used. What is
/// stored already is not fetched again; nothing is deleted. It may be stopped, or killed, at any
/// time: started again it goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer crawl --db nfdrop.sqlite --newest --filter cloud-amd64
  nfdrop-indexer crawl --db nfdrop.sqlite --filter '^6\\.(1|12)\\.' --jobs 4
  nfdrop-indexer crawl --db nfdrop.sqlite --partial --mirror debian=https://mirror.example/debian
  nfdrop-indexer crawl fedora rocky --db nfdrop.sqlite --newest
  nfdrop-indexer crawl --db nfdrop.sqlite --sign-key nfdrop.key
  nfdrop-indexer crawl --dry-run --mirror debian=http://mirror.example/debian

Exit code: 0 done, unresolved kernels included; 1 error, a suite or package could not be read, or a suite
lists markedly fewer kernels than last time.")]
pub(super) struct Args {
    /// Distributions or entries of the catalogue; `all` for every one
    #[arg(value_name = "SOURCE", default_value = "debian")]
    sources: Vec<String>,
    /// Another catalogue than the one that is built in; its form is that of indexer/sources.toml
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// The database, created where there is none
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    db: Option<PathBuf>,
    #[command(flatten)]
    key: SignKey,
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
    /// Only this part of the kernels, the second of eight with 2/8; see also merge
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Use this mirror of an entry of the catalogue: debian=URL, debian-security=URL
    #[arg(long = "mirror", value_name = "NAME=URL")]
    mirrors: Vec<Mirror>,
    /// Keys that --mirror's indices are signed with [default: those of the catalogue]
    #[arg(long, value_name = "FILE", requires = "mirrors")]
    keyring: Option<PathBuf>,
    /// Take what this source lists though nothing vouches for it; provenance says so
    #[arg(long = "allow-unverified", value_name = "SOURCE")]
    unverified: Vec<String>,
    /// Where downloads are kept [default: $XDG_CACHE_HOME/nfdrop]
    #[arg(long, value_name = "DIR", env = "NFDROP_CACHE_PATH")]
    cache: Option<PathBuf>,
    /// Fetch only the parts of packages that hold kernel files, where server and package allow it
    ///
    /// A quarter of the traffic for Debian's largest packages, two thirds for its cloud kernels. The hash of such a package is not compared with the index:
    /// the bytes are vouched for by the connection alone, which https makes worth something. The
    /// kernel's provenance says so (transport_only).
    #[arg(long)]
    partial: bool,
    /// Seconds without a byte, and to connect, after which a request has failed [default: 30, 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// How often a request that failed in passing is made again
    #[arg(long, value_name = "N", default_value_t = 4)]
    retries: usize,
    /// Pause before the first of these; it doubles every time [default: 0.5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide_short_help = true)]
    pause: Option<Duration>,
    /// Print what would be fetched, and fetch nothing but indices
    #[arg(long)]
    dry_run: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Args {
    fn fetch_options(&self, cache: PathBuf) -> Options {
        let mut options = Options::new(cache);
        if let Some(timeout) = self.timeout {
            (options.connect_timeout, options.read_timeout) = (timeout, timeout);
            options.patience = timeout;
        }
        options.retries = self.retries;
        options.pause = self.pause.unwrap_or(options.pause);
        options
    }
}

#[derive(Clone)]
struct Mirror {
    source: String,
    url: String,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (source, url) = text.split_once('=').ok_or("expected NAME=URL")?;
        Ok(Self { source: source.to_owned(), url: url.trim_end_matches('/').to_owned() })
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
    let fetcher = Fetcher::new(args.fetch_options(cache))?;
    // What the database says is wanted before anything is fetched.
    let store = match &args.db {
        Some(db) if !args.dry_run => Some(args.key.open(db)?),
        Some(db) if db.exists() => Some(Store::open_read_only(db)?),
        _ => None,
    };
    let reader = Reader {
        fetcher: fetcher.clone(),
        now: SystemTime::now(),
        root: PathBuf::from("/"),
        reporter: Arc::clone(progress) as Arc<dyn DownloadReporter>,
    };
    let repositories = repositories(&args, &reader, progress).await?;
    let survey = survey(&reader, &repositories).await;
    let read = survey.suites.iter().filter(|suite| matches!(suite.result, Ok(Some(_)))).count();
    progress.line(&format!("{read} suites list {} kernels", survey.kernels.len()));
    let selection = Selection {
        filter: args.filter,
        newest: args.newest,
        limit: args.limit,
        shard: args.shard,
    };
    if args.dry_run {
        return dry_run(&survey, &selection, store.as_ref(), args.partial);
    }
    let store = store.context("--db names no database")?;
    let jobs = args.jobs.or(std::thread::available_parallelism().ok());
    let crawl = Crawl {
        fetcher,
        store,
        jobs: jobs.map_or(1, NonZeroUsize::get),
        partial: args.partial,
        reporter: Arc::clone(progress) as Arc<dyn CrawlReporter>,
    };
    let stop = async {
        // Where the signal cannot be caught it ends the process, which is safe too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let store = crawl.store.clone();
    let summary = crawl.run(&survey, &selection, stop).await?;
    progress.finish();
    // Also where what follows fails.
    say(summary.text(begun.elapsed().as_secs()).trim_end());
    let signed = signing::finish(&store)?;
    if summary.suites.is_empty() {
        anyhow::bail!("no suite was found; check the mirror's URL");
    }
    Ok(if summary.is_complete() && signed { 0 } else { ERROR })
}

/// The repositories of the sources that were named. Where the catalogue has no mirror it is the one
/// that --mirror names, else that of apt's configuration.
async fn repositories(
    args: &Args,
    reader: &Reader,
    progress: &Progress,
) -> anyhow::Result<Vec<Repository>> {
    let catalogue = match &args.catalogue {
        None => Catalogue::builtin()?,
        Some(file) => {
            let read = || -> std::io::Result<String> {
                let file = std::fs::File::open(file)?;
                std::io::read_to_string(file.take(MAX_CATALOGUE))
            };
            let text = read().with_context(|| format!("cannot read {}", file.display()))?;
            Catalogue::parse(&text).with_context(|| file.display().to_string())?
        }
    };
    let selected = catalogue.select(&args.sources)?;
    let mirrors = args.mirrors.iter().map(|mirror| ("--mirror", &mirror.source));
    let unverified = args.unverified.iter().map(|source| ("--allow-unverified", source));
    for (option, source) in mirrors.chain(unverified) {
        if !selected.iter().any(|selected| selected.name == *source) {
            let crawled: Vec<_> = selected.iter().map(|source| source.name.as_str()).collect();
            let crawled = crawled.join(", ");
            anyhow::bail!("{option} {source}: no such source is crawled; there are {crawled}");
        }
    }
    let keyring = args.keyring.as_ref().map(std::path::absolute).transpose()?;
    let named = |source: &Source| args.mirrors.iter().find(|m| m.source == source.name);
    // With --mirror, what is not named of that distribution is not wanted.
    let wanted = |source: &Source| {
        let named = |other: &&Source| args.mirrors.iter().any(|m| m.source == other.name);
        let others = selected.iter().filter(|other| other.distro() == source.distro());
        named(&source) || !others.copied().any(|other| named(&other))
    };
    let selected: Vec<&Source> = selected.iter().copied().filter(|s| wanted(s)).collect();
    let unnamed = |source: &&&Source| source.mirror.is_none() && named(source).is_none();
    let apt = if selected.iter().any(|source| unnamed(&source)) {
        let found = apt::discover(reader, &config::read(&reader.root)).await;
        for warning in &found.warnings {
            progress.line(&format!("warning: {warning}"));
        }
        found.archives
    } else {
        Vec::new()
    };
    let mut repositories = Vec::new();
    for source in selected {
        let found = apt.iter().find(|archive| archive.source == source.name);
        let mirror = named(source).map(|mirror| &mirror.url).or(source.mirror.as_ref());
        let Some(mirror) = mirror.or(found.map(|archive| &archive.base)) else {
            let name = &source.name;
            progress.line(&format!(
                "warning: apt's configuration names no mirror of {name} that can be read, its \
                 kernels are not crawled; name one with --mirror {name}=URL"
            ));
            // Without a place they are offered by nobody: what was known of them is missed.
            repositories.extend(source.repositories(None));
            continue;
        };
        progress.line(&format!("{}: {mirror}", source.name));
        let keys = match (&keyring, found) {
            (Some(file), _) if named(source).is_some() => {
                Some(KeyFiles { files: vec![file.clone()], ..KeyFiles::default() })
            }
            (_, Some(archive)) => Some(archive.keys.clone()),
            _ => None,
        };
        for mut repository in source.repositories(Some(mirror)) {
            repository.keys = keys.clone().unwrap_or(repository.keys);
            repository.unverified = args.unverified.contains(&source.name);
            repositories.push(repository);
        }
    }
    if repositories.iter().all(|repository| repository.urls.is_empty()) {
        anyhow::bail!("there is nothing to crawl; name a mirror with --mirror debian=URL");
    }
    Ok(repositories)
}

fn dry_run(
    survey: &Survey,
    selection: &Selection,
    store: Option<&Store>,
    partial: bool,
) -> anyhow::Result<u8> {
    let mut out = String::new();
    let (mut packages, mut bytes) = (0, 0);
    for kernel in selection.apply(&survey.kernels) {
        let suites = kernel.suites.join(", ");
        let name = format!("{} {} in {suites}", kernel.distro, kernel.release);
        if let PackageSet::Incomplete { missing, .. } = &kernel.packages {
            say(format_args!("{name}: incomplete, no index lists {}", missing.join(", ")));
            continue;
        }
        if store.map(|store| Crawl::is_known(store, kernel, partial)).transpose()? == Some(true) {
            say(format_args!("{name}: known"));
            continue;
        }
        for package in kernel.packages.found() {
            packages += 1;
            bytes += package.size.unwrap_or(0);
            let size = package.size.map_or("?".to_owned(), |size| size.to_string());
            let (package, version) = (&package.name, &package.version);
            writeln!(out, "{package}\t{version}\t{size}\tno outcome stored for {name}")?;
        }
    }
    put(out.as_bytes())?;
    say(format_args!("{packages} packages with {bytes} bytes would be fetched"));
    let mut code = 0;
    let known = store.map(Store::sources).transpose()?.unwrap_or_default();
    for (suite, why) in lost(survey, &known) {
        say(format_args!("lost: suite {suite}: {why}"));
        code = ERROR;
    }
    for suite in &survey.suites {
        if let Err(error) = &suite.result {
            let Repository { distro, suite, .. } = &suite.repository;
            say(format_args!("failed: {distro} {suite}: {}: {error}", error.reason()));
            code = ERROR;
        }
    }
    Ok(code)
}
