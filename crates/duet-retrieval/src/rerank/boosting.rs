//! Gradient boosting of regression trees on histograms.
//!
//! Trees grow leaf by leaf, the largest gain first (LightGBM: Ke et al. 2017). A split is valued by second derivatives
//! (XGBoost: Chen and Guestrin 2016, eq. 7); unknown values go to the side that gains more. Objectives: logistic loss, or
//! LambdaMART (Burges 2010) with the change of NDCG. There is no random number in it, and sums are taken feature by feature in
//! the order of the rows: the trees are the same bits for any number of threads.

use std::ops::Range;

use duet_core::{Error, Result};
use rayon::prelude::*;

use super::forest::Forest;

/// Bins of known values; one more is for the unknown.
const BINS: usize = 255;
const UNKNOWN: usize = BINS;
/// Values that the borders of bins are taken from.
const SAMPLE: usize = 100_000;
/// Where NDCG is cut off that decides how many trees are kept.
const K: usize = 10;

/// Rows with labels, in lists.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    /// Values of a row.
    pub features: usize,
    /// `[rows, features]`; NaN is not known.
    pub values: Vec<f32>,
    /// Whether the row is what was wanted.
    pub labels: Vec<bool>,
    /// Where each list begins, and the number of rows; rows of a list follow one another.
    pub lists: Vec<usize>,
}

impl Examples {
    /// No rows yet.
    pub fn new(features: usize) -> Self {
        Self { features, lists: vec![0], ..Self::default() }
    }

    /// Adds a list.
    pub fn push(&mut self, values: &[f32], labels: &[bool]) {
        self.values.extend_from_slice(values);
        self.labels.extend_from_slice(labels);
        self.lists.push(self.labels.len());
    }

    /// Lists held.
    pub fn n_lists(&self) -> usize {
        self.lists.len().saturating_sub(1)
    }

    /// Lists in which something was wanted.
    pub fn lists_with_positives(&self) -> usize {
        self.ranges().filter(|range| self.labels[range.clone()].contains(&true)).count()
    }

    /// Rows that were wanted.
    pub fn positives(&self) -> usize {
        self.labels.iter().filter(|label| **label).count()
    }

    fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
        self.lists.windows(2).map(|pair| pair[0]..pair[1])
    }

    fn check(&self) -> Result<()> {
        let Self { features, values, labels, lists } = self;
        let whole = *features > 0 && *features < usize::from(u16::MAX) && values.len() == labels.len() * features;
        let listed = lists.first() == Some(&0)
            && lists.last() == Some(&labels.len())
            && lists.windows(2).all(|pair| pair[0] <= pair[1]);
        if whole && listed {
            Ok(())
        } else {
            Err(Error::Internal(format!(
                "{} values and {} labels are no lists of {features}",
                values.len(),
                labels.len()
            )))
        }
    }

    /// Mean NDCG@10 of the lists with something wanted, in the order of `scores` (ties in the order of the rows).
    pub fn ndcg(&self, scores: &[f64]) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0);
        for range in self.ranges() {
            let wanted = self.labels[range.clone()].iter().filter(|label| **label).count();
            if wanted == 0 {
                continue;
            }
            let found: f64 = order(&scores[range.clone()])
                .iter()
                .take(K)
                .enumerate()
                .filter(|(_, at)| self.labels[range.start + **at])
                .map(|(place, _)| discount(place))
                .sum();
            sum += found / (0..wanted.min(K)).map(discount).sum::<f64>();
            count += 1;
        }
        (count > 0).then(|| sum / f64::from(count))
    }
}

/// Rows, the best first.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

fn discount(place: usize) -> f64 {
    1.0 / (place as f64 + 2.0).log2()
}

/// What the trees are fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Whether a row is wanted: logistic loss.
    Binary,
    /// Which row of a list is wanted more: LambdaMART.
    Lambda,
}

/// How to boost.
#[derive(Debug, Clone, Copy)]
pub struct BoostingOptions {
    /// What the trees are fitted to.
    pub objective: Objective,
    /// Trees, at most.
    pub trees: usize,
    /// Leaves of a tree, at most.
    pub leaves: usize,
    /// What share of its best value a leaf adds.
    pub learning_rate: f64,
    /// Rows of a leaf, at least.
    pub leaf_rows: usize,
    /// Added to the second derivatives of a leaf.
    pub l2: f64,
    /// Stop after so many trees without a better NDCG@10 on the held-out lists.
    pub patience: usize,
}

impl Default for BoostingOptions {
    fn default() -> Self {
        Self {
            objective: Objective::Binary,
            trees: 100,
            leaves: 31,
            learning_rate: 0.1,
            leaf_rows: 20,
            l2: 1.0,
            patience: 30,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The trees.
    pub forest: Forest,
    /// Gain of the splits by each feature, summed; of the trees that are kept and those after them.
    pub gains: Vec<f64>,
    /// NDCG@10 of the trees on the held-out lists, where there are any with something wanted.
    pub held_out_ndcg: Option<f64>,
}

/// Boosts trees on `train`, as many as are best on `held_out`; all of them if that has no list with something wanted.
///
/// # Errors
/// [`Error::Input`] if nothing or everything is wanted, or an option is out of range.
pub fn fit(train: &Examples, held_out: &Examples, options: &BoostingOptions) -> Result<Fitted> {
    train.check()?;
    let features = train.features;
    if held_out.n_lists() > 0 {
        held_out.check()?;
        if held_out.features != features {
            return Err(Error::Internal(format!("{} features held out, {features} in training", held_out.features)));
        }
    }
    let positives = train.positives();
    if positives == 0 || positives == train.labels.len() {
        return Err(Error::input(format!(
            "of {} examples {positives} are wanted: trees need some that are and some that are not",
            train.labels.len()
        )));
    }
    if options.trees == 0 || options.leaves < 2 || options.leaf_rows == 0 || options.patience == 0 {
        return Err(Error::input("trees, rows of a leaf and patience must be at least 1, leaves at least 2"));
    }
    let share = positives as f64 / train.labels.len() as f64;
    let base = match options.objective {
        Objective::Binary => (share / (1.0 - share)).ln(),
        Objective::Lambda => 0.0,
    };
    let binned = Binned::new(train);
    let mut forest = Forest::new(features, base);
    let mut gains = vec![0.0; features];
    let mut scores = vec![base; train.labels.len()];
    let mut held_out_scores = vec![base; held_out.labels.len()];
    let mut best: Option<(usize, f64)> = None;
    for tree in 0..options.trees {
        let slopes = match options.objective {
            Objective::Binary => logistic(&train.labels, &scores),
            Objective::Lambda => lambdas(train, &scores),
        };
        let grown = Growth { binned: &binned, slopes: &slopes, options }.grow(&mut forest, &mut scores, &mut gains);
        if !grown {
            forest.truncate(tree);
            break;
        }
        forest.add_tree(tree, &held_out.values, &mut held_out_scores);
        if let Some(ndcg) = held_out.ndcg(&held_out_scores) {
            if best.is_none_or(|(_, best)| ndcg > best) {
                best = Some((tree + 1, ndcg));
            } else if best.is_some_and(|(trees, _)| tree + 1 >= trees + options.patience) {
                break;
            }
        }
    }
    if let Some((trees, _)) = best {
        forest.truncate(trees);
    }
    Ok(Fitted { forest, gains, held_out_ndcg: best.map(|(_, ndcg)| ndcg) })
}

/// First and second derivative of the loss by the score of a row.
type Slope = [f64; 2];

fn logistic(labels: &[bool], scores: &[f64]) -> Vec<Slope> {
    let slope = |(&label, &score): (&bool, &f64)| {
        let probability = 1.0 / (1.0 + (-score).exp());
        [probability - f64::from(u8::from(label)), (probability * (1.0 - probability)).max(1e-12)]
    };
    labels.iter().zip(scores).map(slope).collect()
}

/// Every wanted row pulls against every other row of its list, by what an exchange of the two would change in NDCG.
fn lambdas(examples: &Examples, scores: &[f64]) -> Vec<Slope> {
    let ranges: Vec<Range<usize>> = examples.ranges().collect();
    let of_list = |range: &Range<usize>| -> Vec<Slope> {
        let (labels, scores) = (&examples.labels[range.clone()], &scores[range.clone()]);
        let mut slopes = vec![[0.0, 1e-12]; labels.len()];
        let wanted = labels.iter().filter(|label| **label).count();
        let ideal: f64 = (0..wanted).map(discount).sum();
        let mut places = vec![0; labels.len()];
        for (place, row) in order(scores).into_iter().enumerate() {
            places[row] = place;
        }
        for row in (0..labels.len()).filter(|row| labels[*row]) {
            for other in (0..labels.len()).filter(|other| !labels[*other]) {
                let change = (discount(places[row]) - discount(places[other])).abs() / ideal;
                let pull = 1.0 / (1.0 + (scores[row] - scores[other]).exp());
                let curve = change * pull * (1.0 - pull);
                slopes[row][0] -= change * pull;
                slopes[other][0] += change * pull;
                slopes[row][1] += curve;
                slopes[other][1] += curve;
            }
        }
        slopes
    };
    ranges.par_iter().map(of_list).collect::<Vec<_>>().concat()
}

/// The values by bin, feature by feature.
struct Binned {
    rows: usize,
    /// Ascending borders of each feature: a value lies in the bin of the number of borders that are not above it.
    borders: Vec<Vec<f32>>,
    /// `[features, rows]`
    bins: Vec<Vec<u8>>,
}

impl Binned {
    fn new(examples: &Examples) -> Self {
        let (features, rows) = (examples.features, examples.labels.len());
        let value = |row: usize, feature: usize| examples.values[row * features + feature];
        let binned = |feature: usize| {
            let step = rows.div_ceil(SAMPLE).max(1);
            let sample = (0..rows).step_by(step).map(|row| value(row, feature)).filter(|value| !value.is_nan());
            let borders = borders(sample.collect());
            let bin = |value: f32| match value.is_nan() {
                true => UNKNOWN as u8,
                false => borders.partition_point(|border| *border <= value) as u8,
            };
            let bins = (0..rows).map(|row| bin(value(row, feature))).collect();
            (borders, bins)
        };
        let (borders, bins) = (0..features).into_par_iter().map(binned).unzip();
        Self { rows, borders, bins }
    }
}

/// Borders between bins of about equally many values; a value and its border are the same number, so that `<` on values and on
/// bins says the same.
fn borders(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    let mut borders: Vec<f32> = Vec::new();
    let Some(&least) = values.first() else { return borders };
    for place in 1..BINS {
        let value = values[place * values.len() / BINS];
        // -0.0 and 0.0 are one value.
        if value > borders.last().copied().unwrap_or(least) {
            borders.push(value);
        }
    }
    // Of few values, each has a bin.
    let mut distinct = values;
    distinct.dedup();
    if distinct.len() <= BINS {
        borders = distinct.windows(2).filter(|pair| pair[0] < pair[1]).map(|pair| pair[1]).collect();
    }
    borders
}

/// Sums over the rows of a bin: slopes, and how many.
type Sums = [f64; 3];

fn plus(a: Sums, b: Sums) -> Sums {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn minus(a: Sums, b: Sums) -> Sums {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// One a feature and bin.
type Histogram = Vec<Vec<Sums>>;

struct Growth<'a> {
    binned: &'a Binned,
    slopes: &'a [Slope],
    options: &'a BoostingOptions,
}

/// A leaf that may be split.
struct Leaf {
    node: usize,
    rows: Vec<u32>,
    sums: Sums,
    histogram: Histogram,
    split: Option<Split>,
}

#[derive(Debug, Clone, Copy)]
struct Split {
    gain: f64,
    feature: usize,
    /// Bins up to this one go left.
    bin: usize,
    unknown_left: bool,
}

impl Growth<'_> {
    /// Grows a tree and adds it to the scores. False if there is nothing to split.
    fn grow(&self, forest: &mut Forest, scores: &mut [f64], gains: &mut [f64]) -> bool {
        let rows: Vec<u32> = (0..self.binned.rows as u32).collect();
        let histogram = self.histogram(&rows);
        let root = self.leaf(forest.plant(), rows, histogram);
        let mut leaves = vec![root];
        while leaves.len() < self.options.leaves {
            // The first of the best: equal gains must not depend on anything.
            let mut best: Option<(usize, Split)> = None;
            for (at, leaf) in leaves.iter().enumerate() {
                if let Some(split) = leaf.split
                    && best.is_none_or(|(_, best)| split.gain > best.gain)
                {
                    best = Some((at, split));
                }
            }
            let Some((at, split)) = best else { break };
            gains[split.feature] += split.gain;
            let leaf = leaves.swap_remove(at);
            let (left, right) = self.divide(forest, leaf, split);
            leaves.push(left);
            leaves.push(right);
        }
        for leaf in &leaves {
            let value = (-self.options.learning_rate * leaf.sums[0] / (leaf.sums[1] + self.options.l2)) as f32;
            let value = if value.is_finite() { value } else { 0.0 };
            forest.set(leaf.node, value);
            for &row in &leaf.rows {
                scores[row as usize] += f64::from(value);
            }
        }
        leaves.len() > 1
    }

    fn divide(&self, forest: &mut Forest, leaf: Leaf, split: Split) -> (Leaf, Leaf) {
        let Split { feature, bin, unknown_left, .. } = split;
        let bins = &self.binned.bins[feature];
        let goes_left = |row: &u32| match usize::from(bins[*row as usize]) {
            UNKNOWN => unknown_left,
            at => at <= bin,
        };
        let (left, right): (Vec<u32>, Vec<u32>) = leaf.rows.into_iter().partition(goes_left);
        // Behind the last bin there is nothing but the unknown.
        let border = self.binned.borders[feature].get(bin).copied().unwrap_or(f32::MAX);
        let nodes = forest.split(leaf.node, feature, border, unknown_left);
        // The smaller side is counted, the other is what remains.
        let left_is_smaller = left.len() <= right.len();
        let smaller = self.histogram(if left_is_smaller { &left } else { &right });
        let rest = subtract(leaf.histogram, &smaller);
        let (left_histogram, right_histogram) = if left_is_smaller { (smaller, rest) } else { (rest, smaller) };
        (self.leaf(nodes.0, left, left_histogram), self.leaf(nodes.1, right, right_histogram))
    }

    fn leaf(&self, node: usize, rows: Vec<u32>, histogram: Histogram) -> Leaf {
        let sums = histogram.first().map_or([0.0; 3], |bins| bins.iter().copied().fold([0.0; 3], plus));
        let split = self.best_split(&histogram, sums);
        Leaf { node, rows, sums, histogram, split }
    }

    fn histogram(&self, rows: &[u32]) -> Histogram {
        let of_feature = |bins: &Vec<u8>| {
            let mut sums = vec![[0.0; 3]; BINS + 1];
            for &row in rows {
                let [slope, curve] = self.slopes[row as usize];
                let bin = &mut sums[usize::from(bins[row as usize])];
                *bin = plus(*bin, [slope, curve, 1.0]);
            }
            sums
        };
        self.binned.bins.par_iter().map(of_feature).collect()
    }

    fn best_split(&self, histogram: &Histogram, sums: Sums) -> Option<Split> {
        let of_feature: Vec<Option<Split>> =
            histogram.par_iter().enumerate().map(|(feature, bins)| self.best_of_feature(feature, bins, sums)).collect();
        let mut best: Option<Split> = None;
        for split in of_feature.into_iter().flatten() {
            if best.is_none_or(|best| split.gain > best.gain) {
                best = Some(split);
            }
        }
        best
    }

    fn best_of_feature(&self, feature: usize, bins: &[Sums], sums: Sums) -> Option<Split> {
        let value = |sums: Sums| sums[0] * sums[0] / (sums[1] + self.options.l2);
        // Counts are whole, but curves of a remainder may fall below 0 by rounding.
        let enough = |sums: Sums| sums[2] >= self.options.leaf_rows as f64 && sums[1] > 0.0;
        let unknown = bins[UNKNOWN];
        let whole = value(sums);
        let mut best: Option<Split> = None;
        let mut known = [0.0; 3];
        // The last bin to the left may be the last of all: then the unknown are told from the known.
        for (bin, &sums_of_bin) in bins.iter().enumerate().take(self.binned.borders[feature].len() + 1) {
            known = plus(known, sums_of_bin);
            for unknown_left in [false, true] {
                if unknown_left && unknown[2] == 0.0 {
                    continue;
                }
                let left = if unknown_left { plus(known, unknown) } else { known };
                let right = minus(sums, left);
                let gain = value(left) + value(right) - whole;
                if enough(left) && enough(right) && gain > 1e-9 && best.is_none_or(|best| gain > best.gain) {
                    best = Some(Split { gain, feature, bin, unknown_left });
                }
            }
        }
        best
    }
}

fn subtract(mut histogram: Histogram, other: &Histogram) -> Histogram {
    histogram.par_iter_mut().zip(other).for_each(|(bins, other)| {
        for (sums, other) in bins.iter_mut().zip(other) {
            *sums = minus(*sums, *other);
        }
    });
    histogram
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    /// Lists of 8 rows of three values; one row in four is wanted, where the first two are on the same side of 0. The third is known
    /// for the others alone.
    fn examples(lists: usize, seed: u64) -> Examples {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut examples = Examples::new(3);
        for _ in 0..lists {
            let (mut values, mut labels) = (Vec::new(), Vec::new());
            for row in 0..8 {
                let [a, b] = [0, 1].map(|_| rng.random::<f32>() - 0.5);
                let wanted = row % 2 == 0 && a * b > 0.0;
                let noise = if row % 2 == 0 { f32::NAN } else { rng.random::<f32>() };
                values.extend([a, b, noise]);
                labels.push(wanted);
            }
            examples.push(&values, &labels);
        }
        examples
    }

    #[test]
    fn an_interaction_and_what_is_not_known_are_learned_by_both_objectives() {
        let (train, held_out) = (examples(600, 1), examples(200, 2));
        for objective in [Objective::Binary, Objective::Lambda] {
            let options = BoostingOptions { objective, trees: 60, ..BoostingOptions::default() };
            let fitted = fit(&train, &held_out, &options).unwrap();
            let ndcg = fitted.held_out_ndcg.unwrap();
            assert!(ndcg > 0.95, "{objective:?}: {ndcg}");
            assert!(fitted.gains.iter().all(|gain| *gain > 0.0), "{:?}", fitted.gains);
            let scores: Vec<f64> = fitted.forest.score(&held_out.values).unwrap().into_iter().map(f64::from).collect();
            // The kept trees are those that were measured.
            assert!((held_out.ndcg(&scores).unwrap() - ndcg).abs() < 1e-4);
        }
    }

    #[test]
    fn trees_are_the_same_bits_for_any_number_of_threads() {
        let (train, held_out) = (examples(300, 3), examples(50, 4));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let options = BoostingOptions { objective: Objective::Lambda, trees: 20, ..BoostingOptions::default() };
            pool.install(|| fit(&train, &held_out, &options).unwrap().forest)
        };
        assert_eq!(on(1), on(2));
        assert_eq!(on(1), on(5));
    }

    #[test]
    fn impossible_examples_are_refused() {
        let mut all = Examples::new(1);
        all.push(&[1.0, 2.0], &[true, true]);
        let error = fit(&all, &Examples::default(), &BoostingOptions::default()).unwrap_err().to_string();
        assert!(error.contains("of 2 examples 2 are wanted"), "{error}");
        let train = examples(5, 1);
        let none = BoostingOptions { trees: 0, ..BoostingOptions::default() };
        assert!(fit(&train, &Examples::default(), &none).is_err());
        let torn = Examples { features: 2, ..train };
        assert!(fit(&torn, &Examples::default(), &BoostingOptions::default()).is_err());
    }

    proptest! {
        /// A stump on one feature against every border tried by hand.
        #[test]
        fn the_first_split_is_the_best_there_is(
            rows in prop::collection::vec((prop::option::of(-6_i8..6), any::<bool>()), 8..60),
        ) {
            let mut train = Examples::new(1);
            let values: Vec<f32> = rows.iter().map(|(value, _)| value.map_or(f32::NAN, f32::from)).collect();
            let labels: Vec<bool> = rows.iter().map(|(_, label)| *label).collect();
            train.push(&values, &labels);
            let options = BoostingOptions { trees: 1, leaves: 2, leaf_rows: 2, ..BoostingOptions::default() };
            let positives = train.positives();
            if positives > 0 && positives < labels.len() {
                let fitted = fit(&train, &Examples::default(), &options).unwrap();
                let base = (positives as f64 / (labels.len() - positives) as f64).ln();
                let slopes = logistic(&labels, &vec![base; labels.len()]);
                let value = |side: &[usize]| {
                    let [slope, curve] =
                        side.iter().fold([0.0, 0.0], |[a, b], &row| [a + slopes[row][0], b + slopes[row][1]]);
                    (side.len() >= 2).then(|| slope * slope / (curve + options.l2))
                };
                let all: Vec<usize> = (0..labels.len()).collect();
                let whole = value(&all).unwrap();
                let mut best = 0.0_f64;
                for border in -6..=6 {
                    for unknown_left in [false, true] {
                        let goes_left = |&row: &usize| {
                            if values[row].is_nan() { unknown_left } else { values[row] < border as f32 }
                        };
                        let (left, right): (Vec<usize>, Vec<usize>) = all.iter().partition(|row| goes_left(row));
                        if let (Some(left), Some(right)) = (value(&left), value(&right)) {
                            best = best.max(left + right - whole);
                        }
                    }
                }
                prop_assert!((fitted.gains[0] - best).abs() < 1e-9 + 1e-9 * best, "{} not {best}", fitted.gains[0]);
            }
        }
    }
}
