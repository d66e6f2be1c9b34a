//! What one training step needs, as plain arrays: built on the host, turned into tensors by the model.
//!
//! A training row is a *user window* of up to `slots` consecutive items. One pass over it gives the user vector at several
//! positions (prefix training): a *query* is a window and the items of it that the user vector may see.

use crate::{feature_bags::FeatureRows, loss::Targets};

/// Windows of items and the queries into them.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    /// Windows.
    pub count: usize,
    /// Items a window, padding included.
    pub slots: usize,
    /// Distinct items (rows of the history table) of all windows.
    pub history: Vec<u32>,
    /// `[count, slots]`: index into `history`; `history.len()` is padding (or an item dropped in training).
    pub tokens: Vec<u32>,
    /// Queries a window, padding included.
    pub queries: usize,
    /// `[count, queries, slots]`: weight of each item in each query's pooled history, 0 for items that it may not see; rows may be
    /// all zero.
    pub pool: Vec<f32>,
    /// Flat index (window * queries + query) of every row that is used.
    pub rows: Vec<u32>,
    /// The window of every used row.
    pub row_windows: Vec<u32>,
    /// How many items of the window every used row may see.
    pub row_prefixes: Vec<u32>,
    /// How long the user's whole history is before every used row (beyond the window too), as a bucket of its logarithm.
    pub row_lengths: Vec<u32>,
    /// Features of the user of each window.
    pub users: FeatureRows,
    /// Rows of the user table, where the model has one: one a window.
    pub user_rows: Vec<u32>,
}

/// Candidate items: the columns of the loss, or items to embed.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Distinct rows of the item table.
    pub items: Vec<u32>,
    /// Whether each keeps its id embedding (training drops some, so that features learn to stand alone; an item never seen in
    /// training has none).
    pub keep_id: Vec<bool>,
    /// Their features.
    pub features: FeatureRows,
}

/// A training step.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The user side.
    pub windows: Windows,
    /// The item side. With a shared table, `windows.history` begins with these items in this order.
    pub candidates: Candidates,
    /// Which columns each row should find.
    pub targets: Targets,
}

impl Batch {
    /// Rows of the loss.
    pub fn rows(&self) -> usize {
        self.windows.rows.len()
    }
}

/// Buckets of [`Windows::row_lengths`].
pub const LENGTH_BUCKETS: usize = 16;

/// The bucket of a history of `length` items: 0, 1, 2-3, 4-7, ...
pub fn length_bucket(length: usize) -> u32 {
    (usize::BITS - length.leading_zeros()).min(LENGTH_BUCKETS as u32 - 1)
}
