//! One user's positive events to rows: one per item and UTC day, divided into the training and the held-out part.

use duet_core::ItemIdx;
use hashbrown::{HashMap, HashSet};

use super::{day_file::DayEvent, rows::Rows};

/// How the rows of one kind of item are divided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Division<'a> {
    /// Row of the items table by row of the catalogue; nothing for items that the catalogue does not list before the cutoff.
    pub(super) table_rows: &'a [Option<u32>],
    /// The training part ends before this day.
    pub(super) cutoff_day: i32,
    /// The held-out period starts with this day, if anything is held out.
    pub(super) held_out_day: Option<i32>,
    /// Hold out the first row of a user with an item alone.
    pub(super) new_only: bool,
}

/// A user's rows about one kind of item.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ItemRows {
    /// Training part: rows of the items table, with times and weights.
    pub(super) items: Vec<ItemIdx>,
    pub(super) timestamps_ms: Vec<i64>,
    pub(super) weights: Vec<f32>,
    /// Held-out items: rows of the catalogue.
    pub(super) held_out: Vec<u32>,
    pub(super) counts: Rows,
}

/// The earliest event of a user, item and day, and the largest strength.
#[derive(Debug, Clone, Copy)]
struct Positive {
    at_ms: i64,
    /// Its place among the user's events.
    place: usize,
    strength: f32,
}

/// Rows in the making.
#[derive(Debug, Default)]
pub(super) struct Positives {
    by_item_and_day: HashMap<(u32, i32), Positive>,
    events: u64,
}

impl Positives {
    /// Adds an event that says a user likes the item at row `item` of the catalogue. Events come in order, `place` is theirs.
    pub(super) fn add(&mut self, item: u32, event: &DayEvent, place: usize, strength: f32) {
        self.events += 1;
        let new = Positive { at_ms: event.ts_ms, place, strength };
        // The first is the earliest.
        self.by_item_and_day
            .entry((item, event.day()))
            .and_modify(|row| row.strength = row.strength.max(strength))
            .or_insert(new);
    }

    /// The rows, in order of time.
    pub(super) fn divide(self, division: &Division<'_>) -> ItemRows {
        let mut out = ItemRows::default();
        out.counts.positive_events = self.events;
        let mut positives: Vec<((u32, i32), Positive)> = self.by_item_and_day.into_iter().collect();
        positives.sort_unstable_by_key(|(_, row)| row.place);
        let mut had = HashSet::new();
        for ((item, day), row) in positives {
            if day < division.cutoff_day {
                let Some(table_row) = division.table_rows[item as usize] else {
                    out.counts.not_yet_listed += 1;
                    continue;
                };
                had.insert(item);
                out.items.push(ItemIdx(table_row));
                out.timestamps_ms.push(row.at_ms);
                out.weights.push(row.strength);
                out.counts.train += 1;
            } else if division.held_out_day.is_none_or(|first| day < first) {
                had.insert(item);
                out.counts.outside += 1;
            } else if division.new_only && !had.insert(item) {
                out.counts.seen_before += 1;
            } else {
                out.held_out.push(item);
                out.counts.test += 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use duet_core::event::{EventType, ItemKind};

    use super::*;

    fn event(day: i32, hour: i64) -> DayEvent {
        DayEvent {
            ts_ms: i64::from(day) * 86_400_000 + hour * 3_600_000,
            event_type: EventType::Listen,
            item_kind: ItemKind::Song,
            item: None,
            position: None,
            request: None,
            ms_played: None,
        }
    }

    /// Days 0 to 2 train, day 3 is a gap, from 4 on is held out; item 2 is not listed.
    fn divide(new_only: bool) -> ItemRows {
        let mut positives = Positives::default();
        let events = [(0, 0, 1, 0.5), (0, 0, 5, 2.0), (0, 1, 2, 1.0), (2, 1, 3, 1.0), (1, 2, 2, 1.0), (3, 3, 2, 1.0)];
        let later = [(0, 4, 2), (0, 4, 3), (3, 5, 2), (1, 5, 3), (2, 5, 4), (1, 6, 3)];
        let later = later.map(|(item, day, hour)| (item, day, hour, 1.0));
        for (place, (item, day, hour, strength)) in events.into_iter().chain(later).enumerate() {
            positives.add(item, &event(day, hour), place, strength);
        }
        let table_rows = [Some(7), Some(4), None, Some(0)];
        positives.divide(&Division { table_rows: &table_rows, cutoff_day: 3, held_out_day: Some(4), new_only })
    }

    #[test]
    fn an_item_and_day_is_one_row_with_the_first_time_and_the_largest_strength() {
        let rows = divide(false);
        assert_eq!(rows.items, [7, 7, 4].map(ItemIdx));
        assert_eq!(rows.timestamps_ms, [(0, 1), (1, 2), (2, 2)].map(|(day, hour)| event(day, hour).ts_ms));
        assert_eq!(rows.weights, [2.0, 1.0, 1.0]);
        // Repeats on other days stay; what lies in the gap or is not listed goes.
        assert_eq!(rows.held_out, [0, 3, 1, 2, 1]);
        let counts = Rows { positive_events: 12, train: 3, test: 5, seen_before: 0, outside: 1, not_yet_listed: 1 };
        assert_eq!(rows.counts, counts);
    }

    #[test]
    fn only_what_was_never_had_is_held_out_where_that_is_asked() {
        let rows = divide(true);
        assert_eq!(rows.held_out, [2]);
        assert_eq!((rows.counts.test, rows.counts.seen_before), (1, 4));
        assert_eq!(rows.items, divide(false).items);
    }
}
