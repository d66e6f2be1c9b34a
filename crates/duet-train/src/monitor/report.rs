//! All that was found, as JSON, as text and as a page.

use std::path::Path;

use duet_core::{Error, Result, artifact};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{
    Against, EventCounts, FoldNote, OnlineVerdict, OverFit, Rate, Retention, Shift, SliceReport, Tally, Watched, page,
};
use crate::evaluate::Table;

/// Version of the JSON.
pub(super) const VERSION: u32 = 1;
/// What [`MonitorReport::write`] writes.
pub const MONITOR_FILES: [&str; 2] = ["monitor.json", "monitor.html"];

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Lines of the served-list logs.
    pub served: Tally,
    /// Lists whose request came a second time.
    pub repeated_lists: u64,
    /// Lists of other days.
    pub outside_lists: u64,
    /// Lists for a history instead of a user: they are in no figure.
    pub anonymous_lists: u64,
    /// Lists of which no impression was reported: all of such a list counts as shown.
    pub lists_without_impressions: u64,
    /// Lines of events.
    pub events: Tally,
    /// What became of them.
    pub event_counts: EventCounts,
    /// Users with a list.
    pub users: u64,
    /// Those of them who are not in the dataset.
    pub users_not_in_dataset: u64,
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// A click rate dropped.
    Regression,
    /// Users or scores are others than those of training.
    Drift,
    /// The model learned by heart, or knew the future.
    OverFit,
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The day on which it was first raised, of those that have one.
    pub since: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MonitorReport {
    /// Of the JSON.
    pub version: u32,
    /// When it was made, UTC.
    pub made_at: String,
    /// The first day with a list.
    pub first_day: String,
    /// The last.
    pub last_day: String,
    /// The bundle it was compared with.
    pub bundle: Option<String>,
    /// What was read.
    pub inputs: Inputs,
    /// The probability that there is ever a false alarm among the watched series.
    pub alpha: f64,
    /// The variant that others are compared with.
    pub control: String,
    /// What is wrong.
    pub alarms: Vec<Alarm>,
    /// Challengers against the champion.
    pub verdicts: Vec<OnlineVerdict>,
    /// Rates.
    pub slices: Vec<SliceReport>,
    /// Churn and retention.
    pub retention: Vec<Retention>,
    /// What is watched.
    pub watched: Vec<Watched>,
    /// Features and scores beside training.
    pub shifts: Vec<Shift>,
    /// What the evaluation said.
    pub over_fit: Option<OverFit>,
    /// Values with too few users.
    pub folded: Vec<FoldNote>,
    /// What could not be judged, and why.
    pub notes: Vec<String>,
}

impl MonitorReport {
    /// Collects the alarms.
    pub(super) fn raise(&mut self, with_drift: bool) {
        let mut alarms: Vec<Alarm> = self
            .watched
            .iter()
            .filter_map(|series| {
                let message = series.sentence()?;
                Some(Alarm { kind: AlarmKind::Regression, since: series.first_alarm.clone(), message })
            })
            .collect();
        alarms.sort_by(|a, b| a.since.cmp(&b.since));
        if with_drift {
            let drifted = self.shifts.iter().filter(|shift| shift.drifted);
            alarms.extend(drifted.map(|shift| Alarm {
                kind: AlarmKind::Drift,
                since: None,
                message: shift.sentence(),
            }));
        }
        let over_fit = self.over_fit.as_ref().filter(|found| found.alarm);
        alarms.extend(over_fit.map(|found| Alarm { kind: AlarmKind::OverFit, since: None, message: found.sentence() }));
        self.alarms = alarms;
    }

    /// What the alarms of click rates promise.
    pub fn guarantee(&self) -> String {
        format!(
            "{} series are watched every day. With no drop in any of them, the probability of ever raising an alarm, over all series and all \
             days, is at most {} (bets on bounded means of independent users; see docs/monitoring.md).",
            self.watched.len(),
            self.alpha
        )
    }

    /// What is said first.
    pub fn headline(&self) -> String {
        let alarms = match self.alarms.len() {
            0 => "no alarm".to_owned(),
            1 => "1 ALARM".to_owned(),
            many => format!("{many} ALARMS"),
        };
        let all = self.slices.first().map(|slice| &slice.overall);
        let clicks = all.and_then(|all| all.clicks_per_100).map(|rate| rate.text());
        format!(
            "{} to {}: {} lists for {} users, {} clicks of 100 impressions, {alarms}.",
            self.first_day,
            self.last_day,
            all.map_or(0, |all| all.lists),
            self.inputs.users,
            clicks.unwrap_or_else(|| "no".to_owned())
        )
    }

    /// The slices by something, all days together.
    pub fn slice_table(&self, by: impl Fn(&str) -> bool) -> Table {
        let mut table = Table::new()
            .text("by")
            .text("value")
            .number("lists")
            .number("users")
            .number("impressions")
            .number("clicks / 100 [95 %]")
            .number("completion % [95 %]")
            .number("follows / 100 [95 %]");
        let rate = |rate: &Option<Rate>| rate.map_or_else(|| "-".to_owned(), |rate| rate.text());
        for slice in self.slices.iter().filter(|slice| by(&slice.by)) {
            let all = &slice.overall;
            table.push([
                slice.by.clone(),
                slice.value.clone(),
                all.lists.to_string(),
                all.users.to_string(),
                all.impressions.to_string(),
                rate(&all.clicks_per_100),
                rate(&all.completion_percent),
                rate(&all.follows_per_100),
            ]);
        }
        table
    }

    /// Churn and retention.
    pub fn retention_table(&self) -> Table {
        let mut table = Table::new()
            .text("by")
            .text("value")
            .number("silent days")
            .number("users")
            .number("came too late")
            .number("churn / 100 active days [95 %]")
            .number("there after 7 days [95 %]")
            .number("there after 28 days [95 %]");
        for found in &self.retention {
            let after = |day: u32| {
                let day = found.curve.iter().find(|found| found.day == day);
                day.map_or_else(
                    || "-".to_owned(),
                    |day| format!("{:.3} [{:.3}, {:.3}]", day.survival, day.low, day.high),
                )
            };
            table.push([
                found.by.clone(),
                found.value.clone(),
                found.silent_days.to_string(),
                found.users.to_string(),
                found.too_late.to_string(),
                found.churn_per_100_active_days.map_or_else(|| "-".to_owned(), |rate| rate.text()),
                after(7),
                after(28),
            ]);
        }
        table
    }

    /// The watched series.
    pub fn watch_table(&self) -> Table {
        let mut table = Table::new()
            .text("by")
            .text("value")
            .text("against")
            .number("window, days")
            .number("users")
            .number("now / 100")
            .number("before / 100")
            .number("log10 e")
            .number("needed")
            .text("first alarm");
        for series in &self.watched {
            let figure =
                |figure: fn(&super::WatchDay) -> String| series.last.as_ref().map_or_else(|| "-".to_owned(), figure);
            table.push([
                series.by.clone(),
                series.value.clone(),
                series.against.as_str().to_owned(),
                series.window_days.map_or_else(|| "all".to_owned(), |days| days.to_string()),
                figure(|day| day.users.to_string()),
                figure(|day| format!("{:.2}", 100.0 * day.now)),
                figure(|day| format!("{:.2}", 100.0 * day.before)),
                figure(|day| format!("{:.1}", day.log10_evidence)),
                figure(|day| format!("{:.1}", day.log10_threshold)),
                series.first_alarm.clone().unwrap_or_default(),
            ]);
        }
        table
    }

    /// Features and scores.
    pub fn shift_table(&self) -> Table {
        let mut table =
            Table::new().text("of").number("PSI").number("by chance").number("users").text("level").text("drifted");
        for shift in &self.shifts {
            table.push([
                shift.what.clone(),
                shift.psi.map_or_else(|| "-".to_owned(), |psi| format!("{psi:.3}")),
                format!("{:.3}", shift.chance),
                shift.users.to_string(),
                shift.level.clone(),
                if shift.drifted { "yes" } else { "" }.to_owned(),
            ]);
        }
        table
    }

    /// What was read, in sentences.
    pub fn input_lines(&self) -> Vec<String> {
        let Inputs { served, events, event_counts: counts, .. } = &self.inputs;
        let tally = |what: &str, tally: &Tally| {
            format!(
                "{what}: {} files, {} lines, {} bad, {} not complete yet",
                tally.files, tally.lines, tally.bad_lines, tally.torn_lines
            )
        };
        let mut lines = vec![
            tally("served lists", served),
            tally("events", events),
            format!(
                "events joined to a position: {}, of them {} told nothing new; of an unknown list {}, of another user {}, of a wrong \
                 position {}; without a list {}; of unknown users {}; after the last day {}",
                counts.joined,
                counts.repeated,
                counts.unknown_list,
                counts.other_user,
                counts.wrong_position,
                counts.without_list,
                counts.unknown_user,
                counts.after_end
            ),
            format!(
                "lists repeated {}, of other days {}, anonymous (in no figure) {}, without reported impressions (all of them counts as \
                 shown) {}",
                self.inputs.repeated_lists,
                self.inputs.outside_lists,
                self.inputs.anonymous_lists,
                self.inputs.lists_without_impressions
            ),
        ];
        if self.inputs.users_not_in_dataset > 0 {
            let (unknown, users) = (self.inputs.users_not_in_dataset, self.inputs.users);
            lines.push(format!("users not in the dataset: {unknown} of {users}"));
        }
        lines.extend(served.first_bad.iter().chain(&events.first_bad).map(|place| format!("bad line: {place}")));
        lines
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut text = self.headline() + "\n";
        for alarm in &self.alarms {
            text += &format!("ALARM {}\n", alarm.message);
        }
        text += "\n";
        text += &self.slice_table(|by| ["all", "variant", "bundle", "source"].contains(&by)).to_text();
        text += "\n";
        for verdict in &self.verdicts {
            text += &format!("{}\n", verdict.sentence());
        }
        if let Some(found) = &self.over_fit {
            text += &format!("{}\n", found.sentence());
        }
        text += &format!("{}\n", self.guarantee());
        for line in self.input_lines().iter().chain(&self.notes).chain(&self.fold_lines()) {
            text += &format!("{line}\n");
        }
        text
    }

    /// What was folded, in sentences.
    pub fn fold_lines(&self) -> Vec<String> {
        self.folded.iter().map(FoldNote::sentence).collect()
    }

    /// Series with an alarm against something.
    pub fn alarmed(&self, against: Against) -> impl Iterator<Item = &Watched> {
        self.watched.iter().filter(move |series| series.against == against && series.first_alarm.is_some())
    }

    /// What a webhook is told.
    ///
    /// # Errors
    /// [`Error::Internal`] if it can't be written as JSON.
    pub(super) fn notice(&self) -> Result<String> {
        let notice = serde_json::json!({
            "source": "duet monitor",
            "made_at": self.made_at,
            "headline": self.headline(),
            "alarms": self.alarms,
            "verdicts": self.verdicts.iter().map(OnlineVerdict::sentence).collect::<Vec<_>>(),
            "guarantee": self.guarantee(),
        });
        serde_json::to_string(&notice).map_err(|error| Error::Internal(format!("webhook: {error}")))
    }

    /// Writes `monitor.json` and `monitor.html` into a directory, each whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let json = serde_json::to_string_pretty(self);
        let json = json.map_err(|error| Error::Internal(format!("monitor.json: {error}")))? + "\n";
        for (name, text) in MONITOR_FILES.into_iter().zip([json, page::page(self)]) {
            artifact::write_file(&dir.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}
