//! apk's keys and signatures: RSA over the compressed bytes, with keys that are named by their files.
//!
//! A signature names its key and its hash: `RSA.<key>` is SHA-1, `RSA256.<key>` SHA-256. Alpine makes the
//! former to this day. SHA-1 is broken where a signer can be brought to sign what an attacker wrote, so
//! such a signature counts only where the catalogue's entry says `weak = true`, and whatever it vouches
//! for is marked: the key's name has ` (SHA-1)` behind it in every record.

use super::rsa::{RsaKeyError, modulus_and_exponent};
use crate::{
    package::apk::Signature,
    source::keys::{KeyFiles, LoadKeysError, read_file},
};
use nfdrop_db::hex;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaParameters, UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};
use std::{fs, path::Path};

/// Most keys; a folder of Alpine's has 20.
const MAX_KEYS: usize = 1000;
/// What the names of key files end with.
const SUFFIX: &str = ".rsa.pub";
/// The keys whose signatures count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<Key>,
    weak: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// The file's name, which signatures call it by.
    name: String,
    /// Modulus and exponent, in DER (PKCS #1).
    der: Vec<u8>,
}

/// Why a package or index is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApkSignatureError {
    /// There is no signature.
    #[error("the file is not signed")]
    Missing,
    /// No known key is said to have made any of the signatures.
    #[error("signed by unknown keys only: {}; expected one of {known} known keys", names.join(", "))]
    UnknownKey {
        /// Names of keys.
        names: Vec<String>,
        /// How many keys are known.
        known: usize,
    },
    /// The signature is good, and rests on a broken hash.
    #[error(
        "signed by {key} with SHA-1, which is not secure any more; `weak = true` in the catalogue's \
         entry lets it in, and marks it"
    )]
    Weak {
        /// The key's name.
        key: String,
    },
    /// The bytes are not what was signed.
    #[error("the signature by {key} does not fit the file")]
    Bad {
        /// The key's name.
        key: String,
    },
}

impl Keys {
    /// The keys in files and folders. `weak`: signatures with SHA-1 count.
    pub fn load(files: &KeyFiles, root: &Path, weak: bool) -> Result<Self, LoadKeysError> {
        let mut keys = Self { keys: Vec::new(), weak };
        let mut missing = None;
        for path in &files.files {
            let path = root.join(path.strip_prefix("/").unwrap_or(path));
            let mut paths = vec![path.clone()];
            if path.is_dir() {
                let error = |error| LoadKeysError::Read { path: path.clone(), error };
                let entries = fs::read_dir(&path).map_err(error)?.take(MAX_KEYS);
                paths = entries.flatten().map(|entry| entry.path()).collect();
                paths.retain(|path| path.to_string_lossy().ends_with(SUFFIX));
                paths.sort();
            }
            for path in paths {
                match read_file(&path) {
                    Ok(pem) => keys
                        .add(&path.file_name().unwrap_or_default().to_string_lossy(), &pem)
                        .map_err(|error| LoadKeysError::Rsa { path, error })?,
                    Err(error) => missing = missing.or(Some(error)),
                }
            }
        }
        if !files.fingerprints.is_empty() {
            keys.keys.retain(|key| files.fingerprints.contains(&key.fingerprint()));
        }
        match missing {
            Some(error) if keys.keys.is_empty() => Err(error),
            _ if keys.keys.is_empty() => Err(LoadKeysError::NoRsa),
            _ => Ok(keys),
        }
    }

    /// Adds a key under the name that signatures call it by.
    pub fn add(&mut self, name: &str, pem: &[u8]) -> Result<(), RsaKeyError> {
        let der = modulus_and_exponent(pem)?;
        self.keys.push(Key { name: name.to_owned(), der });
        Ok(())
    }

    /// The name of the key that made a good signature of these bytes, marked if it is a weak one.
    pub fn verify(
        &self,
        signatures: &[Signature],
        signed: &[u8],
    ) -> Result<String, ApkSignatureError> {
        let (mut unknown, mut good, mut weak, mut bad) = (Vec::new(), None, None, None);
        for Signature { name, bytes } in signatures {
            let (kind, key) = name.split_once('.').unwrap_or((name, ""));
            let (parameters, is_weak): (&RsaParameters, bool) = match kind {
                "RSA" => (&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, true),
                "RSA256" => (&RSA_PKCS1_2048_8192_SHA256, false),
                "RSA512" => (&RSA_PKCS1_2048_8192_SHA512, false),
                _ => {
                    unknown.push(name.clone());
                    continue;
                }
            };
            let mut known = self.keys.iter().filter(|known| known.name == key).peekable();
            if known.peek().is_none() {
                unknown.push(key.to_owned());
                continue;
            }
            let holds = |key: &Key| {
                UnparsedPublicKey::new(parameters, &key.der).verify(signed, bytes).is_ok()
            };
            let key = key.to_owned();
            if !known.any(holds) {
                bad = Some(ApkSignatureError::Bad { key });
            } else if !is_weak {
                good = Some(key);
            } else if self.weak {
                weak = Some(Ok(format!("{key} (SHA-1)")));
            } else {
                weak = Some(Err(ApkSignatureError::Weak { key }));
            }
        }
        // A signature that does not fit needs attention even where another one does.
        if let Some(bad) = bad {
            return Err(bad);
        }
        if let Some(outcome) = good.map(Ok).or(weak) {
            return outcome;
        }
        if unknown.is_empty() {
            return Err(ApkSignatureError::Missing);
        }
        unknown.sort();
        unknown.dedup();
        Err(ApkSignatureError::UnknownKey { names: unknown, known: self.keys.len() })
    }
}

impl Key {
    /// SHA-256 of the key in DER, upper-case hex.
    fn fingerprint(&self) -> String {
        hex::encode(&Sha256::digest(&self.der)).to_ascii_uppercase()
    }
}

#[cfg(test)]
pub(in crate::source) mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use std::slice::from_ref;

    pub(in crate::source) const NAME: &str = "builder@mirror.example-1.rsa.pub";
    /// Of a key that was thrown away.
    pub(in crate::source) const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsMa+9Go5JjWsOx1ZI/fF\n\
        FmZrhmHuXqt7D++00DGrpMNBu6E2UXxSjq0sW1MOSpyoyHPF5lahI0MQfe3yyd26\n\
        ho+qKQMtCWzKBtMTDHMdEUtgg9pzLueygwJjD0BAf1K4AgWzSxrorVKJT2BtWUNM\n\
        v/tlbtOIu35onr8sKxE6FJAYsin93XgKgDaNt2RZ/9Qq4faqcu2ilnVTlwgpW0mQ\n\
        47JpcVBfIegIdma48X4MMC5xlZu7B/z9xdUQvq4Px91byJ8gd+EtbMX+TUFoX1Jh\n\
        O3XCssnAbPB1twW/vNKyoYYx8LHRJm5VVqjSRV3XZe712GvqpqENBN7+2U1ASMOw\n\
        nwIDAQAB\n\
        -----END PUBLIC KEY-----\n";
    const ECDSA: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGyNS2DCWUH7oV1mwPmF1n1/AlGjz\n\
        pMgIeGZTyZzJA72PMNnhnyE98rF7fNxoixm9GJMqGkjOz2aaBbxorfyeTQ==\n\
        -----END PUBLIC KEY-----\n";
    /// Of `signed`, with SHA-1 and with SHA-256, by `openssl dgst -sign`.
    const SHA1: &str = "k/xapQEYD9OCxDGcllMnYOwAjchixNO/x0KDv4qVdo5j2TuagHomEm+PgwDVFvyPGccgi0qnO2Qz+272\
        9VCUmgo9vdm34yz7CWdpnKVe/+lVlYOEl10f4PNoUtkusZLGb2ZF/tJvIYgiF1DS2O5v0y7L7ruFCe6J\
        tCRhsYtlUWYAFp2jAbtek7ZRKhRXwaBT+ZAWBcLHR2rbakHGDdGcML5Q6q42pAq0JE6kdZ/bI0xd3ymd\
        KncaZovoKl0/nnM+Nuo7mLlZvVFaJ4Lior+hEoxDHeQSgCFaOgmlL5ca3N9oWJ2Q+lyYvUrg44Oz4F1U\
        9uceF66PaC9rAr5x2xYEwQ==";
    const SHA256: &str = "BR4GWWQ4XDFi8EHacm9+AKix5AYNZofqGaQQKsVqDb3LtT9HwYpZZK/ydkxbEx83XfE59XvSZLvG+eLX\
        DHPiBCvAMh9JNW2SUMyMXi1ic8fOrCI2qrga+LmLTfE8LwIfdnRmhExhY4piMlFHL6116SDaYzlR5OTy\
        1M3STOXCxO+e6Ufufw0pT5s+lDvoGdWaKrCZTNWkYNpCVvPIKAH41FnrwaZLQ/BXXdTTiuM9SL+EBPeh\
        +Vq9za0HkVwaWRW+V4dkjcpQW2PD9yj3lsS8S4cLy1My+aGGJKPo8+4R7We10IuS3rrsF9lSs0xIEs8J\
        hiww3E8eyEkcpWwWAcQACg==";

    fn signature(kind: &str, name: &str, base64: &str) -> Signature {
        Signature { name: format!("{kind}.{name}"), bytes: STANDARD.decode(base64).unwrap() }
    }

    fn keys(weak: bool) -> Keys {
        let mut keys = Keys { weak, ..Keys::default() };
        keys.add(NAME, KEY.as_bytes()).unwrap();
        keys
    }

    #[test]
    fn signatures_are_told_apart() {
        let strong = signature("RSA256", NAME, SHA256);
        let weak = signature("RSA", NAME, SHA1);
        let other = signature("RSA256", "other.rsa.pub", SHA256);
        let (strict, lax) = (keys(false), keys(true));
        assert_eq!(strict.verify(&[other.clone(), strong.clone()], b"signed").unwrap(), NAME);
        let marked = lax.verify(from_ref(&weak), b"signed").unwrap();
        assert_eq!(marked, "builder@mirror.example-1.rsa.pub (SHA-1)");
        // The better one of two counts.
        assert_eq!(lax.verify(&[weak.clone(), strong.clone()], b"signed").unwrap(), NAME);
        let wrong_kind = signature("RSA", NAME, SHA256);
        let errors = [
            strict.verify(from_ref(&weak), b"signed"),
            strict.verify(from_ref(&strong), b"sealed"),
            lax.verify(from_ref(&weak), b"sealed"),
            lax.verify(&[wrong_kind, strong.clone()], b"signed"),
            lax.verify(&[Signature { bytes: Vec::new(), ..strong.clone() }], b"signed"),
            lax.verify(&[other, signature("DSA", NAME, SHA1)], b"signed"),
            lax.verify(&[], b"signed"),
        ];
        let errors = errors.map(|error| error.unwrap_err().to_string());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        signed by builder@mirror.example-1.rsa.pub with SHA-1, which is not secure any more; `weak = true` in the catalogue's entry lets it in, and marks it
        the signature by builder@mirror.example-1.rsa.pub does not fit the file
        the signature by builder@mirror.example-1.rsa.pub does not fit the file
        the signature by builder@mirror.example-1.rsa.pub does not fit the file
        the signature by builder@mirror.example-1.rsa.pub does not fit the file
        signed by unknown keys only: DSA.builder@mirror.example-1.rsa.pub, other.rsa.pub; expected one of 1 known keys
        the file is not signed
        "#);
    }

    #[test]
    fn other_files_are_no_keys() {
        let short = KEY.replace("MIIB", "MIIC");
        let cases = [
            &b"\xff"[..],
            b"",
            ECDSA.as_bytes(),
            short.as_bytes(),
            b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----",
        ];
        let errors = cases.map(|case| Keys::default().add(NAME, case).unwrap_err().to_string());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        not an RSA public key in PEM: it is no text
        not an RSA public key in PEM: it has no block PUBLIC KEY
        not an RSA public key in PEM: its block is not an RSA key in DER
        not an RSA public key in PEM: its block is not an RSA key in DER
        not an RSA public key in PEM: its block is not base64
        "#);
    }

    #[test]
    fn keys_are_read_from_files_and_folders() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("keys");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(NAME), KEY).unwrap();
        fs::write(folder.join("README"), "no key").unwrap();
        let files = |files: &[&str], fingerprints: &[String]| KeyFiles {
            files: files.iter().map(Into::into).collect(),
            fingerprints: fingerprints.to_vec(),
            embedded: None,
        };
        let load = |files: &KeyFiles| Keys::load(files, root.path(), false);
        let file = format!("/keys/{NAME}");
        for paths in [&["/keys"][..], &["/nowhere", &file]] {
            assert_eq!(load(&files(paths, &[])).unwrap(), keys(false));
        }
        let fingerprint = keys(false).keys[0].fingerprint();
        assert!(load(&files(&["/keys"], &[fingerprint])).is_ok());
        let errors = [
            load(&files(&["/keys"], &["00".to_owned()])),
            load(&files(&["/nowhere"], &[])),
            load(&files(&["/keys/README"], &[])),
        ];
        let errors = errors.map(|error| error.unwrap_err().to_string());
        let errors = errors.join("\n").replace(&*root.path().to_string_lossy(), "ROOT");
        insta::assert_snapshot!(errors, @r#"
        no RSA key found; name the files that the distribution has in /etc/apk/keys, or a folder with them, in the catalogue or with --keyring
        the keyring ROOT/nowhere cannot be read: No such file or directory (os error 2)
        ROOT/keys/README: not an RSA public key in PEM: it has no block PUBLIC KEY
        "#);
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let mut pem = KEY.as_bytes().to_vec();
            for (place, value) in flips {
                let place = place.index(pem.len());
                pem[place] = value;
            }
            let mut keys = Keys::default();
            if keys.add(NAME, &pem).is_ok() {
                let _ = keys.verify(&[signature("RSA256", NAME, SHA256)], b"signed");
            }
        }
    }
}
