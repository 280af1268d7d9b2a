//! One kernel: from the files of its packages to what is known of it afterwards. Pure: bytes in,
//! outcome out; who fetches, decompresses and stores is elsewhere.
//!
//! ```text
//! vmlinuz   → image::vmlinux_btf → fields ↘
//! nf_tables → image::load        → Function → input_key → Bodies → resolve → Analysis
//! ```
//!
//! Many builds have the same body of `nft_do_chain` with the same layout, and running it is most of
//! what a kernel costs once it is unpacked. So the resolver runs once per [`InputKey`], which covers
//! everything it reads.

use crate::{
    explain::{self, Syntax},
    image::{
        self, Function, ImageError,
        extract::to_json,
        function::{ObjectKind, SYMBOL},
    },
    resolve::{self, ANALYZER, Findings, Unresolved, report, x86_64::kprobe::Era},
};
use nfdrop_db::{
    BuildId, Plan, Reason, Record,
    listing::html,
    store::{Body, BodyOutcome, Build, InputKey, PackedListing},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// The files of a kernel as they are in its packages, compressed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files<'a> {
    /// The kernel image; BTF of another origin will do as well, see [`image::load`].
    pub vmlinuz: Option<&'a [u8]>,
    /// The module.
    pub nf_tables: Option<&'a [u8]>,
}

/// What is known of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    /// Of the object that holds, or should hold, the function. `None`: it cannot be read.
    pub build_id: Option<BuildId>,
    /// Of the kernel image.
    pub vmlinux_build_id: Option<BuildId>,
    /// As the object says it, `uname -r` prints it; `None`: it does not, or cannot be read.
    pub release: Option<String>,
    /// What holds, or should hold, the function.
    pub object: ObjectKind,
    /// What the resolver read; `None` where it never ran.
    pub input: Option<InputKey>,
    /// Plan or reason, and the analyzer that says so.
    pub body: Body,
    /// Where the resolver was run for it, what it saw.
    pub listing: Option<PackedListing>,
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

/// What is known of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Plan or reason.
    pub body: Body,
    /// What the resolver saw, where it was run and somebody wants to keep that.
    pub listing: Option<PackedListing>,
}

/// Results of the resolver, each computed once.
#[derive(Debug, Default)]
pub struct Bodies {
    known: Mutex<HashMap<InputKey, Arc<OnceLock<Told>>>>,
    listings: bool,
}

impl Bodies {
    /// Results that are to be stored, with what the resolver saw.
    pub fn with_listings() -> Self {
        Self { listings: true, ..Self::default() }
    }

    /// The result for a function: one from here, else what `stored` says, else a new one. Who asks
    /// for one that another thread is computing waits for it.
    pub fn get(
        &self,
        key: InputKey,
        function: &Function,
        stored: impl FnOnce(&InputKey) -> Option<Body>,
    ) -> Told {
        let cell = {
            let mut cells = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(key).or_default())
        };
        let tell = || match stored(&key) {
            Some(body) => Told { body, listing: None },
            None if self.listings => explain(function),
            None => Told { body: resolve(function), listing: None },
        };
        cell.get_or_init(tell).clone()
    }
}

/// Runs the resolver.
pub fn resolve(function: &Function) -> Body {
    body(resolve::resolve(function))
}

/// Runs the resolver, and keeps what it saw. A listing that is too long is left out.
pub fn explain(function: &Function) -> Told {
    let report = report::observe(function);
    let listing = explain::listing(function, &report, Syntax::default(), html::COLUMNS);
    Told { body: body(report.outcome), listing: PackedListing::pack(&listing).ok() }
}

fn body(resolved: Result<Findings, Unresolved>) -> Body {
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
const NO_BUILD_ID: [u8; 4] = [0; 4];

/// All there is to know of a kernel. `stored`: as for [`Bodies::get`].
pub fn analyse(
    files: Files<'_>,
    bodies: &Bodies,
    stored: impl FnOnce(&InputKey) -> Option<Body>,
) -> Analysis {
    let (function, vmlinux_build_id) = load(files);
    let function = match function {
        Ok(function) => function,
        Err(NoFunction { reason, detail }) => {
            let object = match files.nf_tables {
                Some(_) => ObjectKind::Module,
                None => ObjectKind::Vmlinux,
            };
            let build_id = match files.nf_tables {
                Some(module) => image::build_id(module),
                None => vmlinux_build_id.clone(),
            };
            let detail = Some(Record::clean_detail(&detail));
            let outcome = BodyOutcome::Unresolved { reason, detail };
            let body = Body { outcome, analyzer: ANALYZER.to_owned() };
            return Analysis {
                build_id,
                vmlinux_build_id,
                release: None,
                object,
                input: None,
                body,
                listing: None,
            };
        }
    };
    let key = input_key(&function);
    let Told { body, listing } = bodies.get(key, &function, stored);
    let Function { build_id, object, release, .. } = function;
    let vmlinux_build_id = match object {
        ObjectKind::Module => vmlinux_build_id,
        ObjectKind::Vmlinux => build_id.clone(),
    };
    Analysis { build_id, vmlinux_build_id, release, object, input: Some(key), body, listing }
}

impl Analysis {
    /// The record; `None` where the build-id cannot be read.
    pub fn record(&self) -> Option<Record> {
        Some(self.body.outcome.record(self.build_id.as_ref()?, object_name(self.object)))
    }

    /// As it is stored, where the build-id can be read. `packages`: names of the packages that the files
    /// were in, the one with the image first.
    pub fn build(&self, packages: &[&str]) -> Option<Build> {
        let holder = match self.object {
            ObjectKind::Module => packages.last(),
            ObjectKind::Vmlinux => packages.first(),
        };
        Some(Build {
            record: self.record()?,
            object: object_name(self.object).to_owned(),
            arch: "x86_64".to_owned(),
            analyzer: self.body.analyzer.clone(),
            input: self.input,
            package: (*holder?).to_owned(),
            vmlinux_build_id: self.vmlinux_build_id.clone(),
            listing: self.listing.clone(),
        })
    }

    /// The plan with a build-id that is none, for who shows the rest of it.
    pub fn anonymous_plan(&self) -> Option<Plan> {
        let build_id = BuildId::from_bytes(&NO_BUILD_ID).ok()?;
        self.body.outcome.record(&build_id, object_name(self.object)).plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

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

    #[test]
    fn a_body_is_resolved_once() {
        let (bodies, function) = (Bodies::default(), listing());
        let key = input_key(&function);
        let asked = AtomicU32::new(0);
        let stored = |_: &InputKey| {
            asked.fetch_add(1, Ordering::Relaxed);
            None
        };
        let get = || bodies.get(key, &function, stored);
        let (first, second) = rayon::join(get, get);
        assert_eq!((&first, asked.load(Ordering::Relaxed)), (&second, 1));
        assert!(matches!(first.body.outcome, BodyOutcome::Plan(_)) && first.listing.is_none());
        // What the store knows is taken.
        let other = Body { analyzer: "9".into(), ..first.body.clone() };
        let told = Bodies::with_listings().get(key, &function, |_| Some(other.clone()));
        assert_eq!(told, Told { body: other, listing: None });
        // Who looks on changes nothing.
        let told = Bodies::with_listings().get(key, &function, |_| None);
        assert_eq!(told.body, first.body);
        assert!(told.listing.unwrap().unpack().unwrap().resolved);
    }

    #[test]
    fn what_is_no_kernel_has_a_reason() {
        let reason = |vmlinuz: Option<&[u8]>, nf_tables: Option<&[u8]>| {
            let files = Files { vmlinuz, nf_tables };
            let analysis = analyse(files, &Bodies::default(), |_| None);
            assert_eq!((analysis.record(), analysis.anonymous_plan()), (None, None));
            let BodyOutcome::Unresolved { reason, .. } = analysis.body.outcome else {
                panic!("no plan is possible");
            };
            reason
        };
        assert_eq!(reason(None, None), Reason::NoNfTables);
        assert_eq!(reason(None, Some(b"\x89PNG\r\n\x1a\n")), Reason::MalformedImage);
        assert_eq!(reason(Some(b""), None), Reason::MalformedImage);
        assert_eq!(reason(Some(b"x"), Some(b"")), Reason::MalformedImage);
    }
}
