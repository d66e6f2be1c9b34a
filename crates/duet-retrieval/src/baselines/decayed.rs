//! Popularity that fades: a listen counts half after a half-life (DecayPop of Ji, Sun, Zhang & Li 2020).

use duet_core::{Error, ItemIdx, Result};

use super::{Interactions, ranking::Ranking};
use crate::recommender::{Query, Recommender, Scored};

/// Days until a listen counts half; a month, between the windows that are usual for trends and all of time.
pub const DEFAULT_HALF_LIFE_DAYS: f64 = 30.0;

const DAY_MS: f64 = 86_400_000.0;

/// Ranks by the sum over an item's listeners of `2^(-age / half-life)`, with the age of their last listen of it at the end of
/// training.
#[derive(Debug, Clone)]
pub struct DecayedPopularity {
    ranking: Ranking,
}

impl DecayedPopularity {
    /// Sums the faded listens.
    ///
    /// # Errors
    /// [`Error::Input`] if the interactions have no timestamps or the half-life is not a positive number.
    pub fn new(interactions: &Interactions<'_>, half_life_days: f64) -> Result<Self> {
        if !half_life_days.is_finite() || half_life_days <= 0.0 {
            return Err(Error::input(format!(
                "decayed-popularity: a half-life of {half_life_days} days; it must be a positive number"
            )));
        }
        let Some(&end) = interactions.timestamps_ms.iter().max() else {
            return Err(Error::input("decayed-popularity: the interactions have no timestamps"));
        };
        let mut sums = vec![0.0_f64; interactions.n_items()];
        // A user's items stand in time order, so the last one seen is the latest.
        let mut last = std::collections::BTreeMap::new();
        for user in 0..interactions.n_users() {
            let (range, items) = interactions.user(user);
            last.clear();
            last.extend(items.iter().copied().zip(interactions.timestamps_ms[range].iter().copied()));
            for (item, &time) in &last {
                sums[item.index()] += (-(end.saturating_sub(time) as f64) / DAY_MS / half_life_days).exp2();
            }
        }
        let scores: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
        Ok(Self { ranking: Ranking::new(&scores) })
    }
}

impl Recommender for DecayedPopularity {
    fn name(&self) -> &str {
        "decayed_popularity"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.ranking.recommend(queries)
    }

    /// The most popular other items: popularity knows no likeness.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.ranking.similar(item, k)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn equals_hand_computed_sums() {
        let day = 86_400_000;
        // Ten days: item 0 by two users at day 0 (one of them again at day 5), item 1 at day 10, item 2 at day 5.
        let items = [0, 0, 0, 2, 1].map(ItemIdx);
        let times = [0, 5 * day, 0, 5 * day, 10 * day];
        let interactions = Interactions::new(&[0, 2, 3, 5], &items, &times, 4).unwrap();
        let query = Query { user: None, history: &[], k: 4, filter: None, exclude: &[] };
        let list = |days| DecayedPopularity::new(&interactions, days).unwrap().recommend(&[query]).unwrap().remove(0);
        let found: Vec<(u32, f32)> = list(5.0).iter().map(|entry| (entry.item.0, entry.score)).collect();
        assert_eq!(found, [(1, 1.0), (0, 0.75), (2, 0.5), (3, 0.0)]);
        let found: Vec<u32> = list(1e9).iter().map(|entry| entry.item.0).collect();
        assert_eq!(found, [0, 1, 2, 3], "without decay it is popularity");
        assert!(DecayedPopularity::new(&interactions, -1.0).is_err());
        assert!(DecayedPopularity::new(&Interactions::new(&[0], &[], &[], 1).unwrap(), 7.0).is_err());
    }
}
