//! What one user does on one day: sessions, pages of suggestions with clicks, songs heard or skipped, follows.
//!
//! Artists are chosen from the truth (taste, mood of the session, popularity of the day) or from those already known.
//! What is known need not be remembered: it is drawn again from the counters it was drawn from, so a day costs the same
//! whether it is the first or the thousandth, and no state is kept per user.
//!
//! How strongly somebody likes an artist decides clicks, and how strongly they like a song completion and skips, only mildly, so
//! that the share of positive events of either stays close to the drawing probability that the oracle scores by.

use duet_core::event::{EventType, ItemKind};

use super::{
    catalogue::Catalogue,
    dirt,
    draws::{Draws, Stream, mix},
    generate::Stats,
    json::RawEvent,
    listener::{Person, Population, cumulate, draw_cumulative},
    options::WorldOptions,
};

/// Probability that a session is in the mood of the user's current phase rather than of their general taste.
pub(super) const PHASE_SHARE: f64 = 0.35;
/// Share of a session's discoveries that follow its mood.
pub(super) const MOOD_SHARE: f64 = 0.7;
/// Suggestions on a page, and how many sessions open one.
const PAGE: usize = 8;
const PAGE_RATE: f64 = 0.25;
/// Events of one user and day at most: their number is part of the event id.
const MAX_EVENTS: u32 = 8_000;

/// Everything needed to live a day.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) options: &'a WorldOptions,
    pub(super) population: Population,
    pub(super) catalogue: Catalogue,
    /// The first day, days since 1970-01-01.
    pub(super) start_day: i64,
}

/// A user on a day.
struct Visit<'a> {
    world: &'a World<'a>,
    user: u64,
    day: i32,
    person: &'a Person,
    theta: Vec<f64>,
    /// The largest share of `theta`.
    top: f64,
    cumulative: Vec<f64>,
    draws: Draws,
    dirt: Draws,
    /// What songs of the artist at hand are drawn from.
    songs: Vec<f64>,
    /// Events so far.
    count: u32,
    at_ms: i64,
    session: u64,
    out: &'a mut Vec<u8>,
    stats: &'a mut Stats,
}

impl World<'_> {
    fn comes(&self, user: u64, person: &Person, day: i32) -> (bool, Draws) {
        let mut draws = Draws::new(self.options.seed, Stream::Day, user, day as u64);
        let weekend = matches!((self.start_day + i64::from(day) + 3).rem_euclid(7), 5 | 6);
        let rate = person.activity * if weekend { 1.15 } else { 1.0 };
        // Nobody signs up without having a look.
        let comes = day == person.sign_up || day > person.sign_up && draws.chance(rate);
        (comes, draws)
    }

    /// Appends the user's lines of the day, if they come.
    pub(super) fn live(&self, user: u64, day: i32, out: &mut Vec<u8>, stats: &mut Stats) {
        let person = self.population.person(user);
        let (comes, draws) = self.comes(user, &person, day);
        if !comes {
            return;
        }
        stats.user_days += 1;
        let theta = self.population.theta(user, &person);
        let top = theta.iter().copied().fold(0.0, f64::max);
        let cumulative = cumulate(&theta);
        let dirt = Draws::new(self.options.seed, Stream::Dirt, user, day as u64);
        let mut visit = Visit {
            world: self,
            user,
            day,
            person: &person,
            theta,
            top,
            cumulative,
            draws,
            dirt,
            songs: Vec::new(),
            count: 0,
            at_ms: 0,
            session: 0,
            out,
            stats,
        };
        let sessions = visit.draws.geometric(1.35, 6);
        for session in 0..sessions {
            visit.session(session as u64);
        }
    }
}

impl Visit<'_> {
    fn session(&mut self, number: u64) {
        let world = self.world;
        self.session = mix((self.user << 24 | (self.day as u64) << 13 | number) ^ mix(!world.options.seed));
        // Two peaks: on the way to work, and in the evening.
        let hour =
            if self.draws.chance(0.35) { 8.2 + 1.5 * self.draws.normal() } else { 19.0 + 3.0 * self.draws.normal() };
        let local = (hour.rem_euclid(24.0) * 3_600_000.0) as i64;
        let offset = i64::from(self.person.home().offset_minutes) * 60_000;
        self.at_ms = (world.start_day + i64::from(self.day)) * 86_400_000 + local - offset;

        if self.draws.chance(PAGE_RATE) {
            self.page();
        }
        // A block is 1.8 songs of one artist; pages and follows make the rest of the day's events.
        let blocks = self.draws.geometric((world.options.events_per_active_day - 3.0).max(1.0) / 1.35 / 1.8, 500);
        let mut slot = 0;
        for _ in 0..blocks {
            let (artist, genre) = if self.draws.chance(self.person.curiosity) {
                slot += 1;
                self.discovery(self.day, number, slot)
            } else {
                self.known()
            };
            let songs = self.draws.geometric(1.8, 12);
            self.listen(artist, world.catalogue.part(artist, genre), songs);
        }
    }

    /// The genre of a session: the user's current phase, or drawn from their taste.
    fn mood(&self, day: i32, session: u64) -> usize {
        let key = ((day as u64) << 8) | session;
        let mut draws = Draws::new(self.world.options.seed, Stream::Session, self.user, key);
        if draws.chance(PHASE_SHARE) {
            self.world.population.phase(self.user, day, &self.cumulative)
        } else {
            draw_cumulative(&self.cumulative, &mut draws)
        }
    }

    /// A discovery of a session, from slot 1, and the genre it was made in: the same whenever it is asked for.
    fn discovery(&self, day: i32, session: u64, slot: u64) -> (usize, usize) {
        let key = ((day as u64) << 20) | (session << 12) | slot;
        let mut draws = Draws::new(self.world.options.seed, Stream::Discovery, self.user, key);
        let genre = if draws.chance(MOOD_SHARE) {
            self.mood(day, session)
        } else {
            draw_cumulative(&self.cumulative, &mut draws)
        };
        (self.world.catalogue.draw_from_genre(genre, day, &mut draws), genre)
    }

    /// An artist the user knows, from before sign-up or from a day of the last weeks, and the genre that they know them for.
    fn known(&mut self) -> (usize, usize) {
        let world = self.world;
        let back = self.draws.geometric(7.0, 60) as i32;
        let day = self.day - back;
        if self.draws.chance(0.5) && day >= self.person.sign_up.max(0) && world.comes(self.user, self.person, day).0 {
            return self.discovery(day, 0, 1);
        }
        // Few favourites are played most.
        let x = self.draws.unit();
        let favourite = (self.person.favourites as f64 * x * x) as u64;
        let mut draws = Draws::new(world.options.seed, Stream::Favourite, self.user, favourite);
        let genre = draw_cumulative(&self.cumulative, &mut draws);
        (world.catalogue.draw_from_genre(genre, self.person.sign_up.max(0), &mut draws), genre)
    }

    /// A page of suggestions: half by popularity, half by taste; clicked by liking and position.
    fn page(&mut self) {
        let world = self.world;
        let request = mix(self.session ^ 0x5eed);
        let mut shown = [usize::MAX; PAGE];
        for position in 0..PAGE {
            for _ in 0..4 {
                let artist = if self.draws.chance(0.5) {
                    world.catalogue.draw_popular(self.day, &mut self.draws)
                } else {
                    let genre = draw_cumulative(&self.cumulative, &mut self.draws);
                    world.catalogue.draw_from_genre(genre, self.day, &mut self.draws)
                };
                if !shown[..position].contains(&artist) {
                    shown[position] = artist;
                    break;
                }
            }
            if shown[position] == usize::MAX {
                continue;
            }
            self.emit(
                EventType::Impression,
                ItemKind::Artist,
                shown[position] as u64,
                Some((request, position as u32)),
                None,
            );
        }
        for (position, &artist) in shown.iter().enumerate().filter(|(_, artist)| **artist != usize::MAX) {
            let liking = world.catalogue.fit(artist, &self.theta) / self.top;
            let seen = 1.0 / (1.0 + 0.35 * position as f64);
            if !self.draws.chance(0.4 * seen * liking) {
                continue;
            }
            self.at_ms += 2_000 + (8_000.0 * self.draws.unit()) as i64;
            self.emit(EventType::Click, ItemKind::Artist, artist as u64, Some((request, position as u32)), None);
            let part = world.catalogue.draw_part(artist, &self.theta, &mut self.draws);
            let songs = self.draws.geometric(1.5, 6);
            self.listen(artist, part, songs);
            if self.draws.chance(0.12) {
                self.emit(EventType::Follow, ItemKind::Artist, artist as u64, None, None);
            }
        }
    }

    /// Songs of an artist, by somebody who hears them for the genre at place `part` of their mix.
    fn listen(&mut self, artist: usize, part: usize, songs: usize) {
        let catalogue = &self.world.catalogue;
        catalogue.songs.cumulate(artist, part, self.day, &mut self.songs);
        for _ in 0..songs {
            let song = catalogue.songs.draw(artist, &self.songs, &mut self.draws);
            let liking = catalogue.song_fit(artist, song, &self.theta) / self.top;
            let (event_type, ms) = hear(&mut self.draws, liking, catalogue.songs.length_ms[song as usize]);
            self.at_ms += i64::from(ms) + 1_000;
            self.emit(event_type, ItemKind::Song, u64::from(song), None, Some(ms));
        }
        if self.draws.chance(0.03 * catalogue.fit(artist, &self.theta) / self.top) {
            self.emit(EventType::Follow, ItemKind::Artist, artist as u64, None, None);
        } else if self.draws.chance(0.001) {
            self.emit(EventType::Unfollow, ItemKind::Artist, artist as u64, None, None);
        }
    }

    fn emit(
        &mut self,
        event_type: EventType,
        item_kind: ItemKind,
        item: u64,
        request: Option<(u64, u32)>,
        ms_played: Option<u32>,
    ) {
        if self.count == MAX_EVENTS {
            return;
        }
        // 30 bits of user, 11 of day, 13 of event: distinct for every event, and `mix` is a bijection.
        let number = (self.user << 24) | ((self.day as u64) << 13) | u64::from(self.count);
        self.count += 1;
        let event = RawEvent {
            id: mix(number ^ mix(self.world.options.seed)),
            event_type,
            user: self.user,
            item_kind,
            item,
            at_ms: self.at_ms,
            offset_minutes: self.person.home().offset_minutes,
            session: self.session,
            request,
            ms_played,
        };
        let days_known = self.day - self.person.sign_up.max(0);
        dirt::write(self.out, &event, days_known, &self.world.options.dirt, &mut self.dirt, self.stats);
    }
}

/// Whether a song of `full` milliseconds is skipped or heard by somebody who likes it so much (0 to 1), and for how long.
pub(super) fn hear(draws: &mut Draws, liking: f64, full: u32) -> (EventType, u32) {
    if draws.chance(0.05 + 0.25 * (1.0 - liking)) {
        (EventType::Skip, draws.between(2_000.0, 25_000.0) as u32)
    } else if draws.chance(0.55 + 0.4 * liking) {
        (EventType::Listen, full)
    } else {
        (EventType::Listen, (f64::from(full) * draws.between(0.2, 0.98)) as u32)
    }
}
