//! Drift: who is served, and how their lists score, beside the users and lists of training.
//!
//! Both are measured as [`duet_data::quality::drift`] does between two datasets: a population stability index over bins of the
//! training side, with the size that chance alone explains. One value a user, for that chance is of independent rows: their features
//! as the dataset has them, and the score of the best item of their last personal list.

use std::path::Path;

use duet_core::{
    Result,
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::quality::{Drift, LEAST_ROWS, drift, summarise};
use serde::{Deserialize, Serialize};

use crate::retriever::{ListSource, Retriever};

/// A feature, or the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The column, or `score of the best item`.
    pub what: String,
    /// The index; absent where it can't be measured.
    pub psi: Option<f64>,
    /// What chance alone stays below in 99 of 100 cases.
    pub chance: f64,
    /// Served users it was measured on.
    pub users: u64,
    /// In a word: stable, moderate, large.
    pub level: String,
    /// Whether the index is above the limit, and above chance.
    pub drifted: bool,
    /// The bins with their shares of training and of now.
    pub bins: Vec<ShiftBin>,
}

/// A bin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShiftBin {
    /// What is in it.
    pub label: String,
    /// Its share of the training side.
    pub training: f64,
    /// Its share now.
    pub now: f64,
}

impl Shift {
    fn new(drift: Drift, what: String, users: usize, max_psi: f64) -> Self {
        let bin = |bin: duet_data::quality::DriftBin| ShiftBin { label: bin.label, training: bin.before, now: bin.now };
        Self {
            what,
            drifted: drift.psi.is_some_and(|psi| psi > max_psi && psi > drift.chance),
            psi: drift.psi,
            chance: drift.chance,
            users: users as u64,
            level: drift.level.as_str().to_owned(),
            bins: drift.bins.into_iter().map(bin).collect(),
        }
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let psi = self.psi.map_or_else(|| "none".to_owned(), |psi| format!("{psi:.3}"));
        format!(
            "{} drifted from training: PSI {psi} (chance explains {:.3}), {} users",
            self.what, self.chance, self.users
        )
    }
}

/// Features of the served users (`rows` of the table) beside those of everybody in it.
pub(super) fn features(table: &FeatureTable, rows: &[u32], max_psi: f64) -> Vec<Shift> {
    let before = summarise(&table.columns, LEAST_ROWS);
    let served: Vec<Column> = table
        .columns
        .iter()
        .map(|column| Column { name: column.name.clone(), values: chosen(&column.values, rows) })
        .collect();
    let found = drift("users", &before, &served);
    found
        .into_iter()
        .map(|drift| {
            let what = drift.column.clone();
            Shift::new(drift, what, rows.len(), max_psi)
        })
        .collect()
}

fn chosen(values: &ColumnValues, rows: &[u32]) -> ColumnValues {
    let rows = rows.iter().map(|&row| row as usize);
    match values {
        ColumnValues::Text(values) => ColumnValues::Text(rows.map(|row| values[row].clone()).collect()),
        ColumnValues::TextList(values) => ColumnValues::TextList(rows.map(|row| values[row].clone()).collect()),
        ColumnValues::Number(values) => ColumnValues::Number(rows.map(|row| values[row]).collect()),
        ColumnValues::Day(values) => ColumnValues::Day(rows.map(|row| values[row]).collect()),
    }
}

/// Scores of served lists beside those of the bundle's own users.
pub(super) fn scores(training: Vec<f64>, served: Vec<f64>, max_psi: f64) -> Shift {
    let column = |values| [Column { name: "score".to_owned(), values: ColumnValues::Number(values) }];
    let users = served.len();
    let before = summarise(&column(training), LEAST_ROWS);
    let found = drift("lists", &before, &column(served)).swap_remove(0);
    Shift::new(found, "score of the best item".to_owned(), users, max_psi)
}

/// The best score of so many of a bundle's users, evenly spread over them, with what they know left out.
///
/// # Errors
/// As [`Retriever::from_bundle`] and [`Retriever::recommend`].
pub(super) fn bundle_scores(bundle: &Path, users: usize) -> Result<Vec<f64>> {
    const BATCH: usize = 256;
    let retriever = Retriever::from_bundle(bundle)?;
    let all = retriever.all_users();
    let step = all.len().div_ceil(users.max(1)).max(1);
    let sample: Vec<String> = all.iter().step_by(step).cloned().collect();
    let mut scores = Vec::with_capacity(sample.len());
    for batch in sample.chunks(BATCH) {
        let lists = retriever.recommend(batch, 1, true, None)?;
        let personal = lists.iter().filter(|list| list.source == ListSource::Personal);
        scores.extend(personal.filter_map(|list| Some(f64::from(list.items.first()?.score))));
    }
    Ok(scores)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ids::IdMap;

    use super::*;

    #[test]
    fn served_users_who_are_others_than_those_of_training() {
        let country = |row: usize| Some(if row < 200 { "de" } else { "fr" }.to_owned());
        let table = FeatureTable {
            ids: IdMap::new((0..400).map(|id| id.to_string()).collect()).unwrap(),
            names: Vec::new(),
            columns: vec![Column {
                name: "country".into(),
                values: ColumnValues::Text((0..400).map(country).collect()),
            }],
        };
        let same: Vec<u32> = (0..400).step_by(2).collect();
        assert!(!features(&table, &same, 0.25)[0].drifted);
        let others: Vec<u32> = (0..160).chain(300..310).collect();
        let found = &features(&table, &others, 0.25)[0];
        assert!(found.drifted && found.psi.unwrap() > 0.5, "{found:?}");
        assert!(found.sentence().starts_with("country drifted") && found.sentence().contains("170 users"));
    }

    #[test]
    fn scores_that_moved() {
        let range = |from: u32| (from..from + 300).map(|at| f64::from(at) / 300.0).collect::<Vec<f64>>();
        assert!(!scores(range(0), range(5), 0.25).drifted);
        assert!(scores(range(0), range(200), 0.25).drifted);
    }
}
