//! `--engine`: where the plans over raw lines run.

use std::sync::Arc;

use duet_core::{Error, Result};
use duet_data::prepare::{Embedded, Engine};

/// The name of the engine in this process.
pub(crate) const EMBEDDED: &str = "embedded";

/// Reads `embedded` or `ballista://HOST:PORT`.
///
/// # Errors
/// [`Error::Input`] listing the valid forms, or saying how duet must be built.
pub(crate) fn parse(text: &str) -> Result<Arc<dyn Engine>> {
    match text.split_once("://") {
        None if text == EMBEDDED => Ok(Arc::new(Embedded)),
        Some(("ballista", _)) => cluster(text),
        _ => Err(Error::input(format!("--engine {text:?}: valid are {EMBEDDED}, ballista://HOST:PORT"))),
    }
}

#[cfg(feature = "ballista")]
fn cluster(text: &str) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(duet_cluster::ClusterEngine::parse(text)?))
}

#[cfg(not(feature = "ballista"))]
fn cluster(text: &str) -> Result<Arc<dyn Engine>> {
    Err(Error::input(format!("--engine {text}: this duet knows no clusters: build it with --features ballista")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn engines() {
        assert!(!parse(EMBEDDED).unwrap().is_remote());
        for text in ["", "spark://host:1", "ballista"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("valid are embedded, ballista://HOST:PORT"), "{error}");
        }
        match parse("ballista://host:50050") {
            Ok(engine) => assert!(cfg!(feature = "ballista") && engine.is_remote()),
            Err(error) => assert!(!cfg!(feature = "ballista") && error.to_string().contains("--features ballista")),
        }
    }
}
