//! `duet monitor` on logs with and without a drop: exit codes, files, the webhook.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use serde_json::{Value, json};

use crate::workshop::{Done, duet, fail, lists, run, text, workshop};

/// Logs of a month: 400 users, half of them under `challenger`, a list of ten on most days. A user clicks one of seven on average, one of
/// twenty-one under `challenger` from day 21 on if `drops`.
fn logs(dir: &Path, drops: bool) {
    let (mut served, mut events) = (String::new(), String::new());
    // Any numbers that look as if drawn do.
    let mut state = 1_u64;
    let mut draw = |of: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % of
    };
    let line = |to: &mut String, value: Value| *to += &(value.to_string() + "\n");
    for day in 1..=28 {
        for user in 0..400 {
            if draw(5) == 0 {
                continue;
            }
            let variant = if user % 2 == 0 { "control" } else { "challenger" };
            let request = format!("{day}-{user}");
            let items: Vec<String> = (0..10).map(|item| format!("a{item}")).collect();
            let ts = format!("2026-02-{day:02}T06:00:00Z");
            line(
                &mut served,
                json!({
                    "ts": ts, "request_id": request, "user": format!("qxq-{user}"), "variant": variant, "bundle": "b-00000000",
                    "kind": "artist", "source": "personal", "degraded": [], "k": 10, "items": items, "scores": vec![1.0; 10],
                }),
            );
            let of = if drops && variant == "challenger" && day >= 21 { 21 } else { 7 };
            for position in 0..10 {
                if draw(of) == 0 {
                    line(
                        &mut events,
                        json!({
                            "event_id": format!("{request}-{position}"), "type": "click", "user_id": format!("qxq-{user}"),
                            "item_kind": "artist", "item_id": format!("a{position}"), "ts": ts, "request_id": request, "position": position,
                        }),
                    );
                }
            }
        }
    }
    for (name, lines) in [("served", served), ("events", events)] {
        fs::create_dir_all(dir.join(name)).expect("a directory");
        fs::write(dir.join(name).join(format!("{name}-1.jsonl")), lines).expect("a file");
    }
}

fn monitor(dir: &Path, more: &[&str]) -> Done {
    let (served, events, out) = (dir.join("served"), dir.join("events"), dir.join("out"));
    let args = ["monitor", "--served", text(&served), "--events", text(&events), "--out", text(&out)];
    run("duet", &[&args[..], more].concat())
}

#[test]
fn quiet_logs_raise_nothing_and_a_drop_is_an_alarm() {
    let dir = tempfile::tempdir().expect("a directory");
    logs(dir.path(), false);
    let done = monitor(dir.path(), &[]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("no alarm") && done.out.contains("no difference shown"), "{}", done.out);

    logs(dir.path(), true);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let hook = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        // The body is the last thing sent, and ends the JSON object.
        while !seen.ends_with(b"}") {
            let read = stream.read(&mut buffer).expect("bytes");
            assert!(read > 0, "closed early: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").expect("an answer");
        String::from_utf8_lossy(&seen).into_owned()
    });
    let done = monitor(dir.path(), &["--webhook", &url]);
    assert_eq!(done.code, 4, "{}{}", done.out, done.err);
    assert!(done.out.contains("ALARM 2026-02-2") && done.out.contains("challenger against control: "), "{}", done.out);
    let told = hook.join().expect("the hook was called");
    assert!(told.starts_with("POST /hook") && told.contains("\"kind\":\"regression\""), "{told}");

    let json = fs::read_to_string(dir.path().join("out/monitor.json")).expect("monitor.json");
    let report: Value = serde_json::from_str(&json).expect("JSON");
    let alarms = report["alarms"].as_array().expect("alarms");
    let first = alarms[0]["since"].as_str().expect("a day");
    assert!(("2026-02-21"..="2026-02-27").contains(&first), "{alarms:?}");
    let page = fs::read_to_string(dir.path().join("out/monitor.html")).expect("monitor.html");
    assert!(page.contains("<h2>Alarms</h2>") && page.contains("challenger"));
    assert!([&json, &page, &done.out, &told].iter().all(|text| !text.contains("qxq-")), "a user is named");
}

#[test]
fn a_webhook_that_fails_hides_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    logs(dir.path(), true);
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let done = monitor(dir.path(), &["--webhook", &format!("http://{nobody}/?token=hush")]);
    assert_eq!(done.code, 4, "{}{}", done.out, done.err);
    assert!(done.err.contains("warning: webhook http://127.0.0.1") && !done.err.contains("hush"), "{}", done.err);
}

#[test]
fn a_raw_zone_tells_the_same_as_files() {
    let dir = tempfile::tempdir().expect("a directory");
    logs(dir.path(), true);
    let (served, events, zone) = (dir.path().join("served"), dir.path().join("events"), dir.path().join("zone"));
    duet(&["ingest", "--from", "files", "--files", text(&events), "--to", text(&zone)]);
    let report = |place: [&str; 2]| -> Value {
        let done = run("duet", &[&["monitor", "--served", text(&served), "--json"][..], &place].concat());
        assert_eq!(done.code, 4, "{}{}", done.out, done.err);
        serde_json::from_str(&done.out).expect("JSON")
    };
    let (files, raw) = (report(["--events", text(&events)]), report(["--raw", text(&zone)]));
    assert!(raw["inputs"]["events"]["files"].as_u64() > Some(1), "{}", raw["inputs"]);
    assert_eq!(files["inputs"]["events"]["lines"], raw["inputs"]["events"]["lines"]);
    for part in ["alarms", "slices", "watched", "retention", "verdicts"] {
        assert_eq!(files[part], raw[part], "{part}");
    }
    fail("duet", &["monitor", "--served", text(&served), "--events", text(&zone)], 1, &["raw zone", "--raw"]);
}

#[test]
fn a_bundle_gives_segments_lengths_of_songs_and_drift() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a directory");
    let recommended = dir.path().join("lists.csv");
    let bundle = shop.path("bundle");
    duet(&[
        "recommend",
        "--bundle",
        text(&bundle),
        "--users",
        "all",
        "--k",
        "10",
        "--exclude-seen",
        "--out",
        text(&recommended),
    ]);
    let found = lists(&recommended);
    let songs: Vec<(String, u64)> = csv::Reader::from_path(shop.path("world").join("catalogue/songs.csv"))
        .expect("the songs open")
        .deserialize::<std::collections::HashMap<String, String>>()
        .map(|row| row.expect("a row"))
        .map(|row| (row["song_id"].clone(), row["duration_ms"].parse().expect("milliseconds")))
        .collect();
    let (log, events) = (dir.path().join("served.jsonl"), dir.path().join("events.jsonl"));
    let report = |raised: f32, code: i32| -> Value {
        let (mut served, mut plays) = (String::new(), String::new());
        for (number, (user, list)) in found.iter().enumerate() {
            let items: Vec<&String> = list.iter().map(|(item, _)| item).collect();
            let scores: Vec<f32> = list.iter().map(|(_, score)| score + raised).collect();
            let (request, ts) = (format!("r{number}"), "2026-02-01T06:00:00Z");
            let line = json!({
                "ts": ts, "request_id": request, "user": user, "variant": "control", "bundle": "bundle-0123abcd", "kind": "artist",
                "source": "personal", "degraded": [], "k": 10, "items": items, "scores": scores,
            });
            served += &(line.to_string() + "\n");
            let (song, length) = &songs[number % songs.len()];
            let play = json!({
                "event_id": format!("e{number}"), "type": "listen", "user_id": user, "item_kind": "song", "item_id": song, "ts": ts,
                "request_id": request, "position": 0, "ms_played": length / 2,
            });
            plays += &(play.to_string() + "\n");
        }
        fs::write(&log, served).expect("a log");
        fs::write(&events, plays).expect("events");
        let done = run(
            "duet",
            &["monitor", "--served", text(&log), "--events", text(&events), "--bundle", text(&bundle), "--json"],
        );
        assert_eq!(done.code, code, "{}{}", done.out, done.err);
        serde_json::from_str(&done.out).expect("JSON")
    };
    let score = |report: &Value| -> Value {
        let shifts = report["shifts"].as_array().expect("shifts");
        shifts.iter().find(|shift| shift["what"] == "score of the best item").expect("a shift of scores").clone()
    };
    let quiet = report(0.0, 0);
    assert_eq!(score(&quiet)["drifted"], false, "{}", score(&quiet));
    assert!(quiet["shifts"].as_array().is_some_and(|shifts| shifts.len() > 2), "{}", quiet["shifts"]);
    let slices = quiet["slices"].as_array().expect("slices");
    let users = |by: &str| -> u64 {
        let of = slices.iter().filter(|slice| slice["by"] == by);
        of.filter_map(|slice| slice["overall"]["users"].as_u64()).sum()
    };
    let (all, genders) = (users("all"), users("gender"));
    assert!(genders > 0 && genders <= all && all == found.len() as u64, "{genders} of {all}");
    // Half of every song was heard; the catalogue of the dataset ends before the held-out days, and a song it has not counts as whole.
    let completion = slices[0]["overall"]["completion_percent"]["value"].as_f64().expect("a share");
    assert!((50.0..60.0).contains(&completion), "{completion}");
    let drifted = score(&report(1000.0, 4));
    assert_eq!(drifted["drifted"], true, "{drifted}");
}

#[test]
fn wrong_calls_say_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = dir.path().join("served");
    fs::create_dir(&served).expect("a directory");
    let base = ["monitor", "--served", text(&served)];
    fail("duet", &base, 2, &["--events"]);
    let base = [&base[..], &["--events", text(&served)]].concat();
    fail("duet", &base, 1, &["no served list"]);
    fail("duet", &[&base[..], &["--webhook", "ftp://x/"]].concat(), 1, &["http, https"]);
    fail("duet", &[&base[..], &["--set", "watch.alhpa=1"]].concat(), 1, &["watch.alhpa", "watch.alpha"]);
}
