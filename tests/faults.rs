//! Bad input, damaged files, a full disk: an exit code, a message that names the culprit, and nothing half-written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::workshop::{Random, TINY, duet, fail, interactions, run, succeed, text, tree, workshop};

/// Fails as [`fail`] does and leaves everything under `dir` as it was.
fn fail_cleanly(dir: &Path, program: &str, args: &[&str], code: i32, parts: &[&str]) {
    let before = tree(dir);
    fail(program, args, code, parts);
    assert_eq!(tree(dir), before, "{program} {args:?}: files came or went");
}

fn new_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for name in tree(from) {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            fs::create_dir_all(&target).expect("a directory");
        } else {
            fs::create_dir_all(target.parent().expect("a file has a parent")).expect("a directory");
            fs::copy(&source, &target).expect("a copy");
        }
    }
}

/// Another byte at `at`.
fn flipped(bytes: &[u8], at: usize, bit: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    bytes
}

#[test]
fn bad_tables_are_named_with_their_row() {
    // Name, content (none: no such file), parts of the message.
    let interactions: [(&str, Option<&str>, &[&str]); 12] = [
        ("missing.csv", None, &["No such file"]),
        ("empty.csv", Some(""), &["the file is empty"]),
        ("header.csv", Some("user_id,item_id\n"), &["no interactions"]),
        (
            "truncated.csv",
            Some("user_id,item_id,timestamp\nu,i,1600000000\nu,j,1600000001\nu,"),
            &["row 4", "2 cells", "3 columns"],
        ),
        ("ragged.csv", Some("user_id,item_id,weight\nu,i,1\nu,j\nu,k,1\n"), &["row 3", "2 cells", "3 columns"]),
        ("long.csv", Some("user_id,item_id\nu,i\nu,j,k\n"), &["row 3", "3 cells", "2 columns"]),
        ("column.csv", Some("user_id,timestamp\nu,1600000000\n"), &["item", "user_id, timestamp"]),
        (
            "time.csv",
            Some("user_id,item_id,timestamp\nu,i,1600000000\nu,j,yesterday\n"),
            &["row 3", "timestamp", "yesterday"],
        ),
        ("infinite.csv", Some("user_id,item_id,weight\nu,i,1\nu,j,inf\n"), &["row 3", "weight inf", "finite"]),
        ("nan.csv", Some("user_id,item_id,weight\nu,i,NaN\n"), &["row 2", "weight", "finite"]),
        ("negative.csv", Some("user_id,item_id,weight\nu,i,-1\n"), &["row 2", "weight -1"]),
        ("text.parquet", Some("user_id,item_id\nu,i\n"), &["Parquet"]),
    ];
    let dir = new_dir();
    let out = dir.path().join("data");
    for (name, content, parts) in interactions {
        let file = dir.path().join(name);
        if let Some(content) = content {
            fs::write(&file, content).expect("a writable directory");
        }
        let args = ["import", "--interactions", text(&file), "--out", text(&out)];
        fail_cleanly(dir.path(), "duet", &args, 1, &[&[name], parts].concat());
        // The same bad data again, where a good dataset stands already: it stays.
        copy(&workshop().path("data"), &out);
        fail_cleanly(dir.path(), "duet", &[&args[..], &["--overwrite"]].concat(), 1, &[name]);
        duet(&["inspect", text(&out)]);
        fs::remove_dir_all(&out).expect("a removable dataset");
    }

    let good = dir.path().join("good.csv");
    fs::write(&good, "user_id,item_id\nu1,i1\nu2,i2\n").expect("a writable directory");
    let features: [(&str, &str, &str, &[&str]); 4] = [
        ("--users", "twice.csv", "user_id,age\nu1,3\nu2,4\nu1,5\n", &["row 4", "u1"]),
        ("--items", "itwice.csv", "item_id,genre\ni1,a\ni2,b\ni1,c\n", &["row 4", "i1"]),
        ("--users", "uragged.csv", "user_id,age\nu1,3\nu2\n", &["row 3", "1 cell", "2 columns"]),
        ("--users", "uempty.csv", "", &["the file is empty"]),
    ];
    for (flag, name, content, parts) in features {
        let file = dir.path().join(name);
        fs::write(&file, content).expect("a writable directory");
        let args = ["import", "--interactions", text(&good), flag, text(&file), "--infer-schema", "--out", text(&out)];
        fail_cleanly(dir.path(), "duet", &args, 1, &[&[name], parts].concat());
    }
    // Parquet, but not of interactions.
    let items = workshop().path("data").join("items.parquet");
    let args = ["import", "--interactions", text(&items), "--out", text(&out)];
    fail_cleanly(dir.path(), "duet", &args, 1, &["items.parquet", "user"]);
    let args = ["import", "--interactions", text(&good), "--item-column", "what", "--out", text(&out)];
    fail_cleanly(dir.path(), "duet", &args, 1, &["good.csv", "\"what\"", "user_id, item_id"]);
}

#[test]
fn wrong_names_and_values_are_answered_with_the_valid_ones() {
    let shop = workshop();
    let (data, trained, bundle) = (shop.path("data"), shop.path("run"), shop.path("bundle"));
    let (data, trained, bundle) = (text(&data), text(&trained), text(&bundle));
    let dir = new_dir();
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let (out, unknown, broken, typed) = (path("out"), path("unknown.toml"), path("broken.toml"), path("typed.toml"));
    fs::write(&unknown, "[train]\nepoch = 3\n").expect("a writable directory");
    fs::write(&broken, "[train\n").expect("a writable directory");
    fs::write(&typed, "[model]\ndim = \"wide\"\n").expect("a writable directory");
    let csv = path("good.csv");
    fs::write(&csv, "user_id,item_id\nu1,i1\nu2,i2\n").expect("a writable directory");

    let train = ["--data", data, "--out", &out, "--device", "cpu"];
    let cases: [(&[&str], i32, &[&str]); 12] = [
        (&["--set", "train.epoch=3"], 1, &["train.epoch", "valid:", "train.epochs"]),
        (&["--set", "trian.epochs=3"], 1, &["trian"]),
        (&["--set", "train.epochs=many"], 1, &["train.epochs", "integer", "many"]),
        (&["--set", "model.encoder=oracle"], 1, &["model.encoder", "oracle", "mean", "transformer"]),
        (&["--set", "model.dim=0"], 1, &["model.dim"]),
        (&["--set", "model.dropout=1.5"], 1, &["model.dropout"]),
        (&["--set", "model.dim"], 2, &["model.dim", "KEY=VALUE"]),
        (&["--config", &unknown], 1, &["unknown.toml", "train.epoch", "valid:", "train.epochs"]),
        (&["--config", &broken], 1, &["broken.toml", "line 1"]),
        (&["--config", &typed], 1, &["typed.toml", "model.dim"]),
        (&["--config", "no-such.toml"], 1, &["no-such.toml"]),
        (&["--max-time", "soon"], 2, &["--max-time", "soon"]),
    ];
    for (more, code, parts) in cases {
        fail_cleanly(dir.path(), "train", &[&train[..], more].concat(), code, parts);
    }

    let cases: [(&[&str], i32, &[&str]); 11] = [
        (&["train", "--data", data, "--out", &out, "--device", "abacus"], 2, &["abacus", "auto", "cpu", "wgpu"]),
        (
            &["evaluate", "--run", trained, "--out", &out, "--baselines", "magic"],
            2,
            &["magic", "popularity", "item-knn"],
        ),
        (
            &["import", "--interactions", &csv, "--out", &out, "--split", "sometimes"],
            2,
            &["sometimes", "leave-last-out"],
        ),
        (
            &["import", "--interactions", &csv, "--out", &out, "--split", "global-time:x"],
            2,
            &["global-time:x", "valid"],
        ),
        (&["import", "--interactions", &csv, "--out", &out, "--split", "random:1.5"], 2, &["random:1.5"]),
        (&["recommend", "--bundle", bundle, "--users", "all", "--filter", "colour=red"], 1, &["colour", "valid"]),
        (&["recommend", "--bundle", bundle, "--users", "all", "--filter", "colour"], 2, &["colour", "COLUMN=VALUE"]),
        (&["recommend", "--bundle", bundle, "--run", trained, "--users", "all"], 2, &["--bundle", "--run"]),
        (&["import", "--out", &out], 2, &["--interactions"]),
        (&["train", "--data", "no-such-place", "--out", &out], 1, &["no-such-place"]),
        (&["embed", "--run", "no-such-place", "--out", &out], 1, &["no-such-place"]),
    ];
    for (args, code, parts) in cases {
        fail_cleanly(dir.path(), "duet", args, code, parts);
    }
}

#[test]
fn directories_of_another_kind_are_told_apart() {
    let shop = workshop();
    let (data, trained, bundle) = (shop.path("data"), shop.path("run"), shop.path("bundle"));
    let (data, trained, bundle) = (text(&data), text(&trained), text(&bundle));
    let dir = new_dir();
    let out = dir.path().join("out");
    let out = text(&out);
    let cases: [(&[&str], &[&str]); 7] = [
        (&["recommend", "--bundle", data, "--users", "all"], &[data, "duet-dataset", "duet-bundle"]),
        (&["recommend", "--bundle", trained, "--users", "all"], &[trained, "duet-bundle"]),
        (&["recommend", "--run", data, "--users", "all"], &[data, "run"]),
        (&["similar", "--bundle", data, "--item", "x"], &[data, "duet-bundle"]),
        (&["embed", "--run", data, "--out", out], &[data, "run"]),
        (&["train", "--data", bundle, "--out", out], &[bundle, "duet-bundle", "duet-dataset"]),
        (&["train", "--data", trained, "--out", out], &[trained, "duet-dataset"]),
    ];
    for (args, parts) in cases {
        fail_cleanly(dir.path(), "duet", args, 1, parts);
    }
}

/// Settings that make the bundle hold an index file.
const INDEX: [&str; 6] = ["--set", "index.kind=ivf", "--set", "index.lists=8", "--set", "index.recall_floor=0.5"];

/// A dataset, a run on it and a bundle with an index file, for one test to damage.
struct Small {
    dir: TempDir,
}

impl Small {
    fn new() -> Self {
        let small = Self { dir: new_dir() };
        small.import("data", 5);
        let (data, trained, bundle) = (small.path("data"), small.path("run"), small.path("bundle"));
        let train = [&["--data", text(&data), "--out", text(&trained)], &TINY[..], &INDEX].concat();
        succeed("train", &train);
        succeed("embed", &["--run", text(&trained), "--out", text(&bundle), "--device", "cpu"]);
        small
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, name: &str, seed: u64) {
        let csv = self.path("interactions.csv");
        fs::write(&csv, interactions(200, seed)).expect("a writable directory");
        let data = self.path(name);
        duet(&["import", "--interactions", text(&csv), "--split", "global-time:0.8", "--out", text(&data)]);
    }
}

#[test]
fn a_run_goes_with_its_dataset_and_its_configuration_only() {
    let small = Small::new();
    small.import("other", 6);
    let dir = small.dir.path();
    let (data, other, trained) = (small.path("data"), small.path("other"), small.path("run"));
    let (data, other, trained) = (text(&data), text(&other), text(&trained));
    let out = small.path("out");
    let elsewhere = ["--dataset", other, "--device", "cpu"];
    for command in [
        &["embed", "--run", trained, "--out", text(&out)][..],
        &["evaluate", "--run", trained, "--out", text(&out)],
        &["recommend", "--run", trained, "--users", "all"],
    ] {
        fail_cleanly(dir, "duet", &[command, &elsewhere].concat(), 1, &[other, "fingerprint", trained]);
    }
    let with_other_data = [&["--data", other, "--out", trained, "--resume"], &TINY[..], &INDEX].concat();
    fail_cleanly(dir, "train", &with_other_data, 1, &[trained, "another dataset"]);
    let with_other_config =
        [&["--data", data, "--out", trained, "--resume"], &TINY[..], &["--set", "model.dim=8"]].concat();
    fail_cleanly(dir, "train", &with_other_config, 1, &[trained, "another configuration"]);
    let without_resume = [&["--data", data, "--out", trained], &TINY[..]].concat();
    fail_cleanly(dir, "train", &without_resume, 1, &[trained, "--resume", "--overwrite"]);
    let bundle = small.path("bundle");
    fail_cleanly(dir, "embed", &["--run", trained, "--out", text(&bundle)], 1, &[text(&bundle), "--overwrite"]);
}

/// `--overwrite` and `--out` replace what duet wrote; what somebody else put there is not touched.
#[test]
fn files_of_others_are_never_replaced() {
    let small = Small::new();
    let dir = small.dir.path();
    let (data, trained, bundle, thesis) =
        (small.path("data"), small.path("run"), small.path("bundle"), small.path("thesis"));
    fs::create_dir(&thesis).expect("a directory");
    fs::write(thesis.join("chapter.txt"), "years").expect("a writable directory");
    let (data, trained, bundle, thesis) = (text(&data), text(&trained), text(&bundle), text(&thesis));
    let embed = ["embed", "--run", trained, "--device", "cpu", "--overwrite", "--out"];
    let evaluate = ["evaluate", "--run", trained, "--device", "cpu", "--baselines", "none", "--out"];
    for command in [&embed[..], &evaluate] {
        fail_cleanly(dir, "duet", &[command, &[thesis]].concat(), 1, &[thesis, "not written by duet"]);
    }
    let retrain = [&["--data", data, "--out", trained, "--overwrite"], &TINY[..]].concat();
    for (place, command) in [(bundle, [&embed[..], &[bundle]].concat()), (trained, [&["train"], &retrain[..]].concat())]
    {
        let notes = Path::new(place).join("notes.txt");
        fs::write(&notes, "mine").expect("a writable directory");
        fail_cleanly(dir, "duet", &command, 1, &[place, "notes.txt"]);
        fs::remove_file(notes).expect("it is still there");
        succeed("duet", &command);
    }
}

#[test]
fn a_diverged_training_says_so() {
    let small = Small::new();
    let (data, out) = (small.path("data"), small.path("wild"));
    let wild = ["--set", "train.table_rate=1e30", "--set", "train.log_every=1000"];
    let args = [&["--data", text(&data), "--out", text(&out)], &TINY[..], &wild].concat();
    fail("train", &args, 1, &["training diverged", "train.table_rate"]);
}

/// One byte at a time all over a bundle, and every file cut in half.
#[test]
fn a_damaged_bundle_is_never_served() {
    let small = Small::new();
    let bundle = small.path("bundle");
    let inside = format!("{}/", text(&bundle));
    let recommend = ["recommend", "--bundle", text(&bundle), "--users", "all"];
    duet(&recommend);
    let files: Vec<String> = tree(&bundle).into_iter().filter(|name| bundle.join(name).is_file()).collect();
    assert!(files.iter().any(|name| name == "index.ivf"), "{files:?}");
    let mut random = Random(4);
    let each = 44_usize.div_ceil(files.len());
    for name in &files {
        let file = bundle.join(name);
        let good = fs::read(&file).expect("a readable file");
        assert!(!good.is_empty(), "{name} is empty");
        for number in 0..each {
            // One position in each stretch of the file.
            let stretch = good.len().div_ceil(each);
            let at = (number * stretch + random.below(stretch as u64) as usize).min(good.len() - 1);
            let bit = random.below(8);
            println!("{name}: bit {bit} of byte {at} of {}", good.len());
            fs::write(&file, flipped(&good, at, bit)).expect("a writable file");
            fail_cleanly(small.dir.path(), "duet", &recommend, 1, &[&inside]);
        }
        fs::write(&file, &good[..good.len() / 2]).expect("a writable file");
        fail_cleanly(small.dir.path(), "duet", &recommend, 1, &[&inside, name]);
        fail_cleanly(small.dir.path(), "duet", &["inspect", text(&bundle)], 1, &[&inside, name]);
        fs::remove_file(&file).expect("a removable file");
        fail_cleanly(small.dir.path(), "duet", &recommend, 1, &[text(&bundle), name]);
        fs::write(&file, &good).expect("a writable file");
    }
    duet(&recommend);
}

#[test]
fn damaged_runs_and_datasets_are_refused() {
    let small = Small::new();
    let (data, trained, out) = (small.path("data"), small.path("run"), small.path("out"));
    let (data, trained, out) = (text(&data), text(&trained), text(&out));
    let embed = ["embed", "--run", trained, "--out", out, "--device", "cpu"];
    let recommend = ["recommend", "--run", trained, "--users", "all", "--device", "cpu"];
    let evaluate = ["evaluate", "--run", trained, "--out", out, "--device", "cpu"];
    let train = ["train", "--data", data, "--out", out, "--device", "cpu"];
    let resume = [&["train", "--data", data, "--out", trained, "--resume"], &TINY[..], &INDEX].concat();
    let cases: [(&str, &[&[&str]]); 9] = [
        ("run/best/weights.safetensors", &[&embed, &recommend, &evaluate]),
        ("run/best/manifest.json", &[&embed, &recommend, &evaluate]),
        ("run/checkpoint/weights.safetensors", &[&resume]),
        ("run/checkpoint/manifest.json", &[&resume]),
        ("data/users.parquet", &[&embed, &recommend, &evaluate, &train]),
        ("data/items.parquet", &[&embed, &recommend, &evaluate, &train]),
        ("data/timeline.parquet", &[&embed, &recommend, &evaluate, &train]),
        ("data/test.parquet", &[&evaluate, &train]),
        ("data/manifest.json", &[&embed, &recommend, &evaluate, &train]),
    ];
    let mut random = Random(5);
    for (name, commands) in cases {
        let file = small.path(name);
        let good = fs::read(&file).expect("a readable file");
        for command in commands {
            for _ in 0..3 {
                let at = random.below(good.len() as u64) as usize;
                println!("{name}: byte {at}, {command:?}");
                fs::write(&file, flipped(&good, at, random.below(8))).expect("a writable file");
                let place = text(file.parent().expect("a file has a parent"));
                fail_cleanly(small.dir.path(), "duet", command, 1, &[place]);
            }
            fs::write(&file, &good[..good.len() / 2]).expect("a writable file");
            fail_cleanly(small.dir.path(), "duet", command, 1, &[text(&file)]);
        }
        fs::write(&file, &good).expect("a writable file");
    }
    // No checksum, but a grammar.
    for name in ["run/run.json", "run/config.toml"] {
        let file = small.path(name);
        let good = fs::read(&file).expect("a readable file");
        for bad in [&b""[..], b"{[", &good[..good.len() / 2], b"\xff\xfe"] {
            fs::write(&file, bad).expect("a writable file");
            for command in [&embed[..], &recommend, &evaluate, &resume] {
                if name.ends_with("config.toml") && (bad.is_empty() || bad.len() > 2) {
                    // Every setting has a default, so that a shorter file may still be a configuration.
                    let done = run("duet", command);
                    assert!(!done.err.contains("panicked"), "{name}: {}", done.err);
                    let _ = fs::remove_dir_all(out);
                } else {
                    fail_cleanly(small.dir.path(), "duet", command, 1, &[text(&file)]);
                }
            }
        }
        fs::write(&file, &good).expect("a writable file");
    }
    duet(&embed);
}

/// A configuration cut at the end of a line is still TOML.
#[test]
fn a_run_with_a_cut_configuration_is_refused() {
    let small = Small::new();
    let (trained, out) = (small.path("run"), small.path("out"));
    let file = trained.join("config.toml");
    let good = fs::read_to_string(&file).expect("a readable file");
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    for kept in 0..lines.len() {
        fs::write(&file, lines[..kept].concat()).expect("a writable file");
        let args = ["embed", "--run", text(&trained), "--out", text(&out), "--device", "cpu"];
        fail_cleanly(small.dir.path(), "duet", &args, 1, &[text(&trained)]);
    }
}

/// A file system of its own in memory, unmounted when dropped.
struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// None if this process may not mount.
    fn mount(size: &str) -> Option<Self> {
        let tmpfs = Self { dir: new_dir() };
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", text(tmpfs.dir.path())])
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(tmpfs)
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options, text(self.dir.path())]).status().expect("mount");
        assert!(done.success(), "can't remount");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).output();
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let shop = workshop();
    let Some(disk) = Tmpfs::mount("300k") else {
        println!("skipped: can't mount a tmpfs");
        return;
    };
    let place = text(disk.dir.path());
    let files = new_dir();
    let csv = files.path().join("interactions.csv");
    fs::write(&csv, interactions(6000, 7)).expect("a writable directory");
    let (world, key, trained, wide) =
        (shop.path("world"), shop.path("key"), shop.path("run"), files.path().join("wide"));
    let (csv, world, key, trained, wide) = (text(&csv), text(&world), text(&key), text(&trained), text(&wide));
    let data = shop.path("data");
    let big = ["--device", "cpu", "--set", "train.epochs=1", "--set", "model.dim=256", "--set", "model.hidden=256"];
    succeed("train", &[&["--data", text(&data), "--out", wide], &big[..]].concat());
    let out = disk.dir.path().join("out");
    let out = text(&out);
    let (lists, lists_csv) = (format!("{out}.parquet"), format!("{out}.csv"));
    let cases: [&[&str]; 6] = [
        &["world", "--out", out, "--users", "1500", "--artists", "400", "--days", "40"],
        &["import", "--interactions", csv, "--out", out],
        &["prepare", "--world", world, "--user-key", key, "--out", out],
        &["embed", "--run", wide, "--out", out, "--device", "cpu"],
        &["recommend", "--run", trained, "--device", "cpu", "--users", "all", "--k", "300", "--out", &lists],
        &["recommend", "--run", trained, "--device", "cpu", "--users", "all", "--k", "300", "--out", &lists_csv],
    ];
    for args in cases {
        fail_cleanly(disk.dir.path(), "duet", args, 1, &[place, "No space left"]);
    }
    // A run is more than one artifact: what is whole of it stays, and goes on once there is room.
    let train = [&["train", "--data", text(&data), "--out", out], &big[..]].concat();
    fail("duet", &train, 1, &[place, "No space left"]);
    let left = tree(disk.dir.path());
    assert!(!left.iter().any(|name| name.split('/').any(|part| part.starts_with('.'))), "{left:?}");
    assert!(!left.iter().any(|name| name == "out/best" || name == "out/checkpoint"), "{left:?}");
    disk.resize("64m");
    duet(&[&train[..], &["--resume"]].concat());
    let weights = |run: &str| fs::read(Path::new(run).join("best/weights.safetensors")).expect("best parameters");
    assert!(weights(out) == weights(wide), "other parameters after the disk was full");
}

/// Gives `command` one page of disk, then two, ... until it succeeds: whichever file is the one that no longer fits,
/// nothing stays.
fn fill(command: &[&str]) {
    for pages in 1.. {
        let Some(disk) = Tmpfs::mount(&format!("{}k", 4 * pages)) else {
            println!("skipped: can't mount a tmpfs");
            return;
        };
        let out = disk.dir.path().join("out");
        let done = run("duet", &[command, &["--out", text(&out)]].concat());
        if done.code == 0 {
            assert!(pages > 1, "{command:?}: a page is enough");
            return;
        }
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.err.contains(text(disk.dir.path())) && done.err.contains("No space left"), "{}", done.err);
        assert_eq!(tree(disk.dir.path()), Vec::<String>::new(), "{pages} pages: {}", done.err);
    }
}

#[test]
fn an_import_onto_a_disk_that_fills_at_any_file_leaves_nothing_behind() {
    let dir = new_dir();
    let csv = dir.path().join("interactions.csv");
    fs::write(&csv, interactions(200, 5)).expect("a writable directory");
    fill(&["import", "--interactions", text(&csv), "--split", "global-time:0.8"]);
}

#[test]
fn an_embedding_onto_a_disk_that_fills_at_any_file_leaves_nothing_behind() {
    let small = Small::new();
    fill(&["embed", "--run", text(&small.path("run")), "--device", "cpu"]);
}
