//! Counts by day, and what they said at the end of any day: the only way in which features see other people's events.
//!
//! A figure **as of** day `d` counts the days up to and including `d`; an event of day `t` is described by figures as of
//! `t - 1`. All sums are of whole numbers, so that neither the order of the events nor the number of threads matters.

use std::{collections::BTreeMap, ops::Range};

use duet_core::event::{EventType, ItemKind};
use hashbrown::HashMap;
use rayon::prelude::*;

use super::{
    catalogue::{Followers, Song},
    day_file::DayEvent,
};

/// Impressions that count as seen at the overall rate before a user's own are counted.
pub(super) const RATE_PRIOR: f64 = 20.0;
/// Plays added on both sides of the trend, so that the rank of artists with few plays is not noise.
const TREND_PRIOR: f64 = 10.0;
/// Plays at the overall mean that are added to a song's own when its mean listen ratio is taken.
const LISTEN_PRIOR: f64 = 20.0;
/// The mean listen ratio as long as nothing was heard: a guess that matters for the first days only, but it must be above 0.
const LISTEN_RATIO_START: f64 = 0.5;
/// A listen ratio of 1 in the units that are summed.
const RATIO_UNIT: f64 = 1e6;
/// Figures of all days are kept where they take no more; 20,000 songs take half a megabyte a day.
const FIGURES_BYTES: usize = 64 << 20;
/// A song counts as liked when heard for so long, or for half of its length.
const HEARD_MS: u64 = 30_000;

/// Whether a listen says that the song is liked.
pub(super) fn heard(song: &Song, ms_played: u64) -> bool {
    ms_played >= HEARD_MS || ms_played >= song.duration_ms.div_ceil(2)
}

/// Of a song on a day.
#[derive(Debug, Clone, Copy, Default)]
struct SongDay {
    /// Listens and skips.
    plays: u64,
    /// Sum of their listen ratios, in millionths.
    ratios: u64,
    /// Listens that were [`heard`].
    heard: u64,
}

/// Counts by day, in the making.
#[derive(Debug, Default)]
pub(super) struct Counts {
    songs: HashMap<(u32, i32), SongDay>,
    /// Heard songs by artist.
    artists: HashMap<(u32, i32), u64>,
    /// Clicks and impressions of everybody.
    shown: BTreeMap<i32, (u64, u64)>,
}

impl Counts {
    /// Counts an event that is kept.
    pub(super) fn add(&mut self, event: &DayEvent, songs: &[Song]) {
        let day = event.day();
        match event.event_type {
            EventType::Impression => self.shown.entry(day).or_default().1 += 1,
            EventType::Click => self.shown.entry(day).or_default().0 += 1,
            EventType::Listen | EventType::Skip if event.item_kind == ItemKind::Song => {
                let Some(row) = event.item else { return };
                let song = &songs[row as usize];
                let played = event.ms_played.unwrap_or(0);
                let counts = self.songs.entry((row, day)).or_default();
                counts.plays += 1;
                counts.ratios += (song.listen_ratio(played) * RATIO_UNIT).round() as u64;
                if event.event_type == EventType::Listen && heard(song, played) {
                    counts.heard += 1;
                    *self.artists.entry((song.artist, day)).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    /// Adds the counts of other users.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, counts) in other.songs {
            let sum = self.songs.entry(key).or_default();
            sum.plays += counts.plays;
            sum.ratios += counts.ratios;
            sum.heard += counts.heard;
        }
        for (key, count) in other.artists {
            *self.artists.entry(key).or_default() += count;
        }
        for (day, (clicks, impressions)) in other.shown {
            let sum = self.shown.entry(day).or_default();
            sum.0 += clicks;
            sum.1 += impressions;
        }
    }
}

/// Running sums of one figure, by row and day.
#[derive(Debug, Default)]
struct Running<const N: usize> {
    /// Entries of row `r` are `offsets[r]..offsets[r + 1]`.
    offsets: Vec<usize>,
    days: Vec<i32>,
    sums: Vec<[u64; N]>,
}

impl<const N: usize> Running<N> {
    fn new(rows: usize, counts: impl Iterator<Item = ((u32, i32), [u64; N])>) -> Self {
        let mut entries: Vec<((u32, i32), [u64; N])> = counts.collect();
        entries.par_sort_unstable_by_key(|(key, _)| *key);
        let mut running = Self { offsets: vec![0; rows + 1], ..Self::default() };
        let mut sum = [0; N];
        for (at, ((row, day), counts)) in entries.iter().enumerate() {
            if at == 0 || entries[at - 1].0.0 != *row {
                sum = [0; N];
            }
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            running.offsets[*row as usize + 1] = at + 1;
            running.days.push(*day);
            running.sums.push(sum);
        }
        for row in 0..rows {
            running.offsets[row + 1] = running.offsets[row + 1].max(running.offsets[row]);
        }
        running
    }

    /// Sums of a row as of `day`.
    fn as_of(&self, row: u32, day: i32) -> [u64; N] {
        let range = self.offsets[row as usize]..self.offsets[row as usize + 1];
        let days = &self.days[range.clone()];
        let Some(since_first) = days.first().and_then(|first| usize::try_from(day - first).ok()) else { return [0; N] };
        // Every day is there once at most, so no more than these can count; of a row without gaps all of them do.
        let most = days.len().min(since_first + 1);
        let entries = match days[most - 1] <= day {
            true => most,
            false => days[..most].partition_point(|other| *other <= day),
        };
        self.sums[range.start + entries - 1]
    }

    /// Sums of a row over the 7 and over the 28 days up to and including `day`.
    fn week_and_month(&self, row: u32, day: i32) -> [[u64; N]; 2] {
        let all = self.as_of(row, day);
        [7, 28].map(|days| {
            let (mut sums, before) = (all, self.as_of(row, day - days));
            sums.iter_mut().zip(before).for_each(|(sum, before)| *sum -= before);
            sums
        })
    }

    fn days_of(&self, row: u32) -> &[i32] {
        &self.days[self.offsets[row as usize]..self.offsets[row as usize + 1]]
    }
}

/// An artist's figures as of a day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ArtistFigures {
    /// Heard songs in the last 7 and 28 days.
    pub(super) plays_7d: f64,
    pub(super) plays_28d: f64,
    /// 1 for the fastest riser among the artists listed; artists of equal trend share the better rank.
    pub(super) trending_rank: f64,
    /// NaN where there is no figure yet.
    pub(super) followers: f64,
}

/// A song's figures as of a day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SongFigures {
    pub(super) plays_7d: f64,
    pub(super) plays_28d: f64,
    /// Mean listen ratio, shrunk towards that of all songs.
    pub(super) mean_listen: f64,
}

/// Figures worked out once for every row and day: many more events ask for them.
#[derive(Debug)]
struct Figures<T> {
    first_day: i32,
    days: usize,
    /// By row, then day.
    values: Vec<T>,
}

impl<T: Copy + Send> Figures<T> {
    const NONE: Self = Self { first_day: 0, days: 0, values: Vec::new() };

    /// The figures of `days`; none at all if they would take more than [`FIGURES_BYTES`].
    fn new(rows: usize, days: Range<i32>, figures: impl Fn(u32, i32) -> T + Sync) -> Self {
        let first_day = days.start;
        let days = usize::try_from(days.end.saturating_sub(first_day)).unwrap_or(0);
        if rows.saturating_mul(days).saturating_mul(size_of::<T>()) > FIGURES_BYTES {
            return Self::NONE;
        }
        let at = |place: usize| figures((place / days) as u32, first_day + (place % days) as i32);
        let values = (0..rows * days).into_par_iter().with_min_len(days).map(at).collect();
        Self { first_day, days, values }
    }

    fn get(&self, row: u32, day: i32) -> Option<T> {
        let day = usize::try_from(day.checked_sub(self.first_day)?).ok().filter(|day| *day < self.days)?;
        self.values.get(row as usize * self.days + day).copied()
    }
}

/// Everything known of items at the end of each day before a cutoff.
#[derive(Debug)]
pub(super) struct AsOf {
    artist_plays: Running<1>,
    /// Plays, ratios, heard.
    song_plays: Running<3>,
    /// The same of all songs together.
    all_songs: Running<3>,
    /// Clicks and impressions of everybody.
    shown: Running<2>,
    /// Followers in day order, by artist.
    followers: Vec<Vec<(i32, f64)>>,
    /// Trends of the artists with plays in the 28 days up to `first_day + index`, falling.
    trends: Vec<Vec<f64>>,
    /// Days on which the artist joined: a rank counts those listed.
    joins: Vec<i32>,
    first_day: i32,
    last_day: i32,
    artist_figures: Figures<ArtistFigures>,
    song_figures: Figures<SongFigures>,
}

impl AsOf {
    /// `joins[artist]` is the day an artist joined, `i32::MIN` where it is unknown; nothing of `cutoff_day` or later may
    /// be in `counts` or `followers`.
    pub(super) fn new(
        counts: &Counts,
        songs: usize,
        mut joins: Vec<i32>,
        followers: &[Followers],
        cutoff_day: i32,
    ) -> Self {
        let mut all = BTreeMap::<i32, [u64; 3]>::new();
        for ((_, day), counts) in &counts.songs {
            let sum = all.entry(*day).or_default();
            sum.iter_mut().zip([counts.plays, counts.ratios, counts.heard]).for_each(|(sum, count)| *sum += count);
        }
        let mut by_artist = vec![Vec::new(); joins.len()];
        followers.iter().for_each(|entry| by_artist[entry.artist as usize].push((entry.day, entry.count)));
        by_artist.iter_mut().for_each(|list| list.sort_by_key(|(day, _)| *day));
        let artist_plays = Running::new(joins.len(), counts.artists.iter().map(|(key, count)| (*key, [*count])));
        let mut as_of = Self {
            song_plays: Running::new(
                songs,
                counts.songs.iter().map(|(key, day)| (*key, [day.plays, day.ratios, day.heard])),
            ),
            all_songs: Running::new(1, all.into_iter().map(|(day, sums)| ((0, day), sums))),
            shown: Running::new(
                1,
                counts.shown.iter().map(|(day, (clicks, impressions))| ((0, *day), [*clicks, *impressions])),
            ),
            first_day: artist_plays.days.iter().copied().min().unwrap_or(cutoff_day),
            artist_plays,
            followers: by_artist,
            trends: Vec::new(),
            joins: Vec::new(),
            last_day: cutoff_day - 1,
            artist_figures: Figures::NONE,
            song_figures: Figures::NONE,
        };
        // A wrong clock can set the first day decades back: days without plays in reach have no trends to keep.
        let mut active: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        for artist in 0..joins.len() as u32 {
            as_of.active_days(artist).for_each(|day| active.entry(day).or_default().push(artist));
        }
        as_of.trends = (as_of.first_day..cutoff_day)
            .into_par_iter()
            .map(|day| {
                let mut trends: Vec<f64> = active
                    .get(&day)
                    .into_iter()
                    .flatten()
                    .filter(|artist| joins[**artist as usize] <= day)
                    .map(|artist| Self::trend(as_of.artist_plays.week_and_month(*artist, day)))
                    .collect();
                trends.sort_by(|a, b| b.total_cmp(a));
                trends
            })
            .collect();
        let artists = joins.len();
        joins.sort_unstable();
        as_of.joins = joins;
        // The events of the first day ask for the day before it.
        let days = as_of.first_day - 1..cutoff_day;
        as_of.artist_figures = Figures::new(artists, days.clone(), |artist, day| as_of.artist(artist, day));
        as_of.song_figures = Figures::new(songs, days, |song, day| as_of.song(song, day));
        as_of
    }

    /// The days with plays of the artist in the 28 days up to them, ascending.
    fn active_days(&self, artist: u32) -> impl Iterator<Item = i32> {
        let days = self.artist_plays.days_of(artist);
        days.iter().enumerate().flat_map(move |(at, day)| {
            let next = days.get(at + 1).copied().unwrap_or(i32::MAX);
            *day..(day + 28).min(next).min(self.last_day + 1)
        })
    }

    fn trend([[week], [month]]: [[u64; 1]; 2]) -> f64 {
        (week as f64 + TREND_PRIOR) / (month as f64 / 4.0 + TREND_PRIOR)
    }

    /// An artist's figures as of `day`. **Trend**: (plays in 7 days + 10) / (plays in 28 days / 4 + 10).
    pub(super) fn artist(&self, artist: u32, day: i32) -> ArtistFigures {
        if let Some(figures) = self.artist_figures.get(artist, day) {
            return figures;
        }
        let plays = self.artist_plays.week_and_month(artist, day);
        let trend = Self::trend(plays);
        let trends = usize::try_from(day - self.first_day).ok().and_then(|at| self.trends.get(at));
        let (active, faster) =
            trends.map_or((0, 0), |trends| (trends.len(), trends.partition_point(|other| *other > trend)));
        // Artists without plays have the trend 1.
        let listed = self.joins.partition_point(|join| *join <= day);
        let idle_faster = if trend < 1.0 { listed.saturating_sub(active) } else { 0 };
        let followers = &self.followers[artist as usize];
        let known = followers.partition_point(|(other, _)| *other <= day);
        ArtistFigures {
            plays_7d: plays[0][0] as f64,
            plays_28d: plays[1][0] as f64,
            trending_rank: 1.0 + (faster + idle_faster) as f64,
            followers: if known == 0 { f64::NAN } else { followers[known - 1].1 },
        }
    }

    /// A song's mean listen ratio as of `day`: (sum of ratios + 20 m) / (plays + 20), with m the mean of all songs, or 0.5 as long as
    /// nothing of any song was heard. So it is above 0.
    pub(super) fn mean_listen(&self, song: u32, day: i32) -> f64 {
        if let Some(figures) = self.song_figures.get(song, day) {
            return figures.mean_listen;
        }
        let [plays, ratios, _] = self.song_plays.as_of(song, day);
        let [all_plays, all_ratios, _] = self.all_songs.as_of(0, day);
        // Plays without a time played have a ratio of 0; of nothing but those no mean can be taken.
        let overall =
            if all_ratios == 0 { LISTEN_RATIO_START } else { all_ratios as f64 / RATIO_UNIT / all_plays as f64 };
        (ratios as f64 / RATIO_UNIT + LISTEN_PRIOR * overall) / (plays as f64 + LISTEN_PRIOR)
    }

    /// A song's figures as of `day`.
    pub(super) fn song(&self, song: u32, day: i32) -> SongFigures {
        if let Some(figures) = self.song_figures.get(song, day) {
            return figures;
        }
        let [week, month] = self.song_plays.week_and_month(song, day);
        SongFigures { plays_7d: week[2] as f64, plays_28d: month[2] as f64, mean_listen: self.mean_listen(song, day) }
    }

    /// Clicks per 100 impressions of a user with these counts as of `day`: their own, with [`RATE_PRIOR`] impressions at
    /// everybody's rate added.
    pub(super) fn click_rate(&self, clicks: u64, impressions: u64, day: i32) -> f64 {
        let [all_clicks, all_impressions] = self.shown.as_of(0, day);
        let overall = if all_impressions == 0 { 0.0 } else { all_clicks as f64 / all_impressions as f64 };
        100.0 * (clicks as f64 + RATE_PRIOR * overall) / (impressions as f64 + RATE_PRIOR)
    }

    /// The days on which an artist had plays in the last 28 days or a new figure of followers, ascending.
    pub(super) fn artist_days(&self, artist: u32) -> Vec<i32> {
        let counted = self.followers[artist as usize].iter().map(|(day, _)| *day);
        let mut days: Vec<i32> = self.active_days(artist).chain(counted).collect();
        days.sort_unstable();
        days.dedup();
        days
    }

    /// The days on which a song was played, ascending.
    pub(super) fn song_days(&self, song: u32) -> impl Iterator<Item = i32> {
        self.song_plays.days_of(song).iter().copied()
    }
}
