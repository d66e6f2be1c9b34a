//! The raw zone: what goes in comes out, byte for byte and once; damage and rivals are found.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Int64Type, UInt64Type},
};
use duet_data::{
    raw::{Compression, FilesOptions, Granularity, Part, RawZone, ZoneOptions, event_hour, ingest_files},
    store::{Location, Mode, PATIENCE, Put},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{azurite::Container, s3::S3Server};

/// An event of a zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stored {
    pub(crate) source: String,
    pub(crate) sequence: u64,
    pub(crate) received_ms: Option<i64>,
    pub(crate) payload: Vec<u8>,
}

/// Every event of a part, in its order.
pub(crate) async fn read_part(zone: &RawZone, part: &Part) -> Vec<Stored> {
    let bytes = zone.read_part(part).await.unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    let mut events = Vec::new();
    for batch in reader {
        let batch: RecordBatch = batch.unwrap();
        let types: Vec<DataType> = batch.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [DataType::Utf8, DataType::UInt64, DataType::Int64, DataType::Binary]);
        let (source, payload) = (batch.column(0).as_string::<i32>(), batch.column(3).as_binary::<i32>());
        let sequence = batch.column(1).as_primitive::<UInt64Type>();
        let received = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            events.push(Stored {
                source: source.value(row).to_owned(),
                sequence: sequence.value(row),
                received_ms: received.is_valid(row).then(|| received.value(row)),
                payload: payload.value(row).to_vec(),
            });
        }
    }
    events
}

/// Every event of the zone. Checks what each part says about itself, and that no object is there that no entry lists.
pub(crate) async fn read_zone(zone: &RawZone) -> Vec<Stored> {
    zone.verify().await.unwrap();
    let objects = zone.location().list("").await.unwrap();
    let parts = objects.iter().filter(|(name, _)| !name.starts_with("_log/"));
    let listed: Vec<&str> = zone.parts().iter().map(|part| part.path.as_str()).collect();
    for (name, _) in parts {
        assert!(listed.contains(&name.as_str()), "orphan: {name}");
    }
    let mut all = Vec::new();
    for part in zone.parts() {
        let events = read_part(zone, part).await;
        assert_eq!(events.len() as u64, part.rows);
        assert_eq!(events.iter().map(|event| event.payload.len() as u64).sum::<u64>(), part.payload_bytes);
        assert!(events.is_sorted_by_key(|event| (event.source.clone(), event.sequence)), "{}", part.path);
        for event in &events {
            let hour = event_hour(&event.payload);
            let day = part.date.map(|date| i64::from(date.to_epoch_days()));
            assert_eq!(hour.map(|hour| hour.div_euclid(24)), day, "{}", part.path);
            if let (Some(hour), Some(of_part)) = (hour, part.hour) {
                assert_eq!(hour.rem_euclid(24), i64::from(of_part), "{}", part.path);
            }
        }
        all.extend(events);
    }
    all
}

/// Event files with everything that files may have; what must come of them, in order.
fn write_files(root: &Path) -> Vec<Stored> {
    let mut expected = Vec::new();
    fs::create_dir_all(root.join("date=2025-03-03")).unwrap();
    fs::write(root.join("notes.txt"), "no events").unwrap();
    fs::write(root.join(".hidden.jsonl"), "no events").unwrap();
    for (name, lines) in [("date=2025-03-03/b.jsonl", 3_000), ("a.ndjson", 500), ("date=2025-03-03.json", 40)] {
        let mut bytes: Vec<u8> = Vec::new();
        for line in 0..lines {
            let payload: Vec<u8> = match line % 97 {
                13 => Vec::new(),
                29 => b"\xff\xfe\x00 not JSON at all".to_vec(),
                31 => br#"{"event_id":"x","ts":"never"}"#.to_vec(),
                _ => {
                    let at = format!("2025-03-{:02}T{:02}:15:00+02:00", 3 + line % 3, (line / 7) % 24);
                    format!(r#"{{"event_id":"{name}-{line}","ts":"{at}","text":"{}"}}"#, "å".repeat(line % 60))
                        .into_bytes()
                }
            };
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(if line % 5 == 0 { b"\r\n" } else { b"\n" });
            expected.push(Stored { source: name.to_owned(), sequence: line as u64 + 1, received_ms: None, payload });
        }
        // A last line without an end.
        let payload = br#"{"ts":"2025-03-03T00:00:00Z"}"#.to_vec();
        bytes.extend_from_slice(&payload);
        expected.push(Stored { source: name.to_owned(), sequence: lines as u64 + 1, received_ms: None, payload });
        fs::write(root.join(name), bytes).unwrap();
    }
    expected.sort();
    expected
}

async fn ingested(files: &Path, to: &Location, options: ZoneOptions, batch_bytes: usize) -> RawZone {
    let mut zone = RawZone::create_or_open(to.clone(), options).await.unwrap();
    let options = FilesOptions { batch_bytes, ..FilesOptions::default() };
    ingest_files(files, &mut zone, &options).await.unwrap();
    zone
}

fn zone_at(path: PathBuf) -> Location {
    Location::parse(path.to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn files_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("events");
    let expected = write_files(&files);
    let mut number = 0;
    for granularity in [Granularity::Hour, Granularity::Day] {
        for compression in [Compression::Zstd, Compression::None] {
            for batch_bytes in [1, 64 << 20] {
                number += 1;
                let to = zone_at(dir.path().join(format!("zone {number}")));
                let options = ZoneOptions { granularity, compression, durable: number % 2 == 0 };
                let zone = ingested(&files, &to, options, batch_bytes).await;
                let mut events = read_zone(&zone).await;
                events.sort();
                assert_eq!(events, expected);
                // Whoever opens it anew sees the same.
                let again = RawZone::open(to.clone()).await.unwrap();
                assert_eq!(again.parts(), zone.parts());
                assert!(again.parts().iter().any(|part| part.path.starts_with("date=unknown/") && part.date.is_none()));
                assert!(again.parts().iter().all(|part| part.hour.is_some() == part.path.contains("/hour=")));
            }
        }
    }
}

#[tokio::test]
async fn files_that_grew_are_caught_up_with_and_others_of_their_name_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (files, to) = (dir.path().join("a.jsonl"), zone_at(dir.path().join("zone")));
    fs::write(&files, "{\"first\":1}\r\n{\"second\":2}\n").unwrap();
    let zone = ingested(&files, &to, ZoneOptions::default(), 1 << 20).await;
    assert_eq!(zone.parts().len(), 1);
    fs::write(&files, "{\"first\":1}\r\n{\"second\":2}\n{\"third\":3}\n").unwrap();
    let mut zone = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    let summary = ingest_files(&files, &mut zone, &FilesOptions::default()).await.unwrap();
    assert_eq!((summary.events, summary.known, summary.batches), (1, 2, 1));
    let events: Vec<(u64, Vec<u8>)> =
        read_zone(&zone).await.into_iter().map(|event| (event.sequence, event.payload)).collect();
    let lines = [&b"{\"first\":1}"[..], b"{\"second\":2}", b"{\"third\":3}"];
    assert_eq!(events, lines.iter().zip(1..).map(|(line, at)| (at, line.to_vec())).collect::<Vec<_>>());
    let summary = ingest_files(&files, &mut zone, &FilesOptions::default()).await.unwrap();
    assert_eq!((summary.events, summary.known, summary.parts), (0, 3, 0));

    fs::write(&files, "{\"other\":1}\n").unwrap();
    let error = ingest_files(&files, &mut zone, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("a.jsonl") && error.contains("another file of this name"), "{error}");
    fs::write(&files, "x".repeat(17 << 20)).unwrap();
    let error = ingest_files(&files, &mut zone, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("a.jsonl, row 1: a line of more than 16 MiB"), "{error}");
}

#[tokio::test]
async fn damage_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (files, place) = (dir.path().join("events"), dir.path().join("zone"));
    write_files(&files);
    let to = zone_at(place.clone());
    let zone = ingested(&files, &to, ZoneOptions::default(), 50_000).await;
    assert!(zone.parts().len() > 10);
    let opened = |to: Location| async move {
        let zone = RawZone::open(to).await?;
        zone.verify().await?;
        for part in zone.parts() {
            zone.read_part(part).await?;
        }
        Ok::<_, duet_core::Error>(zone)
    };
    let entry = place.join("_log/00000000000000000001.json");
    let part = place.join(&zone.parts()[3].path);
    for file in [&entry, &part] {
        let good = fs::read(file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [&flipped[..], &good[..good.len() / 2], b""] {
            fs::write(file, bad).unwrap();
            let error = opened(to.clone()).await.unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        fs::remove_file(file).unwrap();
        let error = opened(to.clone()).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("missing"), "{error}");
        fs::write(file, good).unwrap();
        opened(to.clone()).await.unwrap();
    }
    // A list of parts cut short is not taken for a shorter list.
    let text = fs::read_to_string(&entry).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["parts"].as_array_mut().unwrap().pop();
    fs::write(&entry, value.to_string()).unwrap();
    assert!(opened(to.clone()).await.unwrap_err().to_string().contains("damaged: CRC-32"));
    fs::write(&entry, text).unwrap();

    let error = RawZone::open(zone_at(files)).await.unwrap_err().to_string();
    assert!(error.contains("not a raw zone"), "{error}");
    let error = RawZone::open(zone_at(dir.path().join("nowhere"))).await.unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("not a raw zone"), "{error}");
}

#[tokio::test]
async fn of_two_writers_one_fails_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(&dir.path().join("s3")).await;
    for to in [zone_at(dir.path().join("zone")), server.location("some/zone", PATIENCE)] {
        let [one, two] = ["one", "two"].map(|name| {
            let path = dir.path().join(format!("{name}.jsonl"));
            fs::write(&path, format!("{{\"of\":\"{name}\",\"ts\":\"2025-03-03T00:00:00Z\"}}\n")).unwrap();
            path
        });
        let options = ZoneOptions::default();
        let mut first = RawZone::create_or_open(to.clone(), options).await.unwrap();
        let mut second = RawZone::create_or_open(to.clone(), options).await.unwrap();
        ingest_files(&one, &mut first, &FilesOptions::default()).await.unwrap();
        let error = ingest_files(&two, &mut second, &FilesOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains("another process writes to this zone"), "{error}");
        // The loser took its part back; after another look it may go on.
        assert_eq!(read_zone(&RawZone::open(to.clone()).await.unwrap()).await.len(), 1);
        let mut second = RawZone::create_or_open(to.clone(), options).await.unwrap();
        ingest_files(&two, &mut second, &FilesOptions::default()).await.unwrap();
        assert_eq!(read_zone(&RawZone::open(to.clone()).await.unwrap()).await.len(), 2);
    }
}

#[tokio::test]
async fn what_a_killed_writer_left_goes_and_a_living_one_can_no_longer_commit() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("zone");
    let to = zone_at(place.clone());
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{\"ts\":\"2025-03-03T00:00:00Z\"}\n").unwrap();
    let zone = ingested(&file, &to, ZoneOptions::default(), 1).await;
    // A writer that has its parts there, and is about to commit.
    let mut living = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    assert_eq!(living.remove_orphans().await.unwrap(), 0);
    let hour = place.join("date=2025-03-03/hour=01");
    fs::create_dir_all(&hour).unwrap();
    fs::write(hour.join("00000000000000000002-0badcafe-00.parquet"), "half").unwrap();
    fs::write(hour.join(".00000000000000000002-0badcafe-01.parquet.7.partial"), "half").unwrap();
    fs::write(place.join("_log/.00000000000000000002.json.7.partial"), "half").unwrap();
    fs::write(hour.join("notes.txt"), "somebody's own").unwrap();
    let mut next = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    assert_eq!(next.remove_orphans().await.unwrap(), 3);
    assert_eq!(fs::read_dir(&hour).unwrap().count(), 1, "only what is not ours is left");
    fs::remove_file(hour.join("notes.txt")).unwrap();
    fs::write(&file, "{\"ts\":\"2025-03-03T00:00:00Z\"}\n{}\n").unwrap();
    let error = ingest_files(&file, &mut living, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("another process writes"), "{error}");
    ingest_files(&file, &mut next, &FilesOptions::default()).await.unwrap();
    assert_eq!(read_zone(&RawZone::open(to).await.unwrap()).await.len(), 2);
    assert_eq!(zone.parts().len(), 1);
}

#[tokio::test]
async fn a_checkpoint_stands_for_the_entries_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (place, files) = (dir.path().join("zone"), dir.path().join("events"));
    fs::create_dir_all(&files).unwrap();
    let to = zone_at(place.clone());
    let options = ZoneOptions { durable: false, ..ZoneOptions::default() };
    let mut zone = RawZone::create_or_open(to.clone(), options).await.unwrap();
    // Two of these files fill a batch of one byte each: a batch a file.
    for number in 0..300 {
        fs::write(files.join(format!("{number:03}.jsonl")), format!("{{\"n\":{number}}}\n")).unwrap();
    }
    let one = FilesOptions { batch_bytes: 1, ..FilesOptions::default() };
    ingest_files(&files, &mut zone, &one).await.unwrap();
    assert_eq!(zone.parts().len(), 300);
    assert!(place.join("_log/00000000000000000256.checkpoint.json").is_file());
    for batch in 0..=256 {
        fs::remove_file(place.join(format!("_log/{batch:020}.json"))).unwrap();
    }
    let mut again = RawZone::create_or_open(to.clone(), options).await.unwrap();
    assert_eq!(again.parts(), zone.parts());
    let summary = ingest_files(&files, &mut again, &one).await.unwrap();
    assert_eq!((summary.events, summary.known), (0, 300));
    fs::write(place.join("_log/00000000000000000256.checkpoint.json"), "{").unwrap();
    assert!(RawZone::open(to).await.unwrap_err().to_string().contains("00000000000000000256.checkpoint.json"));
}

#[tokio::test]
async fn a_zone_lives_in_a_bucket_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(&dir.path().join("s3")).await;
    let files = dir.path().join("events");
    let expected = write_files(&files);
    let to = server.location("a/zone", PATIENCE);
    let zone = ingested(&files, &to, ZoneOptions::default(), 60_000).await;
    let mut events = read_zone(&RawZone::open(to.clone()).await.unwrap()).await;
    events.sort();
    assert_eq!(events, expected);
    // An orphan of a killed run.
    let orphan = dir.path().join("s3").join(crate::s3::BUCKET).join("a/zone/date=2025-03-03/hour=07");
    fs::create_dir_all(&orphan).unwrap();
    fs::write(orphan.join("00000000000000000001-0badcafe-00.parquet"), "half").unwrap();
    let mut zone = { RawZone::create_or_open(zone.location().clone(), ZoneOptions::default()).await.unwrap() };
    assert_eq!(zone.remove_orphans().await.unwrap(), 1);
    read_zone(&zone).await;
    let error = RawZone::open(server.location("nothing/here", PATIENCE)).await.unwrap_err().to_string();
    assert!(error.contains("s3://zone-bucket/nothing/here: not a raw zone"), "{error}");
}

#[tokio::test]
async fn a_zone_lives_in_azure_as_well() {
    let Some(container) = Container::create().await else { return };
    check_zone_in(&container.location("a/zone", PATIENCE), container.location("nothing/here", PATIENCE)).await;
    container.remove().await;
}

#[tokio::test]
async fn a_zone_lives_in_googles_store_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).await;
    let to = server.google_location("a/zone", PATIENCE);
    assert_eq!(to.to_string(), "gs://zone-bucket/a/zone");
    check_zone_in(&to, server.google_location("nothing/here", PATIENCE)).await;
}

/// Ingests to an empty place of a cloud; `nothing` is another one.
async fn check_zone_in(to: &Location, nothing: Location) {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("events");
    let expected = write_files(&files);
    ingested(&files, to, ZoneOptions::default(), 60_000).await;
    let mut events = read_zone(&RawZone::open(to.clone()).await.unwrap()).await;
    events.sort();
    assert_eq!(events, expected);

    // Of two writers the later one is told, for a name is given once.
    let options = ZoneOptions::default();
    let mut first = RawZone::create_or_open(to.clone(), options).await.unwrap();
    let mut second = RawZone::create_or_open(to.clone(), options).await.unwrap();
    let [one, two] = ["one", "two"].map(|name| {
        let path = dir.path().join(format!("{name}.jsonl"));
        fs::write(&path, format!("{{\"of\":\"{name}\",\"ts\":\"2025-03-03T00:00:00Z\"}}\n")).unwrap();
        path
    });
    ingest_files(&one, &mut first, &FilesOptions::default()).await.unwrap();
    let error = ingest_files(&two, &mut second, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("another process writes to this zone"), "{error}");
    assert_eq!(read_zone(&RawZone::open(to.clone()).await.unwrap()).await.len(), expected.len() + 1);

    // An orphan of a killed run goes.
    let orphan = "date=2025-03-03/hour=07/00000000000000000001-0badcafe-00.parquet";
    assert_eq!(to.put(orphan, "half".into(), Mode::Create, false).await.unwrap(), Put::Done);
    assert_eq!(to.put(orphan, "other".into(), Mode::Create, false).await.unwrap(), Put::Taken);
    let mut zone = RawZone::create_or_open(to.clone(), options).await.unwrap();
    assert_eq!(zone.remove_orphans().await.unwrap(), 1);
    read_zone(&zone).await;
    assert!(to.get(orphan).await.unwrap().is_none());
    let error = RawZone::open(nothing).await.unwrap_err().to_string();
    assert!(error.contains("not a raw zone"), "{error}");
}

#[tokio::test]
async fn a_store_that_goes_away_is_waited_for_and_then_an_error_and_the_next_run_completes() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(&dir.path().join("s3")).await;
    let files = dir.path().join("events");
    let expected = write_files(&files);
    let to = server.location("zone", Duration::from_millis(1_500));
    let one = FilesOptions { batch_bytes: 1, ..FilesOptions::default() };
    let mut zone = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    server.set_down(true);
    let started = Instant::now();
    let error = ingest_files(&files, &mut zone, &one).await.unwrap_err().to_string();
    assert!(error.contains("s3://zone-bucket/zone"), "{error}");
    assert!((1.0..20.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
    // Down for shorter than the patience: nobody notices.
    let patient = server.location("zone", Duration::from_secs(20));
    let (back, down) = (Duration::from_millis(800), &server);
    let mut zone = {
        let opened = RawZone::create_or_open(patient, ZoneOptions::default());
        let (opened, ()) = tokio::join!(opened, async {
            tokio::time::sleep(back).await;
            down.set_down(false);
        });
        opened.unwrap()
    };
    ingest_files(&files, &mut zone, &one).await.unwrap();
    let mut events = read_zone(&RawZone::open(to).await.unwrap()).await;
    events.sort();
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_directory_that_goes_away_is_an_error_and_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("zone");
    let to = zone_at(place.clone()).with_patience(Duration::from_millis(300));
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{}\n").unwrap();
    let mut zone = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    fs::rename(&place, dir.path().join("elsewhere")).unwrap();
    let error = ingest_files(&file, &mut zone, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains(place.to_str().unwrap()) && error.contains("tried"), "{error}");
    assert!(!place.exists());
    fs::rename(dir.path().join("elsewhere"), &place).unwrap();
    let mut zone = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await.unwrap();
    ingest_files(&file, &mut zone, &FilesOptions::default()).await.unwrap();
    assert_eq!(read_zone(&zone).await.len(), 1);

    // Something in the way of a part, which a read-only directory is as well (but not to a privileged user).
    fs::write(&file, "{}\n{\"ts\":\"2025-03-03T00:00:00Z\"}\n").unwrap();
    fs::write(place.join("date=2025-03-03"), "in the way").unwrap();
    let error = ingest_files(&file, &mut zone, &FilesOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("date=2025-03-03"), "{error}");
    fs::remove_file(place.join("date=2025-03-03")).unwrap();
    let mut zone = RawZone::create_or_open(to, ZoneOptions::default()).await.unwrap();
    ingest_files(&file, &mut zone, &FilesOptions::default()).await.unwrap();
    assert_eq!(read_zone(&zone).await.len(), 2);
}

/// Odd lines: mutated events, deep nesting, huge strings and numbers, invalid UTF-8, NULs. `DUET_LINES` for more.
#[tokio::test]
async fn odd_lines_are_kept_whatever_they_are() {
    use rand::{RngExt, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("odd.jsonl");
    let mut random = rand_pcg::Pcg64::seed_from_u64(7);
    let (mut bytes, mut sizes): (Vec<u8>, BTreeMap<u64, u64>) = (Vec::new(), BTreeMap::new());
    let count: usize = std::env::var("DUET_LINES").map_or(100_000, |count| count.parse().unwrap());
    for line in 1..=count {
        let mut text = String::new();
        match random.random_range(0..5) {
            0 => text = "[".repeat(random.random_range(0..2_000)),
            1 => write!(text, r#"{{"ts":"2025-03-03T07:{:02}:00Z","n":{}}}"#, line % 99, "9".repeat(300)).unwrap(),
            2 => write!(text, r#"{{"ts":{{"ts":"2025-03-03T07:00:00Z"}}}}"#).unwrap(),
            3 => write!(text, r#"{{"s":"{}","ts":"2025-03-03T07:00:00+23:59"}}"#, "\\u0000".repeat(line % 50)).unwrap(),
            _ => write!(text, r#"{{"ts":"{}-03-03T07:00:00Z"}}"#, random.random_range(0..99_999)).unwrap(),
        }
        let mut payload = text.into_bytes();
        for _ in 0..random.random_range(0..4) {
            if !payload.is_empty() {
                let at = random.random_range(0..payload.len());
                payload[at] = random.random();
            }
        }
        payload.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        sizes.insert(line as u64, payload.len() as u64);
        bytes.extend_from_slice(&payload);
        bytes.push(b'\n');
    }
    fs::write(&file, bytes).unwrap();
    let to = zone_at(dir.path().join("zone"));
    let options = ZoneOptions { granularity: Granularity::Day, compression: Compression::Zstd, durable: false };
    let zone = ingested(&file, &to, options, 1 << 20).await;
    let found: BTreeMap<u64, u64> =
        read_zone(&zone).await.into_iter().map(|event| (event.sequence, event.payload.len() as u64)).collect();
    assert_eq!(found, sizes);
}

/// `cargo test --release -p duet -p duet-data --test data -- --ignored --nocapture speed_of_files`; `DUET_FILES` names files
/// to read instead of those it makes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = match std::env::var_os("DUET_FILES") {
        Some(files) => PathBuf::from(files),
        None => {
            let files = dir.path().join("events");
            fs::create_dir_all(&files).unwrap();
            for day in 1..=10 {
                let mut text = String::new();
                for line in 0..400_000 {
                    let (hour, minute) = (line / 17_000, line / 300 % 60);
                    writeln!(
                        text,
                        r#"{{"event_id":"{day:08x}-{line:012x}","type":"listen","user_id":"user-{:07}","item_kind":"song","item_id":"song-{:06}","ts":"2025-03-{day:02}T{hour:02}:{minute:02}:07.123Z","ms_played":{},"surface":"home","session_id":"s-{:09}","request_id":"r-{line:010}"}}"#,
                        line * 7 % 100_003,
                        line * 13 % 50_021,
                        line * 31 % 240_000,
                        line / 9
                    )
                    .unwrap();
                }
                fs::write(files.join(format!("date=2025-03-{day:02}.jsonl")), text).unwrap();
            }
            files
        }
    };
    for (granularity, compression, durable) in [
        (Granularity::Day, Compression::None, false),
        (Granularity::Day, Compression::None, false),
        (Granularity::Hour, Compression::Zstd, true),
    ] {
        let place = dir.path().join("zone");
        let options = ZoneOptions { granularity, compression, durable };
        let mut zone = RawZone::create_or_open(zone_at(place.clone()), options).await.unwrap();
        let started = Instant::now();
        let summary = ingest_files(&files, &mut zone, &FilesOptions::default()).await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let peak = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = peak.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned();
        println!(
            "{granularity:?} {compression:?} durable {durable}: {:.1} MB, {} events in {seconds:.2} s: {:.0} MB/s, {} parts of {:.1} MB; {peak}",
            summary.bytes as f64 / 1e6,
            summary.events,
            summary.bytes as f64 / 1e6 / seconds,
            summary.parts,
            summary.stored_bytes as f64 / 1e6
        );
        fs::remove_dir_all(place).unwrap();
    }
}
