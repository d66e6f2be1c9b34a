//! The shipped configuration that fits a dataset, and what the command line changes in it.

use std::path::Path;

use duet_core::{Error, Result, artifact::Manifest, config::Config};
use duet_data::dataset::{self, DatasetInfo, DatasetKind};
use fs_err as fs;

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
    let (name, text) = text(data, file)?;
    Config::resolve(&[(&name, &text)], settings)
}

/// The name and text of `file`, or of the shipped configuration of the dataset's kind.
///
/// # Errors
/// Those of reading the file or the dataset's manifest.
pub(crate) fn text(data: &Path, file: Option<&Path>) -> Result<(String, String)> {
    match file {
        Some(file) => Ok((file.display().to_string(), fs::read_to_string(file).map_err(Error::io(file))?)),
        None => {
            // The manifest alone: the training checks the files.
            let manifest = Manifest::<DatasetInfo>::open_unchecked(data, dataset::MAGIC, dataset::VERSION)?;
            let (name, text) = shipped(manifest.body.kind);
            tracing::info!(config = name, "configuration of the dataset's kind");
            Ok((name.to_owned(), text.to_owned()))
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
