//! The service as its callers see it: the real binary, over HTTP, on bundles of the shared world.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    service::{Client, Service},
    workshop::{Random, duet, lists, rounds, succeed, text, workshop},
};

/// Model ids of the first users of the shared bundle with a list of their own, each with that list as `recommend` gives it.
fn expected(bundle: &Path, users: usize) -> BTreeMap<String, Vec<(String, f32)>> {
    let dir = tempdir().expect("a directory");
    let out = dir.path().join("lists.parquet");
    duet(&[
        "recommend",
        "--bundle",
        text(bundle),
        "--users",
        "all",
        "--k",
        "10",
        "--exclude-seen",
        "--out",
        text(&out),
    ]);
    lists(&out).into_iter().take(users).collect()
}

fn items(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("no items: {list}"));
    items.iter().map(|item| item["item_id"].as_str().expect("an id").to_owned()).collect()
}

fn path_of(user: &str) -> String {
    format!("/v1/users/{user}/recommendations?k=10")
}

#[test]
fn the_service_gives_the_lists_of_recommend() {
    let bundle = workshop().path("bundle");
    let service = Service::start(&["--bundle", text(&bundle)]);
    let mut client = service.client();
    let mut personal = 0;
    for (user, list) in expected(&bundle, 40) {
        let answer = client.get(&path_of(&user)).expect(200).json();
        assert_eq!(answer["user_id"], user.as_str());
        assert_eq!(answer["degraded"], json!([]));
        assert_eq!(items(&answer), list.iter().map(|(item, _)| item.clone()).collect::<Vec<_>>(), "{answer}");
        personal += usize::from(answer["source"] == "personal");
        for (at, item) in answer["items"].as_array().expect("items").iter().enumerate() {
            assert_eq!(item["position"], at);
            let score = item["score"].as_f64().expect("a score");
            assert!((score - f64::from(list[at].1)).abs() <= 1e-4 * score.abs().max(1.0), "{item} {:?}", list[at]);
        }
    }
    assert!(personal >= 30, "{personal} of 40 lists are personal");
}

#[test]
fn an_unknown_listener_and_a_wrong_question_are_answered() {
    let service = Service::start(&["--bundle", text(&workshop().path("bundle"))]);
    let mut client = service.client();
    let unknown = client.get("/v1/users/nobody%20knows/recommendations?k=7").expect(200).json();
    assert!(unknown["source"] == "trending" || unknown["source"] == "segment_trending", "{unknown}");
    assert_eq!(items(&unknown).len(), 7);
    assert_eq!(client.get("/healthz").expect(200).text().trim(), "ok");
    client.get("/readyz").expect(200);
    assert!(client.get("/metrics").expect(200).text().contains("duet_"));
    for (path, status, kind, part) in [
        ("/v1/users/a/recommendations?k=0", 400, "bad_request", "k"),
        ("/v1/users/a/recommendations?k=100000", 400, "bad_request", "100"),
        ("/v1/users/a/recommendations?what=1", 400, "bad_request", "filter"),
        ("/v1/users/a/recommendations?kind=song", 400, "bad_request", "song"),
        ("/v1/users/a/recommendations?filter=nothing", 400, "bad_request", "column"),
        ("/v1/artists/none/similar", 404, "not_found", "none"),
        ("/v2", 404, "not_found", "openapi.json"),
    ] {
        let answer = client.get(path).expect(status).json();
        assert_eq!(answer["error_type"], kind, "{path}: {answer}");
        assert!(answer["error"].as_str().expect("a sentence").contains(part), "{path}: {answer}");
    }
    let item = items(&unknown)[0].clone();
    let similar = client.get(&format!("/v1/artists/{item}/similar?k=5")).expect(200).json();
    assert!(items(&similar).len() == 5 && !items(&similar).contains(&item), "{similar}");
}

#[test]
fn anonymous_histories_and_filters_are_answered_in_one_question() {
    let bundle = workshop().path("bundle");
    let service = Service::start(&["--bundle", text(&bundle)]);
    let mut client = service.client();
    let list = items(&client.get("/v1/users/nobody/recommendations?k=3").expect(200).json());
    let body = json!({"requests": [
        {"history": [list[0], list[1]], "k": 5, "explain": true},
        {"user_id": "nobody", "k": 3},
        {"history": [list[0], list[1]], "k": 5, "exclude_seen": false},
    ]});
    let answer = client.post("/v1/recommendations", &body).expect(200).json();
    let answers = answer["lists"].as_array().expect("lists");
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["source"], "personal", "{answer}");
    assert!(!items(&answers[0]).contains(&list[0]) && !items(&answers[0]).contains(&list[1]), "{answer}");
    let reasons: Vec<&Value> = answers[0]["items"]
        .as_array()
        .expect("items")
        .iter()
        .flat_map(|item| item["reasons"].as_array().expect("reasons"))
        .collect();
    assert!(!reasons.is_empty(), "{answer}");
    assert!(reasons.iter().all(|reason| list[..2].iter().any(|item| reason["item_id"] == item.as_str())), "{answer}");
    assert_eq!(items(&answers[1]), list);
    let wrong = client.post("/v1/recommendations", &json!({"requests": [{"history": ["no such artist"]}]})).expect(404);
    assert!(wrong.text().contains("no such artist"), "{}", wrong.text());
}

/// An event as a client sends it.
fn event(id: &str, user: &str, item: &str, kind: &str) -> Value {
    json!({"event_id": id, "type": kind, "user_id": user, "item_kind": "artist", "item_id": item,
           "ts": chrono::Utc::now().to_rfc3339()})
}

#[test]
fn a_click_changes_the_next_list_and_survives_a_restart() {
    let (bundle, dir) = (workshop().path("bundle"), tempdir().expect("a directory"));
    let args = ["--bundle", text(&bundle), "--events", text(dir.path())];
    let service = Service::start(&args);
    let mut client = service.client();
    let (user, before) = expected(&bundle, 5).pop_first().expect("a user");
    let clicked = before[2].0.clone();
    let answer = client.post("/v1/events", &event("c1", &user, &clicked, "click")).expect(200).json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(1), &json!(0)), "{answer}");
    let again = client.post("/v1/events", &event("c1", &user, &clicked, "click")).expect(200).json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(1)), "{again}");
    let after = client.get(&path_of(&user)).expect(200).json();
    assert!(!items(&after).contains(&clicked), "a clicked artist is seen: {after}");
    let score = |list: &Value, item: &str| {
        let items = list["items"].as_array().expect("items");
        items.iter().find(|entry| entry["item_id"] == item).and_then(|entry| entry["score"].as_f64())
    };
    let moved = before.iter().filter_map(|(item, old)| Some((score(&after, item)? - f64::from(*old)).abs()));
    assert!(moved.fold(0.0, f64::max) > 1e-4, "no score moved: {after}");
    service.kill();
    let service = Service::start(&args);
    let restarted = service.client().get(&path_of(&user)).expect(200).json();
    assert_eq!(items(&restarted), items(&after));
    let wrong = service.client().post("/v1/events", &json!({"event_id": "x", "type": "dance"})).expect(400);
    assert!(wrong.text().contains("click"), "the valid types are named: {}", wrong.text());
}

/// Every event id in the lines of a journal.
fn journaled(dir: &Path) -> Vec<String> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("events-") {
            continue;
        }
        let lines = std::fs::read_to_string(entry.path()).expect("text");
        ids.extend(lines.lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            event["event_id"].as_str().expect("an id").to_owned()
        }));
    }
    ids
}

#[test]
fn kills_lose_no_acknowledged_event() {
    let (bundle, dir) = (workshop().path("bundle"), tempdir().expect("a directory"));
    let args = ["--bundle", text(&bundle), "--events", text(dir.path())];
    let acknowledged = std::sync::Mutex::new(BTreeSet::new());
    let sent = AtomicU64::new(0);
    let mut random = Random(11);
    let kills = rounds("DUET_KILLS", 3);
    for _ in 0..kills {
        let service = Service::start(&args);
        let address = service.address();
        thread::scope(|scope| {
            for poster in 0..3 {
                let (acknowledged, sent) = (&acknowledged, &sent);
                scope.spawn(move || {
                    let Ok(mut client) = Client::try_connect(address) else { return };
                    loop {
                        let ids: Vec<String> =
                            (0..=poster * 7).map(|_| format!("e{}", sent.fetch_add(1, Ordering::Relaxed))).collect();
                        let events: Vec<Value> = ids.iter().map(|id| event(id, "someone", "a1", "click")).collect();
                        match client.try_post("/v1/events", &json!({ "events": events })) {
                            Ok(answer) if answer.status == 200 => {
                                let answer = answer.json();
                                assert_eq!(answer["accepted"], ids.len(), "{answer}");
                                acknowledged.lock().expect("no poster panicked").extend(ids);
                            }
                            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
                            Err(_) => return,
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(20 + random.below(400)));
            service.kill();
        });
    }
    // The next start puts in order what the last kill left.
    assert_eq!(Service::start(&args).terminate(), Some(0));
    let found = journaled(dir.path());
    let distinct: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(distinct.len(), found.len(), "no event is there twice");
    let acknowledged = acknowledged.into_inner().expect("no poster panicked");
    assert!(acknowledged.len() > kills * 3, "only {} events were acknowledged", acknowledged.len());
    let lost: Vec<&String> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    eprintln!("{kills} kills, {} events acknowledged, {} in the journal", acknowledged.len(), found.len());
}

/// A second bundle of the shared world: other seed, other lists.
fn other_bundle(dir: &Path) -> std::path::PathBuf {
    let shop = workshop();
    let (run, bundle) = (dir.join("run"), dir.join("other"));
    let settings = crate::workshop::TINY;
    let data = shop.path("data");
    let train = [&["--data", text(&data), "--out", text(&run), "--seed", "99"], &settings[..]].concat();
    succeed("train", &train);
    succeed("embed", &["--run", text(&run), "--out", text(&bundle), "--device", "cpu"]);
    bundle
}

#[test]
fn swaps_under_load_fail_no_request_and_mix_no_answer() {
    let dir = tempdir().expect("a directory");
    let bundles = [workshop().path("bundle"), other_bundle(dir.path())];
    let lists = bundles.each_ref().map(|bundle| expected(bundle, 60));
    assert_ne!(lists[0], lists[1], "the two bundles answer alike: nothing could be told apart");
    let place = dir.path().join("place");
    std::fs::create_dir(&place).expect("a directory");
    duet(&["promote", text(&bundles[0]), "--place", text(&place)]);
    let champion = place.join("champion");
    let service = Service::start(&["--bundle", text(&champion), "--set", "swap.poll_ms=20"]);
    let users: Vec<&String> = lists[0].keys().collect();
    // Which bundle a version is, as the service names it.
    let versions = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let swaps = rounds("DUET_SWAPS", 6);
    thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (done, asked, users, lists, versions) = (&done, &asked, &users, &lists, &versions);
            let mut client = service.client();
            scope.spawn(move || {
                let mut random = Random(thread);
                while !done.load(Ordering::Relaxed) {
                    let user = users[random.below(users.len() as u64) as usize];
                    let answer = client.get(&path_of(user)).expect(200).json();
                    let found = items(&answer);
                    let fits = |list: &Vec<(String, f32)>| list.iter().map(|(item, _)| item).eq(found.iter());
                    let fitting: Vec<usize> = (0..2).filter(|&at| fits(&lists[at][user])).collect();
                    assert!(!fitting.is_empty(), "a list of neither bundle: {answer}");
                    if let [only] = fitting[..] {
                        let version = answer["bundle"].as_str().expect("a version").to_owned();
                        let known = *versions.lock().expect("no panic").entry(version).or_insert(only);
                        assert_eq!(known, only, "a list of the other bundle than the answer says: {answer}");
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for swap in 0..swaps {
            let before = service.wait_for("status", |_| true)["bundle"].clone();
            duet(&["promote", text(&bundles[(swap + 1) % 2]), "--place", text(&place)]);
            service.wait_for("swap", |status| status["bundle"] != before);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(versions.into_inner().expect("no panic").len(), 2, "both bundles have answered");
    eprintln!("{swaps} swaps, {} requests", asked.into_inner());
}

#[test]
fn a_damaged_champion_is_not_taken() {
    let dir = tempdir().expect("a directory");
    let bundle = workshop().path("bundle");
    let champion = dir.path().join("champion");
    std::os::unix::fs::symlink(&bundle, &champion).expect("a link");
    let service = Service::start(&["--bundle", text(&champion), "--set", "swap.poll_ms=20"]);
    let before = service.wait_for("status", |_| true)["bundle"].clone();
    let damaged = dir.path().join("damaged");
    std::fs::create_dir_all(damaged.join("data")).expect("a directory");
    for file in crate::workshop::tree(&bundle) {
        if bundle.join(&file).is_file() {
            std::fs::copy(bundle.join(&file), damaged.join(&file)).expect("a copy");
        }
    }
    let weights = damaged.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).expect("written");
    let turned = dir.path().join("turned");
    std::os::unix::fs::symlink(&damaged, &turned).expect("a link");
    std::fs::rename(&turned, &champion).expect("the link is turned");
    let status = service.wait_for("refusal", |status| {
        status["swaps"].as_array().is_some_and(|swaps| swaps.iter().any(|swap| swap.to_string().contains("weights")))
    });
    assert_eq!(status["bundle"], before, "{status}");
    service.client().get("/v1/users/nobody/recommendations").expect(200);
}

#[test]
fn too_many_at_once_are_refused_early_and_the_rest_is_served() {
    let bundle = workshop().path("bundle");
    let settings = ["--set", "limits.queue=4", "--set", "engine.workers=1"];
    let service = Service::start(&[&["--bundle", text(&bundle)], &settings[..]].concat());
    let users: Vec<String> = expected(&bundle, 50).into_keys().collect();
    let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for thread in 0..48_usize {
            let (users, served, refused) = (&users, &served, &refused);
            let mut client = service.client();
            scope.spawn(move || {
                let mut turn = thread;
                while Instant::now() < end {
                    turn += 1;
                    let answer =
                        client.get(&format!("/v1/users/{}/recommendations?k=100&explain=true", users[turn % 50]));
                    match answer.status {
                        200 => served.fetch_add(1, Ordering::Relaxed),
                        503 => {
                            assert!(answer.header("retry-after").is_some(), "{answer:?}");
                            assert_eq!(answer.json()["error_type"], "overloaded");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        other => panic!("{other}: {}", answer.text()),
                    };
                }
            });
        }
    });
    let (served, refused) = (served.into_inner(), refused.into_inner());
    assert!(served > 20 && refused > 20, "{served} served, {refused} refused");
    service.client().get(&path_of(&users[0])).expect(200);
    eprintln!("{served} served, {refused} refused, peak {} MB", service.peak_memory() >> 20);
}

#[test]
fn a_load_says_how_it_was_answered_and_what_memory_it_took() {
    let service = Service::start(&["--bundle", text(&workshop().path("bundle"))]);
    let (url, pid) = (format!("http://{}", service.address()), service.pid().to_string());
    let said = duet(&["load", "--url", &url, "--users", "u1", "--rate", "50", "--time", "1s", "--pid", &pid]);
    assert!(said.contains("50 x 200") && said.contains("memory of the service: "), "{said}");
    assert!(said.contains("since then"), "{said}");
}

#[test]
fn served_lists_are_logged_without_the_listener_and_an_end_drains() {
    let (bundle, dir) = (workshop().path("bundle"), tempdir().expect("a directory"));
    let service = Service::start(&["--bundle", text(&bundle), "--served-log", text(dir.path())]);
    let user = expected(&bundle, 1).into_keys().next().expect("a user");
    let mut client = service.client();
    let answer = client.get(&path_of(&user)).expect(200).json();
    assert_eq!(service.terminate(), Some(0));
    let logs: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".jsonl"))
        .map(|entry| std::fs::read_to_string(entry.path()).expect("text"))
        .collect();
    assert_eq!(logs.len(), 1, "one closed segment");
    let line: Value = serde_json::from_str(logs[0].trim()).expect("one line");
    assert_eq!(line["request_id"], answer["request_id"]);
    assert_eq!(line["bundle"], answer["bundle"]);
    assert_eq!(line["items"], json!(items(&answer)));
    assert!(!logs[0].contains(&user), "the log names the listener: {line}");
}

/// A program on PATH; says that the test is skipped where it is missing, and fails where everything must be there.
fn found(program: &str, package: &str) -> bool {
    let is_there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    let required = std::env::var("DUET_REQUIRE_SERVICES").is_ok_and(|value| value == "1");
    assert!(is_there || !required, "no {program} on PATH (Debian: {package})");
    if !is_there {
        eprintln!("skipped: no {program} on PATH (Debian: {package})");
    }
    is_there
}

#[test]
fn behind_a_proxy_a_replica_may_die_and_nobody_notices() {
    if !found("nginx", "nginx") {
        return;
    }
    let (bundle, dir) = (workshop().path("bundle"), tempdir().expect("a directory"));
    let mut replicas = [0, 1].map(|_| Some(Service::start(&["--bundle", text(&bundle)])));
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let upstream: String = replicas
        .iter()
        .flatten()
        .map(|replica| format!("server {} max_fails=1 fail_timeout=2s;", replica.address()))
        .collect();
    let configuration = format!(
        "user root; worker_processes 1; pid nginx.pid; error_log stderr crit; events {{}}
         http {{
             access_log off;
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             upstream duet {{ {upstream} keepalive 16; }}
             keepalive_requests 1000000;
             server {{
                 listen 127.0.0.1:{port};
                 location / {{
                     proxy_pass http://duet; proxy_http_version 1.1; proxy_set_header Connection \"\";
                     proxy_next_upstream error timeout http_503; proxy_connect_timeout 1s;
                 }}
             }}
         }}"
    );
    std::fs::write(dir.path().join("nginx.conf"), configuration).expect("written");
    let mut proxy = std::process::Command::new("nginx")
        .args(["-p", text(dir.path()), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"])
        .spawn()
        .expect("nginx starts");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    while Client::try_connect(address).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "nginx does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    let users: Vec<String> = expected(&bundle, 20).into_keys().collect();
    let (asked, end) = (AtomicU64::new(0), Instant::now() + Duration::from_secs(3));
    let failure = thread::scope(|scope| {
        let clients: Vec<_> = (0..4_usize)
            .map(|thread| {
                let (asked, users) = (&asked, &users);
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut turn = thread;
                    while Instant::now() < end {
                        turn += 1;
                        let answer = client.get(&path_of(&users[turn % users.len()]));
                        if answer.status != 200 || items(&answer.json()).len() != 10 {
                            return Some(answer);
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    None
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        replicas[0].take().expect("it runs").kill();
        clients.into_iter().find_map(|client| client.join().expect("no client panicked"))
    });
    let _ = proxy.kill();
    let _ = proxy.wait();
    assert!(failure.is_none(), "{failure:?}");
    let asked = asked.into_inner();
    assert!(asked > 200, "only {asked} requests");
    eprintln!("{asked} requests through nginx, one of two replicas killed");
}
