//! Copies of rows of a table in host memory, made before the step that needs them: while a device is still busy with the step
//! before.
//!
//! They never are stale: whoever changes the table tells which rows ([`RowsAhead::refresh`]), and of these the copies are made
//! anew. What is left for the moment between two steps is the rows that both of them touch.

use rayon::prelude::*;

use crate::embedding::copy_rows;

/// Rows with their values; none at first.
#[derive(Debug, Default)]
pub(crate) struct RowsAhead {
    rows: Vec<u32>,
    /// `[rows, dim]`
    values: Vec<f32>,
}

impl RowsAhead {
    /// Copies `rows` of the table `weights`, in place of what was copied before.
    pub(crate) fn fill(&mut self, weights: &[f32], dim: usize, rows: &[u32]) {
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        self.values.resize(rows.len() * dim, 0.0);
        copy_rows(weights, dim, rows, &mut self.values);
    }

    /// The values of `rows`, `[rows, dim]`, if they are what was copied, in this order.
    pub(crate) fn get(&self, rows: &[u32]) -> Option<&[f32]> {
        (self.rows == rows).then_some(self.values.as_slice())
    }

    /// Copies those rows anew that are among `changed`.
    pub(crate) fn refresh(&mut self, weights: &[f32], dim: usize, changed: &[u32]) {
        if self.rows.is_empty() {
            return;
        }
        let mut changed = changed.to_vec();
        changed.sort_unstable();
        self.values.par_chunks_mut(dim).zip(&self.rows).with_min_len(1024).for_each(|(values, row)| {
            if changed.binary_search(row).is_ok() {
                let at = *row as usize * dim;
                values.copy_from_slice(&weights[at..at + dim]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn copies_are_the_rows_of_the_table_after_any_change(
            ahead in proptest::collection::vec(0_u32..40, 0..30),
            changes in proptest::collection::vec(proptest::collection::vec(0_u32..40, 0..30), 0..4),
            dim in 1_usize..9,
        ) {
            let mut weights: Vec<f32> = (0..40 * dim).map(|at| at as f32).collect();
            let mut copies = RowsAhead::default();
            copies.fill(&weights, dim, &[1, 2, 3]);
            copies.fill(&weights, dim, &ahead);
            for changed in &changes {
                for &row in changed {
                    weights[row as usize * dim..][..dim].iter_mut().for_each(|weight| *weight += 1000.0);
                }
                copies.refresh(&weights, dim, changed);
            }
            let expected: Vec<f32> =
                ahead.iter().flat_map(|&row| weights[row as usize * dim..][..dim].to_vec()).collect();
            prop_assert_eq!(copies.get(&ahead), Some(expected.as_slice()));
            prop_assert_eq!(copies.get(&[&ahead[..], &[7]].concat()), None);
        }
    }
}
