//! Encoded features of the rows of a batch, in the form the towers take.

use duet_core::encoding::EncodedTable;

use crate::unique::Unique;

/// Features of n rows: bags of ids for each slot, dense values.
#[derive(Debug, Clone, Default)]
pub struct FeatureRows {
    /// Rows.
    pub rows: usize,
    /// Slots a row.
    pub slots: usize,
    /// Distinct feature ids of the batch (rows of the feature table).
    pub unique: Vec<u32>,
    /// Index into `unique` of every entry of every bag, bag after bag.
    pub entries: Vec<u32>,
    /// The bag (row * slots + slot) of every entry.
    pub bags: Vec<u32>,
    /// One over the size of the entry's bag.
    pub shares: Vec<f32>,
    /// Dense values a row.
    pub dense_width: usize,
    /// `[rows, dense_width]`, row-major.
    pub dense: Vec<f32>,
}

impl FeatureRows {
    /// Collects the given rows of a table.
    pub fn collect(table: &EncodedTable, rows: impl ExactSizeIterator<Item = u32>, unique: &mut Unique) -> Self {
        let mut out = Self {
            rows: rows.len(),
            slots: table.slots,
            dense_width: table.dense_width,
            dense: Vec::with_capacity(rows.len() * table.dense_width),
            ..Self::default()
        };
        unique.clear();
        for (index, row) in rows.enumerate() {
            for slot in 0..table.slots {
                let bag = table.bag(row as usize, slot);
                for &id in bag {
                    out.entries.push(unique.index(id));
                    out.bags.push((index * table.slots + slot) as u32);
                    out.shares.push(1.0 / bag.len() as f32);
                }
            }
            out.dense.extend_from_slice(table.dense_row(row as usize));
        }
        out.unique = unique.ids().to_vec();
        out
    }

    /// Whether every bag holds exactly one id, so that pooling is the identity.
    pub fn is_single_valued(&self) -> bool {
        self.entries.len() == self.rows * self.slots
    }
}
