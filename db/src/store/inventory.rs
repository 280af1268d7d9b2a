//! All of a database at a glance, to compare it with another: of every build whether it has a plan, where
//! that attaches, and which packages are known to hold it.

use super::{
    Failure, Source, Store, StoreError,
    column::{required, wrong},
    read,
};
use crate::{BuildId, HexBytes, Plan, Proof, ProofResult, Reason, Record, plan::fields};
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What a database holds; one state of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every build.
    pub builds: BTreeMap<BuildId, Held>,
    /// Kernels that never got to a build-id, sorted.
    pub failures: Vec<Failure>,
    /// What the suites looked like when they were last crawled, sorted.
    pub sources: Vec<Source>,
}

/// What is held of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Why it has no plan; `None`: it has one.
    pub reason: Option<Reason>,
    /// The reason's particulars, one line.
    pub detail: Option<String>,
    /// Version of the analyzer.
    pub analyzer: String,
    /// What the resolver read, the same for all builds with one body and layout: 32 bytes. `None` where
    /// it never ran.
    pub body: Option<HexBytes>,
    /// Of the plan, SHA-256 over all that the client acts on: everything but the evidence, which grows
    /// with the rulesets that a newer analyzer knows, and the offset by which it only checks itself.
    pub attaches: Option<[u8; 32]>,
    /// Whether there is a signature.
    pub signed: bool,
    /// What booting its kernel showed of this plan.
    pub proof: Option<HeldProof>,
    /// The packages that hold it, once per suite.
    pub packages: BTreeSet<PackageName>,
}

/// What a proof comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldProof {
    /// In a word.
    pub result: ProofResult,
    /// Why the plan is not proven, one line.
    pub detail: Option<String>,
}

/// A package in a suite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageName {
    /// `debian`.
    pub distro: String,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// `bookworm-security`.
    pub suite: String,
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
}

impl Store {
    /// All of it. Reads and checks every record; memory grows with the number of builds.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        self.read(|connection| {
            let mut builds = builds(connection)?;
            let sql = "SELECT build_id, distro, release, suite, package, version FROM packages";
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let package = PackageName {
                    distro: row.get(1)?,
                    release: row.get(2)?,
                    suite: row.get(3)?,
                    package: row.get(4)?,
                    version: row.get(5)?,
                };
                // One that refers to a build that is not there is told by `Store::check`.
                if let Some(held) = builds.get_mut(&required(row, 0)?) {
                    held.packages.insert(package);
                }
            }
            Ok(Inventory {
                builds,
                failures: read::failures(connection)?,
                sources: read::sources(connection)?,
            })
        })
    }
}

fn builds(connection: &Connection) -> rusqlite::Result<BTreeMap<BuildId, Held>> {
    let sql = "SELECT build_id, record, input_key, analyzer, builds.signature IS NOT NULL, proof \
               FROM builds LEFT JOIN proofs USING (build_id)";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut builds = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let record =
            Record::parse_canonical(row.get_ref(1)?.as_blob()?).map_err(|error| wrong(1, error))?;
        let body: Option<Vec<u8>> = row.get(2)?;
        let proof: Option<Vec<u8>> = row.get(5)?;
        let proof = proof.map(|bytes| Proof::parse_canonical(&bytes)).transpose();
        let proof = proof.map_err(|error| wrong(5, error))?.map(|proof| HeldProof {
            result: proof.result,
            detail: proof.detail.and_then(|text| text.lines().next().map(str::to_owned)),
        });
        let held = Held {
            reason: record.reason,
            detail: record.detail,
            analyzer: row.get(3)?,
            body: body.map(HexBytes),
            attaches: record.plan.map(attaches),
            signed: row.get(4)?,
            proof,
            packages: BTreeSet::new(),
        };
        builds.insert(required(row, 0)?, held);
    }
    Ok(builds)
}

/// Of all that the client acts on.
fn attaches(mut plan: Plan) -> [u8; 32] {
    plan.evidence.runs = 0;
    plan.evidence.rule_drops = 0;
    plan.evidence.policy_drops = 0;
    plan.evidence.edges = crate::Share::of(0, 1);
    plan.evidence.analyzer.clear();
    plan.layout.offsets.remove(fields::POLICY_TO_CHAIN);
    Sha256::digest(Record::resolved(plan).to_bytes()).into()
}
