//! The metrics of lists against `ir_measures` and `ranx`, two other implementations of the same definitions.
//!
//! Two conventions differ and are bridged here: their average precision divides by all wanted items, ours by `min(k, wanted)`;
//! and a user without a list has no row there, where ours has zeros.
//!
//! Neither is needed: `pip install ir_measures`, `pip install ranx` (700 MB with all below it; its metrics are compiled at their first
//! use, which takes a minute).

use std::{collections::BTreeMap, env, fs, process::Command};

use duet_core::ItemIdx;
use duet_retrieval::metrics::{Metric, user_metrics};

use crate::workshop::{Done, Random, text};

const K: usize = 10;
const USERS: usize = 300;

/// Reads `{user: {"list": [..], "wanted": [..]}}`; prints the values of each user, in the order of [`Metric::ALL`].
const IR_MEASURES: &str = "
import json, sys
import ir_measures
from ir_measures import R, nDCG, Success, RR, AP
cases = json.load(open(sys.argv[1]))
qrels = {user: {str(item): 1 for item in case['wanted']} for user, case in cases.items()}
run = {user: {str(item): float(-rank) for rank, item in enumerate(case['list'])}
       for user, case in cases.items() if case['list']}
measures = [R@10, nDCG@10, Success@10, RR@10, AP@10]
found = {user: [0.0] * len(measures) for user in cases}
for metric in ir_measures.iter_calc(measures, qrels, run):
    found[metric.query_id][measures.index(metric.measure)] = metric.value
print(json.dumps(found))
";

/// The same of `ranx`.
const RANX: &str = "
import json, sys, warnings
warnings.filterwarnings('ignore')
from ranx import Qrels, Run, evaluate
cases = json.load(open(sys.argv[1]))
listed = {user: case for user, case in cases.items() if case['list']}
qrels = Qrels({user: {str(item): 1 for item in case['wanted']} for user, case in listed.items()})
run = Run({user: {str(item): float(-rank) for rank, item in enumerate(case['list'])} for user, case in listed.items()})
measures = ['recall@10', 'ndcg@10', 'hit_rate@10', 'mrr@10', 'map@10']
evaluate(qrels, run, measures)
print(json.dumps({user: [float(run.scores[measure][user]) if user in listed else 0.0 for measure in measures]
                  for user in cases}))
";

/// Different items below `end`, in a random order.
fn draw(random: &mut Random, count: u64, end: u64) -> Vec<u32> {
    let mut items = Vec::new();
    while (items.len() as u64) < count {
        let item = random.below(end) as u32;
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items
}

/// Compares the values of every user, if the Python at hand has the package.
fn agree_with(package: &str, imports: &str, ask: &str) {
    let python = env::var_os("DUET_PYTHON").unwrap_or_else(|| "python3".into());
    let has_it = Command::new(&python).args(["-c", imports]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        println!("skipped: {} has no {package} (DUET_PYTHON names another Python)", python.display());
        return;
    }
    let mut random = Random(10);
    let mut cases = serde_json::Map::new();
    let mut ours = BTreeMap::new();
    for user in 0..USERS {
        let (length, wanted) = (random.below(31), 1 + random.below(15));
        let (list, wanted) = (draw(&mut random, length, 60), draw(&mut random, wanted, 60));
        let items = |rows: &[u32]| rows.iter().copied().map(ItemIdx).collect::<Vec<_>>();
        let mut values = user_metrics(&items(&list), &items(&wanted), 0, &[K]);
        values[Metric::Map as usize] *= K.min(wanted.len()) as f64 / wanted.len() as f64;
        ours.insert(format!("u{user}"), values);
        cases.insert(format!("u{user}"), serde_json::json!({ "list": list, "wanted": wanted }));
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("cases.json");
    fs::write(&path, serde_json::to_string(&cases).expect("JSON")).expect("a writable directory");
    let done: Done = Command::new(&python).args(["-c", ask, text(&path)]).output().expect("Python starts").into();
    assert_eq!(done.code, 0, "{}", done.err);
    let theirs: BTreeMap<String, Vec<f64>> = serde_json::from_str(&done.out).expect("values by user");
    assert!(theirs.keys().eq(ours.keys()) && theirs.len() == USERS, "other users are measured");
    for (user, values) in &ours {
        assert_eq!(theirs[user].len(), Metric::ALL.len(), "{user}");
        for ((ours, theirs), metric) in values.iter().zip(&theirs[user]).zip(Metric::ALL) {
            assert!((ours - theirs).abs() < 1e-6, "{} of {user}: {ours}, by {package} {theirs}", metric.at(K));
        }
    }
}

#[test]
fn metrics_agree_with_ir_measures() {
    agree_with("ir_measures", "import ir_measures, pytrec_eval", IR_MEASURES);
}

#[test]
fn metrics_agree_with_ranx() {
    agree_with("ranx", "import ranx", RANX);
}
