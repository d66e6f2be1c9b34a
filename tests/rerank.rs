//! `rerank`: trees for a run, the same from everywhere, measured beside the model, and damage that is told.

use std::{collections::BTreeSet, fs, path::Path};

use duet_core::UserIdx;
use duet_train::{
    bundle,
    reranker::{BundleReranker, RerankListener},
    retriever::Retriever,
};
use serde_json::Value;

use crate::workshop::{Done, command, duet, fail, lists, run, succeed, text, tree, workshop};

/// A copy of the shared run, to put trees into.
fn run_of_its_own(to: &Path) {
    let from = workshop().path("run");
    for name in tree(&from) {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            fs::create_dir_all(target).expect("a directory");
        } else {
            fs::create_dir_all(target.parent().expect("a file has a parent")).expect("a directory");
            fs::copy(source, target).expect("a copy");
        }
    }
}

#[test]
fn trees_go_the_whole_way_from_the_run_to_lists() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (run_dir, bundle_dir) = (path("run"), path("bundle"));
    run_of_its_own(&run_dir);
    let rerank = ["rerank", "--run", text(&run_dir), "--device", "cpu", "--set", "reranker.trees=40"];
    fail(
        "duet",
        &["recommend", "--run", text(&run_dir), "--users", "all", "--rerank", "--device", "cpu"],
        1,
        &["duet rerank"],
    );
    fail(
        "duet",
        &["rerank", "--run", text(&run_dir), "--device", "cpu", "--set", "model.dim=8"],
        1,
        &["model.dim=8", "reranker."],
    );

    let said = duet(&rerank);
    assert!(said.contains("trees from") && said.contains("share of gain"), "{said}");
    let trees = fs::read(run_dir.join("reranker/trees.bin")).expect("trees");
    for threads in ["1", "2"] {
        let mut again = command("duet", &rerank);
        let done: Done = again.env("RAYON_NUM_THREADS", threads).output().expect("the binary starts").into();
        assert_eq!(done.code, 0, "{}", done.err);
        assert_eq!(fs::read(run_dir.join("reranker/trees.bin")).expect("trees"), trees, "{threads} threads");
    }

    let evaluation = path("evaluation");
    let evaluate = ["evaluate", "--run", text(&run_dir), "--baselines", "popularity", "--resamples", "1000"];
    duet(&[&evaluate[..], &["--device", "cpu", "--out", text(&evaluation)]].concat());
    let report = fs::read_to_string(evaluation.join("evaluation.json")).expect("a report");
    assert!(report.contains("boosted_trees"), "the challenger has no row");

    succeed("embed", &["--run", text(&run_dir), "--out", text(&bundle_dir), "--device", "cpu"]);
    assert!(bundle_dir.join("reranker/trees.bin").exists());
    let recommend = |place: &str, dir: &Path, more: &[&str], out: &str| {
        let out = path(out);
        let args = ["recommend", place, text(dir), "--users", "all", "--k", "100", "--exclude-seen"];
        duet(&[&args[..], &["--device", "cpu", "--out", text(&out)], more].concat());
        lists(&out)
    };
    let plain = recommend("--bundle", &bundle_dir, &[], "plain.csv");
    let from_bundle = recommend("--bundle", &bundle_dir, &["--rerank"], "bundle.csv");
    let from_run = recommend("--run", &run_dir, &["--rerank"], "run.csv");
    assert_eq!(from_bundle, from_run);
    let items = |list: &[(String, f32)]| list.iter().map(|(item, _)| item.clone()).collect::<BTreeSet<_>>();
    let mut moved = 0;
    for (user, list) in &plain {
        assert_eq!(items(list), items(&from_bundle[user]), "{user}: other candidates");
        moved += usize::from(list.iter().map(|(item, _)| item).ne(from_bundle[user].iter().map(|(item, _)| item)));
    }
    assert!(moved > plain.len() / 2, "{moved} of {} lists have another order", plain.len());

    // What a service does with a list of the model is what was measured.
    let opened = bundle::open(&bundle_dir).expect("a bundle");
    let live = BundleReranker::open(&bundle_dir, &opened.dataset).expect("sound trees").expect("trees");
    let retriever = Retriever::from_bundle(&bundle_dir).expect("a bundle");
    let timeline = opened.dataset.timeline().expect("events");
    let last = timeline.timestamps_ms.iter().max().expect("events have time");
    let now_ms = (last.div_euclid(86_400_000) + 1) * 86_400_000;
    let ids: Vec<String> = retriever.all_users()[..50].to_vec();
    for (row, list) in retriever.recommend(&ids, 100, true, None).expect("lists").into_iter().enumerate() {
        if list.source.to_string() == "personal" {
            let user = UserIdx::from(row);
            let listener = RerankListener { user: Some(user), history: timeline.items_of(user), now_ms };
            let ordered = live.rerank(&listener, &list.items).expect("a list");
            let named: Vec<(String, f32)> = ordered
                .iter()
                .map(|entry| (retriever.items.ids.id(entry.item.index()).to_owned(), entry.score))
                .collect();
            let file = &from_bundle[&list.user_id];
            assert!(named.iter().zip(file).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-5), "{}", list.user_id);
        }
    }

    let both = format!("{}+reranker", text(&bundle_dir));
    let compared =
        run("duet", &["compare", text(&bundle_dir), &both, "--device", "cpu", "--resamples", "1000", "--json"]);
    assert!([0, 3].contains(&compared.code), "{}", compared.err);
    let found: Value = serde_json::from_str(&compared.out).expect("JSON");
    assert_eq!(found["b"]["kind"], Value::from("reranked_bundle"));
    fail(
        "duet",
        &["compare", text(&workshop().path("bundle")), &format!("{}+reranker", text(&workshop().path("bundle")))],
        1,
        &["no re-ranker"],
    );
}

#[test]
fn damaged_trees_and_trees_of_another_model_are_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run_dir = dir.path().join("run");
    run_of_its_own(&run_dir);
    duet(&["rerank", "--run", text(&run_dir), "--device", "cpu", "--set", "reranker.trees=5"]);
    let trees = run_dir.join("reranker/trees.bin");
    let good = fs::read(&trees).expect("trees");
    let out = dir.path().join("bundle");
    let embed = ["--run", text(&run_dir), "--out", text(&out), "--device", "cpu"];
    for at in [0, 10, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        fs::write(&trees, &bytes).expect("damage");
        fail("embed", &embed, 1, &["trees.bin"]);
        assert!(!out.exists());
    }
    fs::write(&trees, &good[..good.len() / 2]).expect("damage");
    fail("embed", &embed, 1, &["trees.bin", "truncated"]);
    fs::remove_file(&trees).expect("damage");
    fail("embed", &embed, 1, &["trees.bin", "missing"]);
    // A run without a validation part has nothing to learn from.
    let blind = dir.path().join("blind");
    let data = workshop().path("data");
    let train = ["--data", text(&data), "--out", text(&blind), "--device", "cpu"];
    let tiny = ["--set", "train.epochs=1", "--set", "model.dim=8", "--set", "data.validation=none"];
    succeed("train", &[&train[..], &tiny].concat());
    fail("duet", &["rerank", "--run", text(&blind), "--device", "cpu"], 1, &["validation"]);
}
