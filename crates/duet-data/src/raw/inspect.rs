//! Looking at a zone as a whole, from code that is not asynchronous.

use std::path::Path;

use duet_core::{Error, Result};

use super::{RawZone, log};
use crate::store::Location;

/// Whether a directory looks like a zone.
pub fn is_zone(path: &Path) -> bool {
    path.join(log::DIRECTORY).is_dir()
}

/// Opens a zone and checks every part, byte for byte.
///
/// Blocks the calling thread; must not be called from asynchronous code.
///
/// # Errors
/// [`Error::Data`] naming the log entry or part that is missing or damaged; [`Error::Io`].
pub fn inspect(location: Location) -> Result<RawZone> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let zone = RawZone::open(location).await?;
        zone.verify().await?;
        for part in zone.parts() {
            zone.read_part(part).await?;
        }
        Ok(zone)
    })
}
