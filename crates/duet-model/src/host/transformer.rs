//! The `transformer` encoder in host memory: a window at a time, through all blocks while it is in the cache.
//!
//! A window takes part with the states its rows ask for and no more: windows of different lengths cost what they hold, nothing is padded
//! beyond a panel of 16 states, and what lies behind the last row is not computed. Attention works on panels of 16 queries against
//! the keys before them; the way back computes a panel's weights again, so the `[length, length]` matrix of a head never exists.
//!
//! [`crate::encoder`] has the same as tensor operations and says what is computed.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    head::{Mask, product},
    pool::{pieces, row_ranges},
    product::{
        LANES, Lanes, ZERO, accumulate, accumulate_along_lanes, add_lanes, exp_nonpositive, for_every_processor, fused,
        lane_sums, outer, panels_across, rows as rows_of, sigmoid, transpose_from_panels, transpose_into_panels,
        transposed, unpadded,
    },
};
use crate::batch::Windows;

/// Pieces that the windows are cut into, each with weight gradients of its own.
const PIECES: usize = 16;
/// What burn's `RmsNorm` adds to a mean square.
const EPSILON: f32 = 1e-5;

/// A block's weights: `[in, out]` as burn has them, and transposed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query_key_value: Linear,
    pub(crate) attention_out: Linear,
    /// `[distances, heads]`: the bias of every distance up to the window's length.
    pub(crate) position_bias: Vec<f32>,
    pub(crate) feed_norm: Vec<f32>,
    pub(crate) feed_gate_value: Linear,
    pub(crate) feed_out: Linear,
}

/// A linear map without a bias.
#[derive(Debug, Clone, Default)]
pub(crate) struct Linear {
    weights: Vec<f32>,
    transposed: Vec<f32>,
    outputs: usize,
}

impl Linear {
    /// `weights`: `[inputs, outputs]`.
    pub(crate) fn new(weights: Vec<f32>, outputs: usize) -> Self {
        Self { transposed: transposed(&weights, outputs), weights, outputs }
    }

    fn inputs(&self) -> usize {
        self.weights.len() / self.outputs.max(1)
    }
}

/// A transformer for host memory.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    pub(crate) dim: usize,
    pub(crate) heads: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Vec<f32>,
    pub(crate) mask: Mask,
}

/// What the way back needs of the way there.
#[derive(Debug)]
pub(crate) struct TransformerOutput {
    /// `[rows, dim]`
    pub(crate) rows: Vec<f32>,
    windows: Vec<Kept>,
}

/// A window on its way: states, and what each block made of them.
#[derive(Debug, Default)]
struct Kept {
    /// Used states: one more than the longest prefix that is asked for; 0 if nothing is.
    states: usize,
    blocks: Vec<KeptBlock>,
    /// `[panels][dim]`: the states behind the last block.
    last: Vec<Lanes>,
}

/// All `[panels][width]`.
#[derive(Debug, Default)]
struct KeptBlock {
    input: Vec<Lanes>,
    projected: Vec<Lanes>,
    /// Maximum and sum of every query's scores: `[panels][heads]` each.
    max: Vec<Lanes>,
    sum: Vec<Lanes>,
    mixed: Vec<Lanes>,
    middle: Vec<Lanes>,
    hidden: Vec<Lanes>,
}

/// Gradients of a block's weights, shaped as the weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BlockGradients {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query_key_value: Vec<f32>,
    pub(crate) attention_out: Vec<f32>,
    /// `[distances, heads]`
    pub(crate) position_bias: Vec<f32>,
    pub(crate) feed_norm: Vec<f32>,
    pub(crate) feed_gate_value: Vec<f32>,
    pub(crate) feed_out: Vec<f32>,
}

/// Gradients with respect to everything a transformer computes from.
#[derive(Debug, PartialEq)]
pub(crate) struct TransformerGradients {
    /// `[windows, slots, dim]`
    pub(crate) slots: Vec<f32>,
    /// `[windows, dim]`
    pub(crate) known: Vec<f32>,
    pub(crate) blocks: Vec<BlockGradients>,
    pub(crate) norm: Vec<f32>,
}

/// Weight gradients of a piece, as panels; names as in [`Block`].
#[derive(Debug)]
struct Part {
    blocks: Vec<PartBlock>,
    /// `[dim]`, a sum a lane.
    norm: Vec<Lanes>,
}

#[derive(Debug)]
struct PartBlock {
    attention_norm: Vec<Lanes>,
    /// `[outputs][dim panels]`
    query_key_value: Vec<Lanes>,
    /// `[inputs][dim panels]`
    attention_out: Vec<Lanes>,
    position_bias: Vec<f32>,
    feed_norm: Vec<Lanes>,
    /// `[outputs][dim panels]`
    feed_gate_value: Vec<Lanes>,
    /// `[inputs][dim panels]`
    feed_out: Vec<Lanes>,
}

impl Transformer {
    /// # Shapes
    /// `history`: `[history, dim]`, `known`: `[windows, dim]`.
    pub(crate) fn forward(&self, history: &[f32], known: &[f32], windows: &Windows) -> TransformerOutput {
        let dim = self.dim;
        let mut rows = vec![0.0; windows.rows.len() * dim];
        let kept = pieces(&mut rows, windows, dim)
            .into_par_iter()
            .map(|(window, range, out)| {
                let mut kept = Kept::default();
                forward_window(self, history, known, windows, window, range, out, &mut kept);
                kept
            })
            .collect();
        TransformerOutput { rows, windows: kept }
    }

    /// # Shapes
    /// `gradient`: `[rows, dim]`.
    pub(crate) fn backward(
        &self,
        output: &TransformerOutput,
        windows: &Windows,
        gradient: &[f32],
    ) -> TransformerGradients {
        let dim = self.dim;
        let mut slots = vec![0.0; windows.count * windows.slots * dim];
        let mut known = vec![0.0; windows.count * dim];
        let ranges = row_ranges(windows);
        let size = windows.count.div_ceil(PIECES).max(1);
        let tasks = slots.par_chunks_mut(size * windows.slots * dim).zip(known.par_chunks_mut(size * dim)).enumerate();
        let parts: Vec<Part> = tasks
            .map(|(piece, (slots, known))| {
                let mut part = Part::new(self);
                let windows_of = slots.chunks_exact_mut(windows.slots * dim).zip(known.chunks_exact_mut(dim));
                for (at, (slots, known)) in windows_of.enumerate() {
                    let window = piece * size + at;
                    let kept = &output.windows[window];
                    if kept.states > 0 {
                        let rows = ranges[window].clone();
                        backward_window(self, kept, windows, window, rows, gradient, slots, known, &mut part);
                    }
                }
                part
            })
            .collect();
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or_else(|| Part::new(self));
        parts.for_each(|part| total.add(&part));
        total.finish(self, slots, known)
    }
}

impl Part {
    fn new(transformer: &Transformer) -> Self {
        let dim = transformer.dim;
        let dim_panels = dim.div_ceil(LANES);
        let block = |block: &Block| PartBlock {
            attention_norm: vec![ZERO; dim],
            query_key_value: vec![ZERO; 3 * dim * dim_panels],
            attention_out: vec![ZERO; dim * dim_panels],
            position_bias: vec![0.0; block.position_bias.len()],
            feed_norm: vec![ZERO; dim],
            feed_gate_value: vec![ZERO; block.feed_gate_value.outputs * dim_panels],
            feed_out: vec![ZERO; block.feed_out.inputs() * dim_panels],
        };
        Self { blocks: transformer.blocks.iter().map(block).collect(), norm: vec![ZERO; dim] }
    }

    fn add(&mut self, other: &Self) {
        for (sums, others) in self.blocks.iter_mut().zip(&other.blocks) {
            add_lanes(&mut sums.attention_norm, &others.attention_norm);
            add_lanes(&mut sums.query_key_value, &others.query_key_value);
            add_lanes(&mut sums.attention_out, &others.attention_out);
            add_lanes(&mut sums.feed_norm, &others.feed_norm);
            add_lanes(&mut sums.feed_gate_value, &others.feed_gate_value);
            add_lanes(&mut sums.feed_out, &others.feed_out);
            for (sum, other) in sums.position_bias.iter_mut().zip(&others.position_bias) {
                *sum += other;
            }
        }
        add_lanes(&mut self.norm, &other.norm);
    }

    fn finish(self, transformer: &Transformer, slots: Vec<f32>, known: Vec<f32>) -> TransformerGradients {
        let dim = transformer.dim;
        let blocks = self
            .blocks
            .into_iter()
            .map(|block| BlockGradients {
                attention_norm: lane_sums(&block.attention_norm),
                query_key_value: transposed(&unpadded(&block.query_key_value, dim), dim),
                attention_out: unpadded(&block.attention_out, dim),
                position_bias: block.position_bias,
                feed_norm: lane_sums(&block.feed_norm),
                feed_gate_value: transposed(&unpadded(&block.feed_gate_value, dim), dim),
                feed_out: unpadded(&block.feed_out, dim),
            })
            .collect();
        TransformerGradients { slots, known, blocks, norm: lane_sums(&self.norm) }
    }
}

for_every_processor!(forward_window = forward_body(
    transformer: &Transformer, history: &[f32], known: &[f32], windows: &Windows, window: usize, rows: Range<usize>,
    out: &mut [f32], kept: &mut Kept,
));
for_every_processor!(backward_window = backward_body(
    transformer: &Transformer, kept: &Kept, windows: &Windows, window: usize, rows: Range<usize>, gradient: &[f32],
    slots: &mut [f32], known: &mut [f32], part: &mut Part,
));

/// Where a window's dropout masks begin: `which` is the residual branch.
fn mask_start(windows: &Windows, window: usize, which: usize, dim: usize) -> usize {
    let panels = (windows.slots + 1).div_ceil(LANES);
    (which * windows.count + window) * panels * dim
}

#[inline(always)]
fn forward_body<const M: usize, const FMA: bool>(
    transformer: &Transformer,
    history: &[f32],
    known: &[f32],
    windows: &Windows,
    window: usize,
    rows: Range<usize>,
    out: &mut [f32],
    kept: &mut Kept,
) {
    let dim = transformer.dim;
    let Some(longest) = windows.row_prefixes[rows.clone()].iter().max() else { return };
    kept.states = *longest as usize + 1;
    let panels = kept.states.div_ceil(LANES);
    let mut input = known[window * dim..][..dim].to_vec();
    input.resize(kept.states * dim, 0.0);
    let tokens = &windows.tokens[window * windows.slots..][..windows.slots];
    for (state, &token) in input.chunks_exact_mut(dim).skip(1).zip(tokens) {
        if (token as usize) < windows.history.len() {
            state.copy_from_slice(&history[token as usize * dim..][..dim]);
        }
    }
    let mut states = vec![ZERO; panels * dim];
    transpose_into_panels(&input, dim, 0, kept.states, &mut states);
    for (number, block) in transformer.blocks.iter().enumerate() {
        let mut of = KeptBlock { input: states.clone(), ..KeptBlock::default() };
        let mut normal = vec![ZERO; panels * dim];
        normalise::<FMA>(&states, &block.attention_norm, &mut normal);
        of.projected = multiply::<M, FMA>(&block.query_key_value.transposed, dim, &normal);
        attend::<M, FMA>(transformer, block, kept.states, &mut of);
        let branch = multiply::<M, FMA>(&block.attention_out.transposed, dim, &of.mixed);
        add_branch(transformer.mask, mask_start(windows, window, 2 * number, dim), branch, &mut states);
        of.middle = states.clone();
        normalise::<FMA>(&states, &block.feed_norm, &mut normal);
        of.hidden = multiply::<M, FMA>(&block.feed_gate_value.transposed, dim, &normal);
        let active = gated::<FMA>(&of.hidden, block.feed_out.inputs());
        let branch = multiply::<M, FMA>(&block.feed_out.transposed, block.feed_out.inputs(), &active);
        add_branch(transformer.mask, mask_start(windows, window, 2 * number + 1, dim), branch, &mut states);
        kept.blocks.push(of);
    }
    let mut normal = vec![ZERO; panels * dim];
    normalise::<FMA>(&states, &transformer.norm, &mut normal);
    for (row, out) in rows.zip(out.chunks_exact_mut(dim)) {
        let state = windows.row_prefixes[row] as usize;
        for (out, lanes) in out.iter_mut().zip(&normal[state / LANES * dim..]) {
            *out = lanes[state % LANES];
        }
    }
    kept.last = states;
}

/// `[panels][rows of weights]`.
#[inline(always)]
fn multiply<const M: usize, const FMA: bool>(weights: &[f32], width: usize, right: &[Lanes]) -> Vec<Lanes> {
    let outputs = weights.len() / width;
    let mut out = vec![ZERO; right.len() / width * outputs];
    product::<M, FMA>(weights, width, right, &[], |panel, row, sums| out[panel * outputs + row] = sums);
    out
}

#[inline(always)]
fn add_branch(mask: Mask, start: usize, mut branch: Vec<Lanes>, states: &mut [Lanes]) {
    for (at, (state, branch)) in states.iter_mut().zip(&mut branch).enumerate() {
        mask.apply(start + at, branch);
        for lane in 0..LANES {
            state[lane] += branch[lane];
        }
    }
}

/// One over the root mean square of every lane.
#[inline(always)]
fn inverse_root<const FMA: bool>(states: &[Lanes]) -> Lanes {
    let mut square = ZERO;
    for state in states {
        for lane in 0..LANES {
            square[lane] = fused::<FMA>(state[lane], state[lane], square[lane]);
        }
    }
    for square in &mut square {
        *square = 1.0 / (*square / states.len() as f32 + EPSILON).sqrt();
    }
    square
}

#[inline(always)]
fn normalise<const FMA: bool>(states: &[Lanes], gamma: &[f32], out: &mut [Lanes]) {
    let dim = gamma.len();
    for (states, out) in states.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let factors = inverse_root::<FMA>(states);
        for ((state, out), gamma) in states.iter().zip(out).zip(gamma) {
            for lane in 0..LANES {
                out[lane] = state[lane] * factors[lane] * gamma;
            }
        }
    }
}

/// The way back through [`normalise`]: adds to `d_states` and to `d_gamma`.
#[inline(always)]
fn through_norm<const FMA: bool>(
    states: &[Lanes],
    gamma: &[f32],
    gradient: &[Lanes],
    d_states: &mut [Lanes],
    d_gamma: &mut [Lanes],
) {
    let dim = gamma.len();
    for (number, states) in states.chunks_exact(dim).enumerate() {
        let gradient = &gradient[number * dim..][..dim];
        let factors = inverse_root::<FMA>(states);
        let mut dots = ZERO;
        for at in 0..dim {
            for lane in 0..LANES {
                let normal = states[at][lane] * factors[lane];
                d_gamma[at][lane] = fused::<FMA>(gradient[at][lane], normal, d_gamma[at][lane]);
                dots[lane] = fused::<FMA>(gradient[at][lane] * gamma[at], normal, dots[lane]);
            }
        }
        for (at, d_state) in d_states[number * dim..][..dim].iter_mut().enumerate() {
            for lane in 0..LANES {
                let normal = states[at][lane] * factors[lane];
                d_state[lane] += factors[lane] * (gradient[at][lane] * gamma[at] - normal * dots[lane] / dim as f32);
            }
        }
    }
}

/// `silu(gate) * value`, `[panels][units]`; `hidden`: gates, then values.
#[inline(always)]
fn gated<const FMA: bool>(hidden: &[Lanes], units: usize) -> Vec<Lanes> {
    let mut active = vec![ZERO; hidden.len() / 2];
    for (hidden, active) in hidden.chunks_exact(2 * units).zip(active.chunks_exact_mut(units)) {
        let (gates, values) = hidden.split_at(units);
        for ((active, gate), value) in active.iter_mut().zip(gates).zip(values) {
            for lane in 0..LANES {
                active[lane] = gate[lane] * sigmoid::<FMA>(gate[lane]) * value[lane];
            }
        }
    }
    active
}

/// A head's part of the projected states, in the two orders that products want.
struct HeadParts {
    /// `[states, width]`
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[width, states]`
    keys_transposed: Vec<f32>,
    values_transposed: Vec<f32>,
    width: usize,
    states: usize,
}

impl HeadParts {
    #[inline(always)]
    fn new(projected: &[Lanes], dim: usize, heads: usize, head: usize, states: usize) -> Self {
        let width = dim / heads;
        let panels = projected.len() / (3 * dim);
        let part = |which: usize| {
            let mut rows = vec![0.0; states * width];
            let mut across = vec![0.0; width * states];
            for panel in 0..panels {
                let lanes = &projected[panel * 3 * dim + which * dim + head * width..][..width];
                for lane in 0..LANES.min(states - panel * LANES) {
                    let state = panel * LANES + lane;
                    for (at, lanes) in lanes.iter().enumerate() {
                        rows[state * width + at] = lanes[lane];
                        across[at * states + state] = lanes[lane];
                    }
                }
            }
            (rows, across)
        };
        let ((keys, keys_transposed), (values, values_transposed)) = (part(1), part(2));
        Self { keys, values, keys_transposed, values_transposed, width, states }
    }

    /// Keys that a panel of queries may see.
    fn seen(&self, panel: usize) -> usize {
        self.states.min((panel + 1) * LANES)
    }

    /// `left[row] . right` for the first `count` rows of `left`, `width` values each, into `out`.
    #[inline(always)]
    fn dots<const M: usize, const FMA: bool>(&self, left: &[f32], right: &[Lanes], out: &mut [Lanes]) {
        let width = right.len();
        for first in (0..out.len()).step_by(M) {
            let sums = accumulate::<M, FMA>([ZERO; M], rows_of(left, width, first), right);
            for (out, sums) in out[first..].iter_mut().zip(sums) {
                *out = sums;
            }
        }
    }

    /// `out[at] = sum_k left[at][k] right[k]` for `left`: `[width, states]`, over as many states as `right` has.
    #[inline(always)]
    fn mix<const M: usize, const FMA: bool>(&self, left: &[f32], right: &[Lanes], out: &mut [Lanes]) {
        for first in (0..self.width).step_by(M) {
            let sums = accumulate::<M, FMA>([ZERO; M], rows_of(left, self.states, first), right);
            for (out, sums) in out[first..].iter_mut().zip(sums) {
                *out = sums;
            }
        }
    }

    /// The scores of a panel's queries for the keys they may see, `[keys]`; minus infinity for those they may not.
    #[inline(always)]
    fn scores<const M: usize, const FMA: bool>(
        &self,
        queries: &[Lanes],
        panel: usize,
        bias: impl Fn(usize) -> f32,
        out: &mut [Lanes],
    ) {
        self.dots::<M, FMA>(&self.keys, queries, out);
        let scale = (self.width as f32).sqrt().recip();
        for (key, out) in out.iter_mut().enumerate() {
            for lane in 0..LANES {
                let query = panel * LANES + lane;
                out[lane] = if key <= query { out[lane] * scale + bias(query - key) } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// Attention of all heads: fills `max`, `sum` and `mixed`.
#[inline(always)]
fn attend<const M: usize, const FMA: bool>(
    transformer: &Transformer,
    block: &Block,
    states: usize,
    of: &mut KeptBlock,
) {
    let Transformer { dim, heads, .. } = *transformer;
    let width = dim / heads;
    let panels = states.div_ceil(LANES);
    of.max = vec![ZERO; panels * heads];
    of.sum = vec![ZERO; panels * heads];
    of.mixed = vec![ZERO; panels * dim];
    let mut scores = vec![ZERO; states];
    for head in 0..heads {
        let parts = HeadParts::new(&of.projected, dim, heads, head, states);
        for panel in 0..panels {
            let queries = &of.projected[panel * 3 * dim + head * width..][..width];
            let scores = &mut scores[..parts.seen(panel)];
            parts.scores::<M, FMA>(queries, panel, |distance| bias(block, heads, head, distance), scores);
            let mut max = [f32::NEG_INFINITY; LANES];
            for scores in &*scores {
                for lane in 0..LANES {
                    max[lane] = if scores[lane] > max[lane] { scores[lane] } else { max[lane] };
                }
            }
            let mut sum = ZERO;
            for scores in &mut *scores {
                for lane in 0..LANES {
                    scores[lane] = exp_nonpositive::<FMA>(scores[lane] - max[lane]);
                    sum[lane] += scores[lane];
                }
            }
            let mixed = &mut of.mixed[panel * dim + head * width..][..width];
            parts.mix::<M, FMA>(&parts.values_transposed, scores, mixed);
            for mixed in mixed {
                for lane in 0..LANES {
                    mixed[lane] /= sum[lane];
                }
            }
            of.max[panel * heads + head] = max;
            of.sum[panel * heads + head] = sum;
        }
    }
}

/// Queries beyond the last state may be further from a key than any state is.
#[inline(always)]
fn bias(block: &Block, heads: usize, head: usize, distance: usize) -> f32 {
    block.position_bias.get(distance * heads + head).copied().unwrap_or(0.0)
}

/// The way back through [`attend`]: gradient with respect to `projected`.
#[inline(always)]
fn through_attention<const M: usize, const FMA: bool>(
    transformer: &Transformer,
    block: &Block,
    states: usize,
    of: &KeptBlock,
    d_mixed: &[Lanes],
    d_bias: &mut [f32],
) -> Vec<Lanes> {
    let Transformer { dim, heads, .. } = *transformer;
    let width = dim / heads;
    let width_panels = width.div_ceil(LANES);
    let panels = states.div_ceil(LANES);
    let scale = (width as f32).sqrt().recip();
    let mut gradient = vec![ZERO; panels * 3 * dim];
    let (mut weights, mut d_scores) = (vec![ZERO; states], vec![ZERO; states]);
    for head in 0..heads {
        let parts = HeadParts::new(&of.projected, dim, heads, head, states);
        let mut d_keys = vec![ZERO; states * width_panels];
        let mut d_values = vec![ZERO; states * width_panels];
        for panel in 0..panels {
            let seen = parts.seen(panel);
            let (weights, d_scores) = (&mut weights[..seen], &mut d_scores[..seen]);
            let queries = &of.projected[panel * 3 * dim + head * width..][..width];
            let d_mixed = &d_mixed[panel * dim + head * width..][..width];
            parts.scores::<M, FMA>(queries, panel, |distance| bias(block, heads, head, distance), weights);
            let (max, sum) = (of.max[panel * heads + head], of.sum[panel * heads + head]);
            parts.dots::<M, FMA>(&parts.values, d_mixed, d_scores);
            let mut dots = ZERO;
            for (weight, d_score) in weights.iter_mut().zip(&*d_scores) {
                for lane in 0..LANES {
                    weight[lane] = exp_nonpositive::<FMA>(weight[lane] - max[lane]) / sum[lane];
                    dots[lane] = fused::<FMA>(weight[lane], d_score[lane], dots[lane]);
                }
            }
            for (key, (weight, d_score)) in weights.iter().zip(&mut *d_scores).enumerate() {
                for lane in 0..LANES {
                    d_score[lane] = weight[lane] * (d_score[lane] - dots[lane]);
                }
                for (lane, &value) in d_score.iter().enumerate() {
                    let query = panel * LANES + lane;
                    if key <= query && query < states {
                        d_bias[(query - key) * heads + head] += value;
                    }
                }
            }
            let of_queries = &mut gradient[panel * 3 * dim + head * width..][..width];
            parts.mix::<M, FMA>(&parts.keys_transposed, d_scores, of_queries);
            for lanes in of_queries {
                for lane in 0..LANES {
                    lanes[lane] *= scale;
                }
            }
            // Row-major, for the sums over queries.
            let mut right = vec![ZERO; width_panels * LANES];
            panels_across(queries, LANES, 0, &mut right);
            accumulate_along_lanes::<M, FMA>(
                [&*d_scores].into_iter(),
                &right,
                LANES,
                &mut d_keys[..seen * width_panels],
            );
            panels_across(d_mixed, LANES, 0, &mut right);
            accumulate_along_lanes::<M, FMA>(
                [&*weights].into_iter(),
                &right,
                LANES,
                &mut d_values[..seen * width_panels],
            );
        }
        for state in 0..states {
            let (panel, lane) = (state / LANES, state % LANES);
            let start = panel * 3 * dim + head * width;
            for at in 0..width {
                let from = state * width_panels + at / LANES;
                gradient[start + dim + at][lane] = d_keys[from][at % LANES] * scale;
                gradient[start + 2 * dim + at][lane] = d_values[from][at % LANES];
            }
        }
    }
    gradient
}

#[inline(always)]
fn backward_body<const M: usize, const FMA: bool>(
    transformer: &Transformer,
    kept: &Kept,
    windows: &Windows,
    window: usize,
    rows: Range<usize>,
    gradient: &[f32],
    slots: &mut [f32],
    known: &mut [f32],
    part: &mut Part,
) {
    let dim = transformer.dim;
    let panels = kept.states.div_ceil(LANES);
    let mut from_rows = vec![ZERO; panels * dim];
    for row in rows {
        let state = windows.row_prefixes[row] as usize;
        for (lanes, value) in from_rows[state / LANES * dim..].iter_mut().zip(&gradient[row * dim..][..dim]) {
            lanes[state % LANES] += value;
        }
    }
    let mut d_states = vec![ZERO; panels * dim];
    through_norm::<FMA>(&kept.last, &transformer.norm, &from_rows, &mut d_states, &mut part.norm);
    let blocks = transformer.blocks.iter().zip(&kept.blocks).zip(&mut part.blocks).enumerate().rev();
    for (number, ((block, of), part)) in blocks {
        let masked = |which: usize, d_states: &[Lanes]| {
            let start = mask_start(windows, window, which, dim);
            let mut branch = d_states.to_vec();
            branch.iter_mut().enumerate().for_each(|(at, lanes)| transformer.mask.apply(start + at, lanes));
            branch
        };
        let mut normal = vec![ZERO; panels * dim];

        let branch = masked(2 * number + 1, &d_states);
        let units = block.feed_out.inputs();
        let active = gated::<FMA>(&of.hidden, units);
        outer::<M, FMA>(&active, units, &branch, dim, &mut part.feed_out);
        let d_active = multiply::<M, FMA>(&block.feed_out.weights, dim, &branch);
        let mut d_hidden = vec![ZERO; of.hidden.len()];
        for panel in 0..panels {
            for unit in 0..units {
                let (gate, value) = (panel * 2 * units + unit, (panel * 2 + 1) * units + unit);
                for lane in 0..LANES {
                    let (x, d) = (of.hidden[gate][lane], d_active[panel * units + unit][lane]);
                    let open = sigmoid::<FMA>(x);
                    d_hidden[gate][lane] = d * of.hidden[value][lane] * open * (1.0 + x * (1.0 - open));
                    d_hidden[value][lane] = d * x * open;
                }
            }
        }
        normalise::<FMA>(&of.middle, &block.feed_norm, &mut normal);
        outer::<M, FMA>(&d_hidden, 2 * units, &normal, dim, &mut part.feed_gate_value);
        let d_normal = multiply::<M, FMA>(&block.feed_gate_value.weights, 2 * units, &d_hidden);
        through_norm::<FMA>(&of.middle, &block.feed_norm, &d_normal, &mut d_states, &mut part.feed_norm);

        let branch = masked(2 * number, &d_states);
        outer::<M, FMA>(&of.mixed, dim, &branch, dim, &mut part.attention_out);
        let d_mixed = multiply::<M, FMA>(&block.attention_out.weights, dim, &branch);
        let d_projected =
            through_attention::<M, FMA>(transformer, block, kept.states, of, &d_mixed, &mut part.position_bias);
        normalise::<FMA>(&of.input, &block.attention_norm, &mut normal);
        outer::<M, FMA>(&d_projected, 3 * dim, &normal, dim, &mut part.query_key_value);
        let d_normal = multiply::<M, FMA>(&block.query_key_value.weights, 3 * dim, &d_projected);
        through_norm::<FMA>(&of.input, &block.attention_norm, &d_normal, &mut d_states, &mut part.attention_norm);
    }
    let mut inputs = vec![0.0; kept.states * dim];
    transpose_from_panels(&d_states, dim, &mut inputs);
    known.copy_from_slice(&inputs[..dim]);
    slots[..(kept.states - 1) * dim].copy_from_slice(&inputs[dim..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::host::{attention::tests::check_slopes, pool::add_slots};

    /// Everything that gradients are taken with respect to, flat, in f64.
    struct Inputs {
        history: Vec<f64>,
        known: Vec<f64>,
        norm: Vec<f64>,
        /// Seven arrays a block, in the order of [`BlockGradients`].
        blocks: Vec<[Vec<f64>; 7]>,
    }

    impl Inputs {
        fn arrays(&mut self) -> Vec<&mut Vec<f64>> {
            let Self { history, known, norm, blocks } = self;
            [history, known, norm].into_iter().chain(blocks.iter_mut().flatten()).collect()
        }
    }

    fn narrow(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&value| value as f32).collect()
    }

    fn transformer(inputs: &Inputs, dim: usize, heads: usize, hidden: usize, mask: Mask) -> Transformer {
        let blocks = inputs.blocks.iter().map(|block| Block {
            attention_norm: narrow(&block[0]),
            query_key_value: Linear::new(narrow(&block[1]), 3 * dim),
            attention_out: Linear::new(narrow(&block[2]), dim),
            position_bias: narrow(&block[3]),
            feed_norm: narrow(&block[4]),
            feed_gate_value: Linear::new(narrow(&block[5]), 2 * hidden),
            feed_out: Linear::new(narrow(&block[6]), dim),
        });
        Transformer { dim, heads, blocks: blocks.collect(), norm: narrow(&inputs.norm), mask }
    }

    fn linear(rows: &[Vec<f64>], weights: &[f64], outputs: usize) -> Vec<Vec<f64>> {
        let output = |row: &Vec<f64>, at: usize| -> f64 {
            row.iter().enumerate().map(|(from, value)| value * weights[from * outputs + at]).sum()
        };
        rows.iter().map(|row| (0..outputs).map(|at| output(row, at)).collect()).collect()
    }

    fn rms_norm(rows: &[Vec<f64>], gamma: &[f64]) -> Vec<Vec<f64>> {
        let norm = |row: &Vec<f64>| {
            let square = row.iter().map(|value| value * value).sum::<f64>() / row.len() as f64;
            let root = (square + f64::from(EPSILON)).sqrt();
            row.iter().zip(gamma).map(|(value, gamma)| value / root * gamma).collect()
        };
        rows.iter().map(norm).collect()
    }

    /// The encoder as its definition reads: whole windows, padding and all.
    fn naive(inputs: &Inputs, heads: usize, hidden: usize, mask: Mask, windows: &Windows) -> Vec<f64> {
        let dim = inputs.norm.len();
        let width = dim / heads;
        let mut out = vec![0.0; windows.rows.len() * dim];
        for window in 0..windows.count {
            let factor = |which: usize, state: usize, at: usize| {
                let start = mask_start(windows, window, which, dim);
                let mut lanes = [1.0; LANES];
                mask.apply(start + state / LANES * dim + at, &mut lanes);
                f64::from(lanes[state % LANES])
            };
            let mut states = vec![inputs.known[window * dim..][..dim].to_vec()];
            for &token in &windows.tokens[window * windows.slots..][..windows.slots] {
                let row = inputs.history.get(token as usize * dim..(token as usize + 1) * dim);
                states.push(row.map_or_else(|| vec![0.0; dim], <[f64]>::to_vec));
            }
            for (number, block) in inputs.blocks.iter().enumerate() {
                let projected = linear(&rms_norm(&states, &block[0]), &block[1], 3 * dim);
                let mut mixed = vec![vec![0.0; dim]; states.len()];
                for head in 0..heads {
                    for query in 0..states.len() {
                        let scores: Vec<f64> = (0..=query)
                            .map(|key| {
                                let dot: f64 = (0..width)
                                    .map(|at| {
                                        let at = head * width + at;
                                        projected[query][at] * projected[key][dim + at]
                                    })
                                    .sum();
                                dot / (width as f64).sqrt() + block[3][(query - key) * heads + head]
                            })
                            .collect();
                        let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                        for (key, score) in scores.iter().enumerate() {
                            for at in 0..width {
                                let at = head * width + at;
                                mixed[query][at] += score.exp() / sum * projected[key][2 * dim + at];
                            }
                        }
                    }
                }
                for (state, branch) in linear(&mixed, &block[2], dim).into_iter().enumerate() {
                    for (at, value) in branch.into_iter().enumerate() {
                        states[state][at] += value * factor(2 * number, state, at);
                    }
                }
                let projected = linear(&rms_norm(&states, &block[4]), &block[5], 2 * hidden);
                let active: Vec<Vec<f64>> = projected
                    .iter()
                    .map(|row| {
                        let silu = |x: f64| x / (1.0 + (-x).exp());
                        (0..hidden).map(|unit| silu(row[unit]) * row[hidden + unit]).collect()
                    })
                    .collect();
                for (state, branch) in linear(&active, &block[6], dim).into_iter().enumerate() {
                    for (at, value) in branch.into_iter().enumerate() {
                        states[state][at] += value * factor(2 * number + 1, state, at);
                    }
                }
            }
            let states = rms_norm(&states, &inputs.norm);
            for row in (0..windows.rows.len()).filter(|&row| windows.row_windows[row] as usize == window) {
                out[row * dim..][..dim].copy_from_slice(&states[windows.row_prefixes[row] as usize]);
            }
        }
        out
    }

    struct Shape {
        count: usize,
        slots: usize,
        heads: usize,
        width: usize,
        hidden: usize,
        blocks: usize,
        dropout: f64,
    }

    fn windows(shape: &Shape, history: usize, rng: &mut Pcg64Mcg) -> Windows {
        let Shape { count, slots, .. } = *shape;
        let mut windows = Windows {
            count,
            slots,
            history: (0..history as u32).collect(),
            tokens: (0..count * slots).map(|_| rng.random_range(0..=history as u32)).collect(),
            ..Windows::default()
        };
        for window in 0..count {
            // Some windows have no rows, rows ask for some prefixes only.
            for prefix in 0..rng.random_range(0..=slots + 1) {
                if rng.random::<f64>() < 0.7 {
                    windows.rows.push(windows.rows.len() as u32);
                    windows.row_windows.push(window as u32);
                    windows.row_prefixes.push(prefix as u32);
                }
            }
        }
        windows
    }

    fn check(shape: &Shape, seed: u64) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let dim = shape.heads * shape.width;
        let windows = windows(shape, 7, &mut rng);
        let mut random = |count: usize, size: f64| -> Vec<f64> {
            (0..count).map(|_| f64::from(rng.random_range(-1.0..1.0_f32)) * size).collect()
        };
        let inputs = Inputs {
            history: random(7 * dim, 1.0),
            known: random(shape.count * dim, 1.0),
            norm: random(dim, 1.0),
            blocks: (0..shape.blocks)
                .map(|_| {
                    [
                        random(dim, 1.0),
                        random(3 * dim * dim, 0.7),
                        random(dim * dim, 0.7),
                        random((shape.slots + 1) * shape.heads, 1.0),
                        random(dim, 1.0),
                        random(2 * shape.hidden * dim, 0.7),
                        random(shape.hidden * dim, 0.7),
                    ]
                })
                .collect(),
        };
        let direction = random(windows.rows.len() * dim, 1.0);
        let mask = Mask::new(shape.dropout, 77);
        let host = transformer(&inputs, dim, shape.heads, shape.hidden, mask);
        let output = host.forward(&narrow(&inputs.history), &narrow(&inputs.known), &windows);
        let expected = naive(&inputs, shape.heads, shape.hidden, mask, &windows);
        for (at, (found, expected)) in output.rows.iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 1e-4, "rows[{at}]: {found} instead of {expected}");
        }
        let gradients = host.backward(&output, &windows, &narrow(&direction));
        let mut history = vec![0.0; inputs.history.len()];
        add_slots(&gradients.slots, &windows, dim, &mut history);
        let mut found = vec![history, gradients.known, gradients.norm];
        for block in gradients.blocks {
            let BlockGradients {
                attention_norm,
                query_key_value,
                attention_out,
                position_bias,
                feed_norm,
                feed_gate_value,
                feed_out,
            } = block;
            let all =
                [attention_norm, query_key_value, attention_out, position_bias, feed_norm, feed_gate_value, feed_out];
            found.extend(all);
        }
        let along = |inputs: &Inputs| -> f64 {
            let rows = naive(inputs, shape.heads, shape.hidden, mask, &windows);
            rows.iter().zip(&direction).map(|(value, along)| value * along).sum()
        };
        check_slopes(&found, inputs, |inputs, array| inputs.arrays().swap_remove(array), along, 2e-3, &mut rng);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn rows_and_gradients_agree_with_f64(
            count in 1_usize..4, slots in 1_usize..40, heads in 1_usize..3, width in 1_usize..20, hidden in 1_usize..20,
            blocks in 1_usize..3, dropped: bool, seed: u64,
        ) {
            let dropout = if dropped { 0.2 } else { 0.0 };
            check(&Shape { count, slots, heads, width, hidden, blocks, dropout }, seed);
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let shape = Shape { count: 37, slots: 20, heads: 2, width: 8, hidden: 12, blocks: 2, dropout: 0.1 };
        let mut rng = Pcg64Mcg::seed_from_u64(5);
        let windows = windows(&shape, 9, &mut rng);
        let mut random = |count: usize| -> Vec<f64> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let dim = 16;
        let block = |random: &mut dyn FnMut(usize) -> Vec<f64>| {
            [dim, 3 * dim * dim, dim * dim, 21 * 2, dim, 24 * dim, 12 * dim].map(random)
        };
        let inputs = Inputs {
            history: random(9 * dim),
            known: random(37 * dim),
            norm: random(dim),
            blocks: vec![block(&mut random), block(&mut random)],
        };
        let host = transformer(&inputs, dim, 2, 12, Mask::new(0.1, 3));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let output = host.forward(&narrow(&inputs.history), &narrow(&inputs.known), &windows);
                host.backward(&output, &windows, &output.rows)
            })
        };
        let one = run(1);
        for threads in [2, 5] {
            assert!(run(threads) == one, "{threads} threads");
        }
    }
}
