//! `compare`, `promote` and `rollback`: the exit code says who is worse, the link goes forth and back, bad input is told.

use std::{fs, path::Path};

use serde_json::Value;

use crate::workshop::{duet, fail, run, text, workshop};

#[test]
fn the_exit_code_says_whether_the_challenger_is_worse() {
    let shop = workshop();
    let (bundle, source, data) = (shop.path("bundle"), shop.path("run"), shop.path("data"));
    let compare =
        |a: &str, b: &str, more: &[&str]| run("duet", &[&["compare", a, b, "--device", "cpu"], more].concat());
    let worse = compare(text(&bundle), "random", &[]);
    assert_eq!(worse.code, 3, "{}", worse.err);
    assert!(worse.out.contains("B on NDCG@10: worse by"), "{}", worse.out);
    let better = compare("random", text(&bundle), &["--json"]);
    assert_eq!(better.code, 0, "{}", better.err);
    let found: Value = serde_json::from_str(&better.out).expect("JSON");
    assert_eq!((&found["outcome"], &found["metric"]), (&Value::from("better"), &Value::from("ndcg@10")));
    assert!(found["segments"].as_array().is_some_and(|divisions| divisions.len() > 5));
    let same = compare(text(&bundle), text(&source), &["--metric", "recall@20", "--strict"]);
    assert_eq!(same.code, 0, "{}", same.err);
    assert!(same.out.contains("B on Recall@20: no difference shown"), "{}", same.out);
    let baselines = compare("popularity", "random", &["--dataset", text(&data)]);
    assert_eq!(baselines.code, 3, "{}", baselines.err);
    fail("duet", &["compare", "popularity", "random"], 1, &["--dataset"]);
    fail("duet", &["compare", "no-such", "random"], 1, &["no-such", "item-knn"]);
    fail("duet", &["compare", text(&data), "random"], 1, &["duet-bundle"]);
    fail("duet", &["compare", text(&bundle), "random", "--metric", "luck@3"], 1, &["luck@3", "ndcg@10"]);
}

/// A copy of a bundle: files of artifacts never change.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a bundle") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).expect("a copy") }
    }
}

#[test]
fn the_champion_is_a_link_with_a_history() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    for name in ["bundles/one", "bundles/two"] {
        copy(&shop.path("bundle"), &path(name));
    }
    let champion = || fs::read_link(path("champion")).expect("a link");
    fail("duet", &["rollback", text(dir.path())], 1, &["no history"]);
    let said = duet(&["promote", text(&path("bundles/one"))]);
    assert!(said.contains("bundles/one, before no champion"), "{said}");
    fail("duet", &["promote", text(&path("bundles/one"))], 1, &["already"]);
    fail("duet", &["rollback", text(dir.path())], 1, &["first champion"]);
    duet(&["promote", text(&path("bundles/two"))]);
    assert_eq!(champion(), Path::new("bundles/two"));
    duet(&["recommend", "--bundle", text(&path("champion")), "--users", "nobody", "--k", "1", "--device", "cpu"]);
    duet(&["rollback", text(dir.path())]);
    assert_eq!(champion(), Path::new("bundles/one"));
    let history = fs::read_to_string(path("champion.jsonl")).expect("a history");
    assert_eq!(history.lines().count(), 3, "{history}");
    assert!(history.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{history}");

    // Neither a damaged bundle nor something else becomes champion, and the link stays.
    let items = path("bundles/two/items.parquet");
    let mut bytes = fs::read(&items).expect("vectors");
    bytes[100] ^= 1;
    fs::write(&items, bytes).expect("damage");
    fail("duet", &["promote", text(&path("bundles/two"))], 1, &["items.parquet"]);
    fail("duet", &["promote", text(&shop.path("data")), "--place", text(dir.path())], 1, &["duet-bundle"]);
    assert_eq!(champion(), Path::new("bundles/one"));
}
