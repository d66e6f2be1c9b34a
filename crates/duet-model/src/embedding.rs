//! Embedding tables outside the autodiff graph, with row-wise Adagrad.
//!
//! burn's own path gives `select` a dense `[rows, dim]` gradient, so a step costs as much as the table is large. Here a
//! step touches only the rows of the batch: [`EmbeddingTable::gather`] copies the batch's distinct rows out (the caller
//! makes them an autodiff leaf), [`EmbeddingTable::update`] takes the leaf's gradient and changes those rows in place.
//!
//! Row-wise Adagrad keeps one scalar a row: `a += mean(g^2); w -= rate * g / (sqrt(a) + epsilon)` (the row-wise form of
//! Duchi et al., 2011, as used for embedding tables by Mudigere et al., "Software-Hardware Co-design for Fast and
//! Scalable Training of Deep Learning Recommendation Models", 2022).
//!
//! In host memory the table is plain vectors, on a device tensors; both give the same numbers up to rounding. Which of them it
//! is goes by the device and the configuration (`model.placement`). For a device with memory of its own the rows of a table in
//! host memory are sent there every step; they may be gathered ahead ([`EmbeddingTable::gather_ahead`]).

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use duet_core::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::rows_ahead::RowsAhead;

const EPSILON: f32 = 1e-8;

/// Rows whose random initial values come from one generator; fixed, so that a seed means the same table everywhere.
const INIT_ROWS: usize = 4096;

/// A table of `rows` vectors of length `dim`, its optimiser state beside it.
#[derive(Debug)]
pub struct EmbeddingTable {
    rows: usize,
    dim: usize,
    storage: Storage,
    /// Only ever used with a table in host memory.
    ahead: RowsAhead,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful of tables exist, and boxing would add a hop to each access")]
enum Storage {
    /// Row-major weights and one accumulator a row, in host memory.
    Host { weights: Vec<f32>, accumulators: Vec<f32> },
    /// `[rows, dim]` and `[rows, 1]` on the device; the only handles, so that updates happen in place.
    Device { weights: Tensor<2>, accumulators: Tensor<2> },
}

/// What a checkpoint keeps of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableState {
    /// `[rows, dim]`, row-major.
    pub weights: Vec<f32>,
    /// One scalar a row.
    pub accumulators: Vec<f32>,
    /// Length of a row.
    pub dim: usize,
}

impl EmbeddingTable {
    /// A table of independent normal values with the given standard deviation.
    ///
    /// `host` says whether it lies in host memory, rather than in that of `device`.
    pub fn random(rows: usize, dim: usize, deviation: f32, seed: u64, device: &Device, host: bool) -> Self {
        let mut weights = vec![0.0_f32; rows * dim];
        weights.par_chunks_mut(INIT_ROWS * dim.max(1)).enumerate().for_each(|(chunk, values)| {
            let mut rng = Pcg64Mcg::seed_from_u64(seed ^ (chunk as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for value in values {
                let sample: f32 = rng.sample(StandardNormal);
                *value = deviation * sample;
            }
        });
        Self::place(rows, TableState { weights, accumulators: vec![0.0; rows], dim }, device, host)
    }

    /// A table of zeros, to be [set](EmbeddingTable::set).
    pub fn zeros(rows: usize, dim: usize, device: &Device, host: bool) -> Self {
        Self::place(
            rows,
            TableState { weights: vec![0.0; rows * dim], accumulators: vec![0.0; rows], dim },
            device,
            host,
        )
    }

    fn place(rows: usize, state: TableState, device: &Device, host: bool) -> Self {
        let dim = state.dim;
        let storage = if host {
            Storage::Host { weights: state.weights, accumulators: state.accumulators }
        } else {
            Storage::Device {
                weights: Tensor::from_data(TensorData::new(state.weights, [rows, dim]), device),
                accumulators: Tensor::from_data(TensorData::new(state.accumulators, [rows, 1]), device),
            }
        };
        Self { rows, dim, storage, ahead: RowsAhead::default() }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes held: table and optimiser state.
    pub fn bytes(&self) -> usize {
        Self::bytes_of(self.rows, self.dim)
    }

    /// [`EmbeddingTable::bytes`] of a table that is still to be made.
    pub(crate) fn bytes_of(rows: usize, dim: usize) -> usize {
        (rows * dim + rows) * size_of::<f32>()
    }

    /// Whether the table lies in host memory.
    pub fn is_on_host(&self) -> bool {
        matches!(self.storage, Storage::Host { .. })
    }

    /// Copies rows out.
    ///
    /// # Shapes
    /// `rows`: n ids below [`EmbeddingTable::rows`]; returns `[n, dim]` on `device`, without autodiff.
    pub fn gather(&self, rows: &[u32], device: &Device) -> Tensor<2> {
        match &self.storage {
            Storage::Host { weights, .. } => {
                let out = match self.ahead.get(rows) {
                    Some(values) => values.to_vec(),
                    None => {
                        let mut out = vec![0.0_f32; rows.len() * self.dim];
                        copy_rows(weights, self.dim, rows, &mut out);
                        out
                    }
                };
                Tensor::from_data(TensorData::new(out, [rows.len(), self.dim]), device)
            }
            Storage::Device { weights, .. } => weights.clone().select(0, indices(rows, device)),
        }
    }

    /// Copies rows out before they are asked for: the next [`EmbeddingTable::gather`] of just these rows sends the copies. It
    /// gives the same values at any time, for an update changes the copies of its rows too. Nothing is done for a table on the
    /// device.
    pub fn gather_ahead(&mut self, rows: &[u32]) {
        if let Storage::Host { weights, .. } = &self.storage {
            self.ahead.fill(weights, self.dim, rows);
        }
    }

    /// One step of row-wise Adagrad on the given rows.
    ///
    /// # Shapes
    /// `rows`: n distinct ids; `gradient`: `[n, dim]`, without autodiff.
    pub fn update(&mut self, rows: &[u32], gradient: Tensor<2>, rate: f32) {
        debug_assert_eq!(gradient.dims(), [rows.len(), self.dim]);
        if rows.is_empty() {
            return;
        }
        match &mut self.storage {
            Storage::Host { .. } => {
                let gradient = gradient.into_data();
                let Ok(gradient) = gradient.as_slice::<f32>() else {
                    unreachable!("gradients are f32 on every device duet opens")
                };
                self.update_by(rows, gradient, rate);
            }
            Storage::Device { weights, accumulators } => {
                let device = gradient.device();
                let rows = indices(rows, &device);
                let square = gradient.clone().square().mean_dim(1); // [n, 1]
                accumulators.inplace(|a| a.select_assign(0, rows.clone(), square, IndexingUpdateOp::Add));
                let scale = accumulators.clone().select(0, rows.clone()).sqrt().add_scalar(EPSILON).recip(); // [n, 1]
                let delta = gradient * scale * (-rate);
                weights.inplace(|w| w.select_assign(0, rows, delta, IndexingUpdateOp::Add));
            }
        }
    }

    /// [`EmbeddingTable::update`] with a gradient in host memory.
    ///
    /// # Shapes
    /// `gradient`: `[n, dim]`, row-major.
    pub(crate) fn update_by(&mut self, rows: &[u32], gradient: &[f32], rate: f32) {
        match &mut self.storage {
            Storage::Host { weights, accumulators } => {
                host_update(weights, accumulators, self.dim, rows, gradient, rate);
                self.ahead.refresh(weights, self.dim, rows);
            }
            Storage::Device { weights, .. } => {
                let data = TensorData::new(gradient.to_vec(), [rows.len(), self.dim]);
                let gradient = Tensor::from_data(data, &weights.device());
                self.update(rows, gradient, rate);
            }
        }
    }

    /// Replaces all rows and the optimiser's state.
    ///
    /// # Errors
    /// [`Error::Input`] if there are more or fewer values than `rows * dim`.
    pub fn set(&mut self, state: TableState, device: &Device) -> Result<()> {
        if state.dim != self.dim || state.accumulators.len() != self.rows || state.weights.len() != self.rows * self.dim
        {
            return Err(Error::input(format!(
                "embedding table of {} rows of {}, expected {} of {}",
                state.accumulators.len(),
                state.dim,
                self.rows,
                self.dim
            )));
        }
        *self = Self::place(self.rows, state, device, self.is_on_host());
        Ok(())
    }

    /// The table and its optimiser state, for a checkpoint.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device can't be read.
    pub fn state(&self) -> Result<TableState> {
        match &self.storage {
            Storage::Host { weights, accumulators } => {
                Ok(TableState { weights: weights.clone(), accumulators: accumulators.clone(), dim: self.dim })
            }
            Storage::Device { weights, accumulators } => Ok(TableState {
                weights: to_host(weights.clone())?,
                accumulators: to_host(accumulators.clone())?,
                dim: self.dim,
            }),
        }
    }
}

/// Copies rows of `weights` to `out`, one after the other.
pub(crate) fn copy_rows(weights: &[f32], dim: usize, rows: &[u32], out: &mut [f32]) {
    out.par_chunks_mut(dim).zip(rows).with_min_len(1024).for_each(|(out, &row)| {
        let at = row as usize * dim;
        out.copy_from_slice(&weights[at..at + dim]);
    });
}

/// Rows that a task updates.
const UPDATE_ROWS: usize = 512;

/// Row-wise Adagrad on distinct rows of a table in host memory. In the order of the table, so that it can be cut where tasks
/// begin: no row is anybody else's.
fn host_update(weights: &mut [f32], accumulators: &mut [f32], dim: usize, rows: &[u32], gradient: &[f32], rate: f32) {
    let mut order: Vec<(u32, u32)> = rows.iter().zip(0..).map(|(&row, at)| (row, at)).collect();
    order.sort_unstable();
    let mut tasks = Vec::with_capacity(order.len().div_ceil(UPDATE_ROWS));
    let (mut weights, mut accumulators, mut start) = (weights, accumulators, 0);
    for part in order.chunks(UPDATE_ROWS) {
        let first = part[0].0 as usize;
        let end = part[part.len() - 1].0 as usize + 1;
        let (piece, rest) = std::mem::take(&mut weights)[(first - start) * dim..].split_at_mut((end - first) * dim);
        let (sums, more) = std::mem::take(&mut accumulators)[first - start..].split_at_mut(end - first);
        tasks.push((first, part, piece, sums));
        (weights, accumulators, start) = (rest, more, end);
    }
    tasks.into_par_iter().for_each(|(first, part, weights, accumulators)| {
        for &(row, at) in part {
            let row = row as usize - first;
            let gradient = &gradient[at as usize * dim..][..dim];
            accumulators[row] += sum_of_squares(gradient) / dim as f32;
            let step = rate / (accumulators[row].sqrt() + EPSILON);
            for (weight, g) in weights[row * dim..][..dim].iter_mut().zip(gradient) {
                *weight -= step * g;
            }
        }
    });
}

/// In sixteen partial sums, which the compiler keeps in vector registers.
pub(crate) fn sum_of_squares(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    tail + lanes.iter().sum::<f32>()
}

/// Reads a tensor into host memory, row-major.
///
/// # Errors
/// [`Error::Internal`] with the device's own message.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.try_into_vec_as::<f32>().map_err(|error| Error::Internal(format!("reading a tensor: {error:?}")))
}

/// An index tensor from ids.
pub fn indices(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let count = ids.len();
    Tensor::from_data(TensorData::new(ids, [count]), device)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_update_of_any_rows_is_the_plain_loop(
            table_rows in 1_usize..3000, dim in 1_usize..40, step in 1_usize..5, seed in 0_u32..1000,
        ) {
            // A prime above every size: every `step`-th row, in no order.
            let rows: Vec<u32> = (0..table_rows).step_by(step).map(|row| (row * 7919 % table_rows) as u32).collect();
            let distinct: std::collections::BTreeSet<u32> = rows.iter().copied().collect();
            prop_assume!(distinct.len() == rows.len());
            let value = |at: usize| ((at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e7 - 0.8;
            let mut weights: Vec<f32> = (0..table_rows * dim).map(value).collect();
            let mut accumulators: Vec<f32> = (0..table_rows).map(|row| row as f32 / 10.0).collect();
            let gradient: Vec<f32> = (0..rows.len() * dim).map(|at| value(at + 17)).collect();
            let (mut plain_weights, mut plain_accumulators) = (weights.clone(), accumulators.clone());
            for (&row, gradient) in rows.iter().zip(gradient.chunks(dim)) {
                let row = row as usize;
                plain_accumulators[row] += sum_of_squares(gradient) / dim as f32;
                let step = 0.1 / (plain_accumulators[row].sqrt() + EPSILON);
                for (weight, g) in plain_weights[row * dim..][..dim].iter_mut().zip(gradient) {
                    *weight -= step * g;
                }
            }
            host_update(&mut weights, &mut accumulators, dim, &rows, &gradient, 0.1);
            prop_assert!(weights == plain_weights && accumulators == plain_accumulators);
        }
    }
}
