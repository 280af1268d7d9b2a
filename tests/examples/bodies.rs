//! Renews `tests/bodies.txt`: prints it with what the resolver says today of a kernel of every body, and
//! with the kernels of the mirror that the table does not have and whose releases contain one of the
//! arguments. Of packages only parts are fetched, and functions are kept; see `vm::function`.
//!
//! ```sh
//! cargo run --locked -p nfdrop-tests --example bodies -- >table       # as it is
//! cargo run --locked -p nfdrop-tests --example bodies -- 7.4 >table   # and all of a series
//! cp table tests/bodies.txt
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table, and what it is made of")]

use anyhow::Result;
use nfdrop_indexer::source::kernel::KernelSet;
use nfdrop_tests::{
    bodies::{self, Body},
    plan,
    vm::mirror::{Mirror, is_gone},
};

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mirror = Mirror::open()?;
    let mut table = bodies::table()?;
    let mut found = Vec::new();
    for body in &table {
        let mut sets = body.releases.iter().filter_map(|release| mirror.release(release));
        let look = |set: &KernelSet| look(&mirror, set).transpose();
        match sets.find_map(look).transpose()? {
            Some(body) => found.push(body),
            None => eprintln!("the mirror has none of these: left as it is: {body}"),
        }
    }
    let is_known = |release| table.iter().flat_map(|body| &body.releases).any(|r| r == release);
    for set in mirror.complete().filter(|set| !is_known(&set.release)) {
        if wanted.iter().any(|part| set.release.contains(part)) {
            found.extend(look(&mirror, set)?);
        }
    }
    bodies::add(&mut table, found);
    print!("{}", bodies::text(&table));
    Ok(())
}

/// The kernel's body; `None` where the pool has lost its packages.
fn look(mirror: &Mirror, set: &KernelSet) -> Result<Option<Body>> {
    match mirror.function(set) {
        Err(error) if is_gone(&error) => {
            eprintln!("{}: {error:#}: left out", set.release);
            Ok(None)
        }
        function => {
            let body = Body::of(&set.release, &plan(&function?)?);
            eprintln!("{body}");
            Ok(Some(body))
        }
    }
}
