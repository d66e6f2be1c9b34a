//! What was measured on: dataset, model, baselines, protocol.

use std::path::PathBuf;

use duet_core::config::Config;
use duet_data::{
    dataset::{Counts, Dataset, DatasetKind, SONGS_DIR, SplitInfo},
    prepare::QUALITY_FILE,
    quality,
};
use duet_retrieval::{Panel, segments::FoldLimits};
use serde::Serialize;

use super::{
    super::{EvaluateOptions, parameters::Parameters, table::Table, tuning::Tuned},
    Report,
};
use crate::run::WeightsInfo;

/// The dataset in the report.
#[derive(Debug, Clone, Serialize)]
pub struct DatasetFacts {
    /// Where it lies.
    pub dir: PathBuf,
    /// SHA-256 of its manifest.
    pub fingerprint: String,
    /// What the data is like.
    pub kind: DatasetKind,
    /// What an item is called.
    pub item_kind: String,
    /// How many of what.
    pub counts: Counts,
    /// How the held-out part was chosen.
    pub split: SplitInfo,
    /// Days that the dataset's quality report has nearly no events of, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_days: Vec<String>,
}

impl DatasetFacts {
    /// The facts of an opened dataset.
    pub fn new(dataset: &Dataset) -> Self {
        let info = &dataset.info;
        Self {
            dir: dataset.dir.clone(),
            fingerprint: dataset.fingerprint.clone(),
            kind: info.kind,
            item_kind: info.item_kind.clone(),
            counts: info.counts,
            split: info.split.clone(),
            missing_days: missing_days(dataset),
        }
    }
}

/// Imported datasets have no quality report, and that of a dataset of songs is that of the dataset around it. One that can't be read is told
/// and costs no evaluation.
fn missing_days(dataset: &Dataset) -> Vec<String> {
    let around = dataset.dir.parent().filter(|_| dataset.dir.ends_with(SONGS_DIR));
    // Its own first: any dataset may lie in a directory of that name.
    let mut paths = [Some(dataset.dir.as_path()), around].into_iter().flatten().map(|dir| dir.join(QUALITY_FILE));
    let Some(path) = paths.find(|path| path.exists()) else { return Vec::new() };
    match quality::Report::read_json(&path) {
        Ok(report) => quality::missing_days(&report),
        Err(error) => {
            tracing::warn!(%error, "no missing days are reported");
            Vec::new()
        }
    }
}

/// The model in the report.
#[derive(Debug, Clone, Serialize)]
pub struct ModelFacts {
    /// The run.
    pub run: PathBuf,
    /// Its resolved configuration.
    pub config: Config,
    /// What is known of its parameters.
    pub weights: WeightsInfo,
}

/// A baseline in the report.
#[derive(Debug, Clone, Serialize)]
pub struct BaselineFacts {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it was fitted with.
    pub parameters: Parameters,
    /// How they were found, if they were searched for.
    pub tuned: Option<Tuned>,
    /// Wall-clock seconds of the fit, the search left out.
    pub fit_seconds: f64,
}

/// The protocol all recommenders were measured under.
#[derive(Debug, Clone, Serialize)]
pub struct Protocol {
    /// Cut-offs.
    pub ks: Vec<usize>,
    /// Whether items of the training part were ranked and counted as truth.
    pub keep_seen: bool,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Users measured.
    pub users: usize,
    /// Those without training events.
    pub cold_users: usize,
    /// Items ranked for each.
    pub catalogue: usize,
    /// Held-out items that were to be found.
    pub truth: usize,
    /// Those of them that are in no catalogue and can't be found.
    pub unknown_truth: usize,
    /// Fewest users of a segment; smaller ones are put together.
    pub min_segment_users: usize,
    /// Most segments of a division; of more, the largest stay.
    pub max_segments: usize,
    /// What the diversity of a list is measured with; `None`: it is not.
    pub diversity_by: Option<&'static str>,
}

impl Protocol {
    /// The protocol of a panel. `diversity_by`: what vectors the panel's diversity is measured with.
    pub fn new(options: &EvaluateOptions, panel: &Panel, catalogue: usize, diversity_by: Option<&'static str>) -> Self {
        let cases = panel.cases();
        let unknown_truth: usize = cases.iter().map(|case| case.unknown_truth).sum();
        let FoldLimits { min_users, max_groups } = options.limits;
        Self {
            ks: options.options.ks.clone(),
            keep_seen: options.keep_seen,
            resamples: options.options.resamples,
            seed: options.options.seed,
            users: cases.len(),
            cold_users: cases.iter().filter(|case| case.cold).count(),
            catalogue,
            truth: unknown_truth + cases.iter().map(|case| case.truth.len()).sum::<usize>(),
            unknown_truth,
            min_segment_users: min_users,
            max_segments: max_groups,
            diversity_by,
        }
    }

    /// The metrics that are compared: NDCG and Recall at the first cut-off; the first decides.
    pub fn metrics_of_interest(&self) -> [String; 2] {
        let first = self.cut_offs().0;
        [format!("ndcg@{first}"), format!("recall@{first}")]
    }

    /// The first and the last cut-off.
    pub fn cut_offs(&self) -> (usize, usize) {
        (self.ks.first().copied().unwrap_or(10), self.ks.last().copied().unwrap_or(10))
    }
}

impl Report {
    /// Data and model in one table.
    pub fn facts(&self) -> Table {
        let DatasetFacts { dir, fingerprint, kind, item_kind, counts, split, missing_days } = &self.dataset;
        let ModelFacts { run, config, weights } = &self.model;
        let Config { model, loss, train, data, .. } = config;
        let mut table = Table::new().text("fact").text("value");
        let mut fact = |name: &str, value: String| table.push([name.to_owned(), value]);
        fact("dataset", format!("{} ({})", dir.display(), debug_name(kind)));
        fact("fingerprint", fingerprint.clone());
        fact(
            "training part",
            format!("{} events of {} users over {} {item_kind}s", counts.events, counts.users, counts.items),
        );
        fact("held-out part", format!("{} events of {} users", counts.test_events, counts.test_users));
        fact("split", format!("{} ({})", split.kind, split.parameters));
        fact("split hash", split.hash.clone());
        if !missing_days.is_empty() {
            fact("missing days", missing_days.join("; "));
        }
        fact("run", run.display().to_string());
        fact(
            "towers",
            format!(
                "{} encoder, {} dimensions, {} hidden units, window {}, user features {}, item features {}",
                debug_name(model.encoder),
                model.dim,
                model.hidden,
                data.window,
                on(model.user_features),
                on(model.item_features)
            ),
        );
        fact(
            "training",
            format!(
                "{} objective, {} candidates, seed {}, {} epochs{}{}",
                debug_name(data.objective),
                debug_name(loss.candidates),
                train.seed,
                weights.epoch,
                weights.validation_ndcg.map_or_else(String::new, |ndcg| format!(", validation NDCG@10 {ndcg:.4}")),
                if weights.refitted { ", then refitted on the validation part too" } else { "" }
            ),
        );
        table
    }
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// The name a setting has in TOML and JSON.
fn debug_name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}
