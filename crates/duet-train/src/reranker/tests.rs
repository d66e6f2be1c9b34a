//! Features of a made-up dataset whose truth is known.

use std::path::Path;

use duet_core::{
    ItemIdx, UserIdx,
    artifact::IfExists,
    ids::IdMap,
    mixing::splitmix64,
    schema::{FeatureKind, Schema},
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::dataset::{self, Counts, Dataset, DatasetInfo, DatasetKind, DatasetParts, SplitInfo, Timeline};
use duet_retrieval::{
    Scored, Vectors,
    rerank::{BoostingOptions, Examples, boosting},
};

use super::{
    DAY_MS,
    features::Fixed,
    knowledge::{Candidate, Instant, Knowledge},
};

const USERS: usize = 240;
const ITEMS: usize = 60;
const CITIES: u64 = 4;
const FIRST_DAY: i32 = 19_000;
const DAYS: u64 = 40;

fn draw(salt: u64, a: usize, b: usize) -> u64 {
    splitmix64(splitmix64(salt ^ ((a as u64) << 32)) ^ b as u64)
}

fn city(salt: u64, row: usize) -> Option<String> {
    Some(format!("city {}", draw(salt, row, 0) % CITIES))
}

/// Listeners and artists of four cities; what is played has nothing to do with them.
fn dataset(dir: &Path) -> Dataset {
    let ids = |prefix: &str, count: usize| IdMap::new((0..count).map(|at| format!("{prefix}{at}")).collect()).unwrap();
    let text =
        |name: &str, values: Vec<Option<String>>| Column { name: name.into(), values: ColumnValues::Text(values) };
    let mut schema = Schema::default();
    schema.users.insert("city".into(), FeatureKind::Categorical {});
    schema.users.insert("tenure_days".into(), FeatureKind::Numeric {});
    schema.items.insert("city".into(), FeatureKind::Categorical {});
    schema.items.insert("genres".into(), FeatureKind::MultiCategorical { separator: "|".into() });
    schema.items.insert("release".into(), FeatureKind::Date {});
    let mut users = FeatureTable::from_ids(ids("u", USERS));
    users.columns.push(text("city", (0..USERS).map(|user| city(1, user)).collect()));
    let tenure = (0..USERS).map(|user| (draw(2, user, 0) % 400) as f64).collect();
    users.columns.push(Column { name: "tenure_days".into(), values: ColumnValues::Number(tenure) });
    let mut items = FeatureTable::from_ids(ids("i", ITEMS));
    items.columns.push(text("city", (0..ITEMS).map(|item| city(3, item)).collect()));
    let genres = (0..ITEMS).map(|item| if item == 5 { vec![] } else { vec![format!("genre {}", item % 3)] }).collect();
    items.columns.push(Column { name: "genres".into(), values: ColumnValues::TextList(genres) });
    let release = (0..ITEMS as i32).map(|item| (item != 7).then_some(FIRST_DAY - 10 * item)).collect();
    items.columns.push(Column { name: "release".into(), values: ColumnValues::Day(release) });
    let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
    for user in 0..USERS {
        let mut times: Vec<i64> = (0..8)
            .map(|turn| (i64::from(FIRST_DAY) + (draw(4, user, turn) % DAYS) as i64) * DAY_MS + turn as i64)
            .collect();
        times.sort_unstable();
        timeline.items.extend((0..8).map(|turn| ItemIdx((draw(5, user, turn) % ITEMS as u64) as u32)));
        timeline.timestamps_ms.extend(times);
        timeline.weights.extend((0..8).map(|turn| 1.0 + (draw(6, user, turn) % 5) as f32));
        timeline.offsets.push(timeline.items.len());
    }
    let split = SplitInfo { kind: "none".into(), parameters: String::new(), cutoff_ms: None, hash: String::new() };
    let info = DatasetInfo {
        kind: DatasetKind::Sequences,
        item_kind: "artist".into(),
        schema,
        counts: Counts::default(),
        split,
        has_time: true,
        has_weight: true,
        reference_day: Some(FIRST_DAY + DAYS as i32 - 1),
        sources: Vec::new(),
    };
    let parts = DatasetParts { info, users, items, timeline, test: Vec::new(), oracle: None };
    Dataset::open(&dataset::write(&dir.join("data"), IfExists::Fail, &parts).unwrap()).unwrap()
}

fn vectors() -> Vectors {
    let value = |at: usize| (draw(7, at, 0) % 1000) as f32 / 500.0 - 1.0;
    Vectors::new(5, (0..5 * ITEMS).map(value).collect()).unwrap()
}

fn knowledge(dataset: &Dataset, timeline: Timeline) -> Knowledge {
    let followers = (0..ITEMS).map(|item| item as f64).collect();
    Knowledge::new(dataset, timeline, &vectors(), 4, Some(followers)).unwrap()
}

fn candidates(items: impl IntoIterator<Item = usize>) -> Vec<Candidate> {
    (0..)
        .zip(items)
        .map(|(place, item)| Candidate {
            scored: Scored { item: ItemIdx::from(item), score: 1.0 - place as f32 / 100.0 },
            place: Some(place),
            position: 0,
        })
        .collect()
}

/// The timeline with more events; those of a user stay in time order.
fn with_events(timeline: &Timeline, more: &[(usize, u32, i64)]) -> Timeline {
    let mut out = Timeline { offsets: vec![0], ..Timeline::default() };
    for user in 0..USERS {
        let own = timeline.range(UserIdx::from(user));
        let mut events: Vec<(i64, ItemIdx, f32)> =
            own.map(|at| (timeline.timestamps_ms[at], timeline.items[at], timeline.weights[at])).collect();
        events.extend(more.iter().filter(|(who, ..)| *who == user).map(|&(_, item, time)| (time, ItemIdx(item), 9.0)));
        events.sort_by_key(|(time, ..)| *time);
        for (time, item, weight) in events {
            out.items.push(item);
            out.timestamps_ms.push(time);
            out.weights.push(weight);
        }
        out.offsets.push(out.items.len());
    }
    out
}

/// Events before a day alone.
fn before(timeline: &Timeline, day: i32) -> Timeline {
    let mut out = Timeline { offsets: vec![0], ..Timeline::default() };
    for user in 0..USERS {
        for at in timeline.range(UserIdx::from(user)) {
            if timeline.timestamps_ms[at] < i64::from(day) * DAY_MS {
                out.items.push(timeline.items[at]);
                out.timestamps_ms.push(timeline.timestamps_ms[at]);
                out.weights.push(timeline.weights[at]);
            }
        }
        out.offsets.push(out.items.len());
    }
    out
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn nothing_of_a_later_day_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let day = FIRST_DAY + 25;
    let past = before(&dataset.timeline().unwrap(), day);
    // A rush on one item from this day on, by everybody and by the listener.
    let rush: Vec<(usize, u32, i64)> = (0..USERS).map(|user| (user, 11, (i64::from(day) + 1) * DAY_MS)).collect();
    let future = with_events(&past, &rush);
    let (known, leaky) = (knowledge(&dataset, past.clone()), knowledge(&dataset, future));
    let instant = Instant { counts: day, today: day };
    for user in [0, 17, 200].map(UserIdx::from) {
        let rows = |knowledge: &Knowledge| {
            let listed = candidates([11, 3, 40, 5, 7]);
            knowledge.rows(Some(user), past.items_of(user), instant, &listed, 1.0).unwrap()
        };
        assert_eq!(bits(&rows(&known)), bits(&rows(&leaky)), "{user:?}");
        // And the rush is seen where it may be.
        let later = Instant { counts: day + 3, today: day + 3 };
        let listed = candidates([11]);
        let of = |knowledge: &Knowledge| knowledge.rows(Some(user), &[], later, &listed, 1.0).unwrap();
        let week = Fixed::Popularity7 as usize;
        assert!(of(&leaky)[week] > of(&known)[week] + 2.0);
        assert_eq!(of(&leaky)[Fixed::RecencyItem as usize], 2.0);
    }
}

#[test]
fn features_are_what_their_names_say() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let timeline = dataset.timeline().unwrap();
    let known = knowledge(&dataset, timeline.clone());
    let names: Vec<String> = known.features().into_iter().map(|feature| feature.name).collect();
    let at = |name: &str| names.iter().position(|other| other == name).unwrap_or_else(|| panic!("{name} in {names:?}"));
    let user = UserIdx(9);
    let listed = candidates(0..ITEMS);
    let end = known.end();
    assert_eq!(end, Instant { counts: end.today, today: end.today });
    let rows = known.rows(Some(user), &[], end, &listed, 1.5).unwrap();
    assert_eq!(rows.len(), ITEMS * names.len());
    let own = timeline.items_of(user);
    for (item, row) in rows.chunks_exact(names.len()).enumerate() {
        let near = |name: &str, expected: f32| {
            let found = row[at(name)];
            assert!(
                (found - expected).abs() < 1e-4 || (found.is_nan() && expected.is_nan()),
                "{name}: {found}, not {expected}"
            );
        };
        let times = |of: &dyn Fn(usize) -> bool| own.iter().filter(|other| of(other.index())).count() as f32;
        near("two_tower.gap", 1.5 - listed[item].scored.score);
        near("two_tower.rank", (1.0 + item as f32).ln());
        near("affinity.item", times(&|other| other == item) / 8.0);
        let genre = if item == 5 { f32::NAN } else { times(&|other| other != 5 && other % 3 == item % 3) / 8.0 };
        near("affinity.genres", genre);
        near("affinity.city", times(&|other| city(3, other) == city(3, item)) / 8.0);
        near("match.city", f32::from(u8::from(city(1, user.index()) == city(3, item))));
        near("followers", (1.0 + item as f32).ln());
        near("age.release", if item == 7 { f32::NAN } else { (end.today - (FIRST_DAY - 10 * item as i32)) as f32 });
        near("listener.events", 9.0_f32.ln());
        near(
            "listener.tenure",
            (draw(2, user.index(), 0) % 400) as f32 + (end.today - (FIRST_DAY + DAYS as i32 - 1)) as f32,
        );
        let plays = |from: i32| {
            let since = i64::from(from) * DAY_MS;
            let counted = timeline.items.iter().zip(&timeline.timestamps_ms);
            counted.filter(|(other, time)| other.index() == item && **time >= since).count() as f32
        };
        near("popularity.all", plays(i32::MIN / 2).ln_1p());
        near("popularity.7_days", plays(end.counts - 7).ln_1p());
        let together =
            timeline.offsets.windows(2).enumerate().filter(|(other, _)| city(1, *other) == city(1, user.index()));
        let together: Vec<&ItemIdx> = together.flat_map(|(_, pair)| &timeline.items[pair[0]..pair[1]]).collect();
        let share = (plays(i32::MIN / 2) + 1.0) / (timeline.items.len() + ITEMS) as f32;
        let count = together.iter().filter(|other| other.index() == item).count() as f32;
        near("lift.city", ((count + 20.0 * share) / (together.len() as f32 + 20.0) / share).ln());
    }
    // A stranger with a history: nothing of the tables, all of the history.
    let stranger = known.rows(None, own, end, &listed, 1.5).unwrap();
    let row = &stranger[..names.len()];
    assert!(row[at("match.city")].is_nan() && row[at("lift.city")].is_nan() && row[at("listener.tenure")].is_nan());
    assert_eq!(row[at("affinity.genres")], rows[at("affinity.genres")]);
    assert!(known.rows(None, &[ItemIdx::from(ITEMS)], end, &listed, 1.0).unwrap_err().to_string().contains("beyond"));
}

#[test]
fn what_a_live_listener_plays_counts_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let timeline = dataset.timeline().unwrap();
    let known = knowledge(&dataset, timeline.clone());
    let user = UserIdx(3);
    let now = known.at((i64::from(known.end().today) + 5) * DAY_MS);
    assert_eq!(now, Instant { counts: known.end().counts, today: known.end().today + 5 });
    let mut live = timeline.items_of(user).to_vec();
    live.push(ItemIdx(2));
    let row = |history: &[ItemIdx]| known.rows(Some(user), history, now, &candidates([2]), 1.0).unwrap();
    let (old, new) = (row(&[]), row(&live));
    assert_eq!(bits(&old), bits(&row(timeline.items_of(user))), "an empty history is the user's own");
    assert_eq!(new[Fixed::RecencyItem as usize], 0.0);
    assert_eq!(new[Fixed::ListenerIdle as usize], 0.0);
    assert!(old[Fixed::ListenerIdle as usize] >= 5.0);
    assert_eq!(new[Fixed::ListenerEvents as usize], 10.0_f32.ln());
    assert!(new[Fixed::LikenessNearest as usize] > 0.999, "the item itself is among the last");
}

#[test]
fn a_planted_match_of_cities_is_found_and_serves_listeners_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path());
    let known = knowledge(&dataset, dataset.timeline().unwrap());
    let features = known.features();
    let (mut train, mut held_out) = (Examples::new(features.len()), Examples::new(features.len()));
    for user in 0..USERS {
        let listed = candidates((0..20).map(|place| (user * 7 + place * 3) % ITEMS));
        // Seven in ten of the matches are clicked, and nothing else.
        let clicked = |one: &Candidate| {
            let item = one.scored.item.index();
            city(1, user) == city(3, item) && draw(8, user, item) % 10 < 7
        };
        let labels: Vec<bool> = listed.iter().map(clicked).collect();
        let rows = known.rows(Some(UserIdx::from(user)), &[], known.end(), &listed, 1.0).unwrap();
        let examples = if user % 4 == 0 { &mut held_out } else { &mut train };
        examples.push(&rows, &labels);
    }
    for objective in [boosting::Objective::Binary, boosting::Objective::Lambda] {
        let fitted =
            boosting::fit(&train, &held_out, &BoostingOptions { objective, ..BoostingOptions::default() }).unwrap();
        let model: Vec<f64> = held_out.values.chunks_exact(features.len()).map(|row| f64::from(row[0])).collect();
        let (by_model, by_trees) = (held_out.ndcg(&model).unwrap(), fitted.held_out_ndcg.unwrap());
        assert!(by_trees > by_model + 0.25, "{objective:?}: {by_trees} against {by_model} by the model");
        let best = (0..features.len()).max_by(|&a, &b| fitted.gains[a].total_cmp(&fitted.gains[b])).unwrap();
        assert_eq!(features[best].name, "match.city", "{objective:?}: {:?}", fitted.gains);
    }
}
