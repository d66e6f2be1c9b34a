//! How far a partition is read, and how much of that is durable.

use crate::raw::Ranges;

/// A partition. All numbers are offsets.
#[derive(Debug)]
pub(super) struct Partition {
    /// Index of its topic among the source's.
    pub(super) topic: usize,
    /// Its number in the topic.
    pub(super) number: i32,
    /// Whether it is read: whether the rest means something.
    pub(super) started: bool,
    /// Where reading goes on: every event below was handed out, or is in the zone.
    pub(super) next: u64,
    /// Behind the last event that was handed out.
    handed: u64,
    /// What is in the zone, with the offsets between that belong to no event.
    durable: Ranges,
    /// Where the partition ended when it was opened.
    pub(super) target: u64,
    /// Where it ended when that was last asked.
    pub(super) end: u64,
    /// What the group was last told.
    told: u64,
}

impl Partition {
    pub(super) fn new(topic: usize, number: i32) -> Self {
        let durable = Ranges::default();
        Self { topic, number, started: false, next: 0, handed: 0, durable, target: 0, end: 0, told: 0 }
    }

    /// Reading begins at `next`; what lies below is in the zone, or gone.
    pub(super) fn begin(&mut self, next: u64, end: u64, committed: &Ranges) {
        self.durable = committed.clone();
        (self.started, self.target, self.end) = (true, end, end);
        self.skip_to(next);
    }

    /// Goes on at `next`: nothing below will be handed out.
    pub(super) fn skip_to(&mut self, next: u64) {
        if next > self.next {
            self.durable.insert(self.next, next - 1);
            self.next = next;
        }
        self.handed = self.handed.max(next);
    }

    /// Takes an event; gives the first offset that it accounts for: its own, or the first of a gap.
    pub(super) fn hand_out(&mut self, offset: u64) -> u64 {
        let first = self.next.min(offset);
        self.next = self.next.max(offset + 1);
        self.handed = self.handed.max(offset + 1);
        first
    }

    /// The client is past offsets that hold no event.
    pub(super) fn pass(&mut self, position: u64) {
        self.next = self.next.max(position);
    }

    /// The offsets of an event that is durable now.
    pub(super) fn keep(&mut self, first: u64, last: u64) {
        self.durable.insert(first, last);
    }

    /// Every event below is in the zone.
    pub(super) fn durable_until(&self) -> u64 {
        let until = self.durable.first_absent(0).unwrap_or(u64::MAX);
        if until >= self.handed { until.max(self.next) } else { until }
    }

    /// What the group is to be told now, if it is more than it was told before.
    pub(super) fn tell(&mut self) -> Option<u64> {
        let until = self.durable_until();
        (self.started && until > self.told).then(|| {
            self.told = until;
            until
        })
    }

    /// Offsets that were not handed out.
    pub(super) fn waiting(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_durable_follows_the_zone_and_not_what_was_handed_out() {
        let mut partition = Partition::new(0, 0);
        // The zone has a hole at 3 and 4.
        partition.begin(3, 10, &vec![(0, 2), (5, 6)].into());
        assert_eq!((partition.durable_until(), partition.waiting()), (3, 7));
        assert_eq!((3..7).map(|offset| partition.hand_out(offset)).collect::<Vec<_>>(), [3, 4, 5, 6]);
        // 5 and 6 are known and acknowledged before 3 and 4 are durable.
        partition.keep(5, 5);
        partition.keep(6, 6);
        assert_eq!(partition.tell(), Some(3));
        partition.keep(3, 3);
        partition.keep(4, 4);
        assert_eq!((partition.tell(), partition.tell()), (Some(7), None));
        // A gap of two, and a control record behind the last event.
        assert_eq!(partition.hand_out(9), 7);
        partition.pass(11);
        assert_eq!((partition.durable_until(), partition.waiting()), (7, 0));
        partition.keep(7, 9);
        assert_eq!(partition.tell(), Some(11));
    }

    #[test]
    fn what_is_gone_is_not_waited_for() {
        let mut partition = Partition::new(0, 0);
        partition.begin(500, 500, &Ranges::default());
        assert_eq!((partition.durable_until(), partition.waiting(), partition.next), (500, 0, 500));
        assert_eq!(partition.hand_out(500), 500);
        partition.skip_to(600);
        assert_eq!((partition.hand_out(600), partition.durable_until()), (600, 500));
        partition.keep(500, 500);
        partition.keep(600, 600);
        assert_eq!(partition.durable_until(), 601);
    }
}
