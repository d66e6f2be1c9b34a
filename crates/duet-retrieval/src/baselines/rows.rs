//! A binary user-item matrix in compressed rows, by user or by item.

use duet_core::ItemIdx;

/// Row `r` holds the columns `columns[offsets[r]..offsets[r + 1]]`, ascending, without repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    n_columns: usize,
}

impl Rows {
    /// The distinct items of every user, from a user's items one after the other.
    pub(super) fn new<'a>(users: impl Iterator<Item = &'a [ItemIdx]>, n_items: usize) -> Self {
        let mut rows = Self { offsets: vec![0], columns: Vec::new(), n_columns: n_items };
        let mut row = Vec::new();
        for items in users {
            row.clear();
            row.extend(items.iter().map(|item| item.0));
            row.sort_unstable();
            row.dedup();
            rows.columns.extend_from_slice(&row);
            rows.offsets.push(rows.columns.len());
        }
        rows
    }

    /// The same matrix, by column.
    pub(super) fn transpose(&self) -> Self {
        let mut offsets = vec![0_usize; self.n_columns + 1];
        for &column in &self.columns {
            offsets[column as usize + 1] += 1;
        }
        for column in 0..self.n_columns {
            offsets[column + 1] += offsets[column];
        }
        let mut next = offsets.clone();
        let mut columns = vec![0_u32; self.columns.len()];
        for row in 0..self.len() {
            for &column in self.of(row) {
                columns[next[column as usize]] = row as u32;
                next[column as usize] += 1;
            }
        }
        Self { offsets, columns, n_columns: self.len() }
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of columns.
    pub(super) fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Entries of the matrix.
    pub(super) fn entries(&self) -> usize {
        self.columns.len()
    }

    /// The columns of a row.
    #[inline]
    pub(super) fn of(&self, row: usize) -> &[u32] {
        &self.columns[self.offsets[row]..self.offsets[row + 1]]
    }

    /// Entries of a row.
    pub(super) fn count(&self, row: usize) -> usize {
        self.offsets[row + 1] - self.offsets[row]
    }
}
