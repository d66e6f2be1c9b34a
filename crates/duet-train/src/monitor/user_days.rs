//! Click rates of users, day by day: what drops are looked for in.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use chrono::NaiveDate;

use super::ledger::{CLICKED, Ledger, SHOWN};

/// What a user was shown and clicked on a day, by variant and bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserDay {
    pub(super) day: i32,
    pub(super) variant: u32,
    pub(super) bundle: u32,
    pub(super) shown: u32,
    pub(super) clicks: u32,
}

/// The days of a user, ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct UserDays {
    /// A number made of the user's id: an order that nothing users do has part in.
    pub(super) order: u64,
    pub(super) days: Vec<UserDay>,
}

/// Of every user of the ledger.
pub(super) fn user_days(ledger: &Ledger, by_user: &[Vec<u32>]) -> Vec<UserDays> {
    let of = |(user, lists): (usize, &Vec<u32>)| {
        let mut cells: BTreeMap<(i32, u32, u32), (u32, u32)> = BTreeMap::new();
        for list in lists.iter().map(|&list| &ledger.lists[list as usize]) {
            let cell = cells.entry((list.day, list.variant, list.bundle)).or_default();
            for (flags, _) in list.positions() {
                cell.0 += u32::from(flags & SHOWN != 0);
                cell.1 += u32::from(flags & CLICKED != 0);
            }
        }
        let mut hasher = DefaultHasher::new();
        ledger.users.id(user).hash(&mut hasher);
        let day = |((day, variant, bundle), (shown, clicks))| UserDay { day, variant, bundle, shown, clicks };
        UserDays {
            order: hasher.finish(),
            days: cells.into_iter().map(day).filter(|day: &UserDay| day.shown > 0).collect(),
        }
    };
    by_user.iter().enumerate().map(of).collect()
}

impl UserDays {
    /// What there is of the days in `[from, to]`.
    pub(super) fn within(&self, from: i32, to: i32) -> impl Iterator<Item = &UserDay> {
        let start = self.days.partition_point(|day| day.day < from);
        self.days[start..].iter().take_while(move |day| day.day <= to)
    }

    /// Clicks and impressions of the days in `[from, to]` that `which` lets pass; nothing without an impression.
    pub(super) fn sums(&self, from: i32, to: i32, which: impl Fn(&UserDay) -> bool) -> Option<Clicked> {
        let mut sums = Clicked { shown: 0, clicks: 0 };
        for day in self.within(from, to).filter(|day| which(day)) {
            sums.shown += u64::from(day.shown);
            sums.clicks += u64::from(day.clicks);
        }
        (sums.shown > 0).then_some(sums)
    }
}

/// Clicks on some impressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clicked {
    /// At least 1.
    pub(super) shown: u64,
    /// Not more than were shown.
    pub(super) clicks: u64,
}

impl Clicked {
    /// The mean of `min(rate, cap)` over all choices of `drawn` of the impressions (at least 1, not more than there are).
    ///
    /// A rate of few impressions is above a cap more often than one of many, though both are of the same listener: capped, the first is
    /// smaller on average. Over equally many drawn ones both have the same expectation if every impression is clicked as likely as any
    /// other. The number of clicks among the drawn is hypergeometric.
    pub(super) fn capped_rate(self, drawn: u64, cap: f64) -> f64 {
        let Self { shown, clicks } = self;
        let rate = clicks as f64 / shown as f64;
        if drawn >= shown {
            return rate.min(cap);
        }
        let (misses, drawn_f) = (shown - clicks, drawn as f64);
        let most = clicks.min(drawn);
        let mut hits = ((cap * drawn_f).floor() as u64 + 1).max(drawn.saturating_sub(misses));
        if hits > most {
            return rate.min(cap);
        }
        let choices = |of: u64, some: u64| ln_factorial(of) - ln_factorial(some) - ln_factorial(of - some);
        let mut probability = (choices(clicks, hits) + choices(misses, drawn - hits) - choices(shown, drawn)).exp();
        let mut above = 0.0;
        while hits <= most {
            above += (hits as f64 / drawn_f - cap).max(0.0) * probability;
            let ways = (clicks - hits) as f64 * (drawn - hits) as f64;
            probability *= ways / ((hits + 1) as f64 * (misses + hits + 1 - drawn) as f64);
            hits += 1;
        }
        (rate - above).min(cap)
    }
}

/// `ln n!`: by hand for the small, by Stirling's series for the others (error below 1e-12).
fn ln_factorial(n: u64) -> f64 {
    if n < 20 {
        return (2..=n).map(|factor| factor as f64).product::<f64>().ln();
    }
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

/// A day as people write it.
pub(super) fn day_name(day: i32) -> String {
    NaiveDate::from_epoch_days(day).map_or_else(|| day.to_string(), |date| date.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(of: u64, some: u64) -> f64 {
        (0..some).map(|at| (of - at) as f64 / (at + 1) as f64).product()
    }

    proptest! {
        #[test]
        fn a_capped_rate_is_the_mean_over_all_draws(
            (shown, clicks, drawn) in (1_u64..40).prop_flat_map(|shown| (Just(shown), 0..=shown, 1..=shown)), cap in 0.05..1.0_f64,
        ) {
            let mut expected = 0.0;
            for hits in 0..=clicks.min(drawn) {
                if drawn - hits <= shown - clicks {
                    let ways = choose(clicks, hits) * choose(shown - clicks, drawn - hits) / choose(shown, drawn);
                    expected += ways * (hits as f64 / drawn as f64).min(cap);
                }
            }
            let found = Clicked { shown, clicks }.capped_rate(drawn, cap);
            prop_assert!((found - expected).abs() < 1e-9, "{} not {}", found, expected);
        }
    }

    #[test]
    fn factorials() {
        let mut sum = 0.0;
        for n in 1..200_u64 {
            sum += (n as f64).ln();
            assert!((ln_factorial(n) - sum).abs() < 1e-10, "{n}");
        }
        assert_eq!(ln_factorial(0), 0.0);
    }
}
