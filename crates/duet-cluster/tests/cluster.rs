//! A scheduler and executors on loopback, as processes: the dataset they help to make is the embedded engine's, byte for
//! byte; and what is wrong is said, not waited for.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use duet_cluster::ClusterEngine;
use duet_core::artifact::IfExists;
use duet_data::{
    accounts::UserKey,
    prepare::{DayRange, EventSource, HeldOut, PrepareOptions, PrepareSummary, prepare},
    quality::Thresholds,
    raw::{FilesOptions, Granularity, RawZone, ZoneOptions, ingest_files},
    store::Location,
    world::{self, WorldOptions},
};

const KEY: &str = "0123456789abcdef";
/// More than any start or refusal takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(arguments: &[&str], log: &Path) -> Process {
    let log = std::fs::File::create(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_duet-cluster"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Process(command.spawn().unwrap())
}

/// A scheduler on loopback, its executors, and a world to prepare.
struct Cluster {
    executors: Vec<Process>,
    _scheduler: Process,
    port: u16,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let scheduler = start(&["scheduler", "--listen", &listen], &dir.path().join("scheduler.log"));
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&listen).is_err() {
            assert!(Instant::now() < deadline, "the scheduler listens");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { executors: Vec::new(), _scheduler: scheduler, port, dir }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn engine(&self) -> ClusterEngine {
        ClusterEngine::parse(&format!("ballista://127.0.0.1:{}", self.port)).unwrap()
    }

    /// Starts an executor and waits for the scheduler to know it.
    fn add_executor(&mut self, key: &str) {
        let number = self.executors.len();
        let (key_file, log) = (self.place(&format!("key-{number}")), self.place(&format!("executor-{number}.log")));
        std::fs::write(&key_file, key).unwrap();
        let work_dir = self.place(&format!("work-{number}"));
        let process = start(
            &[
                "executor",
                "--scheduler",
                &format!("127.0.0.1:{}", self.port),
                "--listen",
                &format!("127.0.0.1:{}", free_port()),
                "--cores",
                "2",
                "--memory-mib",
                "256",
                "--user-key",
                key_file.to_str().unwrap(),
                "--work-dir",
                work_dir.to_str().unwrap(),
            ],
            &log,
        );
        self.executors.push(process);
        let deadline = Instant::now() + PATIENCE;
        while !self.ready().contains(&format!("ready: {} executors", self.executors.len())) {
            assert!(Instant::now() < deadline, "executor {number}: {}", std::fs::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the scheduler says of its executors.
    fn ready(&self) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A world of so many users in a raw zone, with several parts a day.
    fn options(&self, users: u64) -> PrepareOptions {
        let (world, zone) = (self.place("world"), self.place("zone"));
        if !world.exists() {
            let options =
                WorldOptions { users, artists: 60, days: 9, truth_days: 3, seed: 7, ..WorldOptions::default() };
            world::generate(&options, &world, IfExists::Fail).unwrap();
            let location = Location::parse(zone.to_str().unwrap()).unwrap();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let form = ZoneOptions { granularity: Granularity::Hour, ..ZoneOptions::default() };
                let mut zone = RawZone::create_or_open(location, form).await.unwrap();
                ingest_files(&world.join("events"), &mut zone, &FilesOptions::default()).await.unwrap();
            });
        }
        let mut options = PrepareOptions::for_world(&world, UserKey::new(KEY.as_bytes()).unwrap());
        options.events = EventSource::Zone(Location::parse(zone.to_str().unwrap()).unwrap());
        options.held_out = HeldOut::LastDays(3);
        options.thresholds = Thresholds::none();
        options.memory_bytes = 64 << 20;
        options
    }

    /// The same by the cluster.
    fn remote(&self, options: &PrepareOptions) -> PrepareOptions {
        PrepareOptions { engine: Arc::new(self.engine()), ..options.clone() }
    }
}

/// Every file below a folder, by relative path.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Whether there is a file below a folder that others write to.
fn has_files(root: &Path) -> bool {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| if path.is_dir() { has_files(&path) } else { path.is_file() })
}

/// Insists on the same files with the same bytes.
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    assert!(one.keys().filter(|name| name.starts_with("days")).count() > 2);
    for (name, bytes) in &one {
        assert!(*bytes == other[name], "{} differs", name.display());
    }
}

fn refused(options: &PrepareOptions, out: &Path, parts: &[&str]) {
    let error = prepare(options, out, IfExists::Fail).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    assert!(!out.exists(), "nothing is left behind");
}

#[test]
fn the_cluster_makes_the_embedded_engines_dataset() {
    let mut cluster = Cluster::start();
    let embedded = cluster.options(300);
    let remote = cluster.remote(&embedded);
    refused(&remote, &cluster.place("none"), &["no executors", "duet-cluster executor --scheduler 127.0.0.1"]);
    cluster.add_executor(KEY);
    cluster.add_executor(KEY);
    let expected: PrepareSummary = prepare(&embedded, &cluster.place("embedded"), IfExists::Fail).unwrap();
    let summary = prepare(&remote, &cluster.place("remote"), IfExists::Fail).unwrap();
    assert!(expected.books.kept > 1_000 && expected.books.kept == summary.books.kept, "{}", expected.books);
    assert_same(&cluster.place("embedded"), &cluster.place("remote"));
    // Both executors took part.
    for number in 0..2 {
        assert!(has_files(&cluster.place(&format!("work-{number}"))), "executor {number} had no task");
    }
    // Two days alone are cut into parts, which are sorted apart and merged.
    let first = WorldOptions::default().start;
    let days = DayRange { from: first.succ_opt(), to: first.succ_opt().and_then(|day| day.succ_opt()) };
    let two = PrepareOptions { days, held_out: HeldOut::LastDays(1), ..embedded.clone() };
    prepare(&two, &cluster.place("embedded-two"), IfExists::Fail).unwrap();
    let summary = prepare(&cluster.remote(&two), &cluster.place("remote-two"), IfExists::Fail).unwrap();
    assert_eq!(summary.days_read, 3, "and the lines without a readable time");
    assert_same(&cluster.place("embedded-two"), &cluster.place("remote-two"));
    // Days made by one engine are days of the other.
    let again = PrepareOptions { update: true, ..remote };
    let summary = prepare(&again, &cluster.place("embedded"), IfExists::Fail).unwrap();
    assert_eq!(summary.days_read, 0);
}

#[test]
fn another_key_is_refused_before_a_line_is_parsed() {
    let mut cluster = Cluster::start();
    cluster.add_executor("another key, as long");
    let options = cluster.remote(&cluster.options(300));
    let started = Instant::now();
    refused(&options, &cluster.place("out"), &["another user key"]);
    assert!(started.elapsed() < PATIENCE);
    // Neither key is in anything that was written.
    for (name, bytes) in files(cluster.dir.path()) {
        let is_key = name.to_str().unwrap().starts_with("key-");
        let holds = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
        assert!(is_key || !holds, "{} holds the key", name.display());
    }
}

#[test]
fn where_nobody_listens_it_says_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("ballista://127.0.0.1:{}", free_port());
    let zone = dir.path().join("zone");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let location = Location::parse(zone.to_str().unwrap()).unwrap();
    runtime.block_on(RawZone::create_or_open(location.clone(), ZoneOptions::default())).unwrap();
    let mut options = PrepareOptions::for_world(dir.path(), UserKey::new(KEY.as_bytes()).unwrap());
    options.engine = Arc::new(ClusterEngine::parse(&address).unwrap());
    let files = "a cluster reads a raw zone that every executor reaches, not files of this machine";
    refused(&options, &dir.path().join("out"), &[files, "duet ingest --from files --files"]);
    options.events = EventSource::Zone(location);
    refused(&options, &dir.path().join("out"), &[&address, "no scheduler answers", "duet-cluster scheduler --listen"]);
}

#[test]
fn an_executor_that_dies_is_replaced_by_the_others() {
    let mut cluster = Cluster::start();
    let embedded = cluster.options(3_000);
    let remote = cluster.remote(&embedded);
    cluster.add_executor(KEY);
    cluster.add_executor(KEY);
    let out = cluster.place("remote");
    let preparing = std::thread::spawn({
        let out = out.clone();
        move || prepare(&remote, &out, IfExists::Fail).map(|summary| summary.books.kept)
    });
    // Killed as soon as it holds rows: what it held is lost with it.
    let (work, deadline) = (cluster.place("work-1"), Instant::now() + PATIENCE);
    while !has_files(&work) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(cluster.executors.pop());
    assert!(!preparing.is_finished(), "killed in the middle of it");
    let kept = preparing.join().unwrap().unwrap();
    let expected = prepare(&embedded, &cluster.place("embedded"), IfExists::Fail).unwrap();
    assert_eq!(kept, expected.books.kept);
    assert_same(&cluster.place("embedded"), &out);
}
