//! Bootstrap intervals over users: how far a mean could have come out otherwise with other users.
//!
//! Users are the unit that is drawn (not single interactions, which depend on each other within a user). One
//! resample draws n of n users with replacement, as a vector of counts shared by every metric, so that metrics and
//! paired systems see the same users. Intervals are percentiles (Efron & Tibshirani 1993, chapter 13). Resample r
//! has its own generator, so the result does not depend on the number of threads.

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
    /// Users compared.
    pub users: usize,
}

impl PairedDifference {
    /// Whether the interval leaves zero out.
    pub fn is_significant(&self) -> bool {
        self.difference.low > 0.0 || self.difference.high < 0.0
    }
}

/// Mean and interval of each column; every column has one value per user.
///
/// # Errors
/// [`Error::Input`] if there are no users, the columns differ in length, or `resamples` is under
/// [`MIN_RESAMPLES`].
pub fn intervals(columns: &[&[f64]], resamples: usize, seed: u64) -> Result<Vec<Interval>> {
    let means = resampled_means(columns, resamples, seed)?;
    Ok(columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let mut sorted: Vec<f64> = means.iter().map(|row| row[at]).collect();
            interval(column, &mut sorted)
        })
        .collect())
}

/// The interval of the mean difference `a - b` of paired values.
///
/// # Errors
/// As [`intervals`].
pub fn paired(a: &[f64], b: &[f64], resamples: usize, seed: u64) -> Result<PairedDifference> {
    if a.len() != b.len() {
        return Err(Error::input(format!("paired values differ in length: {} and {}", a.len(), b.len())));
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let mut means: Vec<f64> =
        resampled_means(&[&differences], resamples, seed)?.into_iter().map(|row| row[0]).collect();
    let not_better = means.iter().filter(|mean| **mean <= 0.0).count();
    Ok(PairedDifference {
        difference: interval(&differences, &mut means),
        share_not_better: not_better as f64 / resamples as f64,
        users: differences.len(),
    })
}

/// `[resamples][columns]`.
fn resampled_means(columns: &[&[f64]], resamples: usize, seed: u64) -> Result<Vec<Vec<f64>>> {
    let users = columns.first().map_or(0, |column| column.len());
    if users == 0 || columns.iter().any(|column| column.len() != users) {
        return Err(Error::input("bootstrap needs columns of one equal, positive length"));
    }
    if resamples < MIN_RESAMPLES {
        return Err(Error::input(format!("{resamples} bootstrap resamples; at least {MIN_RESAMPLES} are needed")));
    }
    Ok((0..resamples)
        .into_par_iter()
        .map_init(
            || vec![0_u32; users],
            |counts, resample| {
                counts.fill(0);
                let mut rng = Pcg64Mcg::seed_from_u64(seed ^ (resample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                for _ in 0..users {
                    // Multiply-shift; its bias is below users / 2^32.
                    counts[((u64::from(rng.next_u32()) * users as u64) >> 32) as usize] += 1;
                }
                columns
                    .iter()
                    .map(|column| {
                        let sum: f64 =
                            column.iter().zip(counts.iter()).map(|(value, &count)| value * f64::from(count)).sum();
                        sum / users as f64
                    })
                    .collect()
            },
        )
        .collect())
}

fn interval(column: &[f64], means: &mut [f64]) -> Interval {
    means.sort_unstable_by(f64::total_cmp);
    Interval {
        mean: column.iter().sum::<f64>() / column.len() as f64,
        low: percentile(means, 0.025),
        high: percentile(means, 0.975),
    }
}

/// Linear interpolation between order statistics.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_normal_approximation() {
        let column: Vec<f64> = (0..2000).map(|user| f64::from(user % 10)).collect();
        let [interval] = intervals(&[&column], 4000, 7).unwrap()[..] else { panic!("one column") };
        // Standard deviation of 0..10 is sqrt(8.25); a 95 % interval is 1.96 standard errors each way.
        let half = 1.96 * (8.25_f64 / 2000.0).sqrt();
        assert!((interval.mean - 4.5).abs() < 1e-12);
        assert!((interval.high - 4.5 - half).abs() < 0.1 * half, "{interval:?}, expected half width {half}");
        assert!((4.5 - interval.low - half).abs() < 0.1 * half, "{interval:?}, expected half width {half}");
    }

    #[test]
    fn pairing_sees_a_small_steady_gain() {
        let b: Vec<f64> = (0..500).map(|user| f64::from(user % 7)).collect();
        let a: Vec<f64> =
            b.iter().enumerate().map(|(user, value)| value + if user % 3 == 0 { 0.1 } else { 0.0 }).collect();
        let gain = paired(&a, &b, 1000, 1).unwrap();
        assert!(gain.is_significant() && gain.share_not_better == 0.0, "{gain:?}");
        let [alone_a, alone_b] = intervals(&[&a, &b], 1000, 1).unwrap()[..] else { panic!("two columns") };
        assert!(alone_b.high > alone_a.low, "unpaired intervals must overlap here");
        assert!(!paired(&b, &b, 1000, 1).unwrap().is_significant());
    }

    #[test]
    fn thread_count_does_not_matter() {
        let column: Vec<f64> = (0..97).map(|user| f64::from(user * user % 13)).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| intervals(&[&column], 1000, 3).unwrap())
        };
        assert_eq!(run(1), run(4));
        assert!(intervals(&[&column], 10, 3).is_err());
        assert!(intervals(&[&[]], 1000, 3).is_err());
    }
}
