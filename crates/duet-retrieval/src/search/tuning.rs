//! How many lists an IVF index must scan to reach a recall floor, measured on held-out query vectors.

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{IvfIndex, SearchRequest};
use crate::recommender::Scored;

/// What was measured at the chosen number of lists.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// The recall asked for.
    pub floor: f64,
    /// Query vectors used.
    pub queries: usize,
    /// Lists scanned.
    pub nprobe: usize,
    /// Mean share of the exact 10 best that the index found.
    pub recall_at_10: f64,
    /// The same for the 100 best.
    pub recall_at_100: f64,
    /// The worst single query at 10.
    pub worst_at_10: f64,
    /// Queries with a recall at 10 under 0.5: a mean hides listeners whose whole taste is missed.
    pub below_half: usize,
}

const SHALLOW: usize = 10;
const DEEP: usize = 100;

impl IvfIndex {
    /// Sets the smallest number of lists whose recall@10 and recall@100 reach `floor` on `queries` `[n, dim]`.
    ///
    /// The queries should be user vectors that were not used for training. The truth is the index's own answer with
    /// all lists, which equals exact search; so a floor up to 1 can always be reached, at worst by scanning all.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no queries, they are impossible, or `floor` is not in (0, 1].
    pub fn tune(&mut self, queries: &[f32], floor: f64) -> Result<Tuning> {
        if queries.is_empty() || !(floor > 0.0 && floor <= 1.0) {
            return Err(Error::input(format!(
                "tuning needs held-out query vectors and a recall floor in (0, 1]; got {} components and {floor}",
                queries.len()
            )));
        }
        let requests = vec![SearchRequest::top(DEEP); queries.len() / self.vectors.dim];
        let exact = self.search_with(queries, &requests, self.n_lists())?;
        let measure = |nprobe| -> Result<Tuning> {
            let found = self.search_with(queries, &requests, nprobe)?;
            Ok(compare(&exact, &found, floor, nprobe))
        };
        let passes = |tuning: &Tuning| tuning.recall_at_10 >= floor && tuning.recall_at_100 >= floor;
        // `low` fails (0 lists find nothing); `best` passes.
        let mut low = 0;
        let mut best = measure(1)?;
        while !passes(&best) {
            low = best.nprobe;
            best = measure((2 * best.nprobe).min(self.n_lists()))?;
        }
        while best.nprobe - low > 1 {
            let middle = measure(low + (best.nprobe - low) / 2)?;
            if passes(&middle) {
                best = middle;
            } else {
                low = middle.nprobe;
            }
        }
        self.nprobe = best.nprobe;
        self.tuning = Some(best);
        Ok(best)
    }
}

fn compare(exact: &[Vec<Scored>], found: &[Vec<Scored>], floor: f64, nprobe: usize) -> Tuning {
    let queries = exact.len();
    let mut tuning =
        Tuning { floor, queries, nprobe, recall_at_10: 0.0, recall_at_100: 0.0, worst_at_10: 1.0, below_half: 0 };
    for (exact, found) in exact.iter().zip(found) {
        let shallow = recall(exact, found, SHALLOW);
        tuning.recall_at_10 += shallow / queries as f64;
        tuning.recall_at_100 += recall(exact, found, DEEP) / queries as f64;
        tuning.worst_at_10 = tuning.worst_at_10.min(shallow);
        tuning.below_half += usize::from(shallow < 0.5);
    }
    // n times 1 / n need not be 1.
    tuning.recall_at_10 = snap(tuning.recall_at_10);
    tuning.recall_at_100 = snap(tuning.recall_at_100);
    tuning
}

fn snap(recall: f64) -> f64 {
    if recall > 1.0 - 1e-9 { 1.0 } else { recall }
}

/// Share of the first `k` of `exact` that are among the first `k` of `found`.
fn recall(exact: &[Scored], found: &[Scored], k: usize) -> f64 {
    let exact = &exact[..k.min(exact.len())];
    let mut items: Vec<_> = found.iter().take(k).map(|entry| entry.item).collect();
    items.sort_unstable();
    let hits = exact.iter().filter(|entry| items.binary_search(&entry.item).is_ok()).count();
    hits as f64 / exact.len().max(1) as f64
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::{search::IvfOptions, vectors::Vectors};

    #[test]
    fn reaches_the_floor_with_the_fewest_lists() {
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(2);
        let mut random = |rows: usize| (0..rows * 16).map(|_| rng.random_range(-1.0_f32..1.0)).collect::<Vec<_>>();
        let vectors = Arc::new(Vectors::new(16, random(4000)).unwrap());
        let queries = random(50);
        let mut index = IvfIndex::new(vectors, &IvfOptions::default()).unwrap();
        let loose = index.tune(&queries, 0.8).unwrap();
        let tight = index.tune(&queries, 1.0).unwrap();
        assert!(loose.nprobe < tight.nprobe && loose.recall_at_10 >= 0.8 && loose.recall_at_100 >= 0.8);
        assert_eq!((tight.recall_at_10, tight.recall_at_100, tight.below_half), (1.0, 1.0, 0));
        assert_eq!((index.nprobe(), index.tuning()), (tight.nprobe, Some(&tight)));
        // One list fewer misses the floor.
        let requests = vec![SearchRequest::top(DEEP); 50];
        let exact = index.search_with(&queries, &requests, index.n_lists()).unwrap();
        let fewer = index.search_with(&queries, &requests, loose.nprobe - 1).unwrap();
        let fewer = compare(&exact, &fewer, 0.8, loose.nprobe - 1);
        assert!(fewer.recall_at_10 < 0.8 || fewer.recall_at_100 < 0.8, "{fewer:?}");
        assert!(index.tune(&[], 0.9).is_err());
        assert!(index.tune(&queries, 1.1).is_err());
        assert!(index.tune(&queries, f64::NAN).is_err());
    }
}
