//! One ranking of the whole catalogue, the same for every listener.

use duet_core::{ItemIdx, Result};

use crate::recommender::{Query, Scored, all_but, check_item, check_k};

/// Items with finite scores, best first, ties by the lower item.
#[derive(Debug, Clone)]
pub(super) struct Ranking {
    entries: Vec<Scored>,
}

impl Ranking {
    pub(super) fn new(scores: &[f32]) -> Self {
        let mut entries: Vec<Scored> =
            scores.iter().enumerate().map(|(row, &score)| Scored { item: ItemIdx::from(row), score }).collect();
        // Stable: equal scores keep the order of the items.
        entries.sort_by(|left, right| right.score.total_cmp(&left.score));
        Self { entries }
    }

    pub(super) fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .iter()
            .map(|query| {
                query.check(self.entries.len())?;
                Ok(self.entries.iter().filter(|entry| query.allows(entry.item)).take(query.k).copied().collect())
            })
            .collect()
    }

    pub(super) fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.entries.len())?;
        let exclude = [item];
        let query = all_but(&exclude, k);
        Ok(self.entries.iter().filter(|entry| query.allows(entry.item)).take(k).copied().collect())
    }
}
