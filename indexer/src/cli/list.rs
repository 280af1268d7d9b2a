//! `nfdrop-indexer list`.

use super::put;
use nfdrop_db::Store;
use nfdrop_indexer::listing::listing;
use std::path::PathBuf;

/// List what a database holds, the newest series first
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer list --db nfdrop.sqlite")]
pub(super) struct Args {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let store = Store::open_read_only(&args.db)?;
    put(listing(&store)?.as_bytes()).map(|()| 0)
}
