//! `nfdrop-indexer extract`.

use super::{UNRESOLVED, inputs, put, say};
use nfdrop_resolver::image::extract::to_json;
use std::path::PathBuf;

/// Write the function as text, for bug reports and tests
///
/// An extract holds nothing but the bytes of nft_do_chain, what they refer to, and offsets of kernel
/// structures. `resolve` reads it back.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer extract nf_tables.ko.xz --vmlinux /boot/vmlinuz-$(uname -r) > kernel.json
  nfdrop-indexer extract linux-binary-*.deb linux-modules-*.deb | nfdrop-indexer resolve /dev/stdin

Exit code: 0 done, 2 there is no such function in it, 1 error.")]
pub(super) struct Args {
    /// nf_tables.ko (plain, .xz, .zst, .gz), vmlinux, a package, or the two that make a kernel
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The kernel image that goes with a module
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<u8> {
    let (name, function) = inputs::function(&args.files, args.vmlinux.as_ref(), "an extract")?;
    match function {
        Ok(function) => put(to_json(&function).as_bytes()).map(|()| 0),
        Err(error) => {
            say(format_args!("{name}: {error}"));
            Ok(UNRESOLVED)
        }
    }
}
