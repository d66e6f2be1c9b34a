//! The dataset of songs inside a prepared world: it says what the plays say, holds new songs of known artists, and is guarded.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use duet_core::{UserIdx, artifact::IfExists};
use duet_data::{
    accounts::UserKey,
    dataset::{Dataset, HistoryEvent},
    prepare::*,
    privacy::{ForgetOptions, forget},
    quality::Thresholds,
    world::{self, Dirt, WorldOptions},
};

use super::prepare::{numbers, small_world};

const DAY_MS: i64 = 86_400_000;

fn key() -> UserKey {
    UserKey::new(b"0123456789abcdef").unwrap()
}

/// A world and its dataset, the last `held_out` days held out.
fn prepared(dir: &Path, world: &WorldOptions, held_out: u32) -> (PrepareOptions, Dataset) {
    world::generate(world, &dir.join("world"), IfExists::Fail).unwrap();
    let mut options = PrepareOptions::for_world(&dir.join("world"), key());
    options.held_out = HeldOut::LastDays(held_out);
    options.thresholds = Thresholds::none();
    prepare(&options, &dir.join("dataset"), IfExists::Fail).unwrap();
    (options, Dataset::open(&dir.join("dataset")).unwrap())
}

#[test]
fn every_row_has_its_play_and_every_play_is_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let (options, dataset) = prepared(dir.path(), &small_world(), 5);
    let songs = dataset.songs().unwrap().unwrap();
    let play = |column: &str| numbers(&dataset.dir, "plays.parquet", column);
    let (users, items, times, played) = (play("user"), play("song"), play("timestamp_ms"), play("ms_played"));
    let (deltas, skipped) = (play("listen_delta"), play("skipped"));
    let lengths = numbers(&songs.dir, "items.parquet", "duration_ms");
    let long_enough = |at: usize| played[at] >= 30_000.0 || played[at] * 2.0 >= lengths[items[at] as usize];
    let heard = |at: usize| skipped[at] == 0.0 && long_enough(at);

    // One row per user, song and UTC day with a song heard, at the first such time, with the largest clamped delta.
    let mut expected: BTreeMap<(u32, i64, u32), (i64, f32)> = BTreeMap::new();
    for at in (0..users.len()).filter(|&at| heard(at)) {
        let (time, [least, most]) = (times[at] as i64, options.strengths.delta_bounds);
        let weight = options.strengths.listen * (deltas[at] as f32).clamp(least, most);
        let row = expected.entry((users[at] as u32, time.div_euclid(DAY_MS), items[at] as u32)).or_insert((time, 0.0));
        *row = (row.0.min(time), row.1.max(weight));
    }
    let timeline = songs.timeline().unwrap();
    let mut found = BTreeMap::new();
    for user in 0..songs.info.counts.users as usize {
        for at in timeline.range(user.into()) {
            let time = timeline.timestamps_ms[at];
            let twice = found
                .insert((user as u32, time.div_euclid(DAY_MS), timeline.items[at].0), (time, timeline.weights[at]));
            assert_eq!(twice, None, "two rows of a day");
        }
    }
    assert!(found.len() > 5_000, "{}", found.len());
    assert!(found == expected, "{} rows, {} of the plays", found.len(), expected.len());
    let cutoff = songs.info.split.cutoff_ms.unwrap();
    assert!(timeline.timestamps_ms.iter().all(|&time| time < cutoff));
    let repeated = found.keys().map(|(user, _, song)| (user, song)).collect::<HashSet<_>>().len() < found.len();
    assert!(repeated, "people hear songs again");

    // The history has all plays in their order, and clicks and follows between them.
    let history = dataset.history().unwrap().unwrap();
    let mut plays = HashMap::<u32, Vec<(i64, u32, bool, f32)>>::new();
    for at in 0..users.len() {
        let play = (times[at] as i64, items[at] as u32, heard(at), deltas[at] as f32);
        plays.entry(users[at] as u32).or_default().push(play);
    }
    let mut of_artists = 0;
    for user in 0..dataset.info.counts.users as u32 {
        let range = history.range(UserIdx(user));
        let of_songs: Vec<_> = range
            .clone()
            .filter(|&at| history.events[at].is_of_song())
            .map(|at| {
                let was_heard = history.events[at] == HistoryEvent::Listen;
                (history.timestamps_ms[at], history.items[at].0, was_heard, history.strengths[at])
            })
            .collect();
        assert_eq!(of_songs, plays.remove(&user).unwrap_or_default());
        for at in range.filter(|&at| !history.events[at].is_of_song()) {
            let expected = match history.events[at] {
                HistoryEvent::Click => options.strengths.click,
                _ => options.strengths.follow,
            };
            assert_eq!(history.strengths[at], expected);
            of_artists += 1;
        }
    }
    assert!(of_artists > 200 && history.timestamps_ms.iter().all(|&time| time < cutoff), "{of_artists}");
}

/// Artist and release day of each song, and the artists' ids, as the catalogue has them.
fn catalogue(world: &Path) -> HashMap<String, (String, chrono::NaiveDate)> {
    let mut reader = csv::Reader::from_path(world.join("catalogue/songs.csv")).unwrap();
    let rows = reader.records().map(|row| {
        let row = row.unwrap();
        (row[0].to_owned(), (row[1].to_owned(), row[4].parse().unwrap()))
    });
    rows.collect()
}

#[test]
fn new_songs_of_known_artists_and_artists_without_a_past_occur() {
    let dir = tempfile::tempdir().unwrap();
    let world = WorldOptions { users: 1_000, artists: 400, days: 40, dirt: Dirt::NONE, ..WorldOptions::default() };
    let (_, dataset) = prepared(dir.path(), &world, 14);
    let songs = dataset.songs().unwrap().unwrap();
    let catalogue = catalogue(&dir.path().join("world"));
    let (items, artists) = (songs.items().unwrap(), dataset.items().unwrap());
    let timeline = dataset.timeline().unwrap();

    // Songs that come out in the held-out days: no rows of the table, and heard by people who know the artist.
    let mut unlisted = [0, 0];
    let mut held_out = 0;
    for user in songs.test().unwrap() {
        let known: HashSet<&str> =
            timeline.items_of(user.user.unwrap()).iter().map(|item| artists.ids.id(item.index())).collect();
        held_out += user.items.len();
        for song in user.items.iter().filter(|song| items.ids.get(song).is_none()) {
            unlisted[usize::from(known.contains(catalogue[song].0.as_str()))] += 1;
        }
    }
    let cutoff = songs.info.split.cutoff_ms.unwrap().div_euclid(DAY_MS) as i32;
    assert!(unlisted[0] > 0 && unlisted[1] * 500 > held_out, "{unlisted:?} of {held_out}");
    let listed = |song: &&String| catalogue[song.as_str()].1.to_epoch_days() < cutoff;
    let expected = catalogue.keys().filter(listed).filter(|song| artists.ids.get(&catalogue[*song].0).is_some());
    assert_eq!(items.len(), expected.count(), "all songs that were out at the cutoff");

    // Songs of the last week before the cutoff are heard afterwards, too.
    let is_fresh = |song: &str| (0..7).contains(&(cutoff - 1 - catalogue[song].1.to_epoch_days()));
    let fresh = items.ids.ids().iter().filter(|song| is_fresh(song)).count();
    let heard: usize = songs
        .test()
        .unwrap()
        .iter()
        .map(|user| user.items.iter().filter(|song| items.ids.get(song).is_some() && is_fresh(song)).count())
        .sum();
    assert!(fresh > 10 && heard * items.len() > fresh * held_out, "{heard} listens to {fresh} fresh songs");

    // Artists who joined in the last days before it: with songs, and hardly any listeners yet.
    let mut listens = vec![0; artists.len()];
    timeline.items.iter().for_each(|item| listens[item.index()] += 1);
    let median = {
        let mut sorted = listens.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let mut late: Vec<u32> = Vec::new();
    let mut reader = csv::Reader::from_path(dir.path().join("world/catalogue/artists.csv")).unwrap();
    for row in reader.records() {
        let row = row.unwrap();
        let join: chrono::NaiveDate = row[4].parse().unwrap();
        late.extend(artists.ids.get(&row[0]).filter(|_| join.to_epoch_days() >= cutoff - 3));
    }
    assert!(!late.is_empty(), "nobody joined late");
    assert!(late.iter().any(|&artist| listens[artist as usize] < median), "{late:?}");
    let with_songs: HashSet<&str> = items.ids.ids().iter().map(|song| catalogue[song].0.as_str()).collect();
    assert!(late.iter().all(|&artist| with_songs.contains(artists.ids.id(artist as usize))));
}

#[test]
fn a_user_is_forgotten_in_both_datasets_and_only_through_the_outer_one() {
    let dir = tempfile::tempdir().unwrap();
    let world = WorldOptions { users: 120, artists: 60, days: 9, truth_days: 3, ..small_world() };
    let (mut options, dataset) = prepared(dir.path(), &world, 3);
    let before = dataset.songs().unwrap().unwrap();
    let (users, timeline) = (before.users().unwrap(), before.timeline().unwrap());
    // Somebody with songs in both parts.
    let in_test: HashSet<u32> = before.test().unwrap().iter().filter_map(|user| Some(user.user?.0)).collect();
    let row_of = |user: &str| users.ids.get(&key().pseudonym(user).unwrap()).unwrap();
    let user = (0..world.users)
        .map(|user| format!("u{user:08}"))
        .find(|user| in_test.contains(&row_of(user)) && timeline.items_of(UserIdx(row_of(user))).len() > 3)
        .unwrap();
    let (row, key) = (row_of(&user), key());
    let ask = |dataset| {
        let options = ForgetOptions { dataset, user_id: &user, user_key: Some(&key), runs: Vec::new() };
        forget(&options).map_err(|error| error.to_string())
    };
    let error = ask(before.dir.clone()).unwrap_err();
    assert!(error.contains("songs is a part of the duet-dataset in"), "{error}");
    let forgotten = ask(dataset.dir.clone()).unwrap();
    for file in ["history.parquet", "songs/users.parquet", "songs/timeline.parquet", "songs/test.parquet"] {
        assert!(forgotten.removed.get(file).is_some_and(|rows| *rows > 0), "{file}: {:?}", forgotten.removed);
    }

    let outer = Dataset::open(&dataset.dir).unwrap();
    let songs = outer.songs().unwrap().unwrap();
    assert_ne!(songs.fingerprint, before.fingerprint);
    assert_eq!(songs.users().unwrap().ids.ids(), outer.users().unwrap().ids.ids());
    assert_eq!(songs.users().unwrap().ids.get(users.ids.id(row as usize)), None);
    assert_eq!(songs.oracle().unwrap().unwrap().users, outer.oracle().unwrap().unwrap().users);
    let now = songs.timeline().unwrap();
    for user in 0..songs.info.counts.users as u32 {
        let then = UserIdx(user + u32::from(user >= row));
        assert_eq!(now.items_of(UserIdx(user)), timeline.items_of(then));
    }
    outer.history().unwrap().unwrap();

    // A later prepare leaves them out; it finds the same rows, with other means of what people hear.
    options.update = true;
    prepare(&options, &dataset.dir, IfExists::Fail).unwrap();
    let again = Dataset::open(&dataset.dir).unwrap().songs().unwrap().unwrap();
    assert_eq!(again.info.counts, songs.info.counts);
    assert_eq!(again.timeline().unwrap().items, now.items);
}
