//! The command line. Data goes to stdout; messages, progress and tables to stderr.

#![expect(clippy::doc_markdown, reason = "doc comments are help texts here")]

mod add;
mod crawl;
mod db;
mod explain;
mod export;
mod extract;
mod generate;
mod inputs;
mod list;
mod merge;
mod progress;
mod resolve;
mod signing;
mod stats;

use clap::{Parser, Subcommand};
use std::{
    fmt::Display,
    io::{self, Write as _},
    process::ExitCode,
};

/// Computes, per kernel build, where to attach to nft_do_chain to see which nftables rule drops
#[derive(Parser)]
#[command(name = "nfdrop-indexer", version, arg_required_else_help = true)]
#[command(after_help = "Exit code: 0 done, 1 error; see the help of each command for others.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Resolve(resolve::Args),
    Explain(explain::Args),
    Extract(extract::Args),
    Crawl(crawl::Args),
    Add(add::Args),
    Merge(merge::Args),
    Export(export::Args),
    Keygen(signing::KeygenArgs),
    Sign(signing::SignArgs),
    List(list::Args),
    Stats(stats::Args),
    Db(db::Args),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// Error.
const ERROR: u8 = 1;
/// Some file is unresolved, or damaged.
const UNRESOLVED: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Resolve(args) => resolve::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Crawl(args) => crawl::run(args),
        Command::Add(args) => add::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Keygen(args) => signing::keygen(&args),
        Command::Sign(args) => signing::sign(&args),
        Command::List(args) => list::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Db(args) => db::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::from(ERROR)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A message on stderr. Where that is closed there is nobody to tell.
fn say(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Data on stdout.
fn put(data: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(data)?;
    stdout.flush()?;
    Ok(())
}
