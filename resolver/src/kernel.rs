//! From the files of a kernel to its function, and from there to a plan or a reason.
//!
//! ```text
//! vmlinuz   → image::vmlinux_btf → fields ↘
//! nf_tables → image::load        → Function → resolve → plan or reason
//! ```

use crate::{
    arch::Era,
    image::{
        self, Function, ImageError,
        extract::to_json,
        function::{ObjectKind, SYMBOL},
    },
    resolve::{self, ANALYZER, Findings, Unresolved},
};
use nfdrop_db::{
    BuildId, Reason, Record,
    body::{Body, BodyOutcome, InputKey},
};
use sha2::{Digest as _, Sha256};

/// The files of a kernel as they are in its packages, compressed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files<'a> {
    /// The kernel image; BTF of another origin will do as well, see [`image::load`].
    pub vmlinuz: Option<&'a [u8]>,
    /// The module.
    pub nf_tables: Option<&'a [u8]>,
}

/// Why there is no function to resolve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct NoFunction {
    /// The kind.
    pub reason: Reason,
    /// The particulars, for people.
    pub detail: String,
}

impl From<ImageError> for NoFunction {
    fn from(error: ImageError) -> Self {
        Self { reason: error.reason(), detail: error.to_string() }
    }
}

/// The object's name in plans.
pub fn object_name(object: ObjectKind) -> &'static str {
    match object {
        ObjectKind::Module => "nf_tables",
        ObjectKind::Vmlinux => "vmlinux",
    }
}

/// The function of a kernel and the build-id of its image.
pub fn load(files: Files<'_>) -> (Result<Function, NoFunction>, Option<BuildId>) {
    match files {
        Files { vmlinuz: None, nf_tables: Some(module) } => {
            (image::load(module, None).map_err(NoFunction::from), None)
        }
        Files { vmlinuz: Some(vmlinuz), nf_tables: Some(module) } => load_both(vmlinuz, module),
        Files { vmlinuz: Some(vmlinuz), nf_tables: None } => {
            let id = image::build_id(vmlinuz);
            let function = image::load(vmlinuz, None).map_err(|error| match error {
                ImageError::NoSymbol(_) => NoFunction {
                    reason: Reason::NoNfTables,
                    detail: format!(
                        "no nf_tables module, and a kernel image without {SYMBOL}: {error}; where \
                         nf_tables is a module, give nf_tables.ko or the package it is in"
                    ),
                },
                error => error.into(),
            });
            (function, id)
        }
        Files { vmlinuz: None, nf_tables: None } => {
            let detail = "neither a kernel image nor an nf_tables module is there".to_owned();
            (Err(NoFunction { reason: Reason::NoNfTables, detail }), None)
        }
    }
}

fn load_both(vmlinuz: &[u8], module: &[u8]) -> (Result<Function, NoFunction>, Option<BuildId>) {
    let base = match image::vmlinux_btf(vmlinuz) {
        Ok(base) => base,
        Err(error) => {
            let (reason, detail) = (error.reason(), format!("the kernel image: {error}"));
            return (Err(NoFunction { reason, detail }), None);
        }
    };
    let btf = Some(base.btf.as_slice()).filter(|btf| !btf.is_empty());
    let function = image::load(module, btf).map_err(NoFunction::from).and_then(|function| {
        match (&function.release, &base.release) {
            // Offsets of another kernel would be wrong ones.
            (Some(own), Some(other)) if function.object == ObjectKind::Module && own != other => {
                let (own, other) = (own.clone(), other.clone());
                Err(ImageError::OtherRelease { module: own, vmlinux: other }.into())
            }
            _ => Ok(function),
        }
    });
    (function, base.build_id)
}

/// SHA-256 over all that [`resolve::resolve`] reads: the function as an extract, without the
/// identity of its build, and of its release only the era, which rules of kprobes depend on.
pub fn input_key(function: &Function) -> InputKey {
    let release = Era::of(function.release.as_deref()).representative().map(str::to_owned);
    let read = Function { release, build_id: None, ..function.clone() };
    InputKey(Sha256::digest(to_json(&read)).into())
}

/// Runs the resolver.
pub fn resolve(function: &Function) -> Body {
    body(resolve::resolve(function))
}

/// The result as it is stored.
pub fn body(resolved: Result<Findings, Unresolved>) -> Body {
    let outcome = match resolved {
        Ok(findings) => {
            // Any identity will do: a body has none.
            let record = |build_id| Record::resolved(findings.plan(build_id));
            let outcome = BuildId::from_bytes(&NO_BUILD_ID).ok();
            outcome.and_then(|build_id| BodyOutcome::of(&record(build_id)))
        }
        Err(unresolved) => Some(BodyOutcome::Unresolved {
            reason: unresolved.reason,
            detail: Some(Record::clean_detail(&unresolved.detail)),
        }),
    };
    let outcome = outcome.unwrap_or(BodyOutcome::Unresolved {
        reason: Reason::MalformedImage,
        detail: Some("the plan has no identity".to_owned()),
    });
    Body { outcome, analyzer: ANALYZER.to_owned() }
}

/// Stands for a build-id where there is none and the type wants one; never shown.
pub const NO_BUILD_ID: [u8; 4] = [0; 4];

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &[u8] = include_bytes!("../../tests/corpus/arch-6.2.10-arch1-1.json");

    fn listing() -> Function {
        image::load(LISTING, None).unwrap()
    }

    #[test]
    fn the_key_covers_what_is_read_and_nothing_else() {
        let function = listing();
        let key = input_key(&function);
        let same = [
            Function { release: Some("6.2.99-other".into()), ..function.clone() },
            Function { build_id: BuildId::from_bytes(&[7; 20]).ok(), ..function.clone() },
        ];
        assert!(same.iter().all(|other| input_key(other) == key));
        let mut body = function.clone();
        body.parts[0].bytes[100] ^= 1;
        let others = [
            Function { release: Some("6.5.0-arch1-1".into()), ..function.clone() },
            Function { release: None, ..function.clone() },
            Function { preemption: Some(false), ..function.clone() },
            Function { object: ObjectKind::Vmlinux, ..function.clone() },
            Function { jump_labels: Some(Vec::new()), ..function.clone() },
            Function { has_exception_entries: true, ..function },
            body,
        ];
        assert!(others.iter().all(|other| input_key(other) != key));
    }

    #[test]
    fn an_era_has_a_release_that_stands_for_it() {
        let function = listing();
        let release = Era::of(function.release.as_deref()).representative().map(str::to_owned);
        assert_ne!(release, function.release);
        let other = Function { release, ..function.clone() };
        assert_eq!(resolve(&other), resolve(&function));
    }
}
