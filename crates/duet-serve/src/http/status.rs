//! `GET /v1/status`: the health of the service and of what it serves, for the operator's view.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::{app::AppState, swap::SwapRecord};

/// Lines of the history of champions that are shown.
const HISTORY_LINES: usize = 20;

/// The state of the service.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StatusBody {
    /// The bundle that serves.
    pub bundle: String,
    /// Since when, RFC 3339 in UTC.
    pub bundle_opened_at: String,
    /// Artists in it.
    pub items: usize,
    /// Users in it.
    pub users: usize,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Requests waiting for a thread.
    pub queue_depth: usize,
    /// Requests answered, those turned away included.
    pub requests_total: u64,
    /// Requests and connections turned away.
    pub shed_total: u64,
    /// Lists from which something fell away.
    pub degraded_total: u64,
    /// Of the last 60 seconds.
    pub requests_per_second: f64,
    /// Of the last 60 seconds.
    pub latency_ms: LatencyBody,
    /// The variants of the test.
    pub variants: Vec<VariantBody>,
    /// Lists by source.
    pub sources: BTreeMap<&'static str, u64>,
    /// Among the events this process has seen; null without impressions.
    pub clicks_per_100_impressions: Option<f64>,
    /// The share of the catalogue in the last 10,000 lists.
    pub coverage: f64,
    /// Bundles opened while serving, the newest last.
    pub swaps: Vec<SwapRecord>,
    /// The last lines of the history of champions, the newest last.
    #[schema(value_type = Vec<Object>)]
    pub champion_history: Vec<Value>,
    /// The last result of `duet monitor`, where `monitor.file` names it.
    #[schema(value_type = Option<Object>)]
    pub monitor: Option<Value>,
}

/// Time to answer, in milliseconds; null without requests.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LatencyBody {
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

/// A variant as configured.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct VariantBody {
    /// Its name.
    pub name: String,
    /// Its share of the listeners.
    pub share: f64,
    /// What recommends.
    pub recommender: String,
    /// Whether the boosted trees order the list.
    pub rerank: bool,
}

/// The state of the service.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "operation",
    responses((status = 200, description = "The state", body = StatusBody)),
)]
pub async fn get_status(State(app): State<Arc<AppState>>) -> Result<Json<StatusBody>, ApiError> {
    // Files are read, and the items of thousands of lists counted.
    let body = tokio::task::spawn_blocking(move || status(&app)).await.map_err(ApiError::internal)?;
    Ok(Json(body))
}

fn status(app: &AppState) -> StatusBody {
    let engine = app.slot.load_full();
    let recent = app.stats.recent();
    let items = engine.items().ids.len();
    let swaps = app.swaps.records();
    let serving = swaps.iter().rev().find(|swap| swap.outcome == "serving");
    let variants = app.config.variants.iter().map(|variant| VariantBody {
        name: variant.name.clone(),
        share: variant.share,
        recommender: variant.recommender.clone(),
        rerank: variant.rerank,
    });
    StatusBody {
        bundle: engine.bundle().to_owned(),
        bundle_opened_at: serving.map(|swap| swap.at.clone()).unwrap_or_default(),
        items,
        users: engine.user_ids().len(),
        uptime_seconds: app.stats.uptime_s(),
        queue_depth: app.dispatcher.depth(),
        requests_total: app.stats.requests_total(),
        shed_total: app.stats.shed_total(),
        degraded_total: app.stats.degraded_total(),
        requests_per_second: recent.requests_per_second,
        latency_ms: LatencyBody { p50: recent.p50_ms, p99: recent.p99_ms },
        variants: variants.collect(),
        sources: app.stats.lists_by_source().map(|(source, count)| (source.as_str(), count)).collect(),
        clicks_per_100_impressions: app.stats.clicks_per_100_impressions(),
        coverage: app.stats.coverage(items),
        swaps,
        champion_history: app.champion_history.as_deref().map(last_lines).unwrap_or_default(),
        monitor: last_monitor(&app.config.monitor.file),
    }
}

/// The last lines of a file of JSON lines; none where there is no file, for not every link has a history.
fn last_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(HISTORY_LINES)..];
    last.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn last_monitor(path: &str) -> Option<Value> {
    if path.is_empty() {
        return None;
    }
    let read = fs_err::read(path).map_err(|error| error.to_string());
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}")));
    // The monitor may not have run yet.
    parsed.inspect_err(|error| tracing::debug!(%error, "no result of the monitor")).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_history_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("champion.jsonl");
        assert!(last_lines(&path).is_empty());
        let text: String = (0..30).map(|number| format!("{{\"bundle\":{number}}}\n")).collect();
        std::fs::write(&path, text + "torn").unwrap();
        let lines = last_lines(&path);
        assert_eq!((lines.len(), &lines[18]["bundle"]), (19, &Value::from(29)));
    }

    #[test]
    fn a_monitor_is_shown_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitor.json").display().to_string();
        assert_eq!(last_monitor(""), None);
        assert_eq!(last_monitor(&path), None);
        std::fs::write(&path, "{\"verdict\":\"fine\"}").unwrap();
        assert_eq!(last_monitor(&path).unwrap()["verdict"], "fine");
    }
}
