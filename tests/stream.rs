//! `duet run` on a live stream: each tick takes in what came since the last one.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
};

use duet_train::pipeline::{Outcome, Record, Step};

use crate::workshop::{TINY, command, duet, fail, text};

/// A NATS server spoken to in its own protocol, which is lines of text.
struct Nats {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    place: String,
}

impl Nats {
    /// The server of `NATS_URL` or the local one; nothing, and a word about it, where none answers.
    fn connect() -> Option<Self> {
        let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
        let place = url.trim_start_matches("nats://").trim_end_matches('/').to_owned();
        let Ok(stream) = TcpStream::connect(&place) else {
            assert!(std::env::var("DUET_REQUIRE_SERVICES").as_deref() != Ok("1"), "no NATS at {place}");
            println!("skipped: no NATS at {place}");
            return None;
        };
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut nats = Self { stream, lines, place };
        nats.send(b"CONNECT {\"verbose\":false}\r\n");
        nats.flush();
        Some(nats)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    fn publish(&mut self, subject: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat());
    }

    /// Waits until the server has taken everything.
    fn flush(&mut self) {
        self.send(b"PING\r\n");
        let mut line = String::new();
        while line != "PONG\r\n" {
            line.clear();
            assert!(self.lines.read_line(&mut line).expect("the server answers") > 0, "the server hung up");
            assert!(!line.starts_with("-ERR"), "{line}");
        }
    }

    /// Publishes every line of the event files below a directory; returns how many.
    fn publish_files(&mut self, subject: &str, files: &[PathBuf]) -> u64 {
        let mut published = 0;
        for file in files {
            let content = fs::read(file).expect("an event file");
            for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                self.publish(subject, line);
                published += 1;
            }
            self.flush();
        }
        published
    }
}

/// A stream of its own, removed at the end.
struct Stream<'a> {
    nats: &'a mut Nats,
    name: String,
    subject: String,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let request = format!("$JS.API.STREAM.DELETE.{}", self.name);
        self.nats.publish(&request, b"");
        self.nats.flush();
    }
}

/// The event files of a world, in order.
pub(crate) fn event_files(world: &Path) -> Vec<PathBuf> {
    let mut open = vec![world.join("events")];
    let mut files = Vec::new();
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

#[test]
fn each_tick_takes_in_what_the_stream_has() {
    let Some(mut nats) = Nats::connect() else { return };
    let place = format!("nats://{}", nats.place);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name);
    let (world, zone, work, key) = (path("world"), path("zone"), path("work"), path("key"));
    duet(&["world", "--out", text(&world), "--users", "300", "--artists", "100", "--days", "24", "--seed", "5"]);
    let name = format!("duet-run-{}", std::process::id());
    let stream = Stream { nats: &mut nats, subject: format!("{name}.events"), name };
    let reads = ["--nats", &place, "--stream", &stream.name, "--subject", &stream.subject];
    duet(&[&["ingest", "--to", text(&zone), "--create-stream", "--until-empty"], &reads[..]].concat());

    let (accounts, catalogue) = (world.join("accounts.csv"), world.join("catalogue"));
    let mut tick = vec!["run", "--once", "--raw", text(&zone), "--accounts", text(&accounts)];
    tick.extend(["--catalogue", text(&catalogue), "--user-key", text(&key), "--create-key", "--work", text(&work)]);
    tick.extend(["--set", "split.held_out=days:5", "--min-gain", "-1", "--max-drop", "1"]);
    tick.extend(TINY);
    let with_stream = [&tick[..], &reads].concat();
    let record = |number: usize| -> Record {
        let mut paths: Vec<PathBuf> = fs::read_dir(work.join("records"))
            .expect("records")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
            .collect();
        paths.sort();
        assert_eq!(paths.len(), number);
        serde_json::from_slice(&fs::read(&paths[number - 1]).expect("a record")).expect("JSON")
    };
    let ingested = |record: &Record| {
        let step = record.steps.iter().find(|step| step.step == Step::Ingest).expect("a step");
        (step.figures["events"].as_u64(), step.figures["lag"].as_u64())
    };

    let files = event_files(&world);
    let (early, late) = files.split_at(files.len() - 6);
    let subject = stream.subject.clone();
    let published = stream.nats.publish_files(&subject, early);
    duet(&with_stream);
    let first = record(1);
    assert_eq!((first.outcome, ingested(&first)), (Outcome::Published, (Some(published), Some(0))));

    // What came since, and nothing twice.
    let more = stream.nats.publish_files(&subject, late);
    duet(&with_stream);
    let second = record(2);
    assert_eq!((second.outcome, ingested(&second)), (Outcome::Published, (Some(more), Some(0))));
    let said = duet(&["inspect", text(&zone)]);
    assert!(
        said.contains(&(published + more).to_string())
            || said.replace(',', "").contains(&(published + more).to_string()),
        "{said}"
    );

    // A server that is gone fails the tick; what was published stays.
    let current = fs::read_link(work.join("current")).expect("a link");
    let gone = ["--nats", "nats://127.0.0.1:1", "--stream", &stream.name, "--patience", "1s"];
    fail("duet", &[&tick[..], &gone].concat(), 1, &["failed, ingest", "127.0.0.1:1"]);
    assert_eq!(record(3).outcome, Outcome::Failed);
    assert_eq!(fs::read_link(work.join("current")).expect("a link"), current);

    // The address of a server in the environment is no reason to want a stream.
    let done = command("duet", &tick).env("NATS_URL", "nats://127.0.0.1:1").output().expect("duet");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // A stream without a zone to put it into.
    let world_tick = ["run", "--once", "--world", text(&world), "--user-key", text(&key), "--work", text(&work)];
    fail("duet", &[&world_tick[..], &reads].concat(), 1, &["--stream needs --raw"]);
}
