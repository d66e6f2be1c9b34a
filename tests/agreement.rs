//! Per-user metrics: `evaluation.parquet` against the definitions on the lists of `recommend`, and against the judge.
//!
//! With everyone who is special: new users with features and without, users that only the held-out part knows, items that only it
//! knows, repeats of what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::workshop::{Done, Random, TINY, duet, lists, succeed, text};

type Pairs = BTreeMap<String, BTreeSet<String>>;

const METRICS: [&str; 6] = ["recall@10", "ndcg@10", "recall@20", "ndcg@20", "recall@100", "ndcg@100"];

/// Per user of the two-tower, [`METRICS`] and whether the user counts as cold.
fn per_user(path: &Path) -> BTreeMap<String, ([f64; 6], bool)> {
    let file = fs::File::open(path).expect("evaluation.parquet");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).expect("Parquet");
    let mut rows = BTreeMap::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        let (names, users) = (column("recommender").as_string::<i32>(), column("user_id").as_string::<i32>());
        let values = METRICS.map(|name| column(name).as_primitive::<Float32Type>());
        for row in 0..batch.num_rows() {
            if names.value(row) == "two_tower" {
                let values =
                    (values.map(|column| f64::from(column.value(row))), column("cold").as_boolean().value(row));
                assert!(rows.insert(users.value(row).to_owned(), values).is_none(), "{} twice", users.value(row));
            }
        }
    }
    rows
}

/// [`METRICS`] of one list by their definitions.
fn measure(list: &[(String, f32)], wanted: &BTreeSet<&String>) -> [f64; 6] {
    let discount = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let hits: Vec<usize> = (0..list.len()).filter(|&rank| wanted.contains(&list[rank].0)).collect();
    let mut values = [0.0; 6];
    for (at, k) in [10, 20, 100].into_iter().enumerate() {
        let hits: Vec<usize> = hits.iter().copied().filter(|&rank| rank < k).collect();
        let ideal: f64 = (0..k.min(wanted.len())).map(discount).sum();
        values[2 * at] = hits.len() as f64 / wanted.len() as f64;
        values[2 * at + 1] = hits.into_iter().map(discount).sum::<f64>() / ideal;
    }
    values
}

/// Asks the judge user by user; its means over one user are that user's metrics. The extra row keeps its division by
/// the number of training items sound.
const ASK: &str = "
import importlib.util, json, sys
import pandas as pd
spec = importlib.util.spec_from_file_location('judge', sys.argv[1])
judge = importlib.util.module_from_spec(spec)
spec.loader.exec_module(judge)
train, test, recs = (pd.read_csv(f, dtype={'user_id': str, 'item_id': str}) for f in sys.argv[2:5])
extra = pd.DataFrame({'user_id': ['nobody at all'], 'item_id': ['nothing at all']})
of = lambda frame, user: frame[frame.user_id == user]
found = {}
for user in test.user_id.unique():
    seen = set(of(train, user).item_id)
    if set(of(test, user).item_id) - seen:
        m = judge.metrics(pd.concat([of(train, user), extra]), of(test, user), of(recs, user))
        found[user] = [m[f'{name}@{k}'] for k in (10, 20, 100) for name in ('recall', 'ndcg')]
print(json.dumps(found))
";

fn judged(train: &Path, test: &Path, recs: &Path) -> Option<BTreeMap<String, [f64; 6]>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let judge = env::var_os("DUET_JUDGE").map_or_else(|| root.join("../shared/judge/judge.py"), PathBuf::from);
    let judge = if judge.is_dir() { judge.join("judge.py") } else { judge };
    let python = env::var_os("DUET_PYTHON").unwrap_or_else(|| "python3".into());
    if !judge.is_file() {
        println!("skipped: no {} (DUET_JUDGE says where the judge lies)", judge.display());
        return None;
    }
    let has_pandas = Command::new(&python).args(["-c", "import pandas"]).output();
    if !has_pandas.is_ok_and(|output| output.status.success()) {
        println!("skipped: {} has no pandas (DUET_PYTHON names another Python)", python.display());
        return None;
    }
    let mut child = Command::new(&python);
    child.args(["-c", ASK, text(&judge), text(train), text(test), text(recs)]).env("PYTHONDONTWRITEBYTECODE", "1");
    let done: Done = child.output().expect("Python starts").into();
    assert_eq!(done.code, 0, "{}", done.err);
    Some(serde_json::from_str(&done.out).expect("the judge's numbers"))
}

#[test]
fn every_user_is_measured_by_the_definitions() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let mut random = Random(21);
    let (mut train, mut test) = (Pairs::new(), Pairs::new());
    for user in 0..150 {
        let item = |random: &mut Random| format!("i{}", random.below(60) * 4 + user % 4);
        let id = format!("u{user}");
        // Every tenth is new: with features, without any, or unknown to the users table.
        if user % 10 != 0 {
            for _ in 0..4 + random.below(12) {
                train.entry(id.clone()).or_default().insert(item(&mut random));
            }
        }
        for _ in 0..1 + random.below(6) {
            test.entry(id.clone()).or_default().insert(item(&mut random));
        }
        if user % 7 == 0 {
            test.entry(id).or_default().insert(format!("new{user}"));
        }
    }
    // Nothing left to find: not measured.
    let only_seen: BTreeSet<String> = train["u1"].iter().take(2).cloned().collect();
    test.insert("u1".to_owned(), only_seen);
    let csv = |pairs: &Pairs| {
        let rows = pairs.iter().flat_map(|(user, items)| items.iter().map(move |item| format!("{user},{item}\n")));
        "user_id,item_id\n".to_owned() + &rows.collect::<String>()
    };
    let mut users = "user_id,plan,town\n".to_owned();
    for user in 0..150 {
        match user % 30 {
            10 => users += &format!("u{user},,\n"),
            20 => {}
            _ => users += &format!("u{user},p{},t{}\n", user % 4, user % 3),
        }
    }
    for (name, content) in [("train.csv", csv(&train)), ("test.csv", csv(&test)), ("users.csv", users)] {
        fs::write(path(name), content).expect("a writable directory");
    }

    let [train_csv, test_csv, users_csv, data, run, report, out] =
        ["train.csv", "test.csv", "users.csv", "data", "run", "report", "lists.csv"].map(path);
    let sources = ["--interactions", text(&train_csv), "--users", text(&users_csv), "--infer-schema"];
    let given = ["--test", text(&test_csv), "--out", text(&data)];
    duet(&[&["import"], &sources[..], &given].concat());
    let features = ["--set", "model.user_features=true"];
    succeed("train", &[&["--data", text(&data), "--out", text(&run)], &TINY[..], &features].concat());
    duet(&["evaluate", "--run", text(&run), "--out", text(&report), "--device", "cpu", "--baselines", "none"]);
    let ids = path("ids.txt");
    fs::write(&ids, test.keys().map(|user| format!("{user}\n")).collect::<String>()).expect("a writable directory");
    let whom = format!("@{}", ids.display());
    let base = ["recommend", "--run", text(&run), "--device", "cpu", "--users", &whom];
    duet(&[&base[..], &["--exclude-seen", "--k", "100", "--out", text(&out)]].concat());

    let (reported, lists) = (per_user(&report.join("evaluation.parquet")), lists(&out));
    let nothing = BTreeSet::new();
    let mut expected = BTreeMap::new();
    for (user, items) in &test {
        let seen = train.get(user).unwrap_or(&nothing);
        let wanted: BTreeSet<&String> = items.difference(seen).collect();
        if !wanted.is_empty() {
            expected.insert(user, (measure(&lists[user], &wanted), seen.is_empty()));
        }
    }
    assert!(!expected.contains_key(&"u1".to_owned()) && expected.len() > 130, "{}", expected.len());
    assert!(reported.keys().eq(expected.keys().copied()), "other users are measured");
    assert_eq!(expected.values().filter(|(_, cold)| *cold).count(), 15);
    let check = |user: &str, who: &str, values: &[f64; 6], tolerance: f64| {
        for ((ours, theirs), metric) in reported[user].0.iter().zip(values).zip(METRICS) {
            let close = (ours - theirs).abs() < tolerance;
            assert!(close, "{metric} of {user}: {ours} in evaluation.parquet, {theirs} by {who}");
        }
    };
    for (user, (values, cold)) in &expected {
        check(user, "the definitions", values, 1e-7);
        assert_eq!(reported[*user].1, *cold, "{user}: cold");
    }
    if let Some(judged) = judged(&train_csv, &test_csv, &out) {
        assert!(judged.keys().eq(reported.keys()), "the judge measures other users");
        judged.iter().for_each(|(user, values)| check(user, "the judge", values, 1e-6));
    }
}
