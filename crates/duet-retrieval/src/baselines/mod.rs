//! What every model has to beat, under the same contract and protocol.
//!
//! All take plain inputs, grouped by user ([`Interactions`]), and count distinct listeners, so that one listener's
//! thousand plays of an item weigh as one.

mod als;
mod bpr;
mod content;
mod decayed;
mod ease;
mod inverse;
mod item_knn;
mod lanes;
mod latent;
mod oracle;
mod popularity;
mod random;
mod ranking;
mod rows;
mod trending;

use duet_core::{Error, ItemIdx, Result};

use self::rows::Rows;
pub use self::{
    als::{Als, AlsOptions},
    bpr::{Bpr, BprOptions},
    content::{Content, ContentItems},
    decayed::{DEFAULT_HALF_LIFE_DAYS, DecayedPopularity},
    ease::{DEFAULT_LAMBDA, EASE_MAX_ITEMS, Ease},
    item_knn::{DEFAULT_NEIGHBOURS, ItemKnn, ItemKnnOptions, Weighting},
    oracle::Oracle,
    popularity::Popularity,
    random::Random,
    trending::Trending,
};

/// The distinct items of a history, ascending, so that sums over them depend on the set alone.
pub(crate) fn distinct(history: &[ItemIdx]) -> Vec<ItemIdx> {
    let mut items = history.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

/// Training interactions in compressed rows: user `u` has `items[offsets[u]..offsets[u + 1]]`, in time order.
#[derive(Debug, Clone, Copy)]
pub struct Interactions<'a> {
    offsets: &'a [usize],
    items: &'a [ItemIdx],
    timestamps_ms: &'a [i64],
    n_items: usize,
}

impl<'a> Interactions<'a> {
    /// Checks and wraps the slices. `timestamps_ms` (Unix, milliseconds) may be empty for sets without time.
    ///
    /// # Errors
    /// [`Error::Input`] if the offsets do not cover the items in ascending order, the lengths differ, or an item is
    /// beyond the catalogue.
    pub fn new(offsets: &'a [usize], items: &'a [ItemIdx], timestamps_ms: &'a [i64], n_items: usize) -> Result<Self> {
        let covers = offsets.first() == Some(&0) && offsets.last() == Some(&items.len());
        if !covers || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::input(format!(
                "offsets must rise from 0 to the number of interactions, {}",
                items.len()
            )));
        }
        if !timestamps_ms.is_empty() && timestamps_ms.len() != items.len() {
            return Err(Error::input(format!("{} timestamps for {} interactions", timestamps_ms.len(), items.len())));
        }
        if n_items > u32::MAX as usize {
            return Err(Error::input(format!("{n_items} items; at most {} fit an index", u32::MAX)));
        }
        if let Some(item) = items.iter().find(|item| item.index() >= n_items) {
            return Err(Error::input(format!("item {} is beyond the catalogue of {n_items} items", item.0)));
        }
        Ok(Self { offsets, items, timestamps_ms, n_items })
    }

    /// Users held.
    pub fn n_users(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Items of the catalogue, played or not.
    pub fn n_items(&self) -> usize {
        self.n_items
    }

    /// A user's items, with the positions they have among the interactions.
    fn user(&self, user: usize) -> (std::ops::Range<usize>, &'a [ItemIdx]) {
        let range = self.offsets[user]..self.offsets[user + 1];
        (range.clone(), &self.items[range])
    }

    /// Distinct listeners per item among interactions at or after `since_ms` (all, if there are no timestamps).
    pub fn popularity(&self, since_ms: i64) -> Vec<u32> {
        let mut counts = vec![0_u32; self.n_items];
        let mut last_listener = vec![u32::MAX; self.n_items];
        for user in 0..self.n_users() {
            let (range, items) = self.user(user);
            for (at, item) in range.zip(items) {
                let recent = self.timestamps_ms.get(at).is_none_or(|&time| time >= since_ms);
                if recent && last_listener[item.index()] != user as u32 {
                    last_listener[item.index()] = user as u32;
                    counts[item.index()] += 1;
                }
            }
        }
        counts
    }

    /// The distinct items of every user.
    fn distinct(&self) -> Rows {
        Rows::new((0..self.n_users()).map(|user| self.user(user).1), self.n_items)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn popularity_counts_listeners_not_plays() {
        let items = [0, 0, 1, 1, 2].map(ItemIdx);
        let interactions = Interactions::new(&[0, 3, 5], &items, &[1, 2, 3, 4, 5], 4).unwrap();
        assert_eq!(interactions.popularity(i64::MIN), vec![1, 2, 1, 0]);
        assert_eq!(interactions.popularity(4), vec![0, 1, 1, 0]);
    }

    #[test]
    fn impossible_slices_are_refused() {
        let items = [0, 1].map(ItemIdx);
        assert!(Interactions::new(&[0, 3], &items, &[], 2).is_err());
        assert!(Interactions::new(&[], &items, &[], 2).is_err());
        assert!(Interactions::new(&[0, 2, 1, 2], &items, &[], 2).is_err());
        assert!(Interactions::new(&[0, 2], &items, &[1], 2).is_err());
        assert!(Interactions::new(&[0, 2], &items, &[], 1).unwrap_err().to_string().contains("item 1"));
    }
}
