//! Servers on free ports of the loopback interface: nfdrop's own over a real database, and made-up
//! ones that answer whatever a test wants.

use crate::machine::id;
use axum::{Router, extract::Request, middleware, response::IntoResponse};
use nfdrop_db::{Record, Store, sample};
use nfdrop_server::{App, Database, serve, serve::Limits};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A build the real server knows, without a plan.
pub(crate) const UNRESOLVED: &str = "1111111111111111111111111111111111111111";

pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<AtomicUsize>,
    /// The database, while the server runs.
    _directory: Option<TempDir>,
}

impl Server {
    /// nfdrop's server with a plan for each of `builds`, and [`UNRESOLVED`].
    pub(crate) async fn real(builds: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernels.sqlite");
        let writer = Store::create_or_open(&path).unwrap();
        let add = |record: Record, release: &str| {
            writer.put_kernel(&sample::kernel(record, release)).unwrap();
        };
        for (number, build) in builds.iter().enumerate() {
            add(sample::resolved(id(build)), &format!("6.12.{number}-cloud-amd64"));
        }
        add(sample::unresolved(id(UNRESOLVED)), "5.10.0-46-cloud-amd64");
        let service =
            nfdrop_server::service::Service::from(App::new(Database::open(&path).unwrap(), None));
        let answer = async move |request: Request| service.respond(request).await;
        Self::start(Router::new().fallback(answer), Some(directory)).await
    }

    /// Answers every request with this.
    pub(crate) async fn answering<A>(answer: A) -> Self
    where
        A: IntoResponse + Clone + Send + Sync + 'static,
    {
        Self::routing(Router::new().fallback(async move || answer)).await
    }

    pub(crate) async fn routing(router: Router) -> Self {
        Self::start(router, None).await
    }

    /// Takes connections and never answers.
    pub(crate) async fn silent() -> Self {
        Self::routing(Router::new().fallback(async || pending::<()>().await)).await
    }

    async fn start(router: Router, directory: Option<TempDir>) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        let router = router.layer(middleware::map_request(move |request: Request| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(request)
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, router, None, Limits::default(), pending()));
        Self { url, requests, _directory: directory }
    }

    /// Requests seen so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The URL of a port nobody listens on any more.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
