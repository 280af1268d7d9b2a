//! The command line.

use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf};

const EXAMPLES: &str = "\
Examples:
  nfdrop-server --db kernels.sqlite
  nfdrop-server --db kernels.sqlite --listen 0.0.0.0:7767
  curl http://127.0.0.1:7767/buildid/<hex>/plan

The database is only read; what `nfdrop-indexer crawl --db` adds is served at once. RUST_LOG=debug
logs every request to stderr.";

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
