//! Finding personal data in artifacts, and taking a user out of a dataset that has every kind of file.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Date32Array, FixedSizeBinaryArray, Float32Array, Float64Array, Int64Array, ListArray,
        RecordBatch, StringArray, UInt8Array, UInt32Array,
    },
    datatypes::{DataType, Field, Float32Type, Int32Type, Schema, UInt32Type},
};
use duet_core::{
    artifact::{DirWriter, IfExists, write_manifest},
    ids::IdMap,
    schema::FeatureKind,
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::{
    accounts::UserKey,
    dataset::{self, Counts, Dataset, DatasetInfo, DatasetKind, DatasetParts, Oracle, SplitInfo, TestUser, Timeline},
    privacy::{ForgetOptions, Forgotten, Kind, Place, Planted, ScanOptions, forget, scan},
    world::{WorldOptions, generate},
};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

const KEY: &[u8] = b"a key for tests only";
const USERS: [&str; 4] = ["u-1", "u-2", "u-3", "u-4"];

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), array.null_count() > 0))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn read_parquet(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
    arrow::compute::concat_batches(&schema, &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

/// Every kind of file that a prepared dataset has. Users in the order of their pseudonyms, each with as many events as
/// the number in their name; user `u-4` has held-out events only.
fn make_dataset(dir: &Path, leave_out: &BTreeSet<&str>) -> PathBuf {
    let key = UserKey::new(KEY).unwrap();
    let mut users: Vec<(String, &str)> = USERS
        .iter()
        .filter(|user| !leave_out.contains(*user))
        .map(|user| (key.pseudonym_bytes(user).to_string(), *user))
        .collect();
    users.sort();
    let number = |user: &str| user[2..].parse::<usize>().unwrap();
    let pseudonyms: Vec<String> = users.iter().map(|(pseudonym, _)| pseudonym.clone()).collect();
    let mut schema = duet_core::schema::Schema::default();
    schema.users.insert("city".into(), FeatureKind::Categorical {});
    let mut table = FeatureTable::from_ids(IdMap::new(pseudonyms.clone()).unwrap());
    let cities = users.iter().map(|(_, user)| Some(format!("city of {user}"))).collect();
    table.columns.push(Column { name: "city".into(), values: ColumnValues::Text(cities) });
    let items = FeatureTable::from_ids(IdMap::new(vec!["a".into(), "b".into()]).unwrap());

    let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
    let mut by_user: Vec<(u32, usize)> = Vec::new();
    for (row, (_, user)) in users.iter().enumerate() {
        let count = if *user == "u-4" { 0 } else { number(user) };
        for event in 0..count {
            timeline.items.push(duet_core::ItemIdx((event % 2) as u32));
            timeline.timestamps_ms.push(event as i64);
            timeline.weights.push(1.0);
            by_user.push((row as u32, number(user)));
        }
        timeline.offsets.push(timeline.items.len());
    }
    let test = users
        .iter()
        .enumerate()
        .filter(|(_, (_, user))| number(user) % 2 == 0)
        .map(|(row, (pseudonym, user))| TestUser {
            id: pseudonym.clone(),
            user: Some(row.into()),
            items: vec!["b".to_owned(); number(user)],
        })
        .collect();
    let parts = DatasetParts {
        info: DatasetInfo {
            kind: DatasetKind::Events,
            item_kind: "artist".into(),
            schema,
            counts: Counts::default(),
            split: SplitInfo { kind: "given".into(), parameters: String::new(), cutoff_ms: None, hash: String::new() },
            has_time: true,
            has_weight: true,
            reference_day: Some(20_000),
            sources: Vec::new(),
        },
        oracle: Some(Oracle {
            dim: 2,
            users: users.iter().flat_map(|(_, user)| [number(user) as f32; 2]).collect(),
            items: vec![0.5; 4],
        }),
        users: table,
        items,
        timeline,
        test,
    };
    // Tables that later versions of the dataset have, under the same manifest.
    let inner = dataset::write(&dir.join("inner"), IfExists::Fail, &parts).unwrap();
    let info = Dataset::open(&inner).unwrap().info;
    let writer = DirWriter::create(&dir.join("dataset"), IfExists::Fail).unwrap();
    for entry in fs::read_dir(&inner).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "manifest.json" {
            fs::rename(entry.path(), writer.path(&entry.file_name().to_string_lossy())).unwrap();
        }
    }
    fs::remove_dir_all(&inner).unwrap();
    let index = || Arc::new(UInt32Array::from_iter_values(by_user.iter().map(|(row, _)| *row))) as ArrayRef;
    let whose = || Arc::new(Int64Array::from_iter_values(by_user.iter().map(|(_, user)| *user as i64))) as ArrayRef;
    for name in ["plays", "impressions", "user_artist"] {
        write_parquet(&writer.path(&format!("{name}.parquet")), vec![("user", index()), ("whose", whose())]);
    }
    let lists = ListArray::from_iter_primitive::<UInt32Type, _, _>(
        users.iter().map(|(_, user)| Some(vec![Some(number(user) as u32); number(user)])),
    );
    let rows = UInt32Array::from_iter_values(0..users.len() as u32);
    write_parquet(&writer.path("user_history.parquet"), vec![("user", Arc::new(rows)), ("songs", Arc::new(lists))]);
    let numbers = || by_user.iter().map(|(_, user)| *user);
    let history: Vec<(&str, ArrayRef)> = vec![
        ("user", index()),
        ("event", Arc::new(UInt8Array::from_iter_values(numbers().map(|user| user as u8 % 4)))),
        ("item", Arc::new(UInt32Array::from_iter_values(numbers().map(|user| user as u32 % 2)))),
        ("timestamp_ms", whose()),
        ("strength", Arc::new(Float32Array::from_iter_values(numbers().map(|user| user as f32)))),
    ];
    write_parquet(&writer.path("history.parquet"), history);
    // The dataset of songs inside: the same users, whose songs are the artists of the outer one.
    let mut of_songs = parts;
    of_songs.info.item_kind = "song".into();
    let inner = dataset::write(&dir.join("inner"), IfExists::Fail, &of_songs).unwrap();
    fs::rename(&inner, writer.path("songs")).unwrap();
    write_parquet(&writer.path("item_daily.parquet"), vec![("item", Arc::new(UInt32Array::from(vec![0, 1])))]);
    fs::create_dir(writer.path("days")).unwrap();
    fs::create_dir(writer.path("quarantine")).unwrap();
    for (day, there) in [("2025-03-03", "u-1 u-2 u-3"), ("2025-03-04", "u-1 u-3 u-4"), ("2025-03-05", "u-9")] {
        let mut there: Vec<&str> = there.split(' ').filter(|user| !leave_out.contains(user)).collect();
        there.sort_by_key(|user| key.pseudonym_bytes(user));
        let ids = there.iter().map(|user| key.pseudonym_bytes(user).0.to_vec());
        let ids = FixedSizeBinaryArray::try_from_iter(ids).unwrap();
        let times = Int64Array::from_iter_values(there.iter().map(|user| number(user) as i64));
        write_parquet(
            &writer.path(&format!("days/{day}.parquet")),
            vec![("user", Arc::new(ids)), ("ts_ms", Arc::new(times))],
        );
        fs::write(writer.path(&format!("quarantine/{day}.jsonl")), "{\"line\": 7}\n").unwrap();
    }
    fs::write(writer.path("quality.json"), "{}").unwrap();
    writer.publish(dataset::MAGIC, dataset::VERSION, &info).unwrap()
}

fn forget_one(dir: &Path, user: &str, runs: &[PathBuf]) -> Result<Forgotten, String> {
    let key = UserKey::new(KEY).unwrap();
    let options =
        ForgetOptions { dataset: dir.to_path_buf(), user_id: user, user_key: Some(&key), runs: runs.to_vec() };
    forget(&options).map_err(|error| error.to_string())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

#[test]
fn a_forgotten_user_is_gone_as_if_they_had_never_been() {
    for user in USERS {
        let (dir, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = make_dataset(dir.path(), &BTreeSet::new());
        let expected = make_dataset(without.path(), &BTreeSet::from([user]));
        let before = Dataset::open(&place).unwrap();
        let forgotten = forget_one(&place, user, &[]).unwrap();
        let (dataset, expected) = (Dataset::open(&place).unwrap(), Dataset::open(&expected).unwrap());
        assert_ne!(dataset.fingerprint, before.fingerprint);
        assert_eq!(dataset.info, expected.info, "{user}: counts and split");
        assert_eq!(forgotten.info, dataset.info);
        let (songs, expected_songs) = (dataset.songs().unwrap().unwrap(), expected.songs().unwrap().unwrap());
        assert_eq!(songs.info, expected_songs.info, "{user}: counts and split of songs");
        assert_eq!(songs.timeline().unwrap(), expected_songs.timeline().unwrap());
        assert!(dataset.history().unwrap().is_some());
        assert_eq!(dataset.timeline().unwrap(), expected.timeline().unwrap());
        assert_eq!(dataset.test().unwrap(), expected.test().unwrap());
        assert_eq!(dataset.oracle().unwrap(), expected.oracle().unwrap());
        assert_eq!(dataset.users().unwrap().columns, expected.users().unwrap().columns);
        // Every other file, too, holds what it would hold without them.
        let names = |dataset: &Dataset| -> BTreeSet<PathBuf> {
            files(&dataset.dir).iter().map(|path| path.strip_prefix(&dataset.dir).unwrap().to_path_buf()).collect()
        };
        let forgotten_file = PathBuf::from("forgotten.json");
        let mut expected_names = names(&expected);
        expected_names.insert(forgotten_file.clone());
        assert_eq!(names(&dataset), expected_names);
        let pseudonym = UserKey::new(KEY).unwrap().pseudonym_bytes(user).to_string();
        for name in expected_names.iter().filter(|name| name.extension().is_some_and(|ending| ending == "parquet")) {
            let (ours, theirs) = (read_parquet(&dataset.dir.join(name)), read_parquet(&expected.dir.join(name)));
            assert_eq!(ours, theirs, "{user}: {}", name.display());
        }
        let text = fs::read_to_string(place.join(&forgotten_file)).unwrap();
        assert!(text.contains(&pseudonym), "{text}");
        let twice = forget_one(&place, user, &[]).unwrap_err();
        assert!(twice.contains("was forgotten before"), "{twice}");
    }
}

#[test]
fn what_knew_the_user_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let place = make_dataset(dir.path(), &BTreeSet::new());
    let fingerprint = Dataset::open(&place).unwrap().fingerprint;
    let runs = dir.path().join("runs");
    let run = |name: &str, fingerprint: &str, dataset: &Path| {
        let path = runs.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.toml"), "").unwrap();
        let body = serde_json::json!({ "dataset_fingerprint": fingerprint, "dataset_dir": dataset });
        write_manifest(&path.join("run.json"), "duet-run", 1, &["config.toml"], &body).unwrap();
    };
    run("ours", &fingerprint, Path::new("/elsewhere"));
    run("deeper/earlier", "of another state", &place);
    run("of-songs", "of another state", &place.join("songs"));
    run("others", "of another dataset", Path::new("/elsewhere"));
    let pseudonym = UserKey::new(KEY).unwrap().pseudonym_bytes("u-2").to_string();
    for (name, id) in [("bundle", pseudonym.as_str()), ("other-bundle", "somebody")] {
        let writer = DirWriter::create(&runs.join(name), IfExists::Fail).unwrap();
        write_parquet(&writer.path("users.parquet"), vec![("id", Arc::new(StringArray::from(vec!["x", id])))]);
        let body = serde_json::json!({ "dataset_fingerprint": "of another state" });
        writer.publish("duet-bundle", 1, &body).unwrap();
    }
    let forgotten = forget_one(&place, "u-2", std::slice::from_ref(&runs)).unwrap();
    let stale: Vec<(String, String)> = forgotten
        .stale
        .iter()
        .map(|stale| (stale.path.strip_prefix(&runs).unwrap().display().to_string(), stale.kind.clone()))
        .collect();
    let text = |parts: (&str, &str)| (parts.0.to_owned(), parts.1.to_owned());
    let expected =
        [("bundle", "duet-bundle"), ("deeper/earlier", "duet-run"), ("of-songs", "duet-run"), ("ours", "duet-run")];
    assert_eq!(stale, expected.map(text));
    assert_eq!(forgotten.removed["plays.parquet"], 2);
    assert_eq!(forgotten.removed["days/2025-03-03.parquet"], 1);
    assert!(!forgotten.removed.contains_key("days/2025-03-04.parquet"));
}

#[test]
fn who_is_not_there_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = make_dataset(dir.path(), &BTreeSet::new());
    let fingerprint = Dataset::open(&place).unwrap().fingerprint;
    let error = forget_one(&place, "u-7", &[]).unwrap_err();
    assert!(error.contains("is not in the dataset") && !error.contains("u-7"), "{error}");
    let no_key = ForgetOptions { dataset: place.clone(), user_id: "u-1", user_key: None, runs: Vec::new() };
    assert!(forget(&no_key).unwrap_err().to_string().contains("user key"));
    assert!(forget_one(&dir.path().join("none"), "u-1", &[]).unwrap_err().contains("no such directory"));
    assert_eq!(Dataset::open(&place).unwrap().fingerprint, fingerprint);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // Only in the events of a day: without an account, but not without a trace.
    assert_eq!(forget_one(&place, "u-9", &[]).unwrap().removed.len(), 1);
    assert_eq!(Dataset::open(&place).unwrap().info.counts.users, 4);
}

fn find(paths: &[PathBuf], planted: &[&str]) -> Vec<(Kind, Place, u64)> {
    let options = ScanOptions { planted: Planted::new(planted.iter().copied()).unwrap() };
    let findings = scan(paths, &options).unwrap();
    for finding in &findings {
        // The name of a file has to be said.
        let shown = if finding.place == Place::Name { finding.masked.clone() } else { finding.to_string() };
        assert!(!planted.iter().any(|text| shown.contains(text)), "{finding}");
    }
    findings.into_iter().map(|finding| (finding.kind, finding.place, finding.count)).collect()
}

#[test]
fn a_prepared_dataset_has_nothing_and_what_is_planted_is_found_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let place = make_dataset(dir.path(), &BTreeSet::new());
    assert_eq!(find(std::slice::from_ref(&place), &["Ada Lovelace", "59.91387"]), []);
    // What is in a table of both datasets is found in both.
    let found = find(&[place], &["city of u-1"]);
    let is_city = |place: &Place| matches!(place, Place::Row { column, .. } if column == "city");
    assert_eq!(found.iter().filter(|(_, place, _)| is_city(place)).count(), 2, "{found:?}");

    let planted = ["Ada Lovelace", "59.91387", "u-000017"];
    let row = |column: &str, row: u64| Place::Row { column: column.to_owned(), row };
    let file = dir.path().join("texts.parquet");
    let words = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let dictionary: ArrayRef = Arc::new(
        vec![Some("rock"), None, Some("by Ada Lovelace")]
            .into_iter()
            .collect::<arrow::array::DictionaryArray<Int32Type>>(),
    );
    assert_eq!(dictionary.data_type(), &words);
    let lists: ArrayRef = {
        let mut builder = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        for list in [vec!["x"], vec![], vec!["y", "mail ada@example.org"]] {
            list.iter().for_each(|text| builder.values().append_value(text));
            builder.append(true);
        }
        Arc::new(builder.finish())
    };
    let payload: ArrayRef = Arc::new(arrow::array::BinaryArray::from_vec(vec![
        b"{\"user_id\":\"u-000017\"}",
        b"{}",
        b"{\"user_id\":\"u-000017\"}",
    ]));
    write_parquet(
        &file,
        vec![
            ("genre", dictionary),
            ("tags", lists),
            ("payload", payload),
            ("x", Arc::new(Float64Array::from(vec![1.0, 59.91387, 2.0]))),
            ("y", Arc::new(Float32Array::from(vec![1.0, 2.0, 59.91387]))),
        ],
    );
    let mut found = find(&[file], &planted);
    // What lies unpacked in the file is found there as well.
    found.retain(|(_, place, _)| matches!(place, Place::Row { .. }));
    found.sort_by_key(|(_, place, _)| place.clone());
    assert_eq!(
        found,
        [
            (Kind::Planted(1), row("genre", 3), 1),
            (Kind::Planted(3), row("payload", 1), 2),
            (Kind::Email, row("tags", 3), 1),
            (Kind::Planted(2), row("x", 2), 1),
            (Kind::Planted(2), row("y", 3), 1),
        ]
    );

    // Across the chunks of a text and of a file that is none.
    let long = "a line of nothing\n".repeat(300_000);
    fs::write(dir.path().join("long.txt"), format!("{long}Ada Lovelace\n{long}x@example.org")).unwrap();
    assert_eq!(
        find(&[dir.path().join("long.txt")], &planted),
        [(Kind::Email, Place::Line(600_002), 1), (Kind::Planted(1), Place::Line(300_001), 1)]
    );
    for at in [(4 << 20) + (64 << 10) - 5, (8 << 20) + 77] {
        let mut bytes = vec![0; 9 << 20];
        bytes[at..at + 12].copy_from_slice(b"Ada Lovelace");
        fs::write(dir.path().join("weights.bin"), &bytes).unwrap();
        let found = find(&[dir.path().join("weights.bin")], &planted);
        assert_eq!(found, [(Kind::Planted(1), Place::Byte(at as u64), 1)]);
    }
    let named = dir.path().join("u-000017.json");
    fs::write(&named, "{}").unwrap();
    assert_eq!(find(&[named], &planted), [(Kind::Planted(3), Place::Name, 1)]);
}

#[test]
fn columns_are_told_by_name_and_by_their_dates() {
    let dir = tempfile::tempdir().unwrap();
    let days = |days: &[i32]| Arc::new(Date32Array::from(days.to_vec())) as ArrayRef;
    let ids = || Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef;
    let numbers = |numbers: [f64; 3]| Arc::new(Float64Array::from(numbers.to_vec())) as ArrayRef;
    // 1990, 2001, 2020: mostly of birth. A catalogue may have such dates.
    for (name, expected) in [("users", true), ("items", false)] {
        let file = dir.path().join(format!("{name}.parquet"));
        write_parquet(&file, vec![("id", ids()), ("since", days(&[7_400, 11_500, 18_300]))]);
        let found = find(&[file], &[]);
        assert_eq!(found.len(), usize::from(expected), "{name}: {found:?}");
        assert!(found.iter().all(|(kind, _, count)| (*kind, *count) == (Kind::BirthDate, 2)));
    }
    let file = dir.path().join("places.parquet");
    let nothing: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>, None, None]));
    write_parquet(
        &file,
        vec![
            ("id", ids()),
            ("lat", numbers([1.0, 2.0, 3.0])),
            ("lon", numbers([1.0, 2.0, 3.0])),
            ("E-Mail", ids()),
            ("phone", nothing),
        ],
    );
    let kinds: Vec<Kind> = find(&[file], &[]).into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, [Kind::PersonalColumn, Kind::Coordinates, Kind::Coordinates]);
    let file = dir.path().join("people.csv");
    fs::write(&file, "id,Full Name,dob,city\n1,,,Ulm\n2,Ada Lovelace,,Ulm\n").unwrap();
    let place = Place::Row { column: "Full Name".to_owned(), row: 3 };
    assert_eq!(find(&[file], &[]), [(Kind::PersonalColumn, place, 1)]);
}

#[test]
fn the_sources_of_a_world_are_full_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = WorldOptions { users: 200, artists: 20, days: 2, truth_days: 1, ..WorldOptions::default() };
    let world = generate(&options, &dir.path().join("world"), IfExists::Fail).unwrap();
    assert_eq!(world.options.users, 200);
    let accounts = find(&[dir.path().join("world/accounts.csv"), dir.path().join("world/accounts.sql")], &[]);
    for kind in [Kind::Email, Kind::Phone, Kind::Coordinates, Kind::BirthDate, Kind::PersonalColumn] {
        assert!(accounts.iter().any(|(found, ..)| *found == kind), "{kind} in {accounts:?}");
    }
    assert!(accounts.iter().filter(|(kind, ..)| *kind == Kind::Email).all(|(.., count)| *count == 200));
    let rest = ["events", "catalogue", "truth", "manifest.json"].map(|name| dir.path().join("world").join(name));
    assert_eq!(find(&rest, &[]), []);
}

#[test]
fn vectors_are_no_texts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vectors.parquet");
    let vectors = arrow::array::FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        (0..4).map(|row| Some(vec![Some(row as f32 + 0.12345), Some(0.54321)])),
        2,
    );
    write_parquet(&file, vec![("vector", Arc::new(vectors))]);
    assert_eq!(find(std::slice::from_ref(&file), &[]), []);
    let batch = read_parquet(&file);
    assert_eq!(batch.column(0).as_fixed_size_list().value_length(), 2);
}
