//! Ratios of sums over users, with intervals that know that what one user does is not independent.
//!
//! With `c_u` and `n_u` the sums of a user (clicks and impressions, say), the rate is `r = sum c_u / sum n_u`. Users are independent,
//! what happens within one is not: the variance is that of users as clusters, by the delta method (Deng, Knoblich & Lu 2018,
//! "Applying the delta method in metric analytics", section 3; Cochran 1977, section 6.4):
//! ```text
//! Var r = k / (k - 1) * sum over u of (c_u - r n_u)^2 / (sum n_u)^2          k users
//! ```

use duet_retrieval::bootstrap::Interval;
use serde::{Deserialize, Serialize};

const NORMAL_975: f64 = 1.959_963_984_540_054;

/// A rate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The rate.
    pub value: f64,
    /// Lower end of the interval; absent with fewer than two users, or where users do not differ.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Users it is over.
    pub users: u64,
}

impl Rate {
    /// As an interval; one without ends is a point.
    pub(super) fn interval(&self) -> Interval {
        Interval { mean: self.value, low: self.low.unwrap_or(self.value), high: self.high.unwrap_or(self.value) }
    }

    /// `10.00 [8.00, 12.00]`.
    pub(super) fn text(&self) -> String {
        match (self.low, self.high) {
            (Some(low), Some(high)) => format!("{:.2} [{low:.2}, {high:.2}]", self.value),
            _ => format!("{:.2}", self.value),
        }
    }
}

/// Sums over users and over their squares: all that a [`Rate`] needs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Ratio {
    users: u64,
    above: f64,
    below: f64,
    above_squared: f64,
    crossed: f64,
    below_squared: f64,
}

impl Ratio {
    /// Adds what one user has; a user with nothing below the line does not count.
    pub(super) fn add(&mut self, above: f64, below: f64) {
        if below > 0.0 {
            self.users += 1;
            self.above += above;
            self.below += below;
            self.above_squared += above * above;
            self.crossed += above * below;
            self.below_squared += below * below;
        }
    }

    /// The rate, times `scale`; nothing without anything below the line.
    pub(super) fn rate(&self, scale: f64) -> Option<Rate> {
        if self.below <= 0.0 {
            return None;
        }
        let (rate, users) = (self.above / self.below, self.users as f64);
        let squares = self.above_squared - 2.0 * rate * self.crossed + rate * rate * self.below_squared;
        let variance = users / (users - 1.0) * squares / (self.below * self.below);
        // Differences of equal sums leave a rounding error behind.
        let is_known = self.users > 1 && squares > 1e-12 * self.above_squared.max(1.0);
        let width = is_known.then(|| NORMAL_975 * variance.sqrt());
        Some(Rate {
            value: scale * rate,
            low: width.map(|width| scale * (rate - width).max(0.0)),
            high: width.map(|width| scale * (rate + width)),
            users: self.users,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    #[test]
    fn a_rate_by_hand() {
        let mut ratio = Ratio::default();
        for (clicks, impressions) in [(1.0, 10.0), (3.0, 10.0), (0.0, 0.0), (2.0, 20.0)] {
            ratio.add(clicks, impressions);
        }
        // 6 of 40: 0.15. Residuals: 1 - 1.5, 3 - 1.5, 2 - 3: squares 0.25 + 2.25 + 1 = 3.5; 3/2 * 3.5 / 1600.
        let rate = ratio.rate(100.0).unwrap();
        let width = 1.959_963_984_540_054 * (1.5_f64 * 3.5 / 1_600.0).sqrt();
        assert!((rate.value - 15.0).abs() < 1e-12 && rate.users == 3);
        assert!((rate.high.unwrap() - 100.0 * (0.15 + width)).abs() < 1e-9);
        assert!((rate.low.unwrap() - 100.0 * (0.15 - width)).abs() < 1e-9);
    }

    #[test]
    fn nothing_to_estimate_from_has_no_interval() {
        let mut ratio = Ratio::default();
        assert_eq!(ratio.rate(1.0), None);
        ratio.add(1.0, 10.0);
        assert_eq!(ratio.rate(1.0).unwrap().low, None);
        ratio.add(2.0, 20.0);
        assert_eq!(ratio.rate(1.0).unwrap().low, None, "two users who do not differ");
    }

    #[test]
    fn clicks_of_one_user_are_not_independent() {
        // Users click at 5 % or at 25 %, 200 impressions each. The interval holds the mean in 95 of 100 worlds; the binomial one, by
        // impressions, would in far fewer.
        let mut random = Pcg64Mcg::seed_from_u64(5);
        let (mut held, mut naive) = (0, 0);
        for _ in 0..500 {
            let mut ratio = Ratio::default();
            for _ in 0..60 {
                let rate = if random.random_bool(0.5) { 0.05 } else { 0.25 };
                ratio.add((0..200).map(|_| f64::from(u8::from(random.random_bool(rate)))).sum(), 200.0);
            }
            let rate = ratio.rate(1.0).unwrap();
            held += u32::from(rate.low.unwrap() <= 0.15 && 0.15 <= rate.high.unwrap());
            let binomial = 1.96 * (rate.value * (1.0 - rate.value) / 12_000.0).sqrt();
            naive += u32::from((rate.value - 0.15).abs() <= binomial);
        }
        assert!((455..=492).contains(&held), "{held} of 500");
        assert!(naive < 300, "{naive} of 500");
    }
}
