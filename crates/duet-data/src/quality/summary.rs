//! What the columns of a table hold, in a form that a later run can be compared with.
//!
//! The summary keeps the *edges* of its bins, so that [`super::drift`] can count tomorrow's values in today's bins.

use std::collections::HashMap;

use duet_core::table::{Column, ColumnValues};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Categories of fewer rows are not named but counted together, unless the caller says otherwise.
pub const LEAST_ROWS: u64 = 20;
/// Categories named at most.
pub(super) const MAX_LISTED: usize = 1_000;
/// A longer value is not named: no category, but a text that is in the wrong column.
const MAX_VALUE_BYTES: usize = 200;
/// Bars of a histogram at most.
const HISTOGRAM_BINS: usize = 24;
const QUANTILES: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

/// One column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSummary {
    /// As declared in the schema.
    pub name: String,
    /// Rows of the table.
    pub rows: u64,
    /// Rows without a value.
    pub nulls: u64,
    /// What the others hold.
    pub values: Values,
}

impl ColumnSummary {
    /// Share of the rows without a value; 0 for an empty table.
    pub fn null_share(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.nulls as f64 / self.rows as f64 }
    }
}

/// The values of a column, by its kind (named as in the schema).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Values {
    /// Numbers.
    Numeric(NumberSummary),
    /// Days since 1970-01-01.
    Date(NumberSummary),
    /// One value a row.
    Categorical(CategorySummary),
    /// Several values a row.
    MultiCategorical(CategorySummary),
}

impl Values {
    /// The kind as the schema calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Numeric(_) => "numeric",
            Self::Date(_) => "date",
            Self::Categorical(_) => "categorical",
            Self::MultiCategorical(_) => "multi-categorical",
        }
    }
}

/// Numbers or days. Without a single value, all figures are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumberSummary {
    /// Different values.
    pub distinct: u64,
    /// The smallest.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The standard deviation (of the population).
    pub deviation: Option<f64>,
    /// Quantiles, ascending.
    pub quantiles: Vec<Quantile>,
    /// Bins of about a tenth of the values each: what drift is measured in.
    pub bins: QuantileBins,
    /// Bins of equal width: what people look at.
    pub histogram: Histogram,
}

/// The smallest value that at least a share `at` of the values does not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantile {
    /// In `(0, 1)`.
    pub at: f64,
    /// The value.
    pub value: f64,
}

/// Bins between deciles: below `low`, `[low, edges[0]]`, `(edges[0], edges[1]]`, ..., above the last edge.
///
/// The two at the ends are empty in the run they come from: they catch what leaves its range. Deciles that coincide make one
/// edge, so that a value held by many rows (no plays, say) has a bin of its own. Edges have at most 15 digits, which JSON keeps
/// to the bit: a value that was in a bin stays in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantileBins {
    /// The smallest value, rounded down.
    pub low: f64,
    /// Upper ends, strictly increasing, rounded up; the last is the largest value.
    pub edges: Vec<f64>,
    /// Values in each bin: two more than edges.
    pub counts: Vec<u64>,
}

impl QuantileBins {
    fn new(sorted: &[f64]) -> Self {
        let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
            return Self { low: 0.0, edges: Vec::new(), counts: vec![0; 2] };
        };
        let mut edges: Vec<f64> = (1..10).map(|tenth| round_up(quantile(sorted, f64::from(tenth) / 10.0))).collect();
        edges.push(round_up(last));
        edges.dedup();
        let mut bins = Self { low: -round_up(-first), edges, counts: Vec::new() };
        bins.counts = bins.count(sorted.iter().copied());
        bins
    }

    /// How many of the values (not NaN) lie in each bin.
    pub fn count(&self, values: impl Iterator<Item = f64>) -> Vec<u64> {
        let mut counts = vec![0; self.edges.len() + 2];
        for value in values {
            let bin = if value < self.low && !self.edges.is_empty() {
                0
            } else {
                1 + self.edges.partition_point(|edge| *edge < value)
            };
            counts[bin] += 1;
        }
        counts
    }
}

/// Bins of equal width on a scale.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// On which the bins are equally wide.
    pub scale: Scale,
    /// One more than bins, increasing.
    pub edges: Vec<f64>,
    /// Values in each bin.
    pub counts: Vec<u64>,
}

/// How values are spread on an axis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// As they are.
    #[default]
    Linear,
    /// By `ln(1 + value)`, from 0: for counts with a long tail.
    Log,
}

impl Scale {
    /// Where a value lies.
    pub fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(0.0).ln_1p(),
        }
    }

    /// The value that lies there.
    pub fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => place.exp_m1(),
        }
    }
}

impl Histogram {
    fn new(sorted: &[f64], distinct: u64) -> Self {
        let (Some(&low), Some(&high)) = (sorted.first(), sorted.last()) else { return Self::default() };
        if low == high {
            return Self { scale: Scale::Linear, edges: vec![low, high], counts: vec![sorted.len() as u64] };
        }
        let scale =
            if low >= 0.0 && high >= 100.0 && high > 20.0 * quantile(sorted, 0.5) { Scale::Log } else { Scale::Linear };
        let bins = HISTOGRAM_BINS.min(distinct as usize);
        let (from, to) = (scale.place(low), scale.place(high));
        // Divided first: the difference of two large numbers may not be a number.
        let width = to / bins as f64 - from / bins as f64;
        let part = |bin: usize| bin as f64 / bins as f64;
        let mut edges: Vec<f64> =
            (0..=bins).map(|bin| scale.value(from * (1.0 - part(bin)) + to * part(bin))).collect();
        (edges[0], edges[bins]) = (low, high);
        let mut counts = vec![0; bins];
        for value in sorted {
            let bin = (scale.place(*value) / width - from / width) as usize;
            counts[bin.min(bins - 1)] += 1;
        }
        Self { scale, edges, counts }
    }
}

/// Categories: a row counts once for each different value it has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategorySummary {
    /// Different values, those not named included.
    pub distinct: u64,
    /// Fewest rows of a named category.
    pub least_rows: u64,
    /// The largest categories by falling number of rows, then by name; at most 1,000, each of at most 200 bytes.
    pub listed: Vec<Category>,
    /// Rows of all others together; a row with several values counts for each.
    pub other: u64,
}

/// A category and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The value.
    pub value: String,
    /// Rows that have it.
    pub rows: u64,
}

impl CategorySummary {
    pub(super) fn new(counts: &HashMap<&str, u64>, least_rows: u64) -> Self {
        let mut listed: Vec<(&str, u64)> = counts
            .iter()
            .map(|(value, rows)| (*value, *rows))
            .filter(|(value, rows)| *rows >= least_rows && value.len() <= MAX_VALUE_BYTES)
            .collect();
        listed.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        listed.truncate(MAX_LISTED);
        let all: u64 = counts.values().sum();
        let named: u64 = listed.iter().map(|(_, rows)| rows).sum();
        Self {
            distinct: counts.len() as u64,
            least_rows,
            listed: listed.into_iter().map(|(value, rows)| Category { value: value.to_owned(), rows }).collect(),
            other: all - named,
        }
    }
}

/// Summarises every column of a table; categories of fewer than `least_rows` rows are not named.
pub fn summarise(columns: &[Column], least_rows: u64) -> Vec<ColumnSummary> {
    let summarise = |column: &Column| {
        let (values, present) = match &column.values {
            ColumnValues::Number(values) => {
                let sorted = sorted(values.iter().copied().filter(|value| !value.is_nan()));
                (Values::Numeric(numbers(&sorted)), sorted.len())
            }
            ColumnValues::Day(values) => {
                let sorted = sorted(values.iter().flatten().map(|day| f64::from(*day)));
                (Values::Date(numbers(&sorted)), sorted.len())
            }
            ColumnValues::Text(values) => {
                let present = values.iter().flatten().count();
                (Values::Categorical(CategorySummary::new(&count_texts(values), least_rows)), present)
            }
            ColumnValues::TextList(values) => {
                let present = values.iter().filter(|list| !list.is_empty()).count();
                (Values::MultiCategorical(CategorySummary::new(&count_lists(values), least_rows)), present)
            }
        };
        let rows = column.values.len() as u64;
        ColumnSummary { name: column.name.clone(), rows, nulls: rows - present as u64, values }
    };
    columns.par_iter().map(summarise).collect()
}

/// Rows of each value.
pub(super) fn count_texts(values: &[Option<String>]) -> HashMap<&str, u64> {
    let mut counts = HashMap::new();
    for value in values.iter().flatten() {
        *counts.entry(value.as_str()).or_default() += 1;
    }
    counts
}

/// Rows of each value; a value that stands twice in a row's list counts once, or one row could pass for many.
pub(super) fn count_lists(values: &[Vec<String>]) -> HashMap<&str, u64> {
    let mut counts = HashMap::new();
    for list in values {
        for (at, value) in list.iter().enumerate() {
            if !list[..at].contains(value) {
                *counts.entry(value.as_str()).or_default() += 1;
            }
        }
    }
    counts
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn numbers(sorted: &[f64]) -> NumberSummary {
    let distinct = sorted.chunk_by(|a, b| a == b).count() as u64;
    // Welford's update: neither sums that overflow nor differences of large squares.
    let (mut mean, mut squares) = (0.0, 0.0);
    for (at, value) in sorted.iter().enumerate() {
        let before = value - mean;
        mean += before / (at + 1) as f64;
        squares += before * (value - mean);
    }
    let some = |value: f64| (!sorted.is_empty() && value.is_finite()).then_some(value);
    NumberSummary {
        distinct,
        min: sorted.first().copied(),
        max: sorted.last().copied(),
        mean: some(mean),
        deviation: some((squares / sorted.len().max(1) as f64).sqrt()),
        quantiles: if sorted.is_empty() {
            Vec::new()
        } else {
            QUANTILES.iter().map(|&at| Quantile { at, value: quantile(sorted, at) }).collect()
        },
        bins: QuantileBins::new(sorted),
        histogram: Histogram::new(sorted, distinct),
    }
}

/// The value of rank `ceil(at * n)`; 0 of nothing.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let rank = (at * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// The next number from `value` upwards with 15 significant digits: those survive JSON whatever the parser.
fn round_up(value: f64) -> f64 {
    let digits = |value: f64| format!("{value:.14e}").parse::<f64>().unwrap_or(value);
    let mut rounded = digits(value);
    if rounded < value {
        let exponent = value.abs().log10().floor() as i32;
        rounded = digits(value + 10_f64.powi(exponent - 14)).max(value);
    }
    // The largest numbers of all have none above them.
    rounded.min(f64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(values: ColumnValues) -> ColumnSummary {
        summarise(&[Column { name: "c".into(), values }], 2).remove(0)
    }

    fn number(values: &[f64]) -> NumberSummary {
        match column(ColumnValues::Number(values.to_vec())).values {
            Values::Numeric(summary) => summary,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn figures_of_numbers_by_hand() {
        let values: Vec<f64> = (1..=20).map(f64::from).chain([f64::NAN]).collect();
        let summary = column(ColumnValues::Number(values.clone()));
        assert_eq!((summary.rows, summary.nulls), (21, 1));
        let summary = number(&values);
        assert_eq!((summary.distinct, summary.min, summary.max, summary.mean), (20, Some(1.0), Some(20.0), Some(10.5)));
        // The variance of 1..n is (n^2 - 1) / 12.
        assert!((summary.deviation.unwrap() - (399.0_f64 / 12.0).sqrt()).abs() < 1e-12);
        assert_eq!(summary.quantiles[4], Quantile { at: 0.5, value: 10.0 });
        assert_eq!(summary.bins.edges, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]);
        assert_eq!(summary.bins.counts, [0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]);
        assert_eq!(summary.bins.count([0.9, 1.0, 20.0, 20.1].into_iter()), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(summary.histogram.counts.iter().sum::<u64>(), 20);
    }

    #[test]
    fn a_value_of_many_rows_has_a_bin_of_its_own() {
        let mut values = vec![0.0; 60];
        values.extend((1..=40).map(|play| f64::from(play) * 1_000.0));
        let summary = number(&values);
        assert_eq!(summary.bins.edges, [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]);
        assert_eq!(summary.bins.counts, [0, 60, 10, 10, 10, 10, 0]);
        assert_eq!(summary.histogram.scale, Scale::Log);
        let constant = number(&[7.0; 3]);
        assert_eq!((constant.bins.edges, constant.bins.counts), (vec![7.0], vec![0, 3, 0]));
        assert_eq!(constant.deviation, Some(0.0));
    }

    #[test]
    fn columns_without_values_have_no_figures() {
        for values in [vec![], vec![f64::NAN; 3]] {
            let summary = number(&values);
            assert_eq!((summary.min, summary.mean, summary.deviation), (None, None, None));
            assert_eq!((summary.bins.counts.len(), summary.quantiles.len()), (2, 0));
        }
    }

    #[test]
    fn rare_categories_are_not_named() {
        let text = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let summary = column(ColumnValues::TextList(vec![
            text(&["rock", "jazz"]),
            text(&["rock", "solo", "solo", "solo"]),
            text(&["jazz"]),
            text(&["rock"]),
            vec![],
        ]));
        let Values::MultiCategorical(values) = &summary.values else { panic!("{summary:?}") };
        assert_eq!((summary.nulls, values.distinct, values.other), (1, 3, 1));
        let listed: Vec<(&str, u64)> = values.listed.iter().map(|c| (c.value.as_str(), c.rows)).collect();
        assert_eq!(listed, [("rock", 3), ("jazz", 2)]);
        assert!(!serde_json::to_string(&summary).unwrap().contains("solo"));

        let long = "x".repeat(201);
        let summary =
            column(ColumnValues::Text(vec![Some(long.clone()), Some(long), Some("y".into()), Some("y".into())]));
        let Values::Categorical(values) = &summary.values else { panic!("{summary:?}") };
        assert_eq!((values.listed.len(), values.other), (1, 2));
    }

    proptest! {
        #[test]
        fn bins_survive_json_to_the_value(values in proptest::collection::vec(
            prop_oneof![-1e6..1e6_f64, (0..40_i32).prop_map(f64::from), (0..9_i32).prop_map(|n| f64::from(n) / 7.0)], 1..200,
        )) {
            let summary = column(ColumnValues::Number(values.clone()));
            let text = serde_json::to_string(&summary).unwrap();
            let back: ColumnSummary = serde_json::from_str(&text).unwrap();
            let (Values::Numeric(summary), Values::Numeric(back)) = (summary.values, back.values) else { panic!() };
            prop_assert_eq!(&summary.bins, &back.bins);
            prop_assert_eq!(back.bins.count(values.iter().copied()), summary.bins.counts.clone());
            prop_assert_eq!(summary.bins.counts[0], 0);
            prop_assert_eq!(summary.bins.counts.last(), Some(&0));
            prop_assert_eq!(summary.bins.counts.iter().sum::<u64>(), values.len() as u64);
            prop_assert!(summary.bins.edges.is_sorted_by(|a, b| a < b));
        }

        #[test]
        fn rounding_up_is_upwards_and_small(value in proptest::num::f64::NORMAL) {
            prop_assume!(value.abs() > 1e-290 && value.abs() < 1e290);
            let rounded = round_up(value);
            prop_assert!(rounded >= value && rounded - value <= value.abs() * 2e-14, "{} {}", value, rounded);
        }
    }
}
