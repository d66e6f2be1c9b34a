//! How long users stay: Kaplan-Meier curves of the days until a user falls silent.
//!
//! Days are counted from a user's first list (day 0). A user has *churned at day t* if t was the last day with anything from them
//! before `gap` days of silence. Whether day t was such a day is known `gap` days later, so every user is watched until
//! `end - gap`, the end being the last whole day with a list, whatever they did: censoring depends on when a user came alone, as
//! Kaplan & Meier (1958) need it. Who came later than that is not in the curve.
//!
//! ```text
//! S(t) = product over s <= t of (1 - d_s / n_s)         d_s: churned at s; n_s: watched until s at least, and not churned before
//! Var S(t) = S(t)^2 sum over s <= t of d_s / (n_s (n_s - d_s))                                             (Greenwood 1926)
//! ```
//! Intervals are those of `ln(-ln S)` (Kalbfleisch & Prentice 2002, section 1.4), which stay within 0 and 1. While nobody has churned
//! they go from `0.05 / 2` to the power of `1 / n_s` (the exact one of n successes) to 1; once everybody has, they are 0.

use serde::{Deserialize, Serialize};

const NORMAL_975: f64 = 1.959_963_984_540_054;

/// A day of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SurvivalDay {
    /// Days since the first list.
    pub day: u32,
    /// Users watched who had not churned before.
    pub at_risk: u64,
    /// Users whose last day it was.
    pub churned: u64,
    /// The share of users still there after the day.
    pub survival: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What is known of a user: how many days they were watched without churn, and whether they churned on the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    pub(super) days: u32,
    pub(super) churned: bool,
}

impl Stay {
    /// From the days with anything from a user, ascending, the first being that of the first list. Nothing if the user came too late
    /// to be watched.
    pub(super) fn new(active: &[i32], gap: u32, end: i32) -> Option<Self> {
        let (&first, gap) = (active.first()?, gap as i32);
        let watched = end - gap - first;
        if watched < 0 {
            return None;
        }
        let next = active.iter().skip(1).copied().chain([i32::MAX]);
        let last = active.iter().zip(next).find(|&(&day, next)| next.saturating_sub(day) > gap).map(|(&day, _)| day);
        let stayed = last.map(|day| day - first).filter(|&stayed| stayed <= watched);
        Some(Self { days: stayed.unwrap_or(watched) as u32, churned: stayed.is_some() })
    }
}

/// The curve of some users: every day from 0 to the last on which somebody was watched.
pub(super) fn curve(stays: &[Stay]) -> Vec<SurvivalDay> {
    let Some(last) = stays.iter().map(|stay| stay.days).max() else { return Vec::new() };
    let (mut ended, mut churned) = (vec![0_u64; last as usize + 1], vec![0_u64; last as usize + 1]);
    for stay in stays {
        ended[stay.days as usize] += 1;
        churned[stay.days as usize] += u64::from(stay.churned);
    }
    let (mut at_risk, mut survival, mut greenwood) = (stays.len() as u64, 1.0, 0.0);
    let mut days = Vec::with_capacity(ended.len());
    for (day, (&ended, &churned)) in ended.iter().zip(&churned).enumerate() {
        let (n, d) = (at_risk as f64, churned as f64);
        survival *= 1.0 - d / n;
        if churned > 0 && churned < at_risk {
            greenwood += d / (n * (n - d));
        }
        let (low, high) = limits(survival, greenwood, n);
        days.push(SurvivalDay { day: day as u32, at_risk, churned, survival, low, high });
        at_risk -= ended;
    }
    days
}

fn limits(survival: f64, greenwood: f64, at_risk: f64) -> (f64, f64) {
    if survival <= 0.0 {
        return (0.0, 0.0);
    }
    if survival >= 1.0 {
        return (0.025_f64.powf(1.0 / at_risk), 1.0);
    }
    let width = NORMAL_975 * greenwood.sqrt() / survival.ln().abs();
    (survival.powf(width.exp()), survival.powf((-width).exp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_by_hand() {
        let stay = |active: &[i32], end| Stay::new(active, 7, end).map(|stay| (stay.days, stay.churned));
        // Days 10 and 12, then silence; the data end on day 19: seven days after 12, so churn at 2 is known.
        assert_eq!(stay(&[10, 12], 19), Some((2, true)));
        // One day less of data: watched until day 11 alone.
        assert_eq!(stay(&[10, 12], 18), Some((1, false)));
        // Seven days between are six of silence; eight are seven.
        assert_eq!(stay(&[10, 17], 24), Some((7, true)));
        assert_eq!(stay(&[10, 18], 30), Some((0, true)), "who comes back after the silence has churned all the same");
        assert_eq!(stay(&[10, 17, 24], 30), Some((13, false)));
        assert_eq!(stay(&[10], 16), None);
        assert_eq!(stay(&[10], 17), Some((0, true)));
    }

    #[test]
    fn a_curve_by_hand() {
        // Churned at 0, 2, 2; watched until 1, 3 and 3.
        let stay = |days, churned| Stay { days, churned };
        let stays = [stay(0, true), stay(2, true), stay(2, true), stay(1, false), stay(3, false), stay(3, false)];
        let found = curve(&stays);
        let risks: Vec<(u64, u64)> = found.iter().map(|day| (day.at_risk, day.churned)).collect();
        assert_eq!(risks, [(6, 1), (5, 0), (4, 2), (2, 0)]);
        let survivals: Vec<f64> = found.iter().map(|day| day.survival).collect();
        for (found, expected) in survivals.iter().zip([5.0 / 6.0, 5.0 / 6.0, 5.0 / 12.0, 5.0 / 12.0]) {
            assert!((found - expected).abs() < 1e-12, "{survivals:?}");
        }
        // Greenwood: 1 / (6 * 5) + 2 / (4 * 2) = 0.28333; its root over |ln(5/12)| = 0.87547 is 0.60801; times 1.96: 1.19168.
        let width: f64 = 1.959_963_984_540_054 * (17.0_f64 / 60.0).sqrt() / (5.0_f64 / 12.0).ln().abs();
        let day = found[2];
        assert!((width - 1.191_68).abs() < 1e-4, "{width}");
        assert!((day.low - (5.0_f64 / 12.0).powf(width.exp())).abs() < 1e-12);
        assert!((day.high - (5.0_f64 / 12.0).powf((-width).exp())).abs() < 1e-12);
        assert!(day.low > 0.0 && day.high < 1.0);
    }

    #[test]
    fn without_churn_and_without_users() {
        assert!(curve(&[]).is_empty());
        let found = curve(&[Stay { days: 1, churned: false }; 10]);
        assert_eq!((found[1].survival, found[1].high), (1.0, 1.0));
        assert!((found[1].low - 0.025_f64.powf(0.1)).abs() < 1e-12);
        let all = curve(&[Stay { days: 0, churned: true }; 3]);
        assert_eq!((all[0].survival, all[0].low, all[0].high), (0.0, 0.0, 0.0));
    }
}
