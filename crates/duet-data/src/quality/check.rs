//! From limits to a verdict.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use duet_core::number::grouped;
use serde::{Deserialize, Serialize};

use super::{
    drift::DriftLevel,
    report::{Report, Window},
    thresholds::Thresholds,
};

/// One limit, and whether it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is limited: `quarantined share`, `PSI`, ...
    pub name: String,
    /// What was looked at: `all lines`, `users.city`, `2025-03-04`.
    pub subject: String,
    /// The figure; absent where there is none to compare.
    pub value: Option<f64>,
    /// The limit; absent where it is a law rather than a setting.
    pub limit: Option<f64>,
    /// The outcome.
    pub verdict: Verdict,
    /// What the figure means, in words.
    pub detail: String,
}

/// The outcome of a [`Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within the limit.
    Passed,
    /// Beyond it.
    Failed,
}

impl Check {
    /// Whether the limit is kept.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {}: {}", self.name, self.subject, self.detail)
    }
}

/// Holds the report against the limits, puts every check into [`Report::checks`], failures first, and says whether all passed.
///
/// That every line is accounted for, in all and by day, is always checked. A limit for a column or a table that the report
/// does not have is a failure: a misspelt name must not pass for a kept limit.
pub fn check(report: &mut Report, thresholds: &Thresholds) -> bool {
    let mut checks = vec![conservation(report)];
    shares(report, thresholds, &mut checks);
    null_shares(report, thresholds, &mut checks);
    shifts(report, thresholds, &mut checks);
    rows(report, thresholds, &mut checks);
    days(report, thresholds, &mut checks);
    checks.sort_by_key(Check::passed);
    report.checks = checks;
    report.passed()
}

fn new(name: &str, subject: &str, value: Option<f64>, limit: Option<f64>, kept: bool, detail: String) -> Check {
    let verdict = if kept { Verdict::Passed } else { Verdict::Failed };
    Check { name: name.to_owned(), subject: subject.to_owned(), value, limit, verdict, detail }
}

/// A limit that names what is not there.
fn absent<'a>(name: &str, subject: &str, limit: f64, valid: impl Iterator<Item = &'a str>) -> Check {
    let valid: Vec<&str> = valid.collect();
    new(name, subject, None, Some(limit), false, format!("there is no {subject:?}; valid: {}", valid.join(", ")))
}

fn conservation(report: &Report) -> Check {
    let by_day: super::Books = report.days.iter().map(|day| &day.books).sum();
    let broken = report.books.check().err().map(|error| error.to_string()).or_else(|| {
        let day =
            report.days.iter().find_map(|day| day.books.check().err().map(|error| format!("{}: {error}", day.day)));
        day.or_else(|| {
            (!report.days.is_empty() && by_day != report.books).then(|| format!("the days together have {by_day}"))
        })
    });
    new(
        "conservation",
        "all lines",
        None,
        None,
        broken.is_none(),
        broken.map_or_else(|| report.books.to_string(), |broken| format!("{}; but {broken}", report.books)),
    )
}

fn shares(report: &Report, thresholds: &Thresholds, checks: &mut Vec<Check>) {
    let books = &report.books;
    for (name, count, all, of, limit) in [
        ("quarantined share", books.quarantined_lines(), books.lines, "lines", thresholds.max_quarantined_share),
        ("duplicate share", books.duplicates, books.lines, "lines", thresholds.max_duplicate_share),
        ("filtered share", books.filtered_lines(), books.lines, "lines", thresholds.max_filtered_share),
        ("late share", books.late, books.valid_events(), "valid events", thresholds.max_late_share),
    ] {
        let Some(limit) = limit else { continue };
        let share = if all == 0 { 0.0 } else { count as f64 / all as f64 };
        let detail =
            format!("{} of {} {of}, {}; limit {}", grouped(count), grouped(all), percent(share), percent(limit));
        checks.push(new(name, &format!("all {of}"), Some(share), Some(limit), share <= limit, detail));
    }
}

fn null_shares(report: &Report, thresholds: &Thresholds, checks: &mut Vec<Check>) {
    const NAME: &str = "null share";
    let limits = &thresholds.max_null_share;
    let mut names = Vec::new();
    for (table, columns) in &report.tables {
        for column in columns {
            let name = format!("{table}.{}", column.name);
            if let Some(&limit) = limits.columns.get(&name).or(limits.default.as_ref()) {
                let share = column.null_share();
                let detail = format!(
                    "{} of {} rows, {}; limit {}",
                    grouped(column.nulls),
                    grouped(column.rows),
                    percent(share),
                    percent(limit)
                );
                checks.push(new(NAME, &name, Some(share), Some(limit), share <= limit, detail));
            }
            names.push(name);
        }
    }
    for (name, &limit) in limits.columns.iter().filter(|(name, _)| !names.contains(name)) {
        checks.push(absent(NAME, name, limit, names.iter().map(String::as_str)));
    }
}

fn shifts(report: &Report, thresholds: &Thresholds, checks: &mut Vec<Check>) {
    const NAME: &str = "PSI";
    let Some(limit) = thresholds.max_psi else { return };
    for drift in &report.drift {
        let subject = format!("{}.{}", drift.table, drift.column);
        let (kept, detail) = match (drift.level, drift.psi) {
            (DriftLevel::Gone | DriftLevel::KindChanged, _) => (false, drift.level.as_str().to_owned()),
            (_, None) => continue,
            (_, Some(psi)) if psi > limit && psi <= drift.chance => {
                (true, format!("{psi:.3}, above the limit {limit} but below {:.3}, which is chance", drift.chance))
            }
            (_, Some(psi)) => (psi <= limit, format!("{psi:.3}; limit {limit}")),
        };
        checks.push(new(NAME, &subject, drift.psi, Some(limit), kept, detail));
    }
}

fn rows(report: &Report, thresholds: &Thresholds, checks: &mut Vec<Check>) {
    const NAME: &str = "rows";
    for (table, &least) in &thresholds.min_rows {
        let Some(columns) = report.tables.get(table) else {
            checks.push(absent(NAME, table, least as f64, report.tables.keys().map(String::as_str)));
            continue;
        };
        let rows = columns.first().map_or(0, |column| column.rows);
        let detail = format!("{}; at least {}", grouped(rows), grouped(least));
        checks.push(new(NAME, table, Some(rows as f64), Some(least as f64), rows >= least, detail));
    }
}

fn days(report: &Report, thresholds: &Thresholds, checks: &mut Vec<Check>) {
    const NAME: &str = "events";
    let Some(limit) = thresholds.min_events_per_day_ratio else { return };
    let known = report.days.iter().filter_map(|day| Some((day.day.parse::<NaiveDate>().ok()?, day.books.kept)));
    let known: BTreeMap<NaiveDate, u64> = known.collect();
    let median = |mut sizes: Vec<u64>| {
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied()
    };
    let window = report.window.or_else(|| {
        // Wrong clocks and time zones leave a few events before and after: from the first full day to the last.
        let typical = median(known.values().copied().collect())?;
        let mut full = known.iter().filter(|(_, kept)| **kept > 0 && **kept * 2 >= typical).map(|(day, _)| *day);
        let from = full.next()?;
        Some(Window { from, to: full.next_back().unwrap_or(from) })
    });
    let Some(window) = window else { return };
    let days: Vec<(NaiveDate, u64)> = window.days().map(|day| (day, known.get(&day).copied().unwrap_or(0))).collect();
    let Some(median) = median(days.iter().map(|day| day.1).collect()) else { return };
    let entry = |(day, kept): &(NaiveDate, u64)| {
        let ratio = if median == 0 { 1.0 } else { *kept as f64 / median as f64 };
        let detail = format!(
            "{} events, {} of the median day's {}; at least {}",
            grouped(*kept),
            percent(ratio),
            grouped(median),
            percent(limit)
        );
        new(NAME, &day.to_string(), Some(ratio), Some(limit), ratio >= limit, detail)
    };
    let failed: Vec<Check> = days.iter().map(entry).filter(|check| !check.passed()).collect();
    // One line for all days that pass: the worst of them.
    let worst = days.iter().min_by_key(|day| day.1).map(entry);
    checks.extend(if failed.is_empty() { worst.into_iter().collect() } else { failed });
}

/// Days with fewer events than this share of the median day's are as good as missing.
const MISSING_DAY: f64 = 0.2;

/// The days, in words, that are missing or nearly so (under a fifth of the median day's events), whatever limits the report was
/// held against.
pub fn missing_days(report: &Report) -> Vec<String> {
    let mut checks = Vec::new();
    let limit = Thresholds { min_events_per_day_ratio: Some(MISSING_DAY), ..Thresholds::none() };
    days(report, &limit, &mut checks);
    checks.iter().filter(|check| !check.passed()).map(Check::to_string).collect()
}

pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        percent if percent == 0.0 || percent >= 9.95 => format!("{percent:.0} %"),
        percent if percent >= 0.095 => format!("{percent:.1} %"),
        percent if percent >= 0.005 => format!("{percent:.2} %"),
        _ => "< 0.01 %".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_shares_are_not_nothing() {
        let shares = [0.0, 1e-9, 0.0005, 0.01234, 0.5, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "< 0.01 %", "0.05 %", "1.2 %", "50 %", "100 %"]);
    }
}
