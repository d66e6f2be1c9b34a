//! A dataset written and read back, and files that lie.

use std::{path::Path, sync::Arc};

use arrow::array::{ArrayRef, Float32Array, Int64Array, UInt8Array, UInt32Array};
use duet_core::{
    artifact::{DirWriter, IfExists, MANIFEST},
    ids::IdMap,
    schema::FeatureKind,
    table::{Column, ColumnValues},
};

use super::*;

fn parts() -> DatasetParts {
    let ids = |ids: &[&str]| IdMap::new(ids.iter().map(|&id| id.to_owned()).collect()).unwrap();
    let mut schema = Schema::default();
    let mut users = FeatureTable::from_ids(ids(&["a", "b", "c"]));
    for (name, kind, values) in [
        ("city", FeatureKind::Categorical {}, ColumnValues::Text(vec![Some("Ulm".into()), None, Some("".into())])),
        ("day", FeatureKind::Date {}, ColumnValues::Day(vec![None, Some(-3), Some(20_000)])),
        ("size", FeatureKind::Numeric {}, ColumnValues::Number(vec![0.5, -1.0, 3.0])),
    ] {
        schema.users.insert(name.into(), kind);
        users.columns.push(Column { name: name.into(), values });
    }
    let mut items = FeatureTable::from_ids(ids(&["1", "2"]));
    items.names = vec!["One".into(), "".into()];
    schema.items.insert("tags".into(), FeatureKind::MultiCategorical { separator: "|".into() });
    let tags = ColumnValues::TextList(vec![vec![], vec!["x".into(), "y".into()]]);
    items.columns.push(Column { name: "tags".into(), values: tags });
    DatasetParts {
        info: DatasetInfo {
            kind: DatasetKind::Sequences,
            item_kind: "artist".into(),
            schema,
            counts: Counts::default(),
            split: SplitInfo { kind: "given".into(), parameters: String::new(), cutoff_ms: None, hash: String::new() },
            has_time: true,
            has_weight: true,
            reference_day: Some(0),
            sources: Vec::new(),
        },
        users,
        items,
        timeline: Timeline {
            offsets: vec![0, 2, 2, 3],
            items: vec![ItemIdx(1), ItemIdx(0), ItemIdx(1)],
            timestamps_ms: vec![5, 6, 1],
            weights: vec![1.0, 2.5, 3.0],
        },
        test: vec![
            TestUser { id: "b".into(), user: Some(UserIdx(1)), items: vec!["1".into(), "1".into()] },
            TestUser { id: "new".into(), user: None, items: vec!["9".into()] },
        ],
        oracle: Some(Oracle { dim: 2, users: vec![1.0; 6], items: vec![0.5; 4] }),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let parts = parts();
    let path = write(&dir.path().join("d"), IfExists::Fail, &parts).unwrap();
    let dataset = Dataset::open(&path).unwrap();
    assert_eq!(dataset.users().unwrap().columns, parts.users.columns);
    let items = dataset.items().unwrap();
    assert_eq!((&items.columns, &items.names), (&parts.items.columns, &parts.items.names));
    assert_eq!(dataset.timeline().unwrap(), parts.timeline);
    assert_eq!(dataset.test().unwrap(), parts.test);
    assert_eq!(dataset.oracle().unwrap(), parts.oracle);
    let counts = dataset.info.counts;
    assert_eq!((counts.users, counts.items, counts.events, counts.test_events, counts.test_users), (3, 2, 3, 3, 2));
    assert_eq!(dataset.info.split.hash.len(), 64);
}

#[test]
fn contradicting_parts_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let breaks: [fn(&mut DatasetParts); 7] = [
        |parts| parts.timeline.items[0] = ItemIdx(2),
        |parts| parts.timeline.timestamps_ms[0] = 7,
        |parts| parts.timeline.weights[1] = f32::NAN,
        |parts| parts.timeline.offsets[1] = 4,
        |parts| parts.test[1].user = Some(UserIdx(0)),
        |parts| drop(parts.info.schema.users.remove("day")),
        |parts| parts.oracle.iter_mut().for_each(|oracle| oracle.items.truncate(3)),
    ];
    for (at, change) in breaks.iter().enumerate() {
        let mut parts = parts();
        change(&mut parts);
        assert!(write(&dir.path().join("d"), IfExists::Fail, &parts).is_err(), "break {at}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_timeline_that_lies_is_named_with_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(&dir.path().join("good"), IfExists::Fail, &parts()).unwrap();
    let lie = |items: [u32; 3], times: [i64; 3], weights: [f32; 3]| {
        // A manifest that fits the file, so that only the reader's own checks stand between the lie and training.
        let writer = DirWriter::create(&dir.path().join("bad"), IfExists::Replace).unwrap();
        for name in [USERS_FILE, ITEMS_FILE, TEST_FILE] {
            std::fs::copy(good.join(name), writer.path(name)).unwrap();
        }
        let mut file =
            parquet_file::Writer::create(writer.path(TIMELINE_FILE), super::write::timeline_fields(true, true))
                .unwrap();
        let columns: [ArrayRef; 4] = [
            Arc::new(UInt32Array::from(vec![0, 0, 2])),
            Arc::new(UInt32Array::from(items.to_vec())),
            Arc::new(Int64Array::from(times.to_vec())),
            Arc::new(Float32Array::from(weights.to_vec())),
        ];
        file.write(columns.to_vec()).unwrap();
        file.finish().unwrap();
        let info = Dataset::open(&good).unwrap().info;
        let path = writer.publish(MAGIC, VERSION, &info).unwrap();
        Dataset::open(&path).unwrap().timeline().map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(lie([1, 0, 1], [5, 6, 1], [1.0; 3]), Ok(()));
    for (result, expected) in [
        (lie([1, 2, 1], [5, 6, 1], [1.0; 3]), "timeline.parquet, row 2: user 0, item 2"),
        (lie([1, 0, 1], [5, 4, 1], [1.0; 3]), "timeline.parquet, row 2: not sorted"),
        (lie([1, 0, 1], [5, 6, 1], [1.0, 1.0, f32::INFINITY]), "timeline.parquet, row 3: weight"),
    ] {
        assert!(result.as_ref().is_err_and(|error| error.contains(expected)), "{result:?}");
    }
}

fn copy_tables(from: &Path, to: &Path) {
    for name in [USERS_FILE, ITEMS_FILE, TIMELINE_FILE, TEST_FILE] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// The tables of the dataset `from` once more, as those of songs.
fn add_songs(from: &Path, writer: &DirWriter) {
    let place = writer.path(SONGS_DIR);
    std::fs::create_dir(&place).unwrap();
    copy_tables(from, &place);
    let mut info = Dataset::open(from).unwrap().info;
    info.item_kind = "song".to_owned();
    seal_songs(&place, &info).unwrap();
}

#[test]
fn a_damaged_file_of_the_songs_is_found_from_outside_and_from_inside() {
    let dir = tempfile::tempdir().unwrap();
    let from = write(&dir.path().join("from"), IfExists::Fail, &parts()).unwrap();
    let writer = DirWriter::create(&dir.path().join("whole"), IfExists::Fail).unwrap();
    copy_tables(&from, writer.dir());
    add_songs(&from, &writer);
    let outer = writer.publish(MAGIC, VERSION, &Dataset::open(&from).unwrap().info).unwrap();
    let inner = outer.join(SONGS_DIR);
    // Through the outer dataset or by its path, it is the same one.
    let (through, alone) = (Dataset::open(&outer).unwrap().songs().unwrap().unwrap(), Dataset::open(&inner).unwrap());
    assert_eq!((&through.dir, &through.fingerprint), (&alone.dir, &alone.fingerprint));
    assert_eq!(through.info, alone.info);
    for name in [USERS_FILE, ITEMS_FILE, TIMELINE_FILE, TEST_FILE, MANIFEST] {
        let file = inner.join(name);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        for place in [&outer, &inner] {
            let error = Dataset::open(place).unwrap_err().to_string();
            assert!(error.contains(&format!("{SONGS_DIR}/")), "{name} by {}: {error}", place.display());
        }
        std::fs::write(&file, &good).unwrap();
    }
}

#[test]
fn a_history_is_read_back_and_one_that_lies_is_named_with_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let outer = write(&dir.path().join("outer"), IfExists::Fail, &parts()).unwrap();
    assert!(Dataset::open(&outer).unwrap().history().unwrap().is_none(), "an imported dataset has none");
    // Three users and two artists; the dataset of songs inside has two songs.
    let make = |events: [u8; 3], items: [u32; 3], times: [i64; 3], strengths: [f32; 3], with_songs: bool| {
        let writer = DirWriter::create(&dir.path().join("whole"), IfExists::Replace).unwrap();
        copy_tables(&outer, writer.dir());
        if with_songs {
            add_songs(&outer, &writer);
        }
        let mut file = parquet_file::Writer::create(writer.path(HISTORY_FILE), history_fields()).unwrap();
        let columns: [ArrayRef; 5] = [
            Arc::new(UInt32Array::from(vec![0, 0, 2])),
            Arc::new(UInt8Array::from(events.to_vec())),
            Arc::new(UInt32Array::from(items.to_vec())),
            Arc::new(Int64Array::from(times.to_vec())),
            Arc::new(Float32Array::from(strengths.to_vec())),
        ];
        file.write(columns.to_vec()).unwrap();
        file.finish().unwrap();
        let info = Dataset::open(&outer).unwrap().info;
        let path = writer.publish(MAGIC, VERSION, &info).unwrap();
        Dataset::open(&path).unwrap()
    };
    let dataset = make([1, 2, 3], [1, 0, 1], [5, 5, 1], [2.0, 0.0, 0.5], true);
    assert_eq!(dataset.songs().unwrap().unwrap().info.item_kind, "song");
    let history = dataset.history().unwrap().unwrap();
    let expected = History {
        offsets: vec![0, 2, 2, 3],
        events: vec![HistoryEvent::Follow, HistoryEvent::Listen, HistoryEvent::Skip],
        items: vec![ItemIdx(1), ItemIdx(0), ItemIdx(1)],
        timestamps_ms: vec![5, 5, 1],
        strengths: vec![2.0, 0.0, 0.5],
    };
    assert_eq!(history, expected);
    assert_eq!(history.range(UserIdx(2)), 2..3);

    let lie = |dataset: Dataset| dataset.history().map(drop).map_err(|error| error.to_string());
    let (times, strengths) = ([5, 6, 1], [1.0; 3]);
    for (result, expected) in [
        (lie(make([1, 4, 3], [0; 3], times, strengths, true)), "row 2: event 4: valid are 0 to 3"),
        (
            lie(make([1, 2, 3], [0, 2, 0], times, strengths, true)),
            "row 2: user 0, item 2: beyond the 3 users or 2 songs",
        ),
        (
            lie(make([0, 1, 1], [0, 0, 9], times, strengths, true)),
            "row 3: user 2, item 9: beyond the 3 users or 2 items",
        ),
        (lie(make([1, 2, 3], [0; 3], times, strengths, false)), "row 2: user 0, item 0: beyond the 3 users or 0 songs"),
        (lie(make([1, 2, 3], [0; 3], [5, 4, 1], strengths, true)), "row 2: not sorted"),
        (lie(make([1, 2, 3], [0; 3], times, [1.0, -0.5, 1.0], true)), "row 2: strength -0.5"),
        (lie(make([1, 2, 3], [0; 3], times, [1.0, 1.0, f32::NAN], true)), "row 3: strength NaN"),
    ] {
        let expected = format!("history.parquet, {expected}");
        assert!(result.as_ref().is_err_and(|error| error.contains(&expected)), "{result:?}: {expected}");
    }
}

#[test]
fn a_flipped_byte_in_any_file_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("d"), IfExists::Fail, &parts()).unwrap();
    for name in [USERS_FILE, ITEMS_FILE, TIMELINE_FILE, TEST_FILE, ORACLE_USERS_FILE] {
        let file = path.join(name);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        assert!(Dataset::open(&path).unwrap_err().to_string().contains(name));
        std::fs::write(&file, &good).unwrap();
    }
    assert!(Dataset::open(Path::new("nowhere")).is_err());
}
