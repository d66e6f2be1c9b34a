//! What the service counts: for Prometheus, and for `/v1/status`.
//!
//! What Prometheus reads is of the whole process (`meters.rs`). What the status shows is of this server alone: totals, and a window of the
//! last 60 seconds.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use duet_core::{ItemIdx, event::EventType};

use crate::{
    meters::Meters,
    request::{Answer, Source},
};

/// Seconds of the window.
const WINDOW_S: u64 = 60;
/// Lists whose items are counted for the coverage.
const COVERAGE_LISTS: usize = 10_000;

/// The measurements of a server.
pub struct Stats {
    started: Instant,
    meters: Meters,
    requests: AtomicU64,
    shed: AtomicU64,
    degraded: AtomicU64,
    impressions: AtomicU64,
    clicks: AtomicU64,
    sources: [AtomicU64; Source::ALL.len()],
    window: Mutex<Window>,
    recent: Mutex<VecDeque<Box<[ItemIdx]>>>,
}

/// The last 60 seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recent {
    /// Requests a second.
    pub requests_per_second: f64,
    /// The median of the time to answer, in milliseconds; nothing without requests.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of it.
    pub p99_ms: Option<f64>,
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

impl Stats {
    /// Starts counting; the first call in a process installs the recorder.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            meters: Meters::new(),
            requests: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            degraded: AtomicU64::new(0),
            impressions: AtomicU64::new(0),
            clicks: AtomicU64::new(0),
            sources: [const { AtomicU64::new(0) }; Source::ALL.len()],
            window: Mutex::new(Window::new()),
            recent: Mutex::new(VecDeque::with_capacity(COVERAGE_LISTS)),
        }
    }

    /// Counts a list that is about to be shown.
    pub fn list(&self, answer: &Answer) {
        self.sources[answer.source.index()].fetch_add(1, Ordering::Relaxed);
        self.meters.list(answer.source);
        if !answer.degraded.is_empty() {
            self.degraded.fetch_add(1, Ordering::Relaxed);
        }
        for why in &answer.degraded {
            metrics::counter!("duet_degraded_total", "why" => *why).increment(1);
        }
        let items: Box<[ItemIdx]> = answer.items.iter().map(|entry| entry.item).collect();
        let mut recent = lock(&self.recent);
        if recent.len() == COVERAGE_LISTS {
            recent.pop_front();
        }
        recent.push_back(items);
    }

    /// Counts an event that was accepted.
    pub fn event(&self, event_type: EventType) {
        match event_type {
            EventType::Impression => self.impressions.fetch_add(1, Ordering::Relaxed),
            EventType::Click => self.clicks.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        metrics::counter!("duet_events_total", "type" => event_type.as_str()).increment(1);
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, route: &str, status: StatusCode, elapsed: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.meters.request(route, status, elapsed);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // The time of a refusal says nothing about that of answers.
            return self.count_shed();
        }
        lock(&self.window).record(self.started.elapsed().as_secs(), elapsed);
    }

    /// Counts a request, or a connection, that was turned away.
    pub(crate) fn count_shed(&self) {
        self.shed.fetch_add(1, Ordering::Relaxed);
        self.meters.shed();
    }

    /// Items of another bundle have other rows: the coverage starts anew.
    pub(crate) fn forget_coverage(&self) {
        lock(&self.recent).clear();
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Requests answered, those turned away included.
    pub fn requests_total(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests and connections turned away.
    pub fn shed_total(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// Lists from which something fell away.
    pub fn degraded_total(&self) -> u64 {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Lists by source.
    pub fn lists_by_source(&self) -> impl Iterator<Item = (Source, u64)> + '_ {
        Source::ALL.into_iter().zip(&self.sources).map(|(source, count)| (source, count.load(Ordering::Relaxed)))
    }

    /// Clicks per 100 impressions among the events seen; nothing without impressions.
    pub fn clicks_per_100_impressions(&self) -> Option<f64> {
        let impressions = self.impressions.load(Ordering::Relaxed);
        (impressions > 0).then(|| 100.0 * self.clicks.load(Ordering::Relaxed) as f64 / impressions as f64)
    }

    /// The share of a catalogue of `items` that the last 10,000 lists showed.
    pub fn coverage(&self, items: usize) -> f64 {
        if items == 0 {
            return 0.0;
        }
        // Copied under the lock, counted outside of it: requests wait for the copy only.
        let shown: Vec<ItemIdx> = lock(&self.recent).iter().flat_map(|list| list.iter().copied()).collect();
        let distinct: HashSet<usize> = shown.iter().map(|item| item.index()).filter(|row| *row < items).collect();
        distinct.len() as f64 / items as f64
    }

    /// The last 60 seconds.
    pub fn recent(&self) -> Recent {
        let now_s = self.started.elapsed().as_secs();
        let window = lock(&self.window);
        let counts = window.counts(now_s);
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let quantile = |share: f64| quantile(&counts, total, share).map(|micros| micros / 1000.0);
        Recent {
            requests_per_second: total as f64 / self.uptime_s().clamp(1.0, WINDOW_S as f64),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }

    /// All measurements of the process, as Prometheus reads them.
    pub(crate) fn render(&self) -> String {
        self.meters.render()
    }

    /// Moves samples into their histograms; without it they would pile up until somebody asks for them.
    pub(crate) fn upkeep(&self) {
        self.meters.upkeep();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buckets a power of two is cut into: quantiles are exact to 1/16.
const CUTS: usize = 16;
/// Times up to 2^27 microseconds, two minutes.
const POWERS: usize = 27;
const BUCKETS: usize = (POWERS - 3) * CUTS;

/// Times to answer by second, in buckets that grow with the time.
struct Window {
    seconds: Vec<Second>,
}

#[derive(Clone)]
struct Second {
    /// Which second this is, counted from the start.
    at: u64,
    counts: Box<[u32]>,
}

impl Window {
    fn new() -> Self {
        Self { seconds: vec![Second { at: 0, counts: vec![0; BUCKETS].into() }; WINDOW_S as usize] }
    }

    fn record(&mut self, now_s: u64, elapsed: Duration) {
        let second = &mut self.seconds[(now_s % WINDOW_S) as usize];
        if second.at != now_s {
            second.counts.fill(0);
            second.at = now_s;
        }
        second.counts[bucket(elapsed.as_micros() as u64)] += 1;
    }

    fn counts(&self, now_s: u64) -> Vec<u32> {
        let mut sum = vec![0; BUCKETS];
        for second in self.seconds.iter().filter(|second| second.at <= now_s && now_s - second.at < WINDOW_S) {
            for (sum, count) in sum.iter_mut().zip(&second.counts) {
                *sum += count;
            }
        }
        sum
    }
}

/// The bucket of a time: below 16 each microsecond has its own, above each power of two has 16.
fn bucket(micros: u64) -> usize {
    if micros < CUTS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    let cut = (micros >> (power - 4)) as usize - CUTS;
    ((power - 3) * CUTS + cut).min(BUCKETS - 1)
}

/// The lowest time of a bucket, in microseconds.
fn floor_of(bucket: usize) -> f64 {
    if bucket < CUTS {
        return bucket as f64;
    }
    let (power, cut) = (bucket / CUTS + 3, bucket % CUTS);
    (((CUTS + cut) as u64) << (power - 4)) as f64
}

/// The middle of the bucket in which the quantile lies.
fn quantile(counts: &[u32], total: u64, share: f64) -> Option<f64> {
    let rank = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += u64::from(*count);
        seen >= rank
    })?;
    Some((floor_of(found) + floor_of(found + 1)) / 2.0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request::AnswerItem;

    fn answer(source: Source, degraded: Vec<&'static str>, items: &[u32]) -> Answer {
        let items = items.iter().map(|&item| AnswerItem { item: ItemIdx(item), score: 0.0, reasons: Vec::new() });
        Answer { source, degraded, items: items.collect() }
    }

    proptest! {
        #[test]
        fn buckets_hold_their_times(micros in 0_u64..100_000_000) {
            let found = bucket(micros);
            prop_assert!(floor_of(found) <= micros as f64 && (micros as f64) < floor_of(found + 1));
        }

        #[test]
        fn quantiles_are_near_the_sorted_ones(times in prop::collection::vec(1_u64..1_000_000, 1..200)) {
            let mut window = Window::new();
            for micros in &times {
                window.record(0, Duration::from_micros(*micros));
            }
            let counts = window.counts(0);
            let mut sorted = times.clone();
            sorted.sort_unstable();
            for share in [0.5, 0.99] {
                let rank = (times.len() as f64 * share).ceil() as usize;
                let exact = sorted[rank.max(1) - 1] as f64;
                let found = quantile(&counts, times.len() as u64, share).unwrap();
                prop_assert!((found - exact).abs() <= exact / 16.0 + 1.0, "{found} for {exact}");
            }
        }
    }

    #[test]
    fn the_window_forgets_after_a_minute() {
        let mut window = Window::new();
        for now_s in 0..200 {
            window.record(now_s, Duration::from_micros(100));
        }
        let total = |now_s| window.counts(now_s).iter().sum::<u32>();
        assert_eq!([total(199), total(200), total(258), total(259)], [60, 59, 1, 0]);
        assert_eq!(quantile(&window.counts(259), 0, 0.5), None);
    }

    #[test]
    fn lists_and_events_are_counted() {
        let stats = Stats::new();
        assert_eq!(stats.clicks_per_100_impressions(), None);
        stats.list(&answer(Source::Personal, vec![], &[0, 1]));
        stats.list(&answer(Source::Trending, vec!["deadline"], &[1, 2, 900]));
        for event_type in [EventType::Impression, EventType::Impression, EventType::Click, EventType::Listen] {
            stats.event(event_type);
        }
        assert_eq!(stats.clicks_per_100_impressions(), Some(50.0));
        assert_eq!(stats.coverage(10), 0.3);
        assert_eq!(stats.degraded_total(), 1);
        let by_source: Vec<u64> = stats.lists_by_source().map(|(_, count)| count).collect();
        assert_eq!(by_source, [1, 0, 0, 1, 0]);
        stats.forget_coverage();
        assert_eq!(stats.coverage(10), 0.0);
    }

    #[test]
    fn requests_are_in_the_window_and_in_what_prometheus_reads() {
        let stats = Stats::new();
        for _ in 0..10 {
            stats.request("/v1/events", StatusCode::OK, Duration::from_millis(2));
        }
        stats.request("/v1/events", StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(60));
        let recent = stats.recent();
        assert!((recent.p99_ms.unwrap() - 2.0).abs() < 0.2, "{recent:?}");
        assert_eq!((stats.requests_total(), stats.shed_total()), (11, 1));
        stats.upkeep();
        let text = stats.render();
        assert!(text.contains("duet_requests_total{route=\"/v1/events\",status=\"503\"}"), "{text}");
        assert!(text.contains("duet_request_seconds_bucket{route=\"/v1/events\",le=\"0.001\"}"), "{text}");
    }
}
