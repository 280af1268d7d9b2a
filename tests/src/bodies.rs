//! Which kernels have which body of `nft_do_chain`: `tests/bodies.txt`. What differs between kernels is what
//! the compiler made of the function, so kernels to be booted are chosen by it, not by age. A body is known
//! only once a package is fetched; the table saves fetching some two hundred of them, and every kernel that is
//! booted says whether it is right.

use anyhow::{Context, Result, ensure};
use nfdrop_db::{Location, Plan};
use std::collections::BTreeSet;

const TABLE: &str = include_str!("../bodies.txt");
/// Digits of the body's hash in the table.
const DIGITS: usize = 16;

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The first digits of `body_sha256`.
    pub sha256: String,
    /// What its plan is like, as [`shape`] has it.
    pub shape: String,
    /// Releases that have it, the newest first. Others may have it too.
    pub releases: Vec<String>,
}

impl Body {
    /// Whether a probe of its plan has a condition.
    pub fn is_conditional(&self) -> bool {
        self.shape.contains(" if ")
    }

    /// What this plan says otherwise than the table.
    pub fn difference(&self, plan: &Plan) -> Option<String> {
        let found = (sha256(plan), shape(plan));
        let expected = (self.sha256.clone(), self.shape.clone());
        (found != expected)
            .then(|| format!("tests/bodies.txt has {expected:?}, this kernel has {found:?}"))
    }
}

/// The table, from the oldest kernels to the newest.
pub fn table() -> Result<Vec<Body>> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let bodies: Result<Vec<_>> =
        lines.map(|line| body(line).with_context(|| line.to_owned())).collect();
    let bodies = bodies?;
    ensure!(!bodies.is_empty(), "tests/bodies.txt is empty");
    Ok(bodies)
}

/// `SHA256 | SHAPE | RELEASE RELEASE …`
fn body(line: &str) -> Result<Body> {
    let mut columns = line.split(" | ");
    let mut column = || columns.next().context("a line of tests/bodies.txt has three columns");
    let (sha256, shape, releases) = (column()?, column()?, column()?);
    let releases: Vec<String> = releases.split(' ').map(str::to_owned).collect();
    ensure!(sha256.len() == DIGITS, "a hash of {DIGITS} digits");
    Ok(Body { sha256: sha256.to_owned(), shape: shape.to_owned(), releases })
}

/// Of every body whose plan has a condition, and of every other shape of plan the newest body.
pub fn to_boot(bodies: &[Body]) -> Vec<&Body> {
    let mut shapes = BTreeSet::new();
    let mut chosen = Vec::new();
    for body in bodies.iter().rev() {
        if shapes.insert(&body.shape) || body.is_conditional() {
            chosen.push(body);
        }
    }
    chosen
}

fn sha256(plan: &Plan) -> String {
    plan.body_sha256.to_string().chars().take(DIGITS).collect()
}

/// What a plan is like: of each probe the event, the cost, what its conditions look at, and in what it finds
/// rule, packet and base chain.
pub fn shape(plan: &Plan) -> String {
    let kind = |place: &Location| {
        let kind = if place.deref.is_some() { "slot" } else { "register" };
        if place.add.is_some() { format!("{kind}+") } else { kind.to_owned() }
    };
    let probe = |probe: &nfdrop_db::Probe| {
        let when: Vec<String> = probe.when.iter().map(|when| kind(&when.value)).collect();
        let when =
            if when.is_empty() { String::new() } else { format!(" if {}", when.join(" and ")) };
        let places = [probe.rule, Some(probe.pkt), Some(probe.base_chain)];
        let places: Vec<String> = places.iter().flatten().map(kind).collect();
        format!("{} {}{when}: {}", probe.event, probe.cost, places.join(" "))
    };
    let probes: Vec<String> = plan.probes.iter().map(probe).collect();
    probes.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_chosen_from() {
        let bodies = table().unwrap();
        let hashes: BTreeSet<&str> = bodies.iter().map(|body| body.sha256.as_str()).collect();
        assert_eq!(hashes.len(), bodies.len(), "a body is in the table once");
        let chosen = to_boot(&bodies);
        assert!(
            bodies.iter().filter(|body| body.is_conditional()).all(|body| chosen.contains(&body))
        );
        let shapes = |bodies: &mut dyn Iterator<Item = &Body>| -> BTreeSet<String> {
            bodies.map(|body| body.shape.clone()).collect()
        };
        assert_eq!(shapes(&mut chosen.into_iter()), shapes(&mut bodies.iter()));
    }
}
