//! The `mean` encoder in host memory: what is known of each window's user, the pooled history and its length, added up, and back.
//!
//! Rows of a batch see prefixes of one window, so a window's items are fetched once for all of its rows and stay in the cache. Windows
//! are independent, also on the way back; the rows of the history that several windows share are summed in the order of the windows.

use std::ops::Range;

use rayon::prelude::*;

use super::product::{for_every_processor, fused};
use crate::batch::{LENGTH_BUCKETS, Windows};

/// Gradients with respect to what is added up.
#[derive(Debug, PartialEq)]
pub(crate) struct PoolGradients {
    /// `[history, dim]`
    pub(crate) history: Vec<f32>,
    /// `[windows, dim]`
    pub(crate) known: Vec<f32>,
    /// `[LENGTH_BUCKETS, dim]`
    pub(crate) length: Vec<f32>,
}

/// `known[window] + sum_slots weight * history[token] + length[bucket]` of every used row.
///
/// # Shapes
/// `history`: `[history, dim]`, `known`: `[windows, dim]`, `length`: `[LENGTH_BUCKETS, dim]` or nothing; returns `[rows, dim]`.
pub(crate) fn forward(
    history: &[f32],
    known: &[f32],
    length: &[f32],
    pools: bool,
    windows: &Windows,
    dim: usize,
) -> Vec<f32> {
    let mut out = vec![0.0; windows.rows.len() * dim];
    let tasks = pieces(&mut out, windows, dim);
    tasks.into_par_iter().for_each(|(window, rows, out)| {
        let known = &known[window * dim..][..dim];
        forward_window(history, known, length, pools, windows, window, rows, out);
    });
    out
}

/// # Shapes
/// `gradient`: `[rows, dim]`.
pub(crate) fn backward(gradient: &[f32], pools: bool, windows: &Windows, dim: usize) -> PoolGradients {
    let mut known = vec![0.0; windows.count * dim];
    let mut slots = vec![0.0; windows.count * windows.slots * dim];
    let tasks = slots.par_chunks_mut(windows.slots * dim).zip(known.par_chunks_mut(dim));
    tasks.zip(row_ranges(windows)).for_each(|((slots, known), rows)| {
        backward_window(gradient, pools, windows, rows, slots, known);
    });
    let mut history = vec![0.0; windows.history.len() * dim];
    if pools {
        add_slots(&slots, windows, dim, &mut history);
    }
    let mut length = vec![0.0; LENGTH_BUCKETS * dim];
    for (&bucket, gradient) in windows.row_lengths.iter().zip(gradient.chunks_exact(dim)) {
        add(&mut length[bucket as usize * dim..][..dim], gradient);
    }
    PoolGradients { history, known, length }
}

/// Adds gradients of `[windows, slots, dim]` to those of the items there, in the order of the windows.
pub(crate) fn add_slots(slots: &[f32], windows: &Windows, dim: usize, history: &mut [f32]) {
    for (&token, slot) in windows.tokens.iter().zip(slots.chunks_exact(dim)) {
        // Padding is beyond the last row.
        let start = token as usize * dim;
        if let Some(sum) = history.get_mut(start..start + dim) {
            add(sum, slot);
        }
    }
}

pub(crate) fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// The used rows of each window; they come in the order of the windows.
pub(crate) fn row_ranges(windows: &Windows) -> Vec<Range<usize>> {
    let mut end = 0;
    (0..windows.count as u32)
        .map(|window| {
            let start = end;
            end += windows.row_windows[start..].iter().take_while(|&&of| of == window).count();
            start..end
        })
        .collect()
}

/// A window, its rows and their part of `out`.
pub(crate) fn pieces<'a>(
    mut out: &'a mut [f32],
    windows: &Windows,
    dim: usize,
) -> Vec<(usize, Range<usize>, &'a mut [f32])> {
    let mut pieces = Vec::with_capacity(windows.count);
    for (window, rows) in row_ranges(windows).into_iter().enumerate() {
        let (piece, rest) = out.split_at_mut(rows.len() * dim);
        pieces.push((window, rows, piece));
        out = rest;
    }
    pieces
}

for_every_processor!(forward_window = forward_body(
    history: &[f32], known: &[f32], length: &[f32], pools: bool, windows: &Windows, window: usize, rows: Range<usize>, out: &mut [f32],
));
for_every_processor!(backward_window = backward_body(
    gradient: &[f32], pools: bool, windows: &Windows, rows: Range<usize>, slots: &mut [f32], known: &mut [f32],
));

#[inline(always)]
fn forward_body<const M: usize, const FMA: bool>(
    history: &[f32],
    known: &[f32],
    length: &[f32],
    pools: bool,
    windows: &Windows,
    window: usize,
    rows: Range<usize>,
    out: &mut [f32],
) {
    let dim = known.len();
    let padding = windows.history.len();
    let tokens = &windows.tokens[window * windows.slots..][..windows.slots];
    // Side by side for all rows.
    let mut items = vec![0.0; windows.slots * dim];
    for (item, &token) in items.chunks_exact_mut(dim).zip(tokens) {
        if (token as usize) < padding {
            item.copy_from_slice(&history[token as usize * dim..][..dim]);
        }
    }
    for (row, out) in rows.zip(out.chunks_exact_mut(dim)) {
        out.copy_from_slice(known);
        if !length.is_empty() {
            let bucket = windows.row_lengths[row] as usize;
            for (out, value) in out.iter_mut().zip(&length[bucket * dim..][..dim]) {
                *out += value;
            }
        }
        if !pools {
            continue;
        }
        let weights = &windows.pool[windows.rows[row] as usize * windows.slots..][..windows.slots];
        for (item, &weight) in items.chunks_exact(dim).zip(weights) {
            // A prefix: most rows see a part of the window.
            if weight != 0.0 {
                for (out, &value) in out.iter_mut().zip(item) {
                    *out = fused::<FMA>(weight, value, *out);
                }
            }
        }
    }
}

#[inline(always)]
fn backward_body<const M: usize, const FMA: bool>(
    gradient: &[f32],
    pools: bool,
    windows: &Windows,
    rows: Range<usize>,
    slots: &mut [f32],
    known: &mut [f32],
) {
    let dim = known.len();
    for row in rows {
        let gradient = &gradient[row * dim..][..dim];
        for (sum, value) in known.iter_mut().zip(gradient) {
            *sum += value;
        }
        if !pools {
            continue;
        }
        let weights = &windows.pool[windows.rows[row] as usize * windows.slots..][..windows.slots];
        for (slot, &weight) in slots.chunks_exact_mut(dim).zip(weights) {
            if weight != 0.0 {
                for (sum, &value) in slot.iter_mut().zip(gradient) {
                    *sum = fused::<FMA>(weight, value, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    /// Windows with repeated items, padding, items dropped for all rows, queries that are not used, windows without rows and rows
    /// without history.
    pub(crate) fn random_windows(count: usize, slots: usize, history: usize, rng: &mut Pcg64Mcg) -> Windows {
        let mut windows = Windows {
            count,
            slots,
            queries: slots + 1,
            history: (0..history as u32).collect(),
            tokens: (0..count * slots).map(|_| rng.random_range(0..=history as u32)).collect(),
            pool: vec![0.0; count * (slots + 1) * slots],
            ..Windows::default()
        };
        for window in 0..count {
            let is_dropped: Vec<bool> = (0..slots).map(|_| rng.random::<f64>() < 0.2).collect();
            for query in 0..rng.random_range(0..=slots + 1) {
                if rng.random::<f64>() < 0.2 {
                    continue;
                }
                let row = window * windows.queries + query;
                windows.rows.push(row as u32);
                windows.row_windows.push(window as u32);
                windows.row_prefixes.push(query as u32);
                windows.row_lengths.push(rng.random_range(0..LENGTH_BUCKETS as u32));
                for (weight, &is_dropped) in windows.pool[row * slots..][..query].iter_mut().zip(&is_dropped) {
                    *weight = if is_dropped { 0.0 } else { rng.random_range(0.0..1.0) };
                }
            }
        }
        windows
    }

    fn naive(history: &[f32], known: &[f32], length: &[f32], windows: &Windows, dim: usize) -> Vec<f64> {
        let mut out = Vec::new();
        for row in 0..windows.rows.len() {
            let window = windows.row_windows[row] as usize;
            for at in 0..dim {
                let mut sum = f64::from(known[window * dim + at]);
                if !length.is_empty() {
                    sum += f64::from(length[windows.row_lengths[row] as usize * dim + at]);
                }
                for slot in 0..windows.slots {
                    let token = windows.tokens[window * windows.slots + slot] as usize;
                    let weight = windows.pool[windows.rows[row] as usize * windows.slots + slot];
                    if token < windows.history.len() {
                        sum += f64::from(weight) * f64::from(history[token * dim + at]);
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn sums_and_gradients_agree_with_their_definition(
            count in 1_usize..6, slots in 1_usize..9, history in 1_usize..7, dim in 1_usize..20, seed: u64,
        ) {
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let windows = random_windows(count, slots, history, &mut rng);
            let mut random = |rows: usize| -> Vec<f32> { (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let (rows, known, length) = (random(history), random(count), random(LENGTH_BUCKETS));
            let direction = random(windows.rows.len());
            for (found, expected) in
                forward(&rows, &known, &length, true, &windows, dim).iter().zip(naive(&rows, &known, &length, &windows, dim))
            {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5);
            }
            prop_assert_eq!(forward(&rows, &known, &[], true, &windows, dim).len(), windows.rows.len() * dim);

            // It is linear: the gradient along a unit of any input is what that unit alone gives.
            let gradients = backward(&direction, true, &windows, dim);
            let zeros = |values: &Vec<f32>| vec![0.0_f32; values.len()];
            for (which, found) in [&gradients.history, &gradients.known, &gradients.length].into_iter().enumerate() {
                for at in 0..found.len().min(40) {
                    let mut inputs = [zeros(&rows), zeros(&known), zeros(&length)];
                    inputs[which][at] = 1.0;
                    let along = naive(&inputs[0], &inputs[1], &inputs[2], &windows, dim);
                    let expected: f64 = along.iter().zip(&direction).map(|(value, &along)| value * f64::from(along)).sum();
                    prop_assert!((f64::from(found[at]) - expected).abs() < 1e-4, "{which} {at}");
                }
            }
        }
    }
}
