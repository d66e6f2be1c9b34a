//! The whole of it on a miniature that can be reckoned by hand.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use fs_err as fs;
use serde_json::json;

use super::*;

/// Three users, two days, lists of two artists, all under `control`:
///
/// | list | day | user | reported | clicks | other |
/// | --- | --- | --- | --- | --- | --- |
/// | r1 | 1 | ann | positions 0, 1 | 0 | a follow at 0, sent twice |
/// | r2 | 1 | bob | position 0 | | |
/// | r3 | 2 | ann | nothing | 1 | a listen at 1, of a third of its song |
/// | r4 | 2 | cay | positions 0, 1 | 0, 1 | a skip at 0 |
fn miniature(dir: &Path) -> MonitorOptions {
    let (served, events) = (dir.join("served"), dir.join("events"));
    fs::create_dir(&served).unwrap();
    fs::create_dir(&events).unwrap();
    let list = |request: &str, day: u32, user: &str| {
        json!({
            "ts": format!("2026-03-0{day}T06:00:00.000Z"), "request_id": request, "user": user, "variant": "control", "bundle": "b1",
            "kind": "artist", "source": "personal", "degraded": [], "k": 2, "items": ["x", "y"], "scores": [2.0, 1.0],
        })
        .to_string()
    };
    let lists = [list("r1", 1, "ann"), list("r2", 1, "bob"), list("r3", 2, "ann")].join("\n") + "\n";
    fs::write(served.join("served-1.jsonl"), lists).unwrap();
    // Still being written: a whole line and a torn one.
    fs::write(served.join("served-2.jsonl.open"), format!("{}\n{{\"ts\":\"2026-03-02", list("r4", 2, "cay"))).unwrap();
    let mut number = 0;
    let mut event = |kind: &str, request: &str, position: u32, user: &str| {
        number += 1;
        let is_play = kind == "listen" || kind == "skip";
        let (item_kind, item) = match (is_play, position) {
            (true, _) => ("song", "s"),
            (false, 0) => ("artist", "x"),
            (false, _) => ("artist", "y"),
        };
        json!({
            "event_id": format!("e{number}"), "type": kind, "user_id": user, "item_kind": item_kind, "item_id": item,
            "ts": "2026-03-02T23:30:00Z", "request_id": request, "position": position, "ms_played": 60_000,
        })
        .to_string()
    };
    let first = event("follow", "r1", 0, "ann");
    let lines = [
        event("click", "r1", 0, "ann"),
        first.clone(),
        event("impression", "r1", 0, "ann"),
        event("impression", "r1", 1, "ann"),
        first,
        event("impression", "r2", 0, "bob"),
        event("click", "r3", 1, "ann"),
        event("listen", "r3", 1, "ann"),
        "nonsense about ann".to_owned(),
        event("impression", "r4", 0, "cay"),
        event("impression", "r4", 1, "cay"),
        event("click", "r4", 0, "cay"),
        event("click", "r4", 1, "cay"),
        event("skip", "r4", 0, "cay"),
    ];
    fs::write(events.join("events-1.jsonl"), lines.join("\n")).unwrap();
    MonitorOptions {
        served: vec![served],
        events: vec![events],
        raw: None,
        bundle: None,
        dataset: None,
        evaluation: None,
        user_key: None,
        from: None,
        to: None,
        config: MonitorConfig::resolve(None, &["slices.positions=1".to_owned()]).unwrap(),
    }
}

fn slice<'a>(report: &'a MonitorReport, by: &str, value: &str) -> &'a SliceReport {
    report.slices.iter().find(|slice| slice.by == by && slice.value == value).unwrap()
}

fn near(found: Option<f64>, expected: f64) {
    assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{found:?}, not {expected}");
}

#[test]
fn a_miniature_value_by_value() {
    let dir = tempfile::tempdir().unwrap();
    let report = monitor(&miniature(dir.path())).unwrap();
    let all = slice(&report, "all", "all lists");
    // Shown: 2 + 1 + 2 + 2; clicked: 1 + 0 + 1 + 2.
    assert_eq!((all.overall.lists, all.overall.users, all.overall.impressions, all.overall.clicks), (4, 3, 7, 4));
    let clicks = all.overall.clicks_per_100.unwrap();
    near(Some(clicks.value), 400.0 / 7.0);
    // Users: ann 2 of 4, bob 0 of 1, cay 2 of 2; residuals with r = 4/7: -2/7, -4/7, 6/7: squares 56/49; 3/2 * 56/49 / 49.
    let width = 1.959_963_984_540_054 * (1.5_f64 * 56.0 / 49.0 / 49.0).sqrt();
    near(clicks.low, 100.0 * (4.0_f64 / 7.0 - width).max(0.0));
    near(clicks.high, 100.0 * (4.0 / 7.0 + width));
    near(all.overall.follows_per_100.map(|rate| rate.value), 100.0 / 7.0);
    // No song has a known length: a listen is whole, a skip is nothing.
    near(all.overall.completion_percent.map(|rate| rate.value), 50.0);
    let days: Vec<(&str, u64, u64, u64)> = all
        .days
        .iter()
        .map(|day| (day.day.as_str(), day.figures.lists, day.figures.impressions, day.figures.clicks))
        .collect();
    // Events of the second day count for the day of their list.
    assert_eq!(days, [("2026-03-01", 2, 3, 1), ("2026-03-02", 2, 4, 3)]);
    let first = slice(&report, "position", "0").overall.clone();
    assert_eq!((first.impressions, first.clicks, first.lists), (4, 2, 4));
    let later = slice(&report, "position", "1 and later").overall.clone();
    assert_eq!((later.impressions, later.clicks, later.lists), (3, 2, 3));
    for (by, value) in [("variant", "control"), ("bundle", "b1"), ("source", "personal"), ("degraded", "as meant")] {
        assert_eq!(slice(&report, by, value).overall, all.overall, "{by}");
    }
    let inputs = &report.inputs;
    assert_eq!((inputs.served.lines, inputs.served.torn_lines, inputs.served.bad_lines), (4, 1, 0));
    assert_eq!((inputs.events.lines, inputs.events.bad_lines), (13, 1));
    assert_eq!((inputs.event_counts.joined, inputs.event_counts.repeated), (13, 1));
    assert_eq!((inputs.lists_without_impressions, inputs.users), (1, 3));
    assert!(report.alarms.is_empty() && report.verdicts.is_empty());
    // Two days tell nothing of seven.
    assert!(report.retention.iter().all(|found| found.curve.is_empty() && found.too_late == 3));
}

#[test]
fn days_can_be_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.to = NaiveDate::from_ymd_opt(2026, 3, 1);
    let report = monitor(&options).unwrap();
    assert_eq!((report.last_day.as_str(), report.inputs.outside_lists), ("2026-03-01", 2));
    assert_eq!(report.inputs.event_counts.after_end, 13);
    options.from = NaiveDate::from_ymd_opt(2026, 3, 2);
    assert!(monitor(&options).unwrap_err().to_string().contains("--from is after --to"));
    (options.from, options.to) = (NaiveDate::from_ymd_opt(2027, 1, 1), None);
    assert!(monitor(&options).unwrap_err().to_string().contains("no served list"));
}

#[test]
fn a_day_that_is_not_over_decides_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    let today = Utc::now().date_naive();
    let list = |number: usize| {
        let day = if number < 6 { today.pred_opt().unwrap() } else { today };
        json!({
            "ts": format!("{day}T00:00:00.000Z"), "request_id": format!("r{number}"), "user": format!("u{number}"),
            "variant": if number.is_multiple_of(2) { "control" } else { "challenger" }, "bundle": "b1", "kind": "artist",
            "source": "personal", "degraded": [], "k": 2, "items": ["x", "y"], "scores": [2.0, 1.0],
        })
        .to_string()
    };
    let log = dir.path().join("log.jsonl");
    fs::write(&log, (0..12).map(list).collect::<Vec<_>>().join("\n")).unwrap();
    (options.served, options.events) = (vec![log], Vec::new());
    let report = monitor(&options).unwrap();
    assert_eq!(slice(&report, "all", "all lists").overall.lists, 12, "it is shown");
    assert_eq!(report.verdicts[0].users, 3, "and not judged");
    assert!(report.notes.iter().any(|note| note.contains("is not over")), "{:?}", report.notes);
}

#[test]
fn drift_is_of_those_who_are_served_now() {
    let mut ledger = ledger::tests::ledger();
    for (request, user, day) in [("r1", "long-ago", 2), ("r2", "both", 20), ("r3", "both", 3), ("r4", "now", 21)] {
        ledger.serve(ledger::tests::served(request, user, day)).unwrap();
    }
    let by_user = lists_by_user(&ledger);
    // Days are counted from 0: the 20th is day 19.
    assert_eq!(recent(&ledger, &by_user, 19), [false, true, true]);
}

#[test]
fn no_output_names_a_user() {
    let dir = tempfile::tempdir().unwrap();
    let report = monitor(&miniature(dir.path())).unwrap();
    let out = dir.path().join("out");
    report.write(&out).unwrap();
    let mut texts = vec![report.to_text(), report.notice().unwrap()];
    texts.extend(MONITOR_FILES.map(|name| fs::read_to_string(out.join(name)).unwrap()));
    for text in &texts {
        for user in ["ann", "bob", "cay"] {
            let is_named = text.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == user);
            assert!(!is_named, "{user} in {text}");
        }
    }
    let read: MonitorReport = serde_json::from_str(&texts[2]).unwrap();
    assert_eq!((read.first_day, read.alpha), (report.first_day, 0.05));
    assert!(
        texts[3].contains("<svg") && texts[3].contains("prefers-color-scheme: dark") && !texts[3].contains("<script")
    );
    assert!(!texts[3].contains("NaN") && !texts[3].contains("://"), "nothing from outside");
}
