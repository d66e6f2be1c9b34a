//! Events of a key counted by day: how many there were before any day, without a running pass.

/// The days of each key's events, ascending. A count before a day is a binary search.
#[derive(Debug, Clone, Default)]
pub(super) struct DayCounts {
    keys: Vec<u64>,
    offsets: Vec<usize>,
    days: Vec<i32>,
}

impl DayCounts {
    /// From an event's key and day, in any order.
    pub(super) fn new(mut events: Vec<(u64, i32)>) -> Self {
        events.sort_unstable();
        let mut counts = Self { offsets: vec![0], ..Self::default() };
        counts.days.reserve_exact(events.len());
        for (key, day) in events {
            if counts.keys.last() != Some(&key) {
                if !counts.keys.is_empty() {
                    counts.offsets.push(counts.days.len());
                }
                counts.keys.push(key);
            }
            counts.days.push(day);
        }
        if !counts.keys.is_empty() {
            counts.offsets.push(counts.days.len());
        }
        counts
    }

    fn of(&self, key: u64) -> &[i32] {
        match self.keys.binary_search(&key) {
            Ok(at) => &self.days[self.offsets[at]..self.offsets[at + 1]],
            Err(_) => &[],
        }
    }

    /// Events of a key before a day.
    pub(super) fn before(&self, key: u64, day: i32) -> usize {
        self.of(key).partition_point(|at| *at < day)
    }

    /// Events of a key on the `days` days before a day.
    pub(super) fn last(&self, key: u64, days: i32, day: i32) -> usize {
        let of = self.of(key);
        of.partition_point(|at| *at < day) - of.partition_point(|at| *at < day - days)
    }

    /// The day of a key's first event, if it lies before a day.
    pub(super) fn first(&self, key: u64, day: i32) -> Option<i32> {
        self.of(key).first().copied().filter(|first| *first < day)
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
            for key in 0..6 {
                let count = |from: i32| events.iter().filter(|(k, at)| *k == key && *at < day && *at >= from).count();
                prop_assert_eq!(counts.before(key, day), count(i32::MIN));
                prop_assert_eq!(counts.last(key, days, day), count(day - days));
                let first = events.iter().filter(|(k, at)| *k == key && *at < day).map(|(_, at)| *at).min();
                prop_assert_eq!(counts.first(key, day), first);
            }
        }
    }
}
