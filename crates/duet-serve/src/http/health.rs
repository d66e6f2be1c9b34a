//! `/healthz`, `/readyz` and `/metrics`: for balancers and for Prometheus.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderName, header::CONTENT_TYPE},
};

use super::error::{ApiError, ErrorBody};
use crate::app::AppState;

/// The format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")),
)]
pub async fn healthz() -> &'static str {
    "ok"
}

/// Whether requests should be sent here: a bundle is loaded, and no stop has come.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "They should", body = String, content_type = "text/plain"),
        (status = 503, description = "They should not, or no longer", body = ErrorBody),
    ),
)]
pub async fn readyz(State(app): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    if app.is_ready() { Ok("ready") } else { Err(ApiError::unavailable("the service is being stopped")) }
}

/// All measurements, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "The measurements", body = String, content_type = "text/plain")),
)]
pub async fn metrics(State(app): State<Arc<AppState>>) -> ([(HeaderName, &'static str); 1], String) {
    metrics::gauge!("duet_queue_depth").set(app.dispatcher.depth() as f64);
    metrics::gauge!("duet_uptime_seconds").set(app.stats.uptime_s());
    ([(CONTENT_TYPE, TEXT)], app.stats.render())
}
