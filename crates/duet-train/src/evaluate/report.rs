//! Everything an evaluation measured, and its files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists},
    config::Config,
};
use duet_data::dataset::{Counts, Dataset, DatasetKind, SplitInfo};
use duet_retrieval::{
    Evaluation, EvaluationCase,
    bootstrap::{self, Interval, PairedDifference},
    evaluation::{Segment, write_per_user_parquet},
};
use serde::Serialize;

use super::{EvaluateOptions, html, parameters::Parameters, table::Table, tuning::Tuned};
use crate::{run::WeightsInfo, served::TWO_TOWER};

/// Magic of the manifest.
pub const MAGIC: &str = "duet-evaluation";
/// Format version.
pub const VERSION: u32 = 1;
/// What [`Report::write`] writes.
pub const REPORT_FILES: [&str; 4] = ["evaluation.json", "evaluation.parquet", "report.html", "report.md"];

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
}

impl Protocol {
    /// The protocol of a set of cases.
    pub fn new(options: &EvaluateOptions, cases: &[EvaluationCase], catalogue: usize) -> Self {
        let unknown_truth: usize = cases.iter().map(|case| case.unknown_truth).sum();
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
        }
    }
}

/// Whom a difference is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// Everybody measured.
    All,
    /// Users with training events.
    Warm,
    /// Users without.
    Cold,
}

impl SegmentKind {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// The two-tower minus another recommender, over the same users.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The other.
    pub against: String,
    /// Whom it is over.
    pub segment: SegmentKind,
    /// E.g. `recall@10`.
    pub metric: String,
    /// The difference with its interval.
    #[serde(flatten)]
    pub paired: PairedDifference,
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
    ) -> Result<Self> {
        let mut differences = Vec::new();
        // Where everybody is warm (or cold), that segment is all of them: nothing to say twice.
        let is_mixed = (1..protocol.users).contains(&protocol.cold_users);
        let segments = [SegmentKind::All, SegmentKind::Warm, SegmentKind::Cold];
        let segments = if is_mixed { &segments[..] } else { &segments[..1] };
        if let Some((first, others)) = evaluations.split_first() {
            for other in others {
                for &segment in segments {
                    for metric in metrics_of_interest(&protocol) {
                        if let Some(paired) = difference(first, other, segment, &metric)? {
                            differences.push(Difference {
                                against: other.recommender.clone(),
                                segment,
                                metric,
                                paired,
                            });
                        }
                    }
                }
            }
        }
        Ok(Self { dataset, model, protocol, baselines, evaluations, differences })
    }

    /// The evaluation of a recommender by its name.
    pub fn evaluation(&self, recommender: &str) -> Option<&Evaluation> {
        self.evaluations.iter().find(|evaluation| evaluation.recommender == recommender)
    }

    /// One row a recommender.
    pub fn table(&self) -> Table {
        let (first, last) = self.cut_offs();
        let (ndcg, recall, deep_recall) =
            (format!("ndcg@{first}"), format!("recall@{first}"), format!("recall@{last}"));
        let reciprocal = format!("mrr@{first}");
        let mut table = Table::new()
            .text("recommender")
            .number(format!("NDCG@{first} [95 %]"))
            .number(format!("Recall@{first} [95 %]"))
            .number(format!("Recall@{last}"))
            .number(format!("MRR@{first}"))
            .number(format!("coverage@{first}"))
            .number(format!("popularity@{first}"))
            .number("NDCG warm")
            .number("NDCG cold")
            .number("seconds");
        for evaluation in &self.evaluations {
            let mean = |segment: &Segment, metric: &str| {
                segment.metric(metric).map_or_else(|| "-".to_owned(), |interval| format!("{:.4}", interval.mean))
            };
            let with_interval = |metric: &str| evaluation.all.metric(metric).map_or_else(|| "-".to_owned(), show);
            let reach = evaluation.reach.iter().find(|reach| reach.k == first);
            table.push([
                display_name(&evaluation.recommender),
                with_interval(&ndcg),
                with_interval(&recall),
                mean(&evaluation.all, &deep_recall),
                mean(&evaluation.all, &reciprocal),
                reach.map_or_else(String::new, |reach| format!("{:.3}", reach.coverage)),
                reach.map_or_else(String::new, |reach| format!("{:.0}", reach.popularity)),
                mean(&evaluation.warm, &ndcg),
                mean(&evaluation.cold, &ndcg),
                format!("{:.2}", evaluation.seconds),
            ]);
        }
        table
    }

    /// One row for every recommender and segment the two-tower is compared with.
    pub fn difference_table(&self) -> Table {
        let mut table = Table::new().text(format!("{} minus", display_name(TWO_TOWER))).text("users");
        let metrics = metrics_of_interest(&self.protocol);
        for metric in &metrics {
            table = table.number(format!("{} [95 %]", display_metric(metric)));
        }
        let mut rows: Vec<(&str, SegmentKind)> =
            self.differences.iter().map(|difference| (difference.against.as_str(), difference.segment)).collect();
        rows.dedup();
        let mut last = "";
        for (against, segment) in rows {
            let of = |metric: &String| {
                self.differences.iter().find(|difference| {
                    difference.against == against && difference.segment == segment && difference.metric == *metric
                })
            };
            let users = of(&metrics[0]).map_or(0, |difference| difference.paired.users);
            let cells =
                metrics.iter().map(|metric| of(metric).map_or_else(String::new, |row| show_paired(&row.paired)));
            let name = if against == last { String::new() } else { display_name(against) };
            last = against;
            table.push([name, format!("{} ({users})", segment.as_str())].into_iter().chain(cells));
        }
        table
    }

    /// One row a baseline: what it was fitted with.
    pub fn baseline_table(&self) -> Table {
        let is_tuned = self.baselines.iter().any(|facts| facts.tuned.is_some());
        let mut table = Table::new().text("baseline").text("parameters").number("fit, s");
        if is_tuned {
            table = table.number("tried").number("validation NDCG@10").number("of the defaults");
        }
        for BaselineFacts { name, parameters, tuned, fit_seconds } in &self.baselines {
            let found = tuned.iter().flat_map(|tuned| {
                [tuned.tried.to_string(), format!("{:.4}", tuned.ndcg), format!("{:.4}", tuned.default_ndcg)]
            });
            let row = [(*name).to_owned(), parameters.to_string(), format!("{fit_seconds:.2}")];
            table.push(row.into_iter().chain(found));
        }
        table
    }

    /// What was measured on whom, in a sentence or two.
    pub fn headline(&self) -> String {
        let Protocol { users, cold_users, catalogue, resamples, keep_seen, truth, unknown_truth, .. } = &self.protocol;
        let item = &self.dataset.item_kind;
        let mut text = format!(
            "{users} users ({cold_users} of them without training events), each ranked over {catalogue} {item}s; {} \
             Intervals: 95 %, {resamples} bootstrap resamples of users.",
            match keep_seen {
                true => "what they had in training may be recommended again.",
                false => "what they had in training is neither recommended nor counted.",
            }
        );
        if *unknown_truth > 0 {
            text +=
                &format!(" {unknown_truth} of the {truth} held-out {item}s are in no catalogue and can't be found.");
        }
        let (first, _) = self.cut_offs();
        let mean = |name: &str| Some(self.evaluation(name)?.all.metric(&format!("ndcg@{first}"))?.mean);
        if let (Some(own), Some(oracle)) = (mean(TWO_TOWER), mean("oracle"))
            && oracle > 0.0
        {
            let share = 100.0 * own / oracle;
            text += &format!(" The two-tower reaches {share:.0} % of the oracle's NDCG@{first}.");
        }
        text
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n{}", self.headline(), self.table().to_text());
        if !self.differences.is_empty() {
            text += &format!("\n{}", self.difference_table().to_text());
        }
        if !self.baselines.is_empty() {
            text += &format!("\n{}", self.baseline_table().to_text());
        }
        text
    }

    /// For a repository or a pull request.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# Evaluation\n\n{}\n\n{}", self.headline(), self.table().to_markdown());
        if !self.differences.is_empty() {
            text += &format!(
                "\nPaired differences over the same users; \\* where the interval leaves zero out.\n\n{}",
                self.difference_table().to_markdown()
            );
        }
        if !self.baselines.is_empty() {
            text += &format!("\n{}", self.baseline_table().to_markdown());
        }
        text + "\n" + &self.facts().to_markdown()
    }

    /// Data and model in one table.
    pub fn facts(&self) -> Table {
        let DatasetFacts { dir, fingerprint, kind, item_kind, counts, split } = &self.dataset;
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

    /// The lines of a per-metric chart: recommender with its interval, best first.
    pub(super) fn chart(&self, metric: &str, segment: SegmentKind) -> Vec<(String, Interval)> {
        let mut rows: Vec<(String, Interval)> = self
            .evaluations
            .iter()
            .filter_map(|evaluation| {
                let segment = match segment {
                    SegmentKind::All => &evaluation.all,
                    SegmentKind::Warm => &evaluation.warm,
                    SegmentKind::Cold => &evaluation.cold,
                };
                Some((display_name(&evaluation.recommender), segment.metric(metric)?))
            })
            .collect();
        rows.sort_by(|left, right| right.1.mean.total_cmp(&left.1.mean));
        rows
    }

    /// The first and the last cut-off.
    pub(super) fn cut_offs(&self) -> (usize, usize) {
        let ks = &self.protocol.ks;
        (ks.first().copied().unwrap_or(10), ks.last().copied().unwrap_or(10))
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
            [("evaluation.json", json), ("report.html", html::page(self)), ("report.md", self.to_markdown())]
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

fn metrics_of_interest(protocol: &Protocol) -> [String; 2] {
    let first = protocol.ks.first().copied().unwrap_or(10);
    [format!("ndcg@{first}"), format!("recall@{first}")]
}

/// `None` where the segment has no users.
fn difference(
    first: &Evaluation,
    other: &Evaluation,
    segment: SegmentKind,
    metric: &str,
) -> Result<Option<PairedDifference>> {
    if first.per_user.user_ids != other.per_user.user_ids {
        return Err(Error::Internal(format!("{} was measured on other users", other.recommender)));
    }
    let column = |evaluation: &Evaluation| -> Option<Vec<f64>> {
        let rows = &evaluation.per_user;
        let at = rows.columns.iter().position(|column| column == metric)?;
        let wanted = |cold: bool| match segment {
            SegmentKind::All => true,
            SegmentKind::Warm => !cold,
            SegmentKind::Cold => cold,
        };
        Some(
            rows.values[at]
                .iter()
                .zip(&rows.cold)
                .filter(|(_, cold)| wanted(**cold))
                .map(|(value, _)| *value)
                .collect(),
        )
    };
    match (column(first), column(other)) {
        (Some(a), Some(b)) if !a.is_empty() => bootstrap::paired(&a, &b, first.resamples, first.seed).map(Some),
        _ => Ok(None),
    }
}

/// `two_tower` as it is read.
pub(super) fn display_name(recommender: &str) -> String {
    recommender.replace('_', "-")
}

/// `ndcg@10` as it is read.
pub(super) fn display_metric(metric: &str) -> String {
    match metric.split_once('@') {
        Some(("ndcg", k)) => format!("NDCG@{k}"),
        Some(("mrr", k)) => format!("MRR@{k}"),
        Some(("map", k)) => format!("MAP@{k}"),
        Some(("recall", k)) => format!("Recall@{k}"),
        _ => metric.to_owned(),
    }
}

fn show(interval: Interval) -> String {
    format!("{:.4} [{:.4}, {:.4}]", interval.mean, interval.low, interval.high)
}

fn show_paired(paired: &PairedDifference) -> String {
    let Interval { mean, low, high } = paired.difference;
    format!("{mean:+.4} [{low:+.4}, {high:+.4}]{}", if paired.is_significant() { " *" } else { "  " })
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, UserIdx, artifact::Manifest};
    use duet_retrieval::{
        baselines::{Popularity, Random},
        evaluation::{CatalogueInfo, EvaluationOptions, evaluate},
    };

    use super::*;
    use crate::evaluate::Baseline;

    fn report() -> Report {
        let counts: Vec<u32> = (1..=50).rev().collect();
        let cases: Vec<EvaluationCase> = (0..40)
            .map(|user| EvaluationCase {
                user_id: format!("u{user}"),
                user: Some(UserIdx(user)),
                history: Vec::new(),
                exclude: Vec::new(),
                truth: vec![ItemIdx(user % 12)],
                unknown_truth: usize::from(user == 3),
                cold: user % 4 == 0,
            })
            .collect();
        let options = EvaluateOptions::new("run");
        let catalogue = CatalogueInfo { n_items: 50, popularity: &counts };
        let measure = |recommender: &dyn duet_retrieval::Recommender| {
            evaluate(recommender, &cases, catalogue, &EvaluationOptions::default()).unwrap()
        };
        let evaluations = vec![measure(&Popularity::from_counts(&counts)), measure(&Random::new(50, 1))];
        let dataset = DatasetFacts {
            dir: "data/<set>".into(),
            fingerprint: "f".repeat(64),
            kind: DatasetKind::Sequences,
            item_kind: "film".into(),
            counts: Counts { users: 40, items: 50, events: 500, test_events: 41, test_users: 40 },
            split: SplitInfo {
                kind: "leave-last-out".into(),
                parameters: "last 1 of each user".into(),
                cutoff_ms: None,
                hash: "ab".into(),
            },
        };
        let config = Config::resolve(&[], &[]).unwrap();
        let weights = WeightsInfo { epoch: 3, validation_ndcg: Some(0.1), refitted: false };
        let model = ModelFacts { run: "runs/one".into(), config, weights };
        let facts = |baseline: Baseline| BaselineFacts {
            name: baseline.as_str(),
            parameters: Parameters::of(baseline, 28.0, 1),
            tuned: None,
            fit_seconds: 0.0,
        };
        let baselines = vec![facts(Baseline::Popularity), facts(Baseline::Random)];
        Report::new(dataset, model, Protocol::new(&options, &cases, 50), baselines, evaluations).unwrap()
    }

    #[test]
    fn differences_are_over_the_segment_and_agree_with_the_means() {
        let report = report();
        assert_eq!(report.differences.len(), 6);
        for difference in &report.differences {
            let mean = |at: usize| {
                let evaluation = &report.evaluations[at];
                let segment = match difference.segment {
                    SegmentKind::All => &evaluation.all,
                    SegmentKind::Warm => &evaluation.warm,
                    SegmentKind::Cold => &evaluation.cold,
                };
                assert_eq!(segment.users, difference.paired.users);
                segment.metric(&difference.metric).unwrap().mean
            };
            assert!((mean(0) - mean(1) - difference.paired.difference.mean).abs() < 1e-12);
        }
        let all = &report.differences[1];
        assert!(all.metric == "recall@10" && all.paired.is_significant(), "{all:?}");
    }

    #[test]
    fn every_form_holds_the_table_and_the_directory_is_an_artifact() {
        let report = report();
        for text in [report.to_text(), report.to_markdown(), html::page(&report)] {
            assert!(text.contains("Recall@100") && text.contains("popularity") && text.contains("random"), "{text}");
            assert!(text.contains("1 of the 41 held-out films"), "{text}");
        }
        assert!(!html::page(&report).contains("<set>"), "text must be escaped");
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let path = report.write(&dir.path().join("evaluation")).unwrap();
            let manifest = Manifest::<serde_json::Value>::open(&path, MAGIC, VERSION).unwrap();
            assert_eq!(manifest.files.keys().collect::<Vec<_>>(), REPORT_FILES);
        }
        let json = fs::read_to_string(dir.path().join("evaluation/evaluation.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["evaluations"][0]["all"]["metrics"][0]["metric"], "recall@10");
        assert_eq!(value["differences"][0]["against"], "random");
    }
}
