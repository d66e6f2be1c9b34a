//! Looking for drops of the click rate every day, with one stated probability of ever being wrong.
//!
//! The observation is a user: clicks over impressions within a window of days, at most the cap `c`. Users are independent; whatever a user's
//! days have to do with each other does not matter, for every day's test is over users (see [`super::evidence`]).
//!
//! * **Against the control**: users of the variant beside users of the control, who were drawn by a hash. The users of the smaller arm
//!   are given equal parts of the other's, in an order by a hash of their ids, and `D = mean of the variant's - (1 - v) * mean
//!   of the control's` lies in `[-(1 - v) c, c]`. No drop: no expectation of D is below 0.
//! * **Against the past**: users with impressions both in the window and in the reference days before it; `D = rate now -
//!   (1 - p) * rate before`, of each. Both rates are those of equally many impressions, see [`Clicked::capped_rate`].
//! * **Against the bundle before**: users with impressions of both bundles; D likewise.
//!
//! `v` and `p` are the tolerances. What part of `alpha` a series has must not hang on how many others there are yet, or those that
//! come later would have parts that were spent before. So each kind has a third, whether it is there or not; of the past, all lists,
//! the variants and the segments share equally, segments by the most there can be with enough users for a test; of variants and
//! bundles, which go on coming, the j-th has the part `1 / (j (j + 1))`; windows share equally; and the days of a series have parts by
//! [`level_on`]. All of it together: with no drop anywhere, the probability that there is ever an alarm is at most `alpha`.
//!
//! How many segments there can be is read from the dataset, so their parts hold for as long as that is the same. Another one divides
//! anew, for the days that were looked at before, too.

use duet_retrieval::{bootstrap::Interval, verdict::Outcome};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    config::WatchConfig,
    evidence::{interval, level_on, log_evidence_of_less},
    user_days::{Clicked, UserDay, UserDays, day_name},
};

/// What a series is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// A variant, with the control on the same days.
    Control,
    /// Anything, with its own days before.
    Past,
    /// A bundle, with the one before it, on the same users.
    BundleBefore,
}

impl Against {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "the control",
            Self::Past => "its past",
            Self::BundleBefore => "the bundle before",
        }
    }
}

/// A series on a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WatchDay {
    /// Users compared, or pairs.
    pub users: u64,
    /// Mean click rate of the users, now.
    pub now: f64,
    /// That of what it is compared with.
    pub before: f64,
    /// Decimal logarithm of the e-value.
    pub log10_evidence: f64,
    /// What it has to reach for an alarm.
    pub log10_threshold: f64,
}

/// A series that is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// `all`, `variant`, `bundle` or a column.
    pub by: String,
    /// The value.
    pub value: String,
    /// What it is compared with.
    pub against: Against,
    /// Days of the window; absent for bundles, whose whole life counts.
    pub window_days: Option<u32>,
    /// The probability that there is ever a false alarm of this series.
    pub alpha: f64,
    /// The day of the first alarm.
    pub first_alarm: Option<String>,
    /// What was found then.
    pub at_alarm: Option<WatchDay>,
    /// What was found on the last day with enough users.
    pub last: Option<WatchDay>,
    /// Days tested.
    pub days_tested: u32,
}

impl Watched {
    /// In a sentence, where there is an alarm.
    pub fn sentence(&self) -> Option<String> {
        let (day, at) = (self.first_alarm.as_ref()?, self.at_alarm?);
        let window = self.window_days.map(|days| format!(" over {days} days")).unwrap_or_default();
        Some(format!(
            "{day}: clicks of {} {} are below {}{window}: {:.2} against {:.2} of 100 impressions ({:+.0} %, {} users; e-value 10^{:.1}, \
             {:.1} is needed)",
            self.by,
            self.value,
            self.against.as_str(),
            100.0 * at.now,
            100.0 * at.before,
            100.0 * (at.now / at.before.max(f64::MIN_POSITIVE) - 1.0),
            at.users,
            at.log10_evidence,
            at.log10_threshold
        ))
    }
}

/// A variant against the control, over all days so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnlineVerdict {
    /// The challenger.
    pub variant: String,
    /// The champion.
    pub control: String,
    /// What is shown.
    pub outcome: Outcome,
    /// Users' clicks of 100 impressions, challenger minus champion. The interval holds on all days together with 95 %: looking
    /// every day and stopping when it suits is allowed.
    pub difference: Interval,
    /// Users (pairs) compared.
    pub users: u64,
}

impl OnlineVerdict {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        let Interval { mean, low, high } = self.difference;
        let said = match self.outcome {
            Outcome::Better => format!("better by {mean:.2} [{low:.2}, {high:.2}]"),
            Outcome::Worse => format!("worse by {:.2} [{:.2}, {:.2}]", -mean, -high, -low),
            Outcome::NoDifference => format!("no difference shown: {mean:+.2} [{low:+.2}, {high:+.2}]"),
        };
        format!(
            "{} against {}: {said} clicks of 100 impressions, 95 % on all days together, {} pairs",
            self.variant, self.control, self.users
        )
    }
}

/// What is watched.
pub(super) struct Watch<'a> {
    pub(super) users: &'a [UserDays],
    pub(super) variants: &'a [String],
    pub(super) bundles: &'a [String],
    /// Column, value, users.
    pub(super) segments: Vec<(String, String, Vec<u32>)>,
    /// How many of those there can be at most that have enough users for a test, on whatever day it is looked at.
    pub(super) segment_slots: usize,
    /// The days of the data, both included.
    pub(super) days: (i32, i32),
    pub(super) config: &'a WatchConfig,
}

/// Differences of users, and the means they are made of.
struct Sample {
    differences: Vec<f64>,
    now: f64,
    before: f64,
}

/// A series to be watched: its figures on a day.
type OnDay<'a> = Box<dyn Fn(i32) -> Sample + Sync + Send + 'a>;

struct Series<'a> {
    watched: Watched,
    tolerance: f64,
    first: i32,
    on: OnDay<'a>,
}

impl Watch<'_> {
    /// Every series, in a fixed order.
    pub(super) fn run(&self) -> Vec<Watched> {
        let control = self.control();
        let order = self.order(self.bundles, |day| day.bundle);
        // The past, the control, the bundle before.
        let alpha = self.config.alpha / 3.0;
        let mut series = self.past_series(alpha);
        if let Some(control) = control {
            series.extend(self.control_series(alpha, control));
        }
        series.extend(self.bundle_series(alpha, &order));
        series.into_par_iter().map(|series| self.test(series)).collect()
    }

    /// The click rate of a user within some days, up to the cap.
    fn rate(&self, user: &UserDays, from: i32, to: i32, which: impl Fn(&UserDay) -> bool) -> Option<f64> {
        user.sums(from, to, which).map(|sums| sums.capped_rate(sums.shown, self.config.rate_cap))
    }

    /// Two click rates of a user, up to the cap, of equally many impressions.
    fn rates(&self, now: Clicked, before: Clicked) -> (f64, f64) {
        let (drawn, cap) = (now.shown.min(before.shown), self.config.rate_cap);
        (now.capped_rate(drawn, cap), before.capped_rate(drawn, cap))
    }

    fn control(&self) -> Option<u32> {
        self.variants.iter().position(|variant| *variant == self.config.control).map(|at| at as u32)
    }

    fn past_series(&self, alpha: f64) -> Vec<Series<'_>> {
        let windows = &self.config.windows;
        let everybody: Vec<u32> = (0..self.users.len() as u32).collect();
        let parts = if self.segment_slots > 0 { 3.0 } else { 2.0 };
        let alpha = alpha / (parts * windows.len() as f64);
        let mut groups = vec![("all", "lists", everybody.clone(), None, alpha)];
        for ((_, variant), number) in self.order(self.variants, |day| day.variant).into_iter().zip(1..) {
            let name = self.variants[variant as usize].as_str();
            groups.push(("variant", name, everybody.clone(), Some(variant), level_on(alpha, number)));
        }
        for (column, value, users) in &self.segments {
            let alpha = alpha / self.segment_slots as f64;
            groups.push((column.as_str(), value.as_str(), users.clone(), None, alpha));
        }
        let mut series = Vec::new();
        for (by, value, users, variant, alpha) in groups {
            for &window in windows {
                let users = users.clone();
                let (length, reference) = (window as i32, self.config.reference_days as i32);
                let tolerance = self.config.past_tolerance;
                let on = move |day: i32| {
                    let which = |cell: &UserDay| variant.is_none_or(|variant| cell.variant == variant);
                    let pairs = users.iter().filter_map(|&user| {
                        let user = &self.users[user as usize];
                        let now = user.sums(day - length + 1, day, which)?;
                        let before = user.sums(day - length - reference + 1, day - length, which)?;
                        Some(self.rates(now, before))
                    });
                    paired(pairs, tolerance)
                };
                let watched = watched(by, value, Against::Past, Some(window), alpha);
                series.push(Series { watched, tolerance, first: self.days.0, on: Box::new(on) });
            }
        }
        series
    }

    fn control_series(&self, alpha: f64, control: u32) -> Vec<Series<'_>> {
        let mut series = Vec::new();
        let challengers = self.order(self.variants, |day| day.variant).into_iter().filter(|(_, one)| *one != control);
        for ((_, variant), number) in challengers.zip(1..) {
            let alpha = level_on(alpha, number) / self.config.windows.len() as f64;
            for &window in &self.config.windows {
                let tolerance = self.config.variant_tolerance;
                let on = move |day: i32| self.arms(variant, control, day - window as i32 + 1, day, tolerance);
                let name = &self.variants[variant as usize];
                let watched = watched("variant", name, Against::Control, Some(window), alpha);
                series.push(Series { watched, tolerance, first: self.days.0, on: Box::new(on) });
            }
        }
        series
    }

    /// Variants or bundles by the day of their first list: those that come later stand behind.
    fn order(&self, names: &[String], of: impl Fn(&UserDay) -> u32) -> Vec<(i32, u32)> {
        let mut first = vec![i32::MAX; names.len()];
        for day in self.users.iter().flat_map(|user| &user.days) {
            let first = &mut first[of(day) as usize];
            *first = day.day.min(*first);
        }
        let mut order: Vec<(i32, u32)> = first.into_iter().zip(0..).filter(|(first, _)| *first < i32::MAX).collect();
        order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| names[a.1 as usize].cmp(&names[b.1 as usize])));
        order
    }

    fn bundle_series(&self, alpha: f64, order: &[(i32, u32)]) -> Vec<Series<'_>> {
        let tolerance = self.config.past_tolerance;
        let reference = self.config.reference_days as i32;
        order
            .windows(2)
            .zip(1..)
            .map(|(pair, number)| {
                let ((_, before), (first, bundle)) = (pair[0], pair[1]);
                let on = move |day: i32| {
                    let pairs = self.users.iter().filter_map(|user| {
                        let now = user.sums(first, day, |cell| cell.bundle == bundle)?;
                        Some(self.rates(now, user.sums(first - reference, day, |cell| cell.bundle == before)?))
                    });
                    paired(pairs, tolerance)
                };
                let name = &self.bundles[bundle as usize];
                let watched = watched("bundle", name, Against::BundleBefore, None, level_on(alpha, number));
                Series { watched, tolerance, first, on: Box::new(on) }
            })
            .collect()
    }

    /// Users of the variant beside users of the control, within some days.
    fn arms(&self, variant: u32, control: u32, from: i32, to: i32, tolerance: f64) -> Sample {
        // Whoever had lists of both, for shares were changed, is of the first: nobody may stand in two pairs.
        let is_of = |user: &UserDays, arm: u32| {
            let mut cells = user.within(from, to).map(|cell| cell.variant);
            cells.find(|of| *of == variant || *of == control) == Some(arm)
        };
        let rates = |arm: u32| {
            let of = |user: &UserDays| {
                let rate = self.rate(user, from, to, |cell| cell.variant == arm)?;
                is_of(user, arm).then_some((user.order, rate))
            };
            let mut rates: Vec<(u64, f64)> = self.users.iter().filter_map(of).collect();
            rates.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1)));
            rates.into_iter().map(|(_, rate)| rate).collect::<Vec<f64>>()
        };
        let (own, others) = (rates(variant), rates(control));
        let pairs = own.len().min(others.len());
        let part = |rates: &[f64], pair: usize| {
            let range = pair * rates.len() / pairs..(pair + 1) * rates.len() / pairs;
            let length = range.len() as f64;
            rates[range].iter().sum::<f64>() / length
        };
        let differences = (0..pairs).map(|pair| part(&own, pair) - (1.0 - tolerance) * part(&others, pair)).collect();
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        Sample { differences, now: mean(&own), before: mean(&others) }
    }

    fn test(&self, series: Series<'_>) -> Watched {
        let Series { mut watched, tolerance, first, on } = series;
        let cap = self.config.rate_cap;
        for day in first..=self.days.1 {
            let sample = on(day);
            if sample.differences.len() < self.config.min_users {
                continue;
            }
            watched.days_tested += 1;
            let evidence = log_evidence_of_less(&sample.differences, ((tolerance - 1.0) * cap, cap), 0.0);
            let threshold = -level_on(watched.alpha, (day - first + 1) as u32).ln();
            let found = WatchDay {
                users: sample.differences.len() as u64,
                now: sample.now,
                before: sample.before,
                log10_evidence: evidence / std::f64::consts::LN_10,
                log10_threshold: threshold / std::f64::consts::LN_10,
            };
            watched.last = Some(found);
            if evidence >= threshold && watched.first_alarm.is_none() {
                watched.first_alarm = Some(day_name(day));
                watched.at_alarm = Some(found);
            }
        }
        watched
    }

    /// Every variant against the control, over all days.
    pub(super) fn verdicts(&self) -> Vec<OnlineVerdict> {
        let Some(control) = self.control() else { return Vec::new() };
        let ((first, last), cap) = (self.days, self.config.rate_cap);
        let alpha = level_on(1.0 - 0.95, (last - first + 1) as u32);
        let challengers = (0..self.variants.len() as u32).filter(|variant| *variant != control);
        challengers
            .filter_map(|variant| {
                let sample = self.arms(variant, control, first, last, 0.0);
                if sample.differences.is_empty() {
                    return None;
                }
                let found = interval(&sample.differences, (-cap, cap), alpha);
                let outcome = match found {
                    Interval { low, .. } if low > 0.0 => Outcome::Better,
                    Interval { high, .. } if high < 0.0 => Outcome::Worse,
                    _ => Outcome::NoDifference,
                };
                Some(OnlineVerdict {
                    variant: self.variants[variant as usize].clone(),
                    control: self.config.control.clone(),
                    outcome,
                    difference: Interval { mean: 100.0 * found.mean, low: 100.0 * found.low, high: 100.0 * found.high },
                    users: sample.differences.len() as u64,
                })
            })
            .collect()
    }
}

fn watched(by: &str, value: &str, against: Against, window_days: Option<u32>, alpha: f64) -> Watched {
    Watched {
        by: by.to_owned(),
        value: value.to_owned(),
        against,
        window_days,
        alpha,
        first_alarm: None,
        at_alarm: None,
        last: None,
        days_tested: 0,
    }
}

fn paired(pairs: impl Iterator<Item = (f64, f64)>, tolerance: f64) -> Sample {
    let pairs: Vec<(f64, f64)> = pairs.collect();
    let n = pairs.len().max(1) as f64;
    Sample {
        differences: pairs.iter().map(|(now, before)| now - (1.0 - tolerance) * before).collect(),
        now: pairs.iter().map(|pair| pair.0).sum::<f64>() / n,
        before: pairs.iter().map(|pair| pair.1).sum::<f64>() / n,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::monitor::config::MonitorConfig;

    fn config(windows: &[u32]) -> WatchConfig {
        let mut config = MonitorConfig::resolve(None, &[]).unwrap().watch;
        config.windows = windows.to_vec();
        config
    }

    /// Users who differ in how much they click and how often they come; ten items a visit. `factor` is what the rate of a user of an arm
    /// is multiplied with on a day.
    fn world(seed: u64, users: usize, days: i32, factor: impl Fn(u32, i32) -> f64) -> Vec<UserDays> {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        (0..users)
            .map(|_| {
                let arm = u32::from(random.random_bool(0.5));
                let (taste, comes) = (random.random_range(0.0..0.3), random.random_range(0.3..1.0));
                let mut own = UserDays { order: random.random(), days: Vec::new() };
                for day in 0..days {
                    if random.random_bool(comes) {
                        let clicks = (0..10).filter(|_| random.random_bool(taste * factor(arm, day))).count();
                        own.days.push(UserDay { day, variant: arm, bundle: 0, shown: 10, clicks: clicks as u32 });
                    }
                }
                own
            })
            .collect()
    }

    fn names() -> [String; 2] {
        ["control", "challenger"].map(str::to_owned)
    }

    fn run(users: &[UserDays], days: i32, config: &WatchConfig) -> (Vec<Watched>, Vec<OnlineVerdict>) {
        let (variants, bundles) = (names(), ["b".to_owned()]);
        let segments = vec![("half".to_owned(), "even".to_owned(), (0..users.len() as u32).step_by(2).collect())];
        let watch = Watch {
            users,
            variants: &variants,
            bundles: &bundles,
            segments,
            segment_slots: 1,
            days: (0, days - 1),
            config,
        };
        (watch.run(), watch.verdicts())
    }

    #[test]
    fn without_a_drop_there_is_an_alarm_in_at_most_alpha_of_the_worlds() {
        // Users differ and stay as they are, which is what makes days of one user depend on each other; every day is looked at.
        let config = WatchConfig { alpha: 0.2, past_tolerance: 0.0, ..config(&[2, 5]) };
        let (mut alarms, mut naive) = (0, 0);
        let worlds = 200;
        for seed in 0..worlds {
            let users = world(seed, 120, 20, |_, _| 1.0);
            alarms += u64::from(run(&users, 20, &config).0.iter().any(|series| series.first_alarm.is_some()));
            naive += u64::from((0..20).any(|day| looks_worse(&users, day)));
        }
        // The bound is 40; betting over many series and days stays far below it.
        assert!(alarms <= 40, "{alarms} of {worlds}");
        // What the care is for: one plain test a day, at 5 %, of impressions as if they were independent.
        assert!(naive > 60, "{naive} of {worlds}");
    }

    /// A one-sided two-sample test of all impressions until a day.
    fn looks_worse(users: &[UserDays], day: i32) -> bool {
        let mut sums = [(0.0, 0.0); 2];
        for cell in users.iter().flat_map(|user| &user.days).filter(|cell| cell.day <= day) {
            let (clicks, shown) = &mut sums[cell.variant as usize];
            *clicks += f64::from(cell.clicks);
            *shown += f64::from(cell.shown);
        }
        let [(control, of_control), (own, of_own)] = sums;
        let all = (control + own) / (of_control + of_own);
        let deviation = (all * (1.0 - all) * (1.0 / of_control + 1.0 / of_own)).sqrt();
        (control / of_control - own / of_own) / deviation > 1.645
    }

    #[test]
    fn a_drop_by_thirty_percent_is_found_within_a_week() {
        let config = config(&[3, 14]);
        let (mut found_control, mut found_past) = (0, 0);
        for seed in 0..5 {
            let users = world(seed, 4_000, 30, |arm, day| if arm == 1 && day >= 20 { 0.7 } else { 1.0 });
            let (series, verdicts) = run(&users, 30, &config);
            let days = |against: Against, value: &str| -> Vec<String> {
                let mut days: Vec<String> = series
                    .iter()
                    .filter(|series| series.against == against && series.value == value)
                    .filter_map(|series| series.first_alarm.clone())
                    .collect();
                days.sort();
                days
            };
            // The drop begins on 1970-01-21.
            let in_time = |days: Vec<String>| {
                days.first().is_some_and(|day| ("1970-01-21"..="1970-01-27").contains(&day.as_str()))
            };
            found_control += u32::from(in_time(days(Against::Control, "challenger")));
            found_past += u32::from(in_time(days(Against::Past, "challenger")));
            assert!(days(Against::Past, "control").is_empty(), "the control did not change");
            assert!(verdicts[0].difference.mean < 0.0);
        }
        assert_eq!((found_control, found_past), (5, 5));
    }

    #[test]
    fn the_verdict_says_by_how_much() {
        let users = world(1, 4_000, 10, |arm, _| if arm == 1 { 0.6 } else { 1.0 });
        let (_, verdicts) = run(&users, 10, &config(&[3]));
        let said = verdicts[0].sentence();
        assert!(
            verdicts[0].outcome == Outcome::Worse && said.starts_with("challenger against control: worse by "),
            "{said}"
        );
        // 40 % of 15 of 100.
        assert!(verdicts[0].difference.low < -6.0 && verdicts[0].difference.high > -6.0, "{said}");
        let users = world(2, 300, 10, |_, _| 1.0);
        assert_eq!(run(&users, 10, &config(&[3])).1[0].outcome, Outcome::NoDifference);
    }

    /// Without segments.
    fn watch<'a>(
        users: &'a [UserDays],
        variants: &'a [String],
        bundles: &'a [String],
        days: (i32, i32),
        config: &'a WatchConfig,
    ) -> Watch<'a> {
        Watch { users, variants, bundles, segments: Vec::new(), segment_slots: 0, days, config }
    }

    #[test]
    fn a_bundle_is_held_against_the_one_before_on_the_same_users() {
        let mut users = world(7, 1_500, 12, |_, day| if day >= 8 { 0.5 } else { 1.0 });
        users.iter_mut().flat_map(|user| &mut user.days).for_each(|day| {
            day.variant = 0;
            day.bundle = u32::from(day.day >= 8);
        });
        let (variants, bundles) = (["control".to_owned()], ["good", "broken"].map(str::to_owned));
        let config = config(&[3]);
        let watch = watch(&users, &variants, &bundles, (0, 11), &config);
        let found = watch.run();
        let bundle = found.iter().find(|series| series.against == Against::BundleBefore).unwrap();
        assert_eq!((bundle.value.as_str(), bundle.alpha), ("broken", 0.05 / 3.0 / 2.0));
        assert!(bundle.first_alarm.as_deref().is_some_and(|day| day >= "1970-01-09"), "{bundle:?}");
        assert!(bundle.sentence().unwrap().contains("below the bundle before"), "{:?}", bundle.sentence());
        assert!(watch.verdicts().is_empty());
        // Of the past's third all lists have a half, and the first variant half of the other; of the bundles' third the first has half.
        let sum: f64 = found.iter().map(|series| series.alpha).sum();
        assert!((sum - 0.05 * (1.0 / 6.0 + 1.0 / 12.0 + 1.0 / 6.0)).abs() < 1e-12, "{sum}");
    }

    #[test]
    fn few_impressions_now_and_many_before_are_no_drop() {
        // Two impressions a visit, two of five are clicked, for ever. One of two is the cap: what goes beyond it is cut off from the
        // window of a day, and hardly ever from a month.
        let mut random = Pcg64Mcg::seed_from_u64(11);
        let users: Vec<UserDays> = (0..3_000)
            .map(|_| {
                let mut clicks = || (0..2).filter(|_| random.random_bool(0.4)).count() as u32;
                let days = (0..30).map(|day| UserDay {
                    day,
                    variant: 0,
                    bundle: u32::from(day == 29),
                    shown: 2,
                    clicks: clicks(),
                });
                UserDays { order: 0, days: days.collect() }
            })
            .collect();
        let (variants, bundles) = (["control".to_owned()], ["a", "b"].map(str::to_owned));
        let config = config(&[1]);
        let watch = watch(&users, &variants, &bundles, (0, 29), &config);
        for series in watch.run() {
            assert_eq!(series.first_alarm, None, "{series:?}");
            let last = series.last.unwrap();
            assert!((last.now - last.before).abs() < 0.02, "{last:?}");
        }
    }

    #[test]
    fn nobody_is_in_both_arms() {
        let day = |day: i32, variant: u32| UserDay { day, variant, bundle: 0, shown: 10, clicks: 1 };
        let users: Vec<UserDays> = (0..10)
            .map(|user| UserDays { order: u64::from(user), days: vec![day(0, user % 2), day(1, 1 - user % 2)] })
            .collect();
        let (_, verdicts) = run(&users, 2, &config(&[3]));
        assert_eq!(verdicts[0].users, 5);
    }

    #[test]
    fn what_comes_later_has_no_part_that_was_spent_before() {
        let early = world(3, 200, 6, |_, _| 1.0);
        let levels = |users: &[UserDays], variants: &[String]| -> Vec<f64> {
            let bundles = ["b".to_owned()];
            let config = config(&[3]);
            let days = (0, 5);
            let watch = Watch {
                users,
                variants,
                bundles: &bundles,
                segments: Vec::new(),
                segment_slots: 9,
                days,
                config: &config,
            };
            watch.run().iter().filter(|series| series.value != "third").map(|series| series.alpha).collect()
        };
        let mut late = early.clone();
        for user in late.iter_mut().step_by(3) {
            user.days.push(UserDay { day: 5, variant: 2, bundle: 0, shown: 10, clicks: 1 });
        }
        let third = [&names()[..], &["third".to_owned()]].concat();
        assert_eq!(levels(&early, &names()), levels(&late, &third));
    }
}
