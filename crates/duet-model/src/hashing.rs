//! Hashed rows: a table of fewer rows than there are items, each item the sum of a few rows.
//!
//! With two hashes, two items share all their rows with probability `1 / buckets^2` rather than `1 / buckets` (Svenstrup et
//! al., "Hash Embeddings for Efficient Word Representations", 2017, without the importance weights).

use burn::tensor::{Device, Tensor};
use duet_core::mixing::splitmix64;

use crate::{embedding::indices, unique::Unique};

/// How the items of a table find their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowMap {
    /// Item `i` has row `i`.
    Identity,
    /// Item `i` is the sum of `hashes` rows of `buckets`.
    Hashed {
        /// Rows of the table.
        buckets: u32,
        /// Rows an item.
        hashes: u32,
    },
}

/// The rows that a list of items needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Distinct rows of the table.
    pub rows: Vec<u32>,
    /// `[items, hashes]`: index into `rows`; absent when item `n` is row `n` of the list.
    index: Option<(Vec<u32>, usize)>,
}

impl RowMap {
    /// Rows of a table for `items` items.
    pub fn table_rows(self, items: usize) -> usize {
        match self {
            Self::Identity => items,
            Self::Hashed { buckets, .. } => buckets as usize,
        }
    }

    /// The rows of distinct `items`. `unique` must be able to number every row of the table.
    pub fn rows(self, items: &[u32], unique: &mut Unique) -> Rows {
        match self {
            Self::Identity => Rows::plain(items),
            Self::Hashed { buckets, hashes } => {
                unique.clear();
                let index = items
                    .iter()
                    .flat_map(|&item| (0..hashes).map(move |hash| bucket(item, hash, buckets)))
                    .map(|row| unique.index(row))
                    .collect();
                Rows { rows: unique.ids().to_vec(), index: Some((index, hashes as usize)) }
            }
        }
    }
}

impl Rows {
    /// Row `i` for entry `i` of the list.
    pub fn plain(rows: &[u32]) -> Self {
        Self { rows: rows.to_vec(), index: None }
    }

    /// One vector an item from the gathered rows.
    ///
    /// # Shapes
    /// `gathered`: `[rows, dim]`; returns `[items, dim]`.
    pub fn combine(&self, gathered: Tensor<2>, device: &Device) -> Tensor<2> {
        let Some((index, hashes)) = &self.index else { return gathered };
        let [_, dim] = gathered.dims();
        let items = index.len() / hashes;
        gathered.select(0, indices(index, device)).reshape([items, *hashes, dim]).sum_dim(1).reshape([items, dim])
    }
}

/// The row of an item by one of its hashes.
fn bucket(item: u32, hash: u32, buckets: u32) -> u32 {
    (splitmix64(u64::from(item) << 8 | u64::from(hash)) % u64::from(buckets)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_items_share_all_their_rows() {
        let map = RowMap::Hashed { buckets: 1000, hashes: 2 };
        let mut unique = Unique::new(1000);
        let mut pairs: Vec<Vec<u32>> = (0..5000)
            .map(|item| {
                let rows = map.rows(&[item], &mut unique);
                let mut rows = rows.rows;
                rows.sort_unstable();
                rows
            })
            .collect();
        pairs.sort();
        pairs.dedup();
        // 5000 items in about 500,000 unordered pairs: some 25 collisions are expected, hundreds would be a bad hash.
        assert!(pairs.len() > 4900, "{}", pairs.len());
    }
}
