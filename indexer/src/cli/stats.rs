//! `nfdrop-indexer stats`.

use super::put;
use clap::ValueEnum;
use nfdrop_db::Store;
use nfdrop_indexer::stats;
use std::path::PathBuf;

/// Count the builds of a database by distribution, series and flavour, and how good their plans are
///
/// drop-only: of the plans, those whose probes all are where only drops come by. optimizable: those
/// whose probes the kernel all replaces by jumps. Kernels that never got to a build-id are among the
/// unresolved and not among the builds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer stats --db nfdrop.sqlite
  nfdrop-indexer stats --db nfdrop.sqlite --format json | jq .total")]
pub(super) struct Args {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns
    Text,
    /// One line with all numbers
    Json,
    /// A table for pages
    Markdown,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let stats = Store::open_read_only(&args.db)?.stats()?;
    let out = match args.format {
        Format::Text => stats::text(&stats),
        Format::Json => serde_json::to_string(&stats)? + "\n",
        Format::Markdown => stats::markdown(&stats),
    };
    put(out.as_bytes()).map(|()| 0)
}
