//! One kernel: from the files of its packages to what is stored of it. Bytes in, outcome out: fetching,
//! decompressing and storing are elsewhere.
//!
//! ```text
//! files → load → Function → input_key → Bodies → resolve → Analysis
//! ```
//!
//! Many builds have the same body of `nft_do_chain` with the same layout, and running it is most of
//! what a kernel costs once it is unpacked. So the resolver runs once per [`InputKey`], which covers
//! everything it reads.

use nfdrop_db::{
    Arch, BuildId, Plan, Record,
    body::{Body, BodyOutcome, InputKey},
    listing::html,
    store::{Build, PackedListing},
};
use nfdrop_resolver::{
    explain::{self, Syntax},
    image::{self, Function, function::ObjectKind},
    kernel::{Files, NO_BUILD_ID, NoFunction, body, input_key, load, object_name, resolve},
    resolve::{ANALYZER, report},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

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

/// What is known of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Plan or reason.
    pub body: Body,
    /// What the resolver saw, where it was run and somebody wants to keep that.
    pub listing: Option<PackedListing>,
}

/// Results of the resolver, each computed once.
#[derive(Debug, Default)]
pub struct Bodies {
    known: Mutex<HashMap<InputKey, Arc<OnceLock<Outcome>>>>,
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
    ) -> Outcome {
        let cell = {
            let mut cells = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(key).or_default())
        };
        let tell = || match stored(&key) {
            Some(body) => Outcome { body, listing: None },
            None if self.listings => explain(function),
            None => Outcome { body: resolve(function), listing: None },
        };
        cell.get_or_init(tell).clone()
    }
}

/// Runs the resolver, and keeps what it saw. A listing that is too long is left out.
pub fn explain(function: &Function) -> Outcome {
    let report = report::observe(function);
    let listing = explain::listing(function, &report, Syntax::default(), html::COLUMNS);
    Outcome { body: body(report.outcome), listing: PackedListing::pack(&listing).ok() }
}

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
    let Outcome { body, listing } = bodies.get(key, &function, stored);
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
            arch: Arch::X86_64.to_string(),
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
    use nfdrop_db::Reason;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LISTING: &[u8] = include_bytes!("../../tests/corpus/arch-6.2.10-arch1-1.json");

    fn listing() -> Function {
        image::load(LISTING, None).unwrap()
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
        assert_eq!(told, Outcome { body: other, listing: None });
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
