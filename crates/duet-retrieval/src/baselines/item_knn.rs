//! ItemKNN: items are alike if the same people listen to them (Sarwar et al. 2001; Deshpande & Karypis 2004).
//!
//! Likeness is, unless told otherwise ([`Weighting`]), the cosine of the items' binary listener vectors,
//! `c(i, j) / sqrt(n_i n_j)` with c the number of common listeners. Each item keeps its N best neighbours; an item scores the sum over the distinct items of the
//! history whose neighbour it is. On data this sparse it is a strong baseline, often above neural models.
//!
//! Building takes time proportional to the sum of squared history lengths, and memory for the neighbours plus one
//! row of counts a thread: co-occurrence is counted item by item and never held whole.

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Interactions, distinct, rows::Rows};
use crate::{
    recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense},
    topk::TopK,
};

/// Neighbours kept per item, as in the published comparisons (Ferrari Dacrema et al. 2021 search up to 1000).
pub const DEFAULT_NEIGHBOURS: usize = 200;

/// Popularity's weight in a score: breaks ties between items without a neighbour in the history, and nothing else.
const TIE_BREAK: f32 = 1e-9;

/// What makes items alike: the sum of the weights `h_u` of their common listeners, times a scale for each of the two.
///
/// `idf_u = ln(items) - ln(1 + distinct items of u)`, so that those who listen to everything say little. Formulas and the
/// constants of BM25 are those of the Python package `implicit` 0.7, on binary data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "weighting", rename_all = "snake_case")]
pub enum Weighting {
    /// Cosine of binary listener vectors: h = 1, scales `1 / sqrt(listeners)`.
    #[default]
    Cosine,
    /// Cosine of listener vectors weighted by idf.
    TfIdf,
    /// Product of BM25 weights `idf_u (k1 + 1) / (k1 (1 - b + b listeners / mean listeners) + 1)`.
    Bm25 {
        /// How soon more of the same stops to count.
        k1: f64,
        /// How much popular items are held back, 0 to 1.
        b: f64,
    },
}

impl Weighting {
    /// BM25 with its usual constants (Robertson & Zaragoza 2009).
    pub const BM25: Self = Self::Bm25 { k1: 1.2, b: 0.75 };

    fn name(self) -> &'static str {
        match self {
            Self::Cosine => "item_knn",
            Self::TfIdf => "item_knn_tfidf",
            Self::Bm25 { .. } => "item_knn_bm25",
        }
    }

    /// `h_u` of every user.
    fn of_users(self, by_user: &Rows) -> Vec<f64> {
        let items = (by_user.n_columns() as f64).ln();
        let idf = |user: usize| items - (1.0 + by_user.count(user) as f64).ln();
        match self {
            Self::Cosine => vec![1.0; by_user.len()],
            Self::TfIdf | Self::Bm25 { .. } => (0..by_user.len()).map(|user| idf(user) * idf(user)).collect(),
        }
    }

    /// The scale of every item, given the `h_u`.
    fn of_items(self, by_item: &Rows, users: &[f64]) -> Vec<f64> {
        let mean = by_item.entries() as f64 / by_item.len().max(1) as f64;
        let scale = |item: usize| match self {
            Self::Cosine | Self::TfIdf => {
                let squared: f64 = by_item.of(item).iter().map(|&user| users[user as usize]).sum();
                if squared > 0.0 { 1.0 / squared.sqrt() } else { 0.0 }
            }
            Self::Bm25 { k1, b } => {
                let length = 1.0 - b + b * by_item.count(item) as f64 / mean.max(f64::MIN_POSITIVE);
                (k1 + 1.0) / (k1 * length + 1.0)
            }
        };
        (0..by_item.len()).map(scale).collect()
    }
}

/// What to fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ItemKnnOptions {
    /// Neighbours kept of each item.
    pub neighbours: usize,
    /// What makes items alike.
    #[serde(flatten)]
    pub weighting: Weighting,
}

impl Default for ItemKnnOptions {
    fn default() -> Self {
        Self { neighbours: DEFAULT_NEIGHBOURS, weighting: Weighting::default() }
    }
}

/// The fitted neighbourhoods.
#[derive(Debug, Clone)]
pub struct ItemKnn {
    name: &'static str,
    /// Neighbours of each item, best first.
    neighbours: Vec<Vec<Scored>>,
    /// [`TIE_BREAK`] times the listeners of each item.
    base: Vec<f32>,
}

impl ItemKnn {
    /// Counts co-occurrence and keeps the best neighbours of each item.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range.
    pub fn new(interactions: &Interactions<'_>, options: ItemKnnOptions) -> Result<Self> {
        let ItemKnnOptions { neighbours, weighting } = options;
        if neighbours == 0 {
            return Err(Error::input("item-knn: neighbours is 0; it must be at least 1"));
        }
        if let Weighting::Bm25 { k1, b } = weighting
            && !(k1.is_finite() && k1 > 0.0 && (0.0..=1.0).contains(&b))
        {
            return Err(Error::input(format!("item-knn: k1 is {k1}, b is {b}; k1 must be positive, b from 0 to 1")));
        }
        let n_items = interactions.n_items();
        let by_user = interactions.distinct();
        let by_item = by_user.transpose();
        let weights = weighting.of_users(&by_user);
        let scales = weighting.of_items(&by_item, &weights);
        let neighbours = (0..n_items)
            .into_par_iter()
            .map_init(
                || (vec![0.0_f64; n_items], vec![false; n_items], Vec::new(), TopK::new(neighbours.min(n_items))),
                |(sums, is_touched, touched, top), item| {
                    for &user in by_item.of(item) {
                        for &other in by_user.of(user as usize) {
                            if !std::mem::replace(&mut is_touched[other as usize], true) {
                                touched.push(other);
                            }
                            sums[other as usize] += weights[user as usize];
                        }
                    }
                    for other in touched.drain(..) {
                        let common = std::mem::take(&mut sums[other as usize]);
                        is_touched[other as usize] = false;
                        if other as usize != item {
                            top.push((common * (scales[item] * scales[other as usize])) as f32, ItemIdx(other));
                        }
                    }
                    top.take_sorted()
                },
            )
            .collect();
        let base = (0..n_items).map(|item| TIE_BREAK * by_item.count(item) as f32).collect();
        Ok(Self { name: weighting.name(), neighbours, base })
    }

    /// The kept neighbours of an item with their likeness, best first; may be fewer than N.
    ///
    /// # Panics
    /// If `item` is beyond the catalogue.
    pub fn neighbours(&self, item: ItemIdx) -> &[Scored] {
        &self.neighbours[item.index()]
    }

    /// Adds up the neighbourhoods of the distinct items of `history` in `scores`, which starts and ends at zero.
    fn select(&self, history: &[ItemIdx], query: &Query<'_>, scores: &mut [f32]) -> Vec<Scored> {
        scores.fill(0.0);
        for item in distinct(history) {
            for neighbour in &self.neighbours[item.index()] {
                scores[neighbour.item.index()] += neighbour.score;
            }
        }
        for (score, base) in scores.iter_mut().zip(&self.base) {
            *score += base;
        }
        select_dense(scores, query)
    }
}

impl Recommender for ItemKnn {
    fn name(&self) -> &str {
        self.name
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Works from the history alone; an empty history gives the most popular items.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .par_iter()
            .map_init(
                || vec![0.0_f32; self.base.len()],
                |scores, query| {
                    query.check(self.base.len())?;
                    Ok(self.select(query.history, query, scores))
                },
            )
            .collect()
    }

    /// The neighbours, filled up with the most popular items beyond them.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.base.len())?;
        Ok(self.select(&[item], &all_but(&[item], k), &mut vec![0.0; self.base.len()]))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_dense_cosines(
            histories in prop::collection::vec(prop::collection::vec(0_u32..12, 0..10), 1..15),
            kept in 1_usize..14,
        ) {
            let mut offsets = vec![0];
            let mut items = Vec::new();
            for history in &histories {
                items.extend(history.iter().copied().map(ItemIdx));
                offsets.push(items.len());
            }
            let options = ItemKnnOptions { neighbours: kept, ..ItemKnnOptions::default() };
            let knn = ItemKnn::new(&Interactions::new(&offsets, &items, &[], 12).unwrap(), options).unwrap();
            let heard = |item: u32| histories.iter().filter(|history| history.contains(&item)).count() as f64;
            for item in 0..12 {
                let mut expected: Vec<Scored> = (0..12).filter(|&other| other != item).filter_map(|other| {
                    let common = histories.iter().filter(|h| h.contains(&item) && h.contains(&other)).count() as f64;
                    let score = (common * ((1.0 / heard(item).sqrt()) * (1.0 / heard(other).sqrt()))) as f32;
                    (common > 0.0).then_some(Scored { item: ItemIdx(other), score })
                }).collect();
                expected.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.item.cmp(&right.item)));
                expected.truncate(kept);
                prop_assert_eq!(knn.neighbours(ItemIdx(item)), &expected[..]);
            }
        }
    }

    #[test]
    fn weights_equal_hand_computed_ones() {
        // u0: 0 1, u1: 0 1 2, u2: 1 3, of 5 items; item 4 is nobody's. idf: ln 5 - ln 3, ln 5 - ln 4, ln 5 - ln 3.
        let items = [0, 1, 0, 1, 2, 1, 3].map(ItemIdx);
        let interactions = Interactions::new(&[0, 2, 5, 7], &items, &[], 5).unwrap();
        let likeness = |weighting, item: u32, other: u32| {
            let knn = ItemKnn::new(&interactions, ItemKnnOptions { neighbours: 5, weighting }).unwrap();
            let neighbour = knn.neighbours(ItemIdx(item)).iter().find(|neighbour| neighbour.item.0 == other);
            neighbour.map_or(0.0, |neighbour| f64::from(neighbour.score))
        };
        let (two, three) = ((5.0_f64 / 3.0).ln().powi(2), (5.0_f64 / 4.0).ln().powi(2));
        let tfidf = |common: f64, a: f64, b: f64| common / (a.sqrt() * b.sqrt());
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-6, "{value}, not {expected}");
        close(likeness(Weighting::TfIdf, 0, 1), tfidf(two + three, two + three, 2.0 * two + three));
        close(likeness(Weighting::TfIdf, 1, 3), tfidf(two, 2.0 * two + three, two));
        close(likeness(Weighting::TfIdf, 0, 4), 0.0);
        // 7 pairs over 5 items: 1.4 listeners on average.
        let gain = |listeners: f64| 2.2 / (1.2 * (0.25 + 0.75 * listeners / 1.4) + 1.0);
        close(likeness(Weighting::BM25, 0, 1), (two + three) * gain(2.0) * gain(3.0));
        close(likeness(Weighting::BM25, 2, 1), three * gain(1.0) * gain(3.0));
        let refused = |options| ItemKnn::new(&interactions, options).unwrap_err().to_string();
        assert!(refused(ItemKnnOptions { neighbours: 0, ..ItemKnnOptions::default() }).contains("neighbours is 0"));
        let weighting = Weighting::Bm25 { k1: 1.2, b: 1.5 };
        assert!(refused(ItemKnnOptions { neighbours: 3, weighting }).contains("b is 1.5"));
    }
}
