//! The help of every command, as files: a change of the command line shows in review.
//!
//! `DUET_UPDATE_SNAPSHOTS=1 cargo test --release --test tests help` writes them anew; with `--features kafka` it writes the two
//! pages that such a build has in another form.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::workshop::{Done, command, duet};

/// Every command of `duet`.
const COMMANDS: [&str; 29] = [
    "demo",
    "world",
    "import",
    "ingest",
    "prepare",
    "train",
    "evaluate",
    "compare",
    "ablate",
    "rerank",
    "embed",
    "promote",
    "rollback",
    "run",
    "serve",
    "monitor",
    "recommend",
    "precompute",
    "export-vectors",
    "similar",
    "simulate",
    "inspect",
    "bench",
    "load",
    "reproduce",
    "privacy",
    "forget",
    "completions",
    "man",
];

fn snapshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Pages that a build with Kafka has in another form, and the names of both forms' snapshots.
const WITH_KAFKA: [(&str, &str); 2] = [("duet-ingest", "duet-ingest-kafka"), ("duet-run", "duet-run-kafka")];

/// What `--help` prints on a terminal of 100 columns.
fn help(program: &str, args: &[&str]) -> String {
    let mut child = command(program, &[args, &["--help"]].concat());
    let done: Done = child.env("COLUMNS", "100").output().expect("the binary starts").into();
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{program} {args:?} --help");
    done.out
}

#[test]
fn help_is_as_reviewed() {
    let mut pages = vec![
        ("duet".to_owned(), help("duet", &[])),
        ("train".to_owned(), help("train", &[])),
        ("embed".to_owned(), help("embed", &[])),
    ];
    pages.extend(COMMANDS.map(|name| (format!("duet-{name}"), help("duet", &[name]))));

    let listed = pages[0].1.split("Commands:\n").nth(1).and_then(|text| text.split("\n\n").next());
    let listed: Vec<&str> = listed
        .expect("the help lists the commands")
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, COMMANDS, "the commands of duet");

    for (plain, with_kafka) in WITH_KAFKA {
        if cfg!(feature = "kafka") {
            pages.iter_mut().filter(|(name, _)| name == plain).for_each(|(name, _)| *name = with_kafka.to_owned());
        }
    }
    let dir = snapshots();
    if env::var_os("DUET_UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(&dir).expect("a directory for the snapshots");
        for (name, page) in &pages {
            fs::write(dir.join(format!("{name}.txt")), page).expect("a snapshot is written");
        }
    }
    let found: BTreeSet<String> = fs::read_dir(&dir)
        .expect("tests/snapshots")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let named = pages.iter().map(|(name, _)| name.as_str());
    let forms = WITH_KAFKA.iter().flat_map(|(plain, with_kafka)| [*plain, *with_kafka]);
    assert_eq!(found, named.chain(forms).map(|name| format!("{name}.txt")).collect(), "tests/snapshots");
    for (name, page) in &pages {
        let kept = fs::read_to_string(dir.join(format!("{name}.txt"))).expect("a snapshot");
        let differ = kept.lines().zip(page.lines()).position(|(kept, now)| kept != now);
        assert!(
            kept == *page,
            "{name} --help differs from tests/snapshots/{name}.txt, first at line {:?}; if that is meant, run with \
             DUET_UPDATE_SNAPSHOTS=1. Now:\n{page}",
            differ.map(|line| line + 1)
        );
    }
}

#[test]
fn wrong_usage_is_told_from_errors() {
    for (program, args) in [
        ("duet", &["no-such-command"][..]),
        ("duet", &[]),
        ("duet", &["train"]),
        ("duet", &["recommend", "--bundle", "x", "--users", "all", "--k", "0"]),
        ("duet", &["recommend", "--users", "all"]),
        ("duet", &["evaluate", "--run", "x", "--k", "ten"]),
        ("duet", &["world", "--out", "x", "--users", "many"]),
        ("duet", &["prepare", "--world", "x", "--events", "y", "--user-key", "k", "--out", "z"]),
        ("duet", &["import", "--preset", "movielens-9", "--from", "x", "--out", "y"]),
        ("duet", &["completions", "sh-of-old"]),
        ("duet", &["reproduce"]),
        ("duet", &["ablate"]),
        ("duet", &["ablate", "--data", "x", "--seeds", "0"]),
        ("duet", &["reproduce", "ml-2m"]),
        ("duet", &["ingest", "--to", "x", "--allow-gaps"]),
        ("duet", &["run", "--once", "--work", "x", "--group", "y"]),
        ("train", &["--data", "x", "--out", "y", "--resume", "--overwrite"]),
        ("train", &["--data", "x", "--out", "y", "--seed", "-1"]),
        ("embed", &["--run", "x"]),
    ] {
        let done: Done = command(program, args).output().expect("the binary starts").into();
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{program} {args:?}: {}", done.err);
        assert!(done.err.contains("--help"), "{program} {args:?}: {}", done.err);
    }
}

#[cfg(not(feature = "kafka"))]
#[test]
fn a_build_without_kafka_says_what_it_lacks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let zone = dir.path().join("zone");
    let zone = zone.to_str().expect("test paths are UTF-8");
    for args in [&["ingest", "--to", zone, "--topic", "t"][..], &["ingest", "--to", zone, "--kafka", "localhost:9092"]]
    {
        crate::workshop::fail("duet", args, 1, &["lacks Kafka", "--features kafka"]);
    }
    assert!(!dir.path().join("zone").exists());
}

#[test]
fn the_man_page_and_the_completions_know_every_command() {
    // roff writes a hyphen that is no break as `\-`.
    let page = duet(&["man"]).replace("\\-", "-");
    let dir = tempfile::tempdir().expect("a temporary directory");
    duet(&["man", "--out", dir.path().to_str().expect("test paths are UTF-8")]);
    let script = duet(&["completions", "bash"]);
    for name in COMMANDS {
        assert!(page.contains(name), "the man page lacks {name}");
        assert!(script.contains(name), "the completions lack {name}");
        let own = fs::read_to_string(dir.path().join(format!("duet-{name}.1"))).expect("a page of its own");
        assert!(own.starts_with(".ie") || own.contains(".TH"), "{own}");
    }
}
