//! The command line.

use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

const EXAMPLES: &str = "\
Examples:
  nfdrop-server --db kernels.sqlite
  nfdrop-server --db kernels.sqlite --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem
  nfdrop-server --db kernels.sqlite --upstream https://plans.example --upstream-cache /var/cache/nfdrop
  curl http://127.0.0.1:7767/buildid/<hex>/plan

The database is only read; what `nfdrop-indexer crawl --db` adds, and another database that is moved onto
it, are served at once. SIGHUP reads certificate and key again; SIGTERM finishes what is under way.
RUST_LOG=debug logs every request to stderr.";

/// Hands out attach plans by build-id over HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "nfdrop-server",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve; required without a subcommand.
    #[command(flatten)]
    pub serve: Option<ServeArgs>,
}

/// How to serve.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Database that `nfdrop-indexer crawl` wrote
    #[arg(long, value_name = "FILE")]
    pub db: PathBuf,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7767")]
    pub listen: SocketAddr,
    /// Certificate chain, as PEM: speaks HTTPS instead of HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Servers to ask for builds that are not in the database, in this order
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub upstream: Vec<String>,
    /// Hand on only plans of other servers that this minisign key has signed
    #[arg(long, value_name = "FILE", requires = "upstream")]
    pub upstream_pubkey: Option<PathBuf>,
    /// Keep answers of other servers in this directory
    #[arg(long, value_name = "DIR", requires = "upstream")]
    pub upstream_cache: Option<PathBuf>,
    /// MiB that the directory may take
    #[arg(long, value_name = "MIB", default_value_t = 256, requires = "upstream_cache",
        value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub upstream_cache_size: u64,
    /// Connections at once; those idle for longest make place for others
    #[arg(long, value_name = "N", default_value_t = 8192,
        value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub connections: u32,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a completion script for a shell
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Write the man page
    Man,
}
