//! The users of a dataset who were forgotten: by pseudonym, so that later prepares leave them out.

use std::{collections::BTreeSet, path::Path};

use duet_core::{Error, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::accounts::Pseudonym;

/// The file inside the dataset; absent where nobody was forgotten.
pub const FORGOTTEN_FILE: &str = "forgotten.json";

/// The content of [`FORGOTTEN_FILE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgottenList {
    pub(super) pseudonyms: BTreeSet<String>,
}

impl ForgottenList {
    /// The list of the dataset at `dataset`.
    ///
    /// # Errors
    /// [`Error::Data`] if the file is no list of pseudonyms.
    pub fn read(dataset: &Path) -> Result<Self> {
        let path = dataset.join(FORGOTTEN_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let bad = |why: String| Error::data(&path, format!("not a list of pseudonyms: {why}"));
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let list: Self = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        match list.pseudonyms.iter().find(|text| Pseudonym::from_hex(text).is_none()) {
            Some(_) => Err(bad("an entry is not 32 hex digits".to_owned())),
            None => Ok(list),
        }
    }

    /// Writes the list into the directory of a dataset in the making; an empty one is no file.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self, dataset: &Path) -> Result<()> {
        if self.pseudonyms.is_empty() {
            return Ok(());
        }
        let path = dataset.join(FORGOTTEN_FILE);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Internal(format!("{FORGOTTEN_FILE}: {error}")))?;
        fs::write(&path, text + "\n").map_err(Error::io(&path))
    }

    /// The pseudonyms.
    pub fn iter(&self) -> impl Iterator<Item = Pseudonym> {
        self.pseudonyms.iter().filter_map(|text| Pseudonym::from_hex(text))
    }
}
