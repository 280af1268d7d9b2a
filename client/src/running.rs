//! Which build of nf_tables runs here.
//!
//! 1. `/sys/module/nf_tables/notes/.note.gnu.build-id`: a loaded module.
//! 2. Else `nft_do_chain` in `/proc/kallsyms` without a module's name: built in, and the kernel's
//!    own notes tell the build. kallsyms is the witness because it is readable without rights and
//!    speaks of what runs; `/sys/module/nf_tables` alone proves nothing (built-in code has such a
//!    directory only if it takes parameters).
//! 3. Where kallsyms is hidden, `/lib/modules/RELEASE/modules.builtin` decides, though it speaks of
//!    what was installed.
//! 4. Else nf_tables is not loaded: there is no build-id to ask for.

use crate::{
    host::{Host, Place},
    notes::{self, NotesError},
};
use nfdrop_db::BuildId;
use std::io;

const MODULE: &str = "/sys/module/nf_tables";
const MODULE_NOTE: &str = "/sys/module/nf_tables/notes/.note.gnu.build-id";
const KERNEL_NOTES: &str = "/sys/kernel/notes";

/// The running nf_tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Of the object that holds it.
    pub build_id: BuildId,
    /// Which object that is.
    pub object: Object,
}

/// Where the running nf_tables is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// In its module.
    Module,
    /// In the kernel image.
    Kernel,
}

/// Why the running build is not known.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// Neither a module nor built in.
    #[error(
        "nf_tables is neither loaded nor built into this kernel{}: `modprobe nf_tables`, then try \
         again; if that fails, this kernel comes without it and has no rules to name",
        .release.as_ref().map(|release| format!(" ({release})")).unwrap_or_default()
    )]
    NotLoaded {
        /// As `uname -r` prints it.
        release: Option<String>,
    },
    /// The module is loaded, its note is not in sysfs.
    #[error(
        "the module nf_tables is loaded, but {MODULE_NOTE} is not there: mount sysfs on /sys; \
         where it is mounted, this module was built without a build-id and cannot be looked up"
    )]
    NoNote,
    /// The notes cannot be read.
    #[error("{path}: {source}: mount sysfs on /sys, or give --build-id")]
    Unreadable {
        /// The notes file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The notes hold no build-id.
    #[error("{path}: {source}: a kernel without a build-id cannot be looked up")]
    Notes {
        /// The notes file.
        path: &'static str,
        /// Why.
        source: NotesError,
    },
}

/// The build of nf_tables that runs here.
pub fn find(host: &Host) -> Result<Running, RunningError> {
    match host.read(MODULE_NOTE) {
        Ok(bytes) => return build(MODULE_NOTE, &bytes, Object::Module),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(RunningError::Unreadable { path: MODULE_NOTE, source }),
    }
    // Only a loaded module has an initstate.
    if host.exists(&format!("{MODULE}/initstate")) {
        return Err(RunningError::NoNote);
    }
    let built_in = match host.symbols() {
        Some(symbols) => match symbols.nft_do_chain {
            Some(Place::Kernel) => true,
            Some(Place::Module(_)) => return Err(RunningError::NoNote),
            None => false,
        },
        None => listed_as_built_in(host),
    };
    if !built_in {
        return Err(RunningError::NotLoaded { release: host.release() });
    }
    match host.read(KERNEL_NOTES) {
        Ok(bytes) => build(KERNEL_NOTES, &bytes, Object::Kernel),
        Err(source) => Err(RunningError::Unreadable { path: KERNEL_NOTES, source }),
    }
}

fn build(path: &'static str, bytes: &[u8], object: Object) -> Result<Running, RunningError> {
    let build_id = notes::build_id(bytes).map_err(|source| RunningError::Notes { path, source })?;
    Ok(Running { build_id, object })
}

fn listed_as_built_in(host: &Host) -> bool {
    let list = host
        .release()
        .and_then(|release| host.text(&format!("/lib/modules/{release}/modules.builtin")).ok());
    list.is_some_and(|list| list.lines().any(|line| line.ends_with("/nf_tables.ko")))
}
