//! The engine of `prepare` that sends its plans to a cluster.

use std::{fmt, time::Duration};

use ballista_core::extension::SessionStateExt;
use datafusion::{execution::SessionStateBuilder, prelude::SessionContext};
use duet_core::{Error, Result};
use duet_data::prepare::{BATCH_ROWS, Engine, Resources};
use futures::future::BoxFuture;
use reqwest::StatusCode;
use url::Url;

use crate::session;

/// The scheme of a cluster's address.
pub const SCHEME: &str = "ballista";
/// The port of a scheduler, where none is named.
pub const DEFAULT_PORT: u16 = 50050;
/// A scheduler answers within this time, or is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Days the scheduler is given at a time: enough tasks for a few dozen cores, and as many streams at this end.
const DAYS_SIDE_BY_SIDE: usize = 32;
/// Where there are fewer days, each is cut into parts that are sorted on several executors and merged on one; no more parts
/// than this. A task costs Ballista some 50 ms, so that more of them than cores help nobody.
const MOST_PARTITIONS: usize = 8;

/// A cluster, by the address of its scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEngine {
    host: String,
    port: u16,
}

impl fmt::Display for ClusterEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}://{}:{}", self.host, self.port)
    }
}

impl ClusterEngine {
    /// Reads `ballista://HOST` or `ballista://HOST:PORT`.
    ///
    /// # Errors
    /// [`Error::Input`] with the valid form.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::input(format!(
                "{text:?} is no cluster: valid is {SCHEME}://HOST:PORT, as in {SCHEME}://10.0.0.7:50050"
            ))
        };
        let url = Url::parse(text).map_err(|_| bad())?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        match url.host_str() {
            Some(host) if url.scheme() == SCHEME && bare && !host.is_empty() => {
                Ok(Self { host: host.to_owned(), port: url.port().unwrap_or(DEFAULT_PORT) })
            }
            _ => Err(bad()),
        }
    }

    /// Insists on a scheduler that has executors: a plan sent to one without would wait for them for ever.
    async fn check(&self) -> Result<()> {
        let Self { host, port } = self;
        let silent = |why: &dyn fmt::Display| {
            Error::input(format!(
                "{self}: no scheduler answers there ({why}); `duet-cluster scheduler --listen {host}:{port}` on that \
                 machine starts one"
            ))
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .map_err(|error| Error::Internal(format!("an HTTP client: {error}")))?;
        let answer = client.get(format!("http://{host}:{port}/readyz")).send().await.map_err(|error| {
            let why = if error.is_timeout() { "timed out" } else { "connection refused or broken" };
            silent(&why)
        })?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            StatusCode::SERVICE_UNAVAILABLE => Err(Error::input(format!(
                "{self}: the scheduler has no executors; `duet-cluster executor --scheduler {host}:{port}` starts one"
            ))),
            status => Err(silent(&format!("what answers is none: HTTP {status}"))),
        }
    }
}

impl Engine for ClusterEngine {
    fn session<'a>(&'a self, resources: &'a Resources<'a>) -> BoxFuture<'a, Result<SessionContext>> {
        Box::pin(async move {
            self.check().await?;
            let partitions = (DAYS_SIDE_BY_SIDE / resources.side_by_side).clamp(1, MOST_PARTITIONS);
            let failed = |error| Error::Internal(format!("{self}: a session: {error}"));
            let config = session::config()
                .with_target_partitions(partitions)
                .with_batch_size(BATCH_ROWS)
                .with_collect_statistics(false);
            let state = SessionStateBuilder::new()
                .with_default_features()
                .with_config(config)
                .with_runtime_env(session::runtime(None).map_err(failed)?)
                .build();
            let scheduler = format!("http://{}:{}", self.host, self.port);
            let state = state.upgrade_for_ballista(scheduler).map_err(failed)?;
            Ok(SessionContext::new_with_state(state))
        })
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn days_side_by_side(&self, _cores: usize) -> usize {
        DAYS_SIDE_BY_SIDE
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("ballista://localhost", "ballista://localhost:50050"),
            ("ballista://10.0.0.7:99/", "ballista://10.0.0.7:99"),
            ("ballista://[::1]:50050", "ballista://[::1]:50050"),
        ] {
            assert_eq!(ClusterEngine::parse(text).unwrap().to_string(), shown);
        }
        for text in ["ballista://", "ballista://h:x", "http://h:1", "ballista://h:1/path", "h:50050", ""] {
            let error = ClusterEngine::parse(text).unwrap_err().to_string();
            assert!(error.contains("ballista://HOST:PORT"), "{text}: {error}");
        }
    }
}
