//! Filters by their expressions, kept: the same few are asked for again and again, and making one reads the whole catalogue.
//!
//! What failed is kept too, so that a wrong filter costs no more than a right one when it is sent again.

use std::{collections::HashMap, sync::Arc};

use duet_core::{Error, Result};
use duet_retrieval::ItemFilter;

/// Filters or refusals by their expressions; the one not asked for the longest makes room.
#[derive(Debug)]
pub(crate) struct FilterCache {
    capacity: usize,
    /// By the expressions themselves: joined to one text, two lists of them could be taken for each other.
    entries: HashMap<Vec<String>, Entry>,
    /// Rises with every look.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    filter: std::result::Result<Arc<ItemFilter>, String>,
    asked: u64,
}

impl FilterCache {
    /// Keeps up to `capacity` filters; with 0 nothing is kept.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), clock: 0 }
    }

    /// What is kept for expressions.
    pub(crate) fn get(&mut self, key: &[String]) -> Option<Result<Arc<ItemFilter>>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.asked = self.clock;
        Some(entry.filter.clone().map_err(Error::Input))
    }

    /// Keeps a filter, or why there is none.
    pub(crate) fn put(&mut self, key: &[String], filter: &Result<Arc<ItemFilter>>) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(key) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.asked).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        let filter = filter.as_ref().map(Arc::clone).map_err(ToString::to_string);
        self.entries.insert(key.to_vec(), Entry { filter, asked: self.clock });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_makes_room() {
        let key = |expression: &str| [expression.to_owned()];
        let mut cache = FilterCache::new(2);
        let filter = |count| Ok(Arc::new(ItemFilter::all(count)));
        cache.put(&key("a"), &filter(1));
        cache.put(&key("b"), &Err(Error::input("no such value")));
        assert_eq!(cache.get(&key("a")).unwrap().unwrap().len(), 1);
        cache.put(&key("c"), &filter(3));
        assert!(cache.get(&key("b")).is_none());
        assert_eq!(cache.get(&key("a")).unwrap().unwrap().len(), 1);
        cache.put(&key("d"), &Err(Error::input("no such value")));
        assert!(cache.get(&key("c")).is_none());
        assert_eq!(cache.get(&key("d")).unwrap().unwrap_err().to_string(), "no such value");
        let mut none = FilterCache::new(0);
        none.put(&key("a"), &filter(1));
        assert!(none.get(&key("a")).is_none());
    }
}
