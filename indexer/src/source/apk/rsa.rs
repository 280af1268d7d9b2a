//! RSA public keys in PEM, as apk's key files have them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The algorithm that a public key in DER begins with: RSA, without parameters.
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// Why a file is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RSA public key in PEM: {0}")]
pub struct RsaKeyError(&'static str);

/// Modulus and exponent of the key in a file, in DER (PKCS #1).
pub(super) fn modulus_and_exponent(pem: &[u8]) -> Result<Vec<u8>, RsaKeyError> {
    let text = std::str::from_utf8(pem).map_err(|_| RsaKeyError("it is no text"))?;
    let block = text
        .split_once("-----BEGIN PUBLIC KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"));
    let (block, _) = block.ok_or(RsaKeyError("it has no block PUBLIC KEY"))?;
    let text: String = block.split_whitespace().collect();
    let der = STANDARD.decode(text).map_err(|_| RsaKeyError("its block is not base64"))?;
    let key = public_key(&der).ok_or(RsaKeyError("its block is not an RSA key in DER"))?;
    Ok(key.to_vec())
}

/// Modulus and exponent in a public key (X.509's `SubjectPublicKeyInfo`).
fn public_key(der: &[u8]) -> Option<&[u8]> {
    let (key, _) = element(der, 0x30)?;
    element(key.strip_prefix(RSA)?, 0x03)?.0.strip_prefix(&[0])
}

/// The content of the DER element that `bytes` begins with, if it is of this type, and what is behind it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
