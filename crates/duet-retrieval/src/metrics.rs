//! Ranking metrics at k of one listener's list, in binary relevance.
//!
//! With `h_r` = 1 if the item at rank r (from 1) is among the listener's T test items, and d_r = 1 / log2(r + 1):
//!
//! * Recall@k = sum(h_1..h_k) / T
//! * NDCG@k = sum(h_r d_r, r <= k) / sum(d_r, r <= min(k, T))
//! * HitRate@k = 1 if any of h_1..h_k, else 0
//! * MRR@k = 1 / rank of the first hit within k, else 0
//! * MAP@k: average precision = sum(h_r (h_1 + .. + h_r) / r, r <= k) / min(k, T)
//!
//! T counts test items that the catalogue does not know too: they can't be recommended, but were wanted. A list
//! shorter than k is read as filled with misses.

use duet_core::ItemIdx;
use serde::{Deserialize, Serialize};

/// The metrics, in the order of their columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the test items found.
    Recall,
    /// Normalised discounted cumulative gain.
    Ndcg,
    /// Whether anything was found.
    HitRate,
    /// Reciprocal rank of the first hit.
    Mrr,
    /// Average precision.
    Map,
}

impl Metric {
    /// All of them, in column order.
    pub const ALL: [Self; 5] = [Self::Recall, Self::Ndcg, Self::HitRate, Self::Mrr, Self::Map];

    /// The name used in tables and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recall => "recall",
            Self::Ndcg => "ndcg",
            Self::HitRate => "hit_rate",
            Self::Mrr => "mrr",
            Self::Map => "map",
        }
    }

    /// The column name at a cut-off, e.g. `ndcg@10`.
    pub fn at(self, k: usize) -> String {
        format!("{}@{k}", self.as_str())
    }
}

/// Column names for the cut-offs: for each k the metrics of [`Metric::ALL`].
pub fn columns(ks: &[usize]) -> Vec<String> {
    ks.iter().flat_map(|&k| Metric::ALL.map(|metric| metric.at(k))).collect()
}

/// The metrics of one list, one value per column of [`columns`].
///
/// `truth` holds the listener's test items without repeats, `unknown_truth` counts those beyond the catalogue.
/// All zero if there are none at all.
pub fn user_metrics(list: &[ItemIdx], truth: &[ItemIdx], unknown_truth: usize, ks: &[usize]) -> Vec<f64> {
    let wanted = truth.len() + unknown_truth;
    let deepest = ks.iter().copied().max().unwrap_or(0);
    let mut sorted = truth.to_vec();
    sorted.sort_unstable();
    let hits: Vec<bool> = list.iter().take(deepest).map(|item| sorted.binary_search(item).is_ok()).collect();
    ks.iter().flat_map(|&k| at_cutoff(&hits[..hits.len().min(k)], wanted, k)).collect()
}

fn at_cutoff(hits: &[bool], wanted: usize, k: usize) -> [f64; Metric::ALL.len()] {
    if wanted == 0 || k == 0 {
        return [0.0; Metric::ALL.len()];
    }
    let reachable = k.min(wanted);
    let (mut found, mut gain, mut precision, mut reciprocal) = (0.0, 0.0, 0.0, 0.0);
    for (at, _) in hits.iter().enumerate().filter(|(_, hit)| **hit) {
        let rank = (at + 1) as f64;
        if found == 0.0 {
            reciprocal = 1.0 / rank;
        }
        found += 1.0;
        gain += discount(at);
        precision += found / rank;
    }
    let ideal: f64 = (0..reachable).map(discount).sum();
    [found / wanted as f64, gain / ideal, if found > 0.0 { 1.0 } else { 0.0 }, reciprocal, precision / reachable as f64]
}

fn discount(at: usize) -> f64 {
    1.0 / ((at + 2) as f64).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(rows: &[u32]) -> Vec<ItemIdx> {
        rows.iter().copied().map(ItemIdx).collect()
    }

    #[test]
    fn hand_computed() {
        // Hits at ranks 1 and 3; three test items known, one unknown.
        let values = user_metrics(&items(&[7, 1, 9, 2]), &items(&[9, 7, 50]), 1, &[2, 4]);
        let log = |rank: f64| 1.0 / (rank + 1.0).log2();
        let expected = [
            0.25,
            log(1.0) / (log(1.0) + log(2.0)),
            1.0,
            1.0,
            0.5,
            0.5,
            (log(1.0) + log(3.0)) / (log(1.0) + log(2.0) + log(3.0) + log(4.0)),
            1.0,
            1.0,
            (1.0 + 2.0 / 3.0) / 4.0,
        ];
        for ((value, expected), name) in values.iter().zip(expected).zip(columns(&[2, 4])) {
            assert!((value - expected).abs() < 1e-12, "{name}: {value} instead of {expected}");
        }
    }

    #[test]
    fn edges() {
        let perfect = user_metrics(&items(&[3, 4]), &items(&[4, 3]), 0, &[10]);
        assert_eq!(perfect, vec![1.0; 5], "a short list that holds everything is perfect");
        assert_eq!(user_metrics(&[], &items(&[4]), 0, &[10]), vec![0.0; 5]);
        assert_eq!(user_metrics(&items(&[1]), &[], 3, &[10]), vec![0.0; 5]);
        assert_eq!(user_metrics(&items(&[1, 2, 3]), &items(&[3]), 0, &[3])[3], 1.0 / 3.0);
    }
}
