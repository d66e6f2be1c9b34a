//! The most listened items of all time: the baseline for a listener about whom nothing is known.

use duet_core::{ItemIdx, Result};

use super::{Interactions, ranking::Ranking};
use crate::recommender::{Query, Recommender, Scored};

/// Ranks by the number of distinct listeners in training; the score is that number.
#[derive(Debug, Clone)]
pub struct Popularity {
    ranking: Ranking,
}

impl Popularity {
    /// Counts the listeners.
    pub fn new(interactions: &Interactions<'_>) -> Self {
        Self::from_counts(&interactions.popularity(i64::MIN))
    }

    /// From counts per item that are known already.
    pub fn from_counts(counts: &[u32]) -> Self {
        let scores: Vec<f32> = counts.iter().map(|&count| count as f32).collect();
        Self { ranking: Ranking::new(&scores) }
    }
}

impl Recommender for Popularity {
    fn name(&self) -> &str {
        "popularity"
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
