//! The closed loop, small: the system beats its baselines before true tastes, the same seed gives the same result, and a planted
//! regression is found, rolled back and cured.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::workshop::{Done, fail, run, text};

fn simulate(out: &Path, more: &[&str]) -> Done {
    run("duet", &[&["simulate", "--out", text(out)], more].concat())
}

fn result(out: &Path) -> Value {
    let json = fs::read_to_string(out.join("simulation.json")).expect("a result");
    serde_json::from_str(&json).expect("JSON")
}

/// What came of a verdict.
fn finding(result: &Value, name: &str) -> String {
    let verdicts = result["verdicts"].as_array().expect("verdicts");
    let found = verdicts.iter().find(|verdict| verdict["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no verdict {name:?} in {verdicts:?}"));
    found["finding"].as_str().expect("a word").to_owned()
}

/// Clicks per 100 impressions of an arm: the ends of the interval.
fn clicks(result: &Value, arm: &str) -> (f64, f64) {
    let arms = result["arms"].as_array().expect("arms");
    let found = arms.iter().find(|total| total["arm"] == arm).unwrap_or_else(|| panic!("no arm {arm}"));
    let rate = &found["clicks_per_100_impressions"];
    (rate["low"].as_f64().expect("a number"), rate["high"].as_f64().expect("a number"))
}

const SMALL: [&str; 7] = ["--quick", "--users", "600", "--artists", "300", "--seed", "7"];

#[test]
fn true_tastes_prefer_the_two_tower_and_nothing_wrong_means_no_alarm() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out");
    let done = simulate(&out, &[&SMALL[..], &["--days", "4"]].concat());
    assert_eq!(done.code, 0, "{}\n{}", done.out, done.err);
    let result = result(&out);
    let [two_tower, trending, random] = ["two-tower", "trending", "random"].map(|arm| clicks(&result, arm));
    assert!(two_tower.0 > random.1, "{two_tower:?} {random:?}\n{}", done.out);
    assert!(two_tower.0 > trending.1, "{two_tower:?} {trending:?}\n{}", done.out);
    assert_eq!(finding(&result, "clicks: two-tower above trending"), "holds", "{}", done.out);
    // 150 users an arm can't always tell trending from random; the other way round they must not be.
    assert_ne!(finding(&result, "clicks: trending above random"), "fails", "{}", done.out);
    assert_eq!(finding(&result, "no false alarm"), "holds", "{}", done.out);
    let days = result["days"].as_array().expect("days");
    let bundles: Vec<&str> = days.iter().filter_map(|day| day["bundle"].as_str()).collect();
    assert_eq!(bundles, ["day-001", "day-002", "day-003", "day-004"], "a new bundle was swapped in every night");
    for arm in days.iter().flat_map(|day| day["arms"].as_array().expect("arms")) {
        assert_eq!(arm["degraded"], 0, "{arm}");
        assert_eq!(arm["impressions"].as_u64(), arm["logins"].as_u64().map(|logins| 10 * logins), "{arm}");
    }
    // What was served is what was shown: every list and every event has arrived.
    let lines = |place: &str| {
        let files = fs::read_dir(out.join(place)).expect("shipped files");
        let count = |path: &Path| fs::read_to_string(path).expect("text").lines().count() as u64;
        files.map(|file| count(&file.expect("a file").path())).sum::<u64>()
    };
    assert_eq!(Some(lines("intake/served")), result["lists"].as_u64());
    assert_eq!(Some(lines("intake/events")), result["events"].as_u64());
    assert!(fs::read_to_string(out.join("simulation.md")).expect("a page").contains("| two-tower |"));
    // Random lists are drawn every night: of 300 artists, ten and ten others have a third of one in common.
    let [before, after] =
        ["day-001", "day-002"].map(|day| random_lists(&out.join(format!("intake/served/{day}.jsonl"))));
    let both: Vec<usize> =
        before.iter().filter_map(|(user, list)| Some(list.intersection(after.get(user)?).count())).collect();
    let common: usize = both.iter().sum();
    assert!(!both.is_empty() && common < 2 * both.len(), "{common} artists in common in {} pairs of lists", both.len());
}

/// The last list of each user of the random arm.
fn random_lists(file: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(file).expect("shipped lists");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let list = |line: Value| {
        let items =
            line["items"].as_array().expect("items").iter().map(|item| item.as_str().expect("an id").to_owned());
        (line["user"].as_str().expect("a pseudonym").to_owned(), items.collect::<BTreeSet<String>>())
    };
    lines.filter(|line| line["variant"] == "random").map(list).collect()
}

#[test]
fn a_shuffled_index_is_found_rolled_back_and_cured() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out");
    // Enough listeners of the arm who come before and after: a drop is told by them.
    let size = ["--quick", "--users", "1000", "--shares", "0.7,0.15,0.15", "--seed", "7", "--days", "7"];
    let done = simulate(&out, &[&size[..], &["--plant", "shuffled-index", "--plant-day", "4"]].concat());
    assert_eq!(done.code, 0, "{}\n{}", done.out, done.err);
    let result = result(&out);
    assert_eq!(finding(&result, "the regression is found"), "holds", "{}", done.out);
    assert_eq!(finding(&result, "clicks recover"), "holds", "{}", done.out);
    let days = result["days"].as_array().expect("days");
    assert_eq!(days[3]["bundle"], "day-004-shuffled-index");
    let alarms: Vec<usize> =
        (0..days.len()).filter(|&day| days[day]["monitor"]["alarm"] == true).map(|day| day + 1).collect();
    assert!(alarms.first().is_some_and(|&day| (4..=6).contains(&day)), "alarms on the days {alarms:?}\n{}", done.out);
    let history = fs::read_to_string(out.join("champion.jsonl")).expect("a history");
    let changes: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let rolled_back: Vec<&Value> = changes.iter().filter(|change| change["action"] == "rollback").collect();
    assert_eq!(rolled_back.len(), 1, "{history}");
    assert_eq!(rolled_back[0]["bundle"], "bundles/day-003");
    assert_eq!(rolled_back[0]["before"], "bundles/day-004-shuffled-index");
    assert!(days.last().is_some_and(|day| day["planted"].is_null()), "the last days are sound");
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let place = |name: &str| dir.path().join(name);
    let tiny = [
        ["--users", "200"],
        ["--artists", "120"],
        ["--history-days", "12"],
        ["--days", "2"],
        ["--set", "train.epochs=2"],
        ["--set", "model.dim=16"],
    ]
    .concat();
    for (name, seed) in [("one", "3"), ("two", "3"), ("three", "4")] {
        let done = simulate(&place(name), &[&tiny[..], &["--seed", seed]].concat());
        // A size at which verdicts are luck.
        assert!(done.code == 0 || done.code == 3, "{}\n{}", done.out, done.err);
    }
    let read = |name: &str| fs::read_to_string(place(name).join("simulation.json")).expect("a result");
    assert_eq!(read("one"), read("two"));
    let fingerprint = |name: &str| result(&place(name))["events_fingerprint"].clone();
    assert_ne!(fingerprint("one"), fingerprint("three"));
    // An earlier simulation is replaced only if that is asked for.
    fail("duet", &["simulate", "--out", text(&place("one"))], 1, &["one", "--overwrite"]);
}

#[test]
fn what_can_not_be_simulated_is_told_before_the_work() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out");
    let base = ["simulate", "--out", text(&out)];
    let refused = |more: &[&str], code, parts: &[&str]| {
        fail("duet", &[&base, more].concat(), code, parts);
        assert!(!out.exists(), "something was written");
    };
    refused(&["--plant", "stale"], 2, &["--plant-day"]);
    refused(&["--plant", "gremlins", "--plant-day", "2"], 2, &["shuffled-index", "broken-feature"]);
    refused(&["--plant", "stale", "--plant-day", "9", "--days", "5"], 1, &["--plant-day is 9; valid: 2 to 5"]);
    refused(&["--shares", "0.9,0.9,0.9"], 2, &["three shares"]);
    refused(&["--logins-per-user-day", "40"], 1, &["logins_per_user_day is 40; valid: 0 to 4"]);
    refused(&["--days", "0"], 1, &["--days"]);
    refused(&["--false-alarm-rate", "1"], 1, &["--false-alarm-rate"]);
}
