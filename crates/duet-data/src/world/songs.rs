//! The songs of all artists: albums over the years, each song with a genre mix and an appeal of its own.
//!
//! | what | formula |
//! | --- | --- |
//! | albums | a single (probability 0.4) or 4 to 18 songs that come out on one day; about one album in 150 days, back from the last day to the artist's first release |
//! | mix | `mix[song][g] ~ mix[artist][g] exp(n)`, `n` normal with deviation 1, over the genres of the artist |
//! | appeal | log-normal, deviation 1 |
//! | freshness | `0.2 + 0.8 exp(-(day - release) / 30)`; 0 before the release |
//! | choice among an artist's songs, by somebody after genre `g` | proportional to `mix[song][g] appeal[song] freshness[song](day)` |
//!
//! A song is chosen by the sums of these weights over the artist's songs: a dozen products for every few songs played, and no
//! table for each day. As the choice hangs on the genre and not on the listener, the probability of a song stays a dot product.

use std::ops::Range;

use super::{
    draws::{Draws, Stream},
    options::WorldOptions,
};

/// Share of the albums that are a single song.
const SINGLES: f64 = 0.4;
/// Songs of the others: this many and a geometric number with this mean, at most this many more.
const ALBUM_SONGS: usize = 3;
const ALBUM_MORE: (f64, usize) = (5.0, 15);
/// Mean days between two albums of an artist.
const ALBUM_DAYS: f64 = 150.0;
/// Deviation of a song's mix from its artist's, in log units.
const MIX_DEVIATION: f64 = 1.0;
/// Deviation of the appeal, in log units.
const APPEAL_DEVIATION: f64 = 1.0;
/// What freshness falls to, and the days in which the rest falls to a third.
const FLOOR: f64 = 0.2;
const FADE_DAYS: f64 = 30.0;
/// Songs this old have faded.
const FADED_DAYS: i32 = 365;
/// Songs of an artist at most.
const MAX_SONGS: usize = 2_000;

/// Everything about songs, in columns; those of an artist lie together, in the order of their releases.
#[derive(Debug)]
pub(super) struct Songs {
    /// Songs of artist `i`: `start[i]..start[i + 1]`; the first is the oldest.
    start: Vec<u32>,
    /// Length in milliseconds.
    pub(super) length_ms: Vec<u32>,
    /// Day of the release, relative to the first day.
    pub(super) release: Vec<i32>,
    appeal: Vec<f32>,
    /// Shares of artist `i` begin at `share_start[i]`: for each genre of the artist's mix, that of every song.
    shares: Vec<f32>,
    share_start: Vec<usize>,
    /// By age in days.
    freshness: Vec<f64>,
}

impl Songs {
    /// No songs yet.
    pub(super) fn new() -> Self {
        let fade = |age: i32| FLOOR + (1.0 - FLOOR) * (-f64::from(age) / FADE_DAYS).exp();
        Self {
            start: vec![0],
            length_ms: Vec::new(),
            release: Vec::new(),
            appeal: Vec::new(),
            shares: Vec::new(),
            share_start: Vec::new(),
            freshness: (0..=FADED_DAYS).map(fade).collect(),
        }
    }

    /// Adds the songs of the next artist, who has this mix (genre, weight) and came out with the first of them on that day.
    pub(super) fn add_artist(&mut self, options: &WorldOptions, artist: usize, mix: &[(u16, f32)], first_release: i32) {
        let mut draws = Draws::new(options.seed, Stream::Song, artist as u64, 0);
        let count = draws.geometric(options.songs_per_artist, MAX_SONGS);
        self.release.extend(releases(&mut draws, count, first_release, options.days as i32));
        self.share_start.push(self.shares.len());
        let first = self.shares.len();
        self.shares.resize(first + count * mix.len(), 1.0);
        for song in 0..count {
            // Durations: log-normal around 3:30, between half a minute and 20 minutes.
            let ms = (210_000.0 * (0.3 * draws.normal()).exp()).clamp(30_000.0, 1_200_000.0);
            self.length_ms.push(ms as u32);
            self.appeal.push((APPEAL_DEVIATION * draws.normal()).exp() as f32);
            if mix.len() > 1 {
                let weights: Vec<f64> =
                    mix.iter().map(|(_, weight)| f64::from(*weight) * (MIX_DEVIATION * draws.normal()).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (part, weight) in weights.iter().enumerate() {
                    self.shares[first + part * count + song] = (weight / total) as f32;
                }
            }
        }
        self.start.push(self.release.len() as u32);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.release.len()
    }

    /// The songs of an artist.
    pub(super) fn of(&self, artist: usize) -> Range<usize> {
        self.start[artist] as usize..self.start[artist + 1] as usize
    }

    /// The shares of a song of the artist in the genres of the artist's mix, in its order; they sum to 1.
    pub(super) fn mix(&self, artist: usize, song: u32) -> impl Iterator<Item = f32> {
        let songs = self.of(artist);
        let first = self.share_start[artist] + song as usize - songs.start;
        let end = self.share_start.get(artist + 1).copied().unwrap_or(self.shares.len());
        self.shares[first..end].iter().step_by(songs.len()).copied()
    }

    /// The last day up to `day` on which the artist released something.
    pub(super) fn latest_release(&self, artist: usize, day: i32) -> Option<i32> {
        let releases = &self.release[self.of(artist)];
        releases[..releases.partition_point(|&release| release <= day)].last().copied()
    }

    /// Sums of the weights that the artist's songs are chosen by on a day, by somebody after the genre at place `part` of the
    /// artist's mix: what [`Songs::draw`] draws from.
    pub(super) fn cumulate(&self, artist: usize, part: usize, day: i32, sums: &mut Vec<f64>) {
        let songs = self.of(artist);
        let shares = &self.shares[self.share_start[artist] + part * songs.len()..][..songs.len()];
        let mut sum = 0.0;
        sums.clear();
        sums.extend(songs.zip(shares).map(|(song, share)| {
            sum += f64::from(*share) * f64::from(self.appeal[song]) * self.freshness(song, day);
            sum
        }));
    }

    /// A song of the artist whose sums these are. Before anything is out it is the first.
    pub(super) fn draw(&self, artist: usize, sums: &[f64], draws: &mut Draws) -> u32 {
        let at = draws.unit() * sums.last().copied().unwrap_or(0.0);
        let place = sums.partition_point(|&sum| sum <= at);
        self.start[artist] + if place < sums.len() { place as u32 } else { 0 }
    }

    fn freshness(&self, song: usize, day: i32) -> f64 {
        let age = day - self.release[song];
        if age < 0 { 0.0 } else { self.freshness[age.min(FADED_DAYS) as usize] }
    }
}

/// Days on which `count` songs come out, ascending; the first on `first`, the others before `end`.
fn releases(draws: &mut Draws, count: usize, first: i32, end: i32) -> Vec<i32> {
    let mut releases = Vec::with_capacity(count);
    let mut time = f64::from(end);
    while releases.len() < count {
        let album = match draws.chance(SINGLES) {
            true => 1,
            false => ALBUM_SONGS + draws.geometric(ALBUM_MORE.0, ALBUM_MORE.1),
        };
        let left = count - releases.len();
        time += ALBUM_DAYS * (1.0 - draws.unit()).ln();
        // The oldest songs are those that the artist began with.
        let day = if album >= left { first } else { (time.floor() as i32).clamp(first, end - 1) };
        releases.extend(std::iter::repeat_n(day, album.min(left)));
    }
    releases.reverse();
    releases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn songs(artists: usize) -> (Songs, WorldOptions) {
        let options = WorldOptions::default();
        let mut songs = Songs::new();
        for artist in 0..artists {
            songs.add_artist(&options, artist, &[(3, 0.7), (8, 0.3)], -2_000);
        }
        (songs, options)
    }

    #[test]
    fn albums_come_out_on_one_day_in_order_and_within_the_window_too() {
        let (songs, options) = songs(400);
        let (mut fresh, mut together) = (0, 0);
        for artist in 0..400 {
            let releases = &songs.release[songs.of(artist)];
            assert_eq!(releases[0], -2_000);
            assert!(releases.is_sorted() && releases.iter().all(|&day| day < options.days as i32));
            fresh += releases.iter().filter(|&&day| day >= 0).count();
            together += releases.windows(2).filter(|pair| pair[0] == pair[1] && pair[0] >= 0).count();
        }
        // Two thirds of the artists have two albums or more; of these a third has one in 60 days.
        assert!(fresh > songs.len() / 20 && fresh < songs.len() / 2, "{fresh} of {}", songs.len());
        assert!(together > fresh / 2, "{together} of {fresh} came out with another one");
    }

    #[test]
    fn songs_are_chosen_by_genre_appeal_and_age_and_never_before_their_release() {
        let (songs, _) = songs(50);
        let albums = |artist: &usize| songs.release[songs.of(*artist)].chunk_by(|a, b| a == b).count();
        let artist = (0..50).find(|artist| songs.of(*artist).len() > 10 && albums(artist) > 2).unwrap_or(0);
        let range = songs.of(artist);
        let day = songs.release[range.end - 1] - 1;
        let mut draws = Draws::new(4, Stream::Day, 0, 0);
        let mut sums = Vec::new();
        let mut by_part = [(); 2].map(|()| vec![0.0; range.len()]);
        for (part, counts) in by_part.iter_mut().enumerate() {
            songs.cumulate(artist, part, day, &mut sums);
            for _ in 0..50_000 {
                let song = songs.draw(artist, &sums, &mut draws);
                assert!(songs.release[song as usize] <= day, "heard before its release");
                counts[song as usize - range.start] += 1.0 / 50_000.0;
            }
            let weight = |song: usize| {
                let share = songs.mix(artist, song as u32).nth(part).map_or(0.0, f64::from);
                share * f64::from(songs.appeal[song]) * songs.freshness(song, day)
            };
            let total: f64 = range.clone().map(weight).sum();
            for (song, count) in range.clone().zip(counts.iter()) {
                let expected = weight(song) / total;
                // Five standard errors of a share.
                assert!((count - expected).abs() <= 5.0 * (expected / 50_000.0).sqrt(), "{song}: {count} {expected}");
            }
        }
        let apart: f64 = by_part[0].iter().zip(&by_part[1]).map(|(a, b)| (a - b).abs()).sum();
        assert!(apart > 0.2, "who is after another genre hears other songs: {apart}");
        assert!(range.clone().all(|song| (songs.mix(artist, song as u32).sum::<f32>() - 1.0).abs() < 1e-5));
        // Of two songs alike the newer one is played more.
        let newest = range.end - 1;
        assert!(songs.freshness(newest, day + 1) > 4.0 * songs.freshness(newest, day + 400));
        assert_eq!(songs.draw(artist, &vec![0.0; range.len()], &mut draws), range.start as u32);
    }
}
