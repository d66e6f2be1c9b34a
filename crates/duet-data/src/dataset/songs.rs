//! The dataset of songs inside a prepared dataset: the same users, songs for items.
//!
//! It is a dataset in every respect, with its own manifest, and part of the outer one, whose manifest lists all of its files: both
//! appear at once, and neither changes without the other.

use std::path::Path;

use duet_core::{
    Error, Result,
    artifact::{MANIFEST, Manifest, write_manifest},
};
use fs_err as fs;

use super::{Dataset, DatasetInfo, MAGIC, SONGS_DIR, VERSION};

impl Dataset {
    /// The dataset of songs inside this one, where there is one. Its users are the same rows in the same order.
    ///
    /// # Errors
    /// [`Error::Data`] naming the manifest that is damaged or of another kind or version.
    pub fn songs(&self) -> Result<Option<Self>> {
        let dir = self.dir.join(SONGS_DIR);
        if !dir.join(MANIFEST).exists() {
            return Ok(None);
        }
        // The outer manifest lists its files, the manifest among them: all were verified when the outer dataset was opened.
        let manifest = Manifest::open_unchecked(&dir, MAGIC, VERSION)?;
        Self::of_manifest(&dir, manifest).map(Some)
    }
}

/// Writes the manifest of the dataset of songs in `dir` over every file there, while the outer dataset is in the making.
///
/// # Errors
/// [`Error::Io`] with the path.
pub(crate) fn seal_songs(dir: &Path, info: &DatasetInfo) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        names.push(entry.map_err(Error::io(dir))?.file_name().to_string_lossy().into_owned());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    write_manifest(&dir.join(MANIFEST), MAGIC, VERSION, &names, info)
}
