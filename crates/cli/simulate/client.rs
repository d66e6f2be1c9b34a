//! The listeners' side of HTTP: one request after the other, over a connection that is kept.
//!
//! One at a time on purpose: what a listener sees may depend on what others did before, so the order of requests is part of
//! the result.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use duet_core::{Error, event::Event};
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// Events of a request at most; the service takes 1,000, and 256 KiB.
const BATCH: usize = 400;
/// A service on the same machine that needs longer is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the simulation reads of a list.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct List {
    /// To be named by the events that come of it.
    pub(super) request_id: String,
    /// The arm of the listener.
    pub(super) variant: String,
    /// What fell away; empty when all went as meant.
    pub(super) degraded: Vec<String>,
    items: Vec<ListItem>,
}

#[derive(Debug, Clone, Deserialize)]
struct ListItem {
    item_id: String,
}

impl List {
    /// The artists, best first.
    pub(super) fn artists(&self) -> Vec<String> {
        self.items.iter().map(|item| item.item_id.clone()).collect()
    }
}

#[derive(Debug, Deserialize)]
struct Accepted {
    accepted: usize,
    rejected: Vec<Value>,
}

/// A connection to the service.
#[derive(Debug)]
pub(super) struct Client {
    base: String,
    runtime: Runtime,
    http: reqwest::Client,
}

impl Client {
    /// For the service at an address.
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("no runtime for the client")?;
        // The service closes connections that say nothing; such a one must not be taken up again. No proxy: it is this machine.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .pool_idle_timeout(Duration::from_secs(1))
            .build()
            .context("no HTTP client")?;
        Ok(Self { base: format!("http://{address}"), runtime, http })
    }

    /// The list of a listener who logs in.
    pub(super) fn recommendations(&self, user_id: &str, k: usize) -> Result<List> {
        let path = format!("/v1/users/{user_id}/recommendations?k={k}");
        let body = self.get(&path)?;
        serde_json::from_slice(&body).with_context(|| format!("GET {path}: not a list: {}", shown(&body)))
    }

    /// Reports events; all of them must be accepted.
    pub(super) fn report(&self, events: &[Event]) -> Result<()> {
        for events in events.chunks(BATCH) {
            let body = serde_json::to_vec(&serde_json::json!({ "events": events })).context("events as JSON")?;
            let url = format!("{}/v1/events", self.base);
            let request = self.http.post(&url).header("content-type", "application/json").body(body);
            let answer = self.answer("POST /v1/events", request)?;
            let accepted: Accepted = serde_json::from_slice(&answer)
                .with_context(|| format!("POST /v1/events: an unknown answer: {}", shown(&answer)))?;
            if accepted.accepted != events.len() || !accepted.rejected.is_empty() {
                bail!(Error::Internal(format!("POST /v1/events: of {} events: {}", events.len(), shown(&answer))));
            }
        }
        Ok(())
    }

    /// What the service says about itself.
    pub(super) fn status(&self) -> Result<Value> {
        let body = self.get("/v1/status")?;
        serde_json::from_slice(&body).with_context(|| format!("GET /v1/status: no JSON: {}", shown(&body)))
    }

    fn get(&self, path: &str) -> Result<Vec<u8>> {
        self.answer(&format!("GET {path}"), self.http.get(format!("{}{path}", self.base)))
    }

    fn answer(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Vec<u8>> {
        self.runtime.block_on(async {
            let response = request.send().await.with_context(|| format!("{what}: no answer"))?;
            let status = response.status();
            let body = response.bytes().await.with_context(|| format!("{what}: the answer broke off"))?;
            if !status.is_success() {
                bail!(Error::Internal(format!("{what}: {status}: {}", shown(&body))));
            }
            Ok(body.to_vec())
        })
    }
}

/// The beginning of a body, for messages.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned()
}
