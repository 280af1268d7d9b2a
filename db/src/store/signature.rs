//! Signatures of records, made where records are stored, so that what serves them holds no key.
//!
//! A signature is the text of a minisign file (<https://jedisct1.github.io/minisign/>), which anybody
//! can check with minisign alone. The store has no key to check it with; it knows what such a file looks
//! like, and that its trusted comment names the build, so what was mixed up is found without one.

use crate::BuildId;
use rusqlite::{Connection, params};
use std::fmt;

/// Longest signature stored, in bytes: four lines, two of them comments.
pub const MAX_SIGNATURE: usize = 1024;

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
