//! Bootstrap over users: how far a mean could have come out otherwise with other users.
//!
//! Users are the unit that is drawn (not single interactions, which depend on each other within a user). One resample draws n of
//! n users with replacement, as a vector of counts that all columns share: recommenders that were measured on the same users are
//! resampled together, so that every difference is paired. Intervals are percentiles (Efron & Tibshirani 1993, chapter 13).
//! Resample r has its own generator, so the result does not depend on the number of threads.

use duet_core::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The fewest resamples that make a 95 % interval worth printing.
pub const MIN_RESAMPLES: usize = 1000;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean over the users as they are.
    pub mean: f64,
    /// The 2.5 % percentile of the resampled means.
    pub low: f64,
    /// The 97.5 % percentile.
    pub high: f64,
}

/// A paired difference with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of a - b over the users that both have.
    pub difference: Interval,
    /// Share of resamples in which a was not better than b.
    pub share_not_better: f64,
    /// Two-sided p-value of "the difference is zero": see [`Bootstrap::difference`].
    pub p_value: f64,
    /// Users compared.
    pub users: usize,
}

impl PairedDifference {
    /// Whether the interval leaves zero out.
    pub fn is_significant(&self) -> bool {
        self.difference.low > 0.0 || self.difference.high < 0.0
    }
}

/// Columns of one value per user, with their means over the resamples.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    users: usize,
    observed: Vec<f64>,
    /// `[columns][resamples]`
    means: Vec<Vec<f64>>,
}

impl Bootstrap {
    /// Draws the resamples; every column has one value per user, in the same order.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no users, the columns differ in length, or `resamples` is under [`MIN_RESAMPLES`].
    pub fn new(columns: &[&[f32]], resamples: usize, seed: u64) -> Result<Self> {
        let users = columns.first().map_or(0, |column| column.len());
        if users == 0 || columns.iter().any(|column| column.len() != users) {
            return Err(Error::input("bootstrap needs columns of one equal, positive length"));
        }
        if resamples < MIN_RESAMPLES {
            return Err(Error::input(format!("{resamples} bootstrap resamples; at least {MIN_RESAMPLES} are needed")));
        }
        let rows: Vec<Vec<f64>> = (0..resamples)
            .into_par_iter()
            .map_init(
                || vec![0.0_f32; users],
                |counts, resample| {
                    counts.fill(0.0);
                    let mut rng = Pcg64Mcg::seed_from_u64(seed ^ (resample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    for _ in 0..users {
                        // Multiply-shift; its bias is below users / 2^32.
                        counts[((u64::from(rng.next_u32()) * users as u64) >> 32) as usize] += 1.0;
                    }
                    columns.iter().map(|column| product(column, counts) / users as f64).collect()
                },
            )
            .collect();
        let means = (0..columns.len()).map(|column| rows.iter().map(|row| row[column]).collect()).collect();
        Ok(Self { users, observed: columns.iter().map(|column| mean(column)).collect(), means })
    }

    /// Users drawn from.
    pub fn users(&self) -> usize {
        self.users
    }

    /// Mean and interval of a column.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn interval(&self, column: usize) -> Interval {
        let mut means = self.means[column].clone();
        interval(self.observed[column], &mut means)
    }

    /// The mean difference of column `a` minus column `b`.
    ///
    /// The p-value is `2 (1 + the smaller of the resamples on either side of zero) / (1 + resamples)`, at most 1 (Davison &
    /// Hinkley 1997, section 4.2.3); zero itself lies on both sides. Where no resample lies on the other side, counting can't
    /// tell how small it is: there it is that of a normal distribution with the resamples' standard deviation, and never more than
    /// counting allows. Corrections over many tests need such values.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn difference(&self, a: usize, b: usize) -> PairedDifference {
        let mut means: Vec<f64> = self.means[a].iter().zip(&self.means[b]).map(|(a, b)| a - b).collect();
        let resamples = means.len() as f64;
        let not_better = means.iter().filter(|mean| **mean <= 0.0).count();
        let not_worse = means.iter().filter(|mean| **mean >= 0.0).count();
        let observed = self.observed[a] - self.observed[b];
        let fewest = not_better.min(not_worse);
        let counted = (2.0 * (1 + fewest) as f64 / (1.0 + resamples)).min(1.0);
        let p_value = match fewest {
            0 => counted.min(two_sided_normal(observed / deviation(&means))),
            _ => counted,
        };
        PairedDifference {
            difference: interval(observed, &mut means),
            share_not_better: not_better as f64 / resamples,
            p_value,
            users: self.users,
        }
    }
}

/// The interval of the mean difference `a - b` of paired values.
///
/// # Errors
/// As [`Bootstrap::new`].
pub fn paired(a: &[f32], b: &[f32], resamples: usize, seed: u64) -> Result<PairedDifference> {
    Ok(Bootstrap::new(&[a, b], resamples, seed)?.difference(0, 1))
}

fn mean(column: &[f32]) -> f64 {
    column.iter().map(|value| f64::from(*value)).sum::<f64>() / column.len() as f64
}

/// The sum of value times count, in `f64`, in eight lanes that fit a register.
fn product(values: &[f32], counts: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0_f64; LANES];
    let (values, counts) = (values.chunks_exact(LANES), counts.chunks_exact(LANES));
    let rest: f64 = values
        .remainder()
        .iter()
        .zip(counts.remainder())
        .map(|(value, count)| f64::from(*value) * f64::from(*count))
        .sum();
    for (values, counts) in values.zip(counts) {
        for lane in 0..LANES {
            sums[lane] += f64::from(values[lane]) * f64::from(counts[lane]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn interval(observed: f64, means: &mut [f64]) -> Interval {
    means.sort_unstable_by(f64::total_cmp);
    Interval { mean: observed, low: percentile(means, 0.025), high: percentile(means, 0.975) }
}

/// Linear interpolation between order statistics.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// `P(|Z| >= |z|)` of a standard normal: Abramowitz & Stegun 26.2.17 below 5 (error under 8e-8), above it the leading terms of the
/// tail's expansion (26.2.12), whose relative error there is under 1 %.
fn two_sided_normal(z: f64) -> f64 {
    let z = z.abs();
    if z.is_nan() {
        return 1.0;
    }
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z > 5.0 {
        return 2.0 * density / z * (1.0 - 1.0 / (z * z) + 3.0 / z.powi(4));
    }
    const TERMS: [f64; 5] = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    2.0 * density * TERMS.iter().rev().fold(0.0, |sum, term| (sum + term) * t)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_normal_approximation() {
        let column: Vec<f32> = (0..2000).map(|user| (user % 10) as f32).collect();
        let interval = Bootstrap::new(&[&column], 4000, 7).unwrap().interval(0);
        // Standard deviation of 0..10 is sqrt(8.25); a 95 % interval is 1.96 standard errors each way.
        let half = 1.96 * (8.25_f64 / 2000.0).sqrt();
        assert!((interval.mean - 4.5).abs() < 1e-12);
        assert!((interval.high - 4.5 - half).abs() < 0.1 * half, "{interval:?}, expected half width {half}");
        assert!((4.5 - interval.low - half).abs() < 0.1 * half, "{interval:?}, expected half width {half}");
    }

    #[test]
    fn pairing_sees_a_small_steady_gain() {
        let b: Vec<f32> = (0..500).map(|user| (user % 7) as f32).collect();
        let a: Vec<f32> =
            b.iter().enumerate().map(|(user, value)| value + if user % 3 == 0 { 0.1 } else { 0.0 }).collect();
        let both = Bootstrap::new(&[&a, &b], 1000, 1).unwrap();
        let gain = both.difference(0, 1);
        assert!(gain.is_significant() && gain.share_not_better == 0.0 && gain.p_value < 1e-6, "{gain:?}");
        let loss = both.difference(1, 0);
        assert!(loss.share_not_better == 1.0 && loss.p_value == gain.p_value, "{loss:?}");
        assert!(both.interval(1).high > both.interval(0).low, "unpaired intervals must overlap here");
        let same = paired(&b, &b, 1000, 1).unwrap();
        assert!(!same.is_significant() && same.p_value == 1.0, "{same:?}");
    }

    #[test]
    fn p_values_are_counted_and_beyond_that_normal() {
        // Two resamples on the wrong side of a thousand: 2 * 3 / 1001.
        let with = |means: Vec<f64>, observed| {
            let zeros = vec![0.0; means.len()];
            Bootstrap { users: 9, observed: vec![observed, 0.0], means: vec![means, zeros] }.difference(0, 1).p_value
        };
        let mut means = vec![1.0; 998];
        means.extend([-1.0, -1.0]);
        assert!((with(means, 1.0) - 6.0 / 1001.0).abs() < 1e-12);
        // All on one side, mean 4 deviations from zero: P(|Z| > 4) = 6.334e-5.
        let spread: Vec<f64> = (0..1000).map(|at| 4.0 + if at % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let scale = deviation(&spread);
        let p = with(spread.iter().map(|value| value / scale).collect(), 4.0);
        assert!((p - 6.334e-5).abs() < 2e-7, "{p}");
        // Without spread a thousand resamples are certain.
        assert_eq!(with(vec![1.0; 1000], 1.0), 0.0);
    }

    #[test]
    fn normal_tails() {
        for (z, p) in [(0.0, 1.0), (1.0, 0.317_310_5), (1.96, 0.049_995_8), (3.0, 0.002_699_8), (6.0, 1.973e-9)] {
            let found = two_sided_normal(z);
            assert!((found - p).abs() < 3e-7 && (found / p - 1.0).abs() < 0.01, "{z}: {found}, not {p}");
        }
    }

    #[test]
    fn thread_count_does_not_matter() {
        let column: Vec<f32> = (0..97).map(|user| (user * user % 13) as f32).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Bootstrap::new(&[&column], 1000, 3).unwrap())
        };
        assert_eq!(run(1), run(4));
        assert!(Bootstrap::new(&[&column], 10, 3).is_err());
        assert!(Bootstrap::new(&[&[]], 1000, 3).is_err());
        assert!(paired(&column, &column[1..], 1000, 3).is_err());
    }
}
