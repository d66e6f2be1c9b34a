//! `duet ablate`: a table in pieces, what is taken over, and a variant that does harm by construction.

use std::{fs, path::Path, time::SystemTime};

use serde_json::Value;

use crate::workshop::{Random, TINY, duet, fail, text, workshop};

fn table(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("ablation.json")).expect("a table")).expect("JSON")
}

fn row<'a>(table: &'a Value, name: &str) -> &'a Value {
    let rows = table["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"))
}

/// When the parameters of a training were written.
fn trained_at(out: &Path, row: &str) -> SystemTime {
    let path = out.join(row).join("seed-0/run/best/weights.safetensors");
    fs::metadata(&path).and_then(|data| data.modified()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_table_in_pieces_trains_nothing_twice() {
    let data = workshop().path("data");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("ablation");
    let ablate = |more: &[&str]| {
        let given = ["ablate", "--data", text(&data), "--out", text(&out), "--seeds", "1"];
        duet(&[&given[..], &TINY, more].concat())
    };
    let said = ablate(&["--rows", "id-dropout-0"]);
    for part in [
        "1/2 default, seed 0: NDCG@10",
        "2/2 id-dropout-0, seed 0: NDCG@10",
        "model.id_dropout=0.0",
        "masks-off: not trained yet",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let first = table(&out);
    for name in ["default", "id-dropout-0"] {
        let measured = &row(&first, name)["measured"];
        assert_eq!(measured["seeds"], serde_json::json!([0]), "{measured}");
        assert!(measured["ndcg"]["mean"].as_f64() > Some(0.0), "{measured}");
        assert!(measured["new_user_ndcg"]["mean"].is_number(), "the world has new users: {measured}");
    }
    assert_eq!(row(&first, "default")["measured"]["to_default"], Value::Null);
    let verdict = &row(&first, "id-dropout-0")["measured"]["to_default"];
    assert!(verdict["adjusted_p"].is_number() && verdict["metric"] == "ndcg@10", "{verdict}");
    // The events' own configuration has 0.1, and mean; 400 artists are all ranked.
    for (name, reason) in
        [("id-dropout-10", "so already"), ("mean", "so already"), ("catalogue", "ranked here already")]
    {
        let said = row(&first, name)["not_trained"].as_str().unwrap_or_default();
        assert!(said.contains("same as default") && said.contains(reason), "{name}: {said}");
    }
    let finished = [trained_at(&out, "default"), trained_at(&out, "id-dropout-0")];
    assert!(!out.join("default/seed-0/run/checkpoint").exists(), "nothing is to be resumed");

    // Another row: the finished ones stay as they are, and stay in the table.
    let said = ablate(&["--rows", "masks-off"]);
    assert!(said.contains("2/2 masks-off, seed 0") && !said.contains("default, seed 0"), "{said}");
    assert_eq!([trained_at(&out, "default"), trained_at(&out, "id-dropout-0")], finished);
    let second = table(&out);
    assert_eq!(row(&second, "id-dropout-0")["measured"]["ndcg"], row(&first, "id-dropout-0")["measured"]["ndcg"]);
    assert!(row(&second, "masks-off")["measured"]["to_default"].is_object());
    let page = fs::read_to_string(out.join("ablation.md")).expect("a page");
    assert!(page.contains("| masks-off | loss.mask_history=false |"), "{page}");

    // All of it measured in another way: no training.
    let said = ablate(&["--rows", "default", "--keep-seen"]);
    assert!(said.contains("1/1 default, seed 0"), "{said}");
    assert_eq!(trained_at(&out, "default"), finished[0]);
    assert_eq!(table(&out)["protocol"]["keep_seen"], true);

    // Another configuration: trained anew, in the place of the old one.
    let said = ablate(&["--rows", "default", "--set", "model.dim=8"]);
    assert!(said.contains("1/1 default, seed 0") && said.contains("id-dropout-0: not trained yet"), "{said}");
    assert_ne!(trained_at(&out, "default"), finished[0]);
}

#[test]
fn a_time_limit_cuts_short_and_more_time_goes_on() {
    let data = workshop().path("data");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("ablation");
    let given =
        ["ablate", "--data", text(&data), "--out", text(&out), "--seeds", "1", "--rows", "default", "--max-time"];
    let said = duet(&[&given[..], &["0.001s"], &TINY].concat());
    assert!(said.contains("no epoch was finished in time"), "{said}");
    let said = duet(&[&given[..], &["10m"], &TINY].concat());
    assert!(said.contains("1/1 default, seed 0: NDCG@10") && !said.contains("cut short"), "{said}");
    assert_eq!(row(&table(&out), "default")["measured"]["cut_short"], 0);
}

/// Everybody moves on from one ten of items to the next, sixty days apart; what is held out is of the last ten.
fn moving_taste() -> String {
    let mut random = Random(5);
    let mut csv = "user_id,item_id,timestamp\n".to_owned();
    for user in 0..300 {
        for (step, ten) in [0, 1, 2, 3, 4, 4].into_iter().enumerate() {
            let within = if step == 5 { 5 + random.below(5) } else { random.below(5) };
            let seconds =
                1_600_000_000 + (step as u64).min(4) * 60 * 86_400 + random.below(86_400) + step as u64 * 86_400;
            csv.push_str(&format!("u{user},i{},{seconds}\n", ten * 10 + within));
        }
        // Those that are held out are known from somebody's training part.
        csv.push_str(&format!("u{user},i{},{}\n", 40 + user % 10, 1_600_000_000 + 4 * 60 * 86_400));
    }
    csv
}

#[test]
fn a_row_that_does_harm_is_named_worse() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [csv, data, out] = ["events.csv", "data", "ablation"].map(|name| dir.path().join(name));
    fs::write(&csv, moving_taste()).expect("a writable directory");
    duet(&["import", "--interactions", text(&csv), "--split", "leave-last-out", "--out", text(&data)]);
    // Nothing is learned at these rates: the trend is all that tells the last items from those nobody wants any more.
    let still = ["train.epochs=1", "train.table_rate=0.00001", "train.tower_rate=0.00001", "loss.temperature=1.0"];
    let mut args = vec!["ablate", "--data", text(&data), "--out", text(&out), "--seeds", "2", "--device", "cpu"];
    args.extend(["--rows", "trend-off,temperature-fixed"]);
    still.iter().for_each(|setting| args.extend(["--set", *setting]));
    let said = duet(&args);
    let found = table(&out);
    let verdict = &row(&found, "trend-off")["measured"]["to_default"];
    assert_eq!(verdict["outcome"], "worse", "{said}");
    assert!(verdict["difference"]["high"].as_f64().is_some_and(|high| high < 0.0), "{verdict}");
    assert!(said.lines().any(|line| line.starts_with("trend-off") && line.contains("worse (p")), "{said}");
    // A temperature that can't move is no other than one that does not: nothing is claimed of it.
    assert_eq!(row(&found, "temperature-fixed")["measured"]["to_default"]["outcome"], "no_difference", "{said}");
    assert_eq!(row(&found, "trend-off")["measured"]["seeds"], serde_json::json!([0, 1]));
}

#[test]
fn what_can_not_be_ablated_is_told() {
    let data = workshop().path("data");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("ablation");
    let given = ["ablate", "--data", text(&data), "--out", text(&out)];
    fail("duet", &[&given[..], &["--rows", "magic"]].concat(), 1, &["unknown row \"magic\"", "masks-off"]);
    fail("duet", &[&given[..], &["--set", "model.dims=3"]].concat(), 1, &["model.dims", "model.dim"]);
    let csv = dir.path().join("events.csv");
    let whole = dir.path().join("whole");
    fs::write(&csv, moving_taste()).expect("a writable directory");
    duet(&["import", "--interactions", text(&csv), "--split", "none", "--out", text(&whole)]);
    fail("duet", &["ablate", "--data", text(&whole), "--out", text(&out)], 1, &["no held-out part", "--split"]);
    assert!(!out.exists(), "an error leaves nothing behind");
}
