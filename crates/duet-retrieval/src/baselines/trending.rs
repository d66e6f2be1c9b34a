//! The most listened items of the last days of training.

use duet_core::{Error, ItemIdx, Result};

use super::{Interactions, ranking::Ranking};
use crate::recommender::{Query, Recommender, Scored};

const DAY_MS: f64 = 86_400_000.0;

/// Ranks by distinct listeners within a window of whole or broken days that ends at the last training interaction.
///
/// Every interaction of the window counts the same (no decay): one number, the window, is then all there is to
/// tune. Items with equally many recent listeners stand in the order of their all-time popularity: the score is the
/// recent count plus `0.5 * listeners / (most listeners)`. From 2^23 recent listeners on `f32` has no room left for
/// that fraction, and ties there fall back to the item order.
#[derive(Debug, Clone)]
pub struct Trending {
    ranking: Ranking,
}

impl Trending {
    /// Counts the window of `days`.
    ///
    /// # Errors
    /// [`Error::Input`] if the interactions have no timestamps or `days` is not a positive number.
    pub fn new(interactions: &Interactions<'_>, days: f64) -> Result<Self> {
        if !days.is_finite() || days <= 0.0 {
            return Err(Error::input(format!("trending: a window of {days} days; it must be a positive number")));
        }
        let Some(&last) = interactions.timestamps_ms.iter().max() else {
            return Err(Error::input("trending: the interactions have no timestamps"));
        };
        // The window is (last - days, last]; the cast saturates, so an absurdly long window means all time.
        let since = last.saturating_sub((days * DAY_MS) as i64).saturating_add(1);
        let recent = interactions.popularity(since);
        let total = interactions.popularity(i64::MIN);
        let most = total.iter().copied().max().unwrap_or(0).max(1) as f32;
        let scores: Vec<f32> =
            recent.iter().zip(&total).map(|(&recent, &total)| recent as f32 + 0.5 * (total as f32 / most)).collect();
        Ok(Self { ranking: Ranking::new(&scores) })
    }
}

impl Recommender for Trending {
    fn name(&self) -> &str {
        "trending"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.ranking.recommend(queries)
    }

    /// The most trending other items: a trend knows no likeness.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.ranking.similar(item, k)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_window_decides_and_popularity_breaks_ties() {
        let day = 86_400_000;
        // Item 0: three listeners long ago. Items 1 and 2: one recent listener each; 2 has an old one too.
        let items = [0, 1, 0, 2, 0, 2].map(ItemIdx);
        let times = [0, 10 * day, 0, day, 0, 10 * day];
        let interactions = Interactions::new(&[0, 2, 4, 6], &items, &times, 4).unwrap();
        let order = |days| {
            let trending = Trending::new(&interactions, days).unwrap();
            let query = Query { user: None, history: &[], k: 4, filter: None, exclude: &[] };
            let list = trending.recommend(&[query]).unwrap().remove(0);
            list.iter().map(|entry| entry.item.0).collect::<Vec<_>>()
        };
        assert_eq!(order(2.0), [2, 1, 0, 3]);
        assert_eq!(order(1e30), [0, 2, 1, 3]);
        assert!(Trending::new(&interactions, 0.0).is_err());
        assert!(Trending::new(&Interactions::new(&[0], &[], &[], 1).unwrap(), 7.0).is_err());
    }
}
