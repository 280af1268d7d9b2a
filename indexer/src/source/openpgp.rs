//! Clear-signed files (InRelease) and detached signatures (repomd.xml.asc, those in rpms) against the
//! keys that are trusted.
//!
//! One good signature by a known, valid key is enough, as for apt: Debian signs with several keys
//! so that older and newer machines each know one. Valid means valid when the signature was made
//! **and** at the time of the check: who holds an expired or revoked key can date a signature back.
//! There is no clock in here, the time is passed in.

use sequoia_openpgp::{
    self as openpgp, Cert, Fingerprint, KeyHandle, anyhow,
    cert::{
        CertParser,
        amalgamation::{ValidAmalgamation as _, ValidateAmalgamation as _},
    },
    parse::{
        Parse as _,
        stream::{
            DetachedVerifierBuilder, GoodChecksum, MessageLayer, MessageStructure,
            VerificationError, VerificationHelper, VerifierBuilder,
        },
    },
    policy::StandardPolicy,
    types::RevocationStatus,
};
use std::{
    io::{self, Read},
    time::SystemTime,
};

/// Longest message looked at, in bytes. Debian's largest InRelease is below 1 MiB.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Longest detached signature looked at, in bytes: a few hundred a key.
pub const MAX_SIGNATURE: usize = 1 << 20;

/// How a clear-signed message begins.
const BEGIN: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    certs: Vec<Cert>,
    only: Vec<String>,
    revoked: Vec<String>,
}

/// What was signed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Only what the signature covers: nothing around it, without dash escapes.
    pub text: Vec<u8>,
    /// Of the certificate that signed, upper-case hex.
    pub signed_by: String,
}

/// Why a message is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Longer than [`MAX_MESSAGE`] or [`MAX_SIGNATURE`].
    #[error("a signed file or signature has at most {max} bytes, found {found}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Not signed.
    #[error("the file has no OpenPGP signature")]
    NoSignature,
    /// What was signed cannot be read.
    #[error("what is signed cannot be read: {0}")]
    Read(String),
    /// Signed in form only.
    #[error("the OpenPGP message is malformed: {0}")]
    Malformed(String),
    /// No key of the keyring made any of the signatures.
    #[error("signed by unknown keys only: {}; expected one of {known} known keys", issuers.join(", "))]
    UnknownKey {
        /// Fingerprints or key ids, upper-case hex.
        issuers: Vec<String>,
        /// How many keys the keyring has.
        known: usize,
    },
    /// The key is or was not valid any more.
    #[error("signed by {key}, which has expired: {detail}")]
    Expired {
        /// Fingerprint of the certificate.
        key: String,
        /// When.
        detail: String,
    },
    /// The key was revoked.
    #[error("signed by {key}, which is revoked")]
    Revoked {
        /// Fingerprint of the certificate.
        key: String,
    },
    /// The signature or the key rests on a broken algorithm.
    #[error("signed by {key} in a way that is not secure any more: {detail}")]
    Weak {
        /// Fingerprint of the certificate.
        key: String,
        /// The algorithm.
        detail: String,
    },
    /// The text is not what was signed.
    #[error("the signature by {key} does not fit the text: {detail}")]
    Bad {
        /// Fingerprint of the certificate.
        key: String,
        /// What did not fit.
        detail: String,
    },
}

/// Why a keyring is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an OpenPGP keyring: {0}")]
pub struct KeyringError(String);

impl Keyring {
    /// Adds the certificates of a keyring, binary or armored. Those that cannot be understood
    /// (newer algorithms) are left out; a file without any certificate is refused.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), KeyringError> {
        let before = self.certs.len();
        let mut problem = "it is empty".to_owned();
        let parser = CertParser::from_bytes(bytes).map_err(|e| KeyringError(e.to_string()))?;
        for cert in parser {
            match cert {
                Ok(cert) => self.certs.push(cert),
                Err(error) => problem = error.to_string(),
            }
        }
        if self.certs.len() == before { Err(KeyringError(problem)) } else { Ok(()) }
    }

    /// Accepts signatures by these keys only, upper-case hex fingerprints of certificates or of
    /// their signing keys. None: by all.
    #[must_use]
    pub fn only(mut self, fingerprints: &[String]) -> Self {
        self.only = fingerprints.to_vec();
        self
    }

    /// Takes signatures by these certificates as by revoked ones, upper-case hex fingerprints: whoever
    /// maintains the keyring withdrew them, and their owners may not have.
    pub fn revoke(&mut self, fingerprints: impl IntoIterator<Item = String>) {
        self.revoked.extend(fingerprints);
    }

    /// How many certificates there are.
    pub fn len(&self) -> usize {
        self.certs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.certs.is_empty()
    }

    /// The signed text of `message`, if one of these keys made a good signature that holds at `now`.
    pub fn verify(&self, message: &[u8], now: SystemTime) -> Result<Signed, SignatureError> {
        if message.len() > MAX_MESSAGE {
            return Err(SignatureError::TooLong { found: message.len(), max: MAX_MESSAGE });
        }
        // Other kinds of OpenPGP messages would be understood below but are not what apt reads.
        if !message.starts_with(BEGIN) {
            return Err(SignatureError::NoSignature);
        }
        let policy = StandardPolicy::at(now);
        let mut outcome = None;
        let helper = Helper { keyring: self, policy: &policy, now, outcome: &mut outcome };
        let mut text = Vec::new();
        let read = VerifierBuilder::from_bytes(message)
            .and_then(|builder| builder.with_policy(&policy, now, helper))
            .and_then(|mut verifier| Ok(verifier.read_to_end(&mut text)?));
        match (read, outcome) {
            (_, Some(Err(error))) => Err(error),
            (Ok(_), Some(Ok(signed_by))) => Ok(Signed { text, signed_by }),
            (Err(error), _) => Err(SignatureError::Malformed(error.to_string())),
            (Ok(_), None) => Err(SignatureError::NoSignature),
        }
    }

    /// The certificate, by its fingerprint in upper-case hex, whose key made a good signature of all
    /// that `data` has, if it holds at `now`. The signature may be armored, and may be several one
    /// after the other, of which one good one is enough.
    pub fn verify_detached(
        &self,
        signature: &[u8],
        data: impl Read + Send + Sync,
        now: SystemTime,
    ) -> Result<String, SignatureError> {
        if signature.len() > MAX_SIGNATURE {
            return Err(SignatureError::TooLong { found: signature.len(), max: MAX_SIGNATURE });
        }
        let policy = StandardPolicy::at(now);
        let (mut outcome, mut failure) = (None, None);
        let helper = Helper { keyring: self, policy: &policy, now, outcome: &mut outcome };
        let data = Watched { reader: data, failure: &mut failure };
        let read = DetachedVerifierBuilder::from_bytes(signature)
            .and_then(|builder| builder.with_policy(&policy, now, helper))
            .and_then(|mut verifier| verifier.verify_reader(data));
        match (read, outcome) {
            _ if failure.is_some() => Err(SignatureError::Read(failure.unwrap_or_default())),
            (_, Some(outcome)) => outcome,
            (Err(error), None) => Err(SignatureError::Malformed(error.to_string())),
            (Ok(()), None) => Err(SignatureError::NoSignature),
        }
    }
}

/// Keeps what is wrong with a file, which the library takes for a malformed message.
struct Watched<'a, R> {
    reader: R,
    failure: &'a mut Option<String>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader.read(out).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                *self.failure = Some(error.to_string());
            }
        })
    }
}

/// What stands in a clear-signed message, whoever signed it: the lines between its headers and the
/// signature, without dash escapes. All of what is no such message.
pub fn clear_text(message: &[u8]) -> Vec<u8> {
    const SIGNATURE: &[u8] = b"-----BEGIN PGP SIGNATURE-----";
    if !message.starts_with(BEGIN) {
        return message.to_vec();
    }
    let lines = message.split_inclusive(|c| *c == b'\n');
    let text = lines.skip_while(|line| !line.trim_ascii().is_empty()).skip(1);
    let text = text.take_while(|line| !line.starts_with(SIGNATURE));
    text.flat_map(|line| line.strip_prefix(b"- ").unwrap_or(line)).copied().collect()
}

struct Helper<'a> {
    keyring: &'a Keyring,
    policy: &'a StandardPolicy<'a>,
    now: SystemTime,
    outcome: &'a mut Option<Result<String, SignatureError>>,
}

impl VerificationHelper for Helper<'_> {
    fn get_certs(&mut self, ids: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        let wanted = |cert: &&Cert| {
            cert.keys().any(|key| ids.iter().any(|id| id.aliases(key.key().key_handle())))
        };
        Ok(self.keyring.certs.iter().filter(wanted).cloned().collect())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let mut unknown = Vec::new();
        let mut worst: Option<SignatureError> = None;
        for layer in structure {
            let MessageLayer::SignatureGroup { results } = layer else {
                *self.outcome = Some(Err(SignatureError::NoSignature));
                return Err(anyhow::anyhow!("not a clear signature"));
            };
            for result in results {
                let error = match result.map_err(failure).and_then(|good| self.holds_now(&good)) {
                    Ok(signed_by) => {
                        *self.outcome = Some(Ok(signed_by));
                        return Ok(());
                    }
                    Err(error) => error,
                };
                match error {
                    SignatureError::UnknownKey { issuers, .. } => unknown.extend(issuers),
                    error if worst.as_ref().is_none_or(|w| gravity(&error) > gravity(w)) => {
                        worst = Some(error);
                    }
                    _ => {}
                }
            }
        }
        unknown.sort();
        unknown.dedup();
        let known = self.keyring.certs.len();
        let error = match worst {
            Some(error) => error,
            None if unknown.is_empty() => SignatureError::NoSignature,
            None => SignatureError::UnknownKey { issuers: unknown, known },
        };
        *self.outcome = Some(Err(error));
        Err(anyhow::anyhow!("no signature holds"))
    }
}

impl Helper<'_> {
    /// The library asks whether a key was valid when it signed; this asks again as of now.
    fn holds_now(&self, good: &GoodChecksum<'_>) -> Result<String, SignatureError> {
        let cert = good.ka.cert().fingerprint();
        let key = cert.to_hex();
        let only = &self.keyring.only;
        let signer = good.ka.key().fingerprint().to_hex();
        if !only.is_empty() && !only.contains(&key) && !only.contains(&signer) {
            let known = only.len();
            return Err(SignatureError::UnknownKey { issuers: vec![key], known });
        }
        if self.keyring.revoked.contains(&key) {
            return Err(SignatureError::Revoked { key });
        }
        let refused = |error: anyhow::Error| classify(&cert, &error, false);
        let now = good.ka.clone().with_policy(self.policy, self.now).map_err(refused)?;
        if matches!(
            now.cert().revocation_status(self.policy, self.now),
            RevocationStatus::Revoked(_)
        ) || matches!(now.revocation_status(), RevocationStatus::Revoked(_))
        {
            return Err(SignatureError::Revoked { key });
        }
        now.valid_cert().alive().and_then(|()| now.alive()).map_err(refused)?;
        Ok(key)
    }
}

/// Which failure is told when no signature is good: the one that needs attention most.
fn gravity(error: &SignatureError) -> u8 {
    match error {
        SignatureError::Bad { .. } => 5,
        SignatureError::Revoked { .. } => 4,
        SignatureError::Weak { .. } => 3,
        SignatureError::Expired { .. } => 2,
        _ => 1,
    }
}

fn failure(error: VerificationError<'_>) -> SignatureError {
    match error {
        VerificationError::MissingKey { sig } => {
            // The same key by fingerprint and by key id, the fingerprint first.
            let issuers = sig.get_issuers().first().map(|issuer| format!("{issuer:X}"));
            SignatureError::UnknownKey { issuers: issuers.into_iter().collect(), known: 0 }
        }
        VerificationError::UnboundKey { cert, error, .. } => {
            classify(&cert.fingerprint(), &error, false)
        }
        VerificationError::BadKey { ka, error, .. } => {
            let revoked =
                matches!(ka.valid_cert().revocation_status(), RevocationStatus::Revoked(_))
                    || matches!(ka.revocation_status(), RevocationStatus::Revoked(_));
            classify(&ka.cert().fingerprint(), &error, revoked)
        }
        VerificationError::BadSignature { ka, error, .. } => {
            classify(&ka.cert().fingerprint(), &error, false)
        }
        VerificationError::MalformedSignature { error, .. } => {
            SignatureError::Malformed(error.to_string())
        }
        VerificationError::UnknownSignature { sig } => {
            SignatureError::Malformed(sig.error().to_string())
        }
        other => SignatureError::Malformed(other.to_string()),
    }
}

fn classify(cert: &Fingerprint, error: &anyhow::Error, revoked: bool) -> SignatureError {
    let (key, detail) = (cert.to_hex(), error.root_cause().to_string());
    if revoked {
        return SignatureError::Revoked { key };
    }
    match error.root_cause().downcast_ref::<openpgp::Error>() {
        Some(openpgp::Error::Expired(_)) => SignatureError::Expired { key, detail },
        Some(openpgp::Error::PolicyViolation(..)) => SignatureError::Weak { key, detail },
        _ => SignatureError::Bad { key, detail },
    }
}

#[cfg(test)]
pub(crate) mod tests;
