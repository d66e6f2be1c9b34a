//! Which items of a catalogue may be recommended: a bitmap with its count.
//!
//! Filters are applied inside a search, so that K results come back whenever K exist. One bit per [`ItemIdx`]; a
//! filter belongs to the catalogue size it was made for.

use duet_core::{Error, ItemIdx, Result};
use fixedbitset::FixedBitSet;

/// A set of allowed items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFilter {
    allowed: FixedBitSet,
    count: usize,
}

impl ItemFilter {
    /// Allows every one of `n_items`.
    pub fn all(n_items: usize) -> Self {
        let mut allowed = FixedBitSet::with_capacity(n_items);
        allowed.insert_range(..);
        Self { allowed, count: n_items }
    }

    /// Allows the items for which `predicate` holds.
    pub fn from_predicate(n_items: usize, mut predicate: impl FnMut(ItemIdx) -> bool) -> Self {
        let mut allowed = FixedBitSet::with_capacity(n_items);
        for row in 0..n_items {
            allowed.set(row, predicate(ItemIdx::from(row)));
        }
        Self::from_bits(allowed)
    }

    /// Allows the listed items; repeats do no harm.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first item beyond the catalogue.
    pub fn from_items(n_items: usize, items: impl IntoIterator<Item = ItemIdx>) -> Result<Self> {
        let mut allowed = FixedBitSet::with_capacity(n_items);
        for item in items {
            if item.index() >= n_items {
                return Err(Error::input(format!("item {} is beyond the catalogue of {n_items} items", item.0)));
            }
            allowed.insert(item.index());
        }
        Ok(Self::from_bits(allowed))
    }

    fn from_bits(allowed: FixedBitSet) -> Self {
        let count = allowed.count_ones(..);
        Self { allowed, count }
    }

    /// The items allowed by both.
    ///
    /// # Errors
    /// [`Error::Input`] if the two were made for catalogues of different sizes.
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        if self.len() != other.len() {
            return Err(Error::input(format!("filters over {} and {} items can't be joined", self.len(), other.len())));
        }
        let mut allowed = self.allowed.clone();
        allowed.intersect_with(&other.allowed);
        Ok(Self::from_bits(allowed))
    }

    /// Whether `item` is allowed; false beyond the catalogue.
    #[inline]
    pub fn contains(&self, item: ItemIdx) -> bool {
        self.allowed.contains(item.index())
    }

    /// How many items are allowed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The size of the catalogue.
    pub fn len(&self) -> usize {
        self.allowed.len()
    }

    /// Whether the catalogue is empty (not: whether nothing is allowed, which is `count() == 0`).
    pub fn is_empty(&self) -> bool {
        self.allowed.len() == 0
    }

    /// The allowed items, ascending.
    pub fn items(&self) -> impl Iterator<Item = ItemIdx> + '_ {
        self.allowed.ones().map(ItemIdx::from)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn counts_and_intersections() {
        let even = ItemFilter::from_predicate(100, |item| item.0 % 2 == 0);
        let third = ItemFilter::from_items(100, (0..100).step_by(3).map(ItemIdx)).unwrap();
        let both = even.intersection(&third).unwrap();
        assert_eq!((even.count(), third.count(), both.count()), (50, 34, 17));
        assert!(both.items().all(|item| item.0 % 6 == 0));
        assert_eq!(ItemFilter::all(100).intersection(&even).unwrap(), even);
        assert!(even.intersection(&ItemFilter::all(99)).is_err());
        assert!(ItemFilter::from_items(3, [ItemIdx(3)]).unwrap_err().to_string().contains("item 3"));
        assert!(!even.contains(ItemIdx(100)));
    }
}
