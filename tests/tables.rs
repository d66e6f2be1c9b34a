//! Datasets made of tables: the forms of the sources, splits, schemas, public sets, and the judge as a second opinion.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use duet_core::schema::FeatureKind;
use duet_data::dataset::{Dataset, DatasetKind};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use crate::{
    path::mean,
    workshop::{CLICK_ITEMS, CLICK_USERS, CLICKS_EACH, Done, click_csv, clicks, duet, fail, lists, run, succeed, text},
};

/// Settings for a training of well under a second.
const ONE_EPOCH: [&str; 8] =
    ["--device", "cpu", "--set", "train.epochs=1", "--set", "model.dim=16", "--set", "model.hidden=16"];

/// A directory of sources and of the datasets made of them.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name)).to_owned()
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("a source is written");
        path
    }

    /// The clicks as CSV.
    fn clicks(&self, with_time: bool) -> String {
        let path = self.path(if with_time { "clicks.csv" } else { "pairs.csv" });
        click_csv(Path::new(&path), with_time);
        path
    }

    /// Imports to a dataset of that name.
    fn import(&self, name: &str, args: &[&str]) -> Dataset {
        let out = self.path(name);
        duet(&[&["import", "--out", &out], args].concat());
        Dataset::open(Path::new(&out)).expect("a dataset")
    }

    /// Trains one epoch on a dataset and lists for everyone; returns the lists, which have `k` items each, and what was
    /// said.
    fn lists(&self, dataset: &str, extra: &[&str], k: usize) -> (BTreeMap<String, Vec<(String, f32)>>, String) {
        let (data, model) = (self.path(dataset), self.path(&format!("{dataset}.run")));
        succeed("train", &[&["--data", &data, "--out", &model], &ONE_EPOCH[..], extra].concat());
        let (out, k_text) = (self.path(&format!("{dataset}.csv")), k.to_string());
        let base = ["recommend", "--run", &model, "--device", "cpu", "--users", "all"];
        let done = run("duet", &[&base[..], &["--k", &k_text, "--out", &out]].concat());
        assert_eq!(done.code, 0, "{}", done.err);
        let lists = lists(Path::new(&out));
        assert!(lists.values().all(|list| list.len() == k), "not {k} items each");
        (lists, done.err)
    }
}

/// Training and held-out events together, by external ids.
fn pairs(dataset: &Dataset) -> BTreeSet<(String, String)> {
    let (users, items) = (dataset.users().expect("users"), dataset.items().expect("items"));
    let timeline = dataset.timeline().expect("a timeline");
    let mut pairs = BTreeSet::new();
    for (row, user) in users.ids.ids().iter().enumerate() {
        for item in &timeline.items[timeline.offsets[row]..timeline.offsets[row + 1]] {
            pairs.insert((user.clone(), items.ids.id(item.index()).to_owned()));
        }
    }
    for user in dataset.test().expect("a test part") {
        pairs.extend(user.items.into_iter().map(|item| (user.id.clone(), item)));
    }
    pairs
}

#[test]
fn every_split_keeps_every_event() {
    let desk = Desk::new();
    let csv = desk.clicks(true);
    let whole = (CLICK_USERS * CLICKS_EACH) as u64;
    let users = CLICK_USERS as u64;
    let expected =
        clicks().iter().map(|(user, item, _)| ((100 + user).to_string(), (5000 + item).to_string())).collect();
    // The held-out events: exactly, or within a range.
    let splits = [
        ("none", 0..=0),
        ("global-time:0.8", whole / 5 - 1..=whole / 5 + 1),
        ("leave-last-out", users..=users),
        ("leave-last-out:3", 3 * users..=3 * users),
        ("random:0.3,seed=4", whole / 4..=whole * 7 / 20),
    ];
    for (split, held_out) in splits {
        let dataset = desk.import(split, &["--interactions", &csv, "--split", split]);
        let counts = dataset.info.counts;
        assert_eq!((dataset.info.kind, dataset.info.has_time), (DatasetKind::Sequences, true));
        assert_eq!(counts.events + counts.test_events, whole, "{split}");
        assert!(held_out.contains(&counts.test_events), "{split}: {} held out", counts.test_events);
        assert_eq!(pairs(&dataset), expected, "{split}");
        let (lists, said) = desk.lists(split, &[], 5);
        assert_eq!(lists.len(), CLICK_USERS, "{split}");
        assert!(!said.contains("trending"), "{split}: {said}");
    }
    let hash = |name: &str, split: &str| {
        let args = ["--interactions", &csv, "--split", split];
        desk.import(name, &args).info.split.hash
    };
    assert_eq!(hash("again", "random:0.3,seed=4"), hash("and again", "random:0.3,seed=4"));
    assert_ne!(hash("other", "random:0.3,seed=5"), hash("once more", "random:0.3,seed=4"));
}

#[test]
fn a_given_split_is_taken_as_it_is() {
    let desk = Desk::new();
    let (mut train, mut test) = (String::from("user_id,item_id,timestamp\n"), String::from("user_id,item_id\n"));
    for (row, (user, item, seconds)) in clicks().into_iter().enumerate() {
        match row % 5 {
            0 => test.push_str(&format!("{user},{item}\n")),
            _ => train.push_str(&format!("{user},{item},{seconds}\n")),
        }
    }
    test.push_str("stranger,3\n4,strange thing\n");
    let (train, test) = (desk.write("train.csv", &train), desk.write("test.csv", &test));
    let given = format!("given:{test}");
    let dataset = desk.import("data", &["--interactions", &train, "--split", &given]);
    let short = desk.import("short", &["--interactions", &train, "--test", &test]);
    assert_eq!(dataset.info.split.hash, short.info.split.hash);
    let whole = (CLICK_USERS * CLICKS_EACH) as u64;
    assert_eq!(dataset.info.counts.events, whole - whole / 5);
    assert_eq!(dataset.info.counts.test_events, whole / 5 + 2);
    assert!(
        dataset.users().expect("users").ids.get("stranger").is_none(),
        "a user of the test part got into the users"
    );
    assert!(dataset.items().expect("items").ids.get("strange thing").is_none(), "an item of the test part got in");
    let (lists, _) = desk.lists("data", &[], 5);
    assert!(lists.values().flatten().all(|(item, _)| item != "strange thing"));
}

#[test]
fn data_without_time_counts_as_sets() {
    let desk = Desk::new();
    let csv = desk.clicks(false);
    let dataset = desk.import("data", &["--interactions", &csv, "--split", "random:0.3,seed=2"]);
    assert_eq!((dataset.info.kind, dataset.info.has_time), (DatasetKind::Sets, false));
    assert_eq!(desk.lists("data", &[], 10).0.len(), CLICK_USERS);
    let out = desk.path("timed");
    fail("duet", &["import", "--interactions", &csv, "--split", "global-time", "--out", &out], 1, &["time"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn other_names_delimiters_and_headerless_files_are_the_same_data() {
    let desk = Desk::new();
    let csv = desk.clicks(true);
    let split = ["--split", "leave-last-out"];
    let reference = desk.import("reference", &[&["--interactions", &csv], &split[..]].concat()).info.split.hash;
    let (mut tabs, mut colons) = (String::from("wer\twas\twann\n"), String::new());
    for (user, item, seconds) in clicks() {
        tabs.push_str(&format!("{}\t{}\t{seconds}\n", 100 + user, 5000 + item));
        colons.push_str(&format!("{}::{}::{seconds}\n", 100 + user, 5000 + item));
    }
    let (tabs, colons) = (desk.write("named.tsv", &tabs), desk.write("bare.dat", &colons));
    let columns = ["--user-column", "wer", "--item-column", "was", "--time-column", "wann"];
    let named = desk.import("named", &[&["--interactions", &tabs], &columns[..], &split[..]].concat());
    let header = ["--delimiter", "::", "--header", "user_id,item_id,timestamp"];
    let bare = desk.import("bare", &[&["--interactions", &colons], &header[..], &split[..]].concat());
    assert_eq!(named.info.split.hash, reference);
    assert_eq!(bare.info.split.hash, reference);
}

#[test]
fn parquet_is_the_same_data_as_csv() {
    let desk = Desk::new();
    let csv = desk.clicks(true);
    let split = ["--split", "leave-last-out"];
    let reference = desk.import("reference", &[&["--interactions", &csv], &split[..]].concat()).info.split.hash;
    let numbers = |column: fn(&(usize, usize, i64)) -> i64| clicks().iter().map(column).collect::<Vec<_>>();
    let users = numbers(|row| 100 + row.0 as i64);
    let (items, times) = (numbers(|row| 5000 + row.1 as i64), numbers(|row| row.2));
    let texts = |ids: &[i64]| -> ArrayRef { Arc::new(StringArray::from_iter_values(ids.iter().map(i64::to_string))) };
    let whole = |ids: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(ids.to_vec())) };
    for (name, user_ids, item_ids) in
        [("numbers", whole(&users), whole(&items)), ("texts", texts(&users), texts(&items))]
    {
        let columns = [("user_id", user_ids), ("item_id", item_ids), ("timestamp", whole(&times))];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let path = desk.path(&format!("{name}.parquet"));
        let file = fs::File::create(&path).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("a batch is written");
        writer.close().expect("the file is whole");
        let dataset = desk.import(name, &[&["--interactions", &path], &split[..]].concat());
        assert_eq!(dataset.info.split.hash, reference, "{name}");
        assert_eq!(desk.lists(name, &[], 5).0.len(), CLICK_USERS);
    }
}

#[test]
fn lightgcn_text_is_read_with_its_test_file() {
    let desk = Desk::new();
    let mut rows: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (user, item, _) in clicks() {
        rows.entry(user).or_default().push(item.to_string());
    }
    let lines = |range: std::ops::Range<usize>| {
        let line = |(user, items): (&usize, &Vec<String>)| format!("{user} {}\n", items[range.clone()].join(" "));
        rows.iter().map(line).collect::<String>()
    };
    let (train, test) = (desk.write("train.txt", &lines(0..9)), desk.write("test.txt", &lines(9..12)));
    let dataset = desk.import("data", &["--interactions", &train, "--format", "lightgcn", "--test", &test]);
    let counts = dataset.info.counts;
    assert_eq!((counts.users, counts.items), (CLICK_USERS as u64, CLICK_ITEMS as u64));
    assert_eq!((counts.events, counts.test_events), (9 * CLICK_USERS as u64, 3 * CLICK_USERS as u64));
    assert_eq!(dataset.info.kind, DatasetKind::Sets);
    assert_eq!(pairs(&dataset), clicks().iter().map(|(user, item, _)| (user.to_string(), item.to_string())).collect());
    let (lists, _) = desk.lists("data", &[], 10);
    assert_eq!(lists.len(), CLICK_USERS);
}

/// Tables of users and items beside the clicks; user 999 and item 9999 are in no interaction.
fn feature_tables(desk: &Desk) -> (String, String) {
    let mut users = String::from("user_id,age,city\n");
    for user in 0..CLICK_USERS {
        users.push_str(&format!("{},{}.5,{}\n", 100 + user, 15 + user % 50, ["Oslo", "Rome"][user % 2]));
    }
    users.push_str("999,33.5,Rome\n");
    let mut items = String::from("item_id,title,genres,released\n");
    let half = CLICK_ITEMS / 2;
    for item in 0..CLICK_ITEMS {
        let genre = ["rock", "folk"][item / half];
        let date = format!("20{:02}-03-{:02}", item % 20, 1 + item % 28);
        items.push_str(&format!("{},Song {item},{genre}|g{},{date}\n", 5000 + item, item % 4));
    }
    items.push_str("9999,Unheard,folk|g1,2019-01-01\n");
    (desk.write("users.csv", &users), desk.write("items.csv", &items))
}

#[test]
fn declared_columns_are_read_and_filter() {
    let desk = Desk::new();
    let (csv, (users, items)) = (desk.clicks(true), feature_tables(&desk));
    let schema = desk.write(
        "schema.toml",
        "[users]\nage = { kind = \"bucketed\", edges = [18, 25, 50] }\ncity = { kind = \"categorical\" }\n\
         [items]\ngenres = { kind = \"multi-categorical\", separator = \"|\" }\nreleased = { kind = \"date\" }\n",
    );
    let tables = ["--interactions", &csv, "--users", &users, "--items", &items, "--split", "leave-last-out"];
    let dataset = desk.import("data", &[&tables[..], &["--schema", &schema]].concat());
    let declared = &dataset.info.schema;
    assert!(declared.users.keys().eq(["age", "city"]) && declared.items.keys().eq(["genres", "released"]));
    assert!(matches!(declared.users["age"], FeatureKind::Bucketed { .. }));
    assert_eq!(dataset.items().expect("items").name(0), "Song 0");
    let (lists, said) = desk.lists("data", &["--set", "model.user_features=true"], 5);
    assert_eq!(lists.len(), CLICK_USERS + 1);
    assert!(!said.contains("trending"), "features are something to know of a user: {said}");

    let (model, out) = (desk.path("data.run"), desk.path("filtered.csv"));
    let filter = ["--filter", "genre=folk", "--filter", "genres=g1", "--out", &out, "--device", "cpu"];
    duet(&[&["recommend", "--run", &model, "--users", "999", "--k", "100"], &filter[..]].concat());
    let list = crate::workshop::lists(Path::new(&out)).remove("999").expect("a list for 999");
    let passes = |id: &str| id == "9999" || id.parse::<usize>().is_ok_and(|id| id >= 5030 && (id - 5000) % 4 == 1);
    assert!(list.iter().all(|(item, _)| passes(item)), "{list:?}");
    assert_eq!(list.len(), (5030..5060).filter(|id| (id - 5000) % 4 == 1).count() + 1);
}

#[test]
fn guessed_columns_come_back_from_the_written_schema() {
    let desk = Desk::new();
    let (csv, (users, items)) = (desk.clicks(true), feature_tables(&desk));
    let tables = ["--interactions", &csv, "--users", &users, "--items", &items, "--split", "leave-last-out"];
    let guessed = desk.import("data", &[&tables[..], &["--infer-schema"]].concat());
    let schema = &guessed.info.schema;
    assert!(matches!(schema.users["age"], FeatureKind::Numeric {}), "{schema:?}");
    assert!(matches!(schema.users["city"], FeatureKind::Categorical {}), "{schema:?}");
    assert!(matches!(&schema.items["genres"], FeatureKind::MultiCategorical { separator } if separator == "|"));
    assert!(matches!(schema.items["released"], FeatureKind::Date {}), "{schema:?}");
    assert!(!schema.items.contains_key("title"), "{schema:?}");
    let written = desk.path("data.schema.toml");
    let again = desk.import("again", &[&tables[..], &["--schema", &written]].concat());
    assert_eq!(&again.info.schema, schema);
    assert_eq!(again.info.split.hash, guessed.info.split.hash);

    let counts = guessed.info.counts;
    assert_eq!((counts.users, counts.items), (CLICK_USERS as u64 + 1, CLICK_ITEMS as u64 + 1));
    // The shipped configuration reads no features of users: nothing is known of 999, who gets a list all the same.
    let (lists, said) = desk.lists("data", &["--set", "model.user_features=false"], 10);
    assert_eq!(lists["999"].len(), 10);
    assert!(said.contains("trending") && said.contains("999"), "{said}");
}

/// Where the public data lies, if it does.
fn public_data(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = env::var_os("DUET_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
    let place = data.join(name);
    if !place.is_dir() {
        println!("skipped: no {} (DUET_DATA says where the public data lies)", place.display());
        return None;
    }
    Some(place)
}

#[test]
fn the_movielens_preset_reads_all_of_it() {
    let Some(from) = public_data("movielens-100k") else { return };
    let desk = Desk::new();
    let args = ["--preset", "movielens-100k", "--from", text(&from), "--split", "leave-last-out"];
    let dataset = desk.import("data", &args);
    let counts = dataset.info.counts;
    assert_eq!((counts.users, counts.items, counts.events, counts.test_events), (943, 1682, 99_057, 943));
    assert_eq!((dataset.info.kind, dataset.info.has_weight), (DatasetKind::Sequences, false));
    let items = dataset.items().expect("items");
    let toy_story = items.ids.get("1").expect("film 1") as usize;
    assert_eq!(items.name(toy_story), "Toy Story (1995)");
    assert_eq!(desk.lists("data", &[], 10).0.len(), 943);
}

#[test]
fn the_hetrec_preset_reads_all_of_it() {
    let Some(from) = public_data("hetrec2011-lastfm-2k") else { return };
    let desk = Desk::new();
    let args = ["--preset", "hetrec-lastfm-2k", "--from", text(&from), "--split", "random:0.3,seed=1"];
    let dataset = desk.import("data", &args);
    let counts = dataset.info.counts;
    // Whoever has nothing but held-out events is no user of the dataset.
    let strangers = dataset.test().expect("a test part").iter().filter(|user| user.user.is_none()).count() as u64;
    assert_eq!((counts.users + strangers, counts.events + counts.test_events), (1892, 92_834));
    assert_eq!((dataset.info.kind, dataset.info.has_time), (DatasetKind::Sets, false));
    assert_eq!(desk.lists("data", &[], 10).0.len() as u64, counts.users);
}

/// What the judge says of lists, from its own functions: all digits, where its command line prints four.
const ASK: &str = "
import importlib.util, json, sys
import pandas as pd
spec = importlib.util.spec_from_file_location('judge', sys.argv[1])
judge = importlib.util.module_from_spec(spec)
spec.loader.exec_module(judge)
place = sys.argv[2]
read = pd.read_csv
found = judge.metrics(read(place + '/interactions_train.csv'), read(place + '/test.csv'), read(sys.argv[3]))
print(json.dumps({name: value for name, value in found.items() if value == value}))
";

#[test]
fn the_judge_measures_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judge = env::var_os("DUET_JUDGE").map_or_else(|| root.join("../shared/judge/judge.py"), PathBuf::from);
    let python = env::var_os("DUET_PYTHON").unwrap_or_else(|| "python3".into());
    let ask = |args: &[&str]| -> Option<Done> {
        let mut child = Command::new(&python);
        Some(child.args(args).env("PYTHONDONTWRITEBYTECODE", "1").output().ok()?.into())
    };
    if !judge.is_file() {
        println!("skipped: no {} (DUET_JUDGE says where the judge lies)", judge.display());
        return;
    }
    if ask(&["-c", "import pandas"]).is_none_or(|done| done.code != 0) {
        println!("skipped: {} has no pandas (DUET_PYTHON names another Python)", python.display());
        return;
    }
    if public_data("movielens-100k").is_none() {
        return;
    }
    let desk = Desk::new();
    let place = desk.path("judged");
    let done = ask(&[text(&judge), "split", "ml100k-loo", &place]).expect("Python starts");
    assert_eq!(done.code, 0, "{}", done.err);

    let of = |name: &str| format!("{place}/{name}");
    let (interactions, given) = (of("interactions_train.csv"), format!("given:{}", of("test.csv")));
    let (users, items) = (of("users.csv"), of("items.csv"));
    let tables = ["--interactions", &interactions, "--users", &users, "--items", &items, "--infer-schema"];
    desk.import("data", &[&tables[..], &["--split", &given]].concat());
    desk.lists("data", &[], 10);
    let (model, report, out) = (desk.path("data.run"), desk.path("report"), desk.path("lists.csv"));
    duet(&["evaluate", "--run", &model, "--out", &report, "--device", "cpu", "--baselines", "none"]);
    let base = ["recommend", "--run", &model, "--device", "cpu", "--users", "all", "--exclude-seen"];
    duet(&[&base[..], &["--k", "100", "--out", &out]].concat());

    let done = ask(&["-c", ASK, text(&judge), &place, &out]).expect("Python starts");
    assert_eq!(done.code, 0, "{}", done.err);
    let judged: serde_json::Value = serde_json::from_str(&done.out).expect("the judge's numbers");
    for metric in ["recall@10", "ndcg@10", "recall@20", "ndcg@20", "recall@100", "ndcg@100"] {
        let theirs = judged[metric].as_f64().expect("a number");
        let ours = mean(Path::new(&report), "two_tower", metric);
        assert!((ours - theirs).abs() < 1e-6, "{metric}: {ours} of duet, {theirs} of the judge");
    }
    assert_eq!(judged["seen_items_in_lists"], 0);
    assert_eq!(judged["users_without_list"], 0);
}
