//! Implicit ALS: weighted matrix factorisation of who played what (Hu, Koren & Volinsky 2008).
//!
//! With p = 1 for a pair that was played and 0 otherwise, and confidence c = 1 + alpha * p, it minimises
//! `sum over all pairs of c (p - x_u . y_i)^2 + regularization (sum |x_u|^2 + sum |y_i|^2)`, users and items in turn.
//! Each vector is the solution of `(Y'Y + regularization I + alpha Y_u' Y_u) x = (1 + alpha) sum of Y_u`, where Y_u are
//! the rows of the user's items. It is not solved but approached by a few conjugate-gradient steps from the vector of
//! the iteration before (Takács, Pilászy & Tikk 2011): no matrix is made for a user, and a step costs
//! `factors * (factors + items of the user)`.
//!
//! A user's item vectors are copied together once a solve and then read from the cache at every step. A vector depends
//! on the other side's vectors alone, and sums over rows have a fixed order, so that the number of threads does not
//! matter.

use duet_core::{Error, ItemIdx, Result};
use pulp::NullaryFnOnce;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Interactions,
    lanes::{add_rows, add_weighted_by_dot, dispatch, dot, padded},
    latent::Latent,
    rows::Rows,
};
use crate::{
    recommender::{Query, Recommender, Scored},
    vectors::Vectors,
};

/// Squared length of a residual that is as good as none.
const SOLVED: f32 = 1e-20;

/// Rows whose products are summed by one task; their number must not depend on the threads.
const GRAM_TASKS: usize = 64;

/// Steps for a listener who was not in training: their vector starts at zero, not at that of an iteration before.
const FOLD_IN_STEPS: usize = 30;

/// What to fit.
///
/// Factors, regularisation, iterations and steps are the defaults of the Python package `implicit` 0.7. Its `alpha` of 1
/// multiplies the confidence itself, which on binary data weighs played and unplayed pairs the same; here `alpha` is Hu
/// et al.'s, added to 1, and what `implicit` calls 10 is 9.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AlsOptions {
    /// Components of a vector.
    pub factors: usize,
    /// Confidence of a played pair beyond that of an unplayed one.
    pub alpha: f64,
    /// Weight of the squared lengths.
    pub regularization: f64,
    /// Times that users and items are solved.
    pub iterations: usize,
    /// Conjugate-gradient steps a solve.
    pub cg_steps: usize,
    /// Seed of the first vectors.
    pub seed: u64,
}

impl Default for AlsOptions {
    fn default() -> Self {
        Self { factors: 100, alpha: 9.0, regularization: 0.01, iterations: 15, cg_steps: 3, seed: 1 }
    }
}

impl AlsOptions {
    fn check(&self) -> Result<()> {
        let positive = [("factors", self.factors), ("iterations", self.iterations), ("cg_steps", self.cg_steps)];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::input(format!("als: {name} is 0; it must be at least 1")));
        }
        for (name, value) in [("alpha", self.alpha), ("regularization", self.regularization)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::input(format!("als: {name} is {value}; it must be a positive number")));
            }
        }
        Ok(())
    }
}

/// The fitted factorisation.
pub struct Als {
    latent: Latent,
    /// `Y'Y + regularization I` of the items, for fold-in.
    gram: Vec<f32>,
    options: AlsOptions,
}

impl Als {
    /// Fits on the distinct pairs of the interactions.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range.
    pub fn new(interactions: &Interactions<'_>, options: AlsOptions) -> Result<Self> {
        options.check()?;
        let by_user = interactions.distinct();
        let by_item = by_user.transpose();
        let width = padded(options.factors);
        let mut rng = Pcg64Mcg::seed_from_u64(options.seed);
        let mut users = random_rows(by_user.len(), options.factors, &mut rng);
        let mut items = random_rows(by_item.len(), options.factors, &mut rng);
        for _ in 0..options.iterations {
            solve_all(&mut users, &items, &by_user, &options);
            solve_all(&mut items, &users, &by_item, &options);
        }
        let gram = gram(&items, width, options.regularization as f32);
        // The padding goes into the search too: zeros change no score.
        let latent = Latent::new(interactions, Vectors::new(width, users)?, Vectors::new(width, items)?)?;
        Ok(Self { latent, gram, options })
    }

    /// User vectors `[users, dim]`; components beyond `factors` are 0.
    pub fn users(&self) -> &Vectors {
        self.latent.users()
    }

    /// Item vectors `[items, dim]`; components beyond `factors` are 0.
    pub fn items(&self) -> &Vectors {
        self.latent.items()
    }

    fn fold_in(&self, items: &[u32]) -> Vec<f32> {
        let vectors = self.items();
        let mut row = vec![0.0; vectors.dim];
        let options = AlsOptions { cg_steps: FOLD_IN_STEPS, ..self.options };
        let solve = Solve {
            row: &mut row,
            others: items,
            vectors: &vectors.data,
            gram: &self.gram,
            options: &options,
            scratch: &mut Scratch::default(),
        };
        dispatch(solve);
        row
    }
}

/// Uniform in [0, 0.01), as `implicit` begins; padded with zeros.
fn random_rows(rows: usize, factors: usize, rng: &mut Pcg64Mcg) -> Vec<f32> {
    let width = padded(factors);
    let mut data = vec![0.0; rows * width];
    for row in data.chunks_exact_mut(width) {
        row[..factors].fill_with(|| rng.random_range(0.0..0.01));
    }
    data
}

/// `Y'Y + regularization I`, `[width, width]`.
fn gram(vectors: &[f32], width: usize, regularization: f32) -> Vec<f32> {
    let rows = vectors.len() / width;
    let share = rows.div_ceil(GRAM_TASKS).max(64);
    let parts: Vec<Vec<f32>> =
        vectors.par_chunks(share * width).map(|vectors| dispatch(Gram { vectors, width })).collect();
    let mut sum = vec![0.0; width * width];
    for part in &parts {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
    for at in 0..width {
        sum[at * width + at] += regularization;
    }
    sum
}

struct Gram<'a> {
    vectors: &'a [f32],
    width: usize,
}

impl NullaryFnOnce for Gram<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        const TOGETHER: usize = 16;
        let Self { vectors, width } = self;
        let mut sum = vec![0.0_f32; width * width];
        let mut weights = [0.0_f32; TOGETHER];
        for rows in vectors.chunks(TOGETHER * width) {
            let count = rows.len() / width;
            for (column, out) in sum.chunks_exact_mut(width).enumerate() {
                for (at, weight) in weights[..count].iter_mut().enumerate() {
                    *weight = rows[at * width + column];
                }
                add_rows(out, &weights[..count], rows, width);
            }
        }
        sum
    }
}

/// One half of an iteration: every row of `solved` against the rows of `fixed`.
fn solve_all(solved: &mut [f32], fixed: &[f32], pairs: &Rows, options: &AlsOptions) {
    let width = padded(options.factors);
    let gram = gram(fixed, width, options.regularization as f32);
    solved.par_chunks_exact_mut(width).enumerate().with_min_len(8).for_each_init(
        Scratch::default,
        |scratch, (at, row)| {
            let solve = Solve { row, others: pairs.of(at), vectors: fixed, gram: &gram, options, scratch };
            dispatch(solve);
        },
    );
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// The vectors of the other side, copied together.
    gathered: Vec<f32>,
    residual: Vec<f32>,
    direction: Vec<f32>,
    product: Vec<f32>,
}

/// Improves one row by conjugate-gradient steps.
struct Solve<'a> {
    row: &'a mut [f32],
    others: &'a [u32],
    vectors: &'a [f32],
    gram: &'a [f32],
    options: &'a AlsOptions,
    scratch: &'a mut Scratch,
}

impl NullaryFnOnce for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { row, others, vectors, gram, options, scratch } = self;
        if others.is_empty() {
            row.fill(0.0);
            return;
        }
        let width = row.len();
        let alpha = options.alpha as f32;
        let Scratch { gathered, residual, direction, product } = scratch;
        gathered.clear();
        for &other in others {
            let start = other as usize * width;
            gathered.extend_from_slice(&vectors[start..start + width]);
        }
        residual.clear();
        residual.resize(width, 0.0);
        product.resize(width, 0.0);
        // r = b - A x: the right-hand side and the part of A that depends on the user in one pass.
        add_weighted_by_dot(residual, gathered, row, width, |dot| 1.0 + alpha - alpha * dot);
        multiply(product, gram, row, width);
        for (residual, product) in residual.iter_mut().zip(product.iter()) {
            *residual -= product;
        }
        direction.clear();
        direction.extend_from_slice(residual);
        let mut squared = dot(residual, residual);
        for _ in 0..options.cg_steps {
            if squared < SOLVED {
                break;
            }
            multiply(product, gram, direction, width);
            add_weighted_by_dot(product, gathered, direction, width, |dot| alpha * dot);
            let step = squared / dot(direction, product);
            for at in 0..width {
                row[at] += step * direction[at];
                residual[at] -= step * product[at];
            }
            let next = dot(residual, residual);
            let share = next / squared;
            for at in 0..width {
                direction[at] = residual[at] + share * direction[at];
            }
            squared = next;
        }
    }
}

/// `out = matrix * vector` for a symmetric matrix: its rows added up, so that no sum runs across a register.
#[inline(always)]
fn multiply(out: &mut [f32], matrix: &[f32], vector: &[f32], width: usize) {
    out.fill(0.0);
    add_rows(out, vector, matrix, width);
}

impl Recommender for Als {
    fn name(&self) -> &str {
        "als"
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Known users by their vector; others are solved from their history; without one, the most popular items.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.latent.recommend(queries, |items| self.fold_in(items))
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.latent.similar(item, k, self.items().dim)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ITEMS: usize = 30;

    /// 40 users of 0 to 11 items; the last item is nobody's.
    fn world() -> (Vec<usize>, Vec<ItemIdx>) {
        let mut rng = Pcg64Mcg::seed_from_u64(5);
        let (mut offsets, mut items) = (vec![0], Vec::new());
        for user in 0..40 {
            for _ in 0..user % 12 {
                items.push(ItemIdx(rng.random_range(0..ITEMS as u32 - 1)));
            }
            offsets.push(items.len());
        }
        (offsets, items)
    }

    fn objective(by_user: &Rows, users: &[f32], items: &[f32], options: &AlsOptions) -> f64 {
        let width = padded(options.factors);
        let squares = |data: &[f32]| data.iter().map(|value| f64::from(value * value)).sum::<f64>();
        let mut sum = options.regularization * (squares(users) + squares(items));
        for (user, x) in users.chunks_exact(width).enumerate() {
            for (item, y) in items.chunks_exact(width).enumerate() {
                let played = by_user.of(user).contains(&(item as u32));
                let target = if played { 1.0 } else { 0.0 };
                let score: f64 = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                let confidence = 1.0 + options.alpha * target;
                sum += confidence * (target - score) * (target - score);
            }
        }
        sum
    }

    #[test]
    fn every_half_step_lowers_the_objective() {
        let (offsets, items) = world();
        let by_user = Interactions::new(&offsets, &items, &[], ITEMS).unwrap().distinct();
        let by_item = by_user.transpose();
        for cg_steps in [1, 3] {
            let options = AlsOptions { factors: 6, regularization: 0.1, cg_steps, ..AlsOptions::default() };
            let mut rng = Pcg64Mcg::seed_from_u64(1);
            let (mut users, mut items) = (random_rows(40, 6, &mut rng), random_rows(ITEMS, 6, &mut rng));
            let mut before = objective(&by_user, &users, &items, &options);
            let first = before;
            for _ in 0..8 {
                for side in 0..2 {
                    match side {
                        0 => solve_all(&mut users, &items, &by_user, &options),
                        _ => solve_all(&mut items, &users, &by_item, &options),
                    }
                    let now = objective(&by_user, &users, &items, &options);
                    assert!(now <= before * (1.0 + 1e-6), "{cg_steps} steps: from {before} to {now}");
                    before = now;
                }
            }
            assert!(before < 0.4 * first, "{cg_steps} steps: {first} fell to {before} only");
        }
    }

    #[test]
    fn enough_steps_give_the_closed_form() {
        let (offsets, items) = world();
        let by_user = Interactions::new(&offsets, &items, &[], ITEMS).unwrap().distinct();
        let options = AlsOptions { factors: 5, regularization: 0.5, cg_steps: 50, ..AlsOptions::default() };
        let width = padded(5);
        let mut rng = Pcg64Mcg::seed_from_u64(2);
        let fixed: Vec<f32> = random_rows(ITEMS, 5, &mut rng).iter().map(|value| 100.0 * value).collect();
        let mut users = random_rows(40, 5, &mut rng);
        solve_all(&mut users, &fixed, &by_user, &options);
        for user in 0..40 {
            // (Y'Y + reg I + alpha Y_u'Y_u) x = (1 + alpha) sum of Y_u, by Gaussian elimination in f64.
            let mut rows = vec![[0.0_f64; 6]; 5];
            for item in 0..ITEMS {
                let y: Vec<f64> = (0..5).map(|at| f64::from(fixed[item * width + at])).collect();
                let alpha = if by_user.of(user).contains(&(item as u32)) { options.alpha } else { 0.0 };
                for a in 0..5 {
                    for b in 0..5 {
                        rows[a][b] += (1.0 + alpha) * y[a] * y[b];
                    }
                    rows[a][5] += if alpha > 0.0 { (1.0 + alpha) * y[a] } else { 0.0 };
                }
            }
            rows.iter_mut().enumerate().for_each(|(at, row)| row[at] += options.regularization);
            for pivot in 0..5 {
                for row in (0..5).filter(|row| *row != pivot) {
                    let from = rows[pivot];
                    let share = rows[row][pivot] / from[pivot];
                    rows[row].iter_mut().zip(from).for_each(|(value, from)| *value -= share * from);
                }
            }
            for (at, row) in rows.iter().enumerate() {
                let expected = row[5] / row[at];
                let value = f64::from(users[user * width + at]);
                assert!((value - expected).abs() < 1e-4, "user {user}: {value} instead of {expected}");
            }
            assert!(users[user * width + 5..(user + 1) * width].iter().all(|value| *value == 0.0), "padding");
        }
    }

    #[test]
    fn fold_in_finds_the_vector_of_a_known_user() {
        let (offsets, items) = world();
        let interactions = Interactions::new(&offsets, &items, &[], ITEMS).unwrap();
        let options = AlsOptions { factors: 4, iterations: 60, cg_steps: 6, ..AlsOptions::default() };
        let als = Als::new(&interactions, options).unwrap();
        // Users are solved before items, so at convergence only do the two agree.
        let folded = als.fold_in(interactions.distinct().of(23));
        for (folded, trained) in folded.iter().zip(als.users().row(23)) {
            assert!((folded - trained).abs() < 0.03 * trained.abs().max(1.0), "{folded} and {trained}");
        }
    }

    #[test]
    fn threads_do_not_matter_and_options_are_checked() {
        let (offsets, items) = world();
        let interactions = Interactions::new(&offsets, &items, &[], ITEMS).unwrap();
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let als = Als::new(&interactions, AlsOptions { factors: 20, ..AlsOptions::default() }).unwrap();
                (als.users().clone(), als.items().clone())
            })
        };
        assert_eq!(fit(1), fit(3));
        let refused = |options| Als::new(&interactions, options).err().unwrap().to_string();
        assert!(refused(AlsOptions { factors: 0, ..AlsOptions::default() }).contains("factors is 0"));
        assert!(refused(AlsOptions { alpha: -1.0, ..AlsOptions::default() }).contains("alpha is -1"));
        assert!(refused(AlsOptions { regularization: f64::NAN, ..AlsOptions::default() }).contains("regularization"));
    }
}
