//! From the sum of an entity's parts to its vector, and back, in host memory.
//!
//! ```text
//! y = mask' (x + outer(mask silu(inner(x))))        the residual network with both dropouts
//! v = y                                             or, with a scale,
//! v = scale y / |y|
//! ```
//!
//! [`crate::tower`] has the same as tensor operations. Sixteen rows are worked on side by side, a vector lane each; weights are
//! read along the contracted dimension, so forward and backward are the same kind of product.

use rayon::prelude::*;

use super::product::{
    LANES, Lanes, ZERO, accumulate, accumulate_along_lanes, add_lanes, column_panels, for_every_processor, fused,
    lane_sums, rows as rows_of, sigmoid, transpose_from_panels, transpose_into_panels, transposed, unpadded,
};

/// Rows worked on together: weights are read once for all of them.
const STRIP: usize = 4 * LANES;
/// Rows whose weight gradients are summed up in one place; the sums are then added in the order of the rows.
const CHUNK: usize = 4 * STRIP;

/// The weights of a residual network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    hidden: usize,
    /// `[dim, hidden]` and its transpose.
    inner: Vec<f32>,
    inner_transposed: Vec<f32>,
    inner_bias: Vec<f32>,
    /// `[hidden, dim]` and its transpose.
    outer: Vec<f32>,
    outer_transposed: Vec<f32>,
    outer_bias: Vec<f32>,
}

impl Network {
    /// `inner`: `[dim, hidden]`, `outer`: `[hidden, dim]`, each with its bias.
    pub(crate) fn new(inner: Vec<f32>, inner_bias: Vec<f32>, outer: Vec<f32>, outer_bias: Vec<f32>) -> Self {
        Self {
            hidden: inner_bias.len(),
            inner_transposed: transposed(&inner, inner_bias.len()),
            outer_transposed: transposed(&outer, outer_bias.len()),
            inner,
            inner_bias,
            outer,
            outer_bias,
        }
    }
}

/// A head: what lies between an entity's sum of parts and its vector.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) dim: usize,
    pub(crate) network: Option<Network>,
    /// Dropout on the hidden units.
    pub(crate) hidden_mask: Mask,
    /// Dropout on `y`.
    pub(crate) output_mask: Mask,
    /// Length of the vectors; absent: as they are.
    pub(crate) scale: Option<f32>,
}

/// What the way back needs of the way there.
#[derive(Debug)]
pub(crate) struct HeadOutput {
    /// `[rows, dim]`
    pub(crate) vectors: Vec<f32>,
    /// `|y|` of every row.
    norms: Vec<f32>,
    /// `[panels][hidden]`: the hidden units before their activation.
    hidden: Vec<Lanes>,
}

/// Gradients with respect to everything a head computes from.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HeadGradients {
    /// `[rows, dim]`
    pub(crate) input: Vec<f32>,
    /// `[dim, hidden]`
    pub(crate) inner: Vec<f32>,
    pub(crate) inner_bias: Vec<f32>,
    /// `[hidden, dim]`
    pub(crate) outer: Vec<f32>,
    pub(crate) outer_bias: Vec<f32>,
    /// With respect to the logarithm of the scale.
    pub(crate) log_scale: f32,
}

/// A dropout mask as a function of place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    /// Of 65,536 draws, how many keep their element.
    limit: u32,
    kept: f32,
    seed: [u32; 2],
}

impl Mask {
    pub(crate) fn new(probability: f64, seed: u64) -> Self {
        let limit = ((1.0 - probability) * 65_536.0).round().clamp(1.0, 65_536.0) as u32;
        Self { limit, kept: 65_536.0 / limit as f32, seed: [seed as u32, (seed >> 32) as u32] }
    }

    fn is_none(self) -> bool {
        self.limit == 65_536
    }

    /// The factors of the `at`-th row of a panel: `1 / keep` or 0. Two draws of 16 bits from one mixed counter; 32-bit
    /// multiplications alone, so that it vectorises.
    #[inline(always)]
    fn factors(self, at: usize) -> Lanes {
        let mut factors = ZERO;
        let (low, high) = factors.split_at_mut(LANES / 2);
        for lane in 0..LANES / 2 {
            let counter = (at * (LANES / 2) + lane) as u32;
            let mut x = counter.wrapping_mul(0x9e37_79b9).wrapping_add(self.seed[0]);
            x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d).wrapping_add(self.seed[1]);
            x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
            x ^= x >> 16;
            low[lane] = if x & 0xffff < self.limit { self.kept } else { 0.0 };
            high[lane] = if x >> 16 < self.limit { self.kept } else { 0.0 };
        }
        factors
    }

    #[inline(always)]
    pub(crate) fn apply(self, at: usize, lanes: &mut Lanes) {
        if !self.is_none() {
            let factors = self.factors(at);
            for lane in 0..LANES {
                lanes[lane] *= factors[lane];
            }
        }
    }
}

impl Head {
    fn hidden(&self) -> usize {
        self.network.as_ref().map_or(0, |network| network.hidden)
    }

    /// # Shapes
    /// `input`: `[rows, dim]`.
    pub(crate) fn forward(&self, input: &[f32]) -> HeadOutput {
        let (dim, hidden) = (self.dim, self.hidden());
        let rows = input.len() / dim;
        let mut output = HeadOutput {
            vectors: vec![0.0; rows * dim],
            norms: vec![0.0; rows],
            hidden: vec![ZERO; rows.div_ceil(LANES) * hidden],
        };
        // One lane row more than there may be, so that a head without a network has chunks too.
        output.hidden.resize(output.hidden.len().max(rows.div_ceil(LANES)), ZERO);
        let hidden_chunk = STRIP / LANES * hidden.max(1);
        let vectors = output.vectors.par_chunks_mut(STRIP * dim).zip(output.norms.par_chunks_mut(STRIP));
        vectors.zip(output.hidden.par_chunks_mut(hidden_chunk)).enumerate().for_each(
            |(strip, ((vectors, norms), hidden))| {
                forward_strip(self, input, strip * STRIP, vectors, norms, hidden);
            },
        );
        output
    }

    /// # Shapes
    /// `input`: as given to [`Head::forward`]; `gradient`: `[rows, dim]`, with respect to the vectors.
    pub(crate) fn backward(&self, input: &[f32], output: &HeadOutput, gradient: &[f32]) -> HeadGradients {
        let (dim, hidden) = (self.dim, self.hidden());
        let mut d_input = vec![0.0; input.len()];
        let mut parts: Vec<Part> = (0..(input.len() / dim).div_ceil(CHUNK)).map(|_| Part::new(dim, hidden)).collect();
        d_input.par_chunks_mut(CHUNK * dim).zip(&mut parts).enumerate().for_each(|(chunk, (d_input, part))| {
            backward_chunk(self, input, output, gradient, chunk * CHUNK, d_input, part);
        });
        let mut parts = parts.into_iter();
        let mut total = parts.next().unwrap_or_else(|| Part::new(dim, hidden));
        parts.for_each(|part| total.add(&part));
        let log_scale = total.log_scale;
        let mut gradients = HeadGradients { input: d_input, log_scale, ..HeadGradients::default() };
        if hidden > 0 {
            gradients.inner = transposed(&unpadded(&total.inner, dim), dim);
            gradients.outer = unpadded(&total.outer, dim);
            gradients.inner_bias = lane_sums(&total.inner_bias);
            gradients.outer_bias = lane_sums(&total.outer_bias);
        }
        gradients
    }
}

/// Weight gradients of a chunk of rows.
struct Part {
    /// `[hidden][dim panels]`: the transpose of the inner weights' gradient.
    inner: Vec<Lanes>,
    /// `[hidden][dim panels]`
    outer: Vec<Lanes>,
    /// `[hidden]`, a sum a lane.
    inner_bias: Vec<Lanes>,
    /// `[dim]`, a sum a lane.
    outer_bias: Vec<Lanes>,
    log_scale: f32,
}

impl Part {
    fn new(dim: usize, hidden: usize) -> Self {
        let weights = vec![ZERO; hidden * dim.div_ceil(LANES)];
        Self {
            outer: weights.clone(),
            inner: weights,
            inner_bias: vec![ZERO; hidden],
            outer_bias: vec![ZERO; dim],
            log_scale: 0.0,
        }
    }

    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.inner, &other.inner),
            (&mut self.outer, &other.outer),
            (&mut self.inner_bias, &other.inner_bias),
            (&mut self.outer_bias, &other.outer_bias),
        ];
        for (sums, others) in pairs {
            add_lanes(sums, others);
        }
        self.log_scale += other.log_scale;
    }
}

for_every_processor!(forward_strip = forward_body(
    head: &Head, input: &[f32], first: usize, vectors: &mut [f32], norms: &mut [f32], hidden: &mut [Lanes],
));
for_every_processor!(backward_chunk = backward_body(
    head: &Head, input: &[f32], output: &HeadOutput, gradient: &[f32], first: usize, d_input: &mut [f32], part: &mut Part,
));

/// Hands `bias[row] + sum_k weights[row][k] right[panel][k]` to `finish(panel, row, ..)`, for all rows of `weights` (`width` values
/// each) and all panels of `right`. A bias that is not there is 0.
#[inline(always)]
pub(crate) fn product<const M: usize, const FMA: bool>(
    weights: &[f32],
    width: usize,
    right: &[Lanes],
    bias: &[f32],
    mut finish: impl FnMut(usize, usize, Lanes),
) {
    let count = weights.len() / width;
    for at in (0..count).step_by(M) {
        let left: [&[f32]; M] = rows_of(weights, width, at);
        let mut start = [ZERO; M];
        for (start, &bias) in start.iter_mut().zip(bias.get(at..).unwrap_or_default()) {
            *start = [bias; LANES];
        }
        for (panel, right) in right.chunks_exact(width).enumerate() {
            let sums: [Lanes; M] = accumulate::<M, FMA>(start, left, right);
            for (i, sums) in sums.into_iter().enumerate().take(count - at) {
                finish(panel, at + i, sums);
            }
        }
    }
}

#[inline(always)]
fn forward_body<const M: usize, const FMA: bool>(
    head: &Head,
    input: &[f32],
    first: usize,
    vectors: &mut [f32],
    norms: &mut [f32],
    hidden: &mut [Lanes],
) {
    let dim = head.dim;
    let rows = norms.len();
    let panels = rows.div_ceil(LANES);
    let mut y = vec![ZERO; panels * dim]; // [panels][dim]
    transpose_into_panels(input, dim, first, rows, &mut y);
    if let Some(network) = &head.network {
        let units = network.hidden;
        let mut active = vec![ZERO; panels * units]; // [panels][hidden]
        product::<M, FMA>(&network.inner_transposed, dim, &y, &network.inner_bias, |panel, unit, sums| {
            hidden[panel * units + unit] = sums;
            let mut values = ZERO;
            for lane in 0..LANES {
                values[lane] = sums[lane] * sigmoid::<FMA>(sums[lane]);
            }
            head.hidden_mask.apply((first / LANES + panel) * units + unit, &mut values);
            active[panel * units + unit] = values;
        });
        product::<M, FMA>(&network.outer_transposed, units, &active, &network.outer_bias, |panel, at, sums| {
            for (value, sum) in y[panel * dim + at].iter_mut().zip(sums) {
                *value += sum;
            }
        });
    }
    for (panel, y) in y.chunks_exact_mut(dim).enumerate() {
        let mut square = [0.0_f32; LANES];
        for (at, y) in y.iter_mut().enumerate() {
            head.output_mask.apply((first / LANES + panel) * dim + at, y);
            for lane in 0..LANES {
                square[lane] = fused::<FMA>(y[lane], y[lane], square[lane]);
            }
        }
        let Some(scale) = head.scale else { continue };
        let mut factors = ZERO;
        for lane in 0..LANES {
            // The same small number as in `tower::l2_normalise`: a zero row stays zero.
            square[lane] = (square[lane] + 1e-12).sqrt();
            factors[lane] = scale / square[lane];
        }
        for y in y {
            for lane in 0..LANES {
                y[lane] *= factors[lane];
            }
        }
        for (norm, value) in norms[panel * LANES..].iter_mut().zip(square) {
            *norm = value;
        }
    }
    transpose_from_panels(&y, dim, vectors);
}

#[inline(always)]
fn backward_body<const M: usize, const FMA: bool>(
    head: &Head,
    input: &[f32],
    output: &HeadOutput,
    gradient: &[f32],
    first: usize,
    d_input: &mut [f32],
    part: &mut Part,
) {
    let dim = head.dim;
    for (strip, d_input) in d_input.chunks_mut(STRIP * dim).enumerate() {
        backward_strip::<M, FMA>(head, input, output, gradient, first + strip * STRIP, d_input, part);
    }
}

#[inline(always)]
fn backward_strip<const M: usize, const FMA: bool>(
    head: &Head,
    input: &[f32],
    output: &HeadOutput,
    gradient: &[f32],
    first: usize,
    d_input: &mut [f32],
    part: &mut Part,
) {
    let dim = head.dim;
    let rows = d_input.len() / dim;
    let panels = rows.div_ceil(LANES);
    let mut dy = vec![ZERO; panels * dim]; // [panels][dim]
    transpose_into_panels(gradient, dim, first, rows, &mut dy);
    if let Some(scale) = head.scale {
        let mut v = vec![ZERO; panels * dim];
        transpose_into_panels(&output.vectors, dim, first, rows, &mut v);
        for (panel, (dy, v)) in dy.chunks_exact_mut(dim).zip(v.chunks_exact(dim)).enumerate() {
            part.log_scale += through_length::<FMA>(scale, &output.norms[first + panel * LANES..], dy, v);
        }
    }
    for (panel, dy) in dy.chunks_exact_mut(dim).enumerate() {
        for (at, (dy, bias)) in dy.iter_mut().zip(&mut part.outer_bias).enumerate() {
            head.output_mask.apply((first / LANES + panel) * dim + at, dy);
            for lane in 0..LANES {
                bias[lane] += dy[lane];
            }
        }
    }
    let Some(network) = &head.network else { return transpose_from_panels(&dy, dim, d_input) };
    let units = network.hidden;
    let hidden = &output.hidden[first / LANES * units..][..panels * units];
    let mut active = vec![ZERO; panels * units];
    let mut d_hidden = vec![ZERO; panels * units];
    product::<M, FMA>(&network.outer, dim, &dy, &[], |panel, unit, sums| {
        let at = panel * units + unit;
        let mut mask = [1.0; LANES];
        head.hidden_mask.apply((first / LANES + panel) * units + unit, &mut mask);
        for lane in 0..LANES {
            let value = hidden[at][lane];
            let gate = sigmoid::<FMA>(value);
            active[at][lane] = mask[lane] * value * gate;
            let slope = gate * (1.0 + value * (1.0 - gate));
            d_hidden[at][lane] = mask[lane] * slope * sums[lane];
            part.inner_bias[unit][lane] += d_hidden[at][lane];
        }
    });
    // Row-major, for the sums over rows.
    let dim_panels = dim.div_ceil(LANES);
    let (mut inputs, mut outputs) = (vec![ZERO; dim_panels * STRIP], vec![ZERO; dim_panels * STRIP]);
    let ones = [1.0; STRIP];
    column_panels(&input[first * dim..][..rows * dim], dim, STRIP, &ones, &mut inputs);
    transpose_from_panels(&dy, dim, d_input);
    column_panels(d_input, dim, STRIP, &ones, &mut outputs);
    accumulate_along_lanes::<M, FMA>(active.chunks_exact(units), &outputs, STRIP, &mut part.outer);
    accumulate_along_lanes::<M, FMA>(d_hidden.chunks_exact(units), &inputs, STRIP, &mut part.inner);

    product::<M, FMA>(&network.inner, units, &d_hidden, &[], |panel, at, sums| {
        for (value, sum) in dy[panel * dim + at].iter_mut().zip(sums) {
            *value += sum;
        }
    });
    transpose_from_panels(&dy, dim, d_input);
}

/// Gradient with respect to `y` from that with respect to `v = scale y / |y|`, in place; gives the one with respect to the
/// logarithm of the scale.
#[inline(always)]
fn through_length<const FMA: bool>(scale: f32, norms: &[f32], dy: &mut [Lanes], v: &[Lanes]) -> f32 {
    let mut dots = ZERO;
    for (dv, v) in dy.iter().zip(v) {
        for lane in 0..LANES {
            dots[lane] = fused::<FMA>(dv[lane], v[lane], dots[lane]);
        }
    }
    // Lanes without a row have neither a norm nor a gradient.
    let mut factors = ZERO;
    for (factor, norm) in factors.iter_mut().zip(norms) {
        *factor = scale / norm;
    }
    for (dy, v) in dy.iter_mut().zip(v) {
        for lane in 0..LANES {
            dy[lane] = factors[lane] * (dy[lane] - v[lane] * dots[lane] / (scale * scale));
        }
    }
    dots.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn head(dim: usize, hidden: usize, dropout: f64, scale: Option<f32>, rng: &mut Pcg64Mcg) -> Head {
        let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let network =
            (hidden > 0).then(|| Network::new(random(dim * hidden), random(hidden), random(hidden * dim), random(dim)));
        let [hidden_mask, output_mask] = [1, 2].map(|seed| Mask::new(dropout, seed << 33 | seed));
        Head { dim, network, hidden_mask, output_mask, scale }
    }

    /// The vectors as the definition reads, in f64.
    fn naive(head: &Head, input: &[f64], weights: [&[f64]; 4], log_scale: f64) -> Vec<f64> {
        let (dim, hidden) = (head.dim, head.hidden());
        let [inner, inner_bias, outer, outer_bias] = weights;
        let factor = |mask: Mask, row: usize, width: usize, at: usize| {
            f64::from(mask.factors(row / LANES * width + at)[row % LANES])
        };
        let mut vectors = Vec::new();
        for (row, x) in input.chunks(dim).enumerate() {
            let units: Vec<f64> = (0..hidden)
                .map(|unit| {
                    let sum: f64 = (0..dim).map(|at| x[at] * inner[at * hidden + unit]).sum::<f64>() + inner_bias[unit];
                    factor(head.hidden_mask, row, hidden, unit) * sum / (1.0 + (-sum).exp())
                })
                .collect();
            let y: Vec<f64> = (0..dim)
                .map(|at| {
                    let sum: f64 = (0..hidden).map(|unit| units[unit] * outer[unit * dim + at]).sum();
                    let bias = if hidden > 0 { outer_bias[at] } else { 0.0 };
                    factor(head.output_mask, row, dim, at) * (x[at] + sum + bias)
                })
                .collect();
            let norm = (y.iter().map(|y| y * y).sum::<f64>() + 1e-12).sqrt();
            vectors.extend(y.iter().map(|y| if head.scale.is_some() { log_scale.exp() * y / norm } else { *y }));
        }
        vectors
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&value| f64::from(value)).collect()
    }

    fn check(rows: usize, dim: usize, hidden: usize, dropout: f64, scale: Option<f32>, seed: u64) {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let head = head(dim, hidden, dropout, scale, &mut rng);
        let input: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let direction: Vec<f32> = (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let output = head.forward(&input);
        let gradients = head.backward(&input, &output, &direction);

        let network = head.network.clone().unwrap_or_default();
        let arrays = [&input, &network.inner, &network.inner_bias, &network.outer, &network.outer_bias];
        let mut values: Vec<Vec<f64>> = arrays.iter().map(|values| wide(values)).collect();
        values.push(vec![f64::from(scale.unwrap_or(1.0)).ln()]);
        let vectors = |values: &[Vec<f64>]| {
            naive(&head, &values[0], [&values[1], &values[2], &values[3], &values[4]], values[5][0])
        };
        let expected = vectors(&values);
        for (at, (found, expected)) in output.vectors.iter().zip(&expected).enumerate() {
            assert!((f64::from(*found) - expected).abs() < 2e-4, "vectors[{at}]: {found} instead of {expected}");
        }
        let along = |values: &[Vec<f64>]| -> f64 {
            vectors(values).iter().zip(&direction).map(|(value, &along)| value * f64::from(along)).sum()
        };
        let log_scale = vec![gradients.log_scale];
        let all = [
            &gradients.input,
            &gradients.inner,
            &gradients.inner_bias,
            &gradients.outer,
            &gradients.outer_bias,
            &log_scale,
        ];
        for (array, found) in all.into_iter().enumerate() {
            if array == 5 && scale.is_none() || array > 0 && array < 5 && hidden == 0 {
                continue;
            }
            assert_eq!(found.len(), values[array].len(), "array {array}");
            for _ in 0..8.min(found.len()) {
                let at = rng.random_range(0..found.len());
                let old = values[array][at];
                let mut value_at = |value: f64| {
                    values[array][at] = value;
                    along(&values)
                };
                let slope = (value_at(old + 1e-6) - value_at(old - 1e-6)) / 2e-6;
                value_at(old);
                let error = (f64::from(found[at]) - slope).abs();
                assert!(error < 2e-3 * slope.abs().max(1.0), "array {array}[{at}]: {} against {slope}", found[at]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn vectors_and_gradients_agree_with_f64(
            rows in 1_usize..90, dim in 2_usize..35, hidden in 0_usize..40, dropped: bool, scaled: bool, seed: u64,
        ) {
            check(rows, dim, hidden, if dropped { 0.3 } else { 0.0 }, scaled.then_some(3.0), seed);
        }
    }

    #[test]
    fn several_chunks_and_any_number_of_threads() {
        check(2 * CHUNK + 5, 16, 32, 0.1, Some(5.0), 3);
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let head = head(20, 30, 0.1, Some(5.0), &mut rng);
        let input: Vec<f32> = (0..700 * 20).map(|_| rng.random_range(-1.0..1.0)).collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| head.backward(&input, &head.forward(&input), &input))
        };
        let one = run(1);
        for threads in [2, 5] {
            assert!(run(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn no_rows_have_no_gradient() {
        let head = head(4, 3, 0.0, Some(1.0), &mut Pcg64Mcg::seed_from_u64(1));
        let gradients = head.backward(&[], &head.forward(&[]), &[]);
        assert_eq!(gradients.input, Vec::<f32>::new());
    }

    #[test]
    fn a_mask_keeps_the_mean_and_depends_on_the_seed() {
        for probability in [0.05, 0.1, 0.5, 0.9] {
            let mask =
                |seed| -> Vec<f32> { (0..12_500).flat_map(|at| Mask::new(probability, seed).factors(at)).collect() };
            let values = mask(7);
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
            // Standard deviation of the mean: sqrt(p / (1 - p) / n).
            let deviation = (probability / (1.0 - probability) / values.len() as f64).sqrt();
            assert!((mean - 1.0).abs() < 5.0 * deviation, "{probability}: {mean}");
            assert_eq!(values, mask(7));
            assert_ne!(values, mask(8));
        }
    }
}
