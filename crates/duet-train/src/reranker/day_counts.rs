//! Events of a key counted by day: how many there were before any day, without a running pass.

use std::ops::Range;

/// The days of each key's events, ascending. A count before a day is a binary search.
#[derive(Debug, Clone, Default)]
pub(super) struct DayCounts {
    keys: Vec<u64>,
    offsets: Vec<usize>,
    days: Vec<i32>,
}

/// The days of the events of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Days<'a>(&'a [i32]);

impl DayCounts {
    /// From an event's key and day, in any order.
    pub(super) fn new(mut events: Vec<(u64, i32)>) -> Self {
        events.sort_unstable();
        let mut counts = Self::default();
        counts.days.reserve_exact(events.len());
        for (key, day) in events {
            if counts.keys.last() != Some(&key) {
                counts.keys.push(key);
                counts.offsets.push(counts.days.len());
            }
            counts.days.push(day);
        }
        counts.offsets.push(counts.days.len());
        counts
    }

    /// Where the keys of a range stand, for [`DayCounts::of_some`]: what many searches have in common.
    pub(super) fn some(&self, keys: Range<u64>) -> Range<usize> {
        let place = |key: u64| self.keys.partition_point(|other| *other < key);
        place(keys.start)..place(keys.end)
    }

    /// The events of a key that stands in a part of the keys.
    pub(super) fn of_some(&self, some: Range<usize>, key: u64) -> Days<'_> {
        match self.keys[some.clone()].binary_search(&key) {
            Ok(at) => Days(&self.days[self.offsets[some.start + at]..self.offsets[some.start + at + 1]]),
            Err(_) => Days(&[]),
        }
    }

    /// The events of a key.
    pub(super) fn of(&self, key: u64) -> Days<'_> {
        self.of_some(0..self.keys.len(), key)
    }
}

impl Days<'_> {
    /// Events.
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    /// Events before a day.
    pub(super) fn before(self, day: i32) -> usize {
        self.0.partition_point(|at| *at < day)
    }

    /// Events on the `days` days before a day.
    pub(super) fn last(self, days: i32, day: i32) -> usize {
        self.before(day) - self.before(day - days)
    }

    /// The day of the first event, if it lies before a day.
    pub(super) fn first(self, day: i32) -> Option<i32> {
        self.0.first().copied().filter(|first| *first < day)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_those_of_a_walk(
            events in prop::collection::vec((0_u64..5, -3_i32..12), 0..60), day in -4_i32..14, days in 0_i32..6,
        ) {
            let counts = DayCounts::new(events.clone());
            let some = counts.some(1..4);
            for key in 0..6 {
                let count = |from: i32| events.iter().filter(|(k, at)| *k == key && *at < day && *at >= from).count();
                prop_assert_eq!(counts.of(key).before(day), count(i32::MIN));
                prop_assert_eq!(counts.of(key).last(days, day), count(day - days));
                let first = events.iter().filter(|(k, at)| *k == key && *at < day).map(|(_, at)| *at).min();
                prop_assert_eq!(counts.of(key).first(day), first);
                if (1..4).contains(&key) {
                    prop_assert_eq!(counts.of_some(some.clone(), key).before(day), count(i32::MIN));
                }
            }
        }
    }
}
