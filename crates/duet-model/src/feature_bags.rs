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
        // Not the counts alone: an empty bag and one of two ids add up to two, too.
        self.bags.len() == self.rows * self.slots && self.bags.iter().zip(0..).all(|(&bag, at)| bag == at)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use burn::tensor::{Tensor, TensorData};

    use super::*;
    use crate::{device::DeviceChoice, embedding::to_host, tower::FeatureSum};

    /// Two rows of one slot.
    fn rows_of_bags(first: &[u32], second: &[u32]) -> FeatureRows {
        let table = EncodedTable {
            rows: 2,
            slots: 1,
            bag_offsets: vec![0, first.len() as u32, (first.len() + second.len()) as u32],
            bag_ids: [first, second].concat(),
            ..EncodedTable::default()
        };
        FeatureRows::collect(&table, [0, 1].into_iter(), &mut Unique::new(3))
    }

    #[test]
    fn bags_are_single_valued_one_by_one_not_on_average() {
        let cases: [(&[u32], &[u32], bool); 6] = [
            (&[2], &[1], true),
            (&[2], &[2], true),
            (&[], &[1, 2], false),
            (&[1, 2], &[], false),
            (&[1], &[], false),
            (&[1], &[0, 2], false),
        ];
        for (first, second, single) in cases {
            assert_eq!(rows_of_bags(first, second).is_single_valued(), single, "{first:?} {second:?}");
        }
    }

    #[test]
    fn an_empty_bag_beside_one_of_two_ids_gets_none_of_them() {
        let device = DeviceChoice::Cpu.open().unwrap().device;
        let features = rows_of_bags(&[], &[1, 2]);
        let embeddings = Tensor::<2>::from_data(TensorData::new(vec![1.0_f32, 10.0, 3.0, 30.0], [2, 2]), &device);
        let sums = FeatureSum::new(0, 2, &device).forward(Some(embeddings), &features, &device).unwrap();
        assert_eq!(to_host(sums).unwrap(), [0.0, 0.0, 2.0, 20.0]);
    }
}
