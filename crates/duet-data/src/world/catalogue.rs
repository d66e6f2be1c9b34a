//! Artists: names, genre mixes, drifting power-law popularity, and the daily tables to draw them from; their songs are in
//! [`super::songs`].
//!
//! `phi[g][artist](day)` is proportional to `mix[artist][g] * popularity[artist](day)`. Each artist has one to three
//! micro-genres, so the tables of one day hold about two slots an artist and not one per artist and genre.

use std::collections::HashSet;

use super::{
    alias::{self, Slot},
    draws::{Draws, Stream},
    options::WorldOptions,
    songs::Songs,
};

/// Popularity by rank is `(rank + SHIFT)^-EXPONENT`.
const EXPONENT: f64 = 0.9;
const SHIFT: f64 = 20.0;
/// Slots (artists times days) above which tables are shared by several days, to bound their memory to about 250 MB.
const MAX_TABLE_ROWS: u64 = 8_000_000;
/// Every so many artists one joins in the last days, the sixth first: even a small world has artists whom nobody has heard before.
const LATE_EVERY: usize = 48;
const LATE_FIRST: usize = 5;
/// Half of them join in so many days before the days of the truth, half in these.
const LATE_DAYS: i32 = 3;
/// How much more popular an artist is on the day of a new album, and the days in which that fades to a third.
const ALBUM_RISE: f64 = 1.0;
const ALBUM_RISE_DAYS: f64 = 7.0;

const FAMILIES: [&str; 16] = [
    "rock",
    "pop",
    "hip-hop",
    "electronic",
    "jazz",
    "folk",
    "metal",
    "soul",
    "country",
    "classical",
    "reggae",
    "punk",
    "ambient",
    "latin",
    "blues",
    "house",
];
const STYLES: [&str; 16] = [
    "indie",
    "dark",
    "dream",
    "modern",
    "acoustic",
    "psychedelic",
    "southern",
    "nordic",
    "lo-fi",
    "progressive",
    "coastal",
    "minimal",
    "urban",
    "vintage",
    "experimental",
    "garage",
];

/// How an artist's popularity moves.
#[derive(Debug, Clone, Copy)]
struct Drift {
    wave: f64,
    wave_phase: f64,
    /// Height of a lasting rise (positive) or fall, in log units; 0 for most.
    ramp: f64,
    ramp_day: f64,
}

/// The alias tables of a day.
#[derive(Debug)]
struct Tables {
    /// By genre, as `members`.
    genre: Vec<Slot>,
    /// Over all artists by popularity.
    all: Vec<Slot>,
}

/// Everything about artists and songs.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) genres: usize,
    pub(super) names: Vec<String>,
    /// Genre mix of artist `i`: `mix[mix_start[i]..mix_start[i + 1]]`, weights summing to 1.
    mix: Vec<(u16, f32)>,
    mix_start: Vec<u32>,
    /// First release and joining day, relative to the first day.
    pub(super) first_release: Vec<i32>,
    pub(super) join: Vec<i32>,
    pub(super) following: Vec<u32>,
    base: Vec<f64>,
    drift: Vec<Drift>,
    pub(super) songs: Songs,
    /// Artists of genre `g`: `members[member_start[g]..member_start[g + 1]]`.
    members: Vec<u32>,
    member_start: Vec<u32>,
    tables: Vec<Tables>,
    days_per_table: i32,
}

impl Catalogue {
    pub(super) fn new(options: &WorldOptions) -> Self {
        let (genres, count, days) = (options.genres as usize, options.artists as usize, options.days as i32);
        let mut catalogue = Self {
            genres,
            names: names(options.seed, count),
            mix: Vec::new(),
            mix_start: vec![0],
            first_release: Vec::with_capacity(count),
            join: Vec::with_capacity(count),
            following: Vec::with_capacity(count),
            base: base_popularity(options.seed, count),
            drift: Vec::with_capacity(count),
            songs: Songs::new(),
            members: Vec::new(),
            member_start: Vec::new(),
            tables: Vec::new(),
            days_per_table: (options.artists as u64 * u64::from(options.days)).div_ceil(MAX_TABLE_ROWS).max(1) as i32,
        };
        for artist in 0..count {
            catalogue.add_artist(options, artist, days);
        }
        catalogue.index_members();
        let tables = (days + catalogue.days_per_table - 1) / catalogue.days_per_table;
        catalogue.tables = (0..tables).map(|table| catalogue.make_tables(table * catalogue.days_per_table)).collect();
        catalogue
    }

    /// Makes the tables of the days before `end` too; without them, later days are drawn as the last one that has some.
    pub(super) fn extend(&mut self, end: i32) {
        let count = (end + self.days_per_table - 1) / self.days_per_table;
        for table in self.tables.len() as i32..count {
            let made = self.make_tables(table * self.days_per_table);
            self.tables.push(made);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The genre mix of an artist.
    pub(super) fn mix(&self, artist: usize) -> &[(u16, f32)] {
        &self.mix[self.mix_start[artist] as usize..self.mix_start[artist + 1] as usize]
    }

    fn add_artist(&mut self, options: &WorldOptions, artist: usize, days: i32) {
        let mut draws = Draws::new(options.seed, Stream::Artist, artist as u64, 0);
        let parts = 1 + draws.below(3).min(self.genres - 1);
        let mut weights: Vec<(u16, f32)> = Vec::with_capacity(parts);
        while weights.len() < parts {
            let genre = draws.below(self.genres) as u16;
            if weights.iter().all(|&(other, _)| other != genre) {
                // Each further genre weighs less: 1, .4, .16 before normalising.
                weights.push((genre, 0.4_f32.powi(weights.len() as i32)));
            }
        }
        let total: f32 = weights.iter().map(|part| part.1).sum();
        self.mix.extend(weights.iter().map(|&(genre, weight)| (genre, weight / total)));
        self.mix_start.push(self.mix.len() as u32);

        // One artist of twelve joins the service while we watch, every fourth of them in the last days.
        let truth = (days - options.truth_days as i32).max(0);
        let join = if artist % LATE_EVERY == LATE_FIRST {
            match draws.chance(0.5) {
                true => (truth - 1 - draws.below(LATE_DAYS as usize) as i32).max(0),
                false => truth + draws.below((days - truth) as usize) as i32,
            }
        } else if draws.chance(1.0 / 16.0) {
            draws.below(days as usize) as i32
        } else {
            -1 - draws.below(3_000) as i32
        };
        let first_release = if join >= 0 { join } else { join - draws.below(9_000) as i32 };
        self.join.push(join);
        self.first_release.push(first_release);
        self.following.push((draws.normal() * 1.3 + 4.0).exp() as u32);
        let ramp = if draws.chance(0.1) { draws.between(0.8, 2.0) } else { 0.0 };
        let sign = if draws.chance(0.5) { 1.0 } else { -1.0 };
        self.drift.push(Drift {
            wave: 0.25 * draws.normal(),
            wave_phase: draws.between(0.0, std::f64::consts::TAU),
            ramp: ramp * sign,
            ramp_day: draws.between(0.0, f64::from(days)),
        });
        let mix = &self.mix[self.mix_start[artist] as usize..];
        self.songs.add_artist(options, artist, mix, first_release);
    }

    fn index_members(&mut self) {
        let mut by_genre: Vec<Vec<u32>> = vec![Vec::new(); self.genres];
        for artist in 0..self.len() {
            for &(genre, _) in self.mix(artist) {
                by_genre[genre as usize].push(artist as u32);
            }
        }
        // With few artists a genre can stay empty; a table must not.
        for (genre, list) in by_genre.iter_mut().enumerate() {
            if list.is_empty() {
                list.push((genre % self.names.len()) as u32);
            }
        }
        self.member_start = vec![0];
        for list in &by_genre {
            self.members.extend_from_slice(list);
            self.member_start.push(self.members.len() as u32);
        }
    }

    fn members(&self, genre: usize) -> std::ops::Range<usize> {
        self.member_start[genre] as usize..self.member_start[genre + 1] as usize
    }

    fn mix_weight(&self, artist: usize, genre: usize) -> f64 {
        self.mix(artist).iter().find(|part| part.0 as usize == genre).map_or(0.0, |part| f64::from(part.1))
    }

    /// Popularity of an artist on a day, in arbitrary units; 0 before they join.
    pub(super) fn popularity(&self, artist: usize, day: i32) -> f64 {
        let since = f64::from(day - self.join[artist]);
        if since < 0.0 {
            return 0.0;
        }
        let drift = &self.drift[artist];
        let time = f64::from(day);
        let mut log = drift.wave * (time * std::f64::consts::TAU / 30.0 + drift.wave_phase).sin();
        log += drift.ramp / (1.0 + ((drift.ramp_day - time) / 3.0).exp());
        let mut value = self.base[artist] * log.exp();
        if let Some(album) = self.songs.latest_release(artist, day).filter(|&album| album > self.first_release[artist])
        {
            value *= 1.0 + ALBUM_RISE * (-f64::from(day - album) / ALBUM_RISE_DAYS).exp();
        }
        if self.join[artist] >= 0 {
            value *= 1.0 + 2.0 * (-since / 14.0).exp();
        }
        value
    }

    /// That of every artist.
    fn popularities(&self, day: i32) -> Vec<f64> {
        (0..self.len()).map(|artist| self.popularity(artist, day)).collect()
    }

    fn make_tables(&self, day: i32) -> Tables {
        let popularity = self.popularities(day);
        let mut genre_slots = Vec::with_capacity(self.members.len());
        for genre in 0..self.genres {
            let weights = self.genre_weights(genre, &popularity);
            genre_slots.extend(alias::build(&weights));
        }
        Tables { genre: genre_slots, all: alias::build(&popularity) }
    }

    fn genre_weights(&self, genre: usize, popularity: &[f64]) -> Vec<f64> {
        self.members[self.members(genre)]
            .iter()
            .map(|&artist| self.mix_weight(artist as usize, genre) * popularity[artist as usize])
            .collect()
    }

    fn tables(&self, day: i32) -> &Tables {
        let last = self.tables.len() - 1;
        &self.tables[((day.max(0) / self.days_per_table) as usize).min(last)]
    }

    /// An artist of a genre, by the popularity of the day (days before the first count as the first).
    pub(super) fn draw_from_genre(&self, genre: usize, day: i32, draws: &mut Draws) -> usize {
        let range = self.members(genre);
        let slot = alias::draw(&self.tables(day).genre[range.clone()], draws);
        self.members[range.start + slot] as usize
    }

    /// An artist by the popularity of the day alone.
    pub(super) fn draw_popular(&self, day: i32, draws: &mut Draws) -> usize {
        alias::draw(&self.tables(day).all, draws)
    }

    /// The place of a genre in an artist's mix: what somebody who is after that genre hears of them. The main genre, where the
    /// artist stands in for a genre that nobody has.
    pub(super) fn part(&self, artist: usize, genre: usize) -> usize {
        self.mix(artist).iter().position(|part| part.0 as usize == genre).unwrap_or(0)
    }

    /// The place in an artist's mix of the genre that somebody with this taste hears of them, given that they hear them:
    /// `p(genre) ~ taste[genre] mix[artist][genre]`.
    pub(super) fn draw_part(&self, artist: usize, taste: &[f64], draws: &mut Draws) -> usize {
        let mix = self.mix(artist);
        let mut rest = draws.unit() * self.fit(artist, taste);
        for (part, &(genre, weight)) in mix.iter().enumerate() {
            rest -= taste[genre as usize] * f64::from(weight);
            if rest < 0.0 {
                return part;
            }
        }
        mix.len() - 1
    }

    /// How well an artist fits a taste: `sum_g taste[g] mix[artist][g]`, at most the largest share of the taste.
    pub(super) fn fit(&self, artist: usize, taste: &[f64]) -> f64 {
        self.mix(artist).iter().map(|&(genre, weight)| taste[genre as usize] * f64::from(weight)).sum()
    }

    /// How well a song of an artist fits a taste: `sum_g taste[g] mix[song][g]`.
    pub(super) fn song_fit(&self, artist: usize, song: u32, taste: &[f64]) -> f64 {
        let shares = self.songs.mix(artist, song);
        self.mix(artist).iter().zip(shares).map(|(part, share)| taste[part.0 as usize] * f64::from(share)).sum()
    }

    /// Mean of `phi[.][artist]` over days: `[artists, genres]`, row-major; each genre sums to 1 over the artists.
    pub(super) fn phi(&self, days: std::ops::Range<i32>) -> Vec<f32> {
        let mut phi = vec![0.0_f64; self.len() * self.genres];
        let count = f64::from(days.end - days.start);
        for day in days {
            let popularity = self.popularities(day);
            for genre in 0..self.genres {
                let weights = self.genre_weights(genre, &popularity);
                let total: f64 = weights.iter().sum();
                if total > 0.0 {
                    for (&artist, weight) in self.members[self.members(genre)].iter().zip(&weights) {
                        phi[artist as usize * self.genres + genre] += weight / total / count;
                    }
                }
            }
        }
        phi.into_iter().map(|value| value as f32).collect()
    }

    /// Sums of `mix[artist][genre] * popularity[artist](day)` over the artists, by genre: what a share in a genre is a share of.
    pub(super) fn genre_totals(&self, day: i32) -> Vec<f64> {
        let popularity = self.popularities(day);
        (0..self.genres).map(|genre| self.genre_weights(genre, &popularity).iter().sum::<f64>()).collect()
    }

    /// Mean over days of the probability that somebody after genre `g` hears a song, for the songs of an artist:
    /// `phi[g][artist](day) p(song | artist, g, day)`. `[songs, genres]`, row-major; `totals` are those of the days.
    pub(super) fn song_phi(&self, artist: usize, days: std::ops::Range<i32>, totals: &[Vec<f64>]) -> Vec<f32> {
        let songs = self.songs.of(artist).len();
        let mut phi = vec![0.0_f64; songs * self.genres];
        let mut sums = Vec::with_capacity(songs);
        let count = f64::from(days.end - days.start);
        for (day, totals) in days.zip(totals) {
            let popularity = self.popularity(artist, day);
            if popularity == 0.0 {
                continue;
            }
            for (part, &(genre, weight)) in self.mix(artist).iter().enumerate() {
                let share = f64::from(weight) * popularity / totals[genre as usize] / count;
                self.songs.cumulate(artist, part, day, &mut sums);
                let all = sums.last().copied().unwrap_or(0.0);
                let mut before = 0.0;
                for (song, &sum) in sums.iter().enumerate() {
                    phi[song * self.genres + genre as usize] += share * (sum - before) / all;
                    before = sum;
                }
            }
        }
        phi.into_iter().map(|value| value as f32).collect()
    }

    /// The title of a song.
    pub(super) fn title(&self, seed: u64, song: usize) -> String {
        let mut draws = Draws::new(seed, Stream::Song, song as u64, 1);
        let first = word(&mut draws, 1);
        if draws.chance(0.5) { first } else { format!("{first} {}", word(&mut draws, 2)) }
    }

    /// Genres as the catalogue shows them: the families of the mix and, for three of five artists, the main
    /// micro-genre by name. Coarser than the truth, as catalogues are.
    pub(super) fn labels(&self, seed: u64, artist: usize) -> Vec<String> {
        let mut draws = Draws::new(seed, Stream::Name, artist as u64, 1);
        let mut labels: Vec<String> = Vec::new();
        for &(genre, weight) in self.mix(artist) {
            let family = FAMILIES[genre as usize % FAMILIES.len()].to_owned();
            if weight >= 0.2 && !labels.contains(&family) {
                labels.push(family);
            }
        }
        if draws.chance(0.6) {
            let genre = self.mix(artist)[0].0 as usize;
            labels.push(format!(
                "{} {}",
                STYLES[genre / FAMILIES.len() % STYLES.len()],
                FAMILIES[genre % FAMILIES.len()]
            ));
        }
        labels
    }
}

/// Popularity before drift: ranks dealt out at random.
fn base_popularity(seed: u64, count: usize) -> Vec<f64> {
    let mut order: Vec<(u64, usize)> = (0..count)
        .map(|artist| ((Draws::new(seed, Stream::Drift, artist as u64, 0).unit() * 2_f64.powi(53)) as u64, artist))
        .collect();
    order.sort_unstable();
    let mut base = vec![0.0; count];
    for (rank, &(_, artist)) in order.iter().enumerate() {
        base[artist] = (rank as f64 + 1.0 + SHIFT).powf(-EXPONENT);
    }
    base
}

const ONSETS: [&str; 24] = [
    "b", "br", "c", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "qu", "r", "s", "sh", "t", "tr", "v",
    "w", "z",
];
const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "ai", "ee", "io", "oa", "ou"];
const CODAS: [&str; 10] = ["", "", "", "n", "l", "r", "s", "x", "th", "m"];

/// A capitalised invented word.
pub(super) fn word(draws: &mut Draws, syllables: usize) -> String {
    let mut text = String::new();
    for _ in 0..syllables {
        text.push_str(draws.pick(&ONSETS));
        text.push_str(draws.pick(&VOWELS));
        text.push_str(draws.pick(&CODAS));
    }
    let first = text.remove(0).to_ascii_uppercase();
    text.insert(0, first);
    text
}

fn names(seed: u64, count: usize) -> Vec<String> {
    let mut seen = HashSet::with_capacity(count);
    (0..count)
        .map(|artist| {
            let mut draws = Draws::new(seed, Stream::Name, artist as u64, 0);
            let mut name = match draws.below(5) {
                0 => word(&mut draws, 2),
                1 => format!("The {}s", word(&mut draws, 2)),
                2 => format!("{} & {}", word(&mut draws, 1), word(&mut draws, 2)),
                _ => format!("{} {}", word(&mut draws, 2), word(&mut draws, 2)),
            };
            while !seen.insert(name.clone()) {
                name = format!("{name} {}", word(&mut draws, 1));
            }
            name
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_tables_follow_phi() {
        let options = WorldOptions { artists: 300, genres: 4, days: 5, ..WorldOptions::default() };
        let catalogue = Catalogue::new(&options);
        assert_eq!(catalogue.names.iter().collect::<HashSet<_>>().len(), 300);
        let phi = catalogue.phi(3..4);
        let mut counts = vec![0.0; 300];
        let mut draws = Draws::new(9, Stream::Day, 0, 0);
        for _ in 0..100_000 {
            counts[catalogue.draw_from_genre(2, 3, &mut draws)] += 1.0 / 100_000.0;
        }
        for artist in 0..300 {
            let expected = f64::from(phi[artist * 4 + 2]);
            // Five standard errors of a share.
            let tolerance = 5.0 * (expected / 100_000.0).sqrt() + 1e-9;
            assert!((counts[artist] - expected).abs() <= tolerance, "{artist}: {} {expected}", counts[artist]);
            if catalogue.join[artist] > 3 {
                assert_eq!(counts[artist], 0.0, "played before joining");
            }
        }
    }

    #[test]
    fn songs_share_what_their_artist_has_and_are_drawn_by_it() {
        let options = WorldOptions { artists: 60, genres: 4, days: 5, ..WorldOptions::default() };
        let catalogue = Catalogue::new(&options);
        let (genre, artists) = (1, catalogue.phi(2..5));
        let totals: Vec<Vec<f64>> = (2..5).map(|day| catalogue.genre_totals(day)).collect();
        for artist in 0..60 {
            let phi = catalogue.song_phi(artist, 2..5, &totals);
            for genre in 0..4 {
                let sum: f32 = phi.iter().skip(genre).step_by(4).sum();
                assert!((sum - artists[artist * 4 + genre]).abs() < 1e-5, "{artist}, {genre}: {sum}");
            }
        }
        // Somebody after a genre draws an artist, then a song.
        let phi: Vec<f64> =
            (0..60).flat_map(|artist| catalogue.song_phi(artist, 3..4, &totals[1..2])).map(f64::from).collect();
        let (mut draws, mut sums) = (Draws::new(9, Stream::Day, 0, 0), Vec::new());
        let mut counts = vec![0.0; catalogue.songs.len()];
        for _ in 0..100_000 {
            let artist = catalogue.draw_from_genre(genre, 3, &mut draws);
            catalogue.songs.cumulate(artist, catalogue.part(artist, genre), 3, &mut sums);
            counts[catalogue.songs.draw(artist, &sums, &mut draws) as usize] += 1.0 / 100_000.0;
        }
        for (song, count) in counts.iter().enumerate() {
            let expected = phi[song * 4 + genre];
            let tolerance = 5.0 * (expected / 100_000.0).sqrt() + 1e-9;
            assert!((count - expected).abs() <= tolerance, "{song}: {count} {expected}");
        }
    }

    #[test]
    fn some_artists_join_in_the_last_days_of_every_world() {
        for options in [
            WorldOptions::default(),
            WorldOptions { artists: 10, days: 2, truth_days: 1, ..WorldOptions::default() },
            WorldOptions { artists: 60, days: 30, truth_days: 30, ..WorldOptions::default() },
        ] {
            let catalogue = Catalogue::new(&options);
            let first = options.days as i32 - options.truth_days as i32 - LATE_DAYS;
            let late = catalogue.join.iter().filter(|&&join| join >= first && join >= 0).count();
            assert!(late >= (options.artists as usize).div_ceil(LATE_EVERY), "{late} of {}", options.artists);
            assert!(catalogue.join.iter().all(|&join| join < options.days as i32));
        }
    }

    #[test]
    fn a_taste_says_for_what_an_artist_is_heard() {
        let options = WorldOptions { artists: 60, genres: 4, days: 5, ..WorldOptions::default() };
        let catalogue = Catalogue::new(&options);
        let artist = (0..60).find(|&artist| catalogue.mix(artist).len() == 3).unwrap_or(0);
        let mix = catalogue.mix(artist).to_vec();
        // All taste in the second genre of the artist.
        let mut taste = vec![0.0; 4];
        taste[mix[1].0 as usize] = 1.0;
        let mut draws = Draws::new(2, Stream::Day, 0, 0);
        assert!((0..100).all(|_| catalogue.draw_part(artist, &taste, &mut draws) == 1));
        assert!((catalogue.fit(artist, &taste) - f64::from(mix[1].1)).abs() < 1e-12);
        assert_eq!(catalogue.part(artist, mix[2].0 as usize), 2);
        // A song that is more of that genre than its artist fits better.
        let share = |song: usize| catalogue.songs.mix(artist, song as u32).nth(1).map_or(0.0, f64::from);
        let fit = |song: usize| catalogue.song_fit(artist, song as u32, &taste);
        assert!(catalogue.songs.of(artist).all(|song| (fit(song) - share(song)).abs() < 1e-12));
    }
}
