//! Artists and songs: names, genre mixes, drifting power-law popularity, and the daily tables to draw them from.
//!
//! `phi[g][artist](day)` is proportional to `mix[artist][g] * popularity[artist](day)`. Each artist has one to three
//! micro-genres, so the tables of one day hold about two slots an artist and not one per artist and genre.

use std::collections::HashSet;

use super::{
    alias::{self, Slot},
    draws::{Draws, Stream},
    options::WorldOptions,
};

/// Popularity by rank is `(rank + SHIFT)^-EXPONENT`.
const EXPONENT: f64 = 0.9;
const SHIFT: f64 = 20.0;
/// Slots (artists times days) above which tables are shared by several days, to bound their memory to about 250 MB.
const MAX_TABLE_ROWS: u64 = 8_000_000;

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
    /// Day of a new release within the window, if any.
    release: Option<i32>,
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
    /// Songs of artist `i`: `song_start[i]..song_start[i + 1]`; the first is the oldest.
    pub(super) song_start: Vec<u32>,
    pub(super) song_ms: Vec<u32>,
    pub(super) song_release: Vec<i32>,
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
            song_start: vec![0],
            song_ms: Vec::new(),
            song_release: Vec::new(),
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

    pub(super) fn songs(&self) -> usize {
        self.song_ms.len()
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

        // One artist of twelve joins the service while we watch.
        let joins = draws.chance(1.0 / 12.0);
        let join = if joins { draws.below(days as usize) as i32 } else { -1 - draws.below(3_000) as i32 };
        let first_release = if joins { join } else { join - draws.below(9_000) as i32 };
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
            release: draws.chance(0.08).then(|| join.max(0) + draws.below((days - join.max(0)) as usize) as i32),
        });

        let mut draws = Draws::new(options.seed, Stream::Song, artist as u64, 0);
        let songs = draws.geometric(options.songs_per_artist, 2_000);
        for song in 0..songs {
            // Durations: log-normal around 3:30, between half a minute and 20 minutes.
            let ms = (210_000.0 * (0.3 * draws.normal()).exp()).clamp(30_000.0, 1_200_000.0);
            self.song_ms.push(ms as u32);
            let newest = (join.max(0) - first_release).max(1) as usize;
            let at = draws.below(newest) as i32;
            self.song_release.push(if song == 0 { first_release } else { first_release + at });
        }
        if let (Some(day), true) = (self.drift[artist].release, songs > 1)
            && let Some(last) = self.song_release.last_mut()
        {
            *last = day;
        }
        self.song_start.push(self.song_ms.len() as u32);
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
        let day = f64::from(day);
        let mut log = drift.wave * (day * std::f64::consts::TAU / 30.0 + drift.wave_phase).sin();
        log += drift.ramp / (1.0 + ((drift.ramp_day - day) / 3.0).exp());
        let mut value = self.base[artist] * log.exp();
        if let Some(release) = drift.release
            && day >= f64::from(release)
        {
            value *= 1.0 + 1.5 * (-(day - f64::from(release)) / 7.0).exp();
        }
        if self.join[artist] >= 0 {
            value *= 1.0 + 2.0 * (-since / 14.0).exp();
        }
        value
    }

    fn make_tables(&self, day: i32) -> Tables {
        let popularity: Vec<f64> = (0..self.len()).map(|artist| self.popularity(artist, day)).collect();
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

    /// A song of an artist that is out by `day`; older songs are played more.
    pub(super) fn draw_song(&self, artist: usize, day: i32, draws: &mut Draws) -> u32 {
        let (start, end) = (self.song_start[artist], self.song_start[artist + 1]);
        let x = draws.unit();
        let song = start + (f64::from(end - start) * x * x) as u32;
        if self.song_release[song as usize] <= day { song } else { start }
    }

    /// Mean of `phi[.][artist]` over days: `[artists, genres]`, row-major; each genre sums to 1 over the artists.
    pub(super) fn phi(&self, days: std::ops::Range<i32>) -> Vec<f32> {
        let mut phi = vec![0.0_f64; self.len() * self.genres];
        let count = f64::from(days.end - days.start);
        for day in days {
            let popularity: Vec<f64> = (0..self.len()).map(|artist| self.popularity(artist, day)).collect();
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
}
