//! The shipped configuration that fits a dataset, and what the command line changes in it.

use std::path::Path;

use duet_core::{Result, artifact::Manifest, config::Config};
use duet_data::dataset::{self, DatasetInfo, DatasetKind};

/// The configuration for a kind of data: its name and text.
pub(crate) fn shipped(kind: DatasetKind) -> (&'static str, &'static str) {
    match kind {
        DatasetKind::Sequences => ("configs/sequences.toml", include_str!("../../configs/sequences.toml")),
        DatasetKind::Sets => ("configs/sets.toml", include_str!("../../configs/sets.toml")),
        DatasetKind::Events => ("configs/events.toml", include_str!("../../configs/events.toml")),
    }
}

/// Resolves the configuration of a training: `file`, or the shipped one of the dataset's kind, then `settings`.
///
/// # Errors
/// Those of reading the dataset's manifest and of [`Config::resolve`].
pub(crate) fn resolve(data: &Path, file: Option<&Path>, settings: &[String]) -> Result<Config> {
    match file {
        Some(file) => Config::load(file, settings),
        None => {
            // The manifest alone: the training checks the files.
            let manifest = Manifest::<DatasetInfo>::open_unchecked(data, dataset::MAGIC, dataset::VERSION)?;
            let shipped = shipped(manifest.body.kind);
            tracing::info!(config = shipped.0, "configuration of the dataset's kind");
            Config::resolve(&[shipped], settings)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn shipped_configurations_are_valid() {
        for kind in [DatasetKind::Sequences, DatasetKind::Sets, DatasetKind::Events] {
            Config::resolve(&[shipped(kind)], &[]).unwrap();
        }
    }
}
