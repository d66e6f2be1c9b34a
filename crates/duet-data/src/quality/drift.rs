//! How far the columns moved since the previous run: the population stability index (PSI).
//!
//! Today's values are counted in the bins of the *previous* run's summary. With shares `p` (then) and `q` (now) of each bin,
//! ```text
//! PSI = sum over bins of (q - p) ln(q / p)
//! ```
//! which is the symmetric Kullback-Leibler divergence. Shares are smoothed, `(count + 1/2) / (all + bins / 2)`, so that an
//! empty bin costs what its size in the other run is worth, and not infinity; bins empty in both runs are left out. Missing
//! values are a bin. Customary reading: from 0.1 a shift worth a look, from 0.25 a large one.
//!
//! Two samples of *one* distribution have a PSI above zero too: about `(1/n + 1/m) chi^2` with bins - 1 degrees of freedom
//! (Yurdakul, "Statistical properties of the population stability index", 2018). What does not exceed the 99 % point of that
//! counts as stable whatever its size: in tables of a few dozen rows, chance alone passes 0.25.

use std::collections::HashMap;

use duet_core::table::{Column, ColumnValues};
use serde::{Deserialize, Serialize};

use super::summary::{
    Category, CategorySummary, ColumnSummary, Histogram, MAX_LISTED, NumberSummary, Values, count_lists, count_texts,
};

/// From here on a shift is worth a look.
pub const MODERATE_PSI: f64 = 0.1;
/// From here on a shift is large.
pub const LARGE_PSI: f64 = 0.25;
/// Categories with a bin of their own; the others share one.
pub(super) const CATEGORY_BINS: usize = 20;
/// The bin of rows without a value.
pub(super) const MISSING: &str = "(missing)";
/// The bin of categories without a bin of their own.
pub(super) const OTHER: &str = "(other)";

/// One column against the previous run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// `users`, `items`, ...
    pub table: String,
    /// The column.
    pub column: String,
    /// The verdict.
    pub level: DriftLevel,
    /// The index; absent where the column can't be compared.
    pub psi: Option<f64>,
    /// What chance alone stays below in 99 of 100 cases.
    pub chance: f64,
    /// Shares then and now (not smoothed), by the previous run's bins.
    pub bins: Vec<DriftBin>,
    /// Categories named now but not then: they had fewer rows than it takes to be named, or none. Rows are today's.
    pub new_categories: Vec<Category>,
    /// Categories named then and without a row now. Rows are those of then.
    pub vanished_categories: Vec<Category>,
    /// The previous run's histogram, to be drawn beside today's.
    pub previous_histogram: Option<Histogram>,
}

/// What a [`Drift`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftLevel {
    /// PSI below [`MODERATE_PSI`], or not to be told from chance.
    Stable,
    /// PSI below [`LARGE_PSI`].
    Moderate,
    /// PSI from [`LARGE_PSI`].
    Large,
    /// The previous run had no such column.
    New,
    /// There is no such column any more.
    Gone,
    /// The column was of another kind.
    KindChanged,
    /// One of the tables has no rows.
    Empty,
}

impl DriftLevel {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moderate => "moderate",
            Self::Large => "large",
            Self::New => "new column",
            Self::Gone => "column is gone",
            Self::KindChanged => "kind changed",
            Self::Empty => "no rows",
        }
    }
}

/// A bin's share of the rows (of the values, where a row has several).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftBin {
    /// What is in it.
    pub label: String,
    /// Share in the previous run.
    pub before: f64,
    /// Share now.
    pub now: f64,
}

/// Compares every column of a table with the previous run's summary of it, in the order of `now`, then what is gone.
pub fn drift(table: &str, previous: &[ColumnSummary], now: &[Column]) -> Vec<Drift> {
    let gone = previous.iter().filter(|before| now.iter().all(|column| column.name != before.name));
    let gone = gone.map(|before| Drift::without_figures(table, &before.name, DriftLevel::Gone));
    let compared = now.iter().map(|column| match previous.iter().find(|before| before.name == column.name) {
        None => Drift::without_figures(table, &column.name, DriftLevel::New),
        Some(before) => compare(table, before, column),
    });
    compared.chain(gone).collect()
}

impl Drift {
    fn without_figures(table: &str, column: &str, level: DriftLevel) -> Self {
        Self {
            table: table.to_owned(),
            column: column.to_owned(),
            level,
            psi: None,
            chance: 0.0,
            bins: Vec::new(),
            new_categories: Vec::new(),
            vanished_categories: Vec::new(),
            previous_histogram: None,
        }
    }
}

fn compare(table: &str, before: &ColumnSummary, column: &Column) -> Drift {
    let mut drift = Drift::without_figures(table, &column.name, DriftLevel::Empty);
    if before.rows == 0 || column.values.is_empty() {
        return drift;
    }
    let mut bins = match (&before.values, &column.values) {
        (Values::Numeric(then), ColumnValues::Number(values)) => {
            drift.previous_histogram = Some(then.histogram.clone());
            number_bins(then, values.iter().copied().filter(|value| !value.is_nan()), number_name)
        }
        (Values::Date(then), ColumnValues::Day(values)) => {
            drift.previous_histogram = Some(then.histogram.clone());
            number_bins(then, values.iter().flatten().map(|day| f64::from(*day)), day_name)
        }
        (Values::Categorical(then), ColumnValues::Text(values)) => {
            category_bins(then, &count_texts(values), &mut drift)
        }
        (Values::MultiCategorical(then), ColumnValues::TextList(values)) => {
            category_bins(then, &count_lists(values), &mut drift)
        }
        _ => {
            drift.level = DriftLevel::KindChanged;
            return drift;
        }
    };
    let nulls = match &column.values {
        ColumnValues::Number(values) => values.iter().filter(|value| value.is_nan()).count(),
        ColumnValues::Day(values) => values.iter().filter(|value| value.is_none()).count(),
        ColumnValues::Text(values) => values.iter().filter(|value| value.is_none()).count(),
        ColumnValues::TextList(values) => values.iter().filter(|list| list.is_empty()).count(),
    };
    bins.push((MISSING.to_owned(), before.nulls, nulls as u64));
    bins.retain(|(_, then, now)| then + now > 0);

    let (then, now) = bins.iter().fold((0, 0), |(then, now), bin| (then + bin.1, now + bin.2));
    let counts: Vec<(u64, u64)> = bins.iter().map(|bin| (bin.1, bin.2)).collect();
    let psi = stability_index(&counts);
    drift.psi = Some(psi);
    drift.chance = chance(bins.len(), then, now);
    drift.level = match psi {
        psi if psi < MODERATE_PSI || psi <= drift.chance => DriftLevel::Stable,
        psi if psi < LARGE_PSI => DriftLevel::Moderate,
        _ => DriftLevel::Large,
    };
    let share = |count: u64, all: u64| count as f64 / all.max(1) as f64;
    drift.bins = bins
        .into_iter()
        .map(|(label, before, after)| DriftBin { label, before: share(before, then), now: share(after, now) })
        .collect();
    drift
}

/// Label, count then, count now.
type Bin = (String, u64, u64);

fn number_bins(then: &NumberSummary, now: impl Iterator<Item = f64>, name: impl Fn(f64) -> String) -> Vec<Bin> {
    let bins = &then.bins;
    let counts = bins.count(now);
    let label = |bin: usize| match bins.edges.len() {
        0 => "any value".to_owned(),
        _ if bin == 0 => format!("below {}", name(bins.low)),
        edges if bin > edges => format!("above {}", name(bins.edges[edges - 1])),
        _ => format!("to {}", name(bins.edges[bin - 1])),
    };
    bins.counts.iter().zip(counts).enumerate().map(|(bin, (&then, now))| (label(bin), then, now)).collect()
}

fn category_bins(then: &CategorySummary, now: &HashMap<&str, u64>, drift: &mut Drift) -> Vec<Bin> {
    let rows_now = |value: &str| now.get(value).copied().unwrap_or(0);
    let (own, shared) = then.listed.split_at(CATEGORY_BINS.min(then.listed.len()));
    let mut bins: Vec<Bin> =
        own.iter().map(|category| (category.value.clone(), category.rows, rows_now(&category.value))).collect();
    let own_now: u64 = bins.iter().map(|bin| bin.2).sum();
    let shared_then = then.other + shared.iter().map(|category| category.rows).sum::<u64>();
    bins.push((OTHER.to_owned(), shared_then, now.values().sum::<u64>() - own_now));

    drift.vanished_categories = then.listed.iter().filter(|category| rows_now(&category.value) == 0).cloned().collect();
    // Where the list was cut, a category may be old though it is not on it; one larger than the last on it is not.
    let least = match then.listed.last() {
        Some(last) if then.listed.len() == MAX_LISTED => then.least_rows.max(last.rows + 1),
        _ => then.least_rows,
    };
    let known: std::collections::HashSet<&str> = then.listed.iter().map(|category| category.value.as_str()).collect();
    drift.new_categories = CategorySummary::new(now, least).listed;
    drift.new_categories.retain(|category| !known.contains(category.value.as_str()));
    bins
}

/// Six significant digits, and no sign on nothing: labels are for people.
fn number_name(edge: f64) -> String {
    let rounded = format!("{edge:.5e}").parse().unwrap_or(edge) + 0.0;
    if rounded.abs() < 1e15 { rounded.to_string() } else { format!("{rounded:e}") }
}

fn day_name(day: f64) -> String {
    chrono::NaiveDate::from_epoch_days(day as i32).map_or_else(|| day.to_string(), |date| date.to_string())
}

/// The index of (then, now) counts; see the head of this file.
fn stability_index(counts: &[(u64, u64)]) -> f64 {
    let (then, now) = counts.iter().fold((0, 0), |(then, now), count| (then + count.0, now + count.1));
    let smoothed = |count: u64, all: u64| (count as f64 + 0.5) / (all as f64 + 0.5 * counts.len() as f64);
    let term = |&(before, after): &(u64, u64)| {
        let (p, q) = (smoothed(before, then), smoothed(after, now));
        (q - p) * (q / p).ln()
    };
    // An empty sum of floats is -0.
    counts.iter().map(term).sum::<f64>().max(0.0)
}

/// The 99 % point of the index of two samples from one distribution; chi^2 by Wilson and Hilferty (1931).
fn chance(bins: usize, then: u64, now: u64) -> f64 {
    const NORMAL_99: f64 = 2.326_347_874_040_841;
    if bins < 2 || then == 0 || now == 0 {
        return 0.0;
    }
    let degrees = (bins - 1) as f64;
    let ninth = 2.0 / (9.0 * degrees);
    let chi_squared = degrees * (1.0 - ninth + NORMAL_99 * ninth.sqrt()).powi(3);
    chi_squared * (1.0 / then as f64 + 1.0 / now as f64)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::summary::{LEAST_ROWS, summarise},
        *,
    };

    fn columns(values: ColumnValues) -> Vec<Column> {
        vec![Column { name: "c".into(), values }]
    }

    #[test]
    fn a_column_by_hand() {
        let before = summarise(&columns(ColumnValues::Number((1..=10).map(f64::from).collect())), 1);
        let now: Vec<f64> = (1..=5).chain(1..=5).map(f64::from).collect();
        let drift = drift("t", &before, &columns(ColumnValues::Number(now))).remove(0);
        // Ten bins of one value each. Then: 1.5 / 15 in each; now: 2.5 / 15 in five of them, 0.5 / 15 in the others.
        let (p, many, none) = (0.1_f64, 2.5 / 15.0, 0.5 / 15.0_f64);
        let expected = 5.0 * ((many - p) * f64::ln(many / p) + (none - p) * f64::ln(none / p));
        assert!((drift.psi.unwrap() - expected).abs() < 1e-12 && (expected - 0.536).abs() < 1e-3, "{drift:?}");
        assert_eq!(drift.bins.len(), 10, "empty bins are left out");
        assert_eq!((drift.bins[0].before, drift.bins[0].now, drift.bins[9].now), (0.1, 0.2, 0.0));
        assert_eq!((drift.bins[0].label.as_str(), drift.bins[9].label.as_str()), ("to 1", "to 10"));
        // 9 degrees of freedom, two samples of ten: 21.7 / 5.
        assert!((drift.chance - 4.33).abs() < 0.02 && drift.level == DriftLevel::Stable, "{drift:?}");
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            6 => -50.0..50.0_f64,
            3 => (0..5_i32).prop_map(f64::from),
            1 => Just(f64::NAN),
            1 => prop_oneof![Just(f64::MAX), Just(f64::MIN), Just(-0.0), Just(5e-324)],
        ];
        proptest::collection::vec(value, 1..80)
    }

    proptest! {
        #[test]
        fn whatever_the_values_the_index_is_a_number_from_0(then in values(), now in values()) {
            let before = summarise(&columns(ColumnValues::Number(then.clone())), LEAST_ROWS);
            let text = serde_json::to_string(&before).unwrap();
            prop_assert!(serde_json::from_str::<Vec<ColumnSummary>>(&text).is_ok(), "{}", text);
            let same = drift("t", &before, &columns(ColumnValues::Number(then))).remove(0);
            prop_assert_eq!(same.psi, Some(0.0));
            let other = drift("t", &before, &columns(ColumnValues::Number(now.clone()))).remove(0);
            let psi = other.psi.unwrap();
            prop_assert!(psi.is_finite() && psi >= 0.0, "{}", psi);
            for shares in [other.bins.iter().map(|bin| bin.before).sum::<f64>(), other.bins.iter().map(|bin| bin.now).sum()] {
                prop_assert!((shares - 1.0).abs() < 1e-9);
            }
            // The order of rows says nothing.
            let reversed: Vec<f64> = now.iter().rev().copied().collect();
            prop_assert_eq!(drift("t", &before, &columns(ColumnValues::Number(reversed))).remove(0), other);
        }
    }

    #[test]
    fn the_index_by_hand() {
        // Shares 1/2, 1/2 then and 3/4, 1/4 now; smoothing is invisible at this size.
        let n = 1_000_000_000;
        let psi = stability_index(&[(n / 2, n / 4 * 3), (n / 2, n / 4)]);
        let expected = 0.25 * 1.5_f64.ln() + -0.25 * 0.5_f64.ln();
        assert!((psi - expected).abs() < 1e-6, "{psi} {expected}");
        assert_eq!(stability_index(&[(7, 7), (3, 3)]), 0.0);
        assert_eq!(stability_index(&[]), 0.0);
        // Smoothing, by hand: (0 + 1/2) / (4 + 1) = 0.1 and 0.9 against 0.9 and 0.1.
        let psi = stability_index(&[(0, 4), (4, 0)]);
        assert!((psi - 2.0 * 0.8 * 9.0_f64.ln()).abs() < 1e-12, "{psi}");
    }

    #[test]
    fn chance_is_the_tail_of_chi_squared() {
        // The 99 % point for 9 degrees of freedom is 21.666, for 1 it is 6.635.
        assert!((chance(10, 1_000, 1_000) * 500.0 - 21.666).abs() < 0.05);
        assert!((chance(2, 1_000, 1_000) * 500.0 - 6.635).abs() < 0.1);
        assert_eq!((chance(1, 9, 9), chance(5, 0, 9)), (0.0, 0.0));
    }

    #[test]
    fn samples_of_one_distribution_stay_below_chance() {
        use rand::{RngExt, SeedableRng};
        let mut random = rand_pcg::Pcg64::seed_from_u64(1);
        let mut above = 0;
        for _ in 0..2_000 {
            let mut counts = [(0, 0); 10];
            for _ in 0..500 {
                counts[random.random_range(0..10)].0 += 1;
                counts[random.random_range(0..10)].1 += 1;
            }
            above += u32::from(stability_index(&counts) > chance(10, 500, 500));
        }
        // 1 % of 2,000 is 20.
        assert!((8..40).contains(&above), "{above}");
    }
}
