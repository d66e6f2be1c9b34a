//! A small report: whether its differences agree with its means, and whether every form of it holds everything.

use duet_core::{ItemIdx, UserIdx, artifact::Manifest, config::Config};
use duet_data::dataset::{Counts, DatasetKind, SplitInfo};
use duet_retrieval::{
    EvaluationCase, Panel, Recommender,
    baselines::{Popularity, Random},
    evaluation::{CatalogueInfo, EvaluationOptions, evaluate},
    segments::{Division, FoldLimits, Group, popularity_parts},
};

use super::*;
use crate::{
    evaluate::{
        Baseline, EvaluateOptions, Parameters,
        exposure::exposure,
        groups::{Measures, correct},
    },
    run::WeightsInfo,
};

fn report() -> Report {
    let counts: Vec<u32> = (1..=50).rev().collect();
    let case = |user: u32| EvaluationCase {
        user_id: format!("u{user}"),
        user: Some(UserIdx(user)),
        history: Vec::new(),
        exclude: Vec::new(),
        truth: vec![ItemIdx(user % 12)],
        unknown_truth: usize::from(user == 3),
        cold: user.is_multiple_of(4),
    };
    let panel = Panel::new((0..40).map(case).collect()).unwrap();
    let options = EvaluateOptions::new("run");
    let divisions = [popularity_parts(&counts)];
    let catalogue = CatalogueInfo { divisions: &divisions, ..CatalogueInfo::new(&counts, 40) };
    let measure = |recommender: &dyn Recommender| {
        evaluate(recommender, &panel, catalogue, &EvaluationOptions::default()).unwrap()
    };
    let evaluations = vec![measure(&Popularity::from_counts(&counts)), measure(&Random::new(50, 1))];
    let dataset = DatasetFacts {
        dir: "data/<set>".into(),
        fingerprint: "f".repeat(64),
        kind: DatasetKind::Sequences,
        item_kind: "film".into(),
        counts: Counts { users: 40, items: 50, events: 500, test_events: 41, test_users: 40 },
        split: SplitInfo {
            kind: "leave-last-out".into(),
            parameters: "last 1 of each user".into(),
            cutoff_ms: None,
            hash: "ab".into(),
        },
        missing_days: vec!["events of 2025-03-13: 0 events".into()],
    };
    let config = Config::resolve(&[], &[]).unwrap();
    let weights = WeightsInfo { epoch: 3, validation_ndcg: Some(0.1), refitted: false };
    let model = ModelFacts { run: "runs/one".into(), config, weights };
    let facts = |baseline: Baseline| BaselineFacts {
        name: baseline.as_str(),
        parameters: Parameters::of(baseline, 28.0, 1),
        tuned: None,
        fit_seconds: 0.0,
    };
    let baselines = vec![facts(Baseline::Popularity), facts(Baseline::Random)];
    let measures = Measures {
        evaluations: evaluations.iter().collect(),
        metrics: vec!["ndcg@10".into(), "recall@10".into()],
        part_metric: "recall@10".into(),
        pairs: vec![(0, 1)],
    };
    let group = |label: &str, users: std::ops::Range<u32>| Group { label: label.into(), users: users.collect() };
    let halves = vec![group("<first>", 0..18), group("second", 18..36), group("few", 36..40)];
    let limits = FoldLimits { min_users: 5, max_groups: 9 };
    let halves = Division::fold("half", halves, limits);
    let mut segments = vec![measures.users(&halves).unwrap(), measures.items(0, &divisions[0], 5).unwrap()];
    correct(&mut segments);
    let findings = Findings {
        segments: Segments { against: Some("random".into()), divisions: segments.clone() },
        cold_start: ColdStart {
            against: Some("random".into()),
            users: segments[0].clone(),
            items: segments[1].clone(),
        },
        exposure: exposure(&divisions[0], &counts, &evaluations),
        fit_gap: None,
        calibration: None,
        learning: vec![LearningPoint { epoch: 1, loss: Some(2.0), validation_ndcg: Some(0.1), best: true }],
        examples: vec![ExampleList {
            title: "few events".into(),
            events: 3,
            lately: vec!["A & B".into()],
            list: vec![("<script>".into(), true)],
        }],
    };
    let protocol = Protocol::new(&options, &panel, 50, None);
    Report::new(dataset, model, protocol, baselines, evaluations, findings).unwrap()
}

#[test]
fn differences_are_over_the_segment_and_agree_with_the_means() {
    let report = report();
    assert_eq!(report.differences.len(), 6);
    for difference in &report.differences {
        let mean = |at: usize| {
            let segment = difference.segment.of(&report.evaluations[at]);
            assert_eq!(segment.users, difference.paired.users);
            segment.metric(&difference.metric).unwrap().mean
        };
        assert!((mean(0) - mean(1) - difference.paired.difference.mean).abs() < 1e-12);
    }
    let all = &report.differences[1];
    assert!(all.metric == "recall@10" && all.paired.is_significant(), "{all:?}");
}

#[test]
fn every_form_holds_the_table_and_the_segments() {
    let report = report();
    for text in [report.to_text(), report.to_markdown(), page::page(&report)] {
        assert!(text.contains("Recall@100") && text.contains("popularity") && text.contains("random"), "{text}");
        assert!(text.contains("1 of the 41 held-out films"), "{text}");
        assert!(text.contains("Gini@10") && text.contains("shown to be better for"), "{text}");
    }
    let page = page::page(&report);
    for markup in ["<set>", "<script", "<first>"] {
        assert!(!page.contains(markup), "{markup} must be escaped");
    }
    assert!(page.contains("left out for having fewer than") && page.matches("<svg").count() > 8, "{page}");
    assert!(!page.contains("NaN") && !page.contains('\u{fffd}'), "line breaks must stay: {page}");
}

#[test]
fn the_directory_is_an_artifact() {
    let report = report();
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let path = report.write(&dir.path().join("evaluation")).unwrap();
        let manifest = Manifest::<serde_json::Value>::open(&path, MAGIC, VERSION).unwrap();
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), REPORT_FILES);
    }
    let json = fs::read_to_string(dir.path().join("evaluation/evaluation.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["evaluations"][0]["all"]["metrics"][0]["metric"], "recall@10");
    assert_eq!(value["differences"][0]["against"], "random");
    assert_eq!(value["segments"]["divisions"][0]["name"], "half");
}
