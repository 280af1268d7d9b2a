//! Why nothing was attached.

use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};
use nfdrop_db::{HexBytes, plan::FnOffset};
use rustix::io::Errno;
use std::io;

/// Why nothing was attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel does not take a map or program from this user.
    #[error("the kernel refuses to load BPF programs: {0}")]
    NotPermitted(io::Error),
    /// The kernel's verifier turns the program down.
    #[error("the kernel's verifier turns the program down: {0}")]
    Verifier(String),
    /// The kernel sets no probe at this instruction.
    #[error("the kernel refuses a probe at nft_do_chain{offset}: {source}")]
    Probe {
        /// Where.
        offset: FnOffset,
        /// Why.
        source: io::Error,
    },
    /// The place is inside of an instruction (`EILSEQ` of `check_kprobe_address_safe`,
    /// kernel/kprobes.c).
    #[error("no instruction of this kernel begins at nft_do_chain{0}")]
    NoInstruction(FnOffset),
    /// The instruction is not the plan's.
    #[error("at nft_do_chain{offset} the plan expects {expected}, this kernel has {found}")]
    OtherBytes {
        /// Where.
        offset: FnOffset,
        /// What the plan has.
        expected: HexBytes,
        /// What is there.
        found: HexBytes,
    },
    /// The function is not found, by name or by address.
    #[error("the kernel does not find nft_do_chain, and /proc/kallsyms does not tell its address")]
    NoSymbol,
    /// A map cannot be read.
    #[error("map {0}: {1}")]
    Map(&'static str, String),
    /// The program in this binary is not the one this code was written for.
    #[error("the BPF object in this binary has no {0}: it was built wrong")]
    Object(&'static str),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The first of an error's sources that is the operating system's.
fn os_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        if let Some(SyscallError { io_error, .. }) = error.downcast_ref() {
            return Some(io_error);
        }
        next = error.source();
    }
    None
}

fn same(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

fn not_permitted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

impl AttachError {
    pub(super) fn load(error: &EbpfError) -> Self {
        if let EbpfError::MapError(MapError::CreateError { io_error, .. }) = error
            && not_permitted(io_error)
        {
            return Self::NotPermitted(same(io_error));
        }
        match os_error(error) {
            Some(source) if not_permitted(source) => Self::NotPermitted(same(source)),
            _ => Self::Other(whole(error)),
        }
    }

    pub(super) fn program(error: &ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                // The verifier says why in its log; without one it was not asked.
                if not_permitted(io_error) && log.trim().is_empty() {
                    Self::NotPermitted(same(io_error))
                } else {
                    let last: Vec<_> = log.lines().rev().take(12).collect();
                    let last: Vec<_> = last.into_iter().rev().collect();
                    Self::Verifier(format!("{io_error}\n{}", last.join("\n")))
                }
            }
            other => match os_error(other) {
                Some(source) if not_permitted(source) => Self::NotPermitted(same(source)),
                _ => Self::Other(whole(other)),
            },
        }
    }

    pub(super) fn probe(offset: FnOffset, error: &ProgramError) -> Self {
        match os_error(error) {
            Some(source) if source.raw_os_error() == Some(Errno::ILSEQ.raw_os_error()) => {
                Self::NoInstruction(offset)
            }
            Some(source) => Self::Probe { offset, source: same(source) },
            None => Self::Other(whole(error)),
        }
    }

    /// Whether it is the name that the kernel did not find.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Probe { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// An error and its sources in one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}
