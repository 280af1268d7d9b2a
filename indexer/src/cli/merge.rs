//! `nfdrop-indexer merge`.

use super::{
    ERROR, put,
    signing::{self, SignKey},
};
use nfdrop_db::Store;
use std::path::PathBuf;

/// Add what other databases know to one: the shards of a crawl
///
/// What they say is believed, so merge only what you or somebody you trust has crawled. The order does not
/// matter, and merging twice changes nothing. Of two outcomes for a build the better one stays, as if one
/// crawl had found both. Without a key of its own it keeps the signatures that come with them.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer crawl --shard 1/2 --db one.sqlite     # on one machine
  nfdrop-indexer crawl --shard 2/2 --db two.sqlite     # on another
  nfdrop-indexer merge one.sqlite two.sqlite --db nfdrop.sqlite")]
pub(super) struct Args {
    /// Databases to read
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The database to add to, created where there is none
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    #[command(flatten)]
    key: SignKey,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    // All are looked at before the first is written.
    let others: Vec<_> = args.files.iter().map(Store::open_read_only).collect::<Result<_, _>>()?;
    let store = args.key.open(&args.db)?;
    for other in &others {
        let merged = store.merge(other)?;
        let proofs = match merged.proofs {
            0 => String::new(),
            count => format!(", {count} proofs"),
        };
        let line = format!(
            "{}: {} builds{proofs}, {} packages, {} failures, {} suites\n",
            other.path().display(),
            merged.builds,
            merged.packages,
            merged.failures,
            merged.sources
        );
        put(line.as_bytes())?;
    }
    Ok(if signing::finish(&store)? { 0 } else { ERROR })
}
