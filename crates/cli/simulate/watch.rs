//! The monitor, run every evening on all that was shipped so far.
//!
//! It sees what any observer sees: served lists, events, the dataset. Of its report the result keeps figures and the
//! alarms that are new; the whole report of the last evening lies in `OUT/monitor`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Result;
use duet_data::accounts::UserKey;
use duet_train::monitor::{Against, MonitorConfig, MonitorOptions, MonitorReport, Watched, monitor};
use serde::{Deserialize, Serialize};

use super::result::ARMS;

/// What is different from `configs/monitor.toml`.
///
/// The click rate of good lists falls by itself as listeners get to know what they like, and who came back after a good list clicks
/// less the next time: a drop by less than 30 % is not looked for. No arm may be worse than chance. Segments would take their part
/// of the false-alarm rate, and a loop drifts by design.
const SETTINGS: [&str; 7] = [
    "watch.windows=[1, 2]",
    "watch.reference_days=7",
    "watch.past_tolerance=0.3",
    "slices.min_users=1000000",
    "slices.churn_days=[3, 7, 14]",
    "drift.alarm=false",
    "drift.score_users=0",
];

/// The monitor's view of an arm, over all days so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ArmSeen {
    pub(super) arm: String,
    pub(super) users: u64,
    pub(super) impressions: u64,
    pub(super) clicks: u64,
    /// With the ends of its 95 % interval.
    pub(super) clicks_per_100_impressions: Option<[f64; 3]>,
    /// Of 100 days with somebody there, those after which nothing came from them for so many days, with the ends of the 95 %
    /// interval.
    pub(super) churn: Vec<Churn>,
}

/// Churn as an observer sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Churn {
    pub(super) silent_days: u32,
    pub(super) per_100_active_days: Option<[f64; 3]>,
}

/// What the monitor said in the evening.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Look {
    /// A series has raised its first alarm.
    pub(super) alarm: bool,
    /// Those series, in words.
    pub(super) alerts: Vec<String>,
    pub(super) arms: Vec<ArmSeen>,
    /// The arms against chance, on all days together.
    pub(super) against_random: Vec<String>,
}

/// Looks every evening, and remembers what was told.
#[derive(Debug)]
pub(super) struct Watch {
    dir: PathBuf,
    key: UserKey,
    config: MonitorConfig,
    told: BTreeSet<String>,
}

impl Watch {
    /// `false_alarm_rate`: the probability of any alarm, over all series and days, if nothing drops.
    pub(super) fn new(dir: &Path, key: UserKey, false_alarm_rate: f64) -> Result<Self> {
        let mut settings: Vec<String> = SETTINGS.iter().map(|&setting| setting.to_owned()).collect();
        settings.push(format!("watch.control=\"{}\"", ARMS[2]));
        settings.push(format!("watch.alpha={false_alarm_rate}"));
        let config = MonitorConfig::resolve(None, &settings)?;
        Ok(Self { dir: dir.to_path_buf(), key, config, told: BTreeSet::new() })
    }

    /// Reads everything served and reported so far.
    pub(super) fn look(&mut self, served: &Path, events: &Path) -> Result<Look> {
        let report = monitor(&MonitorOptions {
            served: vec![served.to_path_buf()],
            events: vec![events.to_path_buf()],
            raw: None,
            bundle: None,
            dataset: Some(self.dir.join("dataset")),
            evaluation: None,
            user_key: Some(self.key.clone()),
            from: None,
            to: None,
            config: self.config.clone(),
        })?;
        report.write(&self.dir.join("monitor"))?;
        let raised = report.watched.iter().filter(|series| series.first_alarm.is_some());
        let alerts: Vec<String> = raised.filter(|series| self.told.insert(series_name(series))).map(in_words).collect();
        Ok(Look {
            alarm: !alerts.is_empty(),
            alerts,
            arms: arms(&report),
            against_random: report.verdicts.iter().map(|verdict| verdict.sentence()).collect(),
        })
    }
}

fn arms(report: &MonitorReport) -> Vec<ArmSeen> {
    let with_ends =
        |rate: duet_train::monitor::Rate| [rate.value, rate.low.unwrap_or(rate.value), rate.high.unwrap_or(rate.value)];
    let seen = |arm: &str| {
        let slice = report.slices.iter().find(|slice| slice.by == "variant" && slice.value == arm)?;
        let churn = report.retention.iter().filter(|stay| stay.by == "variant" && stay.value == arm);
        Some(ArmSeen {
            arm: arm.to_owned(),
            users: slice.overall.users,
            impressions: slice.overall.impressions,
            clicks: slice.overall.clicks,
            clicks_per_100_impressions: slice.overall.clicks_per_100.map(with_ends),
            churn: churn
                .map(|stay| Churn {
                    silent_days: stay.silent_days,
                    per_100_active_days: stay.churn_per_100_active_days.map(with_ends),
                })
                .collect(),
        })
    };
    ARMS.into_iter().filter_map(seen).collect()
}

/// The value of a series without what differs between two runs: bundles are named by their directory and a checksum, and runs
/// record when they were made.
fn value(series: &Watched) -> &str {
    let plain = series.value.rsplit_once('-').filter(|_| series.by == "bundle");
    plain.map_or(&series.value, |(directory, _)| directory)
}

fn series_name(series: &Watched) -> String {
    format!("{} {} {} {:?}", series.by, value(series), series.against.as_str(), series.window_days)
}

fn in_words(series: &Watched) -> String {
    let than = match series.against {
        Against::Control => "those of random lists",
        Against::Past => "before",
        Against::BundleBefore => "those of the bundle before",
    };
    let window = series.window_days.map(|days| format!(" within {days} days")).unwrap_or_default();
    let found = series.at_alarm.map(|at| {
        format!(": {:.2} against {:.2} per 100 impressions, {} users", 100.0 * at.now, 100.0 * at.before, at.users)
    });
    format!("clicks of {} {} are fewer than {than}{window}{}", series.by, value(series), found.unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_those_of_the_monitor() {
        let key = UserKey::new(b"sixteen bytes at least").unwrap();
        let watch = Watch::new(Path::new("out"), key, 0.01).unwrap();
        assert_eq!((watch.config.watch.alpha, watch.config.watch.control.as_str()), (0.01, "random"));
        assert_eq!(watch.config.watch.windows, [1, 2]);
    }

    #[test]
    fn an_alert_names_no_checksum() {
        let series = Watched {
            by: "bundle".to_owned(),
            value: "day-003-shuffled-index-ab12cd34".to_owned(),
            against: Against::BundleBefore,
            window_days: None,
            alpha: 0.01,
            first_alarm: Some("2025-04-01".to_owned()),
            at_alarm: None,
            last: None,
            days_tested: 1,
        };
        let words = in_words(&series);
        assert_eq!(words, "clicks of bundle day-003-shuffled-index are fewer than those of the bundle before");
    }
}
