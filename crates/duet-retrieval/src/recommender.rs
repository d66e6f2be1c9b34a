//! The contract of everything that recommends: one trait, one form of query, one form of answer.
//!
//! Every list is best first, holds no item twice and has exactly `min(k, allowed items that are not excluded)`
//! entries; scores are finite, and equal scores stand in the order of their [`ItemIdx`]. The answer depends on the
//! query and the recommender alone: not on the other queries of the call, nor on the number of threads.
//!
//! A query names its listener by [`UserIdx`] where the recommender knows users by row, and always carries the
//! history in time order, so that recommenders working from the history serve unknown listeners too.

use duet_core::{Error, ItemIdx, Result, UserIdx};

use crate::{filter::ItemFilter, topk::TopK};

/// One request for a list.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The listener's row, if there is one.
    pub user: Option<UserIdx>,
    /// What the listener played, oldest first; repeats allowed.
    pub history: &'a [ItemIdx],
    /// How many items are wanted; at least 1.
    pub k: usize,
    /// Which items may be recommended; `None` allows all.
    pub filter: Option<&'a ItemFilter>,
    /// Items that must not be recommended, sorted ascending without repeats.
    pub exclude: &'a [ItemIdx],
}

impl Query<'_> {
    /// Whether `item` may stand in the answer.
    pub fn allows(&self, item: ItemIdx) -> bool {
        self.filter.is_none_or(|filter| filter.contains(item)) && self.exclude.binary_search(&item).is_err()
    }

    /// Checks the query against a catalogue of `n_items`.
    ///
    /// # Errors
    /// [`Error::Input`] if `k` is 0, an item is beyond the catalogue, `exclude` is not sorted and unique, or the
    /// filter was made for another catalogue.
    pub fn check(&self, n_items: usize) -> Result<()> {
        check_k(self.k)?;
        if let Some(item) = self.history.iter().find(|item| item.index() >= n_items) {
            return Err(beyond("history", *item, n_items));
        }
        if self.exclude.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::input("exclude must be sorted ascending and hold no item twice"));
        }
        if let Some(item) = self.exclude.last().filter(|item| item.index() >= n_items) {
            return Err(beyond("exclude", *item, n_items));
        }
        check_filter(self.filter, n_items)
    }
}

pub(crate) fn check_k(k: usize) -> Result<()> {
    if k == 0 { Err(Error::input("k is 0; at least 1 item must be asked for")) } else { Ok(()) }
}

pub(crate) fn check_filter(filter: Option<&ItemFilter>, n_items: usize) -> Result<()> {
    match filter {
        Some(filter) if filter.len() != n_items => {
            Err(Error::input(format!("the filter was made for {} items, the catalogue has {n_items}", filter.len())))
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_item(item: ItemIdx, n_items: usize) -> Result<()> {
    if item.index() < n_items { Ok(()) } else { Err(beyond("item", item, n_items)) }
}

fn beyond(what: &str, item: ItemIdx, n_items: usize) -> Error {
    Error::input(format!("{what}: item {} is beyond the catalogue of {n_items} items", item.0))
}

/// An item with its score; larger is better. Scores of different recommenders are not comparable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The item's row.
    pub item: ItemIdx,
    /// Finite.
    pub score: f32,
}

/// Anything that turns queries into lists. See the module docs for what every implementation promises.
pub trait Recommender: Send + Sync {
    /// A short name for tables and files, e.g. `item_knn`.
    fn name(&self) -> &str;

    /// Whether the lists are the true best by the recommender's own score (false for approximate indexes).
    fn is_exact(&self) -> bool;

    /// One list per query, in the order of the queries.
    ///
    /// # Errors
    /// [`Error::Input`] if a query is impossible: see [`Query::check`].
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>>;

    /// The `k` items most like `item`, never `item` itself.
    ///
    /// # Errors
    /// [`Error::Input`] if `k` is 0 or `item` is beyond the catalogue.
    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>>;
}

impl<R: Recommender + ?Sized> Recommender for &R {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn is_exact(&self) -> bool {
        (**self).is_exact()
    }

    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        (**self).recommend(queries)
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        (**self).similar(item, k)
    }
}

/// The best allowed items of a dense score row `[n_items]`.
pub(crate) fn select_dense(scores: &[f32], query: &Query<'_>) -> Vec<Scored> {
    let mut top = TopK::new(query.k.min(scores.len()));
    for (row, &score) in scores.iter().enumerate() {
        if top.admits(score) && query.allows(ItemIdx::from(row)) {
            top.push(score, ItemIdx::from(row));
        }
    }
    top.into_sorted()
}

/// A query for the neighbours of an item: everything but the item itself.
pub(crate) fn all_but(exclude: &[ItemIdx; 1], k: usize) -> Query<'_> {
    Query { user: None, history: &[], k, filter: None, exclude }
}
