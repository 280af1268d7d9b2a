//! `nfdrop-indexer export`.

use super::put;
use nfdrop_db::Store;
use nfdrop_server::export::{Target, export};
use std::path::PathBuf;

/// Write the server's answers as files, for any web server or object store
///
/// The same paths with the same bytes as nfdrop-server hands out; pages get .html behind their names. Only
/// what has changed since the last time is written, each file whole or not at all, index.json last. Killed in
/// between, it is to be run again. Searching, filters and batches need the server.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer export /srv/nfdrop --db nfdrop.sqlite --host plans.example
  AWS_REGION=eu-central-1 nfdrop-indexer export s3://bucket/plans --db nfdrop.sqlite

s3:// takes credentials and endpoint from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT, AWS_ALLOW_HTTP. Media types and lifetimes are kept with the objects there. For
nginx, the configuration is in docs/nginx.conf.")]
pub(super) struct Args {
    /// Directory, or s3://BUCKET/PREFIX
    #[arg(value_name = "DIR")]
    place: String,
    /// Database that `crawl` wrote
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// Name, and port, that the files will be served by, for the commands that pages show
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1:7767")]
    host: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    // What cannot be read is said before a directory is made.
    drop(Store::open_read_only(&args.db)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let target = Target::open(&args.place)?;
        export(&args.db, target, &args.host, |_| {}).await
    })?;
    let line = format!(
        "{}: {} builds; {} files written, {} unchanged, {} deleted\n",
        args.place, done.builds, done.written, done.unchanged, done.deleted
    );
    put(line.as_bytes())?;
    Ok(0)
}
