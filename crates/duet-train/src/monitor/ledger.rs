//! Served lists and what became of every position of them.
//!
//! An event is joined to its list by request and position. What is kept of a position is whether it was shown, clicked, followed, and
//! how much of a song was heard, so that an event that comes twice, late, or before its list's other events changes nothing: no
//! memory of single events is needed. Memory goes with the lists (their positions, a byte and a number each) and with the days on
//! which users were active.
//!
//! Everything counts for the day (UTC) on which its list was served.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use chrono::{DateTime, FixedOffset};
use duet_core::{
    event::{Event, EventType, ItemKind},
    ids::IdMap,
};
use serde::{Deserialize, Serialize};

const DAY_MS: i64 = 86_400_000;

pub(super) const SHOWN: u8 = 1;
pub(super) const CLICKED: u8 = 2;
pub(super) const FOLLOWED: u8 = 4;

/// A line of the served-list log.
#[derive(Debug, Deserialize)]
pub(super) struct ServedLine {
    ts: DateTime<FixedOffset>,
    request_id: String,
    /// None for an anonymous list.
    user: Option<String>,
    variant: String,
    bundle: String,
    kind: ItemKind,
    source: String,
    #[serde(default)]
    degraded: Vec<String>,
    items: Vec<String>,
    #[serde(default)]
    scores: Vec<Option<f32>>,
}

/// A list that was served.
#[derive(Debug)]
pub(super) struct List {
    pub(super) user: u32,
    pub(super) day: i32,
    pub(super) variant: u32,
    pub(super) bundle: u32,
    pub(super) source: u32,
    pub(super) degraded: bool,
    kind: ItemKind,
    /// Whether any impression was reported.
    reported: bool,
    items: Box<[u32]>,
    flags: Box<[u8]>,
    /// Position and the largest share heard, in the order of their coming.
    heard: Vec<(u16, f32)>,
}

impl List {
    /// What became of each position: flags, and the share heard. Where no impression of the list was reported, all of it was shown;
    /// whatever something was done with was shown too.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u8, Option<f32>)> {
        let base = if self.reported { 0 } else { SHOWN };
        self.flags.iter().enumerate().map(move |(at, &flags)| {
            let heard = self.heard.iter().find(|(position, _)| usize::from(*position) == at).map(|(_, share)| *share);
            let shown = if flags != 0 || heard.is_some() { SHOWN } else { base };
            (flags | shown, heard)
        })
    }

    /// Whether impressions of the list were reported.
    pub(super) fn is_reported(&self) -> bool {
        self.reported
    }
}

/// Events by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Joined to a position of a list.
    pub joined: u64,
    /// Joined, and told what was known already: sent twice, or done twice.
    pub repeated: u64,
    /// Of a list that is not in the log, or not of the days looked at.
    pub unknown_list: u64,
    /// Of a list of another user.
    pub other_user: u64,
    /// Of a position that the list has not, or whose item is another one.
    pub wrong_position: u64,
    /// Without a list: they count as activity of their user alone.
    pub without_list: u64,
    /// Of users without a list in the log, without a list themselves: nothing to count them for.
    pub unknown_user: u64,
    /// After the last day looked at.
    pub after_end: u64,
}

/// Which days (UTC, since 1970-01-01) are looked at, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    pub(super) from: i32,
    pub(super) to: i32,
}

/// Of which lists scores are kept: those of one model, or they can't be compared.
#[derive(Debug, Clone, Default)]
pub(super) struct Scored {
    /// The variant; lists of others may be ordered by something else.
    pub(super) variant: String,
    /// How the served bundle's name begins; nothing lets all pass.
    pub(super) bundle: Option<String>,
}

/// All lists, and the days on which their users did anything.
#[derive(Debug)]
pub(super) struct Ledger {
    days: Days,
    scored: Scored,
    requests: HashMap<u128, u32>,
    items: IdMap,
    pub(super) users: IdMap,
    pub(super) variants: IdMap,
    pub(super) bundles: IdMap,
    pub(super) sources: IdMap,
    pub(super) lists: Vec<List>,
    /// By user, ascending.
    pub(super) active: Vec<Vec<i32>>,
    /// By user: time and score of the best item of the last personal list of [`Scored`].
    pub(super) scores: Vec<Option<(i64, f32)>>,
    pub(super) counts: EventCounts,
    pub(super) repeated_lists: u64,
    pub(super) outside_lists: u64,
    /// Lists for nobody in particular: without a user they are in no figure.
    pub(super) anonymous_lists: u64,
    /// The last day with a list. Lists have the server's time; that of an event is a client's, who may be ahead.
    pub(super) last_day: i32,
}

impl Ledger {
    pub(super) fn new(days: Days, scored: Scored) -> Self {
        Self {
            days,
            scored,
            requests: HashMap::new(),
            items: IdMap::default(),
            users: IdMap::default(),
            variants: IdMap::default(),
            bundles: IdMap::default(),
            sources: IdMap::default(),
            lists: Vec::new(),
            active: Vec::new(),
            scores: Vec::new(),
            counts: EventCounts::default(),
            repeated_lists: 0,
            outside_lists: 0,
            anonymous_lists: 0,
            last_day: i32::MIN,
        }
    }

    /// Adds a list. The lists are read before the events.
    pub(super) fn serve(&mut self, line: ServedLine) -> Result<(), &'static str> {
        if line.items.len() > usize::from(u16::MAX) {
            return Err("a list of more than 65,535 items");
        }
        let ms = line.ts.timestamp_millis();
        let day = ms.div_euclid(DAY_MS) as i32;
        if day < self.days.from || day > self.days.to {
            self.outside_lists += 1;
            return Ok(());
        }
        let Some(user) = &line.user else {
            self.anonymous_lists += 1;
            return Ok(());
        };
        let Entry::Vacant(place) = self.requests.entry(request_key(&line.request_id)) else {
            self.repeated_lists += 1;
            return Ok(());
        };
        place.insert(self.lists.len() as u32);
        let user = self.users.get_or_insert(user);
        if user as usize == self.active.len() {
            self.active.push(Vec::new());
            self.scores.push(None);
        }
        let is_scored = (line.source == "personal" || line.source == "precomputed")
            && line.degraded.is_empty()
            && line.variant == self.scored.variant
            && self.scored.bundle.as_ref().is_none_or(|bundle| line.bundle.starts_with(bundle));
        if let Some(Some(score)) = line.scores.first().copied().filter(|_| is_scored) {
            let last = &mut self.scores[user as usize];
            if last.is_none_or(|(before, _)| before <= ms) {
                *last = Some((ms, score));
            }
        }
        let items: Box<[u32]> = line.items.iter().map(|item| self.items.get_or_insert(item)).collect();
        let list = List {
            user,
            day,
            variant: self.variants.get_or_insert(&line.variant),
            bundle: self.bundles.get_or_insert(&line.bundle),
            source: self.sources.get_or_insert(&line.source),
            degraded: !line.degraded.is_empty(),
            kind: line.kind,
            reported: false,
            flags: vec![0; items.len()].into_boxed_slice(),
            items,
            heard: Vec::new(),
        };
        self.lists.push(list);
        self.last_day = self.last_day.max(day);
        self.note_active(user, day);
        Ok(())
    }

    fn note_active(&mut self, user: u32, day: i32) {
        let days = &mut self.active[user as usize];
        if let Err(place) = days.binary_search(&day) {
            days.insert(place, day);
        }
    }

    /// Adds an event of `user` (as the served-list log calls them). `share` is the part of the song that was heard, for listens and
    /// skips.
    pub(super) fn add(&mut self, event: &Event, user: &str, share: Option<f32>) {
        let day = event.ts.timestamp_millis().div_euclid(DAY_MS) as i32;
        if day > self.days.to {
            self.counts.after_end += 1;
            return;
        }
        let user = self.users.get(user);
        if let Some(user) = user
            && day >= self.days.from
        {
            self.note_active(user, day);
        }
        let Some(request) = &event.request_id else {
            let count = if user.is_some() { &mut self.counts.without_list } else { &mut self.counts.unknown_user };
            *count += 1;
            return;
        };
        let Some(&list) = self.requests.get(&request_key(request)) else {
            self.counts.unknown_list += 1;
            return;
        };
        let list = &mut self.lists[list as usize];
        if user != Some(list.user) {
            self.counts.other_user += 1;
            return;
        }
        let item = self.items.get(&event.item_id);
        let is_of_list = event.item_kind == list.kind;
        let position = match event.position {
            Some(position) => Some(position as usize).filter(|&position| {
                // A song of a listed artist has the artist's position.
                list.items.get(position).is_some_and(|&listed| !is_of_list || Some(listed) == item)
            }),
            None => list.items.iter().position(|&listed| Some(listed) == item).filter(|_| is_of_list),
        };
        let Some(position) = position else {
            self.counts.wrong_position += 1;
            return;
        };
        self.counts.joined += 1;
        let flag = match event.event_type {
            EventType::Impression => SHOWN,
            EventType::Click => CLICKED,
            EventType::Follow => FOLLOWED,
            EventType::Unfollow => return,
            EventType::Listen | EventType::Skip => {
                let share = share.unwrap_or(f32::from(u8::from(event.event_type == EventType::Listen)));
                match list.heard.iter_mut().find(|(at, _)| usize::from(*at) == position) {
                    None => list.heard.push((position as u16, share)),
                    Some((_, heard)) => {
                        self.counts.repeated += 1;
                        *heard = heard.max(share);
                    }
                }
                return;
            }
        };
        list.reported |= flag == SHOWN;
        self.counts.repeated += u64::from(list.flags[position] & flag != 0);
        list.flags[position] |= flag;
    }
}

/// A request id in 16 bytes: a UUID as it is, anything else as a hash.
fn request_key(id: &str) -> u128 {
    let digits = id.bytes().filter(|byte| *byte != b'-');
    if digits.clone().count() == 32 && digits.clone().all(|byte| byte.is_ascii_hexdigit()) {
        return digits.fold(0, |key, byte| key << 4 | u128::from(char::from(byte).to_digit(16).unwrap_or(0)));
    }
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, id).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use crate::monitor::survival::Stay;

    pub(in crate::monitor) fn ledger() -> Ledger {
        Ledger::new(
            Days { from: i32::MIN, to: i32::MAX },
            Scored { variant: "control".into(), bundle: Some("b".into()) },
        )
    }

    /// A list of two artists, `a` and `b`.
    pub(in crate::monitor) fn served(request: &str, user: &str, day: u32) -> ServedLine {
        serde_json::from_value(serde_json::json!({
            "ts": format!("1970-01-{day:02}T06:00:00.123Z"), "request_id": request, "user": user, "variant": "control",
            "bundle": "b1", "kind": "artist", "source": "personal", "degraded": [], "k": 2, "items": ["a", "b"], "scores": [0.5, 0.25],
        }))
        .unwrap()
    }

    pub(in crate::monitor) fn event(
        kind: &str,
        request: Option<&str>,
        position: Option<u32>,
        user: &str,
        day: u32,
    ) -> Event {
        let item = if position == Some(1) { "b" } else { "a" };
        serde_json::from_value(serde_json::json!({
            "event_id": "e", "type": kind, "user_id": user, "item_kind": "artist", "item_id": item,
            "ts": format!("1970-01-{day:02}T07:00:00+01:00"), "request_id": request, "position": position,
        }))
        .unwrap()
    }

    fn add(ledger: &mut Ledger, event: &Event) {
        ledger.add(event, &event.user_id, None);
    }

    fn flags(ledger: &Ledger, list: usize) -> Vec<u8> {
        ledger.lists[list].positions().map(|(flags, _)| flags).collect()
    }

    #[test]
    fn events_are_joined_by_request_and_position() {
        let mut ledger = ledger();
        ledger.serve(served("r1", "u", 2)).unwrap();
        ledger.serve(served("r2", "u", 2)).unwrap();
        assert_eq!(flags(&ledger, 0), [SHOWN, SHOWN], "without reported impressions all of a list was shown");
        add(&mut ledger, &event("impression", Some("r1"), Some(0), "u", 2));
        add(&mut ledger, &event("click", Some("r1"), Some(0), "u", 2));
        assert_eq!((flags(&ledger, 0), flags(&ledger, 1)), (vec![SHOWN | CLICKED, 0], vec![SHOWN, SHOWN]));
        // What something was done with was shown.
        add(&mut ledger, &event("follow", Some("r1"), Some(1), "u", 2));
        assert_eq!(flags(&ledger, 0), [SHOWN | CLICKED, SHOWN | FOLLOWED]);
        // Without a position, by the item.
        add(&mut ledger, &event("click", Some("r2"), None, "u", 2));
        assert_eq!(flags(&ledger, 1), [SHOWN | CLICKED, SHOWN]);
        let before = ledger.counts.clone();
        assert_eq!((before.joined, before.repeated), (4, 0));
        let mut wrong_item = event("click", Some("r2"), Some(1), "u", 2);
        wrong_item.item_id = "a".into();
        for bad in [
            event("click", Some("none"), Some(0), "u", 2),
            event("click", Some("r1"), Some(1), "other", 2),
            event("click", Some("r1"), Some(2), "u", 2),
            wrong_item,
            event("click", None, None, "u", 2),
            event("click", None, None, "other", 2),
        ] {
            add(&mut ledger, &bad);
        }
        let expected = EventCounts {
            unknown_list: 1,
            other_user: 1,
            wrong_position: 2,
            without_list: 1,
            unknown_user: 1,
            ..before
        };
        assert_eq!(ledger.counts, expected);
        assert_eq!(flags(&ledger, 1), [SHOWN | CLICKED, SHOWN]);
    }

    #[test]
    fn duplicates_and_late_events_change_nothing() {
        let mut ledger = ledger();
        ledger.serve(served("r1", "u", 2)).unwrap();
        ledger.serve(served("r1", "u", 3)).unwrap();
        assert_eq!((ledger.lists.len(), ledger.repeated_lists), (1, 1));
        let click = event("click", Some("r1"), Some(0), "u", 9);
        add(&mut ledger, &click);
        let once = flags(&ledger, 0);
        add(&mut ledger, &click);
        assert_eq!((flags(&ledger, 0), ledger.counts.joined, ledger.counts.repeated), (once, 2, 1));
        assert_eq!((ledger.lists[0].day, ledger.last_day), (1, 1), "it counts for the day of the list");
        assert_eq!(ledger.active[0], [1, 8]);
        // The largest share heard stays, in whichever order they come.
        let listen = event("listen", Some("r1"), Some(1), "u", 2);
        for share in [0.25, 1.0, 0.5] {
            ledger.add(&listen, "u", Some(share));
        }
        let heard: Vec<Option<f32>> = ledger.lists[0].positions().map(|(_, heard)| heard).collect();
        assert_eq!(heard, [None, Some(1.0)]);
    }

    #[test]
    fn days_outside_are_left_out() {
        let mut ledger = Ledger::new(Days { from: 1, to: 2 }, Scored::default());
        for (request, day) in [("r0", 1), ("r1", 2), ("r2", 3), ("r3", 4)] {
            ledger.serve(served(request, "u", day)).unwrap();
        }
        assert_eq!((ledger.lists.len(), ledger.outside_lists), (2, 2));
        add(&mut ledger, &event("click", Some("r1"), Some(0), "u", 4));
        assert_eq!((ledger.counts.after_end, ledger.last_day), (1, 2));
    }

    #[test]
    fn a_list_for_nobody_is_no_bad_line() {
        let mut ledger = ledger();
        // As the server logs a list for a history in the body.
        let text = r#"{"ts":"1970-01-02T06:00:00.000Z","request_id":"r1","user":null,"variant":"control","bundle":"b1",
            "kind":"artist","source":"personal","degraded":[],"k":1,"items":["a"],"scores":[0.5]}"#;
        ledger.serve(serde_json::from_str(text).unwrap()).unwrap();
        ledger.serve(served("r2", "u", 2)).unwrap();
        assert_eq!((ledger.lists.len(), ledger.users.len(), ledger.anonymous_lists), (1, 1, 1));
    }

    #[test]
    fn a_client_whose_clock_is_ahead_ends_nothing() {
        let mut ledger = ledger();
        ledger.serve(served("r1", "u", 2)).unwrap();
        ledger.serve(served("r2", "v", 2)).unwrap();
        add(&mut ledger, &event("listen", None, None, "u", 30));
        // Nobody has been silent for weeks because of one event from the future.
        assert_eq!(ledger.last_day, 1);
        let stays: Vec<_> = ledger.active.iter().filter_map(|active| Stay::new(active, 7, ledger.last_day)).collect();
        assert!(stays.is_empty(), "{stays:?}");
    }

    #[test]
    fn the_last_score_of_one_model_is_kept() {
        let mut ledger = ledger();
        let mut serve = |request: &str, day: u32, score: f32, change: fn(&mut ServedLine)| {
            let mut line = served(request, "u", day);
            line.scores[0] = Some(score);
            change(&mut line);
            ledger.serve(line).unwrap();
        };
        serve("r3", 3, 3.0, |_| ());
        serve("r2", 2, 2.0, |_| ());
        serve("r4", 4, 4.0, |line| line.variant = "trees".into());
        serve("r5", 5, 5.0, |line| line.source = "trending".into());
        serve("r6", 6, 6.0, |line| line.bundle = "other".into());
        serve("r7", 7, 7.0, |line| line.degraded.push("deadline".into()));
        serve("r8", 8, 8.0, |line| line.scores.clear());
        assert_eq!(ledger.scores[0].map(|(_, score)| score), Some(3.0));
    }

    #[test]
    fn keys_of_requests() {
        let uuid = "0193c2a0-0000-7000-8000-00000000000f";
        assert_eq!(request_key(uuid), 0x0193_c2a0_0000_7000_8000_0000_0000_000f);
        assert_eq!(request_key(&uuid.replace('-', "")), request_key(uuid));
        assert_ne!(request_key("r1"), request_key("r2"));
    }
}
