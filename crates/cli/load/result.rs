//! What a load brought back.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde::Serialize;

use super::soak::Memory;

/// Distinct messages of failures that are kept.
const MESSAGES: usize = 5;
/// The service refuses what it has no room for.
const REFUSED: u16 = 503;

/// All answers, or those of one connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Of answers that are no refusals, in microseconds.
    accepted: Vec<u32>,
    /// Of refusals.
    refused: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
    bytes: u64,
    failures: BTreeMap<String, u64>,
    pub(super) elapsed: Duration,
}

impl Answers {
    pub(super) fn push(&mut self, status: u16, took: Duration, bytes: usize) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if status == REFUSED {
            self.refused.push(micros)
        } else {
            self.accepted.push(micros)
        }
        *self.statuses.entry(status).or_default() += 1;
        self.bytes += bytes as u64;
    }

    /// A request without an answer.
    pub(super) fn fail(&mut self, message: String) {
        *self.failures.entry(message).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.bytes += other.bytes;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (message, count) in other.failures {
            *self.failures.entry(message).or_default() += count;
        }
    }
}

/// Times of answers, in milliseconds from when the request was due.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latency {
    /// Nothing of nothing.
    fn of(mut micros: Vec<u32>) -> Option<Self> {
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        // The smallest time that so large a share of all answers did not exceed.
        let quantile = |share: f64| {
            let rank = (share * micros.len() as f64).ceil() as usize;
            f64::from(micros[rank.saturating_sub(1).min(last)]) / 1e3
        };
        Some(Self {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: quantile(1.0),
        })
    }
}

/// What people and programs read.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Answered or failed.
    pub(super) requests: u64,
    pub(super) seconds: f64,
    /// Answers a second, refusals left out.
    pub(super) accepted_per_second: f64,
    /// By status.
    pub(super) statuses: BTreeMap<String, u64>,
    /// Requests without an answer, by message.
    failed: BTreeMap<String, u64>,
    mean_bytes: f64,
    accepted_ms: Option<Latency>,
    refused_ms: Option<Latency>,
    /// Of the service, where its process is known.
    pub(super) memory: Option<Memory>,
}

impl Summary {
    pub(super) fn of(answers: Answers) -> Self {
        let answered: u64 = answers.statuses.values().sum();
        let seconds = answers.elapsed.as_secs_f64();
        Self {
            requests: answered + answers.failures.values().sum::<u64>(),
            seconds,
            accepted_per_second: answers.accepted.len() as f64 / seconds.max(f64::MIN_POSITIVE),
            statuses: answers.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect(),
            failed: answers.failures,
            mean_bytes: answers.bytes as f64 / answered.max(1) as f64,
            accepted_ms: Latency::of(answers.accepted),
            refused_ms: Latency::of(answers.refused),
            memory: None,
        }
    }

    /// What is wrong with the answers, if anything is: statuses of 400 and more but for refusals, and requests without an answer.
    pub(super) fn failures(&self) -> Option<String> {
        let statuses = self
            .statuses
            .iter()
            .filter(|(status, _)| status.as_str() >= "400" && **status != REFUSED.to_string())
            .map(|(status, count)| format!("{count} answers with status {status}"));
        let failed = self.failed.iter().take(MESSAGES).map(|(message, count)| format!("{count} requests: {message}"));
        let all: Vec<String> = statuses.chain(failed).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let statuses: Vec<String> = self.statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        let failed: u64 = self.failed.values().sum();
        let _ = writeln!(
            text,
            "{} requests in {:.1} s: {}, {failed} failed; {:.0} accepted a second, {:.0} bytes each",
            self.requests,
            self.seconds,
            statuses.join(", "),
            self.accepted_per_second,
            self.mean_bytes
        );
        for (what, latency) in [("accepted", &self.accepted_ms), ("refused", &self.refused_ms)] {
            if let Some(Latency { p50, p90, p99, p999, max }) = latency {
                let _ = writeln!(
                    text,
                    "{what}: p50 {p50:.2} ms, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, at most {max:.2}"
                );
            }
        }
        if let Some(memory) = &self.memory {
            let _ = writeln!(text, "{memory}");
        }
        text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let latency = Latency::of((1..=1000).rev().map(|milli| milli * 1000).collect()).unwrap();
        assert_eq!(
            [latency.p50, latency.p90, latency.p99, latency.p999, latency.max],
            [500.0, 900.0, 990.0, 999.0, 1000.0]
        );
        assert_eq!(Latency::of(vec![2500]).unwrap().p50, 2.5);
        assert!(Latency::of(Vec::new()).is_none());
    }

    #[test]
    fn refusals_are_no_failures_and_everything_else_is() {
        let mut answers = Answers { elapsed: Duration::from_secs(2), ..Answers::default() };
        answers.push(200, Duration::from_millis(1), 10);
        answers.push(503, Duration::from_millis(9), 10);
        let summary = Summary::of(answers);
        assert_eq!((summary.requests, summary.accepted_per_second), (2, 0.5));
        assert!(summary.failures().is_none());
        assert!(summary.table().contains("1 x 200, 1 x 503, 0 failed"), "{}", summary.table());

        let mut answers = Answers::default();
        answers.push(500, Duration::from_millis(1), 10);
        answers.fail("closed".to_owned());
        answers.fail("closed".to_owned());
        let failures = Summary::of(answers).failures().unwrap();
        assert!(
            failures.contains("1 answers with status 500") && failures.contains("2 requests: closed"),
            "{failures}"
        );
    }
}
