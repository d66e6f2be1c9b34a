//! What Prometheus reads: the recorder of the process, and the handles of what is counted with every request.
//!
//! Looking a counter up by its labels costs more than counting, so handles are kept. They are made when first counted: a series of which
//! there was nothing is not shown.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::{http::recommendations::LIST_ROUTE, request::Source};

/// Upper edges of all histograms, in seconds: a factor of about 2, finer where the service should be.
const EDGES: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003_5,
    0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// The routes by which requests are counted; the last stands for all others.
const ROUTES: [&str; 9] = [
    LIST_ROUTE,
    "/v1/recommendations",
    "/v1/events",
    "/v1/artists/{id}/similar",
    "/v1/status",
    "/v1/listeners",
    "/metrics",
    "/readyz",
    "other",
];

/// The status codes by which requests are counted; the last stands for all others.
const STATUSES: [(u16, &str); 12] = [
    (200, "200"),
    (503, "503"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (413, "413"),
    (429, "429"),
    (500, "500"),
    (0, "other"),
];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Handles of the recorder, which is one for the whole process: several servers in a process share it.
pub(crate) struct Meters {
    prometheus: PrometheusHandle,
    requests: [[OnceLock<Counter>; STATUSES.len()]; ROUTES.len()],
    seconds: [OnceLock<Histogram>; ROUTES.len()],
    lists: [OnceLock<Counter>; Source::ALL.len()],
    shed: OnceLock<Counter>,
}

impl Meters {
    /// The first call in a process installs the recorder.
    pub(crate) fn new() -> Self {
        Self {
            prometheus: recorder().clone(),
            requests: [const { [const { OnceLock::new() }; STATUSES.len()] }; ROUTES.len()],
            seconds: [const { OnceLock::new() }; ROUTES.len()],
            lists: [const { OnceLock::new() }; Source::ALL.len()],
            shed: OnceLock::new(),
        }
    }

    /// Counts a request that was answered, and its time unless the answer was a refusal: that says nothing about the time of answers.
    pub(crate) fn request(&self, route: &str, status: StatusCode, elapsed: Duration) {
        let at = ROUTES.iter().position(|known| *known == route).unwrap_or(ROUTES.len() - 1);
        let code = status.as_u16();
        let of = STATUSES.iter().position(|(known, _)| *known == code).unwrap_or(STATUSES.len() - 1);
        let (route, label) = (ROUTES[at], STATUSES[of].1);
        let counter = || metrics::counter!("duet_requests_total", "route" => route, "status" => label);
        self.requests[at][of].get_or_init(counter).increment(1);
        if status != StatusCode::SERVICE_UNAVAILABLE {
            let histogram = || metrics::histogram!("duet_request_seconds", "route" => route);
            self.seconds[at].get_or_init(histogram).record(elapsed.as_secs_f64());
        }
    }

    /// Counts a list.
    pub(crate) fn list(&self, source: Source) {
        let counter = || metrics::counter!("duet_lists_total", "source" => source.as_str());
        self.lists[source.index()].get_or_init(counter).increment(1);
    }

    /// Counts a request or a connection that was turned away.
    pub(crate) fn shed(&self) {
        self.shed.get_or_init(|| metrics::counter!("duet_shed_total")).increment(1);
    }

    /// All measurements of the process, as Prometheus reads them.
    pub(crate) fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Moves samples into their histograms; without it they would pile up until somebody asks for them.
    pub(crate) fn upkeep(&self) {
        self.prometheus.run_upkeep();
    }
}

/// The histogram of a stage (`duet_stage_seconds{stage}`). Where no service runs there is nobody to empty it, and nothing is measured.
pub(crate) struct StageMeter {
    stage: &'static str,
    seconds: OnceLock<Histogram>,
}

impl StageMeter {
    pub(crate) const fn new(stage: &'static str) -> Self {
        Self { stage, seconds: OnceLock::new() }
    }

    /// Measures from here to where the timer is dropped.
    pub(crate) fn start(&'static self) -> StageTimer {
        StageTimer { meter: self, started: Instant::now() }
    }
}

/// Measures a stage from its start to its end.
pub(crate) struct StageTimer {
    meter: &'static StageMeter,
    started: Instant,
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        if RECORDER.get().is_some() {
            let StageMeter { stage, seconds } = self.meter;
            let histogram = || metrics::histogram!("duet_stage_seconds", "stage" => *stage);
            seconds.get_or_init(histogram).record(self.started.elapsed().as_secs_f64());
        }
    }
}

fn recorder() -> &'static PrometheusHandle {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(&EDGES).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder of metrics is installed: /metrics stays empty");
        }
        describe();
        handle
    })
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("duet_requests_total", "Requests answered, by route and status.");
    describe_histogram!("duet_request_seconds", "Time to answer, without requests turned away.");
    describe_histogram!("duet_stage_seconds", "Time of a stage for a batch of lists.");
    describe_counter!("duet_shed_total", "Requests and connections turned away.");
    describe_counter!("duet_lists_total", "Lists served, by source.");
    describe_counter!("duet_degraded_total", "Lists from which something fell away, by what it was.");
    describe_counter!("duet_events_total", "Events accepted, by type.");
    describe_counter!("duet_swaps_total", "Bundles opened while serving, by outcome.");
    describe_counter!("duet_certificates_total", "New certificates read while serving, by outcome.");
    describe_gauge!("duet_queue_depth", "Requests waiting for a thread.");
    describe_gauge!("duet_connections", "Open connections.");
    describe_gauge!("duet_uptime_seconds", "Time since the start.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown_by_its_labels_and_nothing_else() {
        let meters = Meters::new();
        for _ in 0..2 {
            meters.request("/v1/artists/{id}/similar", StatusCode::OK, Duration::from_millis(3));
        }
        meters.request("/page/app.js", StatusCode::IM_A_TEAPOT, Duration::from_millis(3));
        meters.list(Source::SegmentTrending);
        static METER: StageMeter = StageMeter::new("of a test");
        drop(METER.start());
        meters.upkeep();
        let text = meters.render();
        for series in [
            "duet_requests_total{route=\"/v1/artists/{id}/similar\",status=\"200\"}",
            "duet_requests_total{route=\"other\",status=\"other\"}",
            "duet_lists_total{source=\"segment_trending\"}",
            "duet_stage_seconds_count{stage=\"of a test\"}",
            "duet_request_seconds_count{route=\"/v1/artists/{id}/similar\"}",
        ] {
            assert!(text.lines().any(|line| line.starts_with(series)), "{series} is not in {text}");
        }
        assert!(!text.contains("route=\"/readyz\",status=\"413\""), "{text}");
    }
}
