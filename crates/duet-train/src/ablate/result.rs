//! The table: what every row changes, what it gets, and what its difference shows. As text, Markdown and JSON.

use std::path::Path;

use duet_core::{Error, Result, artifact::write_file};
use duet_retrieval::{bootstrap::Bootstrap, verdict::Verdict};
use serde::Serialize;

use super::{
    kept::{AblationProtocol, METRICS, Training, Trainings},
    rows::Row,
};
use crate::evaluate::{
    DatasetFacts, Table,
    words::{display_metric, show_paired},
};

/// What is written into the directory of an ablation.
pub const JSON_FILE: &str = "ablation.json";
/// The same to be read.
pub const MARKDOWN_FILE: &str = "ablation.md";

/// A figure over the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The least of the seeds.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    /// `None` for no values.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let least = values.iter().copied().reduce(f64::min)?;
        let greatest = values.iter().copied().reduce(f64::max)?;
        Some(Self { mean: values.iter().sum::<f64>() / values.len() as f64, least, greatest })
    }

    fn show(&self) -> String {
        format!("{:.4} ({:.4}-{:.4})", self.mean, self.least, self.greatest)
    }
}

/// What was measured of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredRow {
    /// The seeds that are in.
    pub seeds: Vec<u64>,
    /// NDCG@10.
    pub ndcg: Spread,
    /// Recall@10.
    pub recall: Spread,
    /// NDCG@10 of users without training events, where there are any.
    pub new_user_ndcg: Option<Spread>,
    /// Seconds of a training.
    pub seconds: Spread,
    /// Trainings that a time limit ended.
    pub cut_short: usize,
    /// The row's NDCG@10 minus the default's.
    pub to_default: Option<Verdict>,
    /// The row's NDCG@10 minus that of `against`, where that is another row.
    pub to_counterpart: Option<Verdict>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AblationRow {
    /// Its name.
    pub name: String,
    /// What it changes.
    pub set: Vec<String>,
    /// The row it is compared with, besides the default.
    pub against: String,
    /// Why it is not trained, if it is not to be.
    pub not_trained: Option<String>,
    /// What was measured, once a training is finished.
    pub measured: Option<MeasuredRow>,
}

/// The whole table.
#[derive(Debug, Clone, Serialize)]
pub struct Ablation {
    /// What was trained and measured on.
    pub dataset: DatasetFacts,
    /// Users measured, and whether what they knew counts.
    pub protocol: AblationProtocol,
    /// Test users without training events.
    pub new_users: usize,
    /// Seeds asked for.
    pub seeds: u64,
    /// Bootstrap resamples behind the intervals.
    pub resamples: usize,
    /// Settings over the shipped configuration, which all rows have.
    pub settings: Vec<String>,
    /// The configuration that the rows change, as TOML.
    pub config: String,
    /// The rows.
    pub rows: Vec<AblationRow>,
    /// What a reader should know, e.g. trainings that could not be measured.
    pub notes: Vec<String>,
    /// Whether a signal ended it before all was trained.
    pub interrupted: bool,
}

/// What the rows of a table are made from.
pub(super) struct Source<'a> {
    pub(super) rows: &'a [Row],
    /// What each row sets.
    pub(super) settings: &'a [Vec<String>],
    /// The row that stands for each: itself, an earlier one that trains the same, or none. With the reason.
    pub(super) stands_for: &'a [(Option<usize>, Option<String>)],
    pub(super) trainings: &'a Trainings,
    pub(super) resamples: usize,
    pub(super) seed: u64,
}

/// Puts the rows together. All differences are of one family of tests.
///
/// # Errors
/// As [`Bootstrap::new`].
pub(super) fn rows(source: &Source<'_>) -> Result<Vec<AblationRow>> {
    let Source { rows, settings, stands_for, trainings, .. } = *source;
    let place = |name: &str| rows.iter().position(|row| row.name == name).and_then(|at| stands_for[at].0);
    // (row, counterpart), the default first.
    let mut pairs = Vec::new();
    for (at, row) in rows.iter().enumerate().skip(1).filter(|(at, _)| stands_for[*at].0 == Some(*at)) {
        let counterpart = place(&row.against).filter(|other| *other != 0 && *other != at);
        pairs.extend([Some((at, 0)), counterpart.map(|other| (at, other))].into_iter().flatten());
    }
    let verdicts = verdicts(source, &pairs)?;
    let verdict = |at: usize, is_default: bool| {
        let found = verdicts.iter().find(|((row, other), _)| *row == at && (*other == 0) == is_default);
        found.map(|(_, verdict)| verdict.clone())
    };
    Ok(rows
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let own: Vec<(u64, &Training)> =
                trainings.range((at, 0)..=(at, u64::MAX)).map(|((_, seed), training)| (*seed, training)).collect();
            AblationRow {
                name: row.name.clone(),
                set: settings[at].clone(),
                against: row.against.clone(),
                not_trained: stands_for[at].1.clone(),
                measured: measured(&own, verdict(at, true), verdict(at, false)),
            }
        })
        .collect())
}

fn measured(
    trainings: &[(u64, &Training)],
    to_default: Option<Verdict>,
    to_counterpart: Option<Verdict>,
) -> Option<MeasuredRow> {
    let spread = |metric: usize| Spread::of(trainings.iter().map(|(_, training)| mean(&training.values[metric])));
    Some(MeasuredRow {
        seeds: trainings.iter().map(|(seed, _)| *seed).collect(),
        ndcg: spread(0)?,
        recall: spread(1)?,
        new_user_ndcg: Spread::of(trainings.iter().filter_map(|(_, training)| Some(training.record.new_users?.0))),
        seconds: Spread::of(trainings.iter().map(|(_, training)| training.record.seconds))?,
        cut_short: trainings.iter().filter(|(_, training)| training.record.cut_short).count(),
        to_default,
        to_counterpart,
    })
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64
}

/// The verdict on the first of each pair by the second, over the seeds that both have; pairs without one are left out.
///
/// Every user's figure is the mean over the seeds, and users are what is drawn: the interval is about other users, not about other
/// seeds, whose range stands in the table.
fn verdicts(source: &Source<'_>, pairs: &[(usize, usize)]) -> Result<Vec<((usize, usize), Verdict)>> {
    let mut kept = Vec::new();
    let mut columns: Vec<Vec<f32>> = Vec::new();
    for &(row, other) in pairs {
        let of = |at: usize, seed: u64| source.trainings.get(&(at, seed)).map(|training| &training.values[0]);
        let seeds: Vec<u64> = source.trainings.range((row, 0)..=(row, u64::MAX)).map(|((_, seed), _)| *seed).collect();
        let both: Vec<(&Vec<f32>, &Vec<f32>)> =
            seeds.into_iter().filter_map(|seed| Some((of(row, seed)?, of(other, seed)?))).collect();
        if both.is_empty() {
            continue;
        }
        kept.push((row, other));
        columns.push(over_seeds(both.iter().map(|(row, _)| row.as_slice())));
        columns.push(over_seeds(both.iter().map(|(_, other)| other.as_slice())));
    }
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let slices: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
    let resampled = Bootstrap::new(&slices, source.resamples, source.seed)?;
    let tests = (0..kept.len()).map(|at| (METRICS[0].to_owned(), resampled.difference(2 * at, 2 * at + 1)));
    Ok(kept.into_iter().zip(Verdict::family(tests)).collect())
}

/// Every user's mean over the seeds.
fn over_seeds<'a>(seeds: impl Iterator<Item = &'a [f32]> + Clone) -> Vec<f32> {
    let count = seeds.clone().count() as f64;
    let users = seeds.clone().map(<[f32]>::len).min().unwrap_or(0);
    let mean_of = |user: usize| (seeds.clone().map(|values| f64::from(values[user])).sum::<f64>() / count) as f32;
    (0..users).map(mean_of).collect()
}

/// The verdict in words; the family are the rows here.
fn words(verdict: &Verdict) -> String {
    let p = match verdict.adjusted_p {
        Some(p) if p < 0.0001 => "p < 0.0001".to_owned(),
        Some(p) => format!("p = {p:.4}"),
        None => return verdict.outcome.as_str().to_owned(),
    };
    format!("{} ({p})", verdict.outcome.as_str())
}

impl Ablation {
    fn table(&self) -> Table {
        let [ndcg, recall] = METRICS.map(display_metric);
        let header = Table::new().text("row").text("what changed").number(ndcg.clone()).number(recall);
        let mut table = header
            .number(format!("{ndcg} minus default's [95 %]"))
            .text("verdict")
            .number("seconds")
            .number(format!("{ndcg}, new users"));
        for row in &self.rows {
            let changed = if row.set.is_empty() { "nothing".to_owned() } else { row.set.join(" ") };
            let Some(measured) = &row.measured else {
                continue;
            };
            let difference = measured.to_default.as_ref();
            let mut name = row.name.clone();
            if (measured.seeds.len() as u64) < self.seeds {
                name += &format!(" ({} of {} seeds)", measured.seeds.len(), self.seeds);
            }
            if measured.cut_short > 0 {
                name += " (cut short)";
            }
            table.push([
                name,
                changed,
                measured.ndcg.show(),
                measured.recall.show(),
                difference.map_or_else(String::new, |verdict| show_paired(&verdict.paired).trim_end().to_owned()),
                difference.map_or_else(String::new, words),
                format!("{:.1}", measured.seconds.mean),
                measured.new_user_ndcg.map_or_else(|| "-".to_owned(), |spread| spread.show()),
            ]);
        }
        table
    }

    /// Rows against a counterpart that is not the default, one a line.
    fn counterparts(&self) -> Vec<String> {
        let line = |row: &AblationRow| {
            let verdict = row.measured.as_ref()?.to_counterpart.as_ref()?;
            let difference = show_paired(&verdict.paired);
            Some(format!("{} minus {}: {}, {}", row.name, row.against, difference.trim_end(), words(verdict)))
        };
        self.rows.iter().filter_map(line).collect()
    }

    fn facts(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} users, {} of them new; {} resamples; verdicts are corrected over all differences here (Holm)",
            self.protocol.users, self.new_users, self.resamples
        )];
        // A difference of one training each may be the seeds'.
        lines.push(
            "intervals and p-values are about other users, not about other seeds: see the range over the seeds"
                .to_owned(),
        );
        if self.protocol.keep_seen {
            lines.push("what users had in training is ranked too".to_owned());
        }
        if !self.settings.is_empty() {
            lines.push(format!("all rows: {}", self.settings.join(" ")));
        }
        for row in &self.rows {
            match (&row.not_trained, &row.measured) {
                (Some(reason), _) => lines.push(format!("{}: {reason}", row.name)),
                (None, None) => lines.push(format!("{}: not trained yet", row.name)),
                (None, Some(_)) => {}
            }
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut lines = vec![self.table().to_text()];
        lines.extend(self.counterparts());
        lines.extend(self.facts());
        lines.join("\n")
    }

    /// As a page of Markdown.
    pub fn to_markdown(&self) -> String {
        let list = |lines: Vec<String>| -> String { lines.into_iter().map(|line| format!("* {line}\n")).collect() };
        let mut text = format!(
            "# Ablation\n\n`{}`, {} seeds a row; means over the seeds, the least and the greatest in parentheses. Differences are \
             paired by user, each user's figure the mean over the seeds.\n\n{}\n",
            self.dataset.dir.display(),
            self.seeds,
            self.table().to_markdown()
        );
        let counterparts = self.counterparts();
        if !counterparts.is_empty() {
            text += &format!("Against another row:\n\n{}\n", list(counterparts));
        }
        text + &list(self.facts())
    }

    /// Writes [`JSON_FILE`] and [`MARKDOWN_FILE`] into `dir`, each whole.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json =
            serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("{JSON_FILE}: {error}")))?;
        write_file(&dir.join(JSON_FILE), json.as_bytes())?;
        write_file(&dir.join(MARKDOWN_FILE), self.to_markdown().as_bytes())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_retrieval::verdict::Outcome;

    use super::{
        super::{kept::Record, rows::DEFAULT_ROW},
        *,
    };

    fn training(ndcg: &[f32], seconds: f64, new_users: Option<(f64, usize)>) -> Training {
        let record = Record {
            config: String::new(),
            dataset_fingerprint: String::new(),
            protocol: AblationProtocol { keep_seen: false, users: ndcg.len() },
            seconds,
            cut_short: seconds > 50.0,
            new_users,
        };
        Training { record, values: [ndcg.to_vec(), ndcg.iter().map(|value| value / 2.0).collect()] }
    }

    fn row(name: &str, against: &str) -> Row {
        Row { name: name.to_owned(), set: vec!["a.b=1".to_owned()], uniform_share: None, against: against.to_owned() }
    }

    /// `worse` is 0.1 below the default for everybody, `noise` up for one half of the users and down for the other, `again` trains
    /// what `worse` trains and `late` is not trained yet; `after` is compared with `again`.
    fn table() -> Vec<AblationRow> {
        let rows = [
            row(DEFAULT_ROW, DEFAULT_ROW),
            row("worse", DEFAULT_ROW),
            row("noise", DEFAULT_ROW),
            row("again", DEFAULT_ROW),
            row("late", DEFAULT_ROW),
            row("after", "again"),
        ];
        let settings: Vec<Vec<String>> = rows.iter().map(|row| row.set.clone()).collect();
        let own = |at: usize| (Some(at), None);
        let again = (Some(1), Some("trains the same as worse".to_owned()));
        let stands_for = [own(0), own(1), own(2), again, own(4), own(5)];
        let plain: Vec<f32> = (0..40).map(|user| 0.3 + (user % 4) as f32 / 10.0).collect();
        let moved = |by: &dyn Fn(usize) -> f32| -> Vec<f32> {
            plain.iter().enumerate().map(|(user, value)| value + by(user)).collect()
        };
        let alternating = |user: usize| if user.is_multiple_of(2) { 0.1 } else { -0.1 };
        let trainings = Trainings::from([
            // The two seeds differ by 0.02 for every user: their mean is `plain`.
            ((0, 0), training(&moved(&|_| 0.01), 10.0, Some((0.2, 5)))),
            ((0, 1), training(&moved(&|_| -0.01), 20.0, Some((0.4, 5)))),
            ((1, 0), training(&moved(&|_| -0.09), 60.0, None)),
            ((1, 1), training(&moved(&|_| -0.11), 40.0, None)),
            ((2, 0), training(&moved(&|user| 0.01 + alternating(user)), 5.0, None)),
            ((5, 0), training(&moved(&|_| -0.09), 5.0, None)),
        ]);
        let source = Source {
            rows: &rows,
            settings: &settings,
            stands_for: &stands_for,
            trainings: &trainings,
            resamples: 1000,
            seed: 1,
        };
        super::rows(&source).unwrap()
    }

    #[test]
    fn figures_by_hand() {
        let rows = table();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        let default = rows[0].measured.as_ref().unwrap();
        // 0.3, 0.4, 0.5, 0.6 in turn: 0.45.
        close(default.ndcg.mean, 0.45);
        close(default.ndcg.least, 0.44);
        close(default.ndcg.greatest, 0.46);
        close(default.recall.mean, 0.225);
        close(default.seconds.mean, 15.0);
        close(default.new_user_ndcg.unwrap().mean, 0.3);
        assert_eq!((default.to_default.clone(), default.cut_short), (None, 0));

        let worse = rows[1].measured.as_ref().unwrap();
        let verdict = worse.to_default.as_ref().unwrap();
        assert_eq!((verdict.outcome, worse.cut_short, &worse.seeds[..]), (Outcome::Worse, 1, &[0, 1][..]));
        // Everybody loses 0.1 in the mean over the seeds: every resample does too.
        let difference = verdict.paired.difference;
        [difference.mean, difference.low, difference.high].into_iter().for_each(|value| close(value, -0.1));

        // One seed of two: compared over that seed, where the default has 0.01 more than in the mean.
        let noise = rows[2].measured.as_ref().unwrap();
        let verdict = noise.to_default.as_ref().unwrap();
        assert_eq!((verdict.outcome, &noise.seeds[..]), (Outcome::NoDifference, &[0][..]));
        close(verdict.paired.difference.mean, 0.0);
        assert!(verdict.paired.difference.low < 0.0 && verdict.paired.difference.high > 0.0);
    }

    #[test]
    fn rows_that_train_the_same_stand_for_each_other() {
        let rows = table();
        assert_eq!(rows[3].not_trained.as_deref(), Some("trains the same as worse"));
        assert!(rows[3].measured.is_none() && rows[4].measured.is_none() && rows[4].not_trained.is_none());
        let after = rows[5].measured.as_ref().unwrap();
        let verdict = after.to_counterpart.as_ref().unwrap();
        assert!(verdict.paired.difference.mean.abs() < 1e-6, "it is compared with what stands for its counterpart");
        assert_eq!(verdict.outcome, Outcome::NoDifference);
        assert_eq!(after.to_default.as_ref().unwrap().outcome, Outcome::Worse);
    }

    #[test]
    fn one_family_of_tests() {
        // Differences: worse, noise, after to the default, after to its counterpart: 4.
        let rows = table();
        let noise = rows[2].measured.as_ref().unwrap().to_default.clone().unwrap();
        let p = noise.paired.p_value;
        assert!(p > 0.3, "{p}");
        assert!(noise.adjusted_p.unwrap() >= p);
        let worse = rows[1].measured.as_ref().unwrap().to_default.clone().unwrap();
        assert!(worse.adjusted_p.unwrap() >= worse.paired.p_value);
    }
}
