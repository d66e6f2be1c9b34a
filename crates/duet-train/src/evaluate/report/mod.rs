//! Everything an evaluation measured, and its files.

mod difference;
mod facts;
mod tables;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
};

use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists},
};
use duet_retrieval::{Evaluation, bootstrap::Interval, calibration::Calibration, evaluation::write_per_user_parquet};
use serde::Serialize;

pub(super) use self::text::Topic;
pub use self::{
    difference::{Difference, SegmentKind},
    facts::{BaselineFacts, DatasetFacts, ModelFacts, Protocol},
};
use super::{
    cold_start::ColdStart, exposure::ExposureRow, fit_gap::FitGap, groups::MeasuredDivision, page, words::display_name,
};

/// Magic of the manifest.
pub const MAGIC: &str = "duet-evaluation";
/// Format version.
pub const VERSION: u32 = 2;
/// What [`Report::write`] writes.
pub const REPORT_FILES: [&str; 4] = ["evaluation.json", "evaluation.parquet", "report.html", "report.md"];

/// The run against the best of the baselines, segment by segment.
#[derive(Debug, Clone, Serialize)]
pub struct Segments {
    /// The recommender compared with: of the baselines, but for random and oracle, the one with the highest NDCG on these users.
    pub against: Option<String>,
    /// The segments; verdicts are corrected over all of them.
    pub divisions: Vec<MeasuredDivision>,
}

/// What was found out beside the metrics of all users.
#[derive(Debug, Clone, Serialize)]
pub struct Findings {
    /// For whom it is better or worse.
    pub segments: Segments,
    /// New users and new items.
    pub cold_start: ColdStart,
    /// Who is shown and who is listened to, by popularity.
    pub exposure: Vec<ExposureRow>,
    /// Training sample, validation, test.
    pub fit_gap: Option<FitGap>,
    /// Scores against clicks, where the dataset has impressions.
    pub calibration: Option<Calibration>,
    /// Loss and validation by epoch, as the run logged them.
    pub learning: Vec<LearningPoint>,
    /// Lists of some users, with names.
    pub examples: Vec<ExampleList>,
}

/// An epoch of the training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearningPoint {
    /// Epochs trained.
    pub epoch: usize,
    /// Mean loss of the logged steps of the epoch.
    pub loss: Option<f64>,
    /// NDCG@10 of the validation after it.
    pub validation_ndcg: Option<f64>,
    /// Whether that was the best so far.
    pub best: bool,
}

/// The list of one user.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExampleList {
    /// Who this is an example of.
    pub title: String,
    /// Training events.
    pub events: usize,
    /// Names of the last items, the newest first.
    pub lately: Vec<String>,
    /// Names of the first items of the list, and whether they were found in the test part.
    pub list: Vec<(String, bool)>,
}

/// An evaluation of several recommenders; the first is the run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The dataset.
    pub dataset: DatasetFacts,
    /// The model.
    pub model: ModelFacts,
    /// How it was measured.
    pub protocol: Protocol,
    /// The baselines, in the order of their evaluations.
    pub baselines: Vec<BaselineFacts>,
    /// One per recommender.
    pub evaluations: Vec<Evaluation>,
    /// The first against each of the others.
    pub differences: Vec<Difference>,
    /// Segments, cold start, exposure, over-fitting, calibration.
    #[serde(flatten)]
    pub findings: Findings,
}

/// What the manifest says.
#[derive(Serialize)]
struct Summary<'a> {
    run: &'a Path,
    dataset_fingerprint: &'a str,
    protocol: &'a Protocol,
    recommenders: Vec<&'a str>,
}

impl Report {
    /// Joins what was measured and takes the paired differences of NDCG and Recall at the first cut-off.
    ///
    /// # Errors
    /// [`Error::Internal`] if the evaluations are over different users.
    pub fn new(
        dataset: DatasetFacts,
        model: ModelFacts,
        protocol: Protocol,
        baselines: Vec<BaselineFacts>,
        evaluations: Vec<Evaluation>,
        findings: Findings,
    ) -> Result<Self> {
        let differences = difference::differences(&protocol, &evaluations)?;
        Ok(Self { dataset, model, protocol, baselines, evaluations, differences, findings })
    }

    /// The evaluation of a recommender by its name.
    pub fn evaluation(&self, recommender: &str) -> Option<&Evaluation> {
        self.evaluations.iter().find(|evaluation| evaluation.recommender == recommender)
    }

    /// The lines of a per-metric chart: recommender with its interval, best first.
    pub(super) fn chart(&self, metric: &str, segment: SegmentKind) -> Vec<(String, Interval)> {
        let row = |evaluation: &Evaluation| {
            Some((display_name(&evaluation.recommender), segment.of(evaluation).metric(metric)?))
        };
        let mut rows: Vec<(String, Interval)> = self.evaluations.iter().filter_map(row).collect();
        rows.sort_by(|left, right| right.1.mean.total_cmp(&left.1.mean));
        rows
    }

    /// Writes [`REPORT_FILES`] as an artifact directory, in place of an older one. Returns where it lies.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind then.
    pub fn write(&self, out: &Path) -> Result<PathBuf> {
        let writer = DirWriter::create(out, IfExists::Replace)?;
        let json =
            serde_json::to_string_pretty(self).map_err(|error| Error::Internal(format!("evaluation.json: {error}")))?;
        for (name, text) in
            [("evaluation.json", json), ("report.html", page::page(self)), ("report.md", self.to_markdown())]
        {
            let path = writer.path(name);
            fs::write(&path, text).map_err(Error::io(&path))?;
        }
        write_per_user_parquet(&writer.path("evaluation.parquet"), &self.evaluations)?;
        let summary = Summary {
            run: &self.model.run,
            dataset_fingerprint: &self.dataset.fingerprint,
            protocol: &self.protocol,
            recommenders: self.evaluations.iter().map(|evaluation| evaluation.recommender.as_str()).collect(),
        };
        writer.publish(MAGIC, VERSION, &summary)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
