//! What listeners did lately: what of it is later than their history in the bundle, the next list must reflect.
//!
//! What counts is what counts for `duet prepare`, so that a live history is what training would have made of it:
//! * a click on an artist or following one; one entry an artist and UTC day, at the earliest event;
//! * a song that was heard counts for its artist there, and for nothing here: a bundle does not say which artist a song
//!   is of. Impressions, skips and unfollowing count in neither.
//!
//! Bounded in users (the one whose last event came longest ago is dropped first), in entries a user (the oldest go) and in
//! the ids of items that are kept. Kept by the model's user id. An entry is there once however often its event is noted, so that the journal
//! can be read again at any time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use duet_core::event::{Event, EventType, ItemKind};
use duet_data::accounts::UserKey;

const DAY_MS: i64 = 86_400_000;
/// Users a shard, about: with fewer users there are fewer shards, for each has its own oldest user.
const SHARD_USERS: usize = 1_024;
/// So many threads can record at the same time.
const MAX_SHARDS: usize = 64;
/// Item ids that are kept before those in no history are looked for.
const FIRST_SWEEP: usize = 1 << 16;

/// Whether `duet prepare` would put the event into the artists' timeline, as far as a bundle lets us know.
pub fn counts(event: &Event) -> bool {
    matches!((event.event_type, event.item_kind), (EventType::Click | EventType::Follow, ItemKind::Artist))
}

/// The live histories of all listeners.
#[derive(Debug)]
pub struct LiveHistories {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    users_per_shard: usize,
    items_per_user: usize,
    names: Names,
    /// Rises with every event that comes: the order in which listeners were active.
    came: AtomicI64,
    /// The same for events that are read from the journal, far below: they came before all others.
    read: AtomicI64,
}

#[derive(Debug, Default)]
struct Shard {
    users: HashMap<Arc<str>, History>,
    /// Users by when they were last active.
    by_activity: BTreeMap<i64, Arc<str>>,
}

#[derive(Debug, Default)]
struct History {
    /// In order of time.
    entries: Vec<Entry>,
    active: i64,
}

#[derive(Debug, Clone)]
struct Entry {
    at_ms: i64,
    item: Arc<str>,
}

impl LiveHistories {
    /// Keeps at most about `users` histories of at most `items` entries.
    pub fn new(users: usize, items: usize) -> Self {
        let shards = (users / SHARD_USERS).clamp(1, MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            users_per_shard: users.div_ceil(shards),
            items_per_user: items,
            names: Names::new(FIRST_SWEEP),
            came: AtomicI64::new(0),
            read: AtomicI64::new(i64::MIN),
        }
    }

    /// Notes an event that has come, under the model's id of whoever did it; does nothing if it does not [count](counts).
    pub fn note(&self, user_key: Option<&UserKey>, event: &Event) {
        self.note_in(&self.came, user_key, event);
    }

    /// As [`note`](Self::note), of an event that is read from the journal, maybe not for the first time. Where there are too many users, it
    /// is those of whom only such events are known that are dropped first.
    pub fn note_read(&self, user_key: Option<&UserKey>, event: &Event) {
        self.note_in(&self.read, user_key, event);
    }

    fn note_in(&self, order: &AtomicI64, user_key: Option<&UserKey>, event: &Event) {
        match user_key {
            // Most events are impressions: nothing is hashed for them.
            Some(key) if counts(event) => {
                self.record_in(order, &key.pseudonym_bytes(&event.user_id).to_string(), event)
            }
            Some(_) => {}
            None => self.record_in(order, &event.user_id, event),
        }
    }

    fn record_in(&self, order: &AtomicI64, user: &str, event: &Event) {
        if !counts(event) || self.users_per_shard == 0 || self.items_per_user == 0 {
            return;
        }
        let entry = Entry { at_ms: event.ts.timestamp_millis(), item: self.names.get(&event.item_id) };
        let now = order.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(user);
        let Shard { users, by_activity } = &mut *shard;
        let (name, active) = match users.get_key_value(user) {
            Some((name, history)) => {
                by_activity.remove(&history.active);
                // What is read again is no new activity.
                (Arc::clone(name), history.active.max(now))
            }
            None => (Arc::from(user), now),
        };
        let history = users.entry(Arc::clone(&name)).or_default();
        history.active = active;
        history.insert(entry, self.items_per_user);
        by_activity.insert(active, name);
        if users.len() > self.users_per_shard
            && let Some((_, oldest)) = by_activity.pop_first()
        {
            users.remove(&oldest);
        }
    }

    /// The items of a user's entries later than `after_ms`, oldest first.
    pub fn since(&self, user: &str, after_ms: i64) -> Vec<Arc<str>> {
        let shard = self.shard(user);
        let Some(history) = shard.users.get(user) else { return Vec::new() };
        let first = history.entries.partition_point(|entry| entry.at_ms <= after_ms);
        history.entries[first..].iter().map(|entry| Arc::clone(&entry.item)).collect()
    }

    /// Whether a user has an entry later than `after_ms`.
    pub fn is_active_since(&self, user: &str, after_ms: i64) -> bool {
        let shard = self.shard(user);
        shard.users.get(user).and_then(|history| history.entries.last()).is_some_and(|entry| entry.at_ms > after_ms)
    }

    /// Users with a history.
    pub fn users(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).users.len()).sum()
    }

    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(user) as usize % self.shards.len()])
    }
}

/// A shard is whole between any two statements that could panic.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    fn insert(&mut self, entry: Entry, limit: usize) {
        let day = entry.at_ms.div_euclid(DAY_MS);
        let same = |other: &Entry| other.item == entry.item && other.at_ms.div_euclid(DAY_MS) == day;
        if let Some(at) = self.entries.iter().position(same) {
            if self.entries[at].at_ms <= entry.at_ms {
                return;
            }
            self.entries.remove(at);
        }
        // Behind those of the same time: they came first.
        let at = self.entries.partition_point(|other| other.at_ms <= entry.at_ms);
        self.entries.insert(at, entry);
        if self.entries.len() > limit {
            self.entries.remove(0);
        }
    }
}

/// Every item id once, however many histories it is in.
#[derive(Debug)]
struct Names(RwLock<KnownNames>);

#[derive(Debug)]
struct KnownNames {
    names: HashSet<Arc<str>>,
    /// With so many names, those that nobody holds are dropped.
    sweep_at: usize,
    first_sweep: usize,
}

impl Names {
    fn new(first_sweep: usize) -> Self {
        Self(RwLock::new(KnownNames { names: HashSet::new(), sweep_at: first_sweep, first_sweep }))
    }

    fn get(&self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).names.get(name) {
            return Arc::clone(known);
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.names.get(name) {
            return Arc::clone(known);
        }
        if known.names.len() >= known.sweep_at {
            known.names.retain(|name| Arc::strong_count(name) > 1);
            known.sweep_at = (2 * known.names.len()).max(known.first_sweep);
        }
        let name: Arc<str> = Arc::from(name);
        known.names.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn event(event_type: EventType, item_kind: ItemKind, item: &str, at_ms: i64) -> Event {
        Event {
            event_id: "e".into(),
            event_type,
            user_id: "raw".into(),
            item_kind,
            item_id: item.into(),
            ts: DateTime::from_timestamp_millis(at_ms).unwrap().fixed_offset(),
            request_id: None,
            position: None,
            surface: None,
            ms_played: Some(200_000),
            session_id: None,
        }
    }

    fn click(item: &str, at_ms: i64) -> Event {
        event(EventType::Click, ItemKind::Artist, item, at_ms)
    }

    /// Notes an event that has come, under the id that is given.
    fn record(histories: &LiveHistories, user: &str, event: &Event) {
        histories.record_in(&histories.came, user, event);
    }

    fn since(histories: &LiveHistories, user: &str, after_ms: i64) -> Vec<String> {
        histories.since(user, after_ms).iter().map(|item| item.to_string()).collect()
    }

    #[test]
    fn clicks_and_follows_of_artists_count_and_nothing_else() {
        let histories = LiveHistories::new(10, 10);
        let mut at_ms = 0;
        for item_kind in [ItemKind::Artist, ItemKind::Song] {
            for event_type in EventType::ALL {
                at_ms += 1;
                let item = format!("{}-{}", item_kind.as_str(), event_type.as_str());
                record(&histories, "u", &event(event_type, item_kind, &item, at_ms));
            }
        }
        assert_eq!(since(&histories, "u", -1), ["artist-click", "artist-follow"]);
        assert!(histories.is_active_since("u", 3) && !histories.is_active_since("u", 4));
        assert!(!histories.is_active_since("other", -1));
        assert!(since(&histories, "raw", -1).is_empty(), "histories are kept by the id that is given");
    }

    #[test]
    fn an_artist_counts_once_a_day_at_its_earliest() {
        let histories = LiveHistories::new(10, 10);
        for (item, at_ms) in [("a", 500), ("b", 600), ("a", 700), ("b", 100), ("a", DAY_MS), ("c", 500)] {
            record(&histories, "u", &click(item, at_ms));
        }
        assert_eq!(since(&histories, "u", -1), ["b", "a", "c", "a"]);
        assert_eq!(since(&histories, "u", 100), ["a", "c", "a"]);
        assert_eq!(since(&histories, "u", 500), ["a"]);
        assert!(since(&histories, "u", DAY_MS).is_empty());
    }

    #[test]
    fn the_least_recently_active_user_is_dropped() {
        let histories = LiveHistories::new(2, 10);
        for user in ["u1", "u2", "u1", "u3"] {
            record(&histories, user, &click("a", 1));
        }
        assert_eq!(histories.users(), 2);
        let known = ["u1", "u2", "u3"].map(|user| !histories.since(user, 0).is_empty());
        assert_eq!(known, [true, false, true]);
        let none = LiveHistories::new(0, 10);
        record(&none, "u1", &click("a", 1));
        assert_eq!(none.users(), 0);
    }

    #[test]
    fn what_is_read_from_the_journal_is_there_once_and_displaces_nobody_who_was_active_since() {
        let histories = LiveHistories::new(2, 10);
        let read = |user: &str, item: &str, at_ms| {
            histories.note_read(None, &Event { user_id: user.into(), ..click(item, at_ms) });
        };
        record(&histories, "u1", &click("a", 10));
        record(&histories, "u2", &click("b", 20));
        for (user, item, at_ms) in [("u1", "a", 10), ("u3", "c", 30), ("u1", "older", 5)] {
            read(user, item, at_ms);
        }
        assert_eq!(
            (since(&histories, "u1", -1), since(&histories, "u2", -1)),
            (vec!["older".into(), "a".into()], vec!["b".into()])
        );
        assert!(since(&histories, "u3", -1).is_empty());
        // Reading again is no activity: u1 is still the one who was active longest ago, and makes room.
        record(&histories, "u4", &click("d", 40));
        let known = ["u1", "u2", "u4"].map(|user| !since(&histories, user, -1).is_empty());
        assert_eq!(known, [false, true, true]);
        // Where there is room, what is read is kept, and goes before what came.
        let histories = LiveHistories::new(2, 10);
        for user in ["u1", "u2", "u3"] {
            histories.note_read(None, &Event { user_id: user.into(), ..click("a", 1) });
        }
        record(&histories, "u4", &click("a", 1));
        let known = ["u1", "u2", "u3", "u4"].map(|user| !since(&histories, user, -1).is_empty());
        assert_eq!(known, [false, false, true, true]);
    }

    #[test]
    fn many_users_and_strange_items_stay_within_the_bounds() {
        let histories = LiveHistories::new(4_096, 3);
        for event in 0..200_000_i64 {
            // Ten in a row of each user, so that histories are full.
            record(&histories, &format!("u{}", event / 10), &click(&format!("never-seen-{event}"), event));
        }
        assert!((3_000..=4_096).contains(&histories.users()), "{}", histories.users());
        let names = histories.names.0.read().unwrap().names.len();
        assert!(names <= FIRST_SWEEP, "{names} ids are kept");
        let per_user = (0..20_000).map(|user| histories.since(&format!("u{user}"), -1).len()).max();
        assert_eq!(per_user, Some(3));
    }

    proptest! {
        /// One history against all its events sorted, deduplicated and cut.
        #[test]
        fn histories_are_the_latest_first_events_of_each_artist_and_day(
            events in prop::collection::vec((0..6_usize, 0..4 * DAY_MS), 0..60),
            limit in 1..70_usize,
            after in 0..4 * DAY_MS,
        ) {
            let histories = LiveHistories::new(5, limit);
            // No two artists at the same moment: which of them comes first is not the matter here.
            let events: Vec<(usize, i64)> =
                events.into_iter().map(|(item, at_ms)| (item, at_ms - at_ms % 8 + item as i64)).collect();
            for (item, at_ms) in &events {
                record(&histories, "u", &click(&item.to_string(), *at_ms));
            }
            let mut earliest: BTreeMap<(usize, i64), i64> = BTreeMap::new();
            for (item, at_ms) in &events {
                let first = earliest.entry((*item, at_ms.div_euclid(DAY_MS))).or_insert(*at_ms);
                *first = (*first).min(*at_ms);
            }
            let mut rows: Vec<(i64, usize)> = earliest.iter().map(|((item, _), at_ms)| (*at_ms, *item)).collect();
            rows.sort_unstable();
            let all = since(&histories, "u", -1);
            prop_assert!(all.len() <= limit);
            if rows.len() <= limit {
                let expected: Vec<String> =
                    rows.iter().filter(|(at_ms, _)| *at_ms > after).map(|(_, item)| item.to_string()).collect();
                prop_assert_eq!(since(&histories, "u", after), expected);
            }
            let expected_length = rows.len().min(limit);
            prop_assert!(all.len() == expected_length || rows.len() > limit);
        }
    }
}
