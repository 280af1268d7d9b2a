//! `nfdrop-indexer keygen`, `nfdrop-indexer sign`, and the key of the commands that store.

use super::{ERROR, put, say};
use anyhow::{Context as _, bail};
use nfdrop_db::{
    Store,
    store::{Signed, Signer},
};
use nfdrop_indexer::signing::{self, SigningKey};
use std::{
    env, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the password of an encrypted key is taken from, where it cannot be asked for.
const PASSWORD: &str = "NFDROP_SIGN_PASSWORD";

/// Make a pair of keys to sign plans with
///
/// The pair is minisign's: the program `minisign` can use it too. The secret key is readable by its owner
/// only and, unless --password is given, not encrypted: crawls sign at night, with nobody there to ask.
/// Servers need neither. Nothing is overwritten.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nfdrop-indexer keygen
  nfdrop-indexer keygen /etc/nfdrop/plans.key --password

Then:
  nfdrop-indexer crawl --db nfdrop.sqlite --sign-key nfdrop.key
  nfdrop-client --pubkey nfdrop.pub
  minisign -V -p nfdrop.pub -m plan -x plan.minisig

Environment:
  NFDROP_SIGN_PASSWORD  the password, instead of asking for it")]
pub(super) struct KeygenArgs {
    /// Secret key
    #[arg(value_name = "FILE", default_value = "nfdrop.key")]
    secret: PathBuf,
    /// Public key, to be given to clients [default: FILE with the ending .pub]
    #[arg(long, value_name = "FILE")]
    pubkey: Option<PathBuf>,
    /// Encrypt the secret key with a password
    #[arg(long)]
    password: bool,
}

/// Sign what a database holds, where it is not signed with this key
///
/// The commands that store do the same at their end; this is for a database that was filled without a
/// key, and for a new key. It may be stopped: started again it goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nfdrop-indexer sign --db nfdrop.sqlite --sign-key nfdrop.key

Exit code: 0 everything is signed; 1 error, or a record is damaged and stays as it is.")]
pub(super) struct SignArgs {
    /// The database
    #[arg(long, value_name = "FILE")]
    db: PathBuf,
    /// The secret key, as keygen writes it; NFDROP_SIGN_PASSWORD is its password where it has one
    #[arg(long, value_name = "FILE", env = "NFDROP_SIGN_KEY")]
    sign_key: PathBuf,
}

/// The key of a command that stores.
#[derive(clap::Args)]
pub(super) struct SignKey {
    /// Sign all plans with this secret key, as keygen writes it: those that are stored now, and at the end
    /// those that are there without its signature
    #[arg(long, value_name = "FILE", env = "NFDROP_SIGN_KEY")]
    sign_key: Option<PathBuf>,
}

impl SignKey {
    /// The database, created where there is none, with the key.
    pub(super) fn open(&self, db: &Path) -> anyhow::Result<Store> {
        // A key that cannot be used is said before anything is written.
        let signer = self.sign_key.as_deref().map(load).transpose()?;
        let older = Store::schema_of(db).ok().filter(|schema| *schema < Store::SCHEMA);
        let store = Store::create_or_open(db)?;
        if let Some(from) = older {
            let (db, to) = (db.display(), Store::SCHEMA);
            say(format_args!(
                "{db} had schema {from}, has {to} now: programs of an older nfdrop no longer open it"
            ));
        }
        Ok(match signer {
            Some(signer) => store.signing(signer),
            None => store,
        })
    }
}

/// Signs what is there without the signature of the store's key, where it has one, and puts all of it into
/// the database's own file, as far as its readers let it. Whether nothing was left out.
pub(super) fn finish(store: &Store) -> anyhow::Result<bool> {
    let Signed { signed, damaged, .. } =
        store.sign_stored(|_| ()).context("signing what is stored")?;
    if signed > 0 {
        say(format_args!("{signed} builds had no signature of this key: signed"));
    }
    say_damaged(damaged);
    // Where somebody reads on, the log stays, which is as good.
    store.finish().context("ending the database's log")?;
    Ok(damaged == 0)
}

pub(super) fn keygen(args: &KeygenArgs) -> anyhow::Result<u8> {
    let secret = &args.secret;
    let public = args.pubkey.clone().unwrap_or_else(|| secret.with_extension("pub"));
    if public == *secret {
        bail!("{} would be both keys; name the public one with --pubkey", secret.display());
    }
    let password = args.password.then(|| new_password(secret)).transpose()?;
    let key = signing::generate(secret, &public, password)?;
    put(format!("{key}\n").as_bytes())?;
    let (secret, public) = (secret.display(), public.display());
    say(format_args!(
        "The secret key is {secret}: keep it, and a copy where nobody else gets at it. The public key is \
         {public}, also printed above: give it to clients.\n\
         Sign with crawl, add, merge or sign --sign-key {secret}; take only what is signed with \
         nfdrop-client --pubkey {public}."
    ));
    Ok(0)
}

pub(super) fn sign(args: &SignArgs) -> anyhow::Result<u8> {
    let signer = load(&args.sign_key)?;
    let db = args.db.display();
    let store = Store::open(&args.db)?.signing(signer);
    let Signed { builds, signed, damaged, proofs } = store.sign_stored(|_| ())?;
    let more = if proofs > 0 { format!(", and {proofs} proofs") } else { String::new() };
    put(format!("{db}: {builds} builds, {signed} signed now{more}\n").as_bytes())?;
    say_damaged(damaged);
    Ok(if damaged == 0 { 0 } else { ERROR })
}

fn say_damaged(damaged: u64) {
    if damaged > 0 {
        say(format_args!(
            "warning: {damaged} records are damaged and were not signed; crawl their packages again"
        ));
    }
}

fn load(path: &Path) -> anyhow::Result<Arc<dyn Signer>> {
    let (key, open) = SigningKey::read(path, || match from_environment()? {
        Some(password) => Ok(password),
        None => rpassword::prompt_password(format!("Password of {}: ", path.display())),
    })?;
    if let Some(mode) = open {
        let path = path.display();
        say(format_args!(
            "warning: others can read the secret key {path} (mode {mode:04o}): chmod 600 {path}"
        ));
    }
    Ok(Arc::new(key))
}

fn new_password(secret: &Path) -> anyhow::Result<String> {
    if let Some(password) = from_environment()? {
        return Ok(password);
    }
    let ask = |what: &str| {
        rpassword::prompt_password(what)
            .with_context(|| format!("cannot ask for a password; set {PASSWORD}"))
    };
    let password = ask(&format!("New password of {}: ", secret.display()))?;
    if password.is_empty() {
        bail!("an empty password protects nothing; go without --password if you want none");
    }
    if ask("Once more: ")? != password {
        bail!("these are two different passwords; start again");
    }
    Ok(password)
}

fn from_environment() -> io::Result<Option<String>> {
    match env::var(PASSWORD) {
        Ok(password) => Ok(Some(password).filter(|password| !password.is_empty())),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(io::Error::other(format!("{PASSWORD} is not UTF-8")))
        }
    }
}
