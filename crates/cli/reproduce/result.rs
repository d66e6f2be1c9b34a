//! The table: duet and the baselines as measured, beside the published rows, as text, Markdown and JSON.

use std::{collections::BTreeMap, path::Path};

use duet_core::{Error, Result, artifact::write_file};
use duet_train::evaluate::Table;
use serde::Serialize;

use super::catalogue::{Catalogue, Set, digits, heading};

/// What is written beside the dataset and the runs.
pub(super) const JSON: &str = "reproduction.json";
pub(super) const MARKDOWN: &str = "reproduction.md";

/// A metric over several trainings, or a single value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    mean: f64,
    least: f64,
    greatest: f64,
    values: usize,
}

impl Spread {
    /// `None` for no values.
    fn of(values: &[f64]) -> Option<Self> {
        let (first, rest) = values.split_first()?;
        let least = rest.iter().fold(*first, |least, &value| least.min(value));
        let greatest = rest.iter().fold(*first, |greatest, &value| greatest.max(value));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, least, greatest, values: values.len() })
    }

    /// The mean, with the range where there is one.
    fn show(&self) -> String {
        match self.values {
            1 => digits(self.mean),
            _ => format!("{} ({}-{})", digits(self.mean), digits(self.least), digits(self.greatest)),
        }
    }
}

/// What was measured of a recommender: the mean over the users by metric, for each training.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) trainings: Vec<BTreeMap<String, f64>>,
    /// What it is, e.g. its parameters.
    pub(super) remark: String,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    name: String,
    /// Measured here, or published.
    measured: bool,
    /// By column name, e.g. `ndcg@20`.
    metrics: BTreeMap<String, Spread>,
    /// Where the figures are from.
    source: String,
}

/// What it was measured on, and how.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Circumstances {
    /// SHA-256 of the dataset's manifest.
    pub(super) dataset: String,
    pub(super) users: usize,
    pub(super) items: usize,
    /// Test items to be found, and those of them outside the catalogue.
    pub(super) test_items: usize,
    pub(super) unknown_test_items: usize,
    /// Settings over the shipped ones.
    pub(super) settings: Vec<String>,
    /// What a reader should know, e.g. trainings that were cut short.
    pub(super) notes: Vec<String>,
}

/// The measured and the published rows of one set.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Reproduction {
    set: String,
    title: String,
    protocol: String,
    columns: Vec<String>,
    circumstances: Circumstances,
    rows: Vec<Row>,
    /// Sources of the published rows by the key in the table.
    sources: BTreeMap<String, String>,
}

impl Reproduction {
    /// Puts both kinds of rows in one table: the measured ones first.
    pub(super) fn new(catalogue: &Catalogue, set: &Set, measured: Vec<Measured>, circumstances: Circumstances) -> Self {
        let mut rows = Vec::new();
        for Measured { name, trainings, remark } in measured {
            let spread = |metric: &String| {
                let values: Vec<f64> = trainings.iter().filter_map(|training| training.get(metric).copied()).collect();
                Some((metric.clone(), Spread::of(&values)?))
            };
            let metrics = set.metrics.iter().filter_map(spread).collect();
            rows.push(Row { name, measured: true, metrics, source: remark });
        }
        let mut sources = BTreeMap::new();
        for row in set.rows() {
            let metric = |(metric, value): &(String, f64)| Some((metric.clone(), Spread::of(&[*value])?));
            rows.push(Row {
                name: row.name(),
                measured: false,
                metrics: row.values.iter().filter_map(metric).collect(),
                source: row.source.to_owned(),
            });
            sources.insert(row.source.to_owned(), catalogue.source(row.source));
        }
        Self {
            set: set.name.clone(),
            title: set.title.clone(),
            protocol: set.protocol.clone(),
            columns: set.metrics.clone(),
            circumstances,
            rows,
            sources,
        }
    }

    fn table(&self) -> Table {
        let header = self.columns.iter().fold(Table::new().text(""), |table, metric| table.number(heading(metric)));
        let mut table = header.text("source");
        for row in &self.rows {
            let cell = |metric: &String| row.metrics.get(metric).map_or_else(String::new, Spread::show);
            let source = if row.measured { format!("measured: {}", row.source) } else { row.source.clone() };
            let cells = self.columns.iter().map(cell);
            table.push(std::iter::once(row.name.clone()).chain(cells).chain([source]));
        }
        table
    }

    /// Users, items, settings, notes and sources, a line each, every line after `mark`.
    fn facts(&self, mark: &str) -> String {
        let Circumstances { users, items, test_items, unknown_test_items, settings, notes, .. } = &self.circumstances;
        let mut lines = vec![format!(
            "{users} users, {items} items, {test_items} test items, {unknown_test_items} of them without training interactions"
        )];
        if !settings.is_empty() {
            lines.push(format!("settings: {}", settings.join(", ")));
        }
        lines.extend(notes.iter().cloned());
        lines.extend(self.sources.iter().map(|(key, source)| format!("{key}: {source}")));
        lines.into_iter().map(|line| format!("{mark}{line}\n")).collect()
    }

    /// For a terminal.
    pub(super) fn to_text(&self) -> String {
        format!("{}\n\n{}\n{}", self.title, self.table().to_text(), self.facts(""))
    }

    /// As a page of Markdown.
    pub(super) fn to_markdown(&self) -> String {
        let (table, facts) = (self.table().to_markdown(), self.facts("* "));
        format!("# {}\n\n`duet reproduce {}`. {}\n\n{table}\n{facts}", self.title, self.set, self.protocol)
    }

    /// Writes [`JSON`] and [`MARKDOWN`] into `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("{JSON}: {error}")))?;
        write_file(&dir.join(JSON), json.as_bytes())?;
        write_file(&dir.join(MARKDOWN), self.to_markdown().as_bytes())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn measured_rows_stand_beside_published_ones() {
        let catalogue = Catalogue::shipped().unwrap();
        let set = catalogue.set("gowalla").unwrap();
        let training =
            |recall: f64, ndcg: f64| BTreeMap::from([("recall@20".to_owned(), recall), ("ndcg@20".to_owned(), ndcg)]);
        let measured = vec![Measured {
            name: "two-tower".to_owned(),
            trainings: vec![training(0.16, 0.12), training(0.18, 0.14), training(0.17, 0.16)],
            remark: "3 seeds".to_owned(),
        }];
        let circumstances = Circumstances { users: 29_858, ..Circumstances::default() };
        let reproduction = Reproduction::new(&catalogue, set, measured, circumstances);
        let text = reproduction.to_text();
        for part in ["0.1700 (0.1600-0.1800)", "0.1400 (0.1200-0.1600)", "measured: 3 seeds", "0.1830", "29858 users"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(reproduction.to_markdown().contains("| LightGCN (arXiv 2002.02126) | 0.1830 | 0.1554 | ultragcn |"));
        let dir = tempfile::tempdir().unwrap();
        reproduction.write(dir.path()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join(JSON)).unwrap()).unwrap();
        assert_eq!(json["rows"].as_array().unwrap().len(), 1 + set.rows().len());
        assert_eq!(json["rows"][0]["metrics"]["ndcg@20"]["values"], 3);
        assert!(json["sources"]["ultragcn"].as_str().unwrap().contains("2110.15114"));
    }

    #[test]
    fn a_metric_that_is_lacking_leaves_its_cell_empty() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.5]).unwrap().show(), "0.5000");
    }
}
