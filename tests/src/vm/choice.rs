//! Which kernels are booted: those whose function differs in what a plan depends on, see
//! [`bodies`](crate::bodies). Indices list packages that a pool has lost, so each choice has
//! replacements.

#![expect(clippy::print_stdout, reason = "which kernels are taken, and why, is said")]

use super::mirror::{Mirror, is_gone};
use crate::{
    bodies::{self, Body},
    plan,
};
use anyhow::{Error, Result};
use nfdrop_db::KernelRelease;
use nfdrop_indexer::source::kernel::KernelSet;

/// How many kernels that the table does not have are looked at in search of a body.
const MAX_REPLACEMENTS: usize = 6;

impl Mirror {
    /// The complete kernels of a release's series and flavour, the oldest first.
    pub fn siblings(&self, release: &str) -> Vec<&KernelSet> {
        let (series, flavour) = (KernelRelease(release).series(), KernelRelease(release).flavour());
        let is_sibling = |set: &&KernelSet| Some(set.series) == series && set.flavour == flavour;
        self.complete().filter(is_sibling).collect()
    }

    /// A kernel with this body that the pool has: the newest of those that the table names, else the
    /// nearest of the others whose function turns out to be the same.
    pub fn with_body(&self, body: &Body, table: &[Body]) -> Result<Option<&KernelSet>> {
        for set in body.releases.iter().filter_map(|release| self.release(release)) {
            match self.kernel(set) {
                Err(error) if is_gone(&error) => report(set, &error),
                Err(error) => return Err(error),
                Ok(_) => return Ok(Some(set)),
            }
        }
        let siblings = self.siblings(&body.releases[0]);
        let listed: Vec<&str> = siblings.iter().map(|set| set.release.as_str()).collect();
        let others = bodies::replacements(body, table, &listed);
        for release in others.into_iter().take(MAX_REPLACEMENTS) {
            let Some(set) = self.release(release) else { continue };
            let found = match self.function(set) {
                Err(error) if is_gone(&error) => {
                    report(set, &error);
                    continue;
                }
                function => Body::of(release, &plan(&function?)?),
            };
            if found.sha256 == body.sha256 {
                println!(
                    "{release}: has body {}, which tests/bodies.txt does not say",
                    body.sha256
                );
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// Kernels that came after the table was made, with the bodies that it does not have: the newest
    /// of every series, flavour and compiler.
    pub fn new_bodies(&self, table: &[Body]) -> Result<Vec<(Body, &KernelSet)>> {
        let listed: Vec<&str> = self.complete().map(|set| set.release.as_str()).collect();
        let mut found: Vec<(Body, &KernelSet)> = Vec::new();
        for set in bodies::unknown(table, &listed).into_iter().filter_map(|r| self.release(r)) {
            let body = match self.function(set) {
                Err(error) if is_gone(&error) => {
                    report(set, &error);
                    continue;
                }
                function => Body::of(&set.release, &plan(&function?)?),
            };
            let is_known = table.iter().chain(found.iter().map(|(body, _)| body));
            let is_known = is_known.into_iter().any(|known| known.sha256 == body.sha256);
            println!(
                "{}: is not in tests/bodies.txt; its body {} is{}",
                set.release,
                body.sha256,
                if is_known { "" } else { " neither" },
            );
            if !is_known {
                found.push((body, set));
            }
        }
        Ok(found)
    }
}

fn report(set: &KernelSet, error: &Error) {
    println!("{}: {error:#}: another kernel with its body is taken", set.release);
}
