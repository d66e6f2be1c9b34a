//! Regressions that were planted, and reports that must name them: one country's users mixed up, a day without data, a leaked future.

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
    workshop::{TINY, duet, fail, run, succeed, text, workshop},
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
    assert!(missing_days(&gap).contains("events of 2025-03-13: 0 events"), "{}", missing_days(&gap));
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
