//! Signatures of records, made where records are stored, so that what serves them holds no key.
//!
//! A signature is the text of a minisign file (<https://jedisct1.github.io/minisign/>), which anybody
//! can check with minisign alone. The store has no key to check it with; it knows what such a file looks
//! like, and that its trusted comment names the build, so what was mixed up is found without one.

use super::{Store, StoreError, proofs};
use crate::{BuildId, Proof, Record};
use rusqlite::{Connection, params};
use std::fmt;

/// Longest signature stored, in bytes: four lines, two of them comments.
pub const MAX_SIGNATURE: usize = 1024;
/// Records that are read and signed at a time.
const PAGE: usize = 500;

/// Signs records as they are stored.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The signature over exactly these bytes, with this trusted comment, as it is handed out: the text
    /// of a minisign file. The same bytes have the same signature every time.
    fn sign(&self, trusted_comment: &str, bytes: &[u8]) -> String;
}

/// What the signature of a record says that it is of, as its trusted comment. It is signed too.
pub fn plan_comment(build_id: &BuildId) -> String {
    format!("nfdrop plan of build {build_id}")
}

/// The same of a proof.
pub fn proof_comment(build_id: &BuildId) -> String {
    format!("nfdrop proof of build {build_id}")
}

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

/// Notes this signature, unless the record is no longer the one that was signed. That counts as a write
/// to the build: servers that keep signatures, and static copies, have to notice.
pub(super) fn put_signature(
    connection: &Connection,
    id: &str,
    record: &[u8],
    signature: &str,
) -> rusqlite::Result<usize> {
    let sql = "UPDATE builds SET signature = ?3, \
               changed = (SELECT coalesce(max(changed), 0) + 1 FROM builds) \
               WHERE build_id = ?1 AND record = ?2";
    connection.prepare_cached(sql)?.execute(params![id, record, signature])
}

/// What is wrong with a signature that has to have this trusted comment, as far as can be told without the key.
pub(super) fn problem(comment: &str, signature: &str) -> Option<&'static str> {
    let base64 = |line: &str, len: usize| {
        let digits = line.trim_end_matches('=');
        let padding = line.len() - digits.len();
        let bytes = line.len() / 4 * 3 - padding.min(2);
        line.len().is_multiple_of(4)
            && bytes == len
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    };
    let malformed = Some("is not the text of a minisign signature");
    if signature.len() > MAX_SIGNATURE || !signature.ends_with('\n') {
        return malformed;
    }
    let lines: Vec<&str> = signature.lines().collect();
    let [untrusted, key_and_signature, trusted, global] = lines[..] else { return malformed };
    // `ED`, in base64: the prehashed form, which is the only one that minisign makes today.
    let prehashed = key_and_signature.starts_with("RU");
    let is_signature = untrusted.starts_with("untrusted comment: ")
        && prehashed
        && base64(key_and_signature, 2 + 8 + 64)
        && base64(global, 64);
    if !is_signature {
        return malformed;
    }
    let says = trusted.strip_prefix("trusted comment: ");
    (says != Some(comment)).then_some("says that it is of something else")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> BuildId {
        BuildId::from_bytes(&[1; 20]).unwrap()
    }

    fn text() -> String {
        let first = format!("RUQ{}=", "a".repeat(96));
        let last = format!("{}==", "b".repeat(86));
        format!("untrusted comment: a\n{first}\ntrusted comment: {}\n{last}\n", plan_comment(&id()))
    }

    #[test]
    fn a_signature_is_four_lines_and_names_its_build() {
        assert_eq!(problem(&plan_comment(&id()), &text()), None);
        let other = BuildId::from_bytes(&[2; 20]).unwrap();
        assert_eq!(
            problem(&plan_comment(&other), &text()),
            Some("says that it is of something else")
        );
        let malformed = [
            String::new(),
            text().trim_end().to_owned(),
            text() + "more\n",
            text().replace("RUQ", "RWQ"),
            text().replace('=', ""),
            text().replace("bb", "b-"),
            text().replace("bbbb", ""),
            text().replace("untrusted", "trusted"),
            text().replace("comment: a", &"a".repeat(MAX_SIGNATURE)),
        ];
        for text in malformed {
            let says = problem(&plan_comment(&id()), &text);
            assert_eq!(says, Some("is not the text of a minisign signature"), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_told(text in any::<String>(), at in 0..300_usize, with in "\\PC{0,3}") {
            let _ = problem(&plan_comment(&id()), &text);
            let mut near = super::tests::text();
            if near.is_char_boundary(at) && at < near.len() {
                near.replace_range(at..=at, &with);
                let _ = problem(&plan_comment(&id()), &near);
            }
        }
    }
}
