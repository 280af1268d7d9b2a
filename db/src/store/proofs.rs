//! Proofs, each of the record that is stored, and the packages that a kernel is made of, from which it is booted.

use super::{
    Package, Store, StoreError,
    column::{optional, required},
    signature::proof_comment,
    valid::{check_sha256, check_text},
};
use crate::{BuildId, Proof, ProofResult};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// A proof as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProof {
    /// The canonical bytes.
    pub bytes: Vec<u8>,
    /// The signature over exactly these; `None` where it was stored without a key.
    pub signature: Option<String>,
}

/// A build with a plan, which can be proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provable {
    /// Its identity.
    pub build_id: BuildId,
    /// Distribution and release of the kernels that it is known as, sorted.
    pub kernels: Vec<(String, String)>,
    /// What its proof comes to, where there is one.
    pub proof: Option<ProofResult>,
}

/// The packages that a kernel is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSet {
    /// In the order of their names.
    pub packages: Vec<SetPackage>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPackage {
    /// Its name.
    pub name: String,
    /// Where indices have listed it.
    pub urls: Vec<String>,
    /// Lower-case hex; `None`: no index says it, and it was not fetched.
    pub sha256: Option<String>,
}

impl Store {
    /// Stores a proof, in one transaction that is on disk when this returns, in place of the one before.
    pub fn put_proof(&self, proof: &Proof) -> Result<(), StoreError> {
        let bytes = proof.to_bytes();
        let subject = format!("the proof of build {}", proof.build_id);
        let invalid = |field, expected, found: String| StoreError::Invalid {
            subject: subject.clone(),
            field,
            expected,
            found,
        };
        Proof::parse_canonical(&bytes)
            .map_err(|error| invalid("the proof", "a valid one", error.to_string()))?;
        let signature = self.sign_bytes(&proof_comment(&proof.build_id), &bytes);
        let found = self.write(|connection| {
            let found = stored_sha256(connection, &proof.build_id)?;
            if found.as_deref() == Some(&proof.plan_sha256.0) {
                put(connection, proof, signature.as_deref())?;
            }
            Ok(found)
        })?;
        match found {
            Some(found) if found == proof.plan_sha256.0 => Ok(()),
            Some(found) => {
                let expected = "the SHA-256 of the record that is stored";
                Err(invalid("plan_sha256", expected, crate::hex::encode(&found)))
            }
            None => Err(invalid("build_id", "a build that is stored", "none".to_owned())),
        }
    }

    /// The proof of a build's record.
    pub fn proof(&self, build_id: &BuildId) -> Result<Option<StoredProof>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT proof, signature FROM proofs WHERE build_id = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let row = statement.query_row([build_id.to_string()], |row| {
                Ok(StoredProof { bytes: row.get(0)?, signature: row.get(1)? })
            });
            row.optional()
        })
    }

    /// Every build with a plan, by build-id.
    pub fn provable(&self) -> Result<Vec<Provable>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT build_id, result FROM builds LEFT JOIN proofs USING (build_id) \
                 WHERE status = 'resolved' ORDER BY build_id",
            )?;
            let mut kernels = connection.prepare_cached(
                "SELECT DISTINCT distro, release FROM packages WHERE build_id = ?1 ORDER BY 1, 2",
            )?;
            let mut all = Vec::new();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let build_id: BuildId = required(row, 0)?;
                let proof = optional(row, 1)?;
                let kernels = kernels
                    .query_map([build_id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                all.push(Provable { build_id, kernels, proof });
            }
            Ok(all)
        })
    }

    /// The builds whose kernels contradict their plans, and what was seen instead.
    pub fn contradicted(&self) -> Result<Vec<(BuildId, String)>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT build_id, proof FROM proofs WHERE result = 'contradicted' ORDER BY build_id",
            )?;
            let mut all = Vec::new();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                // A damaged one is told by `Store::check`.
                if let Ok(proof) = Proof::parse_canonical(row.get_ref(1)?.as_blob()?) {
                    all.push((required(row, 0)?, proof.detail.unwrap_or_default()));
                }
            }
            Ok(all)
        })
    }

    /// The packages of the kernels that hold a build: one set for each kernel, those that are signed and were
    /// read whole first.
    pub fn package_sets(&self, build_id: &BuildId) -> Result<Vec<PackageSet>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT set_sha256, min(package), min(url), min(sha256) FROM packages WHERE build_id = ?1 \
                 GROUP BY set_sha256 \
                 ORDER BY min(signed_by IS NULL), min(transport_only), set_sha256",
            )?;
            let mut sets = Vec::new();
            let mut rows = statement.query([build_id.to_string()])?;
            while let Some(row) = rows.next()? {
                let set: String = row.get(0)?;
                let mut packages = packages(connection, &set)?;
                // What an older version of this program stored, where one package is all of it.
                if packages.is_empty() && !set.contains(' ') {
                    let (name, url) = (row.get(1)?, row.get(2)?);
                    packages.push(SetPackage { name, urls: vec![url], sha256: row.get(3)? });
                }
                if !packages.is_empty() {
                    sets.push(PackageSet { packages });
                }
            }
            Ok(sets)
        })
    }
}

fn packages(connection: &Connection, set: &str) -> rusqlite::Result<Vec<SetPackage>> {
    let sql = "SELECT package, url, sha256 FROM set_packages WHERE set_sha256 = ?1 ORDER BY 1, 2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([set])?;
    let mut all: BTreeMap<String, SetPackage> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (name, url): (String, String) = (row.get(0)?, row.get(1)?);
        let sha256: Option<String> = row.get(2)?;
        let package = all.entry(name.clone()).or_insert_with(|| SetPackage {
            name,
            urls: Vec::new(),
            sha256: None,
        });
        package.urls.push(url);
        package.sha256 = package.sha256.take().or(sha256);
    }
    Ok(all.into_values().collect())
}

/// Of the record that is stored, with a plan or without.
fn stored_sha256(connection: &Connection, build_id: &BuildId) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT record FROM builds WHERE build_id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let row = statement.query_row([build_id.to_string()], |row| {
        Ok(Sha256::digest(row.get_ref(0)?.as_blob()?).to_vec())
    });
    row.optional()
}

/// That counts as a write to the build: servers and static copies have to notice.
fn put(connection: &Connection, proof: &Proof, signature: Option<&str>) -> rusqlite::Result<()> {
    let id = proof.build_id.to_string();
    let (plan, result) = (&proof.plan_sha256.0, proof.result.name());
    connection
        .prepare_cached("INSERT OR REPLACE INTO proofs VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id, plan, result, proof.to_bytes(), signature])?;
    touch(connection, &id)
}

fn touch(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE builds SET changed = (SELECT coalesce(max(changed), 0) + 1 FROM builds) \
               WHERE build_id = ?1";
    connection.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

/// Notes this signature, unless the proof is no longer the one that was signed.
pub(super) fn put_signature(
    connection: &Connection,
    id: &str,
    proof: &[u8],
    signature: &str,
) -> rusqlite::Result<usize> {
    let sql = "UPDATE proofs SET signature = ?3 WHERE build_id = ?1 AND proof = ?2";
    let put = connection.prepare_cached(sql)?.execute(params![id, proof, signature])?;
    if put > 0 {
        touch(connection, id)?;
    }
    Ok(put)
}

/// Removes a build's proof where that is not of its record.
pub(super) fn forget_stale(connection: &Connection, build_id: &BuildId) -> rusqlite::Result<()> {
    let found = stored_sha256(connection, build_id)?;
    let sql = "DELETE FROM proofs WHERE build_id = ?1 AND plan_sha256 IS NOT ?2";
    connection.prepare_cached(sql)?.execute(params![build_id.to_string(), found])?;
    Ok(())
}

/// Of two proofs of one record the one that stays: of the newer scenario, then the one that is worse news of the
/// plan; the rest only makes the order total.
fn rank<'a>(proof: &'a Proof, bytes: &'a [u8], signature: Option<&'a str>) -> impl Ord + use<'a> {
    let result = match proof.result {
        ProofResult::NotBootable => 0,
        ProofResult::Proven => 1,
        ProofResult::Contradicted => 2,
    };
    (proof.scenario, result, bytes, signature)
}

/// A proof of another database: stays where it is of the record here, and of the higher rank.
pub(super) fn put_merged(
    connection: &Connection,
    proof: &Proof,
    signature: Option<&str>,
) -> rusqlite::Result<()> {
    if stored_sha256(connection, &proof.build_id)?.as_deref() != Some(&proof.plan_sha256.0) {
        return Ok(());
    }
    let sql = "SELECT proof, signature FROM proofs WHERE build_id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let known = statement.query_row([proof.build_id.to_string()], |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<String>>(1)?))
    });
    let new = proof.to_bytes();
    if let Some((bytes, known)) = known.optional()?
        // A damaged one ranks lowest.
        && let Ok(old) = Proof::parse_canonical(&bytes)
        && rank(&old, &bytes, known.as_deref()) >= rank(proof, &new, signature)
    {
        return Ok(());
    }
    put(connection, proof, signature)
}

/// Notes where the packages of a set are.
pub(super) fn put_set(
    connection: &Connection,
    set: &str,
    packages: &[Package],
) -> rusqlite::Result<()> {
    for Package { name, url, sha256, .. } in packages {
        put_set_package(connection, set, name, url, sha256.as_deref())?;
    }
    Ok(())
}

pub(super) fn put_set_package(
    connection: &Connection,
    set: &str,
    name: &str,
    url: &str,
    sha256: Option<&str>,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO set_packages VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET \
               sha256 = coalesce(max(sha256, excluded.sha256), sha256, excluded.sha256)";
    connection.prepare_cached(sql)?.execute(params![set, name, url, sha256])?;
    Ok(())
}

/// A row of `set_packages` of another database.
pub(super) struct SetRow {
    set: String,
    name: String,
    url: String,
    sha256: Option<String>,
}

pub(super) fn set_rows(connection: &Connection) -> rusqlite::Result<Vec<SetRow>> {
    let sql = "SELECT set_sha256, package, url, sha256 FROM set_packages";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| {
        Ok(SetRow { set: row.get(0)?, name: row.get(1)?, url: row.get(2)?, sha256: row.get(3)? })
    };
    statement.query_map([], row)?.collect()
}

impl SetRow {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let subject = format!("the set of package {}", self.name);
        for (field, text) in
            [("set_sha256", &self.set), ("package", &self.name), ("url", &self.url)]
        {
            check_text(&subject, field, text)?;
        }
        self.sha256.as_ref().map_or(Ok(()), |hash| check_sha256(&subject, "sha256", hash))
    }

    pub(super) fn put(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Self { set, name, url, sha256 } = self;
        put_set_package(connection, set, name, url, sha256.as_deref())
    }
}

/// Build-id, proof and signature.
type ProofRow = (String, Vec<u8>, Option<String>);

/// Proofs, by build-id; at most `limit` behind `after`.
pub(super) fn page(
    connection: &Connection,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<ProofRow>> {
    let sql = "SELECT build_id, proof, signature FROM proofs WHERE build_id > ?1 \
               ORDER BY build_id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement
        .query_map((after, limit as i64), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
