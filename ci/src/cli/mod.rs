//! The command line.

mod prove;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use nfdrop_ci::{
    AllowList, Verdict, allow, compare, pages,
    report::{self, Format},
};
use nfdrop_db::{Store, store::Inventory};
use std::{
    env,
    fmt::Display,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};
use time::{Date, Duration};

/// Proves and judges a database of attach plans before it is published
#[derive(Parser)]
#[command(name = "nfdrop-ci", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Gate(GateArgs),
    Unresolved(UnresolvedArgs),
    Prove(prove::ProveArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// A command with a page of its own
        command: Option<String>,
    },
}

/// Fail on new kernels that cannot be resolved, and on anything lost, shrunk or changed
///
/// Compares a database with the one that was published last. A build that is new and has no plan stops it,
/// and so does a build, plan, package, signature or suite that is gone, a suite that lists markedly fewer
/// kernels, a plan that attaches elsewhere than it did, and one that booting its kernel contradicts, which no
/// entry accepts. A kernel that `nfdrop-ci prove` could not boot is an outcome of its own. What an allow file accepts is listed and does not
/// count, until the day that the entry names. What could not be fetched is told apart: it is no kernel that
/// cannot be resolved, and no success.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-ci gate --db new.sqlite --baseline published.sqlite
  nfdrop-ci gate --db new.sqlite --baseline published.sqlite --allow allow.toml --format github
  nfdrop-ci gate --db new.sqlite --report sarif=gate.sarif --report junit=gate.xml

An entry of the allow file:
  [[allow]]
  body = \"3f1c…\"               # or build = HEX, kernel = \"debian 6.19.1-amd64\", source = \"debian sid\"
  finding = \"new_unresolved\"   # what is accepted; this, where nothing is said
  reason = \"full LTO, see issue 12\"
  owner = \"jane@example.org\"
  expires = 2027-01-31         # the last day on which it counts

With --format github the summary goes to $GITHUB_STEP_SUMMARY and the outcome to $GITHUB_OUTPUT.

Exit code: 0 pass; 1 a new kernel is unresolved or its plan unproven; 2 something got worse (lost, shrunk,
changed, contradicted by its kernel), also beside 1;
3 no judgement: something could not be fetched or read and there is nothing worse, or an error.")]
struct GateArgs {
    /// The database to judge
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// The database that was published last; without it everything is new
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Fail on new plans that were not proven on their kernel (`nfdrop-ci prove`)
    #[arg(long)]
    require_proof: bool,
    /// What people accept for a while
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write a report to a file too: sarif=gate.sarif
    #[arg(long = "report", value_name = "FORMAT=FILE")]
    reports: Vec<ReportFile>,
    /// The day that entries expire by [default: today, in UTC]
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    today: Option<Date>,
}

/// Write a page per body that cannot be resolved, for an issue tracker
///
/// Into DIR a file KEY.md per body, with the kernels that have it, the reason and the annotated listing. On
/// stdout a line for each: key, tab, title.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-ci unresolved --db nfdrop.sqlite --out pages")]
struct UnresolvedArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Where the pages go; created where it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone)]
struct ReportFile {
    format: Format,
    path: PathBuf,
}

impl FromStr for ReportFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) = text.split_once('=').ok_or("expected FORMAT=FILE")?;
        let format = <Format as clap::ValueEnum>::from_str(format, false)?;
        Ok(Self { format, path: path.into() })
    }
}

fn day(text: &str) -> Result<Date, String> {
    allow::day(text).ok_or_else(|| "expected a day as in 2027-01-31".to_owned())
}

/// No judgement. Also of wrong arguments: clap's own code for them is 2, which means something here.
const ERROR: u8 = 3;

pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(ERROR) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Gate(args) => gate(&args),
        Command::Unresolved(args) => unresolved(&args),
        Command::Prove(args) => prove::prove(&args),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nfdrop-ci", &mut out);
            put(&out).map(|()| 0)
        }
        Command::Man { command } => man(command.as_deref()),
    };
    done.map_or_else(
        |error| {
            say(format_args!("error: {error:#}"));
            ExitCode::from(ERROR)
        },
        ExitCode::from,
    )
}

fn gate(args: &GateArgs) -> anyhow::Result<u8> {
    let allow = args.allow.as_deref().map(read_allow).transpose()?.unwrap_or_default();
    let now = inventory(&args.db)?;
    if now.builds.is_empty() && now.failures.is_empty() {
        anyhow::bail!(
            "{} holds no kernel at all: nothing was crawled, so there is nothing to judge",
            args.db.display()
        );
    }
    let baseline = args.baseline.as_deref().map(inventory).transpose().context("the baseline")?;
    let today = args.today.map_or_else(today, Ok)?;
    let verdict = Verdict::new(compare(&now, baseline.as_ref(), args.require_proof), &allow, today);
    for ReportFile { format, path } in &args.reports {
        fs::write(path, report::render(&verdict, *format))
            .with_context(|| format!("cannot write the report {}", path.display()))?;
    }
    if args.format == Format::Github {
        append("GITHUB_STEP_SUMMARY", &report::markdown(&verdict))?;
        append("GITHUB_OUTPUT", &format!("outcome={}\n", verdict.outcome().name()))?;
    }
    put(report::render(&verdict, args.format).as_bytes())?;
    if args.format != Format::Text {
        say(format_args!("{}: {}", verdict.outcome().name(), verdict.headline()));
    }
    Ok(verdict.outcome().code())
}

/// All of a database that is sound: one that is not is no ground for a judgement.
fn inventory(path: &Path) -> anyhow::Result<Inventory> {
    let store = Store::open_read_only(path)?;
    let problems = store.check()?;
    if let Some(first) = problems.first() {
        anyhow::bail!(
            "the database {} is damaged: {first}{}; restore it from a copy, or crawl anew",
            path.display(),
            match problems.len() {
                1 => String::new(),
                more => format!(" (and {} more)", more - 1),
            }
        );
    }
    Ok(store.inventory()?)
}

fn read_allow(path: &Path) -> anyhow::Result<AllowList> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(allow::MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("cannot read {}", path.display()))?;
    AllowList::parse(&text).with_context(|| format!("the allow file {}", path.display()))
}

fn today() -> anyhow::Result<Date> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let days = Duration::days((since.as_secs() / 86_400) as i64);
    let first = Date::from_ordinal_date(1970, 1)?;
    first.checked_add(days).context("the clock is beyond the year 9999; give --today")
}

/// Appends to the file that this variable of the environment names, where it does.
fn append(variable: &str, text: &str) -> anyhow::Result<()> {
    let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) else { return Ok(()) };
    let write =
        || OpenOptions::new().append(true).create(true).open(&path)?.write_all(text.as_bytes());
    write().with_context(|| format!("cannot write to ${variable}, {}", path.display()))
}

fn unresolved(args: &UnresolvedArgs) -> anyhow::Result<u8> {
    let store = Store::open_read_only(&args.db)?;
    let pages = pages::pages(&store, &store.inventory()?)?;
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    fs::create_dir_all(&args.out).with_context(|| cannot(&args.out))?;
    for page in pages {
        // A key is hex digits.
        let file = args.out.join(format!("{}.md", page.key));
        fs::write(&file, &page.text).with_context(|| cannot(&file))?;
        put(format!("{}\t{}\n", page.key, page.title).as_bytes())?;
    }
    Ok(0)
}

fn man(command: Option<&str>) -> anyhow::Result<u8> {
    let mut all = Cli::command();
    all.build();
    let mut title = all.get_name().to_owned();
    if let Some(name) = command {
        let unknown = || anyhow::anyhow!("there is no command {name:?}; see nfdrop-ci --help");
        all = all.find_subcommand(name).ok_or_else(unknown)?.clone();
        title = format!("{title}-{name}");
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(all).title(title).render(&mut out)?;
    put(&out).map(|()| 0)
}

/// A message on stderr. Where that is closed there is nobody to tell.
fn say(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Data on stdout. Whoever does not read to the end has seen enough.
fn put(data: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
