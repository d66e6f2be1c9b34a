//! Artists that were shown, and whether they were clicked, where the dataset has such.

use arrow::{
    array::{Array, BooleanArray, Float64Array, Int64Array, UInt8Array, UInt32Array},
    datatypes::DataType,
};
use duet_core::{Error, ItemIdx, Result, UserIdx, event::ItemKind};

use super::{
    Dataset,
    parquet_file::{Reader, optional, required},
};
use crate::prepare::IMPRESSIONS_FILE;

/// An artist shown to a user in the training period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArtistImpression {
    /// To whom.
    pub user: UserIdx,
    /// Which.
    pub item: ItemIdx,
    /// When, milliseconds since 1970-01-01 UTC.
    pub timestamp_ms: i64,
    /// At which place of the list, from 0, where that is known.
    pub position: Option<u32>,
    /// Whether it was clicked.
    pub clicked: bool,
    /// The artist's followers as of the day before, where they are known.
    pub followers: Option<f64>,
}

/// In the order of the file: that is how they are read.
const COLUMNS: [(&str, DataType); 7] = [
    ("user", DataType::UInt32),
    ("item_kind", DataType::UInt8),
    ("item", DataType::UInt32),
    ("timestamp_ms", DataType::Int64),
    ("position", DataType::UInt32),
    ("clicked", DataType::Boolean),
    ("followers", DataType::Float64),
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
            let times = required::<Int64Array>(&path, &batch, 3, first_row)?.values();
            let positions = optional::<UInt32Array>(&path, &batch, 4)?;
            let clicked = required::<BooleanArray>(&path, &batch, 5, first_row)?;
            let followers = optional::<Float64Array>(&path, &batch, 6)?;
            for row in (0..batch.num_rows()).filter(|&row| kinds[row] == ItemKind::Artist as u8) {
                let (user, item) = (users[row], items[row]);
                if u64::from(user) >= self.info.counts.users || u64::from(item) >= self.info.counts.items {
                    return Err(Error::data_row(
                        &path,
                        first_row + row as u64,
                        format!("user {user}, item {item}: beyond the users or items of the vocabulary"),
                    ));
                }
                each(ArtistImpression {
                    user: UserIdx(user),
                    item: ItemIdx(item),
                    timestamp_ms: times[row],
                    position: positions.is_valid(row).then(|| positions.value(row)),
                    clicked: clicked.value(row),
                    followers: followers.is_valid(row).then(|| followers.value(row)),
                });
            }
            first_row += batch.num_rows() as u64;
        }
        Ok(true)
    }
}
