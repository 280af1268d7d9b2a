//! `nfdrop-indexer db`: looking after a database.

use super::{UNRESOLVED, put, say, stats};
use clap::Subcommand;
use nfdrop_db::{
    Record, Store, StoreError,
    store::{Migrated, Vacuumed},
};
use std::{fmt::Write as _, path::PathBuf};

/// Check, migrate, shrink or count a database
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(CheckArgs),
    Migrate(MigrateArgs),
    Vacuum(VacuumArgs),
    Stats(stats::Args),
}

/// Look for damage: in the file, and in what is stored in it
///
/// SQLite's own checks of pages, indices and references; then of every build whether its record is one,
/// in its canonical bytes, says what its row and its body say, and has a signature of minisign's form that
/// names it; of bodies and listings whether they can be read; of packages their hashes and names. A crawl may
/// be writing, and a server reading, meanwhile.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer db check --db nfdrop.sqlite

Exit code: 0 sound; 2 damaged: a line for each fault, which says what to do; 1 error: it cannot be looked at,
is of another schema, or is no database of nfdrop's.")]
struct CheckArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
}

/// Bring a database of an older nfdrop to the schema of this one
///
/// All at once or not at all; nothing where there is nothing to do. The commands that store do it too. It
/// cannot be undone, and programs of an older nfdrop do not open the database afterwards: update servers that
/// read it too. Those that have it open go on.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  cp nfdrop.sqlite nfdrop.sqlite.old
  nfdrop-indexer db migrate --db nfdrop.sqlite")]
struct MigrateArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
}

/// Write a database anew, without what was replaced in it, so that it is small and quick
///
/// Servers may read meanwhile; who writes waits. Takes twice the room of the database until it is done. Stopped
/// or killed in between, the database is as before.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer db vacuum --db nfdrop.sqlite")]
struct VacuumArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    match &args.command {
        Command::Check(args) => check(args),
        Command::Migrate(args) => migrate(args),
        Command::Vacuum(args) => vacuum(args),
        Command::Stats(args) => stats::run(args),
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<u8> {
    let db = args.db.display();
    let looked = Store::open_read_only(&args.db).and_then(|store| {
        let faults = store.check()?;
        let counts = if faults.is_empty() { Some(store.counts()?) } else { None };
        Ok((faults, counts, store.withdrawn()?, store.contradicted()?))
    });
    let (faults, counts, withdrawn, contradicted) = match looked {
        Ok(looked) => looked,
        // Too damaged to be looked at is damaged.
        Err(error @ (StoreError::Corrupt { .. } | StoreError::OtherSchema { .. })) => {
            (vec![error.to_string()], None, vec![], vec![])
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = String::new();
    for fault in &faults {
        writeln!(out, "{fault}")?;
    }
    for (build_id, why) in &withdrawn {
        writeln!(out, "build {build_id}: its plan was {why}")?;
    }
    for (build_id, why) in &contradicted {
        let why = Record::clean_detail(why);
        writeln!(out, "ALARM: build {build_id}: its kernel contradicts its plan: {why}")?;
    }
    if let Some(counts) = counts {
        let unresolved: u64 = counts.unresolved.values().sum();
        let failures: u64 = counts.failures.values().sum();
        writeln!(
            out,
            "{db}: sound: schema {}, {} builds, {} bodies, {} packages, {failures} failures, {} suites",
            Store::SCHEMA,
            counts.resolved + unresolved,
            counts.bodies,
            counts.packages,
            counts.sources
        )?;
    }
    put(out.as_bytes())?;
    if faults.is_empty() {
        return Ok(0);
    }
    say(format_args!("{db}: damaged: {} faults", faults.len()));
    Ok(UNRESOLVED)
}

fn migrate(args: &MigrateArgs) -> anyhow::Result<u8> {
    let db = args.db.display();
    let Migrated { from, to, steps } = Store::migrate(&args.db)?;
    let withdrawn = Store::open_read_only(&args.db)?.withdrawn()?.len();
    let mut out = String::new();
    if steps.is_empty() {
        writeln!(out, "{db}: schema {to} already, nothing to do")?;
    } else {
        writeln!(out, "{db}: had schema {from}, has {to} now")?;
    }
    for (version, brings) in steps {
        writeln!(out, "  {version}: {brings}")?;
    }
    if withdrawn > 0 {
        writeln!(
            out,
            "{db}: {withdrawn} builds have no plan now, theirs were withdrawn; `nfdrop-indexer db check` \
             names them, a crawl finds them others"
        )?;
    }
    put(out.as_bytes()).map(|()| 0)
}

fn vacuum(args: &VacuumArgs) -> anyhow::Result<u8> {
    let db = args.db.display();
    let Vacuumed { before, after, finished } = Store::open(&args.db)?.vacuum()?;
    put(format!("{db}: {before} bytes before, {after} now\n").as_bytes())?;
    if !finished {
        say(format_args!(
            "{db}: somebody reads it, so a part of it is still in its log; it is put into the file when \
             nobody reads, or by the next vacuum"
        ));
    }
    Ok(0)
}
