//! `duet ingest` and `duet run` on Kafka topics: librdkafka's pretended brokers in this process, the real programs as others.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use duet_train::pipeline::{Outcome, Record, Step};
use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use crate::{
    stream::event_files,
    workshop::{Done, TINY, command, duet, fail, text},
};

const TOPIC: &str = "clicks";
const PARTITIONS: i32 = 16;

struct Cluster {
    brokers: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Cluster {
    fn new() -> Self {
        let brokers = MockCluster::new(2).expect("brokers");
        brokers.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers.bootstrap_servers()).set("enable.idempotence", "true");
        Self { producer: config.create().expect("a producer"), brokers }
    }

    /// Publishes every line of event files; returns how many.
    fn publish_files(&self, files: &[PathBuf]) -> u64 {
        let mut published = 0;
        for file in files {
            let content = fs::read(file).expect("an event file");
            for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(TOPIC).payload(line);
                let record = record.partition((published % PARTITIONS as u64) as i32);
                self.producer.send(record).map_err(|(error, _)| error).expect("the queue is long enough");
                published += 1;
            }
            self.producer.flush(Duration::from_secs(60)).expect("the brokers take it");
        }
        published
    }
}

fn records(work: &Path) -> Vec<Record> {
    let mut paths: Vec<PathBuf> = fs::read_dir(work.join("records"))
        .expect("records")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    paths.sort();
    paths.iter().map(|path| serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")).collect()
}

#[test]
fn each_tick_takes_in_what_the_topic_has() {
    let cluster = Cluster::new();
    let servers = cluster.brokers.bootstrap_servers();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (world, zone, work, key) = (path("world"), path("zone"), path("work"), path("key"));
    duet(&["world", "--out", text(&world), "--users", "300", "--artists", "100", "--days", "24", "--seed", "5"]);
    let reads = ["--kafka", &servers, "--topic", TOPIC];
    let (accounts, catalogue) = (world.join("accounts.csv"), world.join("catalogue"));
    let mut tick = vec!["run", "--once", "--raw", text(&zone), "--accounts", text(&accounts)];
    tick.extend(["--catalogue", text(&catalogue), "--user-key", text(&key), "--create-key", "--work", text(&work)]);
    tick.extend(["--set", "split.held_out=days:5", "--min-gain", "-1", "--max-drop", "1"]);
    tick.extend(TINY);
    let with_topic = [&tick[..], &reads].concat();
    let ingested = |record: &Record| {
        let step = record.steps.iter().find(|step| step.step == Step::Ingest).expect("a step");
        (step.figures["events"].as_u64(), step.figures["lag"].as_u64())
    };

    let files = event_files(&world);
    let (early, late) = files.split_at(files.len() - 6);
    let published = cluster.publish_files(early);
    duet(&with_topic);
    let first = records(&work).pop().expect("a record");
    assert_eq!((first.outcome, ingested(&first)), (Outcome::Published, (Some(published), Some(0))));
    let more = cluster.publish_files(late);
    duet(&with_topic);
    let second = records(&work).pop().expect("a record");
    assert_eq!((second.outcome, ingested(&second)), (Outcome::Published, (Some(more), Some(0))));
    let said = duet(&["inspect", text(&zone)]).replace(',', "");
    assert!(said.contains(&(published + more).to_string()), "{said}");

    // Brokers that are gone fail the tick; what was published stays.
    let current = fs::read_link(work.join("current")).expect("a link");
    let gone = ["--kafka", "127.0.0.1:1", "--topic", TOPIC, "--patience", "1s"];
    fail("duet", &[&tick[..], &gone].concat(), 1, &["failed, ingest", "127.0.0.1:1"]);
    assert_eq!(records(&work).pop().expect("a record").outcome, Outcome::Failed);
    assert_eq!(fs::read_link(work.join("current")).expect("a link"), current);
    // A topic without a zone to put it into.
    let world_tick = ["run", "--once", "--world", text(&world), "--user-key", text(&key), "--work", text(&work)];
    fail("duet", &[&world_tick[..], &reads].concat(), 1, &["--topic needs --raw"]);
}

#[test]
fn ingest_says_what_it_did_and_what_it_can_not() {
    let cluster = Cluster::new();
    let servers = cluster.brokers.bootstrap_servers();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (zone, config) = (dir.path().join("zone"), dir.path().join("kafka.properties"));
    let to = ["ingest", "--to", text(&zone)];
    let events = dir.path().join("events.jsonl");
    fs::write(&events, "{\"ts\":\"2025-03-03T10:00:00Z\"}\n".repeat(100)).expect("a file");
    cluster.publish_files(std::slice::from_ref(&events));
    let reads = ["--kafka", &servers, "--topic", TOPIC, "--until-empty"];
    fs::write(&config, "# what kcat takes too\n\nfetch.wait.max.ms = 20\nclient.id=test\n").expect("a file");
    let with_file = [&to[..], &reads, &["--kafka-config", text(&config), "--kafka-set", "client.id=other"]].concat();
    let said = duet(&with_file);
    assert!(said.contains("100 events") && said.contains("lag 0"), "{said}");
    // The environment names the brokers too.
    let done: Done = command("duet", &[&to[..], &["--topic", TOPIC, "--once"]].concat())
        .env("KAFKA_BOOTSTRAP_SERVERS", &servers)
        .output()
        .expect("duet")
        .into();
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("0 events") && done.out.contains("lag 0"), "{}", done.out);

    fs::write(&config, "client.id=test\nsasl.password\n").expect("a file");
    fail("duet", &with_file, 1, &["kafka.properties, row 2", "KEY=VALUE"]);
    let with = |more: &[&str], parts: &[&str]| fail("duet", &[&to[..], &reads, more].concat(), 1, parts);
    with(&["--kafka-set", "group.id=x"], &["group.id", "--group"]);
    let said = with(&["--kafka-set", "sasl.jaas.config=password=hunter2"], &["sasl.jaas.config"]);
    assert!(!said.contains("hunter2"), "{said}");
    with(&["--from", "stdin"], &["--topic"]);
    fail("duet", &[&to[..], &["--from", "kafka"]].concat(), 1, &["--from kafka needs --topic"]);
    fail("duet", &[&to[..], &reads, &["--stream", "x"]].concat(), 2, &["--topic", "--stream"]);
    #[cfg(not(feature = "kafka-tls"))]
    with(&["--kafka-set", "security.protocol=ssl"], &["security.protocol", "--features kafka-tls"]);
}

/// The number of events in what `duet ingest` says.
fn events_of(said: &str) -> u64 {
    let number = said.split(" events (").next().and_then(|before| before.rsplit(' ').next());
    number
        .and_then(|number| number.replace(',', "").parse().ok())
        .unwrap_or_else(|| panic!("no number of events: {said}"))
}

/// What is asked to stop commits what it took; the next run has the rest.
#[cfg(unix)]
#[test]
fn ingest_stops_when_it_is_asked_to() {
    use std::process::Stdio;
    let cluster = Cluster::new();
    let servers = cluster.brokers.bootstrap_servers();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let zone = dir.path().join("zone");
    let events = dir.path().join("events.jsonl");
    fs::write(&events, "{\"ts\":\"2025-03-03T10:00:00Z\"}\n".repeat(5_000)).expect("a file");
    cluster.publish_files(std::slice::from_ref(&events));
    let reads = ["ingest", "--to", text(&zone), "--kafka", &servers, "--topic", TOPIC];
    let child = command("duet", &reads).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("duet starts");
    std::thread::sleep(Duration::from_secs(3));
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status().expect("kill");
    assert!(killed.success());
    let done: Done = child.wait_with_output().expect("it ends").into();
    assert_eq!(done.code, 0, "{}", done.err);
    let rest = duet(&[&reads[..], &["--until-empty"]].concat());
    assert!(done.out.contains("lag ") && rest.contains("lag 0"), "{}{rest}", done.out);
    // How much was taken before it was asked depends on the machine.
    assert_eq!(events_of(&done.out) + events_of(&rest), 5_000, "{}{rest}", done.out);
}
