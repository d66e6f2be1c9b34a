//! Evidence against "the mean is at least so much", from independent bounded observations, by betting.
//!
//! Observations `y_1 .. y_n` lie in `[0, 1]`, are independent, and none has an expectation below `m` (the hypothesis). Somebody who
//! starts with 1 and bets the share `b` of what can be lost on small observations ends with
//! ```text
//! K_b = product over i of (1 + b / (1 - m) * (m - y_i))        0 < b < 1
//! ```
//! whose expectation is at most 1 under the hypothesis: an *e-value* (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random
//! variables by betting", section 4). So is the mean of `K_b` over a fixed grid of bets, and by Markov's inequality it reaches
//! `1 / alpha` with at most the probability `alpha`. The order of the observations does not matter.
//!
//! Nothing is asymptotic: it holds for three users as for a million.
//!
//! **Days.** [`level_on`] gives day `t` (1, 2, ...) the part `alpha / (t (t + 1))` of a level; the parts sum to the level however
//! long one goes on. A test a day at its part is therefore wrong *ever* with at most the probability `alpha`, whatever the
//! days have to do with each other: each day's test needs independence between users alone, never between the days of a user.

use duet_retrieval::bootstrap::Interval;

/// Shares of what can be lost that are bet.
const BETS: [f64; 10] = [0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 0.95];

/// The part of `alpha` that day `t` (from 1) has.
pub(super) fn level_on(alpha: f64, t: u32) -> f64 {
    let t = f64::from(t.max(1));
    alpha / (t * (t + 1.0))
}

/// The logarithm of the e-value against "no expectation is below `least`", of values within `[low, high]`.
pub(super) fn log_evidence_of_less(values: &[f64], (low, high): (f64, f64), least: f64) -> f64 {
    let least = ((least - low) / (high - low)).min(1.0);
    if least <= 0.0 || values.is_empty() {
        // Nothing can lie below the lower bound.
        return 0.0;
    }
    let most = (1.0 - least).max(1e-12);
    let logs = BETS.map(|bet| {
        let rate = bet / most;
        // A product of a few factors has one logarithm instead of a few.
        values
            .chunks(16)
            .map(|chunk| {
                let factor = |value: &f64| 1.0 + rate * (least - ((value - low) / (high - low)).clamp(0.0, 1.0));
                chunk.iter().map(factor).product::<f64>().ln()
            })
            .sum::<f64>()
    });
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + (logs.iter().map(|log| (log - largest).exp()).sum::<f64>() / BETS.len() as f64).ln()
}

/// A confidence interval for the mean: what neither of two one-sided tests of level `alpha / 2` refuses. The mean that is given with
/// it is that of the values.
pub(super) fn interval(values: &[f64], (low, high): (f64, f64), alpha: f64) -> Interval {
    let threshold = (2.0 / alpha).ln();
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let mirrored: Vec<f64> = values.iter().map(|value| low + high - value).collect();
    // Evidence of "less than m" grows with m: bisect for where it reaches the threshold.
    let upper = |values: &[f64]| {
        let (mut from, mut to) = (low, high);
        if log_evidence_of_less(values, (low, high), high) < threshold {
            return high;
        }
        for _ in 0..50 {
            let middle = 0.5 * (from + to);
            if log_evidence_of_less(values, (low, high), middle) < threshold { from = middle } else { to = middle }
        }
        to
    };
    Interval { mean, low: (low + high - upper(&mirrored)).min(mean), high: upper(values).max(mean) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn the_e_value_by_hand() {
        // One observation of 0 against 1/2 in [0, 1]: 1 + b / (1/2) * 1/2 = 1 + b, mean over the bets; one of 1: 1 - b.
        let mean = BETS.iter().sum::<f64>() / BETS.len() as f64;
        let e = |values: &[f64]| log_evidence_of_less(values, (0.0, 1.0), 0.5).exp();
        assert!((e(&[0.0]) - (1.0 + mean)).abs() < 1e-12 && (e(&[1.0]) - (1.0 - mean)).abs() < 1e-12);
        assert_eq!(e(&[]), 1.0);
        // The same on another scale.
        let other = log_evidence_of_less(&[-1.0, 3.0], (-1.0, 3.0), 1.0);
        assert!((other - log_evidence_of_less(&[0.0, 1.0], (0.0, 1.0), 0.5)).abs() < 1e-12);
        assert_eq!(log_evidence_of_less(&[0.0; 50], (0.0, 1.0), 0.0), 0.0, "nothing lies below the bound");
    }

    #[test]
    fn levels_sum_to_alpha() {
        let sum: f64 = (1..=100_000).map(|t| level_on(0.05, t)).sum();
        assert!(sum < 0.05 && sum > 0.0499);
    }

    proptest! {
        /// The expectation of the e-value over all outcomes of a few coins is at most 1, and 1 where the mean is the least.
        #[test]
        fn a_fair_game(least in 0.05..0.95_f64, above in 0.0..0.5_f64, coins in 1..8_usize) {
            let heads = (least + above).min(1.0);
            let mut expectation = 0.0;
            for outcome in 0..1_u32 << coins {
                let values: Vec<f64> = (0..coins).map(|coin| f64::from(outcome >> coin & 1)).collect();
                let ones = outcome.count_ones() as i32;
                let probability = heads.powi(ones) * (1.0 - heads).powi(coins as i32 - ones);
                expectation += probability * log_evidence_of_less(&values, (0.0, 1.0), least).exp();
            }
            prop_assert!(expectation <= 1.0 + 1e-9, "{}", expectation);
            prop_assert!(above > 0.0 || (expectation - 1.0).abs() < 1e-9);
        }

        #[test]
        fn evidence_grows_with_what_is_claimed(values in proptest::collection::vec(0.0..1.0_f64, 1..40), a in 0.0..1.0_f64, b in 0.0..1.0_f64) {
            let e = |least| log_evidence_of_less(&values, (0.0, 1.0), least);
            prop_assert!(e(a.min(b)) <= e(a.max(b)) + 1e-9);
        }
    }

    #[test]
    fn intervals_hold_the_mean_and_shrink() {
        let mut random = Pcg64Mcg::seed_from_u64(3);
        let mut missed = 0;
        for _ in 0..300 {
            // Mostly 0, now and then 1/2 or 1: as click rates are. Mean 0.1 * 0.75 = 0.075.
            let values: Vec<f64> = (0..400)
                .map(|_| if random.random_bool(0.1) { f64::from(random.random_range(1..=2)) / 2.0 } else { 0.0 })
                .collect();
            let found = interval(&values, (0.0, 1.0), 0.05);
            missed += u32::from(found.low > 0.075 || found.high < 0.075);
            assert!(found.low <= found.mean && found.mean <= found.high);
        }
        // At most 5 % of 300 on average: 15; betting with a grid is wide.
        assert!(missed <= 20, "{missed}");
        let width = |n: usize| {
            let values: Vec<f64> = (0..n).map(|at| f64::from(at % 10 == 0)).collect();
            let found = interval(&values, (0.0, 1.0), 0.05);
            found.high - found.low
        };
        assert!(width(10_000) < 0.3 * width(500) && width(10_000) < 0.03, "{} {}", width(10_000), width(500));
        let none = interval(&[], (-1.0, 1.0), 0.05);
        assert_eq!((none.low, none.mean, none.high), (-1.0, 0.0, 1.0));
    }
}
