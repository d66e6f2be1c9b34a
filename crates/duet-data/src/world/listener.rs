//! Who listens: home town, age, gender, activity and taste, all derived from the seed and the user's number.
//!
//! Taste is `theta = softmax(personal + age bucket + city + country + gender)` over the micro-genres. Personal taste is
//! the largest part (deviation 1.5 of a total of about 2.1), and age and home town carry enough that somebody without
//! history is not a blank. Shares of ages and genders are those of LFM-1b (Schedl, ICMR 2016), rounded; most of its
//! users state no gender, and so do ours.

use super::{
    alias::{self, Slot},
    city::{CITIES, City},
    draws::{Draws, Stream},
    options::WorldOptions,
};

/// First age of each bucket; the last bucket ends at 80.
pub(super) const AGE_FROM: [u32; 6] = [13, 18, 25, 35, 45, 55];
const AGE_SHARE: [f64; 6] = [0.07, 0.53, 0.29, 0.07, 0.03, 0.01];
const PERSONAL: f64 = 1.5;
const AGE: f64 = 1.1;
const TOWN: f64 = 0.7;
const COUNTRY: f64 = 0.8;
const GENDER: f64 = 0.3;
/// Days a passing enthusiasm lasts; see [`Population::phase`].
const PHASE_DAYS: i32 = 10;

/// Stated gender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gender {
    Male,
    Female,
    Undisclosed,
}

/// A listener without their taste.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) city: usize,
    pub(super) lat: f64,
    pub(super) lon: f64,
    pub(super) age: u32,
    pub(super) gender: Gender,
    /// Day of sign-up relative to the first day; negative is before it.
    pub(super) sign_up: i32,
    /// Probability of coming on a weekday.
    pub(super) activity: f64,
    /// Share of choices that are discoveries, the rest being artists already known.
    pub(super) curiosity: f64,
    /// Artists known at sign-up.
    pub(super) favourites: usize,
}

impl Person {
    pub(super) fn home(&self) -> &'static City {
        &CITIES[self.city]
    }

    fn age_bucket(&self) -> usize {
        AGE_FROM.iter().rposition(|&from| self.age >= from).unwrap_or(0)
    }
}

/// What all listeners have in common.
#[derive(Debug)]
pub(super) struct Population {
    seed: u64,
    pub(super) genres: usize,
    days: i32,
    age: Vec<f64>,
    town: Vec<f64>,
    country: Vec<f64>,
    gender: Vec<f64>,
    country_of: Vec<usize>,
    cities: Vec<Slot>,
}

impl Population {
    pub(super) fn new(options: &WorldOptions) -> Self {
        let genres = options.genres as usize;
        let mut countries: Vec<&str> = CITIES.iter().map(|city| city.country).collect();
        countries.sort_unstable();
        countries.dedup();
        let effects = |which: u64, rows: usize, deviation: f64| -> Vec<f64> {
            let mut draws = Draws::new(options.seed, Stream::Effects, which, 0);
            (0..rows * genres).map(|_| draws.normal() * deviation).collect()
        };
        let weights: Vec<f64> = CITIES.iter().map(|city| city.weight).collect();
        Self {
            seed: options.seed,
            genres,
            days: options.days as i32,
            age: effects(0, AGE_FROM.len(), AGE),
            town: effects(1, CITIES.len(), TOWN),
            country: effects(2, countries.len(), COUNTRY),
            gender: effects(3, 2, GENDER),
            country_of: CITIES.iter().map(|city| countries.binary_search(&city.country).unwrap_or(0)).collect(),
            cities: alias::build(&weights),
        }
    }

    pub(super) fn person(&self, user: u64) -> Person {
        let mut draws = Draws::new(self.seed, Stream::User, user, 0);
        let city = alias::draw(&self.cities, &mut draws);
        let mut rest = draws.unit();
        let mut bucket = 0;
        while bucket + 1 < AGE_SHARE.len() && rest >= AGE_SHARE[bucket] {
            rest -= AGE_SHARE[bucket];
            bucket += 1;
        }
        let until = AGE_FROM.get(bucket + 1).copied().unwrap_or(80);
        let age = AGE_FROM[bucket] + draws.below((until - AGE_FROM[bucket]) as usize) as u32;
        let gender = match draws.unit() {
            x if x < 0.33 => Gender::Male,
            x if x < 0.46 => Gender::Female,
            _ => Gender::Undisclosed,
        };
        // Three of ten sign up while we watch; the others did within the three years before.
        let sign_up = if draws.chance(0.3) {
            draws.below(self.days as usize) as i32
        } else {
            -1 - (1_095.0 * draws.unit() * draws.unit()) as i32
        };
        // From once a week to daily, few at the upper end.
        let activity = 0.14 + 0.8 * draws.unit().powi(3);
        let curiosity = draws.between(0.15, 0.5);
        let favourites = 3 + draws.geometric(8.0, 40);
        // Most homes lie within a few hundred metres of the centre, some in the suburbs.
        let spread = if draws.chance(0.85) { 0.003 } else { 0.08 };
        let lat = CITIES[city].lat + spread * draws.normal();
        let lon = CITIES[city].lon + spread * draws.normal();
        Person { city, lat, lon, age, gender, sign_up, activity, curiosity, favourites }
    }

    /// Taste over the micro-genres; sums to 1.
    pub(super) fn theta(&self, user: u64, person: &Person) -> Vec<f64> {
        let mut draws = Draws::new(self.seed, Stream::User, user, 1);
        let genres = self.genres;
        let row = |table: &[f64], index: usize, genre: usize| table[index * genres + genre];
        let (bucket, country) = (person.age_bucket(), self.country_of[person.city]);
        let mut theta: Vec<f64> = (0..genres)
            .map(|genre| {
                PERSONAL * draws.normal()
                    + row(&self.age, bucket, genre)
                    + row(&self.town, person.city, genre)
                    + row(&self.country, country, genre)
                    + match person.gender {
                        Gender::Male => row(&self.gender, 0, genre),
                        Gender::Female => row(&self.gender, 1, genre),
                        Gender::Undisclosed => 0.0,
                    }
            })
            .collect();
        let top = theta.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        for value in &mut theta {
            *value = (*value - top).exp();
            total += *value;
        }
        for value in &mut theta {
            *value /= total;
        }
        theta
    }

    /// The genre a user is into around `day`: drawn from their taste, anew every [`PHASE_DAYS`] days. This is what
    /// makes recent history say more than old history.
    pub(super) fn phase(&self, user: u64, day: i32, cumulative: &[f64]) -> usize {
        let shift = (user % PHASE_DAYS as u64) as i32;
        let period = (day + shift).div_euclid(PHASE_DAYS);
        let mut draws = Draws::new(self.seed, Stream::Phase, user, period as u64);
        draw_cumulative(cumulative, &mut draws)
    }
}

/// Running sums of `theta`.
pub(super) fn cumulate(theta: &[f64]) -> Vec<f64> {
    theta
        .iter()
        .scan(0.0, |sum, value| {
            *sum += value;
            Some(*sum)
        })
        .collect()
}

/// A genre drawn from running sums.
pub(super) fn draw_cumulative(cumulative: &[f64], draws: &mut Draws) -> usize {
    let at = draws.unit();
    cumulative.partition_point(|&sum| sum <= at).min(cumulative.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taste_sums_to_one_and_depends_on_home() {
        let population = Population::new(&WorldOptions::default());
        let person = population.person(5);
        let theta = population.theta(5, &person);
        assert!((theta.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let elsewhere = Person { city: (person.city + 60) % CITIES.len(), ..person.clone() };
        assert_ne!(theta, population.theta(5, &elsewhere));
        assert_eq!(theta, population.theta(5, &person));
    }

    #[test]
    fn shares_follow_the_table() {
        let population = Population::new(&WorldOptions::default());
        let people: Vec<Person> = (0..20_000).map(|user| population.person(user)).collect();
        let share = |keep: &dyn Fn(&Person) -> bool| people.iter().filter(|p| keep(p)).count() as f64 / 20_000.0;
        assert!((share(&|p| (18..25).contains(&p.age)) - 0.53).abs() < 0.015);
        assert!((share(&|p| p.gender == Gender::Male) - 0.33).abs() < 0.015);
        assert!((share(&|p| p.sign_up >= 0) - 0.3).abs() < 0.015);
        assert!((share(&|p| p.home().country == "US") - 0.18).abs() < 0.03);
    }
}
