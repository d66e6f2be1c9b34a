//! `duet bench` runs, quickly, and its figures are whole.

use std::fs;

use serde_json::Value;

use crate::workshop::duet;

#[test]
fn the_quick_set_measures_every_section() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let json = dir.path().join("figures.json");
    let table = duet(&["bench", "--quick", "--threads", "1", "--json", json.to_str().expect("test paths are UTF-8")]);
    let figures: Value = serde_json::from_slice(&fs::read(&json).expect("the figures")).expect("JSON");
    let measured = figures["measurements"].as_array().expect("measurements");
    for section in ["training", "tables", "loss", "evaluation", "retrieval", "cold-start"] {
        assert!(table.contains(section), "{table}");
        let of: Vec<&Value> = measured.iter().filter(|figure| figure["section"] == section).collect();
        assert!(!of.is_empty() && of.iter().all(|figure| figure["value"].as_f64() > Some(0.0)), "{section}: {of:?}");
    }
    // Every phase of a step has work, time and so a share of the floor.
    let phases = measured[0]["phases"].as_array().expect("phases");
    assert_eq!(phases.len(), 4);
    assert!(phases.iter().all(|phase| phase["seconds"].as_f64() > Some(0.0)), "{phases:?}");
    assert!(measured[0]["of_floor"].as_f64() > Some(0.0));
}
