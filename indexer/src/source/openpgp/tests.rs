use super::*;
use openpgp::{
    cert::CertBuilder,
    serialize::{
        Serialize as _,
        stream::{Message, Signer},
    },
    types::HashAlgorithm,
};
use std::{
    io::Write as _,
    time::{Duration, UNIX_EPOCH},
};

const DAY: u64 = 86_400;
const TEXT: &str = "Origin: Debian\n- dashed\nSHA256:\n x\n";

/// 2026-11-23 and so many days.
pub(crate) fn at(days: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((20_780 + days) as u64 * DAY)
}

/// A key made 100 days ago, valid for that many days.
pub(crate) fn key(valid: u64) -> Cert {
    let builder = CertBuilder::general_purpose(Some("Archive <archive@mirror.example>"));
    let builder = builder
        .set_creation_time(at(-100))
        .set_validity_period(Some(Duration::from_secs(valid * DAY)));
    builder.generate().unwrap().0
}

pub(crate) fn keyring(certs: &[&Cert]) -> Keyring {
    let mut bytes = Vec::new();
    for cert in certs {
        cert.serialize(&mut bytes).unwrap();
    }
    let mut keyring = Keyring::default();
    keyring.add(&bytes).unwrap();
    keyring
}

fn sign_with(text: &str, certs: &[&Cert], when: SystemTime, hash: HashAlgorithm) -> Vec<u8> {
    let policy = StandardPolicy::at(when);
    let mut signers = certs.iter().map(|cert| {
        let keys = cert.keys().unencrypted_secret().with_policy(&policy, when);
        let key = keys.supported().for_signing().next().unwrap();
        key.key().clone().into_keypair().unwrap()
    });
    let mut message = Vec::new();
    let sink = Message::new(&mut message);
    let mut signer = Signer::new(sink, signers.next().unwrap()).unwrap();
    for other in signers {
        signer = signer.add_signer(other).unwrap();
    }
    let signer = signer.cleartext().creation_time(when).hash_algo(hash).unwrap();
    let mut signer = signer.build().unwrap();
    signer.write_all(text.as_bytes()).unwrap();
    signer.finalize().unwrap();
    message
}

/// A binary detached signature by all of these keys.
pub(crate) fn sign_detached(
    data: &[u8],
    certs: &[&Cert],
    when: SystemTime,
    hash: HashAlgorithm,
) -> Vec<u8> {
    let policy = StandardPolicy::at(when);
    let mut message = Vec::new();
    for cert in certs {
        let keys = cert.keys().unencrypted_secret().with_policy(&policy, when);
        let key = keys.supported().for_signing().next().unwrap();
        let pair = key.key().clone().into_keypair().unwrap();
        let signer = Signer::new(Message::new(&mut message), pair).unwrap();
        let signer = signer.detached().creation_time(when).hash_algo(hash).unwrap();
        let mut signer = signer.build().unwrap();
        signer.write_all(data).unwrap();
        signer.finalize().unwrap();
    }
    message
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

#[test]
fn a_keyring_may_withdraw_a_key_that_its_owner_did_not() {
    let cert = key(1000);
    let good = sign_detached(b"data", &[&cert], at(-1), HashAlgorithm::SHA256);
    let mut keyring = keyring(&[&cert]);
    let fingerprint = cert.fingerprint().to_hex();
    assert_eq!(keyring.verify_detached(&good, &b"data"[..], at(0)), Ok(fingerprint.clone()));
    keyring.revoke([fingerprint.clone()]);
    let error = keyring.verify_detached(&good, &b"data"[..], at(0)).unwrap_err();
    assert_eq!(error, SignatureError::Revoked { key: fingerprint });
}

#[test]
fn detached_signatures_are_told_apart() {
    let (cert, other) = (key(1000), key(1000));
    let good = sign_detached(b"data", &[&cert], at(-1), HashAlgorithm::SHA256);
    let keyring = keyring(&[&cert]);
    let verify =
        |signature: &[u8], data: &[u8], day| keyring.verify_detached(signature, data, at(day));
    assert_eq!(verify(&good, b"data", 0), Ok(cert.fingerprint().to_hex()));
    let both = sign_detached(b"data", &[&other, &cert], at(-1), HashAlgorithm::SHA512);
    assert_eq!(verify(&both, b"data", 0), Ok(cert.fingerprint().to_hex()));
    let weak = sign_detached(b"data", &[&cert], at(-1), HashAlgorithm::SHA1);
    let unknown = sign_detached(b"data", &[&other], at(-1), HashAlgorithm::SHA512);
    let expected = |error: &SignatureError| match error {
        SignatureError::Bad { .. } => "bad",
        SignatureError::Weak { .. } => "weak",
        SignatureError::Expired { .. } => "expired",
        SignatureError::UnknownKey { .. } => "unknown",
        SignatureError::Malformed(_) | SignatureError::NoSignature => "none",
        SignatureError::TooLong { .. } => "long",
        _ => "other",
    };
    for (case, signature, data, day) in [
        ("bad", &good[..], &b"date"[..], 0),
        ("weak", &weak, b"data", 0),
        ("expired", &good, b"data", 2000),
        ("unknown", &unknown, b"data", 0),
        ("none", b"", b"data", 0),
        ("none", b"no signature", b"data", 0),
        ("long", &vec![0; MAX_SIGNATURE + 1], b"data", 0),
    ] {
        let error = verify(signature, data, day).unwrap_err();
        assert_eq!(expected(&error), case, "{error}");
    }
    let broken = keyring.verify_detached(&good, Broken, at(0));
    assert_eq!(broken, Err(SignatureError::Read("broken".to_owned())));
}

pub(crate) fn sign(text: &str, certs: &[&Cert]) -> Vec<u8> {
    sign_with(text, certs, at(-1), HashAlgorithm::SHA512)
}

fn refused(keyring: &Keyring, message: &[u8]) -> SignatureError {
    keyring.verify(message, at(0)).unwrap_err()
}

#[test]
fn a_good_signature_gives_what_was_signed() {
    let cert = key(1000);
    let around = [b"".as_slice(), &sign(TEXT, &[&cert]), b"Origin: Evil\n"].concat();
    let signed = keyring(&[&key(1000), &cert]).verify(&around, at(0)).unwrap();
    assert_eq!(String::from_utf8(signed.text).unwrap().trim_end(), TEXT.trim_end());
    assert_eq!(signed.signed_by, cert.fingerprint().to_hex());
}

#[test]
fn one_known_signer_of_several_is_enough() {
    let (old, new) = (key(1000), key(1000));
    let message = sign(TEXT, &[&old, &new]);
    for known in [&old, &new] {
        let signed = keyring(&[known]).verify(&message, at(0)).unwrap();
        assert_eq!(signed.signed_by, known.fingerprint().to_hex());
    }
    let SignatureError::UnknownKey { issuers, known: 1 } = refused(&keyring(&[&key(9)]), &message)
    else {
        panic!("expected UnknownKey")
    };
    assert_eq!(issuers.len(), 2);
}

#[test]
fn an_entry_may_name_one_key_of_a_keyring() {
    let (one, other) = (key(1000), key(1000));
    let message = sign(TEXT, &[&one]);
    let both = || keyring(&[&one, &other]);
    assert!(both().only(&[one.fingerprint().to_hex()]).verify(&message, at(0)).is_ok());
    let error = refused(&both().only(&[other.fingerprint().to_hex()]), &message);
    assert!(matches!(error, SignatureError::UnknownKey { .. }), "{error}");
}

#[test]
fn a_key_has_to_be_valid_now_too() {
    // Signed a day before now; expires in the middle of now and then.
    let cert = key(100);
    let message = sign_with(TEXT, &[&cert], at(-50), HashAlgorithm::SHA512);
    let keyring = keyring(&[&cert]);
    assert!(keyring.verify(&message, at(-1)).is_ok());
    let error = keyring.verify(&message, at(1)).unwrap_err();
    assert!(matches!(&error, SignatureError::Expired { .. }), "{error}");
    // Made before the key was, or in the future.
    assert!(keyring.verify(&message, at(-60)).is_err());
}

#[test]
fn a_revoked_key_does_not_count() {
    let builder = CertBuilder::general_purpose(Some("x")).set_creation_time(at(-100));
    let (cert, revocation) = builder.generate().unwrap();
    let message = sign(TEXT, &[&cert]);
    assert!(keyring(&[&cert]).verify(&message, at(0)).is_ok());
    let (revoked, _) = cert.insert_packets(vec![openpgp::Packet::from(revocation)]).unwrap();
    let error = refused(&keyring(&[&revoked]), &message);
    assert!(matches!(error, SignatureError::Revoked { .. }), "{error}");
    // A good signature beside it does.
    let good = key(1000);
    let both = sign(TEXT, &[&revoked_signer(&revoked), &good]);
    assert!(keyring(&[&revoked, &good]).verify(&both, at(0)).is_ok());
}

/// The certificate without its revocation, so that it can sign.
fn revoked_signer(cert: &Cert) -> Cert {
    let keep = |packet: &openpgp::Packet| {
        !matches!(packet, openpgp::Packet::Signature(sig)
            if sig.typ() == openpgp::types::SignatureType::KeyRevocation)
    };
    Cert::from_packets(cert.clone().into_tsk().into_packets().filter(keep)).unwrap()
}

#[test]
fn a_sha1_signature_does_not_count() {
    let cert = key(1000);
    let message = sign_with(TEXT, &[&cert], at(-1), HashAlgorithm::SHA1);
    let error = refused(&keyring(&[&cert]), &message);
    assert!(matches!(error, SignatureError::Weak { .. }), "{error}");
}

#[test]
fn altered_text_is_noticed() {
    let cert = key(1000);
    let message = String::from_utf8(sign(TEXT, &[&cert])).unwrap();
    let altered = message.replace("Origin: Debian", "Origin: Debiam");
    assert_ne!(altered, message);
    let error = refused(&keyring(&[&cert]), altered.as_bytes());
    assert!(matches!(error, SignatureError::Bad { .. }), "{error}");
}

#[test]
fn what_is_not_signed_is_refused() {
    let cert = key(1000);
    let keyring = keyring(&[&cert]);
    let message = sign(TEXT, &[&cert]);
    let only_text = message.split(|c| *c == b'\n').take(4).collect::<Vec<_>>().join(&b'\n');
    for case in [&b""[..], TEXT.as_bytes(), &only_text, &message[..message.len() / 2]] {
        let error = refused(&keyring, case);
        let expected = matches!(error, SignatureError::NoSignature | SignatureError::Malformed(_));
        assert!(expected, "{error}");
    }
    let long = vec![b'-'; MAX_MESSAGE + 1];
    assert!(matches!(refused(&keyring, &long), SignatureError::TooLong { .. }));
    assert!(Keyring::default().add(b"no key").is_err());
    assert!(Keyring::default().add(b"").is_err());
}
