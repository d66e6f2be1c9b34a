//! The `attention` encoder in host memory: learned attention pooling, a window at a time, there and back.
//!
//! With the batch's weights `p` of a row's items, `t` their sum over the slots `s`, and the items `x`:
//!
//! ```text
//! f_s = exp(clamp(score . tanh(hidden x_s + bias)))      the factor of a slot: one for all rows of the window
//! z   = sum_s p_s f_s + e
//! out = t / z sum_s p_s f_s x_s
//! ```
//!
//! Only `p` has rows and slots both. Sixteen rows at a time have their weights side by side, a vector lane each, for as many slots as
//! the longest of their prefixes; nothing else of that shape is made. Bounded scores have finite exponentials, so no maximum is
//! needed first. Windows take part with the slots their rows see and no more.
//!
//! On the way back, from gradients `g` of the rows,
//!
//! ```text
//! a_s = sum_rows p_s t / z g      b_s = sum_rows p_s / z (g . out)
//! d x_s = f_s a_s + what comes through the score,      d score_s = f_s (x_s . a_s - b_s)
//! ```
//!
//! so that products of gradients and items, one for every row and slot, are not needed either.
//!
//! [`crate::encoder::AttentionPool`] has the same as tensor operations.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    head::product,
    pool::{pieces, row_ranges},
    product::{
        LANES, Lanes, ZERO, accumulate, accumulate_along_lanes, add_lanes, column_panels, exp_nonpositive,
        for_every_processor, fused, lane_sums, outer, rows as rows_of, tanh, transpose_from_panels,
        transpose_into_panels, transposed, unpadded,
    },
};
use crate::batch::Windows;

/// Scores stay between this and its negative, so that their exponentials are finite whatever the weights do.
pub(crate) const SCORE_BOUND: f32 = 20.0;
/// Added to the sum of a row's weighted factors: a row without weights pools to zero.
pub(crate) const SUM_EPSILON: f32 = 1e-12;

/// Pieces that the windows are cut into, each with weight gradients of its own.
const PIECES: usize = 16;

/// The parameters of attention pooling.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    /// `[dim, dim]`, inputs by outputs, and its transpose.
    hidden: Vec<f32>,
    hidden_transposed: Vec<f32>,
    /// `[dim]`, or nothing.
    hidden_bias: Vec<f32>,
    /// `[dim]`
    score: Vec<f32>,
}

/// The pooled histories, and what the way back needs.
#[derive(Debug)]
pub(crate) struct AttentionOutput {
    /// `[rows, dim]`
    pub(crate) rows: Vec<f32>,
    windows: Vec<Kept>,
}

/// A window on its way, as far as its rows see it.
#[derive(Debug, Default)]
struct Kept {
    /// Used slots: the longest prefix that is asked for.
    slots: usize,
    /// `[panels][dim]`
    items: Vec<Lanes>,
    /// `[panels][dim]`: the hidden units behind their activation.
    active: Vec<Lanes>,
    /// `[panels]`, not yet bounded.
    scores: Vec<Lanes>,
}

/// Gradients with respect to everything attention pooling computes from.
#[derive(Debug, PartialEq)]
pub(crate) struct AttentionGradients {
    /// `[windows, slots, dim]`
    pub(crate) slots: Vec<f32>,
    /// `[dim, dim]`
    pub(crate) hidden: Vec<f32>,
    /// `[dim]`
    pub(crate) hidden_bias: Vec<f32>,
    /// `[dim]`
    pub(crate) score: Vec<f32>,
}

/// Weight gradients of a piece.
#[derive(Debug)]
struct Part {
    /// `[outputs][input panels]`
    hidden: Vec<Lanes>,
    /// `[dim]`, a sum a lane.
    hidden_bias: Vec<Lanes>,
    /// `[dim]`, a sum a lane.
    score: Vec<Lanes>,
}

impl Attention {
    /// `hidden`: `[dim, dim]`, inputs by outputs; `hidden_bias`: `[dim]` or nothing; `score`: `[dim]`.
    pub(crate) fn new(hidden: Vec<f32>, hidden_bias: Vec<f32>, score: Vec<f32>) -> Self {
        Self { hidden_transposed: transposed(&hidden, score.len()), hidden, hidden_bias, score }
    }

    fn dim(&self) -> usize {
        self.score.len()
    }

    /// # Shapes
    /// `history`: `[history, dim]`.
    pub(crate) fn forward(&self, history: &[f32], windows: &Windows) -> AttentionOutput {
        let mut rows = vec![0.0; windows.rows.len() * self.dim()];
        let kept = pieces(&mut rows, windows, self.dim())
            .into_par_iter()
            .map(|(window, range, out)| {
                let mut kept = Kept::default();
                forward_window(self, history, windows, window, range, out, &mut kept);
                kept
            })
            .collect();
        AttentionOutput { rows, windows: kept }
    }

    /// # Shapes
    /// `gradient`: `[rows, dim]`.
    pub(crate) fn backward(&self, output: &AttentionOutput, windows: &Windows, gradient: &[f32]) -> AttentionGradients {
        let dim = self.dim();
        let mut slots = vec![0.0; windows.count * windows.slots * dim];
        let size = windows.count.div_ceil(PIECES).max(1);
        let ranges = row_ranges(windows);
        let tasks = slots.par_chunks_mut(size * windows.slots * dim).zip(output.windows.par_chunks(size));
        let parts: Vec<Part> = tasks
            .zip(ranges.par_chunks(size))
            .map(|((slots, kept), ranges)| {
                let mut part = Part::new(dim);
                let windows_of = slots.chunks_exact_mut(windows.slots * dim).zip(kept).zip(ranges);
                for ((slots, kept), rows) in windows_of {
                    if kept.slots > 0 {
                        let slots = &mut slots[..kept.slots * dim];
                        backward_window(self, kept, &output.rows, windows, rows.clone(), gradient, slots, &mut part);
                    }
                }
                part
            })
            .collect();
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or_else(|| Part::new(dim));
        parts.for_each(|part| total.add(&part));
        AttentionGradients {
            slots,
            hidden: transposed(&unpadded(&total.hidden, dim), dim),
            hidden_bias: lane_sums(&total.hidden_bias),
            score: lane_sums(&total.score),
        }
    }
}

impl Part {
    fn new(dim: usize) -> Self {
        Self { hidden: vec![ZERO; dim * dim.div_ceil(LANES)], hidden_bias: vec![ZERO; dim], score: vec![ZERO; dim] }
    }

    fn add(&mut self, other: &Self) {
        add_lanes(&mut self.hidden, &other.hidden);
        add_lanes(&mut self.hidden_bias, &other.hidden_bias);
        add_lanes(&mut self.score, &other.score);
    }
}

for_every_processor!(forward_window = forward_body(
    attention: &Attention, history: &[f32], windows: &Windows, window: usize, rows: Range<usize>, out: &mut [f32],
    kept: &mut Kept,
));
for_every_processor!(backward_window = backward_body(
    attention: &Attention, kept: &Kept, pooled: &[f32], windows: &Windows, rows: Range<usize>, gradient: &[f32],
    slots: &mut [f32], part: &mut Part,
));

#[inline(always)]
fn forward_body<const M: usize, const FMA: bool>(
    attention: &Attention,
    history: &[f32],
    windows: &Windows,
    window: usize,
    rows: Range<usize>,
    out: &mut [f32],
    kept: &mut Kept,
) {
    let dim = attention.dim();
    kept.slots = longest_prefix(windows, rows.clone());
    if kept.slots == 0 {
        return;
    }
    let panels = kept.slots.div_ceil(LANES);
    kept.items = vec![ZERO; panels * dim];
    let tokens = &windows.tokens[window * windows.slots..][..kept.slots];
    for (slot, &token) in tokens.iter().enumerate() {
        if (token as usize) < windows.history.len() {
            let item = &history[token as usize * dim..][..dim];
            for (lanes, &value) in kept.items[slot / LANES * dim..].iter_mut().zip(item) {
                lanes[slot % LANES] = value;
            }
        }
    }
    score_items::<M, FMA>(attention, kept);

    let factors = factors::<FMA>(&kept.scores);
    let width = panels * LANES;
    let mut scaled = vec![0.0; dim * width]; // [dim][slots]: the items times their factors
    for ((panel, items), factors) in kept.items.chunks_exact(dim).enumerate().zip(&factors) {
        for (at, items) in items.iter().enumerate() {
            let scaled = &mut scaled[at * width + panel * LANES..][..LANES];
            for lane in 0..LANES {
                scaled[lane] = items[lane] * factors[lane];
            }
        }
    }
    let mut weights = vec![ZERO; kept.slots];
    let mut pooled = vec![ZERO; dim];
    for (rows, out) in runs(rows).zip(out.chunks_mut(LANES * dim)) {
        let weights = weights_across(windows, rows, &mut weights);
        let norms = norms::<FMA>(weights, factors.as_flattened());
        for first in (0..dim).step_by(M) {
            let sums: [Lanes; M] = accumulate::<M, FMA>([ZERO; M], rows_of(&scaled, width, first), weights);
            for (pooled, sums) in pooled[first..].iter_mut().zip(sums) {
                for lane in 0..LANES {
                    pooled[lane] = sums[lane] * norms.scale[lane];
                }
            }
        }
        transpose_from_panels(&pooled, dim, out);
    }
}

#[inline(always)]
fn backward_body<const M: usize, const FMA: bool>(
    attention: &Attention,
    kept: &Kept,
    pooled: &[f32],
    windows: &Windows,
    rows: Range<usize>,
    gradient: &[f32],
    slots: &mut [f32],
    part: &mut Part,
) {
    let dim = attention.dim();
    let dim_panels = dim.div_ceil(LANES);
    let panels = kept.scores.len();
    let factors = factors::<FMA>(&kept.scores);

    // What the head of this file calls `a`, `[slots][dim panels]`, and `b`, a sum a lane.
    let mut from_items = vec![ZERO; kept.slots * dim_panels];
    let mut from_norms = vec![ZERO; kept.slots];
    let mut weights = vec![ZERO; kept.slots];
    let mut scaled = vec![ZERO; dim_panels * LANES];
    for rows in runs(rows) {
        let weights = weights_across(windows, rows.clone(), &mut weights);
        let norms = norms::<FMA>(weights, factors.as_flattened());
        let range = rows.start * dim..rows.end * dim;
        let mut along = ZERO;
        for (lane, (gradient, pooled)) in
            gradient[range.clone()].chunks_exact(dim).zip(pooled[range.clone()].chunks_exact(dim)).enumerate()
        {
            along[lane] = norms.inverse[lane] * dot::<FMA>(gradient, pooled);
        }
        for (sums, weights) in from_norms.iter_mut().zip(weights) {
            for lane in 0..LANES {
                sums[lane] = fused::<FMA>(weights[lane], along[lane], sums[lane]);
            }
        }
        scaled.fill(ZERO);
        column_panels(&gradient[range], dim, LANES, &norms.scale, &mut scaled);
        let seen = weights.len() * dim_panels;
        accumulate_along_lanes::<M, FMA>([weights].into_iter(), &scaled, LANES, &mut from_items[..seen]);
    }

    for (slot, sums) in slots.chunks_exact_mut(dim).zip(from_items.chunks_exact(dim_panels)) {
        slot.copy_from_slice(&sums.as_flattened()[..dim]);
    }
    let mut d_items = vec![ZERO; panels * dim]; // [panels][dim]
    transpose_into_panels(slots, dim, 0, kept.slots, &mut d_items);
    let mut d_hidden = vec![ZERO; panels * dim]; // [panels][dim]
    for panel in 0..panels {
        let range = panel * dim..(panel + 1) * dim;
        let d_items = &mut d_items[range.clone()];
        let mut d_score = ZERO;
        for (item, d_item) in kept.items[range.clone()].iter().zip(&*d_items) {
            for lane in 0..LANES {
                d_score[lane] = fused::<FMA>(item[lane], d_item[lane], d_score[lane]);
            }
        }
        // Lanes beyond the last slot have neither.
        for (d_score, sums) in d_score.iter_mut().zip(&from_norms[panel * LANES..]) {
            *d_score -= sums.iter().sum::<f32>();
        }
        for lane in 0..LANES {
            let is_clamped = kept.scores[panel][lane].abs() > SCORE_BOUND;
            d_score[lane] = if is_clamped { 0.0 } else { d_score[lane] * factors[panel][lane] };
        }
        for d_item in d_items {
            for lane in 0..LANES {
                d_item[lane] *= factors[panel][lane];
            }
        }
        for (unit, (active, d_hidden)) in kept.active[range.clone()].iter().zip(&mut d_hidden[range]).enumerate() {
            for lane in 0..LANES {
                let value = active[lane];
                part.score[unit][lane] = fused::<FMA>(value, d_score[lane], part.score[unit][lane]);
                d_hidden[lane] = d_score[lane] * attention.score[unit] * (1.0 - value * value);
                part.hidden_bias[unit][lane] += d_hidden[lane];
            }
        }
    }
    outer::<M, FMA>(&d_hidden, dim, &kept.items, dim, &mut part.hidden);
    product::<M, FMA>(&attention.hidden, dim, &d_hidden, &[], |panel, at, sums| {
        for (value, sum) in d_items[panel * dim + at].iter_mut().zip(sums) {
            *value += sum;
        }
    });
    transpose_from_panels(&d_items, dim, slots);
}

/// The hidden units and the score of every slot.
#[inline(always)]
fn score_items<const M: usize, const FMA: bool>(attention: &Attention, kept: &mut Kept) {
    let dim = attention.dim();
    let Kept { items, active, scores, .. } = kept;
    *active = vec![ZERO; items.len()];
    *scores = vec![ZERO; items.len() / dim];
    product::<M, FMA>(&attention.hidden_transposed, dim, items, &attention.hidden_bias, |panel, unit, sums| {
        let (active, score) = (&mut active[panel * dim + unit], &mut scores[panel]);
        for lane in 0..LANES {
            active[lane] = tanh::<FMA>(sums[lane]);
            score[lane] = fused::<FMA>(active[lane], attention.score[unit], score[lane]);
        }
    });
}

/// The exponentials of the bounded scores.
#[inline(always)]
fn factors<const FMA: bool>(scores: &[Lanes]) -> Vec<Lanes> {
    let mut factors = scores.to_vec();
    for factors in &mut factors {
        for lane in 0..LANES {
            let score = factors[lane].clamp(-SCORE_BOUND, SCORE_BOUND);
            let small = exp_nonpositive::<FMA>(-score.abs());
            factors[lane] = if score > 0.0 { small.recip() } else { small };
        }
    }
    factors
}

/// What the weighted sums of 16 rows are multiplied with, and the way back.
struct Norms {
    /// `t / z`
    scale: Lanes,
    /// `1 / z`
    inverse: Lanes,
}

#[inline(always)]
fn norms<const FMA: bool>(weights: &[Lanes], factors: &[f32]) -> Norms {
    let (mut total, mut weighted) = (ZERO, ZERO);
    for (weights, &factor) in weights.iter().zip(factors) {
        for lane in 0..LANES {
            total[lane] += weights[lane];
            weighted[lane] = fused::<FMA>(weights[lane], factor, weighted[lane]);
        }
    }
    let mut norms = Norms { scale: ZERO, inverse: ZERO };
    for lane in 0..LANES {
        norms.inverse[lane] = (weighted[lane] + SUM_EPSILON).recip();
        norms.scale[lane] = total[lane] * norms.inverse[lane];
    }
    norms
}

/// A window's rows, [`LANES`] at a time.
#[inline(always)]
fn runs(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(LANES).map(move |first| first..end.min(first + LANES))
}

#[inline(always)]
fn longest_prefix(windows: &Windows, rows: Range<usize>) -> usize {
    windows.row_prefixes[rows].iter().max().map_or(0, |&longest| longest as usize)
}

/// The weights of up to 16 rows, a lane each, for the slots that the longest of their prefixes has.
#[inline(always)]
fn weights_across<'a>(windows: &Windows, rows: Range<usize>, room: &'a mut [Lanes]) -> &'a [Lanes] {
    let across = &mut room[..longest_prefix(windows, rows.clone())];
    across.fill(ZERO);
    for (lane, row) in rows.enumerate() {
        let weights = &windows.pool[windows.rows[row] as usize * windows.slots..];
        for (across, &weight) in across.iter_mut().zip(&weights[..windows.row_prefixes[row] as usize]) {
            across[lane] = weight;
        }
    }
    across
}

#[inline(always)]
fn dot<const FMA: bool>(left: &[f32], right: &[f32]) -> f32 {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let mut sums = ZERO;
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] = fused::<FMA>(left[lane], right[lane], sums[lane]);
        }
    }
    for (sum, (left, right)) in sums.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *sum = fused::<FMA>(*left, *right, *sum);
    }
    sums.iter().sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::host::pool::{add_slots, tests::random_windows};

    /// What gradients are taken with respect to, in f64: history, hidden weights, hidden biases and score weights.
    type Inputs = [Vec<f64>; 4];

    fn narrow(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&value| value as f32).collect()
    }

    fn attention(inputs: &Inputs) -> Attention {
        let [_, hidden, hidden_bias, score] = inputs;
        Attention::new(narrow(hidden), narrow(hidden_bias), narrow(score))
    }

    fn score_of(inputs: &Inputs, item: &[f64]) -> f64 {
        let [_, hidden, hidden_bias, score] = inputs;
        let dim = score.len();
        let unit = |unit: usize| {
            let sum: f64 = item.iter().enumerate().map(|(at, value)| value * hidden[at * dim + unit]).sum();
            score[unit] * (sum + hidden_bias[unit]).tanh()
        };
        (0..dim).map(unit).sum()
    }

    /// The encoder as its definition reads: whole windows, padding and all.
    fn naive(inputs: &Inputs, windows: &Windows) -> Vec<f64> {
        let dim = inputs[3].len();
        let padding = vec![0.0; dim];
        let mut items: Vec<&[f64]> = inputs[0].chunks_exact(dim).collect();
        items.push(&padding);
        let factors: Vec<f64> = items.iter().map(|item| score_of(inputs, item).clamp(-20.0, 20.0).exp()).collect();
        let mut out = Vec::new();
        for (&row, &window) in windows.rows.iter().zip(&windows.row_windows) {
            let tokens = &windows.tokens[window as usize * windows.slots..][..windows.slots];
            let weights = &windows.pool[row as usize * windows.slots..][..windows.slots];
            let (mut total, mut weighted, mut sums) = (0.0, 0.0, vec![0.0; dim]);
            for (&token, &weight) in tokens.iter().zip(weights) {
                let product = f64::from(weight) * factors[token as usize];
                total += f64::from(weight);
                weighted += product;
                for (sum, value) in sums.iter_mut().zip(items[token as usize]) {
                    *sum += product * value;
                }
            }
            out.extend(sums.into_iter().map(|sum| total * sum / (weighted + 1e-12)));
        }
        out
    }

    /// Holds gradients of `function` to its difference quotients, at some places of every array of its inputs. An error may be
    /// `tolerance` times the largest gradient of its array: what cancels leaves errors of that size.
    pub(crate) fn check_slopes<I>(
        found: &[Vec<f32>],
        mut inputs: I,
        array_of: impl Fn(&mut I, usize) -> &mut Vec<f64>,
        function: impl Fn(&I) -> f64,
        tolerance: f64,
        rng: &mut Pcg64Mcg,
    ) {
        for (array, found) in found.iter().enumerate() {
            assert_eq!(found.len(), array_of(&mut inputs, array).len(), "array {array}");
            let scale = found.iter().fold(1.0_f64, |most, value| most.max(f64::from(value.abs())));
            for _ in 0..6.min(found.len()) {
                let at = rng.random_range(0..found.len());
                let old = array_of(&mut inputs, array)[at];
                let mut value_at = |value: f64| {
                    array_of(&mut inputs, array)[at] = value;
                    function(&inputs)
                };
                let slope = (value_at(old + 1e-6) - value_at(old - 1e-6)) / 2e-6;
                value_at(old);
                let error = (f64::from(found[at]) - slope).abs();
                assert!(error < tolerance * scale, "array {array}[{at}]: {} against {slope}", found[at]);
            }
        }
    }

    fn check(inputs: Inputs, windows: &Windows, rng: &mut Pcg64Mcg) {
        let dim = inputs[3].len();
        let host = attention(&inputs);
        let output = host.forward(&narrow(&inputs[0]), windows);
        let expected = naive(&inputs, windows);
        assert_eq!(output.rows.len(), expected.len());
        let scale = expected.iter().fold(1.0_f64, |most, value| most.max(value.abs()));
        for (at, (found, expected)) in output.rows.iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-4 * scale, "rows[{at}]: {found} instead of {expected}");
        }

        let direction: Vec<f64> = expected.iter().map(|_| f64::from(rng.random_range(-1.0..1.0_f32))).collect();
        let gradients = host.backward(&output, windows, &narrow(&direction));
        let mut history = vec![0.0; inputs[0].len()];
        add_slots(&gradients.slots, windows, dim, &mut history);
        let along = |inputs: &Inputs| -> f64 {
            naive(inputs, windows).iter().zip(&direction).map(|(value, along)| value * along).sum()
        };
        let all = [history, gradients.hidden, gradients.hidden_bias, gradients.score];
        check_slopes(&all, inputs, |inputs, array| &mut inputs[array], along, 1e-3, rng);
    }

    fn random_inputs(history: usize, dim: usize, rng: &mut Pcg64Mcg) -> Inputs {
        let mut random = |count: usize, size: f64| -> Vec<f64> {
            (0..count).map(|_| f64::from(rng.random_range(-1.0..1.0_f32)) * size).collect()
        };
        [random(history * dim, 1.0), random(dim * dim, 0.7), random(dim, 1.0), random(dim, 1.0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn rows_and_gradients_agree_with_f64(
            count in 1_usize..6, slots in 1_usize..40, history in 1_usize..9, dim in 1_usize..36, seed: u64,
        ) {
            let mut rng = Pcg64Mcg::seed_from_u64(seed);
            let windows = random_windows(count, slots, history, &mut rng);
            let inputs = random_inputs(history, dim, &mut rng);
            check(inputs, &windows, &mut rng);
        }
    }

    #[test]
    fn clamped_scores_pool_and_have_no_gradient() {
        // Two scores beyond the bound, one well within, and that of padding, 0.
        let inputs: Inputs =
            [vec![1.0, 0.3, -1.0, 0.3, 0.01, 0.2], vec![10.0, 0.0, 0.0, 10.0], vec![0.0, 0.0], vec![30.0, 0.5]];
        let scores: Vec<f64> = inputs[0].chunks_exact(2).map(|item| score_of(&inputs, item)).collect();
        assert!(scores[0] > 25.0 && scores[1] < -25.0 && scores[2].abs() < 5.0, "{scores:?}");
        let windows = Windows {
            count: 1,
            slots: 4,
            history: vec![0, 1, 2],
            tokens: vec![1, 2, 3, 0],
            queries: 3,
            // The item with the lowest score alone, beside others, and hidden by that with the highest.
            pool: [[0.7, 0.0, 0.0, 0.0], [0.5, 0.2, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4]].concat(),
            rows: vec![0, 1, 2],
            row_windows: vec![0; 3],
            row_prefixes: vec![1, 3, 4],
            row_lengths: vec![0; 3],
            ..Windows::default()
        };
        check(inputs, &windows, &mut Pcg64Mcg::seed_from_u64(2));
    }

    #[test]
    fn rows_without_weights_pool_to_zero() {
        let mut rng = Pcg64Mcg::seed_from_u64(4);
        let mut windows = random_windows(9, 5, 4, &mut rng);
        windows.pool.fill(0.0);
        let inputs = random_inputs(4, 6, &mut rng);
        let host = attention(&inputs);
        let output = host.forward(&narrow(&inputs[0]), &windows);
        assert!(!output.rows.is_empty());
        assert_eq!(output.rows, vec![0.0; output.rows.len()]);
        let gradients = host.backward(&output, &windows, &vec![1.0; output.rows.len()]);
        let AttentionGradients { slots, hidden, hidden_bias, score } = gradients;
        for values in [slots, hidden, hidden_bias, score] {
            assert!(values.iter().all(|&value| value == 0.0), "{values:?}");
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let mut rng = Pcg64Mcg::seed_from_u64(5);
        let windows = random_windows(37, 21, 9, &mut rng);
        let inputs = random_inputs(9, 18, &mut rng);
        let (host, history) = (attention(&inputs), narrow(&inputs[0]));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let output = host.forward(&history, &windows);
                let gradients = host.backward(&output, &windows, &output.rows);
                (output.rows, gradients)
            })
        };
        let one = run(1);
        for threads in [2, 3] {
            assert!(run(threads) == one, "{threads} threads");
        }
    }
}
