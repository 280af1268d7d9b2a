//! Keys, and the signatures that are made with them where records are stored.
//!
//! Keys and signatures are minisign's, to be used and checked with that program too
//! (<https://jedisct1.github.io/minisign/>). Signatures are made here rather than by its crate: that one
//! mixes random bytes in, and a record that is signed twice with one key, on two machines, or again after
//! a crash, should have the same signature, as it has the same bytes. Ed25519 as it is specified does so.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use blake2::{Blake2b512, Digest as _};
use minisign::{KeyPair, SecretKey, SecretKeyBox};
use nfdrop_db::store::Signer;
use ring::signature::Ed25519KeyPair;
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Longest key file: two lines, one of which is a comment.
const MAX_FILE: u64 = 4096;
/// How minisign marks a signature over the hash of a file.
const PREHASHED: [u8; 2] = *b"ED";
/// Of [`SecretKey::to_bytes`]: algorithms, the salt and cost of the encryption; then the key's id, then
/// the seed and the public key.
const ID: usize = 2 + 2 + 2 + 32 + 8 + 8;
const SEED: usize = ID + 8;
const PUBLIC: usize = SEED + 32;
const END: usize = PUBLIC + 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the secret key {}: {cause}; `nfdrop-indexer keygen` makes one", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is no secret key in the file.
    #[error(
        "{} is no secret key of minisign's ({why}); name the file that `nfdrop-indexer keygen` or \
         `minisign -G` wrote, not the public key",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The password of an encrypted key cannot be had.
    #[error(
        "{} is encrypted, and its password cannot be asked for: {cause}; set NFDROP_SIGN_PASSWORD",
        .path.display()
    )]
    NoPassword {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file of the new pair is there already.
    #[error("{} is there already and is never overwritten; name another file, or move it away", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file of the new pair cannot be written.
    #[error("cannot write {}: {cause}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is no randomness, or not enough memory to encrypt.
    #[error("cannot make a key: {0}")]
    Generate(String),
}

/// A secret key that signs.
pub struct SigningKey {
    key: Ed25519KeyPair,
    id: [u8; 8],
}

impl SigningKey {
    /// Reads a key. `password` is asked where it is encrypted. With it the file's permissions, where
    /// others than its owner may read it.
    pub fn read(
        path: &Path,
        password: impl FnOnce() -> io::Result<String>,
    ) -> Result<(Self, Option<u32>), KeyError> {
        let read = || -> io::Result<(String, u32)> {
            let file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode() & 0o7777;
            let mut text = String::new();
            file.take(MAX_FILE).read_to_string(&mut text)?;
            Ok((text, mode))
        };
        let path = path.to_owned();
        let (text, mode) = match read() {
            Ok(read) => read,
            Err(cause) => return Err(KeyError::Read { path, cause }),
        };
        let boxed = || SecretKeyBox::from(text.clone());
        let key = match boxed().into_unencrypted_secret_key() {
            Ok(key) => key,
            Err(_) if is_encrypted(&text) => {
                let password = match password() {
                    Ok(password) => password,
                    Err(cause) => return Err(KeyError::NoPassword { path, cause }),
                };
                match boxed().into_secret_key(Some(password)) {
                    Ok(key) => key,
                    Err(why) => return Err(KeyError::Malformed { path, why: why.to_string() }),
                }
            }
            Err(why) => return Err(KeyError::Malformed { path, why: why.to_string() }),
        };
        match Self::new(&key) {
            Ok(key) => Ok((key, Some(mode).filter(|mode| mode & 0o077 != 0))),
            Err(why) => Err(KeyError::Malformed { path, why }),
        }
    }

    fn new(key: &SecretKey) -> Result<Self, String> {
        let bytes = key.to_bytes();
        let parts = (bytes.get(ID..SEED), bytes.get(SEED..PUBLIC), bytes.get(PUBLIC..END));
        let (Some(id), Some(seed), Some(public)) = parts else {
            return Err("too short".to_owned());
        };
        let id = id.try_into().map_err(|_| "too short".to_owned())?;
        let key_pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
        let key_pair = key_pair.map_err(|why| why.to_string())?;
        Ok(Self { key: key_pair, id })
    }

    /// As minisign shows it.
    fn id(&self) -> String {
        format!("{:016X}", u64::from_le_bytes(self.id))
    }
}

/// Never with the key itself.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

impl Signer for SigningKey {
    fn sign(&self, comment: &str, record: &[u8]) -> String {
        let signature = self.key.sign(&Blake2b512::digest(record));
        let global = self.key.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let signature = [&PREHASHED[..], &self.id, signature.as_ref()].concat();
        format!(
            "untrusted comment: signature from nfdrop key {}\n{}\ntrusted comment: {comment}\n{}\n",
            self.id(),
            BASE64.encode(signature),
            BASE64.encode(global)
        )
    }
}

/// Whether this is the text of a key that wants a password: minisign's mark of its key derivation.
fn is_encrypted(text: &str) -> bool {
    let key = text.lines().nth(1).and_then(|line| BASE64.decode(line.trim()).ok());
    key.is_some_and(|key| key.len() >= END && key[2..4] == *b"Sc")
}

/// Makes a pair of keys, the secret one encrypted where there is a password, and writes both. Nothing is
/// overwritten, and where one cannot be written the other is not left alone. Returns the public key, as
/// `minisign -P` takes it.
pub fn generate(
    secret: &Path,
    public: &Path,
    password: Option<String>,
) -> Result<String, KeyError> {
    let exists = |path: &&Path| fs::symlink_metadata(path).is_ok();
    if let Some(path) = [secret, public].into_iter().find(exists) {
        return Err(KeyError::Exists { path: path.to_owned() });
    }
    let failed = |why: &dyn fmt::Display| KeyError::Generate(why.to_string());
    let (pair, comment) = match password {
        None => (KeyPair::generate_unencrypted_keypair(), "nfdrop secret key"),
        Some(password) => {
            (KeyPair::generate_encrypted_keypair(Some(password)), "nfdrop encrypted secret key")
        }
    };
    let pair = pair.map_err(|why| failed(&why))?;
    let boxed = pair.sk.to_box(Some(comment)).map_err(|why| failed(&why))?;
    let public_box = pair.pk.to_box().map_err(|why| failed(&why))?;
    write_new(secret, 0o600, &boxed.into_string())?;
    if let Err(error) = write_new(public, 0o644, &public_box.into_string()) {
        // It was made a moment ago, and signs nothing yet.
        let _ = fs::remove_file(secret);
        return Err(error);
    }
    Ok(pair.pk.to_base64())
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(path);
        }
        written
    });
    let path = path.to_owned();
    match written {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeyError::Exists { path })
        }
        Err(cause) => Err(KeyError::Write { path, cause }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisign::{PublicKeyBox, SignatureBox};
    use nfdrop_db::sample;
    use nfdrop_db::{BuildId, store::plan_comment};
    use proptest::prelude::*;

    fn never() -> io::Result<String> {
        Err(io::Error::other("asked for a password"))
    }

    fn id() -> BuildId {
        BuildId::from_bytes(&[1; 20]).unwrap()
    }

    #[test]
    fn the_same_record_has_the_same_signature_and_minisign_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let [secret, public] = ["a.key", "a.pub"].map(|name| folder.path().join(name));
        let printed = generate(&secret, &public, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&secret), 0o600);
        let text = fs::read_to_string(&public).unwrap();
        assert!(text.ends_with(&format!("{printed}\n")), "{text}");
        let (key, open) = SigningKey::read(&secret, never).unwrap();
        assert_eq!(open, None);
        let record = sample::resolved(id()).to_bytes();
        let signature = key.sign(&plan_comment(&id()), &record);
        assert_eq!(
            SigningKey::read(&secret, never).unwrap().0.sign(&plan_comment(&id()), &record),
            signature
        );
        let public = PublicKeyBox::from(text).into_public_key().unwrap();
        let verify = |signature: &str, record: &[u8]| {
            let signature = SignatureBox::from_string(signature).unwrap();
            minisign::verify(&public, &signature, io::Cursor::new(record), true, false, false)
        };
        verify(&signature, &record).unwrap();
        assert!(
            verify(&signature, &sample::resolved("0484cf00".parse().unwrap()).to_bytes()).is_err()
        );
        assert!(verify(&signature.replace("of build 01", "of build 02"), &record).is_err());
        let parsed = SignatureBox::from_string(&signature).unwrap();
        assert_eq!(parsed.trusted_comment().unwrap(), format!("nfdrop plan of build {}", id()));
        assert!(!format!("{key:?}").contains(&fs::read_to_string(&secret).unwrap()[60..80]));
    }

    #[test]
    fn an_encrypted_key_wants_its_password() {
        let folder = tempfile::tempdir().unwrap();
        let [secret, public] = ["a.key", "a.pub"].map(|name| folder.path().join(name));
        generate(&secret, &public, Some("right".to_owned())).unwrap();
        let read = |password: &str| SigningKey::read(&secret, || Ok(password.to_owned()));
        assert!(read("right").is_ok());
        let wrong = read("wrong").unwrap_err().to_string();
        assert!(wrong.contains("Wrong password"), "{wrong}");
        let error = SigningKey::read(&secret, never).unwrap_err();
        assert!(matches!(error, KeyError::NoPassword { .. }), "{error}");
    }

    #[test]
    fn nothing_is_overwritten_and_no_half_of_a_pair_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        generate(&path("a.key"), &path("a.pub"), None).unwrap();
        let before = fs::read(path("a.key")).unwrap();
        for (secret, public, is_there) in [("a.key", "b.pub", "a.key"), ("b.key", "a.pub", "a.pub")]
        {
            let error = generate(&path(secret), &path(public), None).unwrap_err();
            assert!(
                matches!(&error, KeyError::Exists { path: p } if *p == path(is_there)),
                "{error}"
            );
        }
        let error = generate(&path("b.key"), &path("missing/b.pub"), None).unwrap_err();
        assert!(matches!(error, KeyError::Write { .. }), "{error}");
        std::os::unix::fs::symlink(path("nowhere"), path("c.key")).unwrap();
        assert!(generate(&path("c.key"), &path("c.pub"), None).is_err(), "through a link");
        assert_eq!(fs::read(path("a.key")).unwrap(), before);
        let left: std::collections::BTreeSet<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["a.key", "a.pub", "c.key"].map(Into::into).into());
    }

    #[test]
    fn what_is_no_key_is_said_and_open_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let [secret, public] = ["a.key", "a.pub"].map(|name| folder.path().join(name));
        generate(&secret, &public, None).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(SigningKey::read(&secret, never).unwrap().1, Some(0o640));
        let error = SigningKey::read(&public, never).unwrap_err();
        assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
        let error = SigningKey::read(&folder.path().join("b.key"), never).unwrap_err();
        assert!(matches!(error, KeyError::Read { .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A damaged key is refused: it is never signed with another one than was made.
        #[test]
        fn a_damaged_key_is_refused(at in 0..280_usize, with in "[ -~\n]") {
            static PAIR: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
                let key = KeyPair::generate_unencrypted_keypair().unwrap().sk;
                key.to_box(Some("a")).unwrap().into_string()
            });
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            let mut text = PAIR.clone();
            fs::write(&path, &text).unwrap();
            let (whole, _) = SigningKey::read(&path, never).unwrap();
            let at = at % text.len();
            text.replace_range(at..=at, &with);
            fs::write(&path, &text).unwrap();
            if let Ok((damaged, _)) = SigningKey::read(&path, never) {
                prop_assert_eq!(whole.sign("a", b"a"), damaged.sign("a", b"a"));
            }
        }
    }
}
