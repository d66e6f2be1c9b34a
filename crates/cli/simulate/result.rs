//! What a simulation found: figures by day and arm, intervals, verdicts; as text, Markdown and JSON.
//!
//! The same seed gives the same file: no duration, no path, no id that was drawn at random is in it.
//!
//! * Clicks per 100 impressions of an arm: `R = sum c_u / sum n_u` over its users `u`, with the variance of a ratio whose
//!   units are users, `m / (m - 1) sum (c_u - R n_u)^2 / (sum n_u)^2`: clicks of one person are not independent.
//! * Retention: the share of the users who came at all that has not left for good, with Wilson's interval.
//! * All intervals are of 95 %; two arms are told apart by the interval of their difference.

use std::collections::{BTreeMap, BTreeSet};

use duet_core::number::grouped;
use duet_train::evaluate::Table;
use serde::{Deserialize, Serialize};

use super::{
    listeners::{Share, Shares},
    plant::Plant,
    watch::Look,
};

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_964;
/// The arms, best first, as they should come out.
pub(super) const ARMS: [&str; 3] = ["two-tower", "trending", "random"];

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Interval {
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    fn around(mean: f64, deviation: f64) -> Self {
        Self { mean, low: mean - Z * deviation, high: mean + Z * deviation }
    }

    fn shown(&self, digits: usize) -> String {
        format!("{:.digits$} [{:.digits$}, {:.digits$}]", self.mean, self.low, self.high)
    }
}

/// An arm on a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ArmDay {
    pub(super) arm: String,
    pub(super) logins: u64,
    pub(super) impressions: u64,
    pub(super) clicks: u64,
    pub(super) listens: u64,
    pub(super) follows: u64,
    pub(super) clicks_per_100_impressions: Option<f64>,
    /// Users who came.
    pub(super) active_users: u64,
    /// Users who left for good.
    pub(super) churned: u64,
    /// Lists that were not made as meant.
    pub(super) degraded: u64,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Day {
    pub(super) day: u32,
    pub(super) date: String,
    /// The directory of the bundle that the two-tower served from.
    pub(super) bundle: String,
    /// What was wrong with it.
    pub(super) planted: Option<Plant>,
    pub(super) arms: Vec<ArmDay>,
    /// What the monitor said in the evening.
    pub(super) monitor: Look,
}

/// An arm over all days without a planted regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ArmTotal {
    pub(super) arm: String,
    pub(super) users: u64,
    pub(super) logins: u64,
    pub(super) impressions: u64,
    pub(super) clicks: u64,
    pub(super) clicks_per_100_impressions: Interval,
    pub(super) left: u64,
    pub(super) retention: Interval,
}

/// Whether something that was to be shown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Finding {
    Holds,
    /// The interval of the difference holds zero, or the days ended too soon: more users or days would tell.
    Undecided,
    Fails,
}

impl Finding {
    fn of(difference: Interval) -> Self {
        match difference {
            Interval { low, .. } if low > 0.0 => Self::Holds,
            Interval { high, .. } if high < 0.0 => Self::Fails,
            _ => Self::Undecided,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Undecided => "undecided",
            Self::Fails => "FAILS",
        }
    }
}

/// A sentence, and whether it is so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) finding: Finding,
    pub(super) sentence: String,
}

/// What was simulated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) seed: u64,
    pub(super) users: u64,
    pub(super) artists: u32,
    pub(super) genres: u32,
    pub(super) history_days: u32,
    pub(super) days: u32,
    pub(super) list: usize,
    pub(super) habits: duet_data::world::Habits,
    pub(super) shares: BTreeMap<String, f64>,
    pub(super) plant: Option<Plant>,
    pub(super) plant_day: Option<u32>,
    /// Days within which the planted regression must be found, its own first day counted.
    pub(super) within: u32,
    /// Probability that the monitor raises an alarm in a simulation without a regression.
    pub(super) false_alarm_rate: f64,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Simulation {
    pub(super) setting: Setting,
    pub(super) days: Vec<Day>,
    pub(super) arms: Vec<ArmTotal>,
    pub(super) verdicts: Vec<Verdict>,
    pub(super) lists: u64,
    pub(super) events: u64,
    /// Of all events in their order, request ids left out.
    pub(super) events_fingerprint: String,
}

/// The arms that somebody is in, best first.
fn arms(of: &BTreeMap<u64, String>) -> Vec<&str> {
    let found: BTreeSet<&str> = of.values().map(String::as_str).collect();
    let mut list: Vec<&str> = ARMS.into_iter().filter(|arm| found.contains(arm)).collect();
    list.extend(found.iter().copied().filter(|arm| !ARMS.contains(arm)));
    list
}

/// The arms of a day.
pub(super) fn of_day(day: u32, shares: &Shares, of: &BTreeMap<u64, String>) -> Vec<ArmDay> {
    let row = |arm: &str| {
        let users = users(arm, shares, of, |other| other == day);
        let Share { logins, impressions, clicks, listens, follows, degraded, left } = sum(&users);
        let rate = 100.0 * clicks as f64 / impressions as f64;
        ArmDay {
            arm: arm.to_owned(),
            logins,
            impressions,
            clicks,
            listens,
            follows,
            clicks_per_100_impressions: (impressions > 0).then_some(rate),
            active_users: users.len() as u64,
            churned: left,
            degraded,
        }
    };
    arms(of).into_iter().map(row).collect()
}

/// The users of an arm on some days, their days added up.
fn users(arm: &str, shares: &Shares, of: &BTreeMap<u64, String>, is_in: impl Fn(u32) -> bool) -> Vec<Share> {
    let mut users: BTreeMap<u64, Share> = BTreeMap::new();
    for ((day, user), share) in shares {
        if is_in(*day) && of.get(user).is_some_and(|other| other == arm) {
            *users.entry(*user).or_default() += *share;
        }
    }
    users.into_values().collect()
}

fn sum(users: &[Share]) -> Share {
    users.iter().fold(Share::default(), |mut sum, &share| {
        sum += share;
        sum
    })
}

/// Clicks per 100 impressions and their standard error, users as units.
fn click_rate(users: &[Share]) -> (f64, f64) {
    let all = sum(users);
    let (clicks, impressions) = (all.clicks as f64, all.impressions as f64);
    if impressions == 0.0 || users.len() < 2 {
        return (0.0, f64::INFINITY);
    }
    let rate = clicks / impressions;
    let squares: f64 = users.iter().map(|user| (user.clicks as f64 - rate * user.impressions as f64).powi(2)).sum();
    let count = users.len() as f64;
    (100.0 * rate, 100.0 * (count / (count - 1.0) * squares).sqrt() / impressions)
}

/// Wilson's interval of a share.
fn wilson(hits: u64, total: u64) -> Interval {
    if total == 0 {
        return Interval { mean: 0.0, low: 0.0, high: 1.0 };
    }
    let (count, share) = (total as f64, hits as f64 / total as f64);
    let scale = 1.0 + Z * Z / count;
    let middle = (share + Z * Z / (2.0 * count)) / scale;
    let half = Z / scale * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    Interval { mean: share, low: middle - half, high: middle + half }
}

/// The difference of two independent shares, from their Wilson intervals (Newcombe 1998, method 10).
fn difference(a: Interval, b: Interval) -> Interval {
    let mean = a.mean - b.mean;
    Interval {
        mean,
        low: mean - ((a.mean - a.low).powi(2) + (b.high - b.mean).powi(2)).sqrt(),
        high: mean + ((a.high - a.mean).powi(2) + (b.mean - b.low).powi(2)).sqrt(),
    }
}

/// The arms over all days whose bundle was sound.
pub(super) fn totals(days: &[Day], shares: &Shares, of: &BTreeMap<u64, String>) -> Vec<ArmTotal> {
    let planted: BTreeSet<u32> = days.iter().filter(|day| day.planted.is_some()).map(|day| day.day).collect();
    let total = |arm: &str| {
        let users = users(arm, shares, of, |day| !planted.contains(&day));
        let (mean, error) = click_rate(&users);
        let Share { logins, impressions, clicks, left, .. } = sum(&users);
        ArmTotal {
            arm: arm.to_owned(),
            users: users.len() as u64,
            logins,
            impressions,
            clicks,
            clicks_per_100_impressions: Interval::around(mean, if error.is_finite() { error } else { 100.0 }),
            left,
            retention: wilson(users.len() as u64 - left, users.len() as u64),
        }
    };
    arms(of).into_iter().map(total).collect()
}

/// The verdicts on the arms: each above the next.
pub(super) fn of_arms(days: &[Day], shares: &Shares, of: &BTreeMap<u64, String>) -> Vec<Verdict> {
    let totals = totals(days, shares, of);
    let find = |arm: &str| totals.iter().find(|total| total.arm == arm);
    let mut verdicts = Vec::new();
    for pair in ARMS.windows(2) {
        let (Some(better), Some(worse)) = (find(pair[0]), find(pair[1])) else { continue };
        let error = |interval: &Interval| (interval.high - interval.low) / (2.0 * Z);
        let (a, b) = (better.clicks_per_100_impressions, worse.clicks_per_100_impressions);
        let gain = Interval::around(a.mean - b.mean, error(&a).hypot(error(&b)));
        verdicts.push(Verdict {
            name: format!("clicks: {} above {}", pair[0], pair[1]),
            finding: Finding::of(gain),
            sentence: format!(
                "{} has {} clicks per 100 impressions and {} {}: a difference of {}.",
                pair[0],
                a.shown(2),
                pair[1],
                b.shown(2),
                gain.shown(2)
            ),
        });
        let (a, b) = (better.retention, worse.retention);
        let gain = difference(a, b);
        verdicts.push(Verdict {
            name: format!("retention: {} above {}", pair[0], pair[1]),
            finding: Finding::of(gain),
            sentence: format!(
                "{} keeps {} of its users and {} {}: a difference of {}.",
                pair[0],
                a.shown(3),
                pair[1],
                b.shown(3),
                gain.shown(3)
            ),
        });
    }
    verdicts
}

/// The verdict on the monitor's counts: an observer of the logs must find what listeners did.
pub(super) fn of_counts(days: &[Day]) -> Vec<Verdict> {
    let Some(last) = days.last() else { return Vec::new() };
    let mut differing = Vec::new();
    for seen in &last.monitor.arms {
        let own = days.iter().flat_map(|day| &day.arms).filter(|arm| arm.arm == seen.arm);
        let (impressions, clicks) = own.fold((0, 0), |sum, arm| (sum.0 + arm.impressions, sum.1 + arm.clicks));
        if (impressions, clicks) != (seen.impressions, seen.clicks) {
            differing.push(format!(
                "{}: {clicks} clicks on {impressions} impressions, and {} on {} in the logs",
                seen.arm, seen.clicks, seen.impressions
            ));
        }
    }
    let all = differing.is_empty() && last.monitor.arms.len() == last.arms.len();
    vec![Verdict {
        name: "the logs hold what happened".to_owned(),
        finding: if all { Finding::Holds } else { Finding::Fails },
        sentence: match all {
            true => "The monitor counts as many impressions and clicks of every arm as listeners made.".to_owned(),
            false => format!("The monitor counts otherwise than listeners did: {}.", differing.join("; ")),
        },
    }]
}

/// The verdict on alarms, and on what came after them.
pub(super) fn of_alarms(setting: &Setting, days: &[Day], shares: &Shares, of: &BTreeMap<u64, String>) -> Vec<Verdict> {
    let first_alarm = |from: u32| days.iter().find(|day| day.day >= from && day.monitor.alarm).map(|day| day.day);
    let rate = setting.false_alarm_rate;
    let (Some(plant), Some(plant_day)) = (setting.plant, setting.plant_day) else {
        let (finding, sentence) = match first_alarm(0) {
            None => (Finding::Holds, format!("No alarm in {} days without a regression.", days.len())),
            Some(day) => (Finding::Fails, format!("An alarm on day {day}, though nothing was wrong.")),
        };
        let name = "no false alarm".to_owned();
        return vec![Verdict {
            name,
            finding,
            sentence: format!("{sentence} False alarms are to be one in {:.0} simulations.", 1.0 / rate),
        }];
    };
    let early = first_alarm(0).filter(|day| *day < plant_day);
    let mut verdicts = Vec::new();
    if let Some(day) = early {
        verdicts.push(Verdict {
            name: "no false alarm".to_owned(),
            finding: Finding::Fails,
            sentence: format!("An alarm on day {day}, before the regression of day {plant_day}."),
        });
    }
    let found = first_alarm(plant_day);
    let last = plant_day.saturating_add(setting.within - 1);
    verdicts.push(Verdict {
        name: "the regression is found".to_owned(),
        finding: match found {
            Some(day) if day <= last => Finding::Holds,
            // There was still time.
            None if last > setting.days => Finding::Undecided,
            _ => Finding::Fails,
        },
        sentence: match found {
            Some(day) => format!(
                "{} was served from day {plant_day}; the alarm came on the evening of day {day} (day {last} at the latest), at a false-alarm rate of {rate}.",
                plant.as_str()
            ),
            None => format!(
                "{} was served from day {plant_day}, and no alarm came until day {} (day {last} at the latest).",
                plant.as_str(),
                setting.days
            ),
        },
    });
    let sound_again = days.iter().find(|day| day.day > plant_day && day.planted.is_none()).map(|day| day.day);
    let recovers = "clicks recover".to_owned();
    if let Some(again) = sound_again {
        let planted = click_rate(&users(ARMS[0], shares, of, |day| (plant_day..again).contains(&day)));
        let after = click_rate(&users(ARMS[0], shares, of, |day| day >= again));
        let before = click_rate(&users(ARMS[0], shares, of, |day| day < plant_day));
        let error = planted.1.hypot(after.1);
        let gain = Interval::around(after.0 - planted.0, if error.is_finite() { error } else { 100.0 });
        verdicts.push(Verdict {
            name: recovers,
            finding: Finding::of(gain),
            sentence: format!(
                "Two-tower: {:.2} clicks per 100 impressions before, {:.2} with the regression, {:.2} with the challenger that was \
                 promoted after it: a gain of {}.",
                before.0,
                planted.0,
                after.0,
                gain.shown(2)
            ),
        });
    } else {
        verdicts.push(Verdict {
            name: recovers,
            finding: Finding::Undecided,
            sentence: "No day with a sound bundle followed the regression.".to_owned(),
        });
    }
    verdicts
}

impl Simulation {
    /// Whether something that was to be shown is not so.
    pub(super) fn fails(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.finding == Finding::Fails)
    }

    fn day_table(&self) -> Table {
        let mut table = Table::new()
            .text("day")
            .text("bundle")
            .text("arm")
            .number("logins")
            .number("clicks/100")
            .number("active users")
            .number("churned")
            .text("alarm");
        for day in &self.days {
            for (at, arm) in day.arms.iter().enumerate() {
                let first = |text: String| if at == 0 { text } else { String::new() };
                table.push([
                    first(day.day.to_string()),
                    first(day.bundle.clone()),
                    arm.arm.clone(),
                    grouped(arm.logins),
                    arm.clicks_per_100_impressions.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}")),
                    grouped(arm.active_users),
                    grouped(arm.churned),
                    first(if day.monitor.alarm { "ALARM".to_owned() } else { String::new() }),
                ]);
            }
        }
        table
    }

    fn arm_table(&self) -> Table {
        let mut table = Table::new()
            .text("arm")
            .number("users")
            .number("logins")
            .number("impressions")
            .number("clicks/100 [95 %]")
            .number("left")
            .number("retention [95 %]");
        for arm in &self.arms {
            table.push([
                arm.arm.clone(),
                grouped(arm.users),
                grouped(arm.logins),
                grouped(arm.impressions),
                arm.clicks_per_100_impressions.shown(2),
                grouped(arm.left),
                arm.retention.shown(3),
            ]);
        }
        table
    }

    /// For a terminal.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "{}\nOver all days with a sound bundle:\n\n{}\n",
            self.day_table().to_text(),
            self.arm_table().to_text()
        );
        for verdict in &self.verdicts {
            text += &format!("{:<10}{}: {}\n", verdict.finding.as_str(), verdict.name, verdict.sentence);
        }
        text
    }

    /// As a Markdown page.
    pub(super) fn to_markdown(&self) -> String {
        let setting = &self.setting;
        let planted = match (setting.plant, setting.plant_day) {
            (Some(plant), Some(day)) => format!("; {} planted on day {day}", plant.as_str()),
            _ => String::new(),
        };
        let mut text = format!(
            "# Simulation\n\n{} users, {} artists, {} days of history, {} simulated days, seed {}{planted}. {} lists were served, {} events reported.\n\n\
             ## Days\n\n{}\n## Arms, over all days with a sound bundle\n\n{}\n## Verdicts\n\n",
            grouped(setting.users),
            grouped(u64::from(setting.artists)),
            setting.history_days,
            setting.days,
            setting.seed,
            grouped(self.lists),
            grouped(self.events),
            self.day_table().to_markdown(),
            self.arm_table().to_markdown()
        );
        for verdict in &self.verdicts {
            text += &format!("* **{}** ({}): {}\n", verdict.finding.as_str(), verdict.name, verdict.sentence);
        }
        text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn share(impressions: u64, clicks: u64, left: bool) -> Share {
        Share { logins: 1, impressions, clicks, left: u64::from(left), ..Share::default() }
    }

    #[test]
    fn click_rates_take_users_as_units() {
        // One list a user, independent clicks: the error is about that of a binomial share.
        let even: Vec<Share> = (0..1_000).map(|user| share(1, u64::from(user % 5 == 0), false)).collect();
        let (rate, error) = click_rate(&even);
        let binomial = 100.0 * (0.2_f64 * 0.8 / 1_000.0).sqrt();
        assert!((rate - 20.0).abs() < 1e-9 && (error / binomial - 1.0).abs() < 0.01, "{rate} {error}");
        // The same clicks, by users who click everything or nothing: ten impressions of one are worth one.
        let clustered: Vec<Share> = (0..100).map(|user| share(10, if user % 5 == 0 { 10 } else { 0 }, false)).collect();
        let (rate, wider) = click_rate(&clustered);
        assert!((rate - 20.0).abs() < 1e-9 && (wider / binomial - 10.0_f64.sqrt()).abs() < 0.05, "{wider}");
        assert_eq!(click_rate(&[]).1, f64::INFINITY);
    }

    #[test]
    fn wilson_as_in_the_books() {
        // Newcombe 1998, table I: 81 of 263, and 15 of 148.
        let found = wilson(81, 263);
        assert!((found.low - 0.2553).abs() < 1e-4 && (found.high - 0.3662).abs() < 1e-4, "{found:?}");
        let found = wilson(15, 148);
        assert!((found.low - 0.0624).abs() < 1e-4 && (found.high - 0.1605).abs() < 1e-4, "{found:?}");
        // Newcombe 1998 (differences), table II, method 10: 56/70 - 48/80.
        let found = difference(wilson(56, 70), wilson(48, 80));
        assert!((found.low - 0.0524).abs() < 1e-4 && (found.high - 0.3339).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn findings_follow_the_interval_of_the_difference() {
        assert_eq!(Finding::of(Interval { mean: 1.0, low: 0.1, high: 2.0 }), Finding::Holds);
        assert_eq!(Finding::of(Interval { mean: 1.0, low: -0.1, high: 2.0 }), Finding::Undecided);
        assert_eq!(Finding::of(Interval { mean: -1.0, low: -2.0, high: -0.1 }), Finding::Fails);
    }

    #[test]
    fn days_of_a_planted_regression_count_for_no_arm() {
        let of: BTreeMap<u64, String> =
            [(1, "two-tower"), (2, "random")].map(|(user, arm)| (user, arm.to_owned())).into();
        let shares: Shares = [
            ((1, 1), share(10, 3, false)),
            ((1, 2), share(10, 1, false)),
            ((2, 1), share(10, 0, true)),
            ((2, 2), share(10, 1, false)),
        ]
        .into();
        let day = |day, planted| Day {
            day,
            date: String::new(),
            bundle: String::new(),
            planted,
            arms: of_day(day, &shares, &of),
            monitor: Look::default(),
        };
        let days = [day(1, None), day(2, Some(Plant::ShuffledIndex))];
        assert_eq!(days[1].arms[0].churned, 1);
        let totals = totals(&days, &shares, &of);
        let two_tower = totals.first().unwrap();
        assert_eq!((two_tower.arm.as_str(), two_tower.clicks, two_tower.left), ("two-tower", 3, 0));
    }

    #[test]
    fn a_regression_that_is_not_found_yet_is_no_failure() {
        let findings = |days: u32, within: u32, alarm: Option<u32>| {
            let setting = Setting {
                seed: 1,
                users: 2,
                artists: 2,
                genres: 2,
                history_days: 2,
                days,
                list: 10,
                habits: duet_data::world::Habits::default(),
                shares: BTreeMap::new(),
                plant: Some(Plant::ShuffledIndex),
                plant_day: Some(3),
                within,
                false_alarm_rate: 0.05,
            };
            let day = |day| Day {
                day,
                date: String::new(),
                bundle: String::new(),
                planted: (day >= 3 && alarm.is_none_or(|alarm| day <= alarm)).then_some(Plant::ShuffledIndex),
                arms: Vec::new(),
                monitor: Look { alarm: alarm == Some(day), ..Look::default() },
            };
            let days: Vec<Day> = (1..=days).map(day).collect();
            let verdicts = of_alarms(&setting, &days, &Shares::new(), &BTreeMap::new());
            verdicts.iter().map(|verdict| verdict.finding).collect::<Vec<Finding>>()
        };
        use Finding::{Fails, Holds, Undecided};
        // Found on the last evening: what comes after it is not known.
        assert_eq!(findings(4, 2, Some(4)), [Holds, Undecided]);
        assert_eq!(findings(4, 3, None), [Undecided, Undecided], "day 5 was in time as well");
        assert_eq!(findings(5, 3, None), [Fails, Undecided]);
        assert_eq!(findings(6, 3, Some(6))[0], Fails, "too late");
        assert_eq!(findings(4, u32::MAX, None)[0], Undecided);
        // Nobody came at all: no gain is shown.
        assert_eq!(findings(6, 3, Some(4)), [Holds, Undecided]);
    }
}
