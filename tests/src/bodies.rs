//! Which kernels have which body of `nft_do_chain`: `tests/bodies.txt`. What differs between kernels is
//! what the compiler made of the function, so kernels to be booted are chosen by it, not by age. A body
//! is known only once a package is fetched. The table saves fetching some two hundred of them, and
//! every kernel that is booted is compared with it.

use anyhow::{Context, Result, ensure};
use nfdrop_db::{KernelRelease, Location, Plan, Probe, Reg, Series};
use nfdrop_indexer::source::version::Version;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

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

/// A line of the table.
impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {} | {}", self.sha256, self.shape, self.releases.join(" "))
    }
}

impl Body {
    /// What a release's plan says.
    pub fn of(release: &str, plan: &Plan) -> Self {
        let sha256 = plan.body_sha256.to_string().chars().take(DIGITS).collect();
        Self { sha256, shape: shape(plan), releases: vec![release.to_owned()] }
    }

    /// Whether a probe of its plan has a condition.
    pub fn is_conditional(&self) -> bool {
        self.shape.contains(" if ")
    }

    fn has(&self, release: &str) -> bool {
        self.releases.iter().any(|known| known == release)
    }
}

/// The table, from the oldest kernels to the newest.
pub fn table() -> Result<Vec<Body>> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let bodies = lines.map(|line| body(line).with_context(|| line.to_owned()));
    let bodies = bodies.collect::<Result<Vec<_>>>()?;
    ensure!(!bodies.is_empty(), "tests/bodies.txt is empty");
    Ok(bodies)
}

/// `SHA256 | SHAPE | RELEASE RELEASE …`
fn body(line: &str) -> Result<Body> {
    let columns: Vec<&str> = line.split(" | ").collect();
    let [sha256, shape, releases] = columns[..] else {
        anyhow::bail!("a line of tests/bodies.txt has three columns");
    };
    let releases: Vec<String> = releases.split(' ').map(str::to_owned).collect();
    ensure!(sha256.len() == DIGITS, "a hash has {DIGITS} digits in tests/bodies.txt");
    Ok(Body { sha256: sha256.to_owned(), shape: shape.to_owned(), releases })
}

/// The table as it is written.
pub fn text(bodies: &[Body]) -> String {
    let head = TABLE.lines().take_while(|line| line.starts_with('#'));
    let lines = head.map(str::to_owned).chain(bodies.iter().map(Body::to_string));
    lines.map(|line| line + "\n").collect()
}

/// Puts these bodies into the table; its order is that of the newest kernels that have them.
pub fn add(table: &mut Vec<Body>, found: Vec<Body>) {
    for body in found {
        for known in table.iter_mut() {
            known.releases.retain(|release| !body.has(release));
        }
        match table.iter_mut().find(|known| known.sha256 == body.sha256) {
            Some(known) => {
                known.releases.extend(body.releases);
                known.shape = body.shape;
            }
            None => table.push(body),
        }
    }
    table.retain(|body| !body.releases.is_empty());
    for body in table.iter_mut() {
        body.releases.sort_by_cached_key(|release| Reverse(sort_key(release)));
    }
    table.sort_by_cached_key(|body| sort_key(&body.releases[0]));
}

/// What the table says otherwise than a kernel that was looked at. A kernel and a body that it does not
/// have are no difference.
pub fn difference(table: &[Body], found: &Body) -> Option<String> {
    let release = &found.releases[0];
    let expected = table.iter().find(|body| body.has(release));
    let expected = expected.or_else(|| table.iter().find(|body| body.sha256 == found.sha256))?;
    let is_same = (&expected.sha256, &expected.shape) == (&found.sha256, &found.shape);
    (!is_same).then(|| {
        format!(
            "tests/bodies.txt has\n  {expected}\nand this kernel is\n  {found}\nIf the plan is right, renew \
             the table: CONTRIBUTING.md, \"Real kernels\""
        )
    })
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

/// Kernels that may have a body, though the table does not say so: of those listed, of its series and
/// flavour, the oldest first, the ones that the table does not have. First those of the same compiler,
/// then the nearest to those that have it.
pub fn replacements<'a>(body: &Body, table: &[Body], listed: &[&'a str]) -> Vec<&'a str> {
    let is_home = |(_, release): &(usize, &&str)| body.has(release);
    let homes: Vec<usize> = listed.iter().enumerate().filter(is_home).map(|(at, _)| at).collect();
    let unknown = |(_, release): &(usize, &&str)| !table.iter().any(|body| body.has(release));
    let mut others: Vec<_> = listed.iter().enumerate().filter(unknown).collect();
    others.sort_by_key(|(at, release)| {
        let distance = homes.iter().map(|home| home.abs_diff(*at)).min().unwrap_or_default();
        (compiler(release) != compiler(&body.releases[0]), distance, Reverse(*at))
    });
    others.into_iter().map(|(_, release)| *release).collect()
}

/// Of every series, flavour and compiler the newest of those listed, where the table does not have it.
pub fn unknown<'a>(table: &[Body], listed: &[&'a str]) -> Vec<&'a str> {
    let mut newest: BTreeMap<_, (_, &str)> = BTreeMap::new();
    for release in listed {
        let (series, version, flavour) = sort_key(release);
        let entry = newest.entry((series, flavour, compiler(release)));
        let entry = entry.or_insert_with(|| (version.clone(), release));
        if entry.0 <= version {
            *entry = (version, release);
        }
    }
    let newest = newest.into_values().map(|(_, release)| release);
    newest.filter(|release| !table.iter().any(|body| body.has(release))).collect()
}

/// Series, version, flavour.
fn sort_key(release: &str) -> (Option<Series>, Version, String) {
    let flavour = KernelRelease(release).flavour();
    let version = release.strip_suffix(flavour).unwrap_or(release).trim_end_matches('-');
    (KernelRelease(release).series(), Version::dpkg(version), flavour.to_owned())
}

/// The release of Debian that a kernel is built in, where its own release says it (`+deb13`, `deb11.51`),
/// and with it the compiler.
fn compiler(release: &str) -> &str {
    let Some((_, rest)) = release.split_once("deb") else { return "" };
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

/// What a plan is like: of each probe the event, the cost, what its conditions look at, and in what it
/// finds rule, packet and base chain.
pub fn shape(plan: &Plan) -> String {
    let kind = |place: &Location| {
        let kind = match place.deref {
            None => "register",
            // Of the frame; others would be read through a pointer.
            Some(_) if matches!(place.reg, Reg::Rsp | Reg::Rbp) => "slot",
            Some(_) => "memory",
        };
        if place.add.is_some() { format!("{kind}+") } else { kind.to_owned() }
    };
    let probe = |probe: &Probe| {
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

    fn body_of(sha256: &str, shape: &str, releases: &[&str]) -> Body {
        let releases = releases.iter().map(|release| (*release).to_owned()).collect();
        Body { sha256: sha256.to_owned(), shape: shape.to_owned(), releases }
    }

    #[test]
    fn every_conditional_body_and_every_shape_is_booted() {
        let bodies = table().unwrap();
        let hashes: BTreeSet<&str> = bodies.iter().map(|body| body.sha256.as_str()).collect();
        assert_eq!(hashes.len(), bodies.len(), "a body is in the table once");
        let releases = bodies.iter().flat_map(|body| &body.releases);
        let distinct: BTreeSet<&String> = releases.clone().collect();
        assert_eq!(distinct.len(), releases.count(), "a release is in the table once");
        let chosen = to_boot(&bodies);
        assert!(bodies.iter().filter(|b| b.is_conditional()).all(|body| chosen.contains(&body)));
        let shapes = |bodies: &mut dyn Iterator<Item = &Body>| -> BTreeSet<String> {
            bodies.map(|body| body.shape.clone()).collect()
        };
        assert_eq!(shapes(&mut chosen.into_iter()), shapes(&mut bodies.iter()));
    }

    #[test]
    fn the_table_is_written_as_it_is_read() {
        let mut bodies = table().unwrap();
        bodies.reverse();
        add(&mut bodies, Vec::new());
        assert_eq!(text(&bodies), TABLE);
    }

    #[test]
    fn added_bodies_replace_what_the_table_said() {
        let mut bodies = vec![body_of("a", "x", &["6.1.0-9-amd64", "6.1.0-7-amd64"])];
        let found = [
            body_of("a", "y", &["6.1.0-10-amd64"]),
            body_of("b", "x", &["6.1.0-7-amd64"]),
            body_of("c", "x", &["5.10.0-40-amd64"]),
        ];
        add(&mut bodies, found.into());
        let expected = [
            body_of("c", "x", &["5.10.0-40-amd64"]),
            body_of("b", "x", &["6.1.0-7-amd64"]),
            body_of("a", "y", &["6.1.0-10-amd64", "6.1.0-9-amd64"]),
        ];
        assert_eq!(bodies, expected);
    }

    #[test]
    fn replacements_are_of_the_same_compiler_and_near() {
        let listed = [
            "6.12.43+deb13-amd64",
            "6.12.74+deb12-amd64",
            "6.12.74+deb13-amd64",
            "6.12.88+deb13-amd64",
            "6.12.90+deb13-amd64",
            "6.12.95+deb13-amd64",
            "6.12.96+deb13-amd64",
        ];
        let body = body_of("a", "x", &["6.12.90+deb13-amd64"]);
        let table = [body.clone(), body_of("b", "x", &["6.12.96+deb13-amd64"])];
        let found = replacements(&body, &table, &listed);
        let expected = [
            "6.12.95+deb13-amd64",
            "6.12.88+deb13-amd64",
            "6.12.74+deb13-amd64",
            "6.12.43+deb13-amd64",
            "6.12.74+deb12-amd64",
        ];
        assert_eq!(found, expected);
        // The newest where the mirror lists none of them any more.
        let found = replacements(&body_of("c", "x", &["6.12.1+deb13-amd64"]), &table, &listed);
        assert_eq!(found[0], "6.12.95+deb13-amd64");
    }

    #[test]
    fn unknown_are_the_newest_that_the_table_lacks() {
        let listed = [
            "6.12.9+deb13-amd64",
            "6.12.10+deb13-amd64",
            "6.12.8+deb12-amd64",
            "6.12.10+deb13-rt-amd64",
            "7.4-amd64",
        ];
        let table = [body_of("a", "x", &["6.12.9+deb13-amd64", "6.12.10+deb13-rt-amd64"])];
        let found = unknown(&table, &listed);
        assert_eq!(found, ["6.12.8+deb12-amd64", "6.12.10+deb13-amd64", "7.4-amd64"]);
    }

    #[test]
    fn a_kernel_that_is_not_what_the_table_says_is_a_difference() {
        let table = [body_of("a", "x", &["6.1.0-9-amd64"]), body_of("b", "y", &["6.1.0-10-amd64"])];
        let found = |sha256, shape, release| {
            difference(&table, &body_of(sha256, shape, &[release])).is_some()
        };
        assert!(!found("a", "x", "6.1.0-9-amd64"));
        assert!(!found("c", "z", "6.1.0-11-amd64"), "a new kernel");
        assert!(!found("b", "y", "6.1.0-11-amd64"), "a new kernel, an old body");
        assert!(found("b", "y", "6.1.0-9-amd64"), "another body");
        assert!(found("a", "y", "6.1.0-9-amd64"), "another plan");
        assert!(found("b", "x", "6.1.0-11-amd64"), "another plan of an old body");
    }
}
