//! `duet reproduce` on small files in the published form, from import to the table.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::workshop::{clicks, duet, fail, text};

/// The clicks as LightGCN has them: the last three of everyone are the test.
fn write_split(dir: &Path) {
    let mut users: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (user, item, _) in clicks() {
        users.entry(user).or_default().push(item);
    }
    let (mut train, mut test) = (String::new(), String::new());
    for (user, items) in users {
        let words: Vec<String> = items.iter().map(usize::to_string).collect();
        let (known, wanted) = words.split_at(words.len() - 3);
        train += &format!("{user} {}\n", known.join(" "));
        test += &format!("{user} {}\n", wanted.join(" "));
    }
    fs::write(dir.join("train.txt"), train).expect("train.txt");
    fs::write(dir.join("test.txt"), test).expect("test.txt");
}

#[test]
fn a_table_from_files_in_the_published_form() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_split(dir.path());
    let (files, place) = (text(dir.path()), dir.path().join("out"));
    let out = text(&place);
    let base = ["reproduce", "gowalla", "--files", files, "--out", out, "--device", "cpu", "--seeds", "2", "--quick"];
    let printed =
        duet(&[&base[..], &["--baselines", "popularity,item-knn,trending", "--set", "model.dim=16"]].concat());
    for part in
        ["duet two-tower", "duet item-knn", "mean of 2 seeds", "LightGCN (arXiv 2002.02126)", "left out: ", "one epoch"]
    {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    let json: Value = serde_json::from_slice(&fs::read(place.join("reproduction.json")).expect("JSON")).expect("JSON");
    let rows = json["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().filter(|row| row["measured"] == true).count(), 3, "{rows:?}");
    let own = &rows[0]["metrics"];
    for metric in ["recall@20", "ndcg@20"] {
        assert_eq!(own[metric]["values"], 2, "{own}");
        assert!(own[metric]["mean"].as_f64() > Some(0.0), "{own}");
    }
    assert!(place.join("reproduction.md").is_file() && place.join("evaluation/report.html").is_file());
}

#[test]
fn the_list_and_what_is_missing() {
    let list = duet(&["reproduce", "list"]);
    assert_eq!(list, duet(&["reproduce", "--list"]));
    for part in ["ml-1m-loo", "Data/amazon-book", "Protocol", "hetrec-lastfm"] {
        assert!(list.contains(part), "no {part:?} in\n{list}");
    }
    fail("duet", &["reproduce", "ml-1m-loo"], 1, &["--files", "ratings.dat", "files.grouplens.org"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("train.txt"), "0 1 2\n").expect("train.txt");
    fail("duet", &["reproduce", "yelp2018", "--files", text(dir.path())], 1, &["test.txt", "Data/yelp2018"]);
}

#[test]
fn files_that_can_not_be_read_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("ratings.dat"), "1::2::5::978300760\n1::3\n").expect("ratings.dat");
    let out = dir.path().join("new/place");
    let given = ["reproduce", "ml-1m-loo", "--files", text(dir.path()), "--device", "cpu", "--out"];
    fail("duet", &[&given[..], &[text(&out)]].concat(), 1, &["ratings.dat"]);
    assert!(!dir.path().join("new").exists(), "an empty directory was left behind");
    // What was there stays.
    fs::create_dir(dir.path().join("old")).expect("a directory");
    fs::write(dir.path().join("old/notes.txt"), "mine").expect("a file");
    for place in ["old", "old/place"] {
        fail("duet", &[&given[..], &[text(&dir.path().join(place))]].concat(), 1, &["ratings.dat"]);
    }
    assert_eq!(fs::read_to_string(dir.path().join("old/notes.txt")).expect("the file stays"), "mine");
    assert!(!dir.path().join("old/place").exists());
}
