//! The server's answers as files, so that any web server or object store can be one.
//!
//! What is written is what the server says: its own service is asked for every path, in this process, and
//! the bytes of its answer are a file. So the two cannot differ. Only what has changed since the last time
//! is written, as `index.json` tells, which is written last. Each file is there whole or not at all; one
//! that is no longer answered is deleted.
//!
//! Pages get `.html` behind their names, which `try_files $uri $uri.html` finds. Lists that a query filters,
//! searching and batches need the server.

use crate::{App, Database, database::OpenError, service::Service};
use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt as _, PutOptions, PutPayload,
    aws::AmazonS3Builder, local::LocalFileSystem, path::Path as Place,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use tokio::task::JoinSet;

/// Files of a build, below `buildid/<hex>/`.
const ARTIFACTS: [&str; 7] =
    ["plan", "plan.minisig", "provenance", "proof", "proof.minisig", "nfdrop.bt", "kprobe_events"];
/// Other paths, and the files they become.
const OTHERS: [(&str, &str); 6] = [
    ("/", "index.html"),
    ("/kernels", "kernels.html"),
    ("/unresolved", "unresolved.html"),
    ("/v1/coverage", "v1/coverage"),
    ("/v1/unresolved", "v1/unresolved"),
    ("/openapi.json", "openapi.json"),
];
/// What is there, and what it is of.
pub const INDEX: &str = "index.json";
/// Longest answer, far above any.
const MAX_ANSWER: usize = 64 << 20;
/// Longest index: of ten million builds.
const MAX_INDEX: u64 = 2 << 30;
/// Builds under way at a time: what takes time is waiting for an object store.
const AT_ONCE: usize = 16;

/// What was written before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// Of this format.
    version: u32,
    /// The first half of the SHA-256 of every file, by its name.
    files: BTreeMap<String, Tag>,
}

type Tag = String;

const VERSION: u32 = 1;

/// What an export did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Builds that were looked at.
    pub builds: u64,
    /// Files that were written, without the index.
    pub written: u64,
    /// Files that are as they were.
    pub unchanged: u64,
    /// Files that were deleted.
    pub deleted: u64,
}

/// Why an export ended.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The place to write to is none.
    #[error("cannot export to {place}: {cause}")]
    Place {
        /// As it was given.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// A file cannot be read, written or deleted.
    #[error("{file}: {cause}; run it again, it goes on where it ended")]
    File {
        /// Below the place.
        file: String,
        /// What the store says.
        cause: String,
    },
    /// What is there was not written by this program.
    #[error("{INDEX} there is not nfdrop's: {0}; name another place, or remove it")]
    Index(String),
    /// The server has no answer.
    #[error("the server answers {path} with {status}: {said}")]
    Answer {
        /// What was asked for.
        path: String,
        /// HTTP status.
        status: u16,
        /// The body.
        said: String,
    },
}

/// Where to write: a directory, or `s3://BUCKET/PREFIX` with the credentials and endpoint that the
/// environment names (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, …).
pub struct Target {
    store: Arc<dyn ObjectStore>,
    prefix: Place,
    /// Whether it keeps media type and lifetime beside a file.
    attributes: bool,
}

impl Target {
    /// Opens a place; makes the directory.
    pub fn open(place: &str) -> Result<Self, ExportError> {
        let error = |cause: String| ExportError::Place { place: place.to_owned(), cause };
        if let Some(rest) = place.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(error("there is no bucket: s3://BUCKET/PREFIX".to_owned()));
            }
            // Fails only where it has been done before.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
            return Ok(Self {
                store: Arc::new(store.map_err(|e| error(e.to_string()))?),
                prefix: Place::parse(prefix).map_err(|e| error(e.to_string()))?,
                attributes: true,
            });
        }
        if place.contains("://") {
            return Err(error("give a directory, or s3://BUCKET/PREFIX".to_owned()));
        }
        std::fs::create_dir_all(place).map_err(|e| error(e.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(Path::new(place));
        let store = store.map_err(|e| error(e.to_string()))?;
        Ok(Self { store: Arc::new(store), prefix: Place::default(), attributes: false })
    }

    fn place(&self, file: &str) -> Result<Place, ExportError> {
        let whole = format!("{}/{file}", self.prefix);
        Place::parse(whole.trim_start_matches('/')).map_err(|error| failed(file, &error))
    }

    async fn put(&self, file: &str, answer: Answer) -> Result<(), ExportError> {
        let mut options = PutOptions::default();
        if self.attributes {
            let mut attributes = Attributes::new();
            attributes.insert(Attribute::ContentType, answer.kind.into());
            attributes.insert(Attribute::CacheControl, answer.cache.into());
            options.attributes = attributes;
        }
        let payload = PutPayload::from(answer.body);
        let put = self.store.put_opts(&self.place(file)?, payload, options).await;
        put.map(drop).map_err(|error| failed(file, &error))
    }

    async fn delete(&self, file: &str) -> Result<(), ExportError> {
        match self.store.delete(&self.place(file)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(file, &error)),
        }
    }

    /// What was written before; nothing, where there is no index.
    async fn index(&self) -> Result<BTreeMap<String, Tag>, ExportError> {
        let got = match self.store.get(&self.place(INDEX)?).await {
            Ok(got) if got.meta.size > MAX_INDEX => {
                return Err(ExportError::Index(format!("it has {} bytes", got.meta.size)));
            }
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(INDEX, &error)),
        };
        let bytes = got.bytes().await.map_err(|error| failed(INDEX, &error))?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| ExportError::Index(error.to_string()))?;
        if index.version != VERSION {
            let said = format!("expected version {VERSION}, found {}", index.version);
            return Err(ExportError::Index(said));
        }
        Ok(index.files)
    }
}

fn failed(file: &str, cause: &dyn std::error::Error) -> ExportError {
    ExportError::File { file: file.to_owned(), cause: cause.to_string() }
}

/// What the server says.
struct Answer {
    kind: String,
    cache: String,
    body: axum::body::Bytes,
}

impl Answer {
    fn tag(&self) -> Tag {
        nfdrop_db::hex::encode(&Sha256::digest(&self.body)[..16])
    }
}

/// Asks as a client would; `None`: there is nothing.
async fn ask(service: &Service, host: &str, path: &str) -> Result<Option<Answer>, ExportError> {
    let error =
        |status: u16, said: String| ExportError::Answer { path: path.to_owned(), status, said };
    let request = Request::get(path).header(header::HOST, host).body(Body::empty());
    let request = request.map_err(|cause| error(0, cause.to_string()))?;
    let response = service.respond(request).await;
    let (parts, body) = response.into_parts();
    let status = parts.status;
    let text = |name| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (kind, cache) = (text(header::CONTENT_TYPE), text(header::CACHE_CONTROL));
    let body = to_bytes(body, MAX_ANSWER).await;
    let body = body.map_err(|cause| error(status.as_u16(), cause.to_string()))?;
    match status {
        StatusCode::OK => Ok(Some(Answer { kind, cache, body })),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(error(status.as_u16(), String::from_utf8_lossy(&body).into_owned())),
    }
}

/// What pages say of where they are: the host that the tree will be served by.
pub async fn export(
    db: &Path,
    target: Target,
    host: &str,
    mut progress: impl FnMut(Exported),
) -> Result<Exported, ExportError> {
    let before = Arc::new(target.index().await?);
    let app = App::new(Database::open(db)?, None);
    let ids = app.database().snapshot().ids();
    let shared =
        Arc::new(Shared { service: Service::from(app), target, host: host.to_owned(), before });
    let mut done = Exported::default();
    let mut files = BTreeMap::new();
    let mut waiting = ids.into_iter();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some(id) = waiting.next()
        {
            let shared = shared.clone();
            under_way.spawn(async move { shared.build(&id).await });
        }
        let Some(built) = under_way.join_next().await else { break };
        // A panic goes on here.
        let built = built.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        done.builds += 1;
        built.count(&mut done, &mut files);
        progress(done);
    }
    // Behind what they lead to.
    for (path, file) in OTHERS {
        let mut built = Built::default();
        shared.file(&mut built, path, file.to_owned()).await?;
        built.count(&mut done, &mut files);
    }
    if done.written + done.deleted > 0 || files != *shared.before {
        let index = Index { version: VERSION, files };
        let body = serde_json::to_vec(&index).map_err(|error| failed(INDEX, &error))?.into();
        let (kind, cache) = ("application/json".to_owned(), "no-cache".to_owned());
        shared.target.put(INDEX, Answer { kind, cache, body }).await?;
    }
    progress(done);
    Ok(done)
}

struct Shared {
    service: Service,
    target: Target,
    host: String,
    before: Arc<BTreeMap<String, Tag>>,
}

/// What became of some files.
#[derive(Default)]
struct Built {
    files: Vec<(String, Tag)>,
    written: u64,
    deleted: u64,
}

impl Built {
    fn count(self, done: &mut Exported, files: &mut BTreeMap<String, Tag>) {
        done.unchanged += self.files.len() as u64 - self.written;
        done.written += self.written;
        done.deleted += self.deleted;
        files.extend(self.files);
    }
}

impl Shared {
    async fn build(&self, id: &str) -> Result<Built, ExportError> {
        let mut built = Built::default();
        for artifact in ARTIFACTS {
            let file = format!("buildid/{id}/{artifact}");
            self.file(&mut built, &format!("/{file}"), file).await?;
        }
        self.file(&mut built, &format!("/build/{id}"), format!("build/{id}.html")).await?;
        Ok(built)
    }

    async fn file(&self, built: &mut Built, path: &str, file: String) -> Result<(), ExportError> {
        let before = self.before.get(&file);
        match ask(&self.service, &self.host, path).await? {
            Some(answer) => {
                let tag = answer.tag();
                if before != Some(&tag) {
                    self.target.put(&file, answer).await?;
                    built.written += 1;
                }
                built.files.push((file, tag));
            }
            None if before.is_some() => {
                self.target.delete(&file).await?;
                built.deleted += 1;
            }
            None => {}
        }
        Ok(())
    }
}
