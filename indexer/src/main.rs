//! `nfdrop-indexer`: from kernel packages to attach plans.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
