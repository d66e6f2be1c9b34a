//! The listeners of a world after its last day: they log in, look at a list, click, play, follow, and stay away once bored.
//!
//! Here and not beside the command, because the truth (taste, popularity, the draws) belongs to this module and is not shown
//! to anybody else. All randomness is keyed by (seed, user, day, login): what a listener does depends on the list and on what
//! they saw before, never on when somebody else was answered.
//!
//! | what | formula |
//! | --- | --- |
//! | taste of a day | `t = (1 - w) theta + w e(phase)`, `w` as in the truth files |
//! | liking, of an artist or a song | `l(u, x) = sum_g t[g] mix[x][g] / max_g t[g]`, in (0, 1] |
//! | fame | `f(a)`: share of the artists that are less popular on the day, in [0, 1) |
//! | affinity | `q(u, a) = l (1/4 + 3/4 f)` |
//! | examination of position `k` (from 0) | `e(k) = 1 / (1 + examination k)` |
//! | click | `P = click_rate e(k) q` |
//! | satisfaction after `c` clicks | `s <- s + satisfaction_rate (min(c, 2) / 2 - s)`, 0.5 at first |
//! | boredom | `b`: lists without a click in a row |
//! | leaving for good after a list | `P = min(max_hazard, hazard exp(boredom b))` |
//! | logins of a day | Poisson, mean `logins_per_user_day (activity / mean activity) (0.6 + 0.8 s)`, 1.15 times that at weekends |

use chrono::{DateTime, FixedOffset};
use duet_core::{
    Error, Result,
    event::{Event, EventType, ItemKind},
};
use serde::{Deserialize, Serialize};

use super::{
    behaviour::{MOOD_SHARE, PHASE_SHARE, hear},
    catalogue::Catalogue,
    draws::{Draws, Stream, mix},
    json::{artist_id, song_id, user_id},
    listener::{Person, Population, cumulate, draw_cumulative},
    options::WorldOptions,
};

/// Logins of a user on a day at most: their number is part of the event id.
pub const MAX_LOGINS: u32 = 8;
/// Events of a login at most, for the same reason.
const MAX_EVENTS: u64 = 1_024;
/// The mean of [`Person::activity`]: `0.14 + 0.8 / 4`.
const MEAN_ACTIVITY: f64 = 0.34;
const DAY_MS: i64 = 86_400_000;

/// How listeners behave before a list; the formulas are those of the module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Habits {
    /// Mean logins of a user on a day, at satisfaction 0.5.
    pub logins_per_user_day: f64,
    /// Clicks on a perfectly fitting, most popular artist at the first position.
    pub click_rate: f64,
    /// How fast the positions below are looked at less.
    pub examination: f64,
    /// Follows after a click on an artist of affinity 1.
    pub follow_rate: f64,
    /// Mean number of artists played of one's own accord in a visit.
    pub own_artists: f64,
    /// How fast satisfaction follows the lists.
    pub satisfaction_rate: f64,
    /// Probability of leaving for good after a list, without boredom.
    pub hazard: f64,
    /// Growth of that with each list without a click.
    pub boredom: f64,
    /// What it never exceeds.
    pub max_hazard: f64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            logins_per_user_day: 0.5,
            click_rate: 0.6,
            examination: 0.35,
            follow_rate: 0.15,
            own_artists: 1.0,
            satisfaction_rate: 0.3,
            hazard: 0.004,
            boredom: 0.5,
            max_hazard: 0.3,
        }
    }
}

impl Habits {
    fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f64, most: f64| {
            if (0.0..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::input(format!("simulation: {name} is {value}; valid: 0 to {most}")))
        };
        check("logins_per_user_day", self.logins_per_user_day, 4.0)?;
        check("click_rate", self.click_rate, 1.0)?;
        check("examination", self.examination, 100.0)?;
        check("follow_rate", self.follow_rate, 1.0)?;
        check("own_artists", self.own_artists, 20.0)?;
        check("satisfaction_rate", self.satisfaction_rate, 1.0)?;
        check("hazard", self.hazard, 1.0)?;
        check("boredom", self.boredom, 10.0)?;
        check("max_hazard", self.max_hazard, 1.0)
    }
}

/// Somebody will log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Login {
    /// When, milliseconds since 1970-01-01 UTC.
    pub at_ms: i64,
    /// Who: a number below the world's users.
    pub user: u64,
    /// Which of the user's logins of the day, from 0.
    pub number: u32,
    /// The day, from the world's first.
    pub day: i32,
}

/// What came of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit {
    /// Everything that happened, in order of time.
    pub events: Vec<Event>,
    /// When the visit ended, milliseconds since 1970-01-01 UTC.
    pub ends_ms: i64,
    /// Positions clicked.
    pub clicks: u32,
    /// Songs of the list's artists heard, skipped ones not counted.
    pub listens: u32,
    /// Artists of the list followed.
    pub follows: u32,
    /// The listener won't come back.
    pub left: bool,
}

/// What lists did to a listener.
#[derive(Debug, Clone, Copy)]
struct Mood {
    satisfaction: f32,
    bored: u16,
    left: bool,
}

/// The listeners of a world, and what they think of what they were shown.
#[derive(Debug)]
pub struct Visitors {
    seed: u64,
    users: u64,
    habits: Habits,
    population: Population,
    catalogue: Catalogue,
    start_day: i64,
    moods: Vec<Mood>,
    /// The day that `fame` is of.
    day: i32,
    fame: Vec<f64>,
}

impl Visitors {
    /// The listeners of the world of `options`, for `days` days after its last one.
    ///
    /// # Errors
    /// [`Error::Input`] for impossible options or habits, or days beyond the 2,000th.
    pub fn new(options: &WorldOptions, habits: Habits, days: u32) -> Result<Self> {
        options.validate()?;
        habits.validate()?;
        let end = options.days.saturating_add(days);
        if end > 2_000 {
            return Err(Error::input(format!("simulation: {end} days with the history; valid: up to 2000")));
        }
        let mut catalogue = Catalogue::new(options);
        catalogue.extend(end as i32);
        let mut visitors = Self {
            seed: options.seed,
            users: options.users,
            habits,
            population: Population::new(options),
            catalogue,
            start_day: i64::from(options.start.to_epoch_days()),
            moods: vec![Mood { satisfaction: 0.5, bored: 0, left: false }; options.users as usize],
            day: -1,
            fame: Vec::new(),
        };
        visitors.look_around(options.days as i32);
        Ok(visitors)
    }

    /// The id of a user in every file and request.
    pub fn id(user: u64) -> String {
        user_id(user)
    }

    /// Whether a listener has left for good.
    pub fn has_left(&self, user: u64) -> bool {
        self.moods[user as usize].left
    }

    /// The instant at which a day begins, UTC.
    pub fn midnight_ms(&self, day: i32) -> i64 {
        (self.start_day + i64::from(day)) * DAY_MS
    }

    /// All logins of a day (counted from the world's first), in order of time.
    ///
    /// The hour is that of the day's rhythm where the listener lives (a third around 8:12, the others around 19:00), the date
    /// that of UTC: days are whole.
    pub fn logins(&mut self, day: i32) -> Vec<Login> {
        self.look_around(day);
        let weekend = matches!((self.start_day + i64::from(day) + 3).rem_euclid(7), 5 | 6);
        let mut logins = Vec::new();
        for user in (0..self.users).filter(|&user| !self.has_left(user)) {
            let person = self.population.person(user);
            let satisfaction = f64::from(self.moods[user as usize].satisfaction);
            let mean = self.habits.logins_per_user_day * person.activity / MEAN_ACTIVITY
                * (0.6 + 0.8 * satisfaction)
                * if weekend { 1.15 } else { 1.0 };
            let mut draws = self.draws(user, day, None);
            let mut times: Vec<i64> = (0..poisson(&mut draws, mean))
                .map(|_| {
                    let (middle, spread) = if draws.chance(0.35) { (8.2, 1.5) } else { (19.0, 3.0) };
                    let local = ((middle + spread * draws.normal()) * 3_600_000.0) as i64;
                    (local - i64::from(person.home().offset_minutes) * 60_000).rem_euclid(DAY_MS)
                })
                .collect();
            times.sort_unstable();
            let midnight = self.midnight_ms(day);
            logins.extend((0..).zip(times).map(|(number, time)| Login { at_ms: midnight + time, user, number, day }));
        }
        logins.sort_unstable();
        logins
    }

    /// What the listener does with the list `shown` (artist ids, best first) of the request `request_id`; `at_ms` is when they
    /// got it.
    ///
    /// # Errors
    /// [`Error::Input`] naming an id that is no artist of this world.
    pub fn visit(&mut self, login: &Login, at_ms: i64, request_id: &str, shown: &[String]) -> Result<Visit> {
        let artists = shown.iter().map(|id| self.artist(id)).collect::<Result<Vec<usize>>>()?;
        let person = self.population.person(login.user);
        let taste = Taste::of(&self.population, login.user, &person, login.day);
        let mut stay = Stay {
            visitors: &*self,
            login: *login,
            offset_minutes: person.home().offset_minutes,
            draws: self.draws(login.user, login.day, Some(login.number)),
            at_ms,
            request_id: request_id.to_owned(),
            taste,
            events: Vec::new(),
            listens: 0,
        };
        let (clicks, follows) = stay.list(&artists);
        stay.own_music();
        let Stay { events, at_ms: ends_ms, listens, mut draws, .. } = stay;
        let habits = self.habits;
        let mood = &mut self.moods[login.user as usize];
        let pleased = f64::from(clicks.min(2)) / 2.0;
        mood.satisfaction += (habits.satisfaction_rate * (pleased - f64::from(mood.satisfaction))) as f32;
        mood.bored = if clicks == 0 { mood.bored.saturating_add(1) } else { 0 };
        let hazard = (habits.hazard * (habits.boredom * f64::from(mood.bored)).exp()).min(habits.max_hazard);
        mood.left |= draws.chance(hazard);
        Ok(Visit { events, ends_ms, clicks, listens, follows, left: mood.left })
    }

    /// Learns how popular everybody is on a day.
    fn look_around(&mut self, day: i32) {
        if day == self.day {
            return;
        }
        let count = self.catalogue.len();
        let popularity: Vec<f64> = (0..count).map(|artist| self.catalogue.popularity(artist, day)).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| popularity[a].total_cmp(&popularity[b]).then(a.cmp(&b)));
        self.fame = vec![0.0; count];
        for (rank, artist) in order.into_iter().enumerate() {
            self.fame[artist] = rank as f64 / count as f64;
        }
        self.day = day;
    }

    fn artist(&self, id: &str) -> Result<usize> {
        let number = id.strip_prefix('a').and_then(|number| number.parse::<usize>().ok());
        number
            .filter(|&artist| artist < self.catalogue.len() && artist_id(artist) == id)
            .ok_or_else(|| Error::input(format!("the list holds {id:?}, which is no artist of this world")))
    }

    /// The draws of a login, or of how often somebody comes on a day.
    fn draws(&self, user: u64, day: i32, login: Option<u32>) -> Draws {
        let number = login.map_or(0, |number| u64::from(number) + 1);
        Draws::new(self.seed, Stream::Login, user, ((day as u64) << 8) | number)
    }

    fn affinity(&self, taste: &Taste, artist: usize) -> f64 {
        self.catalogue.fit(artist, &taste.now) / taste.top * (0.25 + 0.75 * self.fame[artist])
    }
}

/// The genre shares of a listener on a day.
struct Taste {
    now: Vec<f64>,
    cumulative: Vec<f64>,
    top: f64,
}

impl Taste {
    fn of(population: &Population, user: u64, person: &Person, day: i32) -> Self {
        let mut now = population.theta(user, person);
        let phase = population.phase(user, day, &cumulate(&now));
        let share = PHASE_SHARE * MOOD_SHARE;
        now.iter_mut().for_each(|value| *value *= 1.0 - share);
        now[phase] += share;
        let top = now.iter().copied().fold(0.0, f64::max);
        Self { cumulative: cumulate(&now), now, top }
    }
}

/// A visit under way.
struct Stay<'a> {
    visitors: &'a Visitors,
    login: Login,
    offset_minutes: i32,
    draws: Draws,
    at_ms: i64,
    request_id: String,
    taste: Taste,
    events: Vec<Event>,
    listens: u32,
}

impl Stay<'_> {
    /// The list, from top to bottom; returns clicks and follows.
    fn list(&mut self, artists: &[usize]) -> (u32, u32) {
        let (visitors, habits) = (self.visitors, self.visitors.habits);
        for (position, &artist) in artists.iter().enumerate() {
            self.emit(EventType::Impression, ItemKind::Artist, artist_id(artist), Some(position), None);
        }
        let (mut clicks, mut follows) = (0, 0);
        for (position, &artist) in artists.iter().enumerate() {
            let affinity = visitors.affinity(&self.taste, artist);
            let examined = 1.0 / (1.0 + habits.examination * position as f64);
            if !self.draws.chance(habits.click_rate * examined * affinity) {
                continue;
            }
            clicks += 1;
            self.at_ms += 2_000 + (8_000.0 * self.draws.unit()) as i64;
            self.emit(EventType::Click, ItemKind::Artist, artist_id(artist), Some(position), None);
            let part = visitors.catalogue.draw_part(artist, &self.taste.now, &mut self.draws);
            let songs = self.draws.geometric(1.5, 6);
            self.listens += self.play(artist, part, songs, Some(position));
            if self.draws.chance(habits.follow_rate * affinity) {
                follows += 1;
                self.emit(EventType::Follow, ItemKind::Artist, artist_id(artist), Some(position), None);
            }
        }
        (clicks, follows)
    }

    /// Artists that the listener finds without a list: drawn from the truth, as in the history.
    fn own_music(&mut self) {
        let visitors = self.visitors;
        for _ in 0..poisson(&mut self.draws, visitors.habits.own_artists) {
            let genre = draw_cumulative(&self.taste.cumulative, &mut self.draws);
            let artist = visitors.catalogue.draw_from_genre(genre, self.login.day, &mut self.draws);
            let songs = self.draws.geometric(1.8, 12);
            self.play(artist, visitors.catalogue.part(artist, genre), songs, None);
        }
    }

    /// Songs of an artist, heard for the genre at place `part` of their mix; returns how many were not skipped.
    fn play(&mut self, artist: usize, part: usize, songs: usize, position: Option<usize>) -> u32 {
        let catalogue = &self.visitors.catalogue;
        let mut sums = Vec::new();
        catalogue.songs.cumulate(artist, part, self.login.day, &mut sums);
        let mut heard = 0;
        for _ in 0..songs {
            let song = catalogue.songs.draw(artist, &sums, &mut self.draws);
            let liking = catalogue.song_fit(artist, song, &self.taste.now) / self.taste.top;
            let (event_type, ms) = hear(&mut self.draws, liking, catalogue.songs.length_ms[song as usize]);
            heard += u32::from(event_type == EventType::Listen);
            self.at_ms += i64::from(ms) + 1_000;
            self.emit(event_type, ItemKind::Song, song_id(song as usize), position, Some(ms));
        }
        heard
    }

    fn emit(
        &mut self,
        event_type: EventType,
        item_kind: ItemKind,
        item_id: String,
        position: Option<usize>,
        ms_played: Option<u32>,
    ) {
        let count = self.events.len() as u64;
        let offset = FixedOffset::east_opt(self.offset_minutes * 60);
        let (Some(ts), Some(offset)) = (DateTime::from_timestamp_millis(self.at_ms), offset) else { return };
        if count == MAX_EVENTS {
            return;
        }
        let Login { user, number, day, .. } = self.login;
        let session = (user << 24) | ((day as u64) << 13) | (u64::from(number) * MAX_EVENTS);
        let key = mix(self.visitors.seed);
        self.events.push(Event {
            // As in the history: 13 bits for the event of the day, and `mix` is a bijection.
            event_id: format!("{:016x}", mix((session | count) ^ key)),
            event_type,
            user_id: user_id(user),
            item_kind,
            item_id,
            ts: ts.with_timezone(&offset),
            request_id: position.map(|_| self.request_id.clone()),
            position: position.map(|position| position as u32),
            surface: position.map(|_| "home".to_owned()),
            ms_played: ms_played.map(u64::from),
            session_id: Some(format!("{:016x}", mix(session ^ !key))),
        });
    }
}

/// Poisson by multiplying uniform draws (Knuth, TAOCP 2, 3.4.1), at most [`MAX_LOGINS`]; means are small here.
fn poisson(draws: &mut Draws, mean: f64) -> u32 {
    let floor = (-mean).exp();
    let (mut count, mut product) = (0, draws.unit());
    while product > floor && count < MAX_LOGINS {
        count += 1;
        product *= draws.unit();
    }
    count
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn options() -> WorldOptions {
        WorldOptions { users: 400, artists: 200, genres: 12, days: 10, truth_days: 5, ..WorldOptions::default() }
    }

    /// Ten artists for a user, the best or the worst by true affinity.
    fn list(visitors: &Visitors, login: &Login, best: bool) -> Vec<String> {
        let person = visitors.population.person(login.user);
        let taste = Taste::of(&visitors.population, login.user, &person, login.day);
        let mut order: Vec<usize> = (0..visitors.catalogue.len()).collect();
        order.sort_by(|&a, &b| visitors.affinity(&taste, b).total_cmp(&visitors.affinity(&taste, a)));
        if !best {
            order.reverse();
        }
        order.into_iter().take(10).map(artist_id).collect()
    }

    /// Clicks by position, and how many have left after ten days.
    fn live(best: bool) -> ([u32; 10], usize, Vec<Event>) {
        let mut visitors = Visitors::new(&options(), Habits::default(), 10).unwrap();
        let (mut clicks, mut events) = ([0; 10], Vec::new());
        for day in 10..20 {
            for login in visitors.logins(day) {
                if visitors.has_left(login.user) {
                    continue;
                }
                let shown = list(&visitors, &login, best);
                let visit = visitors.visit(&login, login.at_ms, "r", &shown).unwrap();
                for event in &visit.events {
                    if event.event_type == EventType::Click {
                        clicks[event.position.unwrap() as usize] += 1;
                    }
                }
                assert!(visit.events.is_sorted_by_key(|event| event.ts));
                events.extend(visit.events);
            }
        }
        let left = (0..400).filter(|&user| visitors.has_left(user)).count();
        (clicks, left, events)
    }

    #[test]
    fn good_lists_are_clicked_from_the_top_and_bad_ones_drive_people_away() {
        let (good, stayed_less, events) = live(true);
        let (bad, left, _) = live(false);
        let total = |clicks: &[u32]| clicks.iter().sum::<u32>();
        assert!(total(&good) > 10 * total(&bad), "{good:?} {bad:?}");
        assert!(total(&good[..2]) > 2 * total(&good[8..]), "{good:?}");
        assert!(left > 2 * stayed_less, "{left} left with bad lists, {stayed_less} with good ones");
        let ids: HashSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids.len(), events.len(), "event ids are distinct");
        assert_eq!(live(true).2, events, "same seed, same events");
    }

    #[test]
    fn a_day_has_the_logins_asked_for_and_the_rhythm_of_the_hours() {
        let options = WorldOptions { users: 5_000, ..options() };
        let mut visitors = Visitors::new(&options, Habits::default(), 2).unwrap();
        // The eleventh day after a Monday is a Thursday.
        let logins = visitors.logins(10);
        let mean = logins.len() as f64 / 5_000.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        let midnight = visitors.midnight_ms(10);
        assert!(logins.iter().all(|login| (midnight..midnight + DAY_MS).contains(&login.at_ms)));
        assert!(logins.is_sorted());
        let local = |login: &&Login| {
            let offset = i64::from(visitors.population.person(login.user).home().offset_minutes) * 60_000;
            (login.at_ms + offset).rem_euclid(DAY_MS) / 3_600_000
        };
        let night = logins.iter().filter(|login| (2..5).contains(&local(login))).count();
        let evening = logins.iter().filter(|login| (18..21).contains(&local(login))).count();
        assert!(evening > 10 * night.max(1), "{evening} in the evening, {night} at night");
    }

    #[test]
    fn what_is_impossible_is_named() {
        let habits = Habits { click_rate: 1.5, ..Habits::default() };
        let error = Visitors::new(&options(), habits, 1).unwrap_err().to_string();
        assert!(error.contains("click_rate is 1.5; valid: 0 to 1"), "{error}");
        let mut visitors = Visitors::new(&options(), Habits::default(), 1).unwrap();
        let login = Login { at_ms: 0, user: 0, number: 0, day: 10 };
        let error = visitors.visit(&login, 0, "r", &["a9".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"a9\"") && error.contains("no artist"), "{error}");
    }
}
