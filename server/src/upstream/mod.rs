//! Builds that are not in this server's database, from other servers.
//!
//! They are asked in order, with a time limit, and not again for some seconds after they gave no answer.
//! Equal questions at the same time are one question. What comes is checked as a client checks it, its
//! signature is kept as it is, and handed on with the same bytes. That nobody knows a build is kept for ten
//! minutes, a plan for a day, and on disk until its place is needed, where it answers when nobody else does.
//!
//! Servers may ask each other: every question carries how many servers it has passed, and ends after
//! [`MAX_HOPS`].

mod disk;

pub use disk::{Disk, DiskError};

use crate::{metrics::Metrics, snapshot::State};
use axum::body::Bytes;
use minisign_verify::{PublicKey, Signature};
use moka::{Expiry, future::Cache};
use nfdrop_db::{
    BuildId, Newer, PlanError, Proof, Provenance, Record, RecordError, Status, store::StoredProof,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Says how many servers a question has passed.
pub const HOPS: &str = "x-nfdrop-hops";
/// Most servers that a question passes.
pub const MAX_HOPS: u8 = 8;
/// For one answer, its body included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// To reach a server.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a server that gave no answer is left alone.
const REST: Duration = Duration::from_secs(5);
/// Bytes of answers kept in memory.
const KEPT: u64 = 64 << 20;
const A_DAY: Duration = Duration::from_hours(24);
const MINUTES: Duration = Duration::from_mins(10);
/// Longest signature.
const MAX_SIGNATURE: usize = 4096;
/// Longest list of packages.
const MAX_PROVENANCE: usize = 1 << 20;
/// Longest answer to a batch.
const MAX_BATCH: usize = 32 << 20;

/// Other servers.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    servers: Vec<Server>,
    http: Client,
    key: Option<PublicKey>,
    disk: Option<Disk>,
    plans: Cache<(BuildId, u8), Found>,
    provenance: Cache<(BuildId, u8), Option<Bytes>>,
    proofs: Cache<(BuildId, u8), Option<StoredProof>>,
}

#[derive(Debug)]
struct Server {
    url: Url,
    resting: Mutex<Option<Instant>>,
}

/// What other servers say of a build.
#[derive(Debug, Clone)]
pub enum Found {
    /// A record, with or without a plan.
    Record(Arc<Remote>),
    /// None of them has ever seen it.
    NeverSeen,
}

/// A record from another server.
#[derive(Debug)]
pub struct Remote {
    /// Its canonical bytes.
    pub bytes: Bytes,
    /// The first half of their SHA-256.
    pub tag: [u8; 16],
    /// The record, or what can be told of one that only a newer nfdrop reads. It is handed on as it came.
    pub record: Result<Record, Newer>,
    /// The signature over its bytes, as it came.
    pub signature: Option<String>,
}

impl Remote {
    /// In a word.
    pub fn state(&self) -> State {
        let reason = self.record.as_ref().ok().and_then(|record| record.reason);
        reason.map_or(State::Resolved, State::Unresolved)
    }

    /// Of bytes that have to be this build's record.
    fn new(id: &BuildId, bytes: Bytes, signature: Option<String>) -> Result<Self, RecordError> {
        let record = match (Record::parse_canonical(&bytes), Newer::of(&bytes)) {
            (Ok(record), _) => Ok(record),
            (Err(RecordError::Plan(PlanError::NewerSchema(_))), Some(newer)) => Err(newer),
            (Err(error), _) => return Err(error),
        };
        let of = record.as_ref().map_or_else(|newer| &newer.build_id, |record| &record.build_id);
        if of != id {
            let (record, plan) = (of.clone(), id.clone());
            return Err(RecordError::OtherBuild { record, plan });
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&Sha256::digest(&bytes)[..16]);
        Ok(Self { bytes, tag, record, signature })
    }
}

/// None of the other servers has answered as it should, so that nobody knows.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no answer from {}", .0.join("; "))]
pub struct NoAnswer(pub Vec<String>);

/// Why an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not the URL of a server.
    #[error("{0:?} is not a server's URL: give http:// or https:// with a host and no query")]
    Url(String),
    /// No HTTP client.
    #[error("HTTPS cannot be used: {0}: are ca-certificates installed?")]
    Http(String),
}

struct Lifetime;

impl Expiry<(BuildId, u8), Found> for Lifetime {
    fn expire_after_create(
        &self,
        _: &(BuildId, u8),
        found: &Found,
        _: Instant,
    ) -> Option<Duration> {
        Some(match found {
            Found::Record(remote) if remote.state() == State::Resolved => A_DAY,
            _ => MINUTES,
        })
    }
}

impl Upstream {
    /// Asks these servers, in order. With a key only what it has signed counts as a plan.
    pub fn new(
        urls: &[String],
        key: Option<PublicKey>,
        disk: Option<Disk>,
    ) -> Result<Self, UpstreamError> {
        // Fails only where it has been done before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let servers = urls.iter().map(|text| {
            let wrong = || UpstreamError::Url(text.clone());
            let url: Url = text.parse().map_err(|_| wrong())?;
            let plain = url.query().is_none() && url.fragment().is_none();
            if plain && matches!(url.scheme(), "http" | "https") {
                Ok(Server { url, resting: Mutex::default() })
            } else {
                Err(wrong())
            }
        });
        let servers = servers.collect::<Result<_, _>>()?;
        let http = Client::builder()
            .user_agent(concat!("nfdrop-server/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::limited(3))
            .build()
            .map_err(|error| UpstreamError::Http(error.to_string()))?;
        let weigh = |_: &_, found: &Found| match found {
            Found::Record(remote) => remote.bytes.len() as u32 + 1024,
            Found::NeverSeen => 256,
        };
        let plans =
            Cache::builder().max_capacity(KEPT).weigher(weigh).expire_after(Lifetime).build();
        let weigh =
            |_: &_, found: &Option<Bytes>| found.as_ref().map_or(0, Bytes::len) as u32 + 256;
        let provenance =
            Cache::builder().max_capacity(KEPT / 4).weigher(weigh).time_to_live(MINUTES).build();
        let weigh = |_: &_, found: &Option<StoredProof>| {
            found.as_ref().map_or(0, |proof| proof.bytes.len()) as u32 + 512
        };
        let proofs =
            Cache::builder().max_capacity(KEPT / 4).weigher(weigh).time_to_live(MINUTES).build();
        let inner = Inner { servers, http, key, disk, plans, provenance, proofs };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The record of a build, of which this question has passed `hops` servers before this one.
    pub async fn plan(
        &self,
        id: &BuildId,
        hops: u8,
        metrics: &Metrics,
    ) -> Result<Found, Arc<NoAnswer>> {
        if hops >= MAX_HOPS {
            return Ok(Found::NeverSeen);
        }
        let ask = async {
            let stored = match &self.inner.disk {
                Some(disk) => disk.get(id).await,
                None => None,
            };
            if let Some((remote, true)) = stored {
                metrics.asked_upstream("disk");
                return Ok(Found::Record(Arc::new(remote)));
            }
            match self.ask_for_plan(id, hops).await {
                Ok(found) => {
                    if let (Found::Record(remote), Some(disk)) = (&found, &self.inner.disk) {
                        disk.put(id, remote).await;
                    }
                    metrics.asked_upstream(match found {
                        Found::Record(_) => "found",
                        Found::NeverSeen => "never_seen",
                    });
                    Ok(found)
                }
                Err(error) => {
                    metrics.asked_upstream("no_answer");
                    tracing::warn!(build_id = %id, %error, "upstream");
                    // Older than it should be, and better than nothing.
                    stored.map(|(remote, _)| Found::Record(Arc::new(remote))).ok_or(error)
                }
            }
        };
        self.inner.plans.try_get_with((id.clone(), hops), ask).await
    }

    /// The packages that hold a build, as JSON; `None`: no server knows any.
    pub async fn provenance(&self, id: &BuildId, hops: u8) -> Result<Option<Bytes>, Arc<NoAnswer>> {
        if hops >= MAX_HOPS {
            return Ok(None);
        }
        let ask = async {
            let mut silent = Silent::default();
            for server in &self.inner.servers {
                match self.provenance_from(server, id, hops).await {
                    Ok(None) => {}
                    Ok(found) => return Ok(found),
                    Err(error) => silent.add(server, &error),
                }
            }
            silent.or(None)
        };
        self.inner.provenance.try_get_with((id.clone(), hops), ask).await
    }

    /// What booting a kernel showed of its plan; `None`: no server has booted it.
    pub async fn proof(
        &self,
        id: &BuildId,
        hops: u8,
    ) -> Result<Option<StoredProof>, Arc<NoAnswer>> {
        if hops >= MAX_HOPS {
            return Ok(None);
        }
        let ask = async {
            let mut silent = Silent::default();
            for server in &self.inner.servers {
                match self.proof_from(server, id, hops).await {
                    Ok(None) => {}
                    Ok(found) => return Ok(found),
                    Err(error) => silent.add(server, &error),
                }
            }
            silent.or(None)
        };
        self.inner.proofs.try_get_with((id.clone(), hops), ask).await
    }

    /// What other servers say of many builds: `results` of their answers by build-id, and whether all of
    /// `ids` were asked for with success.
    pub async fn batch(
        &self,
        ids: &[&str],
        status_only: bool,
        hops: u8,
    ) -> (HashMap<String, Value>, bool) {
        let mut known = HashMap::new();
        if hops >= MAX_HOPS {
            return (known, true);
        }
        let mut complete = true;
        for server in &self.inner.servers {
            let open: Vec<&str> =
                ids.iter().copied().filter(|id| !known.contains_key(*id)).collect();
            if open.is_empty() {
                break;
            }
            match self.ask_for_batch(server, &open, status_only, hops).await {
                Ok((answers, whole)) => {
                    complete &= whole;
                    known.extend(answers);
                }
                Err(error) => {
                    tracing::warn!(server = %server.url, error, "upstream");
                    complete = false;
                }
            }
        }
        (known, complete)
    }

    async fn ask_for_batch(
        &self,
        server: &Server,
        ids: &[&str],
        status_only: bool,
        hops: u8,
    ) -> Result<(Vec<(String, Value)>, bool), String> {
        server.awake()?;
        let mut body = serde_json::json!({ "build_ids": ids });
        if status_only {
            body["only"] = "status".into();
        }
        let request =
            self.inner.http.post(server.at("v1/plans")?).header(HOPS, u16::from(hops) + 1);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = server.heard(request.send().await.map_err(|error| innermost(&error)))?;
        if answer.status() != StatusCode::OK {
            return server.heard(Err(format!("HTTP status {}", answer.status())));
        }
        let bytes = server.heard(body_of(answer, MAX_BATCH).await)?;
        let mut answer: Value =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let complete = answer["complete"].as_bool() == Some(true);
        let Some(Value::Array(results)) = answer.get_mut("results").map(Value::take) else {
            return Err("the answer has no results".to_owned());
        };
        let asked = |result: Value| {
            let id = result["build_id"].as_str().filter(|id| ids.contains(id))?.to_owned();
            let unknown = result["status"] == "unknown";
            (!unknown && self.is_sound(&id, &result, status_only)).then_some((id, result))
        };
        Ok((results.into_iter().filter_map(asked).collect(), complete))
    }

    /// Whether this is what it should be: never more than is known here is handed on.
    fn is_sound(&self, id: &str, result: &Value, status_only: bool) -> bool {
        let status = result["status"].as_str().and_then(|status| status.parse::<Status>().ok());
        let Some(status) = status else { return false };
        if status_only {
            return true;
        }
        // A plan in a batch has no signature with it: where one is wanted, it is asked for alone.
        let record = serde_json::to_vec(&result["record"]).unwrap_or_default();
        self.inner.key.is_none()
            && match Record::parse(&record) {
                Ok(record) => record.build_id.to_string() == id && record.status == status,
                Err(RecordError::Plan(PlanError::NewerSchema(_))) => {
                    result["record"]["build_id"] == id && status == Status::Resolved
                }
                Err(_) => false,
            }
    }

    async fn ask_for_plan(&self, id: &BuildId, hops: u8) -> Result<Found, NoAnswer> {
        let mut silent = Silent::default();
        for server in &self.inner.servers {
            match self.plan_from(server, id, hops).await {
                Ok(None) => {}
                Ok(Some(remote)) => return Ok(Found::Record(Arc::new(remote))),
                Err(error) => silent.add(server, &error),
            }
        }
        silent.or(Found::NeverSeen)
    }

    async fn plan_from(
        &self,
        server: &Server,
        id: &BuildId,
        hops: u8,
    ) -> Result<Option<Remote>, String> {
        let path = format!("buildid/{id}/plan");
        let Some(bytes) = self.fetch(server, &path, hops, Record::MAX_BYTES).await? else {
            return Ok(None);
        };
        let mut remote = Remote::new(id, bytes, None).map_err(|error| error.to_string())?;
        let path = format!("{path}.minisig");
        let signature = self.fetch(server, &path, hops, MAX_SIGNATURE).await?;
        remote.signature = signature.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if remote.state() == State::Resolved {
            self.verify(&remote.bytes, remote.signature.as_deref(), "plan")?;
        }
        Ok(Some(remote))
    }

    async fn provenance_from(
        &self,
        server: &Server,
        id: &BuildId,
        hops: u8,
    ) -> Result<Option<Bytes>, String> {
        let path = format!("buildid/{id}/provenance");
        let Some(bytes) = self.fetch(server, &path, hops, MAX_PROVENANCE).await? else {
            return Ok(None);
        };
        let packages: Vec<Provenance> =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        serde_json::to_vec(&packages).map(Bytes::from).map(Some).map_err(|error| error.to_string())
    }

    async fn proof_from(
        &self,
        server: &Server,
        id: &BuildId,
        hops: u8,
    ) -> Result<Option<StoredProof>, String> {
        let path = format!("buildid/{id}/proof");
        let Some(bytes) = self.fetch(server, &path, hops, Proof::MAX_BYTES).await? else {
            return Ok(None);
        };
        let proof = Proof::parse_canonical(&bytes).map_err(|error| error.to_string())?;
        if proof.build_id != *id {
            return Err(format!("its proof is of build {}", proof.build_id));
        }
        let path = format!("{path}.minisig");
        let signature = self.fetch(server, &path, hops, MAX_SIGNATURE).await?;
        let signature = signature.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        self.verify(&bytes, signature.as_deref(), "proof")?;
        Ok(Some(StoredProof { bytes: bytes.into(), signature }))
    }

    /// Whether the key has signed this; without a key everything counts.
    fn verify(&self, bytes: &[u8], signature: Option<&str>, what: &str) -> Result<(), String> {
        let Some(key) = &self.inner.key else { return Ok(()) };
        let text = signature.ok_or_else(|| format!("its {what} is not signed"))?;
        Signature::decode(text)
            .and_then(|signature| key.verify(bytes, &signature, false))
            .map_err(|error| format!("its signature is refused: {error}"))
    }

    /// What is at a path of a server; `None`: it says that there is nothing.
    async fn fetch(
        &self,
        server: &Server,
        path: &str,
        hops: u8,
        limit: usize,
    ) -> Result<Option<Bytes>, String> {
        server.awake()?;
        let request = self.inner.http.get(server.at(path)?).header(HOPS, u16::from(hops) + 1);
        let answer = server.heard(request.send().await.map_err(|error| innermost(&error)))?;
        match answer.status() {
            StatusCode::OK => server.heard(body_of(answer, limit).await).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => server.heard(Err(format!("HTTP status {status}"))),
        }
    }
}

/// The servers that gave no answer, and why. That nobody has something, only all of them can say.
#[derive(Debug, Default)]
struct Silent(Vec<String>);

impl Silent {
    fn add(&mut self, server: &Server, error: &str) {
        self.0.push(format!("{}: {error}", server.url));
    }

    fn or<T>(self, nothing: T) -> Result<T, NoAnswer> {
        if self.0.is_empty() { Ok(nothing) } else { Err(NoAnswer(self.0)) }
    }
}

impl Server {
    fn at(&self, path: &str) -> Result<Url, String> {
        let base = self.url.as_str().trim_end_matches('/');
        format!("{base}/{path}").parse().map_err(|error| format!("{error}"))
    }

    /// Whether it may be asked.
    fn awake(&self) -> Result<(), String> {
        let resting = *self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        match resting {
            Some(since) if since.elapsed() < REST => {
                Err(format!("left alone for {} s after it gave no answer", REST.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Lets it rest where it gave no answer.
    fn heard<T>(&self, answer: Result<T, String>) -> Result<T, String> {
        let resting = answer.is_err().then(Instant::now);
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = resting;
        answer
    }
}

async fn body_of(mut answer: Response, limit: usize) -> Result<Bytes, String> {
    let mut bytes = vec![];
    while let Some(chunk) = answer.chunk().await.map_err(|error| innermost(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > limit {
            return Err(format!("its answer has more than {limit} bytes"));
        }
    }
    Ok(bytes.into())
}

/// The last cause, which is the one a person can do something about.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
