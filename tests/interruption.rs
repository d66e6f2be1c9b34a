//! Killed, interrupted and timed-out runs: going on leads to the very bytes of an undisturbed run, and nothing is left over.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::workshop::{Random, command, duet, interactions, run, succeed, text, tree};

/// Moments of single kills, of `train` and of `embed`.
const MOMENTS: u64 = 20;

/// Runs that are killed again and again, and how often at most.
const CHAINS: u64 = 4;
const KILLS: u64 = 10;

const WEIGHTS: &str = "best/weights.safetensors";

/// A dataset, and undisturbed runs to compare with.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let csv = scene.path("interactions.csv");
        fs::write(&csv, interactions(300, 5)).expect("a writable directory");
        let data = scene.path("data");
        duet(&["import", "--interactions", text(&csv), "--split", "global-time:0.8", "--out", text(&data)]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command line of a training.
    fn train(&self, run: &str, settings: &[&str], more: &[&str]) -> Vec<String> {
        let (data, run) = (self.path("data"), self.path(run));
        let mut args = vec!["--data", text(&data), "--out", text(&run), "--device", "cpu"];
        for setting in ["model.dim=16", "model.hidden=16"].iter().chain(settings) {
            args.extend(["--set", setting]);
        }
        args.extend(more);
        args.into_iter().map(str::to_owned).collect()
    }

    /// Trains undisturbed; the duration and the parameters.
    fn undisturbed(&self, name: &str, settings: &[&str]) -> Undisturbed {
        let started = Instant::now();
        succeed("train", &borrowed(&self.train(name, settings, &[])));
        let duration = started.elapsed();
        let run = self.path(name);
        Undisturbed { duration, weights: fs::read(run.join(WEIGHTS)).expect("best parameters"), tree: tree(&run) }
    }

    /// The run must be as the undisturbed one, with nothing beside it or in it that should not be there.
    fn check(&self, name: &str, undisturbed: &Undisturbed, what: &str) {
        let run = self.path(name);
        assert_eq!(tree(&run), undisturbed.tree, "{what}");
        let weights = fs::read(run.join(WEIGHTS)).expect("best parameters");
        assert!(weights == undisturbed.weights, "{what}: other parameters than those of the undisturbed run");
        check_metrics(&run.join("metrics.jsonl"), what);
        no_leftovers(self.dir.path(), what);
    }
}

struct Undisturbed {
    duration: Duration,
    weights: Vec<u8>,
    tree: Vec<String>,
}

fn borrowed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// No half-written file, lock or old directory anywhere under `dir`.
fn no_leftovers(dir: &Path, what: &str) {
    let hidden = |path: &&String| path.split('/').any(|part| part.starts_with('.'));
    let left: Vec<String> = tree(dir).iter().filter(hidden).cloned().collect();
    assert!(left.is_empty(), "{what}: left behind: {left:?}");
}

/// Whole lines only, and none of them twice.
fn check_metrics(path: &Path, what: &str) {
    let text = fs::read_to_string(path).expect("a metrics file");
    let mut seen = Vec::new();
    for line in text.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error} in {line:?}"));
        let key = (value["event"].clone(), value["phase"].clone(), value["step"].clone());
        assert!(!seen.contains(&key), "{what}: twice: {line}");
        seen.push(key);
    }
}

/// Starts a command that nobody listens to.
fn start(program: &str, args: &[&str]) -> Child {
    command(program, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

fn wait_for_validation(run: &Path) {
    let started = Instant::now();
    while !fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains("validation")) {
        assert!(started.elapsed() < Duration::from_secs(60), "no validation within a minute");
        sleep(Duration::from_millis(1));
    }
}

/// Starts a command and kills it after `delay`. Whether it had succeeded by then.
fn kill_after(program: &str, args: &[&str], delay: Duration) -> bool {
    let mut child = start(program, args);
    sleep(delay);
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for").success()
}

/// A moment within `duration`.
fn moment(random: &mut Random, duration: Duration) -> Duration {
    Duration::from_micros(random.below(duration.as_micros() as u64))
}

/// A checkpoint at nearly every step.
const PLAIN: [&str; 3] = ["train.epochs=4", "train.refit=false", "train.checkpoint_minutes=0.00001"];
const REFIT: [&str; 3] = ["train.epochs=4", "train.refit=true", "train.checkpoint_minutes=0.00001"];

#[test]
fn a_training_killed_at_any_moment_goes_on_to_the_same_bytes() {
    let scene = Scene::new();
    let mut random = Random(1);
    let undisturbed = [scene.undisturbed("plain", &PLAIN), scene.undisturbed("refit", &REFIT)];
    let mut cut_short = 0;
    for number in 0..MOMENTS {
        let which = number as usize % 2;
        let (settings, expected) = ([&PLAIN, &REFIT][which], &undisturbed[which]);
        let delay = moment(&mut random, expected.duration);
        let what = format!("kill {number} after {delay:?} of {:?}, {settings:?}", expected.duration);
        cut_short += usize::from(!kill_after("train", &borrowed(&scene.train("run", settings, &[])), delay));
        succeed("train", &borrowed(&scene.train("run", settings, &["--resume"])));
        scene.check("run", expected, &what);
        fs::remove_dir_all(scene.path("run")).expect("a removable run");
    }
    assert!(cut_short >= MOMENTS as usize / 4, "only {cut_short} of {MOMENTS} kills came before the end");
}

#[test]
fn a_training_killed_again_and_again_goes_on_to_the_same_bytes() {
    let scene = Scene::new();
    let mut random = Random(2);
    let undisturbed = [scene.undisturbed("plain", &PLAIN), scene.undisturbed("refit", &REFIT)];
    for chain in 0..CHAINS {
        let which = chain as usize % 2;
        let (settings, expected) = ([&PLAIN, &REFIT][which], &undisturbed[which]);
        let args = scene.train("run", settings, &["--resume"]);
        let mut kills = 0;
        while kills < KILLS && !kill_after("train", &borrowed(&args), moment(&mut random, expected.duration / 2)) {
            kills += 1;
        }
        succeed("train", &borrowed(&args));
        scene.check("run", expected, &format!("chain {chain} of {kills} kills, {settings:?}"));
        fs::remove_dir_all(scene.path("run")).expect("a removable run");
    }
}

/// The moments between two system calls that hardly any random kill hits: what such a kill leaves, put there by hand.
#[test]
fn what_a_kill_within_the_last_checkpoint_leaves_is_cleared_up() {
    let scene = Scene::new();
    for (name, settings) in [("plain", &PLAIN), ("refit", &REFIT)] {
        let expected = scene.undisturbed(name, settings);
        let run = scene.path(name);
        let resume = scene.train(name, settings, &["--resume"]);
        let (place, old) = (run.join("checkpoint"), run.join(".checkpoint.old"));
        let lock = || fs::write(run.join(".checkpoint.lock"), "").expect("a file");
        // Between the two renames.
        fs::rename(&place, &old).expect("a rename");
        lock();
        fs::create_dir(run.join(".checkpoint.partial")).expect("a directory");
        succeed("train", &borrowed(&resume));
        scene.check(name, &expected, &format!("{name}: checkpoint aside"));
        // After them, before the old one is gone.
        fs::create_dir(&old).expect("a directory");
        lock();
        succeed("train", &borrowed(&resume));
        scene.check(name, &expected, &format!("{name}: old checkpoint not yet removed"));
        // After that, before the lock is gone.
        lock();
        succeed("train", &borrowed(&resume));
        scene.check(name, &expected, &format!("{name}: lock not yet removed"));
    }
}

#[test]
fn a_training_goes_on_with_its_tables_elsewhere() {
    let scene = Scene::new();
    let expected = scene.undisturbed("whole", &PLAIN);
    kill_after("train", &borrowed(&scene.train("run", &PLAIN, &[])), expected.duration / 2);
    let elsewhere = ["--resume", "--set", "model.placement=host", "--set", "model.device_budget=1"];
    succeed("train", &borrowed(&scene.train("run", &PLAIN, &elsewhere)));
    scene.check("run", &expected, "resumed with model.placement=host");
}

#[test]
fn what_a_kill_within_the_start_leaves_is_cleared_up() {
    let scene = Scene::new();
    let expected = scene.undisturbed("whole", &PLAIN);
    let run = scene.path("run");
    let resume = scene.train("run", &PLAIN, &["--resume"]);
    for (written, partial) in [(None, "config.toml"), (Some("config.toml"), "run.json")] {
        fs::create_dir(&run).expect("a directory");
        if let Some(name) = written {
            fs::copy(scene.path("whole").join(name), run.join(name)).expect("a copy");
        }
        fs::write(run.join(format!(".{partial}.partial")), "[mo").expect("a file");
        succeed("train", &borrowed(&resume));
        scene.check("run", &expected, &format!("killed while writing {partial}"));
        fs::remove_dir_all(&run).expect("a removable run");
    }
}

/// The best parameters put aside by a run that was killed before the better ones took their place.
#[test]
fn what_a_kill_within_a_replacement_of_the_best_leaves_is_cleared_up() {
    let scene = Scene::new();
    let expected = scene.undisturbed("whole", &PLAIN);
    let run = scene.path("run");
    for _ in 0..20 {
        let args = scene.train("run", &PLAIN, &[]);
        let mut child = start("train", &borrowed(&args));
        wait_for_validation(&run);
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("a metrics file");
        // Killed late, it may have nothing left to replace.
        if metrics.matches("validation").count() < 3 && run.join("best").exists() {
            fs::rename(run.join("best"), run.join(".best.old")).expect("a rename");
            fs::write(run.join(".best.lock"), "").expect("a file");
            fs::create_dir_all(run.join(".best.partial")).expect("a directory");
            succeed("train", &borrowed(&scene.train("run", &PLAIN, &["--resume"])));
            scene.check("run", &expected, "best aside");
            return;
        }
        fs::remove_dir_all(&run).expect("a removable run");
    }
    println!("skipped: no kill came between the first and the last validation");
}

#[test]
fn an_embedding_killed_at_any_moment_leads_to_the_same_bundle() {
    let scene = Scene::new();
    scene.undisturbed("run", &PLAIN);
    let (trained, whole, bundle) = (scene.path("run"), scene.path("whole"), scene.path("bundle"));
    let embed = |out: &Path, more: &[&str]| -> Vec<String> {
        let args = [&["--run", text(&trained), "--out", text(out), "--device", "cpu"], more].concat();
        args.into_iter().map(str::to_owned).collect()
    };
    let started = Instant::now();
    succeed("embed", &borrowed(&embed(&whole, &[])));
    let duration = started.elapsed();
    let mut random = Random(3);
    for number in 0..MOMENTS {
        // Half of them build the first bundle of their place, half replace one.
        let replaces: &[&str] = if number % 2 == 0 { &[] } else { &["--overwrite"] };
        if replaces.is_empty() && bundle.exists() {
            fs::remove_dir_all(&bundle).expect("a removable bundle");
        }
        let delay = moment(&mut random, duration);
        let what = format!("kill {number} after {delay:?} of {duration:?}, {replaces:?}");
        kill_after("embed", &borrowed(&embed(&bundle, replaces)), delay);
        let taken = bundle.exists() || scene.path(".bundle.old").exists();
        succeed("embed", &borrowed(&embed(&bundle, if taken { &["--overwrite"] } else { &[] })));
        assert_eq!(tree(&bundle), tree(&whole), "{what}");
        for name in tree(&whole).iter().filter(|name| whole.join(name).is_file()) {
            let read = |dir: &Path| fs::read(dir.join(name)).expect("a readable file");
            assert!(read(&bundle) == read(&whole), "{what}: another {name}");
        }
        no_leftovers(scene.dir.path(), &what);
    }
}

/// Enough epochs that an interruption comes before the end.
const LONG: [&str; 4] =
    ["train.epochs=120", "train.patience=1000", "train.refit=true", "train.checkpoint_minutes=0.0005"];

#[test]
fn ctrl_c_keeps_a_checkpoint_to_go_on_from() {
    let scene = Scene::new();
    let expected = scene.undisturbed("whole", &LONG);
    let args = scene.train("run", &LONG, &[]);
    let child = start("train", &borrowed(&args));
    // Not before the handler stands: the first validation is well after that.
    wait_for_validation(&scene.path("run"));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("a child can be waited for");
    assert_eq!(output.status.code(), Some(130));
    no_leftovers(scene.dir.path(), "after SIGINT");
    succeed("train", &borrowed(&scene.train("run", &LONG, &["--resume"])));
    scene.check("run", &expected, "after SIGINT");
}

#[test]
fn a_time_limit_keeps_a_checkpoint_to_go_on_from() {
    let scene = Scene::new();
    let expected = scene.undisturbed("whole", &LONG);
    let limit = format!("{:.3}s", expected.duration.as_secs_f64() / 5.0);
    let done = run("train", &borrowed(&scene.train("run", &LONG, &["--max-time", &limit])));
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("time limit reached"), "{limit}: {}", done.out);
    no_leftovers(scene.dir.path(), "after the limit");
    // The limit is for each command, not for the whole.
    let done = run("train", &borrowed(&scene.train("run", &LONG, &["--resume", "--max-time", &limit])));
    assert_eq!(done.code, 0, "{}", done.err);
    succeed("train", &borrowed(&scene.train("run", &LONG, &["--resume", "--max-time", "10m"])));
    scene.check("run", &expected, "after two limits");
}
