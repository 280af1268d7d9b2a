//! Signatures inside an rpm. There are two kinds: over the package's header alone, which has a digest
//! of the archive since rpm 4.14, and over header and archive together, which older packages need.
//! Only what covers the archive counts here, because the kernel is in it.
//!
//! A key signs many packages, so an unsigned index could name one and lead to another: what a package
//! says of itself, which is signed, has to be what the index says.

use crate::{
    package::rpm::{HeaderError, Headers, RpmError, tag},
    source::{
        kernel::PackageRef,
        openpgp::{Keyring, SignatureError},
        version::Version,
    },
};
use base64::Engine as _;
use nfdrop_db::hex;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::{
    io::{self, BufReader, Read},
    time::SystemTime,
};

/// Pieces the archive is hashed in.
const PIECE: usize = 64 << 10;
/// Most signatures of one kind that are looked at.
const MAX_SIGNATURES: usize = 16;
/// OpenPGP's numbers of hash functions, which rpm uses too.
const SHA256: u64 = 8;
const SHA384: u64 = 9;
const SHA512: u64 = 10;

/// Why a package is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum RpmSignatureError {
    /// It cannot be read.
    #[error(transparent)]
    Package(#[from] RpmError),
    /// Nobody signed it.
    #[error("the rpm is not signed")]
    Unsigned,
    /// The signature does not count.
    #[error("the rpm: {0}")]
    Signature(#[from] SignatureError),
    /// A header that has been changed or damaged.
    #[error("the rpm's header has SHA-256 {found}, expected {expected}")]
    Header {
        /// As it says.
        expected: String,
        /// As it is.
        found: String,
    },
    /// An archive that has been changed or damaged.
    #[error("the rpm's archive has the digest {found}, expected {expected}, which is signed")]
    Archive {
        /// As the signed header says.
        expected: String,
        /// As it is.
        found: String,
    },
    /// The signature is over the header, which says nothing of the archive.
    #[error("only the rpm's header is signed, and it has no digest of the archive")]
    HeaderOnly,
    /// A good signature on another package.
    #[error("the rpm is {found}, expected {expected}")]
    Other {
        /// As the index says.
        expected: String,
        /// As the package says.
        found: String,
    },
    /// The digest of the archive is of a kind that does not count.
    #[error(
        "the rpm's header has a digest of the archive in hash function {0}, expected SHA-256, \
         SHA-384 or SHA-512"
    )]
    Digest(u64),
}

impl From<HeaderError> for RpmSignatureError {
    fn from(error: HeaderError) -> Self {
        Self::Package(RpmError::Header { which: "header", error })
    }
}

/// The certificate, by its fingerprint in upper-case hex, that vouches at `now` for a whole rpm and for
/// its being this package. Reads all of it once.
pub fn check(
    reader: impl Read + Send + Sync,
    package: &PackageRef,
    keyring: &Keyring,
    now: SystemTime,
) -> Result<String, RpmSignatureError> {
    let mut reader = BufReader::new(reader);
    let headers = Headers::read(&mut reader)?;
    let signed_by = verify_rest(&headers, reader, keyring, now)?;
    let (version, found) = identity(&headers)?;
    let expected = format!("{} {} {}", package.name, package.version, package.arch);
    let text = format!("{} {version} {}", found.0, found.1);
    if (found.0, found.1) != (&package.name, &package.arch) || version != package.version {
        return Err(RpmSignatureError::Other { expected, found: text });
    }
    Ok(signed_by)
}

/// The version, and name and architecture.
fn identity(headers: &Headers) -> Result<(Version, (&str, &str)), RpmSignatureError> {
    let text = |tag| Ok::<_, HeaderError>(headers.main.string(tag)?.unwrap_or_default());
    let epoch = headers.main.numbers(tag::EPOCH)?.and_then(|epoch| epoch.first().copied());
    let epoch = epoch.filter(|epoch| *epoch != 0).map(|epoch| format!("{epoch}:"));
    let (version, release) = (text(tag::VERSION)?, text(tag::RELEASE)?);
    let version = Version::rpm(format!("{}{version}-{release}", epoch.unwrap_or_default()));
    Ok((version, (text(tag::NAME)?, text(tag::ARCH)?)))
}

/// The certificate, by its fingerprint in upper-case hex, that vouches for a whole rpm at `now`,
/// whichever package it is. Reads all of it once.
pub fn verify(
    reader: impl Read + Send + Sync,
    keyring: &Keyring,
    now: SystemTime,
) -> Result<String, RpmSignatureError> {
    let mut reader = BufReader::new(reader);
    let headers = Headers::read(&mut reader)?;
    verify_rest(&headers, reader, keyring, now)
}

fn verify_rest(
    headers: &Headers,
    mut reader: impl Read + Send + Sync,
    keyring: &Keyring,
    now: SystemTime,
) -> Result<String, RpmSignatureError> {
    let header = headers.main.raw();
    if let Some(expected) = headers.signatures.string(tag::SIGNATURE_SHA256)? {
        let found = hex::encode(&Sha256::digest(header));
        if !expected.eq_ignore_ascii_case(&found) {
            return Err(RpmSignatureError::Header { expected: expected.to_owned(), found });
        }
    }
    let digest = ArchiveDigest::of(headers)?;
    let (of_header, of_all) = (of_header(headers)?, of_all(headers)?);
    let mut refused = None;
    for signature in &of_header {
        match (keyring.verify_detached(signature, header, now), &digest) {
            (Ok(signed_by), Some(digest)) => {
                digest.check(&mut reader)?;
                return Ok(signed_by);
            }
            (Ok(_), None) => {}
            (Err(error), _) => refused = refused.or(Some(error)),
        }
    }
    // What several of these are worth is one question, since the archive is read once.
    let together = of_all.concat();
    if !together.is_empty() {
        return Ok(keyring.verify_detached(&together, header.chain(reader), now)?);
    }
    Err(match refused {
        Some(error) => error.into(),
        None if of_header.is_empty() => RpmSignatureError::Unsigned,
        None => RpmSignatureError::HeaderOnly,
    })
}

/// Signatures over the header.
fn of_header(headers: &Headers) -> Result<Vec<Vec<u8>>, RpmSignatureError> {
    let mut signatures = Vec::new();
    for text in headers.signatures.strings(tag::SIGNATURE_OPENPGP)?.unwrap_or_default() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        let malformed = |error: base64::DecodeError| SignatureError::Malformed(error.to_string());
        signatures.push(decoded.map_err(malformed)?);
        if signatures.len() == MAX_SIGNATURES {
            break;
        }
    }
    signatures.extend(binary(headers, [tag::SIGNATURE_RSA, tag::SIGNATURE_DSA])?);
    Ok(signatures)
}

/// Signatures over header and archive.
fn of_all(headers: &Headers) -> Result<Vec<Vec<u8>>, RpmSignatureError> {
    binary(headers, [tag::SIGNATURE_PGP, tag::SIGNATURE_GPG])
}

fn binary(headers: &Headers, tags: [u32; 2]) -> Result<Vec<Vec<u8>>, RpmSignatureError> {
    let mut signatures = Vec::new();
    for tag in tags {
        signatures.extend(headers.signatures.bytes(tag)?.map(<[u8]>::to_vec));
    }
    Ok(signatures)
}

/// The digest of the archive as it is in the file.
struct ArchiveDigest {
    expected: String,
    hash: u64,
}

impl ArchiveDigest {
    fn of(headers: &Headers) -> Result<Option<Self>, RpmSignatureError> {
        let Some(expected) = headers.main.string(tag::PAYLOAD_DIGEST)? else { return Ok(None) };
        let hash = headers.main.numbers(tag::PAYLOAD_DIGEST_HASH)?.unwrap_or_default();
        let hash = hash.first().copied().unwrap_or(SHA256);
        if !matches!(hash, SHA256 | SHA384 | SHA512) {
            return Err(RpmSignatureError::Digest(hash));
        }
        Ok(Some(Self { expected: expected.to_ascii_lowercase(), hash }))
    }

    fn check(&self, reader: &mut impl Read) -> Result<(), RpmSignatureError> {
        let found = match self.hash {
            SHA512 => digest::<Sha512>(reader),
            SHA384 => digest::<Sha384>(reader),
            _ => digest::<Sha256>(reader),
        };
        let (expected, found) = (self.expected.clone(), found.map_err(RpmError::from)?);
        if found == expected { Ok(()) } else { Err(RpmSignatureError::Archive { expected, found }) }
    }
}

fn digest<D: sha2::Digest>(reader: &mut impl Read) -> io::Result<String> {
    let (mut hash, mut piece) = (D::new(), vec![0; PIECE]);
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(hex::encode(&hash.finalize())),
            Ok(read) => hash.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        package::rpm::tests::{HeaderBuilder, rpm},
        source::openpgp::tests::{at, key, keyring, sign_detached},
    };
    use sequoia_openpgp::{Cert, types::HashAlgorithm};

    const ARCHIVE: &[u8] = b"an archive";

    fn plain() -> HeaderBuilder {
        HeaderBuilder::default().string(tag::NAME, "kernel-core")
    }

    /// With a digest of the archive.
    fn covering() -> HeaderBuilder {
        let digest = hex::encode(&Sha256::digest(ARCHIVE));
        plain()
            .strings(tag::PAYLOAD_DIGEST, &[&digest])
            .numbers(tag::PAYLOAD_DIGEST_HASH, &[SHA256 as u32])
    }

    fn sign(data: &[u8], cert: &Cert) -> Vec<u8> {
        sign_detached(data, &[cert], at(-1), HashAlgorithm::SHA256)
    }

    #[test]
    fn another_package_by_the_same_key_is_told() {
        let cert = key(1000);
        let ring = keyring(&[&cert]);
        let main = covering()
            .string(tag::VERSION, "6.8.5")
            .string(tag::RELEASE, "301.fc40")
            .numbers(tag::EPOCH, &[2])
            .string(tag::ARCH, "x86_64");
        let signature = sign(&main.build(), &cert);
        let rpm =
            rpm(&HeaderBuilder::default().bytes(tag::SIGNATURE_RSA, &signature), &main, ARCHIVE);
        let package = |name: &str, version: &str, arch: &str| PackageRef {
            name: name.to_owned(),
            version: Version::rpm(version),
            arch: arch.to_owned(),
            size: None,
            sha256: None,
            depends: String::new(),
            listings: Vec::new(),
        };
        let check = |package: &PackageRef| {
            check(&rpm[..], package, &ring, at(0)).map_err(|error| error.to_string())
        };
        let good = package("kernel-core", "2:6.8.5-301.fc40", "x86_64");
        assert_eq!(check(&good), Ok(cert.fingerprint().to_hex()));
        let others = [
            package("kernel", "2:6.8.5-301.fc40", "x86_64"),
            package("kernel-core", "6.8.5-301.fc40", "x86_64"),
            package("kernel-core", "2:6.8.6-301.fc40", "x86_64"),
            package("kernel-core", "2:6.8.5-301.fc40", "aarch64"),
        ];
        let errors = others.map(|package| check(&package).unwrap_err());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        the rpm is kernel-core 2:6.8.5-301.fc40 x86_64, expected kernel 2:6.8.5-301.fc40 x86_64
        the rpm is kernel-core 2:6.8.5-301.fc40 x86_64, expected kernel-core 6.8.5-301.fc40 x86_64
        the rpm is kernel-core 2:6.8.5-301.fc40 x86_64, expected kernel-core 2:6.8.6-301.fc40 x86_64
        the rpm is kernel-core 2:6.8.5-301.fc40 x86_64, expected kernel-core 2:6.8.5-301.fc40 aarch64
        "#);
    }

    #[test]
    fn what_covers_the_archive_counts() {
        let (cert, other) = (key(1000), key(1000));
        let ring = keyring(&[&cert]);
        let check = |signatures: HeaderBuilder, main: HeaderBuilder, archive: &[u8]| {
            verify(&rpm(&signatures, &main, archive)[..], &ring, at(0))
                .map_err(|error| error.to_string())
        };
        let (covering, plain, none) = (covering(), plain(), HeaderBuilder::default());
        let header = sign(&covering.build(), &cert);
        let by_other = sign(&covering.build(), &other);
        let all = sign(&[&plain.build(), ARCHIVE].concat(), &cert);
        let text = base64::engine::general_purpose::STANDARD.encode(&header);
        let text_other = base64::engine::general_purpose::STANDARD.encode(&by_other);
        let fingerprint = cert.fingerprint().to_hex();
        let good = [
            (none.clone().bytes(tag::SIGNATURE_RSA, &header), &covering),
            (none.clone().bytes(tag::SIGNATURE_DSA, &header), &covering),
            (none.clone().strings(tag::SIGNATURE_OPENPGP, &[&text_other, &text]), &covering),
            (none.clone().bytes(tag::SIGNATURE_PGP, &all), &plain),
            (none.clone().bytes(tag::SIGNATURE_GPG, &all), &plain),
        ];
        for (signatures, main) in &good {
            let signed_by = check(signatures.clone(), (*main).clone(), ARCHIVE);
            assert_eq!(signed_by, Ok(fingerprint.clone()));
            assert!(check(signatures.clone(), (*main).clone(), b"another").is_err());
        }
        let header_of_plain = sign(&plain.build(), &cert);
        let sha1 = covering.clone().numbers(9999, &[2]);
        let weak = plain.clone().strings(tag::PAYLOAD_DIGEST, &["00"]);
        let weak = weak.numbers(tag::PAYLOAD_DIGEST_HASH, &[2]);
        let cases = [
            check(none.clone(), covering.clone(), ARCHIVE),
            check(none.clone().bytes(tag::SIGNATURE_RSA, &header_of_plain), plain.clone(), ARCHIVE),
            check(none.clone().bytes(tag::SIGNATURE_RSA, &header), covering.clone(), b"another"),
            check(none.clone().string(tag::SIGNATURE_SHA256, "00"), plain, ARCHIVE),
            check(none.clone().bytes(tag::SIGNATURE_RSA, b"x"), weak, ARCHIVE),
            check(none.clone().strings(tag::SIGNATURE_OPENPGP, &["?"]), covering.clone(), ARCHIVE),
        ];
        let cases: Vec<_> = cases.into_iter().map(Result::unwrap_err).collect();
        insta::assert_snapshot!(cases.join("\n"), @r#"
        the rpm is not signed
        only the rpm's header is signed, and it has no digest of the archive
        the rpm's archive has the digest ae448ac86c4e8e4dec645729708ef41873ae79c6dff84eff73360989487f08e5, expected 9e691d5adacf0e102f203100842ffaba4e2a7dfe3dbd536827d3c0db8c7e88f1, which is signed
        the rpm's header has SHA-256 3fd256d3a07d48590a67bf595d01d025984d91d696aa6f381b04a0a923997d72, expected 00
        the rpm's header has a digest of the archive in hash function 2, expected SHA-256, SHA-384 or SHA-512
        the rpm: the OpenPGP message is malformed: Invalid symbol 63, offset 0.
        "#);
        for (signatures, main) in [
            (none.clone().bytes(tag::SIGNATURE_RSA, &header), sha1),
            (none.clone().bytes(tag::SIGNATURE_RSA, &by_other), covering),
        ] {
            let error = verify(&rpm(&signatures, &main, ARCHIVE)[..], &ring, at(0)).unwrap_err();
            assert!(matches!(error, RpmSignatureError::Signature(_)), "{error}");
        }
    }
}
