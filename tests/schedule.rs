//! Warm starts and `duet run`: rows go where they belong, a failed tick changes nothing, a killed one is made up for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use duet_core::ids::IdMap;
use duet_data::dataset::Dataset;
use duet_model::{
    device::DeviceChoice,
    model::TwoTower,
    tensor_file::{self, NamedTensor},
};
use duet_train::{
    pipeline::{Outcome, Record, Status, Step},
    retriever::run_vectors,
    run::{Run, RunInfo, read_records},
    warm_start::Source,
};
use tempfile::TempDir;

use crate::workshop::{TINY, command, duet, fail, run, succeed, text, tree};

fn new_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Two datasets of clicks, the second with more users and items, and runs on them.
struct Shelf {
    dir: TempDir,
}

const SCHEMA: &str = "[users]\ncity = { kind = \"categorical\" }\nheight = { kind = \"numeric\" }\n\
                      [items]\ngenre = { kind = \"categorical\" }\n";

/// Settings under which every kind of table exists.
const EVERYTHING: [&str; 6] =
    ["--set", "model.user_id=true", "--set", "model.shared_table=false", "--set", "model.encoder=attention"];

impl Shelf {
    fn new() -> Self {
        let shelf = Self { dir: new_dir() };
        shelf.write(SCHEMA, "schema.toml");
        shelf.import("first", 40, 1, &["Bonn", "Oslo"], &[]);
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, content: &str, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a writable directory");
        path
    }

    /// `users` users; items and users are numbered in steps of `stride`, so that those of stride 2 are among those of stride 1.
    fn import(&self, name: &str, users: usize, stride: usize, cities: &[&str], more: &[&str]) {
        let mut events = "user_id,item_id,timestamp\n".to_owned();
        let mut people = "user_id,city,height\n".to_owned();
        let mut things = "item_id,genre\n".to_owned();
        for user in (0..users).step_by(stride) {
            let city = cities[user / stride % cities.len()];
            people.push_str(&format!("u{user:03},{city},{}\n", 150 + user % 40));
            for turn in 0..8 {
                let item = (user * 3 + turn * 5 * stride) / stride * stride % 48;
                events.push_str(&format!("u{user:03},i{item:02},{}\n", 1_700_000_000 + turn * 86_400 + user));
            }
        }
        for item in (0..48).step_by(stride) {
            things.push_str(&format!("i{item:02},g{}\n", item % 3));
        }
        let (events, people, things) =
            (self.write(&events, "events.csv"), self.write(&people, "people.csv"), self.write(&things, "things.csv"));
        let (schema, out) = (self.path("schema.toml"), self.path(name));
        let args = ["import", "--interactions", text(&events), "--users", text(&people), "--items", text(&things)];
        let split: &[&str] = if more.is_empty() { &["--split", "leave-last-out"] } else { more };
        duet(&[&args[..], &["--schema", text(&schema), "--out", text(&out)], split].concat());
    }

    fn arguments(&self, data: &str, run: &str, more: &[&str]) -> Vec<String> {
        let (data, run) = (self.path(data), self.path(run));
        let args = [&["--data", text(&data), "--out", text(&run)], &TINY[..], more].concat();
        args.into_iter().map(str::to_owned).collect()
    }

    fn train(&self, data: &str, run: &str, more: &[&str]) -> String {
        let args = self.arguments(data, run, more);
        succeed("train", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn warm<'a>(&self, source: &'a Path) -> [&'a str; 4] {
        ["--warm-start", text(source), "--set", "train.warm_epochs=1"]
    }

    /// What a warm start of `run` from `source` begins with.
    fn beginning(&self, data: &str, run: &str, source: &str) -> Beginning {
        let dataset = Dataset::open(&self.path(data)).expect("a dataset");
        let (config, mut info) = read_records(&self.path(run)).expect("a run");
        let source = Source::open(&self.path(source)).expect("a run to start from");
        let (plan, warmed) = source.plan(&config, &mut info, &dataset).expect("a plan");
        assert_eq!(Some(&warmed), info.warmed_from.as_ref(), "the record of the run says the same");
        let device = DeviceChoice::Cpu.open().expect("a CPU");
        let fresh = || TwoTower::new(&config.model, &config.loss, info.shape(), &device, config.train.seed);
        let mut model = fresh();
        source.take_over(&mut model, &plan, 1.0).expect("parameters that fit");
        let run =
            Run { dir: self.path(run), config: config.clone(), info: info.clone(), model, weights: warmed.weights };
        Beginning { run, fresh: tensors(&fresh()), dataset }
    }
}

struct Beginning {
    run: Run,
    fresh: BTreeMap<String, NamedTensor>,
    dataset: Dataset,
}

fn tensors(model: &TwoTower) -> BTreeMap<String, NamedTensor> {
    model.state(true).expect("parameters").into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()
}

fn best(run: &Path) -> BTreeMap<String, NamedTensor> {
    tensor_file::read(&run.join("best/weights.safetensors")).expect("parameters")
}

#[test]
fn a_warm_start_on_the_same_data_begins_with_the_very_vectors() {
    let shelf = Shelf::new();
    let old = shelf.path("old");
    for (round, settings) in [&[][..], &EVERYTHING[..], &["--set", "model.hash_buckets=30"]].iter().enumerate() {
        shelf.train("first", "old", &[settings, &["--overwrite"][..]].concat());
        let warm = shelf.warm(&old);
        let said = shelf.train("first", "new", &[settings, &warm[..], &["--overwrite"]].concat());
        assert!(said.contains("48 items taken over, 0 new"), "{said}");
        let Beginning { run, dataset, .. } = shelf.beginning("first", "new", "old");
        assert_eq!(tensors(&run.model), best(&old), "round {round}");
        let before = Run::open(&old, DeviceChoice::Cpu).expect("a run");
        let (before, now) = (run_vectors(&before, &dataset), run_vectors(&run, &dataset));
        let (before, now) = (before.expect("vectors"), now.expect("vectors"));
        assert_eq!((before.items, before.users), (now.items, now.users), "round {round}");
        // And it did train on.
        assert_ne!(best(&shelf.path("new")), best(&old), "round {round}");
    }
}

#[test]
fn rows_go_by_id_and_value_to_where_they_are_now() {
    let shelf = Shelf::new();
    // Every second user and item; then all of them, so that no known one but the first keeps its row.
    shelf.import("sparse", 40, 2, &["Bonn", "Oslo"], &[]);
    shelf.import("dense", 60, 1, &["Aachen", "Bonn", "Oslo"], &[]);
    shelf.train("sparse", "old", &EVERYTHING);
    let old_dir = shelf.path("old");
    let said = shelf.train("dense", "new", &[&EVERYTHING[..], &shelf.warm(&old_dir)].concat());
    assert!(said.contains("24 items taken over, 24 new") && said.contains("users 20, 40 new"), "{said}");
    let Beginning { run, fresh, dataset } = shelf.beginning("dense", "new", "old");
    let (now, old) = (tensors(&run.model), best(&old_dir));

    let row = |tensors: &BTreeMap<String, NamedTensor>, name: &str, row: usize| {
        let tensor = &tensors[name];
        let width: usize = tensor.shape[1..].iter().product();
        tensor.values[row * width..(row + 1) * width].to_vec()
    };
    let sparse = Dataset::open(&shelf.path("sparse")).expect("a dataset");
    let ids = |dataset: &Dataset| -> (IdMap, IdMap) {
        (dataset.items().expect("items").ids, dataset.users().expect("users").ids)
    };
    let ((old_items, old_users), (items, users)) = (ids(&sparse), ids(&dataset));
    assert!(old_items.get("i46") != items.get("i46"), "items that keep their rows prove nothing");
    let mut checked = 0;
    for (tables, here, there) in
        [(&["items", "history", "bias"][..], &items, &old_items), (&["users"], &users, &old_users)]
    {
        for table in tables {
            for part in ["weights", "accumulators"] {
                let name = format!("tables.{table}.{part}");
                for (at, id) in here.ids().iter().enumerate() {
                    let expected = match there.get(id) {
                        Some(there) => row(&old, &name, there as usize),
                        None => row(&fresh, &name, at),
                    };
                    assert_eq!(row(&now, &name, at), expected, "{name} of {id}");
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 2 * (3 * 48 + 60));
    // Everyone without training events.
    assert_eq!(row(&now, "tables.users.weights", 60), row(&old, "tables.users.weights", 20));
    // City: missing, Bonn, Oslo; now missing, Aachen, Bonn, Oslo.
    for (here, there) in [(0, 0), (2, 1), (3, 2)] {
        let name = "tables.user_features.weights";
        assert_eq!(row(&now, name, here), row(&old, name, there), "value {here}");
    }
    assert_eq!(row(&now, "tables.user_features.weights", 1), row(&fresh, "tables.user_features.weights", 1));
    for (name, tensor) in old.iter().filter(|(name, _)| name.starts_with("towers.")) {
        assert_eq!(&now[name], tensor, "towers are taken over whole");
    }
    // The bins of heights are the old ones, though the heights are others.
    let bins = |info: &RunInfo| serde_json::to_value(&info.users).expect("JSON")["numerics"].clone();
    let (_, old_info) = read_records(&old_dir).expect("a run");
    assert_eq!(bins(&run.info), bins(&old_info));
}

#[test]
fn what_does_not_fit_is_refused_with_the_setting_behind_it() {
    let shelf = Shelf::new();
    shelf.import("sparse", 40, 2, &["Bonn", "Oslo"], &[]);
    shelf.import("earlier", 40, 1, &["Bonn", "Oslo"], &["--split", "global-time:0.5"]);
    shelf.import("later", 40, 1, &["Bonn", "Oslo"], &["--split", "global-time:0.8"]);
    shelf.train("first", "old", &[]);
    shelf.train("sparse", "hashed", &["--set", "model.hash_buckets=16"]);
    shelf.train("later", "trained-later", &[]);
    shelf.train("earlier", "trained-earlier", &[]);
    let place = |name: &str| text(&shelf.path(name)).to_owned();
    let refused = |data: &str, source: &str, more: &[&str], parts: &[&str]| {
        let source = place(source);
        let args = shelf.arguments(data, "new", &[&["--warm-start", &source], more].concat());
        let before = tree(shelf.dir.path());
        fail("train", &args.iter().map(String::as_str).collect::<Vec<_>>(), 1, parts);
        assert_eq!(tree(shelf.dir.path()), before, "files came or went");
    };
    let cases: [(&[&str], &[&str]); 5] = [
        (&["model.dim=24"], &["model.dim is 16 there and 24 here", "towers.start"]),
        (&["model.encoder=attention"], &["model.encoder is mean there and attention here", "towers.attention"]),
        (&["model.user_id=true"], &["model.user_id", "tables.users"]),
        (&["model.hidden=8"], &["model.hidden is 16 there and 8 here", "residual"]),
        (&["model.hash_buckets=9"], &["model.hash_buckets is 0 there and 9 here", "tables.items"]),
    ];
    for (settings, parts) in cases {
        refused("first", "old", &["--set", settings[0]], parts);
    }
    refused("first", "hashed", &["--set", "model.hash_buckets=16"], &["23 items have another place"]);
    refused("earlier", "trained-later", &[], &["held out here"]);
    refused("first", "no-such-run", &[], &["no-such-run", "run.json"]);
    // The other way round there is no leak.
    let earlier = shelf.path("trained-earlier");
    shelf.train("later", "fine", &shelf.warm(&earlier));
    // A run of an earlier duet keeps no ids.
    fs::remove_dir_all(shelf.path("old").join("vocabulary")).expect("a vocabulary");
    refused("first", "old", &[], &["old", "no ids"]);
}

#[test]
fn a_warm_start_that_is_killed_goes_on_without_the_other_run() {
    let shelf = Shelf::new();
    shelf.train("first", "old", &[]);
    let old = shelf.path("old");
    let settings = ["--warm-start", text(&old), "--set", "train.warm_epochs=40"];
    let more = [&settings[..], &["--set", "train.checkpoint_minutes=0.00001"]].concat();
    let started = Instant::now();
    shelf.train("first", "whole", &more);
    let duration = started.elapsed();
    let expected = best(&shelf.path("whole"));
    let kept = shelf.path("kept");
    let mut cut_short = 0;
    for number in 1..8 {
        let args = shelf.arguments("first", "new", &more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = command("train", &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("train");
        sleep(duration * number / 8);
        child.kill().expect("a child can be killed");
        cut_short += usize::from(!child.wait().expect("a child can be waited for").success());
        if !shelf.path("new").join("run.json").exists() {
            // Killed before the run began.
            let _ = fs::remove_dir_all(shelf.path("new"));
            continue;
        }
        fs::rename(&old, &kept).expect("a rename");
        succeed("train", &[&args[..], &["--resume"]].concat());
        fs::rename(&kept, &old).expect("a rename");
        assert!(best(&shelf.path("new")) == expected, "other parameters after kill {number}");
        let left: Vec<String> = tree(shelf.dir.path()).into_iter().filter(|path| path.contains("/.")).collect();
        assert!(left.is_empty(), "{left:?}");
        fs::remove_dir_all(shelf.path("new")).expect("a run");
    }
    assert!(cut_short >= 3, "only {cut_short} kills came before the end");
    // A run that began afresh does not turn into another one.
    shelf.train("first", "afresh", &[]);
    let args = shelf.arguments("first", "afresh", &["--resume", "--warm-start", text(&old)]);
    fail("train", &args.iter().map(String::as_str).collect::<Vec<_>>(), 1, &["began afresh"]);
}

/// A world whose last days come later, and a work directory.
struct Service {
    dir: TempDir,
}

const DAYS: usize = 30;

impl Service {
    /// All but the last `later` days are there.
    fn new(later: usize) -> Self {
        let service = Self { dir: new_dir() };
        let world = service.path("world");
        let days = DAYS.to_string();
        let sizes = ["--users", "400", "--artists", "120", "--days", &days, "--seed", "11"];
        duet(&[&["world", "--out", text(&world)], &sizes[..]].concat());
        fs::create_dir(service.path("later")).expect("a directory");
        for name in service.days().iter().rev().take(later) {
            fs::rename(world.join("events").join(name), service.path("later").join(name)).expect("a rename");
        }
        service.ingest();
        service
    }

    /// Into the raw zone, of which `prepare` reads only the days that changed.
    fn ingest(&self) {
        let (events, zone) = (self.path("world/events"), self.path("zone"));
        duet(&["ingest", "--from", "files", "--files", text(&events), "--to", text(&zone)]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn days(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("world/events")).expect("events");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn second_instalment(&self) {
        for entry in fs::read_dir(self.path("later")).expect("days") {
            let entry = entry.expect("an entry");
            fs::rename(entry.path(), self.path("world/events").join(entry.file_name())).expect("a rename");
        }
        self.ingest();
    }

    fn arguments(&self, work: &str, more: &[&str]) -> Vec<String> {
        let (zone, accounts, catalogue) =
            (self.path("zone"), self.path("world/accounts.csv"), self.path("world/catalogue"));
        let (key, work) = (self.path("key"), self.path(work));
        let mut args = vec!["run", "--raw", text(&zone), "--accounts", text(&accounts)];
        args.extend(["--catalogue", text(&catalogue), "--user-key", text(&key), "--create-key"]);
        args.extend(["--work", text(&work), "--set", "split.held_out=days:6", "--set", "train.warm_epochs=2"]);
        args.extend(TINY);
        // So small a world is no match for popularity.
        for limit in [["--min-gain", "-1"], ["--max-drop", "1"]] {
            if !more.contains(&limit[0]) {
                args.extend(limit);
            }
        }
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    fn tick(&self, more: &[&str]) -> String {
        let args = self.arguments("work", &[&["--once"], more].concat());
        succeed("duet", &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn failing_tick(&self, more: &[&str], parts: &[&str]) {
        let args = self.arguments("work", &[&["--once"], more].concat());
        fail("duet", &args.iter().map(String::as_str).collect::<Vec<_>>(), 1, parts);
    }

    /// All records of `work`, oldest first.
    fn records(&self, work: &str) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(self.path(work).join("records")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        let read = |path: &PathBuf| serde_json::from_str(&fs::read_to_string(path).expect("a record")).expect("JSON");
        paths.iter().map(read).collect()
    }

    fn last(&self) -> Record {
        self.records("work").pop().expect("a record")
    }

    fn current(&self) -> PathBuf {
        fs::read_link(self.path("work/current")).expect("a link")
    }

    /// Lists for everybody from what is published.
    fn served(&self) -> String {
        let bundle = self.path("work/current");
        let out = self.path("lists.csv");
        duet(&["recommend", "--bundle", text(&bundle), "--users", "all", "--k", "5", "--out", text(&out)]);
        fs::read_to_string(out).expect("lists")
    }

    /// Waits until the tick under way is in its training.
    fn wait_for_training(&self, work: &str) {
        let started = Instant::now();
        let is_training = || {
            let records = self.records(work);
            let last = records.last().and_then(|record| Some((record, record.steps.last()?)));
            last.is_some_and(|(record, step)| {
                let progress = self.path(work).join("runs").join(&record.id).join("metrics.jsonl");
                (step.step, step.status) == (Step::Train, Status::Running)
                    && fs::read_to_string(progress).is_ok_and(|lines| lines.lines().count() > 2)
            })
        };
        while !is_training() {
            assert!(started.elapsed() < Duration::from_secs(120), "no training within two minutes");
            sleep(Duration::from_millis(5));
        }
    }
}

fn figure(record: &Record, step: Step, name: &str) -> serde_json::Value {
    let found = record.steps.iter().find(|entry| entry.step == step).expect("the step was done");
    found.figures.get(name).cloned().unwrap_or_default()
}

#[test]
fn each_tick_publishes_and_a_failed_one_changes_nothing() {
    let service = Service::new(4);
    let said = service.tick(&[]);
    let first = service.last();
    assert!(said.starts_with(&format!("{}: published; NDCG@10 ", first.id)), "{said}");
    assert_eq!(first.outcome, Outcome::Published);
    assert_eq!(first.published.as_deref(), Some(&*format!("bundles/{}", first.id)));
    let steps: Vec<Step> = first.steps.iter().map(|step| step.step).collect();
    assert_eq!(steps, [Step::Prepare, Step::Train, Step::Evaluate, Step::Embed, Step::Gate, Step::Publish]);
    assert!(first.steps.iter().all(|step| step.status == Status::Done), "{first:?}");
    assert!(figure(&first, Step::Train, "warmed_from").is_null());
    assert_eq!(service.current(), Path::new("bundles").join(&first.id));
    service.served();

    service.second_instalment();
    service.tick(&[]);
    let second = service.last();
    assert_eq!(second.outcome, Outcome::Published);
    assert_eq!(figure(&second, Step::Train, "warmed_from"), first.id.as_str());
    assert!(figure(&second, Step::Train, "items_taken_over").as_u64() > Some(50), "{second:?}");
    assert_eq!(figure(&second, Step::Train, "epochs"), 2);
    assert_eq!(figure(&second, Step::Gate, "compared_with"), first.id.as_str());
    let (read, kept) = (figure(&second, Step::Prepare, "days_read"), figure(&second, Step::Prepare, "days_kept"));
    // Late events are of earlier days.
    assert!(read.as_u64() < Some(15) && kept.as_u64() > Some(20), "{read} read, {kept} kept");
    assert_eq!(service.current(), Path::new("bundles").join(&second.id));
    let lists = service.served();

    // A broken catalogue.
    let unchanged = |outcome: Outcome, step: Step| {
        let record = service.last();
        assert_eq!((record.outcome, record.error().map(|(step, _)| step)), (outcome, Some(step)));
        assert_eq!(record.published, None);
        assert_eq!(service.current(), Path::new("bundles").join(&second.id));
        assert!(service.served() == lists, "other lists are served");
    };
    let catalogue = service.path("world/catalogue/artists.csv");
    let good = fs::read(&catalogue).expect("a catalogue");
    fs::write(&catalogue, "artist_id,name\n").expect("a writable file");
    service.failing_tick(&[], &["failed, prepare", "artists.csv"]);
    unchanged(Outcome::Failed, Step::Prepare);
    fs::write(&catalogue, good).expect("a writable file");

    // A bundle that is not good enough, by both limits.
    service.failing_tick(&["--min-gain", "1000"], &["refused by the gate", "--min-gain is 1000", "popularity"]);
    unchanged(Outcome::Refused, Step::Gate);
    service.failing_tick(&["--max-drop", "-1000"], &["refused by the gate", "--max-drop", &second.id]);
    unchanged(Outcome::Refused, Step::Gate);
    // An index that is not: `embed` has a limit of its own. Another model, too: there is no warm start for it.
    let ivf = ["--set", "index.kind=ivf", "--set", "index.lists=100", "--set", "index.recall_floor=1.0"];
    let args = service.arguments("work", &[&["--once", "--set", "model.dim=8"], &ivf[..]].concat());
    let done = run("duet", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let record = service.last();
    let reason = figure(&record, Step::Train, "began_afresh");
    assert!(reason.as_str().is_some_and(|reason| reason.contains("model.dim")), "{reason} {}", done.err);
    assert!(record.outcome == Outcome::Published || record.error().is_some_and(|(step, _)| step == Step::Embed));

    // Only the newest are kept: one that was published, one that was not.
    service.tick(&["--keep", "1"]);
    let last = service.last();
    let kept = |name: &str| -> Vec<String> {
        tree(&service.path("work").join(name)).into_iter().filter(|path| !path.contains('/')).collect()
    };
    assert_eq!(service.current(), Path::new("bundles").join(&last.id));
    assert!(kept("bundles").contains(&last.id) && !kept("bundles").contains(&first.id));
    assert!(kept("runs").len() <= 2 && kept("bundles").len() <= 2 && kept("evaluations").len() <= 2);
    assert_eq!(service.records("work").len(), kept("records").len());
    service.served();
}

#[test]
fn trees_are_part_of_a_tick_that_wants_them_and_fail_it_where_they_can_not_be() {
    let service = Service::new(4);
    service.tick(&[]);
    assert!(!service.path("work/current/reranker").exists());
    service.second_instalment();
    let said = service.tick(&["--rerank", "--set", "reranker.trees=10", "--set", "reranker.examples=candidates"]);
    let tick = service.last();
    let steps: Vec<Step> = tick.steps.iter().map(|step| step.step).collect();
    let expected = [Step::Prepare, Step::Train, Step::Rerank, Step::Evaluate, Step::Embed, Step::Gate, Step::Publish];
    assert_eq!(steps, expected, "{said}");
    assert!(figure(&tick, Step::Train, "warmed_from").is_null(), "no validation part would be left");
    let trees = figure(&tick, Step::Rerank, "trees").as_u64();
    assert!(trees.is_some_and(|trees| (1..=10).contains(&trees)), "{tick:?}");
    assert_eq!(figure(&tick, Step::Rerank, "learned_from"), "candidates");
    assert!(figure(&tick, Step::Evaluate, "boosted_trees_ndcg_at_10").as_f64() > Some(0.0), "{tick:?}");
    let bundle = service.path("work/current");
    assert!(bundle.join("reranker/trees.bin").exists());
    let out = service.path("reranked.csv");
    duet(&["recommend", "--bundle", text(&bundle), "--users", "all", "--k", "5", "--rerank", "--out", text(&out)]);
    let lists = service.served();
    assert_ne!(fs::read_to_string(out).expect("lists"), lists, "the trees change nothing");

    // Nothing was shown in a validation part of last events: the trees can't be had, and the tick fails as by any other step.
    let no_trees = ["--rerank", "--set", "reranker.examples=impressions", "--set", "data.validation=leave-last-out"];
    service.failing_tick(&no_trees, &["failed, rerank", "no impressions of a validation period"]);
    let failed = service.last();
    assert_eq!((failed.outcome, failed.error().map(|(step, _)| step)), (Outcome::Failed, Some(Step::Rerank)));
    assert_eq!(service.current(), Path::new("bundles").join(&tick.id));
    assert!(service.served() == lists, "other lists are served");
    // What can never work is said before anything is done.
    service.failing_tick(&["--rerank", "--set", "data.validation=none"], &["data.validation is none", "--rerank"]);
    assert_eq!(service.last().id, failed.id, "no tick began");
}

/// Enough epochs that something can come between.
const LONG: [&str; 4] = ["--set", "train.epochs=60", "--set", "train.checkpoint_minutes=0.0005"];

const PATIENT: [&str; 4] = ["--set", "train.patience=1000", "--set", "train.refit=false"];

#[test]
fn a_tick_that_was_killed_is_made_up_for_by_the_next() {
    let service = Service::new(0);
    let long = [&LONG[..], &PATIENT].concat();
    let undisturbed = service.arguments("whole", &[&["--once"], &long[..]].concat());
    succeed("duet", &undisturbed.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = service.records("whole").pop().expect("a record");

    let args = service.arguments("work", &[&["--once"], &long[..]].concat());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = command("duet", &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("duet");
    service.wait_for_training("work");
    // Two of them would ruin each other's work.
    fail("duet", &args, 1, &["work", "another `duet run`"]);
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");
    assert!(!service.path("work/current").exists());

    succeed("duet", &args);
    let records = service.records("work");
    assert_eq!(records.iter().map(|record| record.outcome).collect::<Vec<_>>(), [Outcome::Died, Outcome::Published]);
    assert_eq!(figure(&records[1], Step::Train, "resumed_from"), records[0].id.as_str());
    let weights = |work: &str, record: &Record| best(&service.path(work).join("runs").join(&record.id));
    assert!(weights("work", &records[1]) == weights("whole", &whole), "other parameters than undisturbed");
    assert_eq!(tree(&service.path("work/runs")).iter().filter(|path| !path.contains('/')).count(), 1);
    service.served();
    let hidden = |path: &&String| path.split('/').any(|part| part.starts_with('.')) && *path != ".lock";
    let left: Vec<String> = tree(&service.path("work")).iter().filter(hidden).cloned().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ticks_come_by_the_clock_until_a_signal() {
    let service = Service::new(0);
    let start = |more: &[&str]| {
        let args = service.arguments("work", more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command("duet", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("duet")
    };
    let stop = |child: std::process::Child| {
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        child.wait_with_output().expect("a child can be waited for")
    };
    let wait_for = |what: &str, holds: &dyn Fn(&[Record]) -> bool| {
        let started = Instant::now();
        while !holds(&service.records("work")) {
            assert!(started.elapsed() < Duration::from_secs(180), "{what}");
            sleep(Duration::from_millis(10));
        }
    };
    // A signal within the training of the first tick.
    let child = start(&[&["--every", "1h"], &LONG[..], &PATIENT].concat());
    service.wait_for_training("work");
    let output = stop(child);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let record = service.last();
    assert_eq!(record.outcome, Outcome::Interrupted);
    assert_eq!(record.steps.last().map(|step| (step.step, step.status)), Some((Step::Train, Status::Interrupted)));
    let checkpoint = service.path("work/runs").join(&record.id).join("checkpoint/manifest.json");
    assert!(checkpoint.exists() && !service.path("work/current").exists());

    // With a period far shorter than a tick, ticks follow each other and the missed ones are told.
    let child = start(&["--every", "0.1s"]);
    let is_published = |record: &&Record| record.outcome == Outcome::Published;
    wait_for("two published ticks", &|records| records.iter().filter(is_published).count() >= 2);
    let output = stop(child);
    assert!(matches!(output.status.code(), Some(0 | 130)));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("ticks are left out"), "{said}");

    // While it waits for the next tick, a signal is no interruption.
    let before = service.records("work").len();
    let child = start(&["--every", "1h"]);
    wait_for("one more tick", &|records| {
        records.len() > before && records.last().is_some_and(|record| record.finished.is_some())
    });
    let output = stop(child);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("published"));
    service.served();
}
