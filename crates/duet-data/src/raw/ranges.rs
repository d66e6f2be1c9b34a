//! A set of sequence numbers, kept as ranges.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sequence numbers as ranges that neither touch nor overlap. Written as `[[first, last], ...]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Ranges {
    /// First to last, both included.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// Adds all numbers from `first` to `last`, both included; nothing where `first` is above `last`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Every range that overlaps or touches is taken in; the usual case, right behind the last one, is one step.
        while let Some((&start, &end)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) || (end < first && first - end > 1) {
                break;
            }
            if start <= first && end >= last {
                return;
            }
            self.ranges.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.ranges.insert(first, last);
    }

    /// Adds every number of another set.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|(first, last)| self.insert(first, last));
    }

    /// The first number, from `from` on, that is not in the set; nothing if there is none.
    pub fn first_absent(&self, from: u64) -> Option<u64> {
        match self.ranges.range(..=from).next_back() {
            Some((_, last)) if *last >= from => last.checked_add(1),
            _ => Some(from),
        }
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// How many ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, last)| *last)
    }
}

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(list: Vec<(u64, u64)>) -> Self {
        let mut ranges = Self::default();
        list.into_iter().for_each(|(first, last)| ranges.insert(first, last));
        ranges
    }
}

impl From<Ranges> for Vec<(u64, u64)> {
    fn from(ranges: Ranges) -> Self {
        ranges.ranges.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(pairs in prop::collection::vec((0_u64..60, 0_u64..8), 0..40)) {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for (first, length) in pairs {
                ranges.insert(first, first + length);
                plain.extend(first..=first + length);
                for number in 0..70 {
                    prop_assert_eq!(ranges.contains(number), plain.contains(&number));
                    let absent = (number..).find(|number| !plain.contains(number));
                    prop_assert_eq!(ranges.first_absent(number), absent);
                }
            }
            let list: Vec<(u64, u64)> = ranges.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", list);
            prop_assert_eq!(ranges.last(), plain.last().copied());
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_trap() {
        let mut ranges = Ranges::default();
        ranges.insert(u64::MAX, u64::MAX);
        ranges.insert(0, 0);
        ranges.insert(1, u64::MAX - 1);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, u64::MAX)]);
        assert_eq!(ranges.first_absent(7), None);
        ranges.insert(3, 2);
        assert_eq!(ranges.len(), 1);
    }
}
