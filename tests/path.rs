//! The whole path on data the tests make: what evaluate, recommend, similar and inspect say, and that they agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use duet_core::{UserIdx, table::ColumnValues};
use duet_data::dataset::Dataset;
use serde_json::Value;

use crate::workshop::{
    CLICK_ITEMS, CLICKS_EACH, Done, TINY, click_csv, clicks, command, duet, fail, lists, run, succeed, text, workshop,
};

/// `evaluation.json` of a report.
fn report(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("evaluation.json")).expect("evaluation.json");
    serde_json::from_str(&text).expect("evaluation.json is JSON")
}

/// A mean over all users in a report.
pub(crate) fn mean(dir: &Path, recommender: &str, metric: &str) -> f64 {
    let report = report(dir);
    let of = |list: &Value, key: &str, name: &str| {
        let found = list.as_array().and_then(|list| list.iter().find(|one| one[key] == name).cloned());
        found.unwrap_or_else(|| panic!("no {name} in {list}"))
    };
    let evaluation = of(&report["evaluations"], "recommender", recommender);
    of(&evaluation["all"]["metrics"], "metric", metric)["mean"].as_f64().expect("a mean")
}

/// Recall@k and NDCG@k from the definitions, over the held-out part of a dataset.
fn measure(dataset: &Dataset, lists: &BTreeMap<String, Vec<(String, f32)>>, k: usize) -> (f64, f64) {
    let timeline = dataset.timeline().expect("a timeline");
    let items = dataset.items().expect("items");
    let discount = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let (mut recall, mut ndcg, mut users) = (0.0, 0.0, 0);
    for user in dataset.test().expect("a test part") {
        let seen: BTreeSet<&str> = match user.user {
            Some(row) => timeline.items_of(row).iter().map(|item| items.ids.id(item.index())).collect(),
            None => BTreeSet::new(),
        };
        let wanted: BTreeSet<&str> =
            user.items.iter().map(String::as_str).filter(|item| !seen.contains(item)).collect();
        if wanted.is_empty() {
            continue;
        }
        users += 1;
        let list = lists.get(&user.id).map_or(&[][..], Vec::as_slice);
        let hits = || list.iter().take(k).enumerate().filter(|(_, (item, _))| wanted.contains(item.as_str()));
        let ideal: f64 = (0..k.min(wanted.len())).map(discount).sum();
        recall += hits().count() as f64 / wanted.len() as f64;
        ndcg += hits().map(|(rank, _)| discount(rank)).sum::<f64>() / ideal;
    }
    (recall / f64::from(users), ndcg / f64::from(users))
}

#[test]
fn evaluation_ranks_the_recommenders_and_agrees_with_the_definitions() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let place = dir.path().join("report");
    let source = shop.path("run");
    duet(&["evaluate", "--run", text(&source), "--out", text(&place), "--device", "cpu"]);
    for file in ["evaluation.json", "evaluation.parquet", "report.html", "report.md"] {
        assert!(fs::metadata(place.join(file)).is_ok_and(|file| file.len() > 0), "{file}");
    }
    let recall = |recommender| mean(&place, recommender, "recall@10");
    let ladder = ["oracle", "two_tower", "popularity", "random"];
    for pair in ladder.windows(2) {
        assert!(recall(pair[0]) > recall(pair[1]), "{pair:?}: {} and {}", recall(pair[0]), recall(pair[1]));
    }
    let report = report(&place);
    let evaluations = report["evaluations"].as_array().expect("evaluations");
    assert!(evaluations.len() >= 6, "not every baseline: {}", evaluations.len());
    for evaluation in evaluations {
        assert_eq!(evaluation["excluded_in_lists"], 0, "{}", evaluation["recommender"]);
    }
    let divisions = report["segments"]["divisions"].as_array().expect("divisions");
    for name in ["history", "tenure", "city size", "age_bucket", "gender", "country", "item popularity"] {
        assert!(divisions.iter().any(|division| division["name"] == name), "no segments by {name}");
    }
    let groups = report["cold_start"]["users"]["groups"].as_array().expect("groups");
    assert!(groups.iter().any(|group| group["label"] == "0"), "new users are measured: {groups:?}");
    assert!(report["fit_gap"]["gap"].is_number() && report["exposure"].as_array().is_some_and(|rows| rows.len() == 4));

    let out = dir.path().join("lists.csv");
    let device = ["--device", "cpu", "--users", "all", "--exclude-seen"];
    duet(&[&["recommend", "--run", text(&source), "--k", "10", "--out", text(&out)], &device[..]].concat());
    let dataset = Dataset::open(&shop.path("data")).expect("a dataset");
    let (recall, ndcg) = measure(&dataset, &lists(&out), 10);
    for (ours, metric) in [(recall, "recall@10"), (ndcg, "ndcg@10")] {
        let theirs = mean(&place, "two_tower", metric);
        assert!((ours - theirs).abs() < 1e-7, "{metric}: {ours} by definition, {theirs} in the report");
    }
}

#[test]
fn lists_are_the_same_from_run_and_bundle_in_every_form() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dataset = Dataset::open(&shop.path("data")).expect("a dataset");
    let (users, items) = (dataset.users().expect("users"), dataset.items().expect("items"));
    let (run_dir, bundle) = (shop.path("run"), shop.path("bundle"));
    let sources = [["--run", text(&run_dir), "--device", "cpu"], ["--bundle", text(&bundle), "--device", "cpu"]];

    let some: Vec<&str> = (0..5).map(|at| users.ids.id(at * 7)).collect();
    let file = dir.path().join("some.txt");
    fs::write(&file, some.join("\n")).expect("a file of ids");
    let at_file = format!("@{}", file.display());

    let mut whole: Option<BTreeMap<_, Vec<(String, f32)>>> = None;
    for (source, name) in sources.iter().zip(["run", "bundle"]) {
        for extension in ["csv", "parquet"] {
            let write = |users: &[&str], what: &str| {
                let out = dir.path().join(format!("{name}-{what}.{extension}"));
                let rest = ["--k", "7", "--out", text(&out)];
                duet(&[&["recommend"], &source[..], users, &rest[..]].concat());
                lists(&out)
            };
            let all = write(&["--users", "all"], "all");
            assert_eq!(all.len(), users.len());
            for (user, list) in &all {
                assert!(users.ids.get(user).is_some(), "{user} is no id of the dataset");
                assert_eq!(list.len(), 7, "{user}");
                assert!(list.iter().all(|(item, _)| items.ids.get(item).is_some()), "{user}: {list:?}");
            }
            let reference = whole.get_or_insert_with(|| all.clone());
            assert_close(reference, &all);
            let picked: BTreeMap<_, _> = some.iter().map(|&id| (id.to_owned(), all[id].clone())).collect();
            assert_close(&picked, &write(&["--users", &at_file], "file"));
            let one = BTreeMap::from([(some[3].to_owned(), all[some[3]].clone())]);
            assert_close(&one, &write(&["--users", some[3]], "one"));
        }
    }
}

#[test]
fn songs_go_the_same_way() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = shop.path("data").join("songs");
    let [source, place, bundle, out] = ["run", "report", "bundle", "lists.csv"].map(|name| dir.path().join(name));
    succeed("train", &[&["--data", text(&data), "--out", text(&source)], &TINY[..]].concat());
    duet(&["evaluate", "--run", text(&source), "--out", text(&place), "--device", "cpu"]);
    let recall = |recommender| mean(&place, recommender, "recall@10");
    for pair in [["oracle", "popularity"], ["popularity", "random"], ["two_tower", "random"]] {
        assert!(recall(pair[0]) > recall(pair[1]), "{pair:?}: {} and {}", recall(pair[0]), recall(pair[1]));
    }
    assert_eq!(report(&place)["dataset"]["item_kind"], "song");
    succeed("embed", &["--run", text(&source), "--out", text(&bundle), "--device", "cpu"]);
    duet(&["recommend", "--bundle", text(&bundle), "--users", "all", "--k", "5", "--out", text(&out)]);
    let dataset = Dataset::open(&data).expect("a dataset");
    let items = dataset.items().expect("items");
    let lists = lists(&out);
    assert_eq!(lists.len(), dataset.info.counts.users as usize);
    assert!(lists.values().flatten().all(|(item, _)| items.ids.get(item).is_some()));
    // Most songs can be named: by artist and title.
    let distinct: BTreeSet<&String> = items.names.iter().collect();
    assert!(distinct.len() * 20 > items.len() * 19, "{} names of {} songs", distinct.len(), items.len());
    let name = items.names.iter().find(|name| items.names.iter().filter(|other| other == name).count() == 1);
    let said = duet(&["similar", "--bundle", text(&bundle), "--name", name.expect("a name of one song"), "--k", "3"]);
    assert_eq!(said.lines().filter(|line| line.contains(" - ")).count(), 3, "{said}");
    let given = ["compare", "popularity", text(&bundle), "--dataset", text(&data), "--device", "cpu", "--json"];
    let compared = run("duet", &given);
    assert!(serde_json::from_str::<Value>(&compared.out).is_ok(), "{}\n{}", compared.out, compared.err);
    // A part of a dataset is written with the whole of it.
    let (world, key) = (shop.path("world"), shop.path("key"));
    let base = ["prepare", "--world", text(&world), "--user-key", text(&key), "--overwrite", "--out", text(&data)];
    fail("duet", &base, 1, &["songs is a part of the duet-dataset in"]);
}

/// The same users and items, in the same order; scores but for the last bits, which depend on how many are ranked at once.
fn assert_close(left: &BTreeMap<String, Vec<(String, f32)>>, right: &BTreeMap<String, Vec<(String, f32)>>) {
    assert!(left.keys().eq(right.keys()), "other users");
    for ((user, left), right) in left.iter().zip(right.values()) {
        let same =
            |(left, right): (&(String, f32), &(String, f32))| left.0 == right.0 && (left.1 - right.1).abs() < 1e-5;
        assert!(left.len() == right.len() && left.iter().zip(right).all(same), "{user}: {left:?} and {right:?}");
    }
}

#[test]
fn the_key_translates_account_ids() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (bundle, key) = (shop.path("bundle"), shop.path("key"));
    let accounts = fs::read_to_string(shop.path("world").join("accounts.csv")).expect("accounts");
    let account = accounts.lines().nth(1).and_then(|line| line.split(',').next()).expect("an account");
    let base = ["recommend", "--bundle", text(&bundle), "--users", account];
    let (with, without) = (dir.path().join("with.csv"), dir.path().join("without.csv"));
    duet(&[&base[..], &["--user-key", text(&key), "--out", text(&with)]].concat());
    let printed = run("duet", &[&base[..], &["--out", text(&without)]].concat());
    assert!(printed.err.contains("trending"), "an account id without the key is unknown: {}", printed.err);
    let of = |path: &Path| lists(path).remove(account).expect("the list carries the given id");
    assert_eq!(of(&with).len(), 10);
    assert_ne!(of(&with), of(&without));
}

#[test]
fn unknown_users_get_what_is_trending_and_are_told() {
    let shop = workshop();
    let (run_dir, bundle) = (shop.path("run"), shop.path("bundle"));
    for source in [["--run", text(&run_dir)], ["--bundle", text(&bundle)]] {
        let args = [&["recommend"], &source[..], &["--users", "nobody", "--k", "3", "--device", "cpu"]].concat();
        let Done { code, out, err } = run("duet", &args);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains("trending") && err.contains("nobody"), "{err}");
        let rows: Vec<&str> = out.lines().filter(|line| line.starts_with("nobody")).collect();
        assert_eq!(rows.len(), 3, "{out}");
        assert!(rows.iter().all(|row| row.contains("trending")), "{out}");
    }
}

#[test]
fn filters_hold() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (run_dir, bundle) = (shop.path("run"), shop.path("bundle"));
    let items = Dataset::open(&shop.path("data")).expect("a dataset").items().expect("items");
    let ColumnValues::TextList(genres) = &items.column("genres").expect("genres").values else {
        panic!("genres are lists");
    };
    let mut counts = BTreeMap::<&str, usize>::new();
    for genre in genres.iter().flatten() {
        *counts.entry(genre).or_default() += 1;
    }
    let (genre, count) = counts.into_iter().max_by_key(|(_, count)| *count).expect("a genre");
    let filter = format!("genres={genre}");
    for source in [["--run", text(&run_dir)], ["--bundle", text(&bundle)]] {
        let out = dir.path().join("lists.csv");
        let rest = ["--users", "all", "--k", "10", "--filter", &filter, "--out", text(&out), "--device", "cpu"];
        duet(&[&["recommend"], &source[..], &rest].concat());
        for (user, list) in lists(&out) {
            assert_eq!(list.len(), count.min(10), "{user}");
            for (item, _) in &list {
                let row = items.ids.get(item).expect("an item of the dataset") as usize;
                assert!(genres[row].iter().any(|one| one == genre), "{user} got {item}, which is no {genre}");
            }
        }
    }
    let base = ["recommend", "--bundle", text(&bundle), "--users", "all", "--filter"];
    fail("duet", &[&base[..], &["genres=none of these"]].concat(), 1, &["none of these"]);
}

#[test]
fn what_was_seen_stays_out_where_asked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (csv, data, run_dir) = (path("clicks.csv"), path("data"), path("run"));
    click_csv(&csv, true);
    duet(&["import", "--interactions", text(&csv), "--split", "leave-last-out", "--out", text(&data)]);
    succeed("train", &[&["--data", text(&data), "--out", text(&run_dir)], &TINY[..]].concat());
    // Rows are in time order, so all but a user's last trained.
    let mut trained: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (user, item, _) in clicks() {
        trained.entry((100 + user).to_string()).or_default().push((5000 + item).to_string());
    }
    trained.values_mut().for_each(|items| items.truncate(CLICKS_EACH - 1));
    let dataset = Dataset::open(&data).expect("a dataset");
    let (timeline, items) = (dataset.timeline().expect("a timeline"), dataset.items().expect("items"));
    let known = CLICK_ITEMS.min(items.len());
    for (row, id) in dataset.users().expect("users").ids.ids().iter().enumerate() {
        let seen = timeline.items_of(UserIdx::from(row)).iter().map(|item| items.ids.id(item.index()));
        assert!(seen.eq(trained[id].iter()), "the training part of {id}");
    }
    let seen_in_lists = |flags: &[&str], expected: usize| {
        let out = path("lists.csv");
        let base = ["recommend", "--run", text(&run_dir), "--device", "cpu", "--users", "all", "--k", "60"];
        duet(&[&base[..], &["--out", text(&out)], flags].concat());
        let lists = lists(&out);
        assert_eq!(lists.len(), trained.len());
        assert!(lists.values().all(|list| list.len() == expected), "not {expected} items each");
        let seen = |(user, list): (&String, &Vec<(String, f32)>)| {
            list.iter().filter(|(item, _)| trained[user].contains(item)).count()
        };
        lists.iter().map(seen).sum::<usize>()
    };
    assert_eq!(seen_in_lists(&[], known), trained.len() * (CLICKS_EACH - 1));
    assert_eq!(seen_in_lists(&["--exclude-seen"], known - (CLICKS_EACH - 1)), 0);
}

#[test]
fn neighbours_are_others_and_the_same_from_run_and_bundle() {
    let shop = workshop();
    let (run_dir, bundle) = (shop.path("run"), shop.path("bundle"));
    let items = Dataset::open(&shop.path("data")).expect("a dataset").items().expect("items");
    let wanted = items.ids.id(3);
    let neighbours = |source: [&str; 2]| {
        let out = duet(&[&["similar"], &source[..], &["--item", wanted, "--k", "8", "--device", "cpu"]].concat());
        let ids = |line: &str| line.split_whitespace().rev().nth(1).map(str::to_owned);
        let found: Vec<String> = out.lines().filter_map(ids).filter(|id| items.ids.get(id).is_some()).collect();
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 8, "{out}");
        assert!(!found.iter().any(|id| id == wanted), "{wanted} is its own neighbour:\n{out}");
        found
    };
    assert_eq!(neighbours(["--run", text(&run_dir)]), neighbours(["--bundle", text(&bundle)]));
    fail("duet", &["similar", "--bundle", text(&bundle), "--item", "no such item"], 1, &["no such item"]);
}

#[test]
fn inspect_names_what_it_sees() {
    let shop = workshop();
    for (name, kind) in [("world", "duet-world"), ("data", "duet-dataset"), ("run", "a run"), ("bundle", "duet-bundle")]
    {
        let out = duet(&["inspect", text(&shop.path(name))]);
        assert!(out.lines().next().is_some_and(|line| line.contains(kind)), "{name}: {out}");
    }
    let out = duet(&["inspect", text(&shop.path("data").join("items.parquet"))]);
    assert!(out.contains("Parquet") && out.contains("genres"), "{out}");
}

#[test]
fn a_seed_makes_the_same_weights_on_any_number_of_threads() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = shop.path("data");
    let weights = |run: &Path| fs::read(run.join("best").join("weights.safetensors")).expect("weights");
    let reference = weights(&shop.path("run"));
    let train = |name: &str, threads: Option<&str>, extra: &[&str]| {
        let out = dir.path().join(name);
        let mut child = command("train", &[&["--data", text(&data), "--out", text(&out)], &TINY[..], extra].concat());
        if let Some(threads) = threads {
            child.env("RAYON_NUM_THREADS", threads);
        }
        let done: Done = child.output().expect("train starts").into();
        assert_eq!(done.code, 0, "{}", done.err);
        weights(&out)
    };
    assert!(train("again", None, &[]) == reference, "the same command made other weights");
    assert!(train("one", Some("1"), &[]) == reference, "one thread made other weights");
    assert!(train("two", Some("2"), &[]) == reference, "two threads made other weights");
    assert!(train("seed", None, &["--seed", "5"]) != reference, "another seed made the same weights");
}

#[test]
fn a_gpu_trains_as_well_as_the_cpu() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (csv, data) = (path("clicks.csv"), path("data"));
    click_csv(&csv, true);
    duet(&["import", "--interactions", text(&csv), "--split", "leave-last-out", "--out", text(&data)]);
    let train = |device: &str| -> Done {
        let out = path(device);
        let settings = ["--set", "train.epochs=1", "--set", "model.dim=16", "--set", "model.hidden=16"];
        let mut child = command(
            "train",
            &[&["--data", text(&data), "--out", text(&out), "--device", device], &settings[..]].concat(),
        );
        child.env("XDG_RUNTIME_DIR", dir.path()).output().expect("train starts").into()
    };
    let ndcg = |device: &str| {
        let log = fs::read_to_string(path(device).join("metrics.jsonl")).expect("metrics.jsonl");
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let last = lines.rfind(|line| line["event"] == "validation");
        last.and_then(|line| line["ndcg_at_10"].as_f64()).expect("a validation")
    };
    let cpu = train("cpu");
    assert_eq!(cpu.code, 0, "{}", cpu.err);
    let gpu = train("wgpu");
    if gpu.code != 0 && gpu.err.contains("no wgpu adapter") {
        println!("skipped: no wgpu adapter");
        return;
    }
    assert_eq!(gpu.code, 0, "{}", gpu.err);
    assert!((ndcg("cpu") - ndcg("wgpu")).abs() < 0.05, "{} on the cpu, {} on wgpu", ndcg("cpu"), ndcg("wgpu"));
}

#[test]
fn a_raw_zone_says_what_is_in_it_and_what_is_damaged() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let zone = text(&dir.path().join("zone")).to_owned();
    let files = shop.path("world").join("events");
    let said = duet(&["ingest", "--from", "files", "--files", text(&files), "--to", &zone, "--partition", "day"]);
    let lines: usize = fs::read_dir(&files)
        .expect("days")
        .flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("files"))
        .map(|file| {
            fs::read(file.expect("a file").path()).expect("lines").iter().filter(|byte| **byte == b'\n').count()
        })
        .sum();
    let grouped = |count: usize| {
        let digits = count.to_string();
        format!("{},{}", &digits[..digits.len() - 3], &digits[digits.len() - 3..])
    };
    assert!((1_000..1_000_000).contains(&lines) && said.contains(&format!("{} events", grouped(lines))), "{said}");
    let said = duet(&["inspect", &zone]);
    for part in
        [format!("a raw zone; {} events", grouped(lines)), "every checksum right".into(), "date=2025-03-03".into()]
    {
        assert!(said.contains(&part), "{part} is not in\n{said}");
    }
    let day = dir.path().join("zone/date=2025-03-10");
    let part = fs::read_dir(day).expect("a day").next().expect("a part").expect("a part").path();
    let mut bytes = fs::read(&part).expect("a part");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).expect("damage");
    fail("duet", &["inspect", &zone], 1, &[text(&part)]);
}
