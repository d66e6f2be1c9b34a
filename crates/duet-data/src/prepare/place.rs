//! Coordinates to city, state and country, offline, and the folding of places that too few users share.
//!
//! The gazetteer is GeoNames' cities of more than 1,000 people, as bundled by `reverse_geocoder` (data: geonames.org,
//! CC BY 4.0); the nearest city counts, however far.

use std::collections::HashMap;

use rayon::prelude::*;
use reverse_geocoder::ReverseGeocoder;

/// Where somebody lives, as far as is known: each name holds the larger places it lies in ("Bergen, Vestland, NO"), so
/// that equal names are equal places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) city: Option<String>,
    pub(super) state: Option<String>,
    pub(super) country: Option<String>,
}

/// The places of coordinates (degrees north and east).
pub(super) fn locate(coordinates: &[Option<(f64, f64)>]) -> Vec<Place> {
    if coordinates.iter().all(Option::is_none) {
        return vec![Place::default(); coordinates.len()];
    }
    let geocoder = ReverseGeocoder::new();
    coordinates
        .par_iter()
        .map(|coordinates| {
            let Some(coordinates) = coordinates else { return Place::default() };
            let record = geocoder.search(*coordinates).record;
            let state = if record.admin1.is_empty() { None } else { Some(format!("{}, {}", record.admin1, record.cc)) };
            let within = state.as_deref().unwrap_or(&record.cc);
            Place { city: Some(format!("{}, {within}", record.name)), state, country: Some(record.cc.clone()) }
        })
        .collect()
}

/// Replaces every place shared by fewer than `least` of the counted users by the next larger one, and a country by
/// "other": `counted[i]` says whether user `i` counts (those who sign up later must not decide which names exist).
pub(super) fn fold(places: &mut [Place], counted: &[bool], least: usize) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for (place, _) in places.iter().zip(counted).filter(|(_, counted)| **counted) {
        for name in [&place.city, &place.state, &place.country].into_iter().flatten() {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }
    let large = |name: &Option<String>| name.as_ref().is_none_or(|name| counts.get(name).is_some_and(|n| *n >= least));
    for place in places {
        if !large(&place.country) {
            place.country = Some("other".into());
        }
        if !large(&place.state) {
            place.state = place.country.clone();
        }
        if !large(&place.city) {
            place.city = place.state.clone().or_else(|| place.country.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Place) -> (&str, &str, &str) {
        let text =
            |name: &'_ Option<String>| name.as_deref().map_or("-", |text| Box::leak(text.to_owned().into_boxed_str()));
        (text(&place.city), text(&place.state), text(&place.country))
    }

    #[test]
    fn real_coordinates_find_their_places() {
        let places = locate(&[Some((59.91, 10.75)), None, Some((-23.55, -46.64))]);
        assert_eq!(names(&places[0]), ("Oslo, Oslo, NO", "Oslo, NO", "NO"));
        assert_eq!(places[1], Place::default());
        assert_eq!(places[2].country.as_deref(), Some("BR"));
    }

    #[test]
    fn small_places_fold_step_by_step() {
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
