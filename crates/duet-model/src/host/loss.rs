//! Sampled softmax with its gradients in host memory; [`crate::loss`] says what is computed.
//!
//! The logits of a *strip* of 64 rows are kept transposed, a column's 16 rows side by side, so that the maximum, the sum and the
//! exponentials need no sums across lanes. Two phases take turns over blocks of strips:
//!
//! 1. for each strip: logits, masks, softmax, `dU`;
//! 2. for each run of columns: `dV` of all strips of the block, in their order.
//!
//! `G` is kept without its row factor `weight / sum`, which the users carry instead: `dV = P^T (factor U)`, `dU = factor (P V)`
//! with `P = exp(z - max) - y sum`. That spares a pass over the logits.

use std::ops::Range;

use rayon::prelude::*;

use super::product::{
    LANES, Lanes, ZERO, accumulate, accumulate_along_lanes, column_panels, exp_nonpositive, for_every_processor, fused,
    rows as rows_of, transpose_from_panels, transpose_into_panels,
};
use crate::loss::Targets;

/// Rows of a strip: 1 MiB of logits at 4,096 columns.
const STRIP: usize = 4 * LANES;
/// Columns whose part of the transposed items stays in the second-level cache.
const RUN: usize = 256;
/// Columns of a task of the second phase; a multiple of every `M`.
const COLUMNS: usize = 192;
/// Logits kept at a time, where there are more threads than that needs.
const BLOCK_BYTES: usize = 64 << 20;

/// The loss and its gradients with respect to both sides, row-major.
#[derive(Debug, PartialEq)]
pub(crate) struct HostLoss {
    pub(crate) loss: f32,
    /// `[rows, dim]`
    pub(crate) users: Vec<f32>,
    /// `[columns, dim]`
    pub(crate) items: Vec<f32>,
    /// `[columns]`, if the items have biases.
    pub(crate) biases: Vec<f32>,
}

/// What all strips share.
struct Problem<'a> {
    users: &'a [f32],
    items: &'a [f32],
    biases: &'a [f32],
    /// `[runs][dim][RUN]`: the items' transpose, [`RUN`] columns at a time.
    transposed: Vec<f32>,
    dim: usize,
    columns: usize,
    targets: &'a Targets,
    norm: f32,
}

/// Room for logits, kept from one step to the next: making and zeroing it anew took 2 % of a step.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<Strip>);

/// A strip's logits and what the second phase needs of its users.
#[derive(Debug)]
struct Strip {
    panels: usize,
    /// `[panels][columns]`
    logits: Vec<Lanes>,
    /// `[dim panels][STRIP]`: users times their row's factor.
    scaled: Vec<Lanes>,
    /// `[panels][dim]`: the users' transpose, then `dU`'s.
    transposed: Vec<Lanes>,
    /// `weight / sum` of every row.
    factors: [f32; STRIP],
    /// Logits of the positives of all rows before the softmax.
    positives: Vec<f32>,
    loss: f32,
}

/// Items with biases have them added to their logits.
///
/// # Shapes
/// `users`: `[rows, dim]`, `items`: `[columns, dim]`, row-major, `dim` at least 1; `biases`: `[columns]` or nothing.
pub(crate) fn sampled_softmax(
    users: &[f32],
    items: &[f32],
    biases: &[f32],
    dim: usize,
    targets: &Targets,
    scratch: &mut Scratch,
) -> HostLoss {
    let (rows, columns) = (users.len() / dim, items.len() / dim);
    let mut d_users = vec![0.0; rows * dim];
    if rows == 0 || columns == 0 {
        let (items, biases) = (vec![0.0; columns * dim], vec![0.0; biases.len()]);
        return HostLoss { loss: 0.0, users: d_users, items, biases };
    }
    let total: f32 = targets.row_weights.iter().sum::<f32>().max(f32::MIN_POSITIVE);
    let problem =
        Problem { users, items, biases, transposed: in_runs(items, dim), dim, columns, targets, norm: 1.0 / total };
    let dim_panels = dim.div_ceil(LANES);
    let mut d_items = vec![ZERO; columns * dim_panels];
    // A sum a lane.
    let mut d_biases = vec![ZERO; columns];
    let strips = problem.strips(rows, scratch);
    let mut loss = 0.0;
    let block = strips.len();
    for (number, d_users) in d_users.chunks_mut(block * STRIP * dim).enumerate() {
        let first = number * block * STRIP;
        let used = d_users.len().div_ceil(STRIP * dim);
        let strips = &mut strips[..used];
        let tasks = strips.par_iter_mut().zip(d_users.par_chunks_mut(STRIP * dim)).enumerate();
        tasks.for_each(|(at, (strip, d_users))| strip_of_rows(&problem, first + at * STRIP, strip, d_users));
        loss = strips.iter().fold(loss, |loss, strip| loss + strip.loss);
        let strips = &*strips;
        d_items
            .par_chunks_mut(COLUMNS * dim_panels)
            .zip(d_biases.par_chunks_mut(COLUMNS))
            .enumerate()
            .for_each(|(run, (d_items, d_biases))| run_of_columns(&problem, strips, run * COLUMNS, d_items, d_biases));
    }
    let mut items = d_items.into_flattened();
    if dim_panels * LANES != dim {
        items = items.chunks_exact(dim_panels * LANES).flat_map(|row| &row[..dim]).copied().collect();
    }
    let biases = if biases.is_empty() { Vec::new() } else { d_biases.iter().map(|lanes| lanes.iter().sum()).collect() };
    HostLoss { loss, users: d_users, items, biases }
}

fn in_runs(items: &[f32], dim: usize) -> Vec<f32> {
    let columns = items.len() / dim;
    let mut transposed = vec![0.0; columns.div_ceil(RUN) * RUN * dim];
    transposed.par_chunks_mut(RUN * dim).zip(items.par_chunks(RUN * dim)).for_each(|(run, items)| {
        for (column, item) in items.chunks_exact(dim).enumerate() {
            for (at, &value) in item.iter().enumerate() {
                run[at * RUN + column] = value;
            }
        }
    });
    transposed
}

impl Problem<'_> {
    /// A block of strips: enough for all threads, within [`BLOCK_BYTES`].
    fn strips<'s>(&self, rows: usize, scratch: &'s mut Scratch) -> &'s mut [Strip] {
        let affordable = BLOCK_BYTES / (self.columns * STRIP * size_of::<f32>());
        let wanted = 2 * rayon::current_num_threads();
        let count = wanted.min(affordable).max(1).min(rows.div_ceil(STRIP));
        let panels = STRIP / LANES;
        scratch.0.truncate(count);
        scratch.0.resize_with(count, Strip::new);
        for strip in &mut scratch.0 {
            // What is left in it is written over.
            strip.logits.resize(panels * self.columns, ZERO);
            strip.scaled.resize(self.dim.div_ceil(LANES) * STRIP, ZERO);
            strip.transposed.resize(panels * self.dim, ZERO);
        }
        &mut scratch.0
    }
}

impl Strip {
    fn new() -> Self {
        Self {
            panels: 0,
            logits: Vec::new(),
            scaled: Vec::new(),
            transposed: Vec::new(),
            factors: [0.0; STRIP],
            positives: Vec::new(),
            loss: 0.0,
        }
    }
}

for_every_processor!(strip_of_rows = strip_body(problem: &Problem<'_>, first: usize, strip: &mut Strip, d_users: &mut [f32]));
for_every_processor!(run_of_columns = run_body(problem: &Problem<'_>, strips: &[Strip], first: usize, d_items: &mut [Lanes], d_biases: &mut [Lanes]));

/// The first phase for the rows from `first` on, as many as `d_users` holds.
#[inline(always)]
fn strip_body<const M: usize, const FMA: bool>(
    problem: &Problem<'_>,
    first: usize,
    strip: &mut Strip,
    d_users: &mut [f32],
) {
    let Problem { users, dim, columns, targets, norm, .. } = *problem;
    let rows = d_users.len() / dim;
    strip.panels = rows.div_ceil(LANES);
    transpose_into_panels(users, dim, first, rows, &mut strip.transposed[..strip.panels * dim]);
    logits::<M, FMA>(problem, strip);
    mask(targets, columns, first..first + rows, strip);

    strip.factors = [0.0; STRIP];
    strip.loss = 0.0;
    let mut positives = strip.positives.iter();
    for (number, logits) in strip.logits.chunks_exact_mut(columns).take(strip.panels).enumerate() {
        let (max, sum) = softmax::<FMA>(logits);
        for lane in 0..LANES.min(rows - number * LANES) {
            let row = first + number * LANES + lane;
            let weight = targets.row_weights[row] * norm;
            let log_sum = max[lane] + sum[lane].ln();
            let mut loss = 0.0;
            for (at, logit) in targets.positives(row).zip(&mut positives) {
                let share = targets.shares[at];
                logits[targets.columns[at] as usize][lane] -= share * sum[lane];
                loss += share * (log_sum - logit);
            }
            strip.loss += loss * weight;
            strip.factors[number * LANES + lane] = weight / sum[lane];
        }
    }
    // Rows that the last strip lacks must add nothing.
    strip.scaled.fill(ZERO);
    column_panels(&users[first * dim..][..rows * dim], dim, STRIP, &strip.factors, &mut strip.scaled);
    user_gradients::<M, FMA>(problem, strip);
    transpose_from_panels(&strip.transposed, dim, d_users);
    for (row, factor) in d_users.chunks_exact_mut(dim).zip(strip.factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

/// `z = U V^T + bias - ln pi` into the strip.
#[inline(always)]
fn logits<const M: usize, const FMA: bool>(problem: &Problem<'_>, strip: &mut Strip) {
    let Problem { items, biases, dim, columns, targets, .. } = *problem;
    for column in (0..columns).step_by(M) {
        let items: [&[f32]; M] = rows_of(items, dim, column);
        let end = (column + M).min(columns);
        for (panel, users) in strip.transposed.chunks_exact(dim).take(strip.panels).enumerate() {
            let sums = accumulate::<M, FMA>([ZERO; M], items, users);
            let out = &mut strip.logits[panel * columns..][column..end];
            for (at, (out, sums)) in out.iter_mut().zip(&sums).enumerate() {
                let at = column + at;
                let bias = biases.get(at).copied().unwrap_or(0.0);
                let shift = bias - targets.log_inclusion.get(at).copied().unwrap_or(0.0);
                for lane in 0..LANES {
                    out[lane] = sums[lane] + shift;
                }
            }
        }
    }
}

/// Takes what the rows know out, and gives the positives their logits back: uncorrected ones, or as [`Targets`] says.
fn mask(targets: &Targets, columns: usize, rows: Range<usize>, strip: &mut Strip) {
    strip.positives.clear();
    for (number, row) in rows.enumerate() {
        let lane = number % LANES;
        let logits = &mut strip.logits[number / LANES * columns..][..columns];
        let kept = strip.positives.len();
        strip.positives.extend(targets.positives(row).map(|at| {
            let column = targets.columns[at] as usize;
            let correction = targets.log_inclusion.get(column).copied().unwrap_or(0.0);
            logits[column][lane] + if targets.corrects_positives { 0.0 } else { correction }
        }));
        for column in targets.masked(row) {
            logits[column as usize][lane] = f32::NEG_INFINITY;
        }
        for (at, &logit) in targets.positives(row).zip(&strip.positives[kept..]) {
            logits[targets.columns[at] as usize][lane] = logit;
        }
    }
}

/// Replaces logits by `exp(z - max)`; gives the maximum and the sum of every lane.
#[inline(always)]
fn softmax<const FMA: bool>(logits: &mut [Lanes]) -> (Lanes, Lanes) {
    let mut max = [f32::NEG_INFINITY; LANES];
    for logits in &*logits {
        for lane in 0..LANES {
            max[lane] = if logits[lane] > max[lane] { logits[lane] } else { max[lane] };
        }
    }
    let mut sum = ZERO;
    // Sums of sums: a running sum over 16,384 columns would lose three digits.
    for logits in logits.chunks_mut(64) {
        let mut part = ZERO;
        for logits in logits {
            for lane in 0..LANES {
                logits[lane] = exp_nonpositive::<FMA>(logits[lane] - max[lane]);
                part[lane] += logits[lane];
            }
        }
        for lane in 0..LANES {
            sum[lane] += part[lane];
        }
    }
    (max, sum)
}

/// `V^T P^T`, `[panels][dim]`, in the place of the users' transpose.
#[inline(always)]
fn user_gradients<const M: usize, const FMA: bool>(problem: &Problem<'_>, strip: &mut Strip) {
    let Problem { dim, columns, .. } = *problem;
    strip.transposed.fill(ZERO);
    for (run, items) in problem.transposed.chunks_exact(RUN * dim).enumerate() {
        let start = run * RUN;
        let end = (start + RUN).min(columns);
        for panel in 0..strip.panels {
            let probabilities = &strip.logits[panel * columns..][start..end];
            let gradient = &mut strip.transposed[panel * dim..][..dim];
            for at in (0..dim).step_by(M) {
                let mut sums = [ZERO; M];
                for (sums, gradient) in sums.iter_mut().zip(&gradient[at..]) {
                    *sums = *gradient;
                }
                let sums = accumulate::<M, FMA>(sums, rows_of(items, RUN, at), probabilities);
                for (gradient, sums) in gradient[at..].iter_mut().zip(sums) {
                    *gradient = sums;
                }
            }
        }
    }
}

/// The second phase for the columns from `first` on: `d_items` is `[columns][dim panels]`.
#[inline(always)]
fn run_body<const M: usize, const FMA: bool>(
    problem: &Problem<'_>,
    strips: &[Strip],
    first: usize,
    d_items: &mut [Lanes],
    d_biases: &mut [Lanes],
) {
    let count = d_biases.len();
    for strip in strips {
        let logits = strip.logits.chunks_exact(problem.columns).take(strip.panels);
        let logits = logits.map(|panel| &panel[first..first + count]);
        accumulate_along_lanes::<M, FMA>(logits.clone(), &strip.scaled, STRIP, d_items);
        if problem.biases.is_empty() {
            continue;
        }
        for (logits, factors) in logits.zip(strip.factors.chunks_exact(LANES)) {
            for (sums, logits) in d_biases.iter_mut().zip(logits) {
                for lane in 0..LANES {
                    sums[lane] = fused::<FMA>(logits[lane], factors[lane], sums[lane]);
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    /// `rows` rows, one positive each, every third row's window knowing some columns.
    fn problem(rows: usize, columns: usize, dim: usize) -> (Vec<f32>, Vec<f32>, Targets) {
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let (users, items) = (random(rows * dim), random(columns * dim));
        let targets = Targets {
            offsets: (0..=rows as u32).collect(),
            columns: (0..rows).map(|row| (row * 7 % columns) as u32).collect(),
            shares: vec![1.0; rows],
            row_weights: vec![1.0; rows],
            windows: (0..rows as u32).map(|row| row / 3).collect(),
            prefixes: (0..rows as u32).map(|row| row % 3).collect(),
            seen_offsets: (0..=rows.div_ceil(3) as u32).map(|window| 2 * window).collect(),
            seen_columns: (0..2 * rows.div_ceil(3)).map(|at| (at * 5 % columns) as u32).collect(),
            seen_places: (0..2 * rows.div_ceil(3) as u32).map(|at| at % 2).collect(),
            log_inclusion: random(columns).into_iter().map(|value| value - 1.0).collect(),
            corrects_positives: false,
        };
        (users, items, targets)
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        // 131 rows: three strips, the last of one panel; 700 columns: several runs and tasks.
        let (users, items, targets) = problem(131, 700, 20);
        let biases: Vec<f32> = (0..700).map(|at| at as f32 / 1000.0).collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sampled_softmax(&users, &items, &biases, 20, &targets, &mut Scratch::default()))
        };
        // What an earlier step leaves behind changes nothing.
        let mut scratch = Scratch::default();
        let (more_users, more_items, more_targets) = problem(200, 900, 33);
        sampled_softmax(&more_users, &more_items, &[], 33, &more_targets, &mut scratch);
        let one = sampled_softmax(&users, &items, &biases, 20, &targets, &mut scratch);
        assert!(one.loss.is_finite() && one.loss > 0.0);
        for threads in [1, 2, 3, 8] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
    }

    #[test]
    fn the_portable_variant_agrees_with_the_one_this_machine_chooses() {
        let (users, items, targets) = problem(70, 300, 9);
        let (dim, columns) = (9, 300);
        let problem = Problem {
            users: &users,
            items: &items,
            biases: &items[..300],
            transposed: in_runs(&items, dim),
            dim,
            columns,
            targets: &targets,
            norm: 1.0,
        };
        let mut scratch = Scratch::default();
        let strips = problem.strips(64, &mut scratch);
        let (mut chosen, mut portable) = (vec![0.0; 64 * dim], vec![0.0; 64 * dim]);
        // Both gradients of the columns, one after the other.
        let (mut chosen_items, mut portable_items) = (vec![ZERO; 2 * columns], vec![ZERO; 2 * columns]);
        strip_of_rows(&problem, 0, &mut strips[0], &mut chosen);
        let (items, biases) = chosen_items.split_at_mut(columns);
        run_of_columns(&problem, &strips[..1], 0, items, biases);
        let loss = strips[0].loss;
        strip_body::<2, false>(&problem, 0, &mut strips[0], &mut portable);
        let (items, biases) = portable_items.split_at_mut(columns);
        run_body::<2, false>(&problem, &strips[..1], 0, items, biases);
        assert!((loss - strips[0].loss).abs() < 1e-5 * loss);
        let pairs = chosen.iter().zip(&portable);
        for (left, right) in pairs.chain(chosen_items.as_flattened().iter().zip(portable_items.as_flattened())) {
            assert!((left - right).abs() < 1e-5, "{left} and {right}");
        }
    }
}
