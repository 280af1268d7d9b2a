//! What is counted, for Prometheus. Labels are of sets that are known here: nothing a stranger sends
//! becomes one.

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::{
    fmt::{self, Write as _},
    sync::OnceLock,
    time::Duration,
};

macro_rules! routes {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// What is asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Route { $(
            #[doc = concat!("`", $name, "`")]
            $variant
        ),* }

        impl Route {
            /// Every route.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As the label has it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

routes! {
    Plan "plan",
    Minisig "plan.minisig",
    Provenance "provenance",
    Proof "proof",
    ProofMinisig "proof.minisig",
    Bpftrace "nfdrop.bt",
    KprobeEvents "kprobe_events",
    Plans "plans",
    Kernels "kernels",
    Coverage "coverage",
    Unresolved "unresolved",
    OpenApi "openapi.json",
    Health "healthz",
    Metrics "metrics",
    Page "page",
    Other "other",
}

impl Route {
    /// Of a request.
    pub fn of(method: &Method, path: &str) -> Self {
        if !matches!(*method, Method::GET | Method::HEAD | Method::POST) {
            return Self::Other;
        }
        if let Some(rest) = path.strip_prefix("/buildid/") {
            return match rest.split_once('/').map_or("", |(_, artifact)| artifact) {
                "plan" => Self::Plan,
                "plan.minisig" => Self::Minisig,
                "provenance" => Self::Provenance,
                "proof" => Self::Proof,
                "proof.minisig" => Self::ProofMinisig,
                "nfdrop.bt" => Self::Bpftrace,
                "kprobe_events" => Self::KprobeEvents,
                _ => Self::Other,
            };
        }
        match path {
            "/v1/plans" => Self::Plans,
            "/v1/kernels" => Self::Kernels,
            "/v1/coverage" => Self::Coverage,
            "/v1/unresolved" => Self::Unresolved,
            "/openapi.json" => Self::OpenApi,
            "/healthz" | "/healthz/live" | "/healthz/ready" => Self::Health,
            "/metrics" => Self::Metrics,
            "/" | "/search" | "/kernels" | "/unresolved" => Self::Page,
            _ if path.starts_with("/build/") => Self::Page,
            _ => Self::Other,
        }
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: Route,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: Route,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct When {
    when: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Builds {
    status: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Statuses this server answers with; others are counted as 500.
const STATUSES: [u16; 16] =
    [200, 204, 303, 304, 400, 404, 405, 408, 413, 415, 422, 431, 500, 502, 503, 504];

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    /// Of [`Metrics::requests`], so that nothing is looked up for a request.
    counters: Vec<[OnceLock<Counter>; STATUSES.len()]>,
    seconds: Vec<Histogram>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were closed to make place for others.
    pub evicted: Counter,
    /// Bodies encoded before anybody asked, each coding for itself.
    pub encoded_ahead: Counter,
    /// And when somebody did.
    pub encoded_when_asked: Counter,
    builds: Family<Builds, Gauge>,
    generation: Gauge,
    ready: Gauge,
    upstream: Family<Outcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nfdrop");
        let requests = Family::<Request, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        let by_route = Family::<OfRoute, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(50e-6, 4.0, 9))
        });
        registry.register("request_seconds", "Time to make an answer", by_route.clone());
        let of = |route: &Route| by_route.get_or_create(&OfRoute { route: *route }).clone();
        let seconds = Route::ALL.iter().map(of).collect();
        let encoded = Family::<When, Counter>::default();
        registry.register("encoded_bodies", "Bodies compressed", encoded.clone());
        let when = |when| encoded.get_or_create(&When { when }).clone();
        let metrics = Self {
            encoded_ahead: when("ahead"),
            encoded_when_asked: when("asked"),
            requests,
            counters: Route::ALL.iter().map(|_| Default::default()).collect(),
            seconds,
            connections: Gauge::default(),
            evicted: Counter::default(),
            builds: Family::default(),
            generation: Gauge::default(),
            ready: Gauge::default(),
            upstream: Family::default(),
            registry,
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("connections", "Connections open", self.connections.clone());
        registry.register(
            "connections_evicted",
            "Idle connections closed to make place for others",
            self.evicted.clone(),
        );
        registry.register("builds", "Builds in the database", self.builds.clone());
        registry.register(
            "database_generation",
            "Changes of the database noticed since the start",
            self.generation.clone(),
        );
        registry.register("database_ready", "1 while the database can be read", self.ready.clone());
        registry.register(
            "upstream_requests",
            "Questions to other servers, by what came of them",
            self.upstream.clone(),
        );
        self
    }

    /// Counts an answer.
    pub fn count(&self, route: Route, status: StatusCode, took: Duration) {
        let status = status.as_u16();
        let column = STATUSES.iter().position(|known| *known == status);
        let column = column.unwrap_or(STATUSES.len() - 4);
        let cell = &self.counters[route as usize][column];
        let counter = cell.get_or_init(|| {
            let labels = Request { route, status: STATUSES[column] };
            self.requests.get_or_create(&labels).clone()
        });
        counter.inc();
        self.seconds[route as usize].observe(took.as_secs_f64());
    }

    /// Counts a question to another server.
    pub fn asked_upstream(&self, outcome: &'static str) {
        self.upstream.get_or_create(&Outcome { outcome }).inc();
    }

    /// The text that Prometheus reads (`OpenMetrics` 1.0).
    pub fn text(&self, database: &crate::Database) -> Result<String, fmt::Error> {
        let tally = database.tally();
        let builds = |status, reason, count: u64| {
            self.builds.get_or_create(&Builds { status, reason }).set(count as i64);
        };
        self.builds.clear();
        builds("resolved", "", tally.resolved);
        for (reason, count) in tally.unresolved {
            builds("unresolved", reason.name(), count);
        }
        builds("broken", "", tally.broken);
        self.generation.set(database.generation() as i64);
        self.ready.set(i64::from(database.is_ready()));
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_one_route() {
        for path in ["/buildid/a\"}\n/x", "/buildid//plan/", "//plan", "/buildid", "/x/plan", ""] {
            assert_eq!(Route::of(&Method::GET, path), Route::Other, "{path}");
        }
        assert_eq!(Route::of(&Method::GET, "/buildid/!/plan"), Route::Plan);
        assert_eq!(Route::of(&Method::DELETE, "/buildid/00/plan"), Route::Other);
    }

    #[test]
    fn every_route_and_status_has_a_place() {
        let metrics = Metrics::default();
        for route in Route::ALL {
            for status in (100..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
                metrics.count(*route, status, Duration::from_millis(1));
            }
        }
        assert_eq!(STATUSES[STATUSES.len() - 4], 500);
    }
}
