//! Full-catalogue evaluation of any [`Recommender`], with user-level bootstrap intervals.
//!
//! Users are ranked in tiles: beyond one tile of lists, memory is one row of metrics a user (four bytes each) and a counter an item
//! and cut-off. A user without test items is left out, as the field does. Warm users have training history, cold users have none;
//! both are reported apart, because a mean over the two says little about either.
//!
//! * [`Panel`]: the users; [`CatalogueInfo`]: the items.
//! * [`Evaluation`]: what was measured of a recommender; [`PerUser`] keeps every user's figures for paired comparisons.
//! * [`Reach`]: coverage, concentration, novelty, diversity, popularity.

mod beyond;
mod panel;
mod per_user;

use std::time::Instant;

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::beyond::{ListFigures, Rules, Tally};
pub use self::{
    beyond::{Reach, gini},
    panel::{CatalogueInfo, EvaluationCase, Panel},
    per_user::{PerUser, write_per_user_parquet},
};
use crate::{
    bootstrap::{Bootstrap, Interval, PairedDifference},
    metrics::{self, user_metrics},
    recommender::{Query, Recommender},
    segments::ItemDivision,
};

/// How to evaluate.
#[derive(Debug, Clone)]
pub struct EvaluationOptions {
    /// Cut-offs.
    pub ks: Vec<usize>,
    /// Bootstrap resamples; at least [`MIN_RESAMPLES`](crate::bootstrap::MIN_RESAMPLES).
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
    /// Coverage, concentration, popularity, novelty and diversity.
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
    /// How many lists hold each item within the first cut-off; kept out of the JSON.
    #[serde(skip)]
    pub exposure: Vec<u32>,
    /// Per-user rows; kept out of the JSON.
    #[serde(skip)]
    pub per_user: PerUser,
}

/// Ranks the catalogue for every user of the panel and measures the lists.
///
/// # Errors
/// [`Error::Input`] for impossible options, or a catalogue whose parts are of different items; [`Error::Internal`] if the
/// recommender returns fewer or more lists than asked; its own errors otherwise.
pub fn evaluate(
    recommender: &dyn Recommender,
    panel: &Panel,
    catalogue: CatalogueInfo<'_>,
    options: &EvaluationOptions,
) -> Result<Evaluation> {
    let deepest = options.ks.iter().copied().max().unwrap_or(0);
    if options.ks.contains(&0) || deepest == 0 || options.tile == 0 {
        return Err(Error::input(
            "evaluation needs at least one cut-off, cut-offs of at least 1, and a tile of at least 1",
        ));
    }
    catalogue.check()?;
    let n_items = catalogue.n_items();
    let columns = metrics::columns(&options.ks);
    let mut per_user = PerUser {
        panel: panel.clone(),
        values: vec![Vec::with_capacity(panel.len()); columns.len()],
        columns,
        part_recall: catalogue.divisions.iter().map(|division| vec![Vec::new(); division.labels.len()]).collect(),
    };
    let rules = Rules::new(&options.ks, catalogue);
    let mut tally = Tally::new(&options.ks, n_items);
    let mut seconds = 0.0;
    for tile in panel.cases().chunks(options.tile) {
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
        let lists: Vec<Vec<ItemIdx>> = lists.iter().map(|list| list.iter().map(|entry| entry.item).collect()).collect();
        if let Some(item) = lists.iter().flatten().find(|item| item.index() >= n_items) {
            return Err(Error::Internal(format!("{} recommended unknown item {}", recommender.name(), item.0)));
        }
        let measured: Vec<(Vec<f64>, ListFigures)> = tile
            .par_iter()
            .zip(&lists)
            .map_init(
                || rules.scratch(),
                |scratch, (case, items)| {
                    let values = user_metrics(items, &case.truth, case.unknown_truth, &options.ks);
                    (values, rules.measure(case, items, scratch))
                },
            )
            .collect();
        for ((case, items), (values, figures)) in tile.iter().zip(&lists).zip(measured) {
            tally.add(items, &figures);
            for (column, value) in per_user.values.iter_mut().zip(values) {
                column.push(value as f32);
            }
            let first = &items[..options.ks[0].min(items.len())];
            for (division, parts) in catalogue.divisions.iter().zip(&mut per_user.part_recall) {
                add_part_recall(division, case, first, parts);
            }
        }
    }
    let listeners: f64 = catalogue.popularity.iter().map(|&count| f64::from(count)).sum();
    Ok(Evaluation {
        recommender: recommender.name().to_owned(),
        exact: recommender.is_exact(),
        all: segment(&per_user, options, |_| true)?,
        warm: segment(&per_user, options, |cold| !cold)?,
        cold: segment(&per_user, options, |cold| cold)?,
        reach: tally.reach(),
        catalogue_popularity: listeners / n_items.max(1) as f64,
        excluded_in_lists: tally.excluded_in_lists,
        seconds,
        resamples: options.resamples,
        seed: options.seed,
        exposure: tally.into_exposure(),
        per_user,
    })
}

/// For every part that the user has test items in, the share of those that the list holds.
fn add_part_recall(division: &ItemDivision, case: &EvaluationCase, list: &[ItemIdx], parts: &mut [Vec<f32>]) {
    let mut wanted = vec![(0_u32, 0_u32); parts.len()];
    for item in &case.truth {
        if let Some(part) = division.parts[item.index()] {
            let (found, all) = &mut wanted[usize::from(part)];
            *all += 1;
            *found += u32::from(list.contains(item));
        }
    }
    for ((found, all), values) in wanted.into_iter().zip(parts) {
        if all > 0 {
            values.push(found as f32 / all as f32);
        }
    }
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
            if case.has_truth() {
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

fn segment(per_user: &PerUser, options: &EvaluationOptions, wanted: impl Fn(bool) -> bool) -> Result<Segment> {
    let chosen: Vec<bool> = per_user.panel.cases().iter().map(|case| wanted(case.cold)).collect();
    let users = chosen.iter().filter(|chosen| **chosen).count();
    if users == 0 {
        return Ok(Segment { users, metrics: Vec::new() });
    }
    let columns: Vec<Vec<f32>> = per_user
        .values
        .iter()
        .map(|column| column.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(value, _)| *value).collect())
        .collect();
    let slices: Vec<&[f32]> = columns.iter().map(Vec::as_slice).collect();
    let resampled = Bootstrap::new(&slices, options.resamples, options.seed)?;
    let row = |(at, metric): (usize, &String)| MetricRow { metric: metric.clone(), interval: resampled.interval(at) };
    Ok(Segment { users, metrics: per_user.columns.iter().enumerate().map(row).collect() })
}

/// The paired difference `a - b` of a metric (e.g. `recall@10`) over the same users.
///
/// # Errors
/// [`Error::Input`] if the two were evaluated on different users, or the metric is unknown (the message lists the
/// known ones).
pub fn paired_difference(a: &Evaluation, b: &Evaluation, metric: &str) -> Result<PairedDifference> {
    if !a.per_user.panel.has_users_of(&b.per_user.panel) {
        return Err(Error::input(format!(
            "{} and {} were evaluated on different users and can't be compared in pairs",
            a.recommender, b.recommender
        )));
    }
    crate::bootstrap::paired(a.per_user.column(metric)?, b.per_user.column(metric)?, a.resamples, a.seed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::UserIdx;

    use super::*;
    use crate::{
        baselines::{Popularity, Random},
        unit_vectors::UnitVectors,
    };

    /// Items 0..6 in order of popularity; every second user is cold.
    fn cases() -> Vec<EvaluationCase> {
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

    const COUNTS: [u32; 6] = [6, 5, 4, 3, 2, 1];

    fn popular(panel: &Panel, catalogue: CatalogueInfo<'_>) -> Evaluation {
        evaluate(&Popularity::from_counts(&COUNTS), panel, catalogue, &options()).unwrap()
    }

    #[test]
    fn hand_computed() {
        let panel = Panel::new(cases()).unwrap();
        let evaluation = popular(&panel, CatalogueInfo::new(&COUNTS, 7));
        // u0: list 2 3, one hit of 2. u1: list 0 1, one hit of 2. u2 has no test items. u3 can't be served.
        assert_eq!((evaluation.all.users, evaluation.warm.users, evaluation.cold.users), (3, 1, 2));
        let mean = |segment: &Segment, metric| segment.metric(metric).unwrap().mean;
        assert!((mean(&evaluation.all, "recall@1") - 0.5 / 3.0).abs() < 1e-7);
        assert!((mean(&evaluation.all, "recall@2") - 1.0 / 3.0).abs() < 1e-7);
        assert_eq!(mean(&evaluation.warm, "ndcg@1"), 1.0);
        let alone = mean_ndcg(&Popularity::from_counts(&COUNTS), &cases(), 2).unwrap();
        assert!((alone - mean(&evaluation.all, "ndcg@2")).abs() < 1e-7);
        assert_eq!(mean(&evaluation.cold, "mrr@2"), 0.25);
        assert_eq!(evaluation.excluded_in_lists, 0);
        let ids: Vec<&str> = evaluation.per_user.panel.cases().iter().map(|case| case.user_id.as_str()).collect();
        assert_eq!(ids, ["u0", "u1", "u3"]);
        let json = serde_json::to_string(&evaluation).unwrap();
        let back: Evaluation = serde_json::from_str(&json).unwrap();
        // serde_json may read a float one bit off: compare names and values, not bits.
        assert_eq!(back.warm.metrics.len(), 10);
        for (back, row) in back.all.metrics.iter().zip(&evaluation.all.metrics) {
            assert!(back.metric == row.metric && (back.interval.high - row.interval.high).abs() < 1e-12);
        }
        assert!(back.per_user.panel.is_empty(), "per-user rows belong in the Parquet file");
    }

    #[test]
    fn beyond_accuracy_by_hand() {
        let panel = Panel::new(cases()).unwrap();
        let mut vectors = UnitVectors::new(2);
        for components in [&[(0, 1.0)][..], &[(1, 1.0)], &[(0, 1.0)], &[(0, 3.0), (1, 4.0)], &[], &[]] {
            vectors.push(components);
        }
        let catalogue = CatalogueInfo { vectors: Some(&vectors), ..CatalogueInfo::new(&COUNTS, 7) };
        let evaluation = popular(&panel, catalogue);
        // Lists at 2: 2 3, 0 1, 0 1.
        let Reach { k, coverage, gini, popularity, popularity_lift, novelty, diversity } = evaluation.reach[1];
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
        assert_eq!(k, 2);
        close(coverage, 4.0 / 6.0);
        // Exposures 0 0 1 1 2 2 of 6 items: (-1 + 1 + 2 * 3 + 2 * 5) / (6 * 6).
        close(gini, 16.0 / 36.0);
        close(popularity, (3.5 + 5.5 + 5.5) / 3.0);
        // Of those with a history, u0: 3.5 listeners in the list, 5.5 in the history.
        close(popularity_lift.unwrap(), 3.5 / 5.5 - 1.0);
        // -log2((c + 1) / 8): items 2 and 3 have 5 and 4 eighths, 0 and 1 have 7 and 6.
        let bits = |eighths: f64| -(eighths / 8.0).log2();
        close(novelty, ((bits(5.0) + bits(4.0)) / 2.0 + bits(7.0) + bits(6.0)) / 3.0);
        // Cosines .6, 0, 0.
        close(diversity.unwrap(), (0.4 + 1.0 + 1.0) / 3.0);
        assert_eq!(evaluation.reach[0].diversity, None, "a list of one has no pairs");
        assert_eq!(evaluation.exposure, [2, 0, 1, 0, 0, 0]);
        let fewer = UnitVectors::new(2);
        let bad = CatalogueInfo { vectors: Some(&fewer), ..catalogue };
        let error = evaluate(&Popularity::from_counts(&COUNTS), &panel, bad, &options()).unwrap_err();
        assert!(error.to_string().contains("catalogue of 6"), "{error}");
    }

    #[test]
    fn recall_of_parts_is_over_the_items_of_the_part() {
        let panel = Panel::new(cases()).unwrap();
        let division = ItemDivision {
            name: "halves".to_owned(),
            labels: vec!["first".to_owned(), "second".to_owned()],
            parts: vec![Some(0), Some(0), Some(0), Some(1), Some(1), Some(1)],
        };
        let groups = division.groups(&panel);
        // u0 wants 2 and 5, u1 wants 1, u3 nothing that the catalogue has.
        assert_eq!(groups.iter().map(|group| group.users.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![0]]);
        let divisions = [division];
        let evaluation = popular(&panel, CatalogueInfo { divisions: &divisions, ..CatalogueInfo::new(&COUNTS, 7) });
        // Lists at 1: item 2 for u0, item 0 for the others.
        assert_eq!(evaluation.per_user.part_recall, [vec![vec![1.0, 0.0], vec![0.0]]]);
    }

    #[test]
    fn tiles_change_nothing_and_pairs_must_match() {
        let counts = [1; 6];
        let catalogue = CatalogueInfo::new(&counts, 7);
        let panel = Panel::new(cases()).unwrap();
        let run =
            |tile| evaluate(&Random::new(6, 1), &panel, catalogue, &EvaluationOptions { tile, ..options() }).unwrap();
        let (one, many) = (run(1), run(100));
        assert_eq!((&one.per_user, &one.all, &one.reach), (&many.per_user, &many.all, &many.reach));
        let popular = popular(&panel, catalogue);
        assert_eq!(paired_difference(&popular, &one, "recall@2").unwrap().users, 3);
        assert!(paired_difference(&popular, &one, "recall@7").unwrap_err().to_string().contains("recall@2"));
        let few = Panel::new(cases()[..1].to_vec()).unwrap();
        let fewer = evaluate(&Random::new(6, 1), &few, catalogue, &options()).unwrap();
        assert!(paired_difference(&popular, &fewer, "recall@2").is_err());
        assert!(Panel::new(cases()[2..3].to_vec()).is_err(), "nothing to evaluate");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evaluation.parquet");
        write_per_user_parquet(&path, &[popular, one]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(reader.schema().field(3).name(), "recall@1");
        assert_eq!(reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 6);
    }
}
