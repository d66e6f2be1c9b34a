//! Memory for sorting: every sorter has its own.
//!
//! A sorter of DataFusion lends its memory to the merge that empties it, and takes it back, piece by piece. In a pool of several sorters,
//! such as [`FairSpillPool`](datafusion::execution::memory_pool::FairSpillPool), another one takes the pieces meanwhile, the merge finds
//! none, and the sort fails however much of it could go to disk (DataFusion issues 16979, 24739).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datafusion::{
    common::Result,
    execution::memory_pool::{
        GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, UnboundedMemoryPool,
    },
};

/// What DataFusion calls a sorter and its merge, before the number of the part in brackets.
const SORTER: &str = "ExternalSorter";
const MERGE: &str = "ExternalSorterMerge";

/// A pool in which each part of a plan has as much for its sorter and that sorter's merge. Who merges the parts holds a batch of each, and is
/// counted without a limit.
#[derive(Debug)]
pub(super) struct SortMemory {
    part_bytes: usize,
    /// By part, as DataFusion numbers it: `[0]`.
    parts: Mutex<HashMap<String, Arc<GreedyMemoryPool>>>,
    others: UnboundedMemoryPool,
}

impl SortMemory {
    /// A pool with so much for every part.
    pub(super) fn new(part_bytes: usize) -> Self {
        Self { part_bytes, parts: Mutex::default(), others: UnboundedMemoryPool::default() }
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<String, Arc<GreedyMemoryPool>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a sorter's part; nothing for other consumers.
    fn part(&self, consumer: &MemoryConsumer) -> Option<Arc<GreedyMemoryPool>> {
        let (kind, part) = consumer.name().split_at(consumer.name().find('[')?);
        if kind != SORTER && kind != MERGE {
            return None;
        }
        let mut parts = self.parts();
        if let Some(pool) = parts.get(part) {
            return Some(Arc::clone(pool));
        }
        let pool = Arc::new(GreedyMemoryPool::new(self.part_bytes));
        parts.insert(part.to_owned(), Arc::clone(&pool));
        Some(pool)
    }

    /// Calls `with` on the pool that the reservation belongs to.
    fn of<T>(&self, reservation: &MemoryReservation, with: impl FnOnce(&dyn MemoryPool) -> T) -> T {
        match self.part(reservation.consumer()) {
            Some(pool) => with(&*pool),
            None => with(&self.others),
        }
    }
}

impl fmt::Display for SortMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sort memory of {} bytes a part", self.part_bytes)
    }
}

impl MemoryPool for SortMemory {
    fn name(&self) -> &'static str {
        "sort memory"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of(reservation, |pool| pool.grow(reservation, additional));
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of(reservation, |pool| pool.shrink(reservation, shrink));
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.of(reservation, |pool| pool.try_grow(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.parts().values().map(|pool| pool.reserved()).sum::<usize>() + self.others.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Unknown
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_sorter_shares_with_its_own_merge_alone() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SortMemory::new(100));
        let consumer = |name: &str| MemoryConsumer::new(name).register(&pool);
        let (sorter, merge) = (consumer("ExternalSorter[0]"), consumer("ExternalSorterMerge[0]"));
        sorter.try_grow(60).unwrap();
        assert!(merge.try_grow(41).is_err());
        merge.try_grow(40).unwrap();
        // Another part takes nothing of what this one gives back.
        let other = consumer("ExternalSorter[10]");
        other.try_grow(100).unwrap();
        sorter.shrink(50);
        assert!(other.try_grow(1).is_err());
        merge.try_grow(50).unwrap();
        // What merges the parts has to hold a batch of each.
        let parts = consumer("SortPreservingMergeExec[0]");
        parts.try_grow(1_000).unwrap();
        assert_eq!(pool.reserved(), 1_200);
        drop((sorter, merge, other, parts));
        assert_eq!(pool.reserved(), 0);
    }
}
