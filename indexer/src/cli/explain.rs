//! `nfdrop-indexer explain`.

use super::{UNRESOLVED, inputs, put, say};
use clap::{ColorChoice, ValueEnum};
use nfdrop_db::listing::{
    html,
    text::{self, Style},
};
use nfdrop_resolver::{
    explain::{self, Syntax},
    resolve::report,
};
use std::{env, io, path::PathBuf};

/// Show the function as an annotated listing, and why probes are where they are
///
/// Runs nft_do_chain as `resolve` does, and writes down what it sees: who comes by each instruction,
/// which ways no run has gone, what registers and stack slots hold, where a probe may be and why
/// others were turned down. Where there is no plan it shows where the runs went wrong.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer explain /lib/modules/$(uname -r)/kernel/net/netfilter/nf_tables.ko.xz \\
      --vmlinux /boot/vmlinuz-$(uname -r) | less -R
  nfdrop-indexer explain linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb --html >6.1.html

Exit code: 0 there is a plan, 2 there is none (the listing says why), 1 error.")]
pub(super) struct Args {
    /// As `resolve` takes them: nf_tables.ko, vmlinux, a package, the two that make a kernel,
    /// or an extract
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The kernel image that goes with a module
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// How instructions are written
    #[arg(long, value_enum, default_value_t = Dialect::Intel)]
    syntax: Dialect,
    /// One self-contained page instead of text
    #[arg(long)]
    html: bool,
    /// Colors: on a terminal where NO_COLOR is not set, always or never
    #[arg(long, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    color: ColorChoice,
    /// Draw arrows with ASCII even if the locale is UTF-8
    #[arg(long)]
    ascii: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    /// mov rsi, [rbp]
    Intel,
    /// mov (%rbp), %rsi
    Att,
}

/// Jumps side by side.
const TEXT_COLUMNS: u8 = 10;

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let (name, function) = inputs::function(&args.files, args.vmlinux.as_ref(), "a listing")?;
    let function = match function {
        Ok(function) => function,
        Err(error) => {
            say(format_args!("{name}: {error}"));
            return Ok(UNRESOLVED);
        }
    };
    let report = report::observe(&function);
    let syntax = match args.syntax {
        Dialect::Intel => Syntax::Intel,
        Dialect::Att => Syntax::Att,
    };
    let title = explain::title(&function);
    let listing = |columns| {
        let mut listing = explain::listing(&function, &report, syntax, columns);
        listing.facts.insert(0, explain::build_id(&function));
        listing
    };
    let output = if args.html {
        html::page(&title, &listing(html::COLUMNS))
    } else {
        let style =
            Style { colors: colors(args.color), unicode: !args.ascii && utf8(), width: 110 };
        text::render(&title, &listing(TEXT_COLUMNS), style)
    };
    put(output.as_bytes())?;
    Ok(if report.outcome.is_ok() { 0 } else { UNRESOLVED })
}

/// As other programs decide: NO_COLOR, CLICOLOR, TERM and whether it is a terminal.
fn colors(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
        }
    }
}

/// Whether the locale's encoding is UTF-8, by the variables that decide it.
fn utf8() -> bool {
    let value = |name: &&str| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(value).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
