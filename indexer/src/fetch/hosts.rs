//! Politeness, per host: few connections at a time, and none for a while where nothing but failures
//! comes back. A mirror that is down is asked a handful of times and not once for every kernel, and
//! a crawl of it ends.

use super::{FetchError, Options};
use reqwest::Url;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Hosts {
    connections: usize,
    tolerance: u32,
    rest: Duration,
    known: Mutex<HashMap<String, Host>>,
}

#[derive(Debug)]
struct Host {
    connections: Arc<Semaphore>,
    /// One after the other.
    failures: u32,
    resting_since: Option<Instant>,
}

/// Permission to send a request; the answer is given back to it.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    hosts: &'a Hosts,
    name: String,
    _connection: Option<OwnedSemaphorePermit>,
}

impl Hosts {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            connections: options.per_host.max(1),
            tolerance: options.tolerance,
            rest: options.rest,
            known: Mutex::default(),
        }
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Host) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(known.entry(name.to_owned()).or_insert_with(|| Host {
            connections: Arc::new(Semaphore::new(self.connections)),
            failures: 0,
            resting_since: None,
        }))
    }

    /// Waits for a connection that is free; fails at once where the host is left alone.
    pub(super) async fn permit(&self, url: &Url) -> Result<Permit<'_>, FetchError> {
        let name = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let connections = self.with(&name, |host| Arc::clone(&host.connections));
        // Fails only for a closed semaphore; this one never is.
        let connection = connections.acquire_owned().await.ok();
        // While this waited others may have failed.
        let resting = self.with(&name, |host| match host.resting_since {
            Some(since) if since.elapsed() < self.rest => Some(host.failures),
            Some(_) => {
                // One failure more and it rests again.
                host.resting_since = None;
                None
            }
            None => None,
        });
        if let Some(failures) = resting {
            let (url, rest) = (url.to_string(), self.rest);
            return Err(FetchError::Resting { url, host: name, failures, rest });
        }
        Ok(Permit { hosts: self, name, _connection: connection })
    }
}

impl Permit<'_> {
    /// Takes note of how the request ended, and returns it.
    pub(super) fn note<T>(&self, result: Result<T, FetchError>) -> Result<T, FetchError> {
        let Hosts { tolerance, rest, .. } = *self.hosts;
        self.hosts.with(&self.name, |host| match &result {
            Err(FetchError::Transient { .. }) => {
                host.failures = host.failures.saturating_add(1);
                if host.failures >= tolerance && host.resting_since.is_none() {
                    host.resting_since = Some(Instant::now());
                    let (name, failures) = (&self.name, host.failures);
                    tracing::warn!(
                        "{name}: {failures} requests in a row failed; it is left alone for {} s",
                        rest.as_secs()
                    );
                }
            }
            // Nothing that the host can be blamed for.
            Err(FetchError::Cache { .. }) => {}
            _ => host.failures = 0,
        });
        result
    }
}
