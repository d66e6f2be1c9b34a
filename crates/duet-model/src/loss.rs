//! Sampled softmax with the refined logQ correction, streamed over tiles of rows.
//!
//! For a row with user vector `u`, positives (shares `y`, summing to 1) and candidate columns `c` with inclusion
//! probability `pi_c`, the logits are
//!
//! ```text
//! z_c = u.v_c               for a positive: it is in the batch for certain, so it is not corrected
//! z_c = u.v_c - ln(pi_c)    for any other column
//! ```
//!
//! and the loss is `sum_c y_c (ln sum_j exp z_j - z_c)`. With distinct columns, `exp(-ln pi)` is the Horvitz-Thompson
//! weight that makes the denominator an unbiased estimate of the sum over the whole catalogue; leaving the positive
//! uncorrected is the refinement of Khrylchenko et al., "Correcting the LogQ Correction" (arXiv 2507.09331). With the
//! whole catalogue as candidates `ln pi = 0` and this is plain softmax. [`Targets::corrects_positives`] leaves the refinement out.
//!
//! Columns the user is known to have when the row asks (so they are no negatives) take no part.
//!
//! Gradients are written out by hand and returned, so that no `[rows, columns]` matrix outlives its tile: with
//! `G = w (softmax(z) - y)`, `dU = G V`, `dV = G^T U`. Here this is tensor operations, which every device has; `host/loss.rs` is
//! the same for the CPU, and is tested against this.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Rows whose logits exist at a time.
const TILE_ROWS: usize = 256;

/// What the loss is computed from, besides the vectors.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// Positives of row `r` are `offsets[r]..offsets[r + 1]` of the next two; `rows + 1` entries, at least one a row.
    pub offsets: Vec<u32>,
    /// Column of each positive.
    pub columns: Vec<u32>,
    /// Share of each positive; the shares of a row sum to 1.
    pub shares: Vec<f32>,
    /// Weight of each row in the mean.
    pub row_weights: Vec<f32>,
    /// The window of each row.
    pub windows: Vec<u32>,
    /// How many items of its window each row has seen.
    pub prefixes: Vec<u32>,
    /// Columns that the user of window `w` knows, and at which place in the window first (0 for anything before it):
    /// `seen_offsets[w]..seen_offsets[w + 1]` of the next two. A column is masked in a row if its place is below the row's
    /// prefix, unless it is a positive of the row. Empty: nothing is masked.
    pub seen_offsets: Vec<u32>,
    /// See `seen_offsets`.
    pub seen_columns: Vec<u32>,
    /// See `seen_offsets`.
    pub seen_places: Vec<u32>,
    /// `ln pi` of each column, at most 0.
    pub log_inclusion: Vec<f32>,
    /// Correct positives like any other column: plain logQ (Yi et al., RecSys 2019), for comparisons.
    pub corrects_positives: bool,
}

impl Targets {
    pub(crate) fn positives(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    pub(crate) fn masked(&self, row: usize) -> impl Iterator<Item = u32> + '_ {
        let window = self.windows[row] as usize;
        let range = match self.seen_offsets.get(window..window + 2) {
            Some(range) => range[0] as usize..range[1] as usize,
            None => 0..0,
        };
        let prefix = self.prefixes[row];
        let known = self.seen_columns[range.clone()].iter().zip(&self.seen_places[range]);
        known.filter(move |(_, place)| **place < prefix).map(|(column, _)| *column)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.row_weights.len()
    }
}

/// The value and the gradients, all without autodiff.
#[derive(Debug)]
pub struct LossOutput {
    /// `[1]`: the weighted mean over the rows.
    pub loss: Tensor<1>,
    /// `[rows, dim]`.
    pub users: Tensor<2>,
    /// `[columns, dim]`.
    pub items: Tensor<2>,
}

/// Loss and gradients.
///
/// # Shapes
/// `users`: `[rows, dim]`, `items`: `[columns, dim]`, without autodiff, on one device.
pub fn sampled_softmax(users: &Tensor<2>, items: &Tensor<2>, targets: &Targets) -> LossOutput {
    let [rows, dim] = users.dims();
    let device = users.device();
    let total: f32 = targets.row_weights.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let mut d_items = Tensor::<2>::zeros(items.dims(), &device);
    let mut d_users = Vec::with_capacity(rows.div_ceil(TILE_ROWS));
    let mut loss = Tensor::<1>::zeros([1], &device);
    let transposed = items.clone().transpose(); // [dim, columns]
    let tensors = DeviceTargets::new(targets, items.dims()[0], &device);
    for start in (0..rows).step_by(TILE_ROWS) {
        let end = (start + TILE_ROWS).min(rows);
        let tile = users.clone().slice([start..end, 0..dim]); // [tile, dim]
        let dots = tile.clone().matmul(transposed.clone()); // [tile, columns]
        let (tile_loss, gradient) = tensors.tile(dots, targets, start, 1.0 / total);
        loss = loss + tile_loss;
        d_items = d_items + gradient.clone().transpose().matmul(tile);
        d_users.push(gradient.matmul(items.clone()));
    }
    LossOutput { loss, users: Tensor::cat(d_users, 0), items: d_items }
}

/// A place beyond every prefix.
const NEVER: f32 = 1e9;

/// [`Targets`] as tensors, for devices whose memory the host can't touch.
struct DeviceTargets {
    /// `[1, columns]`
    log_inclusion: Tensor<2>,
    /// `[windows, columns]`: the place at which the window's user first has the item, or [`NEVER`]; absent if nothing is masked.
    places: Option<Tensor<2>>,
    /// `[1, columns]`: 0, 1, 2, ..
    column_numbers: Tensor<2, Int>,
}

impl DeviceTargets {
    fn new(targets: &Targets, columns: usize, device: &Device) -> Self {
        let windows = targets.seen_offsets.len().saturating_sub(1);
        let places = (windows > 0).then(|| {
            let mut places = vec![NEVER; windows * columns];
            for window in 0..windows {
                let range = targets.seen_offsets[window] as usize..targets.seen_offsets[window + 1] as usize;
                for at in range {
                    places[window * columns + targets.seen_columns[at] as usize] = targets.seen_places[at] as f32;
                }
            }
            Tensor::from_data(TensorData::new(places, [windows, columns]), device)
        });
        Self {
            log_inclusion: Tensor::from_data(TensorData::new(targets.log_inclusion.clone(), [1, columns]), device),
            places,
            column_numbers: Tensor::<1, Int>::arange(0..columns as i64, device).reshape([1, columns]),
        }
    }

    fn tile(&self, raw: Tensor<2>, targets: &Targets, start: usize, norm: f32) -> (Tensor<1>, Tensor<2>) {
        let [tile, _] = raw.dims();
        let device = raw.device();
        let rows = start..start + tile;
        let column = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [tile, 1]), &device);
        let mut shares = raw.zeros_like(); // [tile, columns]
        // One pass for the first positive of every row, one for the second, ...: most losses have just one.
        let most = rows.clone().map(|row| targets.positives(row).len()).max().unwrap_or(0);
        for nth in 0..most {
            let nth_of = |row: usize| targets.positives(row).nth(nth);
            let columns: Vec<i32> =
                rows.clone().map(|row| nth_of(row).map_or(-1, |at| targets.columns[at] as i32)).collect();
            let share = rows.clone().map(|row| nth_of(row).map_or(0.0, |at| targets.shares[at])).collect();
            let columns = Tensor::<2, Int>::from_data(TensorData::new(columns, [tile, 1]), &device);
            shares = shares + self.column_numbers.clone().equal(columns).float() * column(share);
        }
        let is_positive = shares.clone().greater_scalar(0.0);
        let mut corrected = raw.clone() - self.log_inclusion.clone();
        let positives = if targets.corrects_positives { corrected.clone() } else { raw.clone() };
        if let Some(places) = &self.places {
            let windows: Vec<i32> = rows.clone().map(|row| targets.windows[row] as i32).collect();
            let windows = Tensor::<1, Int>::from_data(TensorData::new(windows, [tile]), &device);
            let prefixes = column(rows.clone().map(|row| targets.prefixes[row] as f32).collect());
            let masked = places.clone().select(0, windows).lower(prefixes.expand(raw.dims()));
            corrected = corrected.mask_fill(masked, f32::NEG_INFINITY);
        }
        let logits = corrected.mask_where(is_positive.clone(), positives.clone());
        let max = logits.clone().max_dim(1); // [tile, 1]
        let exponentials = (logits - max.clone()).exp();
        let sum = exponentials.clone().sum_dim(1); // [tile, 1]
        let log_sum = sum.clone().log() + max; // [tile, 1]
        let weight = column(rows.map(|row| targets.row_weights[row] * norm).collect());
        // The shares of a row sum to 1, so sum_c y_c (log_sum - z_c) = log_sum - sum_c y_c z_c.
        let loss = (weight.clone() * (log_sum - (shares.clone() * positives).sum_dim(1))).sum();
        (loss, (exponentials / sum - shares) * weight)
    }
}
