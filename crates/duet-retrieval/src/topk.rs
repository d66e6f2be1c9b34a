//! The exact top-k selector that every search and baseline shares.
//!
//! Score and item are packed into one `u64` whose integer order is "better": the score's bits made monotonic in the
//! upper half, the complement of the item in the lower (so that the lower item wins a tie). Keys are collected in a
//! buffer of twice k and cut back by a selection when it is full. That costs amortised constant time an accepted
//! item, where a binary heap pays log k; the threshold lags by at most k accepted items, which costs less.

use duet_core::ItemIdx;

use crate::recommender::Scored;

/// Keeps the best `k` of everything pushed.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    keys: Vec<u64>,
    /// The k-th best key at the last cut: nothing at or below it can enter. 0 before the first cut.
    bar: u64,
    /// The score of `bar`; scores below it can't enter. `f32::MIN` before the first cut.
    bar_score: f32,
}

/// Packs score and item so that the larger key is the better entry. `score` must not be NaN.
#[inline]
pub(crate) fn pack(score: f32, item: ItemIdx) -> u64 {
    // Adding zero turns -0.0 into 0.0: the two are equal scores.
    let bits = (score + 0.0).to_bits();
    let monotonic = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (u64::from(monotonic) << 32) | u64::from(!item.0)
}

/// The inverse of [`pack`].
#[inline]
pub(crate) fn unpack(key: u64) -> Scored {
    let monotonic = (key >> 32) as u32;
    let bits = if monotonic >> 31 == 1 { monotonic & !(1 << 31) } else { !monotonic };
    Scored { item: ItemIdx(!(key as u32)), score: f32::from_bits(bits) }
}

impl TopK {
    /// A selector of the best `k`; `k` should already be cut to the number of candidates, because it sizes a buffer.
    pub fn new(k: usize) -> Self {
        Self { k, keys: Vec::with_capacity(2 * k.min(1 << 16)), bar: 0, bar_score: f32::MIN }
    }

    /// Empties the selector for another use with `k`, keeping its buffer.
    pub fn reset(&mut self, k: usize) {
        self.k = k;
        self.keys.clear();
        self.bar = 0;
        self.bar_score = f32::MIN;
    }

    /// Whether an entry with `score` may still enter (ties may be refused by [`TopK::push`]).
    #[inline]
    pub fn admits(&self, score: f32) -> bool {
        score >= self.bar_score
    }

    /// The lowest score that may still enter; `f32::MIN` while everything may.
    #[inline]
    pub fn bar_score(&self) -> f32 {
        self.bar_score
    }

    /// Offers an entry. `score` must be finite, and an item must be offered once only.
    #[inline]
    pub fn push(&mut self, score: f32, item: ItemIdx) {
        debug_assert!(score.is_finite());
        let key = pack(score, item);
        if key > self.bar && self.k > 0 {
            self.keys.push(key);
            if self.keys.len() >= 2 * self.k {
                self.cut();
            }
        }
    }

    /// Cuts back to k entries and raises the bar to the k-th; nothing happens below k entries.
    ///
    /// Returns the k-th best key, or 0 where there are fewer than k entries.
    pub(crate) fn cut(&mut self) -> u64 {
        if self.k > 0 && self.keys.len() >= self.k {
            let (_, &mut bar, _) = self.keys.select_nth_unstable_by(self.k - 1, |left, right| right.cmp(left));
            self.keys.truncate(self.k);
            self.bar = bar;
            self.bar_score = unpack(bar).score;
        }
        self.bar
    }

    /// The best entries, best first; the selector is left empty.
    pub fn take_sorted(&mut self) -> Vec<Scored> {
        self.cut();
        self.keys.sort_unstable_by(|left, right| right.cmp(left));
        let sorted = self.keys.iter().map(|&key| unpack(key)).collect();
        self.reset(self.k);
        sorted
    }

    /// The best entries, best first.
    pub fn into_sorted(mut self) -> Vec<Scored> {
        self.take_sorted()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_full_sort(scores in prop::collection::vec(prop_oneof![-3_i32..3, any::<i32>()], 0..300), k in 0_usize..40) {
            // Few distinct small values make many ties; zero comes as -0.0 at odd places.
            let scores: Vec<f32> = scores.iter().enumerate().map(|(at, &score)| {
                if score == 0 && at % 2 == 1 { -0.0 } else { score as f32 }
            }).collect();
            let mut sorted: Vec<Scored> = scores.iter().enumerate()
                .map(|(row, &score)| Scored { item: ItemIdx::from(row), score }).collect();
            sorted.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.item.cmp(&right.item)));
            // total_cmp puts -0.0 below 0.0; the contract calls them equal.
            sorted.sort_by(|left, right| {
                right.score.partial_cmp(&left.score).expect("no NaN").then(left.item.cmp(&right.item))
            });
            sorted.truncate(k);
            let mut top = TopK::new(k);
            for (row, &score) in scores.iter().enumerate().rev() {
                if top.admits(score) {
                    top.push(score, ItemIdx::from(row));
                }
            }
            prop_assert_eq!(top.into_sorted(), sorted);
        }

        #[test]
        fn packing_is_monotonic_and_reversible(left in -1e30_f32..1e30, right in -1e30_f32..1e30, item: u32) {
            let entry = Scored { item: ItemIdx(item), score: left };
            prop_assert_eq!(unpack(pack(left, ItemIdx(item))), entry);
            if left < right {
                prop_assert!(pack(left, ItemIdx(0)) < pack(right, ItemIdx(u32::MAX)));
            }
        }
    }
}
