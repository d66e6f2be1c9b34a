//! Uniformly random lists, the same at every call: the floor of every table.

use duet_core::{ItemIdx, Result, mixing::splitmix64};
use rayon::prelude::*;

use crate::recommender::{Query, Recommender, Scored, all_but, check_item, check_k, select_dense};

/// Scores every item by a hash of seed, listener and item, in [0, 1).
///
/// A listener without a row is told apart by the history.
#[derive(Debug, Clone)]
pub struct Random {
    n_items: usize,
    seed: u64,
}

impl Random {
    /// Random lists over `n_items`.
    pub fn new(n_items: usize, seed: u64) -> Self {
        Self { n_items, seed }
    }

    fn scores(&self, stream: u64) -> Vec<f32> {
        let stream = splitmix64(self.seed ^ splitmix64(stream));
        // 24 bits fill an f32's significand: evenly spaced, below 1.
        (0..self.n_items as u64).map(|item| (splitmix64(stream ^ item) >> 40) as f32 / (1_u32 << 24) as f32).collect()
    }
}

impl Recommender for Random {
    fn name(&self) -> &str {
        "random"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        queries
            .par_iter()
            .map(|query| {
                query.check(self.n_items)?;
                let stream = match query.user {
                    Some(user) => u64::from(user.0),
                    None => query.history.iter().fold(1 << 40, |hash, item| splitmix64(hash ^ u64::from(item.0))),
                };
                Ok(select_dense(&self.scores(stream), query))
            })
            .collect()
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        check_k(k)?;
        check_item(item, self.n_items)?;
        Ok(select_dense(&self.scores((1 << 41) + u64::from(item.0)), &all_but(&[item], k)))
    }
}
