//! ItemKNN: items are alike if the same people listen to them (Sarwar et al. 2001; Deshpande & Karypis 2004).
//!
//! Likeness is the cosine of the items' binary listener vectors, `c(i, j) / sqrt(n_i n_j)` with c the number of
//! common listeners. Each item keeps its N best neighbours; an item scores the sum over the distinct items of the
//! history whose neighbour it is. On data this sparse it is a strong baseline, often above neural models.
//!
//! Building takes time proportional to the sum of squared history lengths, and memory for the neighbours plus one
//! row of counts a thread: co-occurrence is counted item by item and never held whole.

use duet_core::{ItemIdx, Result};
use rayon::prelude::*;

use super::Interactions;
use crate::{
    recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense},
    topk::TopK,
};

/// Neighbours kept per item, as in the published comparisons (Ferrari Dacrema et al. 2021 search up to 1000).
pub const DEFAULT_NEIGHBOURS: usize = 200;

/// Popularity's weight in a score: breaks ties between items without a neighbour in the history, and nothing else.
const TIE_BREAK: f32 = 1e-9;

/// The fitted neighbourhoods.
#[derive(Debug, Clone)]
pub struct ItemKnn {
    /// Neighbours of each item, best first.
    neighbours: Vec<Vec<Scored>>,
    /// [`TIE_BREAK`] times the listeners of each item.
    base: Vec<f32>,
}

impl ItemKnn {
    /// Counts co-occurrence and keeps the best `neighbours` of each item.
    pub fn new(interactions: &Interactions<'_>, neighbours: usize) -> Self {
        let n_items = interactions.n_items();
        let (offsets, items) = interactions.distinct();
        let listeners = Listeners::new(&offsets, &items, n_items);
        let norm: Vec<f64> = (0..n_items).map(|item| (listeners.of(item).len() as f64).sqrt()).collect();
        let neighbours = (0..n_items)
            .into_par_iter()
            .map_init(
                || (vec![0_u32; n_items], Vec::new(), TopK::new(neighbours.min(n_items))),
                |(counts, touched, top), item| {
                    for &user in listeners.of(item) {
                        for other in &items[offsets[user as usize]..offsets[user as usize + 1]] {
                            if counts[other.index()] == 0 {
                                touched.push(*other);
                            }
                            counts[other.index()] += 1;
                        }
                    }
                    for other in touched.drain(..) {
                        let common = std::mem::take(&mut counts[other.index()]);
                        if other.index() != item {
                            top.push((f64::from(common) / (norm[item] * norm[other.index()])) as f32, other);
                        }
                    }
                    top.take_sorted()
                },
            )
            .collect();
        let base = (0..n_items).map(|item| TIE_BREAK * listeners.of(item).len() as f32).collect();
        Self { neighbours, base }
    }

    /// The kept neighbours of an item with their cosines, best first; may be fewer than N.
    ///
    /// # Panics
    /// If `item` is beyond the catalogue.
    pub fn neighbours(&self, item: ItemIdx) -> &[Scored] {
        &self.neighbours[item.index()]
    }

    /// Adds up the neighbourhoods of the distinct items of `history` in `scores`, which starts and ends at zero.
    fn select(&self, history: &[ItemIdx], query: &Query<'_>, scores: &mut [f32]) -> Vec<Scored> {
        // Sorted, so that the order of f32 additions depends on the set alone.
        let mut distinct = history.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        scores.fill(0.0);
        for item in &distinct {
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

/// The users of every item, in compressed rows.
struct Listeners {
    offsets: Vec<usize>,
    users: Vec<u32>,
}

impl Listeners {
    fn new(offsets: &[usize], items: &[ItemIdx], n_items: usize) -> Self {
        let mut starts = vec![0_usize; n_items + 1];
        for item in items {
            starts[item.index() + 1] += 1;
        }
        for item in 0..n_items {
            starts[item + 1] += starts[item];
        }
        let mut next = starts.clone();
        let mut users = vec![0_u32; items.len()];
        for (user, pair) in offsets.windows(2).enumerate() {
            for item in &items[pair[0]..pair[1]] {
                users[next[item.index()]] = user as u32;
                next[item.index()] += 1;
            }
        }
        Self { offsets: starts, users }
    }

    fn of(&self, item: usize) -> &[u32] {
        &self.users[self.offsets[item]..self.offsets[item + 1]]
    }
}

impl Recommender for ItemKnn {
    fn name(&self) -> &str {
        "item_knn"
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
            let knn = ItemKnn::new(&Interactions::new(&offsets, &items, &[], 12).unwrap(), kept);
            let heard = |item: u32| histories.iter().filter(|history| history.contains(&item)).count() as f64;
            for item in 0..12 {
                let mut expected: Vec<Scored> = (0..12).filter(|&other| other != item).filter_map(|other| {
                    let common = histories.iter().filter(|h| h.contains(&item) && h.contains(&other)).count() as f64;
                    let score = (common / (heard(item).sqrt() * heard(other).sqrt())) as f32;
                    (common > 0.0).then_some(Scored { item: ItemIdx(other), score })
                }).collect();
                expected.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.item.cmp(&right.item)));
                expected.truncate(kept);
                prop_assert_eq!(knn.neighbours(ItemIdx(item)), &expected[..]);
            }
        }
    }
}
