//! The report as a whole, and its file.

use std::{collections::BTreeMap, path::Path};

use chrono::NaiveDate;
use duet_core::{Error, Result, artifact::write_file, table::FeatureTable};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{
    books::{Books, DayBooks},
    check::Check,
    drift::{Drift, drift},
    html,
    summary::{ColumnSummary, LEAST_ROWS, summarise},
};

/// The report in a dataset.
pub const JSON_FILE: &str = "quality.json";
/// The report in a dataset, for people.
pub const HTML_FILE: &str = "quality.html";
/// Format version of [`JSON_FILE`].
pub const VERSION: u32 = 1;

/// What [`JSON_FILE`] holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The UTC days that the run was about, where the caller knows them.
    pub window: Option<Window>,
    /// What became of the lines.
    pub books: Books,
    /// The same by UTC day, ascending; lines without a readable time come last.
    pub days: Vec<DayBooks>,
    /// The columns of each table.
    pub tables: BTreeMap<String, Vec<ColumnSummary>>,
    /// The columns against those of the previous run; empty where there is none.
    pub drift: Vec<Drift>,
    /// The limits and whether they are kept, failures first.
    pub checks: Vec<Check>,
    /// Fingerprint of the dataset that `drift` compares with.
    pub previous: Option<String>,
}

/// UTC days, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first.
    pub from: NaiveDate,
    /// The last.
    pub to: NaiveDate,
}

impl Window {
    /// Every day of the window.
    pub fn days(&self) -> impl Iterator<Item = NaiveDate> + use<> {
        let to = self.to;
        self.from.iter_days().take_while(move |day| *day <= to)
    }

    /// Whether a day (`2025-03-03`) lies in it.
    pub(super) fn contains(&self, day: &str) -> bool {
        day.parse::<NaiveDate>().is_ok_and(|day| (self.from..=self.to).contains(&day))
    }
}

impl Report {
    /// A report of the books alone.
    pub fn new(books: Books, mut days: Vec<DayBooks>) -> Self {
        days.sort_by(|a, b| a.day.cmp(&b.day));
        Self {
            version: VERSION,
            window: None,
            books,
            days,
            tables: BTreeMap::new(),
            drift: Vec::new(),
            checks: Vec::new(),
            previous: None,
        }
    }

    /// Adds the summaries of tables, by name; categories of fewer than [`LEAST_ROWS`] rows are not named.
    pub fn describe(&mut self, tables: &[(&str, &FeatureTable)]) {
        for (name, table) in tables {
            self.tables.insert((*name).to_owned(), summarise(&table.columns, LEAST_ROWS));
        }
    }

    /// Measures the drift of tables, by name, against the report of the dataset with this fingerprint; a table that it does not
    /// have is left out.
    pub fn compare(&mut self, before: &Self, fingerprint: &str, tables: &[(&str, &FeatureTable)]) {
        self.previous = Some(fingerprint.to_owned());
        for (name, table) in tables {
            if let Some(columns) = before.tables.get(*name) {
                self.drift.extend(drift(name, columns, &table.columns));
            }
        }
    }

    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(Check::passed)
    }

    /// The checks that failed, in words.
    pub fn failures(&self) -> Vec<String> {
        self.checks.iter().filter(|check| !check.passed()).map(Check::to_string).collect()
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("quality report: {error}")))?;
        text.push('\n');
        write_file(path, text.as_bytes())
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::Data`] where it is no report or one of another version.
    pub fn read_json(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        let bad = |error: serde_json::Error| Error::data(path, format!("not a quality report: {error}"));
        let found = serde_json::from_str::<Versioned>(&text).map_err(bad)?.version;
        if found != VERSION {
            let message = format!("quality report of version {found}; this build reads version {VERSION}");
            return Err(Error::data(path, message));
        }
        serde_json::from_str(&text).map_err(bad)
    }

    /// Writes the report as one HTML page that needs nothing from outside.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write_html(&self, path: &Path) -> Result<()> {
        write_file(path, html::page(self).as_bytes())
    }
}
