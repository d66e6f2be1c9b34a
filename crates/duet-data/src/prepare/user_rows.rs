//! One user's events, in order, to their rows of every table.
//!
//! The walk goes day by day: what an event is described by was counted before its day began ([`super::as_of`] for other
//! people's events, the walk's own sums for the user's).

use std::collections::BTreeMap;

use duet_core::event::{EventType, ItemKind};
use hashbrown::{HashMap, HashSet};

use super::{
    as_of::{AsOf, heard},
    catalogue::{Artist, Song},
    day_file::DayEvent,
    options::Strengths,
    positives::{Division, ItemRows, Positives},
};
use crate::dataset::HistoryEvent;

const DAY_MS: i64 = 86_400_000;
/// A click without a request id belongs to an impression of the same item at most so long before it.
const CLICK_WITHIN_MS: i64 = 30 * 60_000;
/// Songs and followed artists kept of a history.
const LAST_SONGS: usize = 100;
const RECENT_FOLLOWS: usize = 20;

/// What is the same for all users.
pub(super) struct Walk<'a> {
    pub(super) artists: &'a [Artist],
    pub(super) songs: &'a [Song],
    /// Row of the items table by row of the catalogue; nothing for artists not listed before the cutoff.
    pub(super) item_rows: &'a [Option<u32>],
    /// Row of the songs table by row of the catalogue; nothing for songs not released before the cutoff.
    pub(super) song_rows: &'a [Option<u32>],
    pub(super) as_of: &'a AsOf,
    pub(super) strengths: Strengths,
    /// Training and every feature end before this day.
    pub(super) cutoff_day: i32,
    /// The held-out period starts with this day, if anything is held out.
    pub(super) held_out_day: Option<i32>,
    pub(super) new_artists_only: bool,
    pub(super) new_songs_only: bool,
}

/// A song heard or skipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Play {
    pub(super) user: u32,
    pub(super) song: u32,
    pub(super) timestamp_ms: i64,
    pub(super) ms_played: u64,
    pub(super) listen_ratio: f32,
    /// Listen ratio over the song's mean as of the day before.
    pub(super) listen_delta: f32,
    pub(super) skipped: bool,
}

/// An event of the mixed history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HistoryRow {
    pub(super) user: u32,
    pub(super) event: HistoryEvent,
    /// Row of the items or the songs table.
    pub(super) item: u32,
    pub(super) timestamp_ms: i64,
    pub(super) strength: f32,
}

/// An item shown, and what was known the day before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Impression {
    pub(super) user: u32,
    pub(super) item_kind: ItemKind,
    /// Row of the items or the songs table.
    pub(super) item: u32,
    pub(super) timestamp_ms: i64,
    pub(super) position: Option<u32>,
    pub(super) clicked: bool,
    pub(super) user_clicks: u64,
    pub(super) user_impressions: u64,
    pub(super) click_rate: f64,
    /// The artist's share of the user's own clicks.
    pub(super) artist_share: f64,
    pub(super) plays_7d: f64,
    pub(super) plays_28d: f64,
    pub(super) trending_rank: f64,
    pub(super) followers: f64,
    /// NaN where the day of sign-up is unknown.
    pub(super) tenure_days: f64,
    /// Days since the user's last event before this day; NaN on their first.
    pub(super) recency_days: f64,
}

/// What a user has to do with an artist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UserArtist {
    pub(super) user: u32,
    pub(super) item: u32,
    pub(super) clicks: u64,
    /// Share of all clicks of the user.
    pub(super) share: f64,
    /// Songs heard.
    pub(super) plays: u64,
}

/// A user's last songs and followed artists, the newest last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UserHistory {
    pub(super) user: u32,
    pub(super) last_songs: Vec<u32>,
    pub(super) recent_follows: Vec<u32>,
}

/// A user's rows.
#[derive(Debug, Default)]
pub(super) struct UserRows {
    pub(super) of_artists: ItemRows,
    pub(super) of_songs: ItemRows,
    pub(super) history: Vec<HistoryRow>,
    pub(super) plays: Vec<Play>,
    pub(super) impressions: Vec<Impression>,
    pub(super) artists: Vec<UserArtist>,
    pub(super) recent: Option<UserHistory>,
    /// As of the cutoff.
    pub(super) clicks: u64,
    pub(super) impressions_seen: u64,
    pub(super) last_day: Option<i32>,
    /// Of all events, held-out ones included.
    pub(super) first_day: Option<i32>,
}

/// The sums of a user's days before today.
#[derive(Debug, Default)]
struct Past {
    clicks: u64,
    impressions: u64,
    artist_clicks: BTreeMap<u32, u64>,
    artist_plays: BTreeMap<u32, u64>,
    last_day: Option<i32>,
}

impl Walk<'_> {
    /// The artist an event is about.
    fn artist_of(&self, event: &DayEvent) -> Option<u32> {
        match event.item_kind {
            ItemKind::Artist => event.item,
            ItemKind::Song => event.item.map(|song| self.songs[song as usize].artist),
        }
    }

    fn listen_delta(&self, song: u32, ms_played: u64, day: i32) -> (f64, f64) {
        let ratio = self.songs[song as usize].listen_ratio(ms_played);
        (ratio, ratio / self.as_of.mean_listen(song, day - 1))
    }

    /// How much an event says that the user likes its artist; nothing if it does not.
    fn strength(&self, event: &DayEvent) -> Option<f32> {
        let strengths = &self.strengths;
        match (event.event_type, event.item_kind) {
            (EventType::Click, ItemKind::Artist) => Some(strengths.click),
            (EventType::Follow, ItemKind::Artist) => Some(strengths.follow),
            (EventType::Listen, ItemKind::Song) => {
                let (song, played) = (event.item?, event.ms_played.unwrap_or(0));
                heard(&self.songs[song as usize], played).then(|| {
                    let (_, delta) = self.listen_delta(song, played, event.day());
                    let [least, most] = strengths.delta_bounds;
                    strengths.listen * (delta as f32).clamp(least, most)
                })
            }
            _ => None,
        }
    }

    /// The rows of the user with these kept events (sorted by time, then event).
    pub(super) fn rows(&self, user: u32, created_ms: Option<i64>, events: &[&DayEvent]) -> UserRows {
        let mut out = UserRows { first_day: events.first().map(|event| event.day()), ..UserRows::default() };
        self.positives(events, &mut out);
        let training = events.partition_point(|event| event.day() < self.cutoff_day);
        let events = &events[..training];
        let clicks = Clicks::new(events);
        let mut past = Past::default();
        for day in events.chunk_by(|a, b| a.day() == b.day()) {
            self.describe(user, created_ms, day, &clicks, &past, &mut out);
            self.count(day, &mut past);
        }
        let total = past.clicks.max(1) as f64;
        let mut artists: Vec<u32> = past.artist_clicks.keys().chain(past.artist_plays.keys()).copied().collect();
        artists.sort_unstable();
        artists.dedup();
        out.artists = artists
            .into_iter()
            .filter_map(|artist| {
                let item = self.item_rows[artist as usize]?;
                let clicks = past.artist_clicks.get(&artist).copied().unwrap_or(0);
                let plays = past.artist_plays.get(&artist).copied().unwrap_or(0);
                Some(UserArtist { user, item, clicks, share: clicks as f64 / total, plays })
            })
            .collect();
        out.artists.sort_unstable_by_key(|row| row.item);
        out.recent = self.recent(user, events);
        (out.clicks, out.impressions_seen, out.last_day) = (past.clicks, past.impressions, past.last_day);
        out
    }

    /// Timelines and held-out parts: one row per artist, and one per song, and UTC day.
    fn positives(&self, events: &[&DayEvent], out: &mut UserRows) {
        let (mut artists, mut songs) = (Positives::default(), Positives::default());
        for (place, event) in events.iter().enumerate() {
            let (Some(strength), Some(artist)) = (self.strength(event), self.artist_of(event)) else { continue };
            artists.add(artist, event, place, strength);
            if let (ItemKind::Song, Some(song)) = (event.item_kind, event.item) {
                songs.add(song, event, place, strength);
            }
        }
        let division = |table_rows, new_only| Division {
            table_rows,
            cutoff_day: self.cutoff_day,
            held_out_day: self.held_out_day,
            new_only,
        };
        out.of_artists = artists.divide(&division(self.item_rows, self.new_artists_only));
        out.of_songs = songs.divide(&division(self.song_rows, self.new_songs_only));
    }

    /// The mixed history, plays and impressions of a day.
    fn describe(
        &self,
        user: u32,
        created_ms: Option<i64>,
        events: &[&DayEvent],
        clicks: &Clicks,
        past: &Past,
        out: &mut UserRows,
    ) {
        for event in events {
            let (Some(item), Some(artist), day) = (event.item, self.artist_of(event), event.day()) else { continue };
            let history =
                |kind, item, strength| HistoryRow { user, event: kind, item, timestamp_ms: event.ts_ms, strength };
            match (event.event_type, event.item_kind) {
                (EventType::Click, ItemKind::Artist) => {
                    let row = self.item_rows[item as usize];
                    out.history.extend(row.map(|row| history(HistoryEvent::Click, row, self.strengths.click)));
                }
                (EventType::Follow, ItemKind::Artist) => {
                    let row = self.item_rows[item as usize];
                    out.history.extend(row.map(|row| history(HistoryEvent::Follow, row, self.strengths.follow)));
                }
                (EventType::Listen | EventType::Skip, ItemKind::Song) => {
                    let Some(song) = self.song_rows[item as usize] else { continue };
                    let ms_played = event.ms_played.unwrap_or(0);
                    let (ratio, delta) = self.listen_delta(item, ms_played, day);
                    let skipped = event.event_type == EventType::Skip;
                    let was_heard = !skipped && heard(&self.songs[item as usize], ms_played);
                    let kind = if was_heard { HistoryEvent::Listen } else { HistoryEvent::Skip };
                    out.history.push(history(kind, song, delta as f32));
                    out.plays.push(Play {
                        user,
                        song,
                        timestamp_ms: event.ts_ms,
                        ms_played,
                        listen_ratio: ratio as f32,
                        listen_delta: delta as f32,
                        skipped,
                    });
                }
                (EventType::Impression, item_kind) => {
                    let row = match item_kind {
                        ItemKind::Artist => self.item_rows[item as usize],
                        ItemKind::Song => self.song_rows[item as usize],
                    };
                    let Some(row) = row else { continue };
                    let figures = self.as_of.artist(artist, day - 1);
                    let plays = match item_kind {
                        ItemKind::Artist => (figures.plays_7d, figures.plays_28d),
                        ItemKind::Song => {
                            let song = self.as_of.song(item, day - 1);
                            (song.plays_7d, song.plays_28d)
                        }
                    };
                    let artist_clicks = past.artist_clicks.get(&artist).copied().unwrap_or(0);
                    let since = |day_ms: Option<i64>| {
                        day_ms.map_or(f64::NAN, |at| f64::from((day - at.div_euclid(DAY_MS) as i32).max(0)))
                    };
                    out.impressions.push(Impression {
                        user,
                        item_kind,
                        item: row,
                        timestamp_ms: event.ts_ms,
                        position: event.position,
                        clicked: clicks.follow(event),
                        user_clicks: past.clicks,
                        user_impressions: past.impressions,
                        click_rate: self.as_of.click_rate(past.clicks, past.impressions, day - 1),
                        artist_share: artist_clicks as f64 / past.clicks.max(1) as f64,
                        plays_7d: plays.0,
                        plays_28d: plays.1,
                        trending_rank: figures.trending_rank,
                        followers: figures.followers,
                        tenure_days: since(created_ms),
                        recency_days: past.last_day.map_or(f64::NAN, |last| f64::from(day - last)),
                    });
                }
                _ => {}
            }
        }
    }

    /// Adds a day to the past.
    fn count(&self, events: &[&DayEvent], past: &mut Past) {
        for event in events {
            past.last_day = Some(event.day());
            let Some(artist) = self.artist_of(event) else { continue };
            match event.event_type {
                EventType::Impression => past.impressions += 1,
                EventType::Click => {
                    past.clicks += 1;
                    *past.artist_clicks.entry(artist).or_default() += 1;
                }
                EventType::Listen if event.item_kind == ItemKind::Song => {
                    let song = event.item.map(|song| &self.songs[song as usize]);
                    if song.is_some_and(|song| heard(song, event.ms_played.unwrap_or(0))) {
                        *past.artist_plays.entry(artist).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
    }

    /// The last songs listened to and the artists followed last and not unfollowed since.
    fn recent(&self, user: u32, events: &[&DayEvent]) -> Option<UserHistory> {
        let mut last_songs = Vec::new();
        let mut follows: Vec<u32> = Vec::new();
        for event in events {
            match (event.event_type, event.item_kind, event.item) {
                (EventType::Listen, ItemKind::Song, Some(song)) => last_songs.extend(self.song_rows[song as usize]),
                (EventType::Follow | EventType::Unfollow, ItemKind::Artist, Some(artist)) => {
                    let Some(item) = self.item_rows[artist as usize] else { continue };
                    follows.retain(|other| *other != item);
                    if event.event_type == EventType::Follow {
                        follows.push(item);
                    }
                }
                _ => {}
            }
        }
        last_songs.drain(..last_songs.len().saturating_sub(LAST_SONGS));
        follows.drain(..follows.len().saturating_sub(RECENT_FOLLOWS));
        (!last_songs.is_empty() || !follows.is_empty()).then_some(UserHistory {
            user,
            last_songs,
            recent_follows: follows,
        })
    }
}

/// A user's clicks, to find the one that followed an impression.
struct Clicks {
    by_request: HashSet<(u64, ItemKind, u32)>,
    without: HashMap<(ItemKind, u32), Vec<i64>>,
}

impl Clicks {
    fn new(events: &[&DayEvent]) -> Self {
        let mut clicks = Self { by_request: HashSet::new(), without: HashMap::new() };
        for event in events.iter().filter(|event| event.event_type == EventType::Click) {
            let Some(item) = event.item else { continue };
            match event.request {
                Some(request) => {
                    clicks.by_request.insert((request, event.item_kind, item));
                }
                None => clicks.without.entry((event.item_kind, item)).or_default().push(event.ts_ms),
            }
        }
        clicks
    }

    /// Whether a click of the same request and item, or without requests one of the item soon after, followed.
    fn follow(&self, impression: &DayEvent) -> bool {
        let Some(item) = impression.item else { return false };
        match impression.request {
            Some(request) => self.by_request.contains(&(request, impression.item_kind, item)),
            None => self
                .without
                .get(&(impression.item_kind, item))
                .is_some_and(|times| times.iter().any(|at| (0..=CLICK_WITHIN_MS).contains(&(at - impression.ts_ms)))),
        }
    }
}
