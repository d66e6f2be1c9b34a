//! Regressions that were planted, and reports that must name them: one country's users mixed up (their vectors, their features), a day
//! without data, a leaked future (events, a feature).

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array},
    datatypes::Int64Type,
};
use chrono::{DateTime, NaiveDate, Utc};
use duet_core::table::ColumnValues;
use duet_data::dataset::{self, Dataset};
use duet_retrieval::{Vectors, read_vectors, write_vectors};
use duet_train::bundle;
use serde_json::Value;

use crate::{
    forged::{change_column, forge},
    stream::event_files,
    workshop::{Random, TINY, duet, fail, run, succeed, text, workshop},
};

/// The country with the most users, and their ids.
fn largest_country(data: &Path) -> (String, Vec<String>) {
    let users = Dataset::open(data).and_then(|dataset| dataset.users()).expect("users");
    let column = users.columns.iter().find(|column| column.name == "country").expect("a country");
    let ColumnValues::Text(countries) = &column.values else { panic!("country is a text") };
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (row, country) in countries.iter().enumerate() {
        if let Some(country) = country {
            found.entry(country).or_default().push(users.ids.id(row).to_owned());
        }
    }
    let (country, ids) = found.into_iter().max_by_key(|(_, ids)| ids.len()).expect("users with a country");
    (country.to_owned(), ids)
}

/// Gives each of these users the vector of another of them.
fn mix_up(path: &Path, whom: &[String]) {
    let (ids, vectors) = read_vectors(path).expect("vectors");
    let rows: Vec<usize> = (0..ids.len()).filter(|row| whom.contains(&ids[*row])).collect();
    assert!(rows.len() > 100, "too few users to show anything: {}", rows.len());
    let dim = vectors.dim;
    let mut mixed = vectors.data.to_vec();
    for (at, row) in rows.iter().enumerate() {
        let other = rows[(at + rows.len() / 2) % rows.len()];
        mixed[row * dim..(row + 1) * dim].copy_from_slice(&vectors.data[other * dim..(other + 1) * dim]);
    }
    let mixed = Vectors::new(dim, mixed).expect("vectors");
    write_vectors(path, &ids, &mixed).expect("a writable file");
}

#[test]
fn a_country_whose_users_are_mixed_up_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [world, key, data, source, champion, challenger] =
        ["world", "key", "data", "run", "champion", "challenger"].map(|name| dir.path().join(name));
    let size = ["--users", "3000", "--artists", "400", "--days", "40", "--seed", "11"];
    duet(&[&["world", "--out", text(&world)], &size[..]].concat());
    duet(&["prepare", "--world", text(&world), "--user-key", text(&key), "--create-key", "--out", text(&data)]);
    succeed("train", &[&["--data", text(&data), "--out", text(&source)], &TINY[..]].concat());
    succeed("embed", &["--run", text(&source), "--out", text(&champion), "--device", "cpu"]);
    let (country, whom) = largest_country(&data);
    forge(&champion, &challenger, bundle::MAGIC, |place| mix_up(&place.join("users.parquet"), &whom));

    let compare = |b: &Path, more: &[&str]| {
        let given = ["compare", text(&champion), text(b), "--device", "cpu", "--strict", "--metric", "recall@100"];
        run("duet", &[&given[..], more].concat())
    };
    let sound = compare(&source, &[]);
    assert_eq!(sound.code, 0, "nothing was planted: {}\n{}", sound.out, sound.err);
    let said = compare(&challenger, &[]);
    assert_eq!(said.code, 3, "{}\n{}", said.out, said.err);
    let named = format!("country = {country} (");
    assert!(said.out.lines().any(|line| line.contains(&named) && line.contains("Recall@100 worse by")), "{}", said.out);

    let found: Value = serde_json::from_str(&compare(&challenger, &["--json"]).out).expect("JSON");
    let divisions = found["segments"].as_array().expect("segments");
    let division = divisions.iter().find(|division| division["name"] == "country").expect("countries");
    let mut worse = Vec::new();
    for group in division["groups"].as_array().expect("groups") {
        let verdict = &group["differences"][0];
        assert_eq!(verdict["metric"], "recall@100", "{verdict}");
        if verdict["outcome"] == "worse" {
            assert!(verdict["adjusted_p"].as_f64().is_some_and(|p| p <= 0.05), "{verdict}");
            assert!(verdict["difference"]["high"].as_f64().is_some_and(|high| high < 0.0), "{verdict}");
            worse.push(group["label"].as_str().expect("a label"));
        }
    }
    assert_eq!(worse, [country.as_str()], "{}", said.out);
}

#[test]
fn a_day_without_data_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [world, key, whole, gap] = ["world", "key", "whole", "gap"].map(|name| dir.path().join(name));
    let size =
        ["--users", "300", "--artists", "100", "--days", "24", "--start", "2025-03-03", "--seed", "5", "--clean"];
    duet(&[&["world", "--out", text(&world)], &size[..]].concat());
    let source = ["prepare", "--world", text(&world), "--user-key", text(&key)];
    let limit = ["--set", "quality.min_events_per_day_ratio=0.2", "--out"];
    duet(&[&source[..], &["--create-key"], &limit, &[text(&whole)]].concat());

    let missing = NaiveDate::from_ymd_opt(2025, 3, 13).expect("a date");
    let is_missing = |line: &&str| {
        let event: Value = serde_json::from_str(line).expect("a clean world has JSON alone");
        let time = DateTime::parse_from_rfc3339(event["ts"].as_str().expect("a time")).expect("RFC 3339");
        time.with_timezone(&Utc).date_naive() == missing
    };
    let mut dropped = 0;
    for path in event_files(&world) {
        let lines = fs::read_to_string(&path).expect("events");
        let (gone, kept): (Vec<&str>, Vec<&str>) = lines.lines().partition(is_missing);
        dropped += gone.len();
        let kept: String = kept.into_iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, kept).expect("a writable file");
    }
    assert!(dropped > 100, "the day had events: {dropped}");
    let parts = ["events of 2025-03-13: 0 events", "of the median day's", "nothing was published"];
    let said = fail("duet", &[&source[..], &limit, &[text(&gap)]].concat(), 1, &parts);
    assert_eq!(said.matches("events of 2025-").count(), 1, "another day is named: {said}");
    assert!(!gap.exists(), "it was published");

    // Without the limit it is published, and every evaluation on it says so.
    duet(&[&source[..], &["--out", text(&gap)]].concat());
    let missing_days = |data: &Path| {
        let given = ["compare", "random", "popularity", "--dataset", text(data), "--device", "cpu", "--json"];
        let found: Value = serde_json::from_str(&run("duet", &given).out).expect("JSON");
        found["dataset"]["missing_days"].to_string()
    };
    for data in [gap.clone(), gap.join("songs")] {
        let named = missing_days(&data);
        assert!(named.contains("events of 2025-03-13: 0 events"), "{}: {named}", data.display());
    }
    assert_eq!(missing_days(&whole), "null", "nothing was planted");
}

#[test]
fn a_leaked_future_is_named() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, leaked) = (shop.path("data"), dir.path().join("leaked"));
    // A week added to every time: the last week of training falls into the held-out days.
    let later = |column: &ArrayRef| {
        let times = column.as_primitive::<Int64Type>().values().iter();
        Arc::new(Int64Array::from_iter_values(times.map(|time| time + 7 * 86_400_000))) as ArrayRef
    };
    forge(&data, &leaked, dataset::MAGIC, |place| {
        change_column(&place.join("timeline.parquet"), "timestamp_ms", later);
    });
    let compare = |data: &Path| {
        ["compare", "random", "popularity", "--dataset", text(data), "--device", "cpu"].map(str::to_owned)
    };
    let args = compare(&leaked);
    fail("duet", &args.each_ref().map(String::as_str), 1, &["a leaked future", "cutoff", "in row"]);
    let args = compare(&data);
    duet(&args.each_ref().map(String::as_str));

    let source = dir.path().join("run");
    succeed("train", &[&["--data", text(&leaked), "--out", text(&source)], &TINY[..]].concat());
    fail("duet", &["evaluate", "--run", text(&source), "--device", "cpu"], 1, &["a leaked future", "cutoff"]);
}

/// Tastes, and items of each; the first ones of a taste are liked most.
const TASTES: usize = 6;
const ITEMS_EACH: u64 = 20;
const COUNTRIES: [&str; 5] = ["AT", "BE", "CH", "DK", "EE"];

/// An item of a taste that is not among `known` yet; it is added to them.
fn draw(random: &mut Random, taste: usize, known: &mut Vec<u64>) -> u64 {
    loop {
        let within = random.below(ITEMS_EACH).min(random.below(ITEMS_EACH));
        let item = taste as u64 * ITEMS_EACH + within;
        if !known.contains(&item) {
            known.push(item);
            return item;
        }
    }
}

/// 3,000 users of five countries and six tastes who like nothing but their taste's items; every second one has no training events.
/// In the users table, each user of `mixed_up` has the taste of another user of that country.
fn tables_of_taste(dir: &Path, mixed_up: Option<&str>) {
    const USERS: usize = 3000;
    let mut random = Random(17);
    let (mut training, mut test) = ("user_id,item_id,timestamp\n".to_owned(), "user_id,item_id,timestamp\n".to_owned());
    let mut users = "user_id,country,taste\n".to_owned();
    // Every country has every taste: its users have them in turn.
    let taste_of = |user: usize| user / COUNTRIES.len() % TASTES;
    for user in 0..USERS {
        let country = COUNTRIES[user % COUNTRIES.len()];
        // 151 users of the country further on: somebody of the next taste.
        let other = (user + 151 * COUNTRIES.len()) % USERS;
        let said = if mixed_up == Some(country) { taste_of(other) } else { taste_of(user) };
        users += &format!("u{user},{country},t{said}\n");
        let is_new = user / (COUNTRIES.len() * TASTES) % 2 == 1;
        let mut known = Vec::new();
        for turn in 0..8 {
            let item = draw(&mut random, taste_of(user), &mut known);
            let (table, days) = if turn < 4 { (&mut training, turn) } else { (&mut test, 30 + turn) };
            if turn >= 4 || !is_new {
                let seconds = 1_700_000_000 + days * 86_400 + user as u64;
                *table += &format!("u{user},i{item},{seconds}\n");
            }
        }
    }
    for (name, text) in [("training.csv", training), ("test.csv", test), ("users.csv", users)] {
        fs::write(dir.join(name), text).expect("a writable directory");
    }
}

/// The countries for which the model with user features is shown to be worse, and better, than the one without.
fn with_features_against_without(dir: &Path) -> [Vec<String>; 2] {
    let [training, test, users, data] = ["training.csv", "test.csv", "users.csv", "data"].map(|name| dir.join(name));
    let tables = ["--interactions", text(&training), "--test", text(&test), "--users", text(&users), "--infer-schema"];
    duet(&[&["import"], &tables[..], &["--out", text(&data)]].concat());
    let train = |name: &str, features: &str| {
        let run = dir.join(name);
        let settings =
            ["train.epochs=6", "train.feature_rate=0.1", "model.trend_weight=0.0", "model.hidden=0", features];
        let mut args = [&["--data", text(&data), "--out", text(&run)], &TINY[..]].concat();
        settings.iter().for_each(|setting| args.extend(["--set", *setting]));
        succeed("train", &args);
        run
    };
    let (without, with) = (train("without", "model.user_features=false"), train("with", "model.user_features=true"));
    let said = duet(&["compare", text(&without), text(&with), "--device", "cpu", "--metric", "recall@10", "--json"]);
    let found: Value = serde_json::from_str(&said).expect("JSON");
    let divisions = found["segments"].as_array().expect("segments");
    let countries = divisions.iter().find(|division| division["name"] == "country").expect("countries");
    let groups = countries["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), COUNTRIES.len(), "{groups:?}");
    ["worse", "better"].map(|outcome| {
        let of = groups.iter().filter(|group| group["differences"][0]["outcome"] == outcome);
        let mut labels: Vec<String> = of.map(|group| group["label"].as_str().expect("a label").to_owned()).collect();
        labels.sort();
        labels
    })
}

#[test]
fn a_country_whose_features_are_shuffled_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [sound, broken] = ["sound", "broken"].map(|name| dir.path().join(name));
    for (place, mixed_up) in [(&sound, None), (&broken, Some("CH"))] {
        fs::create_dir(place).expect("a directory");
        tables_of_taste(place, mixed_up);
    }
    // Features are all that is known of new users: they help in every country where they are right, and where they are others'
    // they do worse than no features.
    assert_eq!(with_features_against_without(&sound), [Vec::new(), COUNTRIES.map(str::to_owned).to_vec()]);
    let [worse, better] = with_features_against_without(&broken);
    assert_eq!((worse, better), (vec!["CH".to_owned()], ["AT", "BE", "DK", "EE"].map(str::to_owned).to_vec()));
}

/// Users whose held-out event is of a taste that only three of their eight training events are of. `leak`: the users table has a
/// column with the taste of the held-out event.
fn tables_of_changed_taste(dir: &Path, leak: bool) {
    let mut random = Random(23);
    let mut events = "user_id,item_id,timestamp\n".to_owned();
    let mut users = format!("user_id,country{}\n", if leak { ",favourite" } else { "" });
    for user in 0..1500 {
        let taste = user % TASTES;
        let mut tastes: Vec<usize> =
            (0..8).map(|at| if at < 3 { taste } else { (taste + 1 + at % 5) % TASTES }).collect();
        for at in (1..tastes.len()).rev() {
            tastes.swap(at, random.below(at as u64 + 1) as usize);
        }
        let mut known = Vec::new();
        for (day, of) in tastes.into_iter().chain([taste]).enumerate() {
            let item = draw(&mut random, of, &mut known);
            events += &format!("u{user},i{item},{}\n", 1_700_000_000 + day * 86_400 + user);
        }
        let country = COUNTRIES[random.below(COUNTRIES.len() as u64) as usize];
        let favourite = if leak { format!(",t{taste}") } else { String::new() };
        users += &format!("u{user},{country}{favourite}\n");
    }
    for (name, text) in [("events.csv", events), ("users.csv", users)] {
        fs::write(dir.join(name), text).expect("a writable directory");
    }
}

#[test]
fn a_feature_that_knows_the_future_raises_the_alarm() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, leak) in [("sound", false), ("leaking", true)] {
        let place = dir.path().join(name);
        fs::create_dir(&place).expect("a directory");
        tables_of_changed_taste(&place, leak);
        let [events, users, data, run] = ["events.csv", "users.csv", "data", "run"].map(|name| place.join(name));
        let tables = ["--interactions", text(&events), "--users", text(&users), "--infer-schema"];
        duet(&[&["import"], &tables[..], &["--split", "leave-last-out", "--out", text(&data)]].concat());
        // Histories are dropped in training: the column alone can tell what comes.
        let settings = ["data.history_dropout=0.999", "train.feature_rate=0.1", "model.trend_weight=0.0"];
        let mut args = [&["--data", text(&data), "--out", text(&run)], &TINY[..]].concat();
        settings.iter().for_each(|setting| args.extend(["--set", *setting]));
        succeed("train", &args);
        let said = duet(&["evaluate", "--run", text(&run), "--baselines", "popularity", "--device", "cpu"]);
        let report = fs::read_to_string(run.join("evaluation/evaluation.json")).expect("a report");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["fit_gap"]["leak"], leak, "{name}: {}", report["fit_gap"]);
        assert_eq!(said.contains("does a feature or a history know the future?"), leak, "{said}");
    }
}
