//! The command line.

use crate::{
    attach,
    cache::Cache,
    filter::Filter,
    lookup::Settings,
    output::DropFormat,
    server::Server,
    show::PlanFormat,
    signature::{Key, KeyError},
};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use nfdrop_db::BuildId;
use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

const EXAMPLES: &str = "\
Examples:
  nfdrop-client --server http://127.0.0.1:7767
  nfdrop-client --table inet:filter --address 192.0.2.0/24
  nfdrop-client --format pcapng --count 1000 > drops.pcapng
  nfdrop-client --format json --duration 5m | jq -c '[.table, .chain, .handle]'
  nfdrop-client plan --server http://127.0.0.1:7767
  NFDROP_URLS='https://plans.example http://127.0.0.1:7767' nfdrop-client doctor

Environment:
  NFDROP_URLS        servers to ask, in order, separated by spaces
  NFDROP_CACHE_PATH  where answers are kept [default: $XDG_CACHE_HOME/nfdrop or ~/.cache/nfdrop]
  NFDROP_TIMEOUT     seconds for one server's answer [default: 10]

Exit codes:
  0 done   1 other errors   2 no plan for this kernel   3 plan refused   4 cannot attach";

const PLAN_EXAMPLES: &str = "\
Examples:
  nfdrop-client plan --server http://127.0.0.1:7767
  nfdrop-client plan --build-id 0484cf… --format bpftrace > nfdrop.bt
  nfdrop-client plan --plan plan.json --format text
  nfdrop-client plan --hosts releases.txt --format json | jq -r 'select(.covered | not) | .host'

With --hosts a table tells which kernels of a fleet have a plan. A release counts as covered where all
builds that are known as it have one. Exit codes: 0 all covered, 2 some not, 1 some not answered for.

A plan is kept for good, a \"no\" for ten minutes; see NFDROP_CACHE_PATH in `nfdrop-client --help`.
With --format json the record of a build without a plan is printed too; the exit code is 2.";

const TOP_EXAMPLES: &str = "\
Examples:
  nfdrop-client top --server http://127.0.0.1:7767
  nfdrop-client top --table inet:filter --duration 10s | cat

The kernel counts; on a terminal q or Ctrl-C ends it, elsewhere a table is printed every second.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  nfdrop-client doctor --server http://127.0.0.1:7767
  nfdrop-client doctor --format json | jq '.checks[] | select(.state != \"ok\")'

Nothing is attached or changed. Exit codes: 0 nothing missing, 4 this kernel or user cannot attach,
3 plan refused, 2 no plan for this kernel, 1 no server answers.";

const SELFTEST_EXAMPLES: &str = "\
Examples:
  nfdrop-client selftest --server http://127.0.0.1:7767
  nfdrop-client selftest --plan plan.json --json

Makes two network namespaces with rules of their own, sends packets there, and compares what the probes report
with what the rules counted. Nothing outside of them is changed, no module is loaded, and nothing is left
behind. Takes nft, CAP_SYS_ADMIN and CAP_NET_ADMIN, and about a second. Drops elsewhere do no harm.

Exit codes: 0 the plan holds, 3 the plan is refused or contradicted, 2 no plan for this kernel,
4 cannot run here, 1 other errors.";

/// Names the nftables rule behind every dropped packet.
///
/// Fetches the running kernel's attach plan, sets its kprobes, and prints every packet that a rule or
/// a policy of nftables drops. Neither the ruleset nor anything else is changed.
#[derive(Debug, Parser)]
#[command(
    name = "nfdrop-client",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a command: name drops.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// What naming and counting drops have in common.
#[derive(Debug, Args)]
pub struct Common {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: Ask,
    /// Read the plan from a file instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "servers")]
    pub plan: Option<PathBuf>,
    /// End after this time: 90, 90s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Answer Prometheus there, as in 127.0.0.1:9767
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Which drops.
    #[command(flatten)]
    pub filter: Filter,
}

/// Arguments of the program itself.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// How drops are printed
    #[arg(long, value_enum, default_value_t = DropFormat::Text)]
    pub format: DropFormat,
    /// Count in the kernel, and print what every rule has dropped once a second: for floods
    #[arg(long, conflicts_with_all = ["count", "sample", "snaplen", "addresses"])]
    pub aggregate: bool,
    /// End after so many printed drops
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print one drop of N; all are counted, and the summary tells how many were left out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    pub sample: u32,
    /// Bytes to keep of every packet
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = value_parser!(u16).range(64..=i64::from(attach::MAX_PACKET)))]
    pub snaplen: u16,
    /// KiB between kernel and client, for drops that are not printed yet
    #[arg(long, value_name = "KIB", default_value_t = 1024,
        value_parser = value_parser!(u32).range(4..=1 << 20))]
    pub ring_size: u32,
    /// As of `top`. Last, since the filters have a heading of their own.
    #[command(flatten)]
    pub common: Common,
}

/// `90`, `90s`, `5m`, `2h`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let milliseconds = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number > 0);
    milliseconds
        .zip(number)
        .and_then(|(unit, number)| number.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| "give a number above 0 and a unit, as in 90s, 5m or 2h".to_owned())
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the attach plan of the running kernel
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Show which rules drop how much, the fastest first
    #[command(after_help = TOP_EXAMPLES)]
    Top(Common),
    /// Check what attaching needs, without attaching
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Test the running kernel's plan with packets and rules of its own
    #[command(after_help = SELFTEST_EXAMPLES)]
    Selftest(SelftestArgs),
    /// Write a completion script for a shell
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Write the man page, of the program or of one of its commands
    Man {
        /// Of this command
        command: Option<String>,
    },
}

/// Whom to ask for plans.
#[derive(Debug, Args)]
pub struct Ask {
    /// Server to ask; several are asked in order.
    #[arg(
        long = "server",
        value_name = "URL",
        help = "Server to ask; several are asked in order [env: NFDROP_URLS]"
    )]
    pub servers: Vec<Server>,
    /// Use only plans that are signed with this minisign key
    #[arg(long, value_name = "FILE")]
    pub pubkey: Option<PathBuf>,
    /// Where procfs, sysfs and the rest of the running system are
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub root: PathBuf,
}

/// Which build, and whom to ask for its plan.
#[derive(Debug, Args)]
pub struct Target {
    /// Whom.
    #[command(flatten)]
    pub ask: Ask,
    /// Build to ask for instead of the running kernel's
    #[arg(long, value_name = "HEX")]
    pub build_id: Option<BuildId>,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which build, and whom to ask.
    #[command(flatten)]
    pub target: Target,
    /// What to print
    #[arg(long, value_enum, default_value_t = PlanFormat::Text)]
    pub format: PlanFormat,
    /// Read the plan from a file instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "servers")]
    pub plan: Option<PathBuf>,
    /// Tell which of many kernels are covered: build-ids or releases, one a line; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["build_id", "plan"])]
    pub hosts: Option<PathBuf>,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Which build, and whom to ask.
    #[command(flatten)]
    pub target: Target,
    /// What to print
    #[arg(long, value_enum, default_value_t = DoctorFormat::Text)]
    pub format: DoctorFormat,
}

/// Arguments of `selftest`.
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: Ask,
    /// Read the plan from a file instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "servers")]
    pub plan: Option<PathBuf>,
    /// Run what changes code of nf_tables for the whole machine while it runs, and load modules, too
    #[arg(long)]
    pub all: bool,
    /// Print what was found as JSON in one line
    #[arg(long)]
    pub json: bool,
    /// Nothing else drops on this machine: whatever else is reported contradicts the plan
    #[arg(long, hide = true)]
    pub alone: bool,
}

/// How the checks are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DoctorFormat {
    /// For people
    Text,
    /// One object with all checks
    Json,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Of the environment.
    #[error("{variable}: {why}")]
    Variable {
        /// Which one.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Of `--pubkey`.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Settings {
    /// From the command line and the environment.
    pub fn from_env(ask: &Ask) -> Result<Self, SettingsError> {
        let servers = ask.servers.clone();
        let error = |variable, why| SettingsError::Variable { variable, why };
        let read = |variable| match env::var(variable) {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err(error(variable, "not UTF-8".to_owned())),
        };
        let servers = if servers.is_empty() {
            let urls = read("NFDROP_URLS")?.unwrap_or_default();
            let parsed: Result<_, _> = urls.split_whitespace().map(str::parse).collect();
            parsed
                .map_err(|why: crate::server::ServerError| error("NFDROP_URLS", why.to_string()))?
        } else {
            servers
        };
        let seconds = read("NFDROP_TIMEOUT")?.map_or(Ok(10), |text| {
            let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
            let why = format!("{text:?} is not a number of seconds: give 1 to 3600, as in 10");
            seconds.ok_or_else(|| error("NFDROP_TIMEOUT", why))
        })?;
        // Relative directories are to be ignored, says the XDG base directory specification.
        let directory = |variable, below: &str| {
            let path = PathBuf::from(env::var_os(variable)?);
            path.is_absolute().then(|| path.join(below))
        };
        let cache = env::var_os("NFDROP_CACHE_PATH")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(|| directory("XDG_CACHE_HOME", "nfdrop"))
            .or_else(|| directory("HOME", ".cache/nfdrop"));
        let key = ask.pubkey.as_deref().map(Key::read).transpose()?;
        let timeout = Duration::from_secs(seconds);
        Ok(Self { servers, timeout, cache: Cache::new(cache), key })
    }
}
