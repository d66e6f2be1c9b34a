//! Full-catalogue evaluation of any [`Recommender`], with user-level bootstrap intervals.
//!
//! Users are ranked in tiles: beyond one tile of lists, memory is one row of metrics a user and one bit an item. A
//! user without test items is left out, as the field does. Warm users have training history, cold users have none;
//! both are reported apart, because a mean over the two says little about either.
//!
//! Beside quality: coverage@k, the share of the catalogue that anyone was recommended within rank k, and average
//! recommendation popularity (ARP@k, Yin et al. 2012): the mean over users of the mean training popularity of their
//! first k items.

use std::{path::Path, sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, StringArray},
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use duet_core::{Error, ItemIdx, Result, UserIdx, artifact::StagedFile};
use fixedbitset::FixedBitSet;
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{self, Interval, PairedDifference},
    metrics::{self, user_metrics},
    recommender::{Query, Recommender},
};

/// One test user.
#[derive(Debug, Clone)]
pub struct EvaluationCase {
    /// External id.
    pub user_id: String,
    /// Row, where the recommender may know the user by it.
    pub user: Option<UserIdx>,
    /// Training history, oldest first.
    pub history: Vec<ItemIdx>,
    /// Items that must not be recommended (usually: seen in training), sorted, without repeats.
    pub exclude: Vec<ItemIdx>,
    /// Test items of the catalogue, without repeats and without what was seen.
    pub truth: Vec<ItemIdx>,
    /// Further test items, which the catalogue does not know.
    pub unknown_truth: usize,
    /// Whether the user had no training history.
    pub cold: bool,
}

impl EvaluationCase {
    fn query(&self, k: usize) -> Query<'_> {
        Query { user: self.user, history: &self.history, k, filter: None, exclude: &self.exclude }
    }
}

/// What evaluation needs to know of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct CatalogueInfo<'a> {
    /// Number of items.
    pub n_items: usize,
    /// Training listeners of each item.
    pub popularity: &'a [u32],
}

/// How to evaluate.
#[derive(Debug, Clone)]
pub struct EvaluationOptions {
    /// Cut-offs.
    pub ks: Vec<usize>,
    /// Bootstrap resamples; at least [`bootstrap::MIN_RESAMPLES`].
    pub resamples: usize,
    /// Seed of the bootstrap. Evaluations to be compared must share it.
    pub seed: u64,
    /// Users ranked at a time.
    pub tile: usize,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { ks: vec![10, 20, 100], resamples: 1000, seed: 1, tile: 1024 }
    }
}

/// A metric of a segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// E.g. `ndcg@10`.
    pub metric: String,
    /// Mean over the segment's users, with its 95 % interval.
    #[serde(flatten)]
    pub interval: Interval,
}

/// The metrics of some users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// How many.
    pub users: usize,
    /// One row per metric and cut-off; empty if there are no users.
    pub metrics: Vec<MetricRow>,
}

impl Segment {
    /// The interval of a metric by its name, e.g. `ndcg@10`.
    pub fn metric(&self, name: &str) -> Option<Interval> {
        self.metrics.iter().find(|row| row.metric == name).map(|row| row.interval)
    }
}

/// Coverage and popularity bias at a cut-off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// The cut-off.
    pub k: usize,
    /// Distinct items recommended within k, divided by the catalogue.
    pub coverage: f64,
    /// Average recommendation popularity: listeners per recommended item.
    pub popularity: f64,
}

/// One recommender, evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Its name.
    pub recommender: String,
    /// Whether its lists are exact by its own score.
    pub exact: bool,
    /// All users with test items.
    pub all: Segment,
    /// Those with training history.
    pub warm: Segment,
    /// Those without.
    pub cold: Segment,
    /// Coverage and popularity bias.
    pub reach: Vec<Reach>,
    /// Mean listeners of a catalogue item: what popularity bias is read against.
    pub catalogue_popularity: f64,
    /// Items of lists that should have been excluded; not 0 only for a recommender that breaks its contract.
    pub excluded_in_lists: usize,
    /// Wall-clock seconds spent in the recommender.
    pub seconds: f64,
    /// Resamples behind the intervals.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Per-user rows; kept out of the JSON.
    #[serde(skip)]
    pub per_user: PerUser,
}

/// One row per evaluated user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerUser {
    /// External ids.
    pub user_ids: Vec<String>,
    /// Whether the user had no training history.
    pub cold: Vec<bool>,
    /// Column names, e.g. `ndcg@10`.
    pub columns: Vec<String>,
    /// One column per name, one value per user.
    pub values: Vec<Vec<f64>>,
}

impl PerUser {
    fn column(&self, name: &str) -> Result<&[f64]> {
        match self.columns.iter().position(|column| column == name) {
            Some(at) => Ok(&self.values[at]),
            None => Err(Error::unknown("metric", name, self.columns.iter().map(String::as_str))),
        }
    }
}

/// Ranks the catalogue for every case and measures the lists.
///
/// # Errors
/// [`Error::Input`] for impossible options, a popularity of another length than the catalogue, or no case with test
/// items; [`Error::Internal`] if the recommender returns fewer or more lists than asked; its own errors otherwise.
pub fn evaluate(
    recommender: &dyn Recommender,
    cases: &[EvaluationCase],
    catalogue: CatalogueInfo<'_>,
    options: &EvaluationOptions,
) -> Result<Evaluation> {
    let deepest = options.ks.iter().copied().max().unwrap_or(0);
    if options.ks.contains(&0) || deepest == 0 || options.tile == 0 {
        return Err(Error::input(
            "evaluation needs at least one cut-off, cut-offs of at least 1, and a tile of at least 1",
        ));
    }
    if catalogue.popularity.len() != catalogue.n_items {
        return Err(Error::input(format!(
            "popularity of {} items for a catalogue of {}",
            catalogue.popularity.len(),
            catalogue.n_items
        )));
    }
    let cases: Vec<&EvaluationCase> = cases.iter().filter(|case| case.truth.len() + case.unknown_truth > 0).collect();
    if cases.is_empty() {
        return Err(Error::input("no user has test items: there is nothing to evaluate"));
    }
    let columns = metrics::columns(&options.ks);
    let mut per_user =
        PerUser { values: vec![Vec::with_capacity(cases.len()); columns.len()], columns, ..PerUser::default() };
    let mut tally = Tally::new(&options.ks, catalogue.n_items);
    let mut seconds = 0.0;
    for tile in cases.chunks(options.tile) {
        let queries: Vec<Query<'_>> = tile.iter().map(|case| case.query(deepest)).collect();
        let started = Instant::now();
        let lists = recommender.recommend(&queries)?;
        seconds += started.elapsed().as_secs_f64();
        if lists.len() != tile.len() {
            return Err(Error::Internal(format!(
                "{} returned {} lists for {} queries",
                recommender.name(),
                lists.len(),
                tile.len()
            )));
        }
        for (case, list) in tile.iter().zip(&lists) {
            let items: Vec<ItemIdx> = list.iter().map(|entry| entry.item).collect();
            if let Some(item) = items.iter().find(|item| item.index() >= catalogue.n_items) {
                return Err(Error::Internal(format!("{} recommended unknown item {}", recommender.name(), item.0)));
            }
            tally.add(case, &items, catalogue.popularity);
            let values = user_metrics(&items, &case.truth, case.unknown_truth, &options.ks);
            for (column, value) in per_user.values.iter_mut().zip(values) {
                column.push(value);
            }
            per_user.user_ids.push(case.user_id.clone());
            per_user.cold.push(case.cold);
        }
    }
    let listeners: f64 = catalogue.popularity.iter().map(|&count| f64::from(count)).sum();
    Ok(Evaluation {
        recommender: recommender.name().to_owned(),
        exact: recommender.is_exact(),
        all: segment(&per_user, options, |_| true)?,
        warm: segment(&per_user, options, |cold| !cold)?,
        cold: segment(&per_user, options, |cold| cold)?,
        reach: tally.reach(catalogue.n_items, cases.len()),
        catalogue_popularity: listeners / catalogue.n_items.max(1) as f64,
        excluded_in_lists: tally.excluded_in_lists,
        seconds,
        resamples: options.resamples,
        seed: options.seed,
        per_user,
    })
}

/// The mean NDCG@k over the cases with test items: what a search over parameters goes by, without intervals.
///
/// # Errors
/// [`Error::Input`] for no cases or a `k` of 0; the errors of the recommender.
pub fn mean_ndcg(recommender: &dyn Recommender, cases: &[EvaluationCase], k: usize) -> Result<f64> {
    let at = metrics::Metric::Ndcg as usize;
    let (mut sum, mut users) = (0.0, 0_usize);
    for tile in cases.chunks(EvaluationOptions::default().tile) {
        let queries: Vec<Query<'_>> = tile.iter().map(|case| case.query(k)).collect();
        for (case, list) in tile.iter().zip(recommender.recommend(&queries)?) {
            if case.truth.len() + case.unknown_truth > 0 {
                let items: Vec<ItemIdx> = list.iter().map(|entry| entry.item).collect();
                sum += user_metrics(&items, &case.truth, case.unknown_truth, &[k])[at];
                users += 1;
            }
        }
    }
    match users {
        0 => Err(Error::input("no user has test items: there is nothing to evaluate")),
        _ => Ok(sum / users as f64),
    }
}

/// What is counted over all lists.
struct Tally {
    ks: Vec<usize>,
    recommended: Vec<FixedBitSet>,
    popularity: Vec<f64>,
    excluded_in_lists: usize,
}

impl Tally {
    fn new(ks: &[usize], n_items: usize) -> Self {
        Self {
            ks: ks.to_vec(),
            recommended: vec![FixedBitSet::with_capacity(n_items); ks.len()],
            popularity: vec![0.0; ks.len()],
            excluded_in_lists: 0,
        }
    }

    fn add(&mut self, case: &EvaluationCase, items: &[ItemIdx], popularity: &[u32]) {
        self.excluded_in_lists += items.iter().filter(|item| case.exclude.binary_search(item).is_ok()).count();
        for (at, &k) in self.ks.iter().enumerate() {
            let first = &items[..k.min(items.len())];
            for item in first {
                self.recommended[at].insert(item.index());
            }
            let sum: f64 = first.iter().map(|item| f64::from(popularity[item.index()])).sum();
            self.popularity[at] += sum / first.len().max(1) as f64;
        }
    }

    fn reach(&self, n_items: usize, users: usize) -> Vec<Reach> {
        self.ks
            .iter()
            .zip(self.recommended.iter().zip(&self.popularity))
            .map(|(&k, (recommended, popularity))| Reach {
                k,
                coverage: recommended.count_ones(..) as f64 / n_items.max(1) as f64,
                popularity: popularity / users as f64,
            })
            .collect()
    }
}

fn segment(per_user: &PerUser, options: &EvaluationOptions, wanted: impl Fn(bool) -> bool) -> Result<Segment> {
    let columns: Vec<Vec<f64>> = per_user
        .values
        .iter()
        .map(|column| {
            let chosen = column.iter().zip(&per_user.cold).filter(|(_, cold)| wanted(**cold));
            chosen.map(|(value, _)| *value).collect()
        })
        .collect();
    let users = columns.first().map_or(0, Vec::len);
    if users == 0 {
        return Ok(Segment { users, metrics: Vec::new() });
    }
    let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let intervals = bootstrap::intervals(&slices, options.resamples, options.seed)?;
    let metrics = per_user
        .columns
        .iter()
        .zip(intervals)
        .map(|(metric, interval)| MetricRow { metric: metric.clone(), interval })
        .collect();
    Ok(Segment { users, metrics })
}

/// The paired difference `a - b` of a metric (e.g. `recall@10`) over the same users.
///
/// # Errors
/// [`Error::Input`] if the two were evaluated on different users, or the metric is unknown (the message lists the
/// known ones).
pub fn paired_difference(a: &Evaluation, b: &Evaluation, metric: &str) -> Result<PairedDifference> {
    if a.per_user.user_ids != b.per_user.user_ids {
        return Err(Error::input(format!(
            "{} and {} were evaluated on different users and can't be compared in pairs",
            a.recommender, b.recommender
        )));
    }
    bootstrap::paired(a.per_user.column(metric)?, b.per_user.column(metric)?, a.resamples, a.seed)
}

/// Writes the per-user rows of several evaluations: `recommender`, `user_id`, `cold`, then one column per metric.
///
/// # Errors
/// [`Error::Input`] if the evaluations have different columns or there are none; [`Error::Io`] with the path.
pub fn write_per_user_parquet(path: &Path, evaluations: &[Evaluation]) -> Result<()> {
    let Some(first) = evaluations.first() else {
        return Err(Error::input("no evaluations to write"));
    };
    let names = &first.per_user.columns;
    if let Some(other) = evaluations.iter().find(|other| other.per_user.columns != *names) {
        return Err(Error::input(format!("{} and {} have different metrics", first.recommender, other.recommender)));
    }
    let mut fields = vec![
        Field::new("recommender", DataType::Utf8, false),
        Field::new("user_id", DataType::Utf8, false),
        Field::new("cold", DataType::Boolean, false),
    ];
    fields.extend(names.iter().map(|name| Field::new(name, DataType::Float64, false)));
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let failed = |error: parquet::errors::ParquetError| Error::io(path)(std::io::Error::other(error));
    let mut staged = StagedFile::create(path)?;
    let mut writer = ArrowWriter::try_new(&mut staged, schema.clone(), Some(properties)).map_err(failed)?;
    for evaluation in evaluations {
        let rows = &evaluation.per_user;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&evaluation.recommender, rows.user_ids.len()))),
            Arc::new(StringArray::from_iter_values(&rows.user_ids)),
            Arc::new(BooleanArray::from(rows.cold.clone())),
        ];
        columns.extend(rows.values.iter().map(|values| Arc::new(Float64Array::from(values.clone())) as ArrayRef));
        let batch =
            RecordBatch::try_new(schema.clone(), columns).map_err(|error| Error::Internal(error.to_string()))?;
        writer.write(&batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    staged.commit()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::baselines::{Popularity, Random};

    fn cases() -> Vec<EvaluationCase> {
        // Items 0..6 in order of popularity; every second user is cold.
        let case = |user: u32, exclude: &[u32], truth: &[u32], unknown_truth| EvaluationCase {
            user_id: format!("u{user}"),
            user: Some(UserIdx(user)),
            history: exclude.iter().copied().map(ItemIdx).collect(),
            exclude: exclude.iter().copied().map(ItemIdx).collect(),
            truth: truth.iter().copied().map(ItemIdx).collect(),
            unknown_truth,
            cold: exclude.is_empty(),
        };
        vec![case(0, &[0, 1], &[2, 5], 0), case(1, &[], &[1], 1), case(2, &[2], &[], 0), case(3, &[], &[], 2)]
    }

    fn options() -> EvaluationOptions {
        EvaluationOptions { ks: vec![1, 2], ..EvaluationOptions::default() }
    }

    #[test]
    fn hand_computed() {
        let counts = [6, 5, 4, 3, 2, 1];
        let catalogue = CatalogueInfo { n_items: 6, popularity: &counts };
        let evaluation = evaluate(&Popularity::from_counts(&counts), &cases(), catalogue, &options()).unwrap();
        // u0: list 2 3, one hit of 2. u1: list 0 1, one hit of 2. u2 has no test items. u3 can't be served.
        assert_eq!((evaluation.all.users, evaluation.warm.users, evaluation.cold.users), (3, 1, 2));
        let mean = |segment: &Segment, metric| segment.metric(metric).unwrap().mean;
        assert!((mean(&evaluation.all, "recall@1") - 0.5 / 3.0).abs() < 1e-12);
        assert!((mean(&evaluation.all, "recall@2") - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(mean(&evaluation.warm, "ndcg@1"), 1.0);
        let alone = mean_ndcg(&Popularity::from_counts(&counts), &cases(), 2).unwrap();
        assert!((alone - mean(&evaluation.all, "ndcg@2")).abs() < 1e-12);
        assert_eq!(mean(&evaluation.cold, "mrr@2"), 0.25);
        // At 2: items 2, 3, 0, 1 of 6; listeners (4 + 3) / 2, and twice (6 + 5) / 2.
        assert_eq!(evaluation.reach[1], Reach { k: 2, coverage: 4.0 / 6.0, popularity: (3.5 + 5.5 + 5.5) / 3.0 });
        assert_eq!(evaluation.excluded_in_lists, 0);
        assert_eq!(evaluation.per_user.user_ids, ["u0", "u1", "u3"]);
        let json = serde_json::to_string(&evaluation).unwrap();
        let back: Evaluation = serde_json::from_str(&json).unwrap();
        // serde_json may read a float one bit off: compare names and values, not bits.
        assert_eq!(back.warm.metrics.len(), 10);
        for (back, row) in back.all.metrics.iter().zip(&evaluation.all.metrics) {
            assert!(back.metric == row.metric && (back.interval.high - row.interval.high).abs() < 1e-12);
        }
        assert!(back.per_user.user_ids.is_empty(), "per-user rows belong in the Parquet file");
    }

    #[test]
    fn tiles_change_nothing_and_pairs_must_match() {
        let counts = [1; 6];
        let catalogue = CatalogueInfo { n_items: 6, popularity: &counts };
        let run =
            |tile| evaluate(&Random::new(6, 1), &cases(), catalogue, &EvaluationOptions { tile, ..options() }).unwrap();
        let (one, many) = (run(1), run(100));
        assert_eq!((&one.per_user, &one.all, &one.reach), (&many.per_user, &many.all, &many.reach));
        let popular = evaluate(&Popularity::from_counts(&[6, 5, 4, 3, 2, 1]), &cases(), catalogue, &options()).unwrap();
        assert_eq!(paired_difference(&popular, &one, "recall@2").unwrap().users, 3);
        assert!(paired_difference(&popular, &one, "recall@7").unwrap_err().to_string().contains("recall@2"));
        let fewer = evaluate(&Random::new(6, 1), &cases()[..1], catalogue, &options()).unwrap();
        assert!(paired_difference(&popular, &fewer, "recall@2").is_err());
        assert!(evaluate(&Random::new(6, 1), &cases()[2..3], catalogue, &options()).is_err(), "nothing to evaluate");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evaluation.parquet");
        write_per_user_parquet(&path, &[popular, one]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(reader.schema().field(3).name(), "recall@1");
        assert_eq!(reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 6);
    }
}
