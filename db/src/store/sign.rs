//! Signs what is stored already: a key that is new, or that another one replaces.

use super::{
    Signer, Store, StoreError, proofs,
    signature::{plan_comment, proof_comment, put_signature},
};
use crate::{Proof, Record};
use rusqlite::Connection;

/// Records that are read and signed at a time.
const PAGE: usize = 500;

/// How much was looked at and signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signed {
    /// Builds looked at.
    pub builds: u64,
    /// Those that had no signature, or not this key's.
    pub signed: u64,
    /// Those whose record is damaged, which nobody should vouch for. They stay as they are.
    pub damaged: u64,
    /// Proofs that had no signature, or not this key's.
    pub proofs: u64,
}

impl Store {
    /// Signs what is stored without a signature, or with another than the key of [`Store::signing`]
    /// makes; without a key, nothing. A page is one transaction: stopped in between, a part of it is
    /// done, and doing it again does the rest. `progress` is told after every page.
    pub fn sign_stored(&self, mut progress: impl FnMut(Signed)) -> Result<Signed, StoreError> {
        let mut done = Signed::default();
        let Some(signer) = self.signer() else { return Ok(done) };
        let mut last = String::new();
        loop {
            let page = self.read(|connection| page(connection, &last))?;
            let Some((id, ..)) = page.last() else { break };
            last.clone_from(id);
            let mut new = Vec::new();
            for (id, record, signature) in page {
                done.builds += 1;
                match Record::parse_canonical(&record) {
                    Ok(parsed) if parsed.build_id.to_string() == id => {
                        let text = signer.sign(&plan_comment(&parsed.build_id), &record);
                        if signature.as_ref() != Some(&text) {
                            new.push((id, record, text));
                        }
                    }
                    _ => done.damaged += 1,
                }
            }
            if !new.is_empty() {
                done.signed += self.write(|connection| {
                    new.iter().try_fold(0, |count, (id, record, signature)| {
                        Ok(count + put_signature(connection, id, record, signature)? as u64)
                    })
                })?;
            }
            progress(done);
        }
        self.sign_proofs(signer, &mut done)?;
        Ok(done)
    }

    fn sign_proofs(&self, signer: &dyn Signer, done: &mut Signed) -> Result<(), StoreError> {
        let mut last = String::new();
        loop {
            let page = self.read(|connection| proofs::page(connection, &last, PAGE))?;
            let Some((id, ..)) = page.last() else { return Ok(()) };
            last.clone_from(id);
            let mut new = Vec::new();
            for (id, bytes, signature) in page {
                match Proof::parse_canonical(&bytes) {
                    Ok(proof) if proof.build_id.to_string() == id => {
                        let text = signer.sign(&proof_comment(&proof.build_id), &bytes);
                        if signature.as_ref() != Some(&text) {
                            new.push((id, bytes, text));
                        }
                    }
                    _ => done.damaged += 1,
                }
            }
            if !new.is_empty() {
                done.proofs += self.write(|connection| {
                    new.iter().try_fold(0, |count, (id, proof, signature)| {
                        Ok(count + proofs::put_signature(connection, id, proof, signature)? as u64)
                    })
                })?;
            }
        }
    }
}

/// Build-id, record and signature.
type Row = (String, Vec<u8>, Option<String>);

fn page(connection: &Connection, after: &str) -> rusqlite::Result<Vec<Row>> {
    let sql = "SELECT build_id, record, signature FROM builds WHERE build_id > ?1 \
               ORDER BY build_id LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement
        .query_map((after, PAGE as i64), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
