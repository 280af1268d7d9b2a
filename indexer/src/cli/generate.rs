//! `nfdrop-indexer completions` and `nfdrop-indexer man`.

use super::{Cli, put};
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer completions bash > ~/.local/share/bash-completion/completions/nfdrop-indexer")]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer man | man -l -
  nfdrop-indexer man crawl | man -l -")]
pub(super) struct ManArgs {
    /// A command with a page of its own
    command: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<u8> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nfdrop-indexer", &mut out);
    put(&out).map(|()| 0)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<u8> {
    let mut command = Cli::command();
    command.build();
    let mut title = command.get_name().to_owned();
    if let Some(name) = &args.command {
        let unknown = || anyhow::anyhow!("there is no command {name:?}; see nfdrop-indexer --help");
        command = command.find_subcommand(name).ok_or_else(unknown)?.clone();
        title = format!("{title}-{name}");
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(command).title(title).render(&mut out)?;
    put(&out).map(|()| 0)
}
