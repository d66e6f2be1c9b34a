//! Artists that were shown, and whether they were clicked, where the dataset has such.

use arrow::{
    array::{BooleanArray, UInt8Array, UInt32Array},
    datatypes::DataType,
};
use duet_core::{Error, ItemIdx, Result, UserIdx, event::ItemKind};

use super::{
    Dataset,
    parquet_file::{Reader, required},
};
use crate::prepare::IMPRESSIONS_FILE;

/// An artist shown to a user in the training period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtistImpression {
    /// To whom.
    pub user: UserIdx,
    /// Which.
    pub item: ItemIdx,
    /// Whether it was clicked.
    pub clicked: bool,
}

const COLUMNS: [(&str, DataType); 4] = [
    ("user", DataType::UInt32),
    ("item_kind", DataType::UInt8),
    ("item", DataType::UInt32),
    ("clicked", DataType::Boolean),
];

impl Dataset {
    /// Hands over the impressions of artists, users ascending; false if the dataset has no impressions.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and the row of an index beyond the vocabulary.
    pub fn for_each_artist_impression(&self, mut each: impl FnMut(ArtistImpression)) -> Result<bool> {
        let path = self.dir.join(IMPRESSIONS_FILE);
        if !path.exists() {
            return Ok(false);
        }
        let reader = Reader::open(&path)?;
        let fields = reader.fields();
        let place = |(name, kind): &(&str, DataType)| {
            fields
                .iter()
                .position(|(field, found)| field == name && found == kind)
                .ok_or_else(|| Error::data(&path, format!("no column {name:?} of type {kind}")))
        };
        let places: Vec<usize> = COLUMNS.iter().map(place).collect::<Result<_>>()?;
        let mut first_row = 1;
        for batch in reader.batches(Some(&places))? {
            let batch = batch?;
            let users = required::<UInt32Array>(&path, &batch, 0, first_row)?.values();
            let kinds = required::<UInt8Array>(&path, &batch, 1, first_row)?.values();
            let items = required::<UInt32Array>(&path, &batch, 2, first_row)?.values();
            let clicked = required::<BooleanArray>(&path, &batch, 3, first_row)?;
            for row in (0..batch.num_rows()).filter(|&row| kinds[row] == ItemKind::Artist as u8) {
                let (user, item) = (users[row], items[row]);
                if u64::from(user) >= self.info.counts.users || u64::from(item) >= self.info.counts.items {
                    return Err(Error::data_row(
                        &path,
                        first_row + row as u64,
                        format!("user {user}, item {item}: beyond the users or items of the vocabulary"),
                    ));
                }
                each(ArtistImpression { user: UserIdx(user), item: ItemIdx(item), clicked: clicked.value(row) });
            }
            first_row += batch.num_rows() as u64;
        }
        Ok(true)
    }
}
