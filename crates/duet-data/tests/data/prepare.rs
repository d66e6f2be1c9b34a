//! A miniature whose every value is computed by hand, the world at one and two threads, planted personal data, a
//! planted future, and inputs that are not what they must be.
use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt8Type, UInt32Type, UInt64Type},
};
use duet_core::{
    artifact::{IfExists, MANIFEST},
    table::{ColumnValues, FeatureTable},
};
use duet_data::{
    accounts::UserKey,
    dataset::{Dataset, HistoryEvent, SONGS_DIR},
    prepare::*,
    privacy::{ForgetOptions, forget},
    quality::{Reasons, Thresholds},
    raw::{FilesOptions, RawZone, ZoneOptions, ingest_files},
    store::Location,
    world::{self, Dirt, WorldOptions},
};
use fs_err as fs;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

const ACCOUNTS: &str = "\
user_id,email,full_name,birth_date,gender,lat,lon,country,created_at
pii-user-1,ada.secret@example.org,Ada Secretname,2000-01-09,Female,59.91273,10.74609,NO,2024-12-31T00:00:00Z
pii-user-2,bob.secret@example.org,Bob Secretname,2000-01-10,,,,se,2025-01-02
pii-user-3,eve.secret@example.org,Eve Secretname,1950-05-05,male,-23.54751,-46.63613,BR,2025-01-12T08:00:00-03:00
";
const ARTISTS: &str = "\
artist_id,name,genres,first_release_date,join_date,followers,following
a2,Second,,,2020-01-01,7,
a1,First,rock|dark rock,2010-05-01,2015-01-01,99,4
a3,Third,pop,2025-01-10,2025-01-10,5,1
";
const SONGS: &str = "song_id,artist_id,title,duration_ms,release_date\ns1,a1,One,200000,\ns2,a2,Two,40000,\n";
const DAILY: &str = "\
day,artist_id,followers
2025-01-09,a1,12
2025-01-08,a1,10
2025-01-10,a1,99
";

fn line(id: &str, event: &str, user: &str, item: &str, ts: &str, ms: u64) -> String {
    let kind = if item.starts_with('s') { "song" } else { "artist" };
    format!(
        r#"{{"event_id":"{id}","type":"{event}","user_id":"{user}","item_kind":"{kind}","item_id":"{item}","ts":"{ts}","ms_played":{ms}}}"#
    )
}

/// Writes the miniature and returns the options to prepare it.
fn miniature(dir: &Path) -> PrepareOptions {
    let first = [
        line("e1", "listen", "pii-user-1", "s1", "2025-01-08T23:30:00-02:00", 40_000),
        line("e2", "click", "pii-user-1", "a1", "2025-01-09T10:00:00Z", 0),
        line("e3", "follow", "pii-user-1", "a1", "2025-01-09T12:00:00Z", 0),
        line("e4", "impression", "pii-user-1", "a1", "2025-01-09T09:59:00Z", 0),
        line("e5", "impression", "pii-user-1", "a2", "2025-01-09T09:59:00Z", 0),
        line("e5b", "impression", "pii-user-2", "a2", "2025-01-09T09:59:00Z", 0),
        line("e6", "listen", "pii-user-2", "s2", "2025-01-09T12:00:00Z", 19_999),
        line("e7", "listen", "pii-user-2", "s2", "2025-01-09T00:00:00+05:45", 20_000),
        r#"{"user_id":"pii-user-1","email":"ada.secret@example.org""#.to_owned(),
        line("e1", "listen", "pii-user-1", "s1", "2025-01-08T23:30:00-02:00", 40_000),
        line("e99", "click", "pii-user-unknown", "a1", "2025-01-09T10:00:00Z", 0),
    ];
    let second = [
        line("e1", "listen", "pii-user-1", "s1", "2025-01-08T23:30:00-02:00", 40_000),
        line("e8", "click", "pii-user-1", "a2", "2025-01-10T00:00:00Z", 0),
        line("e9", "listen", "pii-user-1", "s1", "2025-01-10T08:00:00Z", 60_000),
        line("e10", "follow", "pii-user-2", "a3", "2025-01-11T08:00:00Z", 0),
        line("e11", "click", "pii-user-1", "a1", "2000-01-01T08:00:00Z", 0),
    ];
    for (day, lines) in [("2025-01-09", &first[..]), ("2025-01-10", &second[..])] {
        let path = dir.join(format!("events/date={day}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("part-0000.jsonl"), lines.join("\n") + "\n").unwrap();
    }
    fs::create_dir_all(dir.join("catalogue")).unwrap();
    for (name, text) in [
        ("accounts.csv", ACCOUNTS),
        ("catalogue/artists.csv", ARTISTS),
        ("catalogue/songs.csv", SONGS),
        ("catalogue/artist_daily.csv", DAILY),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let mut options = PrepareOptions::for_world(dir, UserKey::new(b"a key for tests.").unwrap());
    options.truth = None;
    options.min_users_per_place = 1;
    options.thresholds = Thresholds::none();
    options.held_out = HeldOut::From("2025-01-10".parse().unwrap());
    options
}

fn text(table: &FeatureTable, column: &str, row: usize) -> Option<String> {
    match &table.column(column).unwrap().values {
        ColumnValues::Text(values) => values[row].clone(),
        _ => unreachable!("{column} is text"),
    }
}

fn number(table: &FeatureTable, column: &str, row: usize) -> f64 {
    match &table.column(column).unwrap().values {
        ColumnValues::Number(values) => values[row],
        _ => unreachable!("{column} is a number"),
    }
}

/// A numeric column of a file of the dataset as f64; NaN for no value.
pub(super) fn numbers(dataset: &Path, file: &str, column: &str) -> Vec<f64> {
    let path = dataset.join(file);
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let mut values = Vec::new();
    for batch in batches {
        let array = batch.column_by_name(column).unwrap_or_else(|| panic!("{file} has no {column}"));
        for row in 0..array.len() {
            values.push(if array.is_null(row) {
                f64::NAN
            } else {
                match array.data_type() {
                    DataType::UInt8 => f64::from(array.as_primitive::<UInt8Type>().value(row)),
                    DataType::UInt32 => f64::from(array.as_primitive::<UInt32Type>().value(row)),
                    DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row) as f64,
                    DataType::Int64 => array.as_primitive::<Int64Type>().value(row) as f64,
                    DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)),
                    DataType::Float64 => array.as_primitive::<Float64Type>().value(row),
                    DataType::Date32 => f64::from(array.as_primitive::<arrow::datatypes::Date32Type>().value(row)),
                    DataType::Boolean => f64::from(u8::from(array.as_boolean().value(row))),
                    other => panic!("{column} is a {other}"),
                }
            });
        }
    }
    values
}

/// Checks a column against values computed by hand.
fn expect(dataset: &Path, file: &str, column: &str, expected: &[f64]) {
    let found = numbers(dataset, file, column);
    let equal = |(a, b): (&f64, &f64)| (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-6;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(equal),
        "{file}: {column} is {found:?}, by hand {expected:?}"
    );
}

#[test]
fn the_miniature_is_right_value_by_value() {
    let dir = tempfile::tempdir().unwrap();
    let options = miniature(dir.path());
    let out = dir.path().join("dataset");
    let summary = prepare(&options, &out, IfExists::Fail).unwrap();

    let books = &summary.books;
    assert_eq!((books.lines, books.kept, books.duplicates), (16, 11, 2));
    let reasons = |reasons: &Reasons| -> Vec<(String, u64)> {
        reasons.iter().map(|(name, count)| (name.clone(), *count)).collect()
    };
    assert_eq!(reasons(&books.quarantined), [("not valid JSON".to_owned(), 1)]);
    assert_eq!(reasons(&books.filtered), [("before sign-up".to_owned(), 1), ("unknown user".to_owned(), 1)]);
    let rows = Rows { positive_events: 7, train: 2, test: 2, seen_before: 1, outside: 0, not_yet_listed: 0 };
    assert_eq!(summary.rows, rows);
    // e1 happened on the 8th where its user was, and lies in the file of the 9th; e11 claims to be of the year 2000.
    assert_eq!(books.late, 2);
    let quarantine = fs::read_to_string(out.join(QUARANTINE_DIR).join("unknown.jsonl")).unwrap();
    let file = "date=2025-01-09/part-0000.jsonl";
    let entry = format!(r#"{{"field":"","file":"{file}","line":9,"reason":"not valid JSON"}}"#);
    assert_eq!(quarantine, entry + "\n");

    let dataset = Dataset::open(&out).unwrap();
    let users = dataset.users().unwrap();
    let row = |user: &str| users.ids.get(&options.user_key.pseudonym(user).unwrap()).unwrap() as usize;
    let (ada, bob, eve) = (row("pii-user-1"), row("pii-user-2"), row("pii-user-3"));
    assert_eq!(users.len(), 3, "an account without events stays");
    // On the 9th, the last day of training, Ada turns 25 and Bob is 24.
    assert_eq!(text(&users, "age_bucket", ada).unwrap(), "25-34");
    assert_eq!(text(&users, "age_bucket", bob).unwrap(), "18-24");
    assert_eq!(text(&users, "gender", ada).unwrap(), "female");
    assert_eq!(text(&users, "gender", bob), None);
    assert_eq!(text(&users, "city", ada).unwrap(), "Oslo, Oslo, NO");
    assert_eq!((text(&users, "city", bob), text(&users, "country", bob).unwrap().as_str()), (None, "SE"));
    // Eve signs up after the cutoff: she has features, but her town is no word of the vocabulary.
    assert_eq!(text(&users, "city", eve).unwrap(), "other");
    assert_eq!([ada, bob, eve].map(|row| number(&users, "tenure_days", row)), [9.0, 7.0, 0.0]);
    // One click on three impressions overall; twenty impressions at that rate are added to everybody's own.
    let rates = [100.0 * (1.0 + 20.0 / 3.0) / 22.0, 100.0 * (20.0 / 3.0) / 21.0, 100.0 / 3.0];
    for (row, rate) in [ada, bob, eve].into_iter().zip(rates) {
        assert!((number(&users, "click_rate", row) - rate).abs() < 1e-9);
    }

    let items = dataset.items().unwrap();
    assert_eq!(items.ids.ids(), ["a1", "a2"], "a3 joins at the cutoff");
    assert_eq!(items.name(1), "Second");
    assert_eq!([number(&items, "followers", 0), number(&items, "follower_ratio", 0)], [12.0, 3.0]);
    assert!(number(&items, "followers", 1).is_nan());
    assert_eq!([number(&items, "plays_7d", 0), number(&items, "plays_28d", 1)], [1.0, 1.0]);
    assert_eq!([number(&items, "trending_rank", 0), number(&items, "trending_rank", 1)], [1.0, 1.0]);

    let timeline = dataset.timeline().unwrap();
    let events = |user: usize| -> Vec<(u32, i64, f32)> {
        let range = timeline.range(user.into());
        range.map(|at| (timeline.items[at].0, timeline.timestamps_ms[at], timeline.weights[at])).collect()
    };
    // 2025-01-09T01:30Z with the follow's strength; 2025-01-08T18:15Z.
    assert_eq!(events(ada), [(0, 1_736_386_200_000, 2.0)]);
    assert_eq!(events(bob), [(1, 1_736_360_100_000, 1.0)]);
    let mut test: Vec<(usize, Vec<String>)> =
        dataset.test().unwrap().into_iter().map(|user| (user.user.unwrap().index(), user.items)).collect();
    let mut expected = vec![(ada, vec!["a2".to_owned()]), (bob, vec!["a3".to_owned()])];
    test.sort();
    expected.sort();
    assert_eq!(test, expected);
    assert_eq!(dataset.info.reference_day, Some(20_097));
    assert_eq!(dataset.info.split.cutoff_ms, Some(20_098 * 86_400_000));

    songs_are_a_dataset_of_their_own(&dataset, &summary, ada, bob);

    // Days since the last event before the 10th; Eve has none.
    assert_eq!([ada, bob].map(|row| number(&users, "recency_days", row)), [0.0, 0.0]);
    assert!(number(&users, "recency_days", eve).is_nan());
    the_files_beside_the_tables(&out, ada < bob);
}

/// The dataset of songs in the miniature, and the history of both kinds.
fn songs_are_a_dataset_of_their_own(dataset: &Dataset, summary: &PrepareSummary, ada: usize, bob: usize) {
    let songs = dataset.songs().unwrap().unwrap();
    assert_eq!(songs.dir, dataset.dir.join(SONGS_DIR));
    assert_eq!((songs.info.item_kind.as_str(), &songs.info), ("song", &summary.songs));
    assert_eq!(songs.users().unwrap().ids.ids(), dataset.users().unwrap().ids.ids());
    // As text: a number that is missing equals nothing, not even itself.
    let columns = |dataset: &Dataset| format!("{:?}", dataset.users().unwrap().columns);
    assert_eq!(columns(&songs), columns(dataset));
    assert!(
        songs.songs().unwrap().is_none() && songs.history().unwrap().is_none() && songs.oracle().unwrap().is_none()
    );
    let items = songs.items().unwrap();
    assert_eq!(items.ids.ids(), ["s1", "s2"]);
    assert_eq!([items.name(0), items.name(1)], ["First - One", "Second - Two"]);
    assert_eq!([text(&items, "artist", 0), text(&items, "artist", 1)], ["a1", "a2"].map(|id| Some(id.to_owned())));
    assert_eq!([number(&items, "duration_ms", 0), number(&items, "duration_ms", 1)], [200_000.0, 40_000.0]);
    assert_eq!([number(&items, "artist_trending_rank", 0), number(&items, "artist_followers", 0)], [1.0, 12.0]);
    assert!(number(&items, "artist_followers", 1).is_nan());
    let genres = ["rock", "dark rock"].map(str::to_owned).to_vec();
    assert_eq!(items.column("genres").unwrap().values, ColumnValues::TextList(vec![genres, Vec::new()]));
    assert_eq!(items.column("release").unwrap().values, ColumnValues::Day(vec![None, None]));

    // Ada hears a fifth of s1, of which others hear a half: the delta .4 counts as .5. Bob hears as much as others, then too little.
    let timeline = songs.timeline().unwrap();
    let events = |user: usize| -> Vec<(u32, i64, f32)> {
        let range = timeline.range(user.into());
        range.map(|at| (timeline.items[at].0, timeline.timestamps_ms[at], timeline.weights[at])).collect()
    };
    assert_eq!(events(ada), [(0, 1_736_386_200_000, 0.5)]);
    assert_eq!(events(bob), [(1, 1_736_360_100_000, 1.0)]);
    let test: Vec<_> = songs.test().unwrap().into_iter().map(|user| (user.user.unwrap().index(), user.items)).collect();
    assert_eq!(test, [(ada, vec!["s1".to_owned()])], "she hears it again");
    let rows = Rows { positive_events: 3, train: 2, test: 1, seen_before: 0, outside: 0, not_yet_listed: 0 };
    assert_eq!(summary.song_rows, rows);
    assert_eq!((songs.info.split.cutoff_ms, songs.info.reference_day), (Some(20_098 * 86_400_000), Some(20_097)));
    assert_eq!(songs.info.split.parameters, "from 2025-01-10, gap of 0 days, all listens");

    let history = dataset.history().unwrap().unwrap();
    let said = |user: usize| -> Vec<(HistoryEvent, u32)> {
        history.range(user.into()).map(|at| (history.events[at], history.items[at].0)).collect()
    };
    assert_eq!(said(ada), [(HistoryEvent::Listen, 0), (HistoryEvent::Click, 0), (HistoryEvent::Follow, 0)]);
    assert_eq!(said(bob), [(HistoryEvent::Listen, 1), (HistoryEvent::Skip, 1)]);
    let by_user = |ada_rows: &[f64], bob_rows: &[f64]| {
        if ada < bob { [ada_rows, bob_rows].concat() } else { [bob_rows, ada_rows].concat() }
    };
    expect(&dataset.dir, "history.parquet", "event", &by_user(&[2.0, 0.0, 1.0], &[2.0, 3.0]));
    expect(&dataset.dir, "history.parquet", "strength", &by_user(&[0.4, 0.5, 2.0], &[1.0, 0.999_95]));
    let times = by_user(&[1_736_386_200e3, 1_736_416_800e3, 1_736_424_000e3], &[1_736_360_100e3, 1_736_424_000e3]);
    expect(&dataset.dir, "history.parquet", "timestamp_ms", &times);
}

#[test]
fn first_listens_alone_are_held_out_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.new_songs_only = true;
    let late = line("n1", "listen", "pii-user-1", "s2", "2025-01-10T09:00:00Z", 40_000);
    fs::write(dir.path().join("events/zz.jsonl"), late).unwrap();
    let summary = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap();
    assert_eq!((summary.song_rows.test, summary.song_rows.seen_before), (1, 1));
    let songs = Dataset::open(&dir.path().join("dataset")).unwrap().songs().unwrap().unwrap();
    assert_eq!(songs.test().unwrap()[0].items, ["s2"]);
    assert!(songs.info.split.parameters.ends_with("first listens to a song"), "{}", songs.info.split.parameters);
    // Artists are divided by a setting of their own.
    assert_eq!((summary.rows.test, summary.rows.seen_before), (2, 1));
}

/// The rest of the miniature: `ada_first` says in which order the two users' pseudonyms are.
fn the_files_beside_the_tables(out: &Path, ada_first: bool) {
    let by_user = |ada: &[f64], bob: &[f64]| if ada_first { [ada, bob].concat() } else { [bob, ada].concat() };
    let nan = f64::NAN;

    // Ada hears 40 of 200 s on the 9th: a fifth. The day before one song was heard, to a half: the mean of every song is
    // then .5. Bob hears half of his song on the 8th, when nothing is known (.5 by decree), and a bit less on the 9th.
    expect(out, "plays.parquet", "listen_ratio", &by_user(&[0.2], &[0.5, 0.499_975]));
    expect(out, "plays.parquet", "listen_delta", &by_user(&[0.4], &[1.0, 0.999_95]));
    expect(out, "plays.parquet", "song", &by_user(&[0.0], &[1.0, 1.0]));
    expect(out, "plays.parquet", "skipped", &by_user(&[0.0], &[0.0, 0.0]));

    // Impressions are described by the day before: a2 was played once on the 8th, so it rises faster than a1.
    let of = |column: &str, ada: &[f64], bob: &[f64]| expect(out, "impressions.parquet", column, &by_user(ada, bob));
    // Ada's two are of the same moment: the hash of the event's id decides.
    of("item", &[1.0, 0.0], &[1.0]);
    of("clicked", &[0.0, 1.0], &[0.0]);
    of("user_clicks", &[0.0, 0.0], &[0.0]);
    of("click_rate", &[0.0, 0.0], &[0.0]);
    of("artist_share", &[0.0, 0.0], &[0.0]);
    of("plays_7d", &[1.0, 0.0], &[1.0]);
    of("plays_28d", &[1.0, 0.0], &[1.0]);
    of("trending_rank", &[1.0, 2.0], &[1.0]);
    of("followers", &[nan, 10.0], &[nan]);
    of("tenure_days", &[9.0, 9.0], &[7.0]);
    of("recency_days", &[nan, nan], &[1.0]);

    let of = |column: &str, ada: &[f64], bob: &[f64]| expect(out, "user_artist.parquet", column, &by_user(ada, bob));
    of("item", &[0.0], &[1.0]);
    of("clicks", &[1.0], &[0.0]);
    of("share", &[1.0], &[0.0]);
    of("plays", &[1.0], &[1.0]);

    // Three plays until the 9th: their mean ratio is (.2 + .5 + .499975) / 3, and counts as 20 plays of every song.
    let overall = 1.199_975 / 3.0;
    let (first, second) = ((0.2 + 20.0 * overall) / 21.0, (0.999_975 + 20.0 * overall) / 22.0);
    expect(out, "songs/items.parquet", "mean_listen", &[first, second]);
    expect(out, "songs/items.parquet", "plays_7d", &[1.0, 1.0]);
    expect(out, "songs/items.parquet", "plays_28d", &[1.0, 1.0]);
    // s1 on the 9th; s2 on the 8th (one play of .5, towards .5) and on the 9th.
    expect(out, "song_daily.parquet", "day", &[20_097.0, 20_096.0, 20_097.0]);
    expect(out, "song_daily.parquet", "mean_listen", &[first, 0.5, second]);

    // a1 has figures of followers for both days, a2 a play on the 8th.
    expect(out, "item_daily.parquet", "item", &[0.0, 0.0, 1.0, 1.0]);
    expect(out, "item_daily.parquet", "day", &[20_096.0, 20_097.0, 20_096.0, 20_097.0]);
    expect(out, "item_daily.parquet", "plays_7d", &[0.0, 1.0, 1.0, 1.0]);
    expect(out, "item_daily.parquet", "trending_rank", &[2.0, 1.0, 1.0, 1.0]);
    expect(out, "item_daily.parquet", "followers", &[10.0, 12.0, nan, nan]);
    expect(out, "item_daily.parquet", "follower_ratio", &[2.5, 3.0, nan, nan]);
    // First release on 2010-05-01, day 14,730.
    expect(out, "item_daily.parquet", "catalogue_age_days", &[5_366.0, 5_367.0, nan, nan]);
}

#[test]
fn plays_without_a_time_played_are_worth_nothing_and_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let options = PrepareOptions { held_out: HeldOut::Nothing, ..miniature(dir.path()) };
    for file in files(&dir.path().join("events")).into_keys() {
        let path = dir.path().join("events").join(file);
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| match line.split_once(r#","ms_played""#) {
            Some((before, _)) => format!("{before}}}\n"),
            None => format!("{line}\n"),
        });
        fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let out = dir.path().join("dataset");
    prepare(&options, &out, IfExists::Fail).unwrap();
    let strengths = || {
        let history = Dataset::open(&out).unwrap().history().unwrap().unwrap();
        let of_songs = history.events.iter().zip(history.strengths).filter(|(event, _)| event.is_of_song());
        of_songs.map(|(_, strength)| strength).collect::<Vec<f32>>()
    };
    // The last day is not over: its listen is left out.
    assert_eq!(strengths(), [0.0; 3]);
    let ask = ForgetOptions {
        dataset: out.clone(),
        user_id: "pii-user-1",
        user_key: Some(&options.user_key),
        runs: Vec::new(),
    };
    forget(&ask).unwrap();
    assert_eq!(strengths(), [0.0; 2]);
}

#[test]
fn a_gap_is_dropped_and_nothing_held_out_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    (options.held_out, options.gap_days) = (HeldOut::From("2025-01-10".parse().unwrap()), 1);
    let with_gap = prepare(&options, &dir.path().join("gap"), IfExists::Fail).unwrap();
    // Only Bob's listen of the 8th trains; Ada's row of the 9th lies in the gap, and a1 is no discovery after it.
    let rows = Rows { positive_events: 7, train: 1, test: 2, seen_before: 1, outside: 1, not_yet_listed: 0 };
    assert_eq!(with_gap.rows, rows);
    assert_eq!(with_gap.info.reference_day, Some(20_096));
    let items = Dataset::open(&dir.path().join("gap")).unwrap().items().unwrap();
    assert_eq!((number(&items, "plays_7d", 0), number(&items, "followers", 0)), (0.0, 10.0));

    (options.held_out, options.gap_days) = (HeldOut::Nothing, 0);
    let whole = prepare(&options, &dir.path().join("whole"), IfExists::Fail).unwrap();
    // Most events are of the 9th: what comes after it is less than half a day, and no full one.
    assert_eq!((whole.rows.train, whole.rows.test, whole.rows.outside), (2, 0, 3));
    assert_eq!(whole.info.split.cutoff_ms, None);
}

#[test]
fn no_planted_personal_data_reaches_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = miniature(dir.path());
    let out = dir.path().join("dataset");
    prepare(&options, &out, IfExists::Fail).unwrap();
    let dataset = Dataset::open(&out).unwrap();
    // Columns are compressed, so the decoded tables are searched as well as the bytes.
    let mut places: Vec<(String, String)> = vec![
        ("users".into(), format!("{:?}", dataset.users().unwrap())),
        ("items".into(), format!("{:?}", dataset.items().unwrap())),
        ("test".into(), format!("{:?}", dataset.test().unwrap())),
    ];
    for (name, bytes) in files(&out) {
        places.push((name, String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(places.len() >= 20, "{}", places.len());
    let planted =
        ["secret", "Secretname", "pii-user", "2000-01-09", "1950-05-05", "59.91", "10.746", "-23.54", "46.636"];
    for (place, content) in &places {
        for word in planted {
            assert!(!content.contains(word), "{word} in {place}");
        }
    }
    assert!(!format!("{options:?}").contains("a key for tests"), "the key must not be printable");
}

#[test]
fn a_planted_future_changes_no_byte_of_the_training_side() {
    let dir = tempfile::tempdir().unwrap();
    let options = miniature(dir.path());
    let sides = |out: PathBuf| {
        let names = ["users", "items", "timeline", "plays", "impressions", "user_artist", "user_history", "history"];
        let others = ["item_daily", "song_daily", "songs/users", "songs/items", "songs/timeline"];
        let read = |name: &&str| fs::read(out.join(format!("{name}.parquet"))).unwrap();
        names.iter().chain(&others).map(read).collect::<Vec<_>>()
    };
    prepare(&options, &dir.path().join("before"), IfExists::Fail).unwrap();
    let future = [
        line("f1", "listen", "pii-user-1", "s2", "2025-01-10T00:00:00Z", 60_000),
        line("f2", "click", "pii-user-2", "a1", "2025-01-10T02:00:00+02:00", 0),
        line("f3", "impression", "pii-user-3", "a1", "2025-01-12T02:00:00Z", 0),
        line("f4", "listen", "pii-user-3", "s1", "2031-01-01T00:00:00Z", 60_000),
    ];
    fs::write(dir.path().join("events/zz.jsonl"), future.join("\n")).unwrap();
    fs::write(dir.path().join("catalogue/artist_daily.csv"), format!("{DAILY}2025-01-11,a2,1000\n")).unwrap();
    let after = prepare(&options, &dir.path().join("after"), IfExists::Fail).unwrap();
    assert_eq!(after.books.kept, 15);
    assert_eq!(sides(dir.path().join("before")), sides(dir.path().join("after")));
    // The same events a moment before the cutoff do change it: the comparison can fail.
    let past = future.join("\n").replace("2025-01-10T00:00:00Z", "2025-01-09T23:59:59Z");
    fs::write(dir.path().join("events/zz.jsonl"), past).unwrap();
    prepare(&options, &dir.path().join("leak"), IfExists::Fail).unwrap();
    assert_ne!(sides(dir.path().join("before")), sides(dir.path().join("leak")));
}

#[test]
fn bad_inputs_are_errors_that_name_file_and_row_and_leave_nothing() {
    let check = |file: &str, text: Option<&str>, expected: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let options = miniature(dir.path());
        match text {
            Some(text) => fs::write(dir.path().join(file), text).unwrap(),
            None => fs::remove_file(dir.path().join(file)).unwrap(),
        }
        let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{part:?} not in: {error}");
        }
        assert!(!error.contains("secret"), "{error}");
        assert!(
            !fs::read_dir(dir.path()).unwrap().any(|entry| entry.unwrap().path().to_string_lossy().contains("dataset"))
        );
    };
    check("accounts.csv", None, &["accounts.csv"]);
    check("accounts.csv", Some(""), &["accounts.csv", "empty"]);
    check("accounts.csv", Some("id,age\n1,2\n"), &["accounts.csv", "no column \"user_id\"; it has: id, age"]);
    check("accounts.csv", Some("user_id,age\nu,12\nv,secret\n"), &["accounts.csv, row 3", "\"age\"", "0 to 130"]);
    check("accounts.csv", Some("user_id,lat\nu,1\n"), &["accounts.csv", "lat and lon belong together"]);
    check("accounts.csv", Some("user_id\nu\nv\nu\n"), &["accounts.csv, row 4", "same id as in row 2"]);
    check("accounts.csv", Some("user_id,age\nu\n"), &["accounts.csv, row 2", "1 fields where the header has 2"]);
    check("accounts.csv", Some("user_id,lat,lon\nu,NaN,1\n"), &["accounts.csv, row 2", "\"lat\""]);
    check("catalogue/artists.csv", Some("artist_id\n"), &["artists.csv", "no artists"]);
    check("catalogue/songs.csv", Some("song_id,artist_id,duration_ms\ns,a9,1\n"), &["songs.csv, row 2", "\"a9\""]);
    check("catalogue/songs.csv", Some("song_id,artist_id,duration_ms\ns,a1,0\n"), &["songs.csv, row 2", "duration_ms"]);
    check(
        "catalogue/artist_daily.csv",
        Some("day,artist_id,followers\nx,a1,1\n"),
        &["artist_daily.csv, row 2", "\"day\""],
    );

    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.held_out = HeldOut::From("2024-01-01".parse().unwrap());
    let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("no training events are left") && error.contains("2025-01-08"), "{error}");
    options.held_out = HeldOut::From("2025-01-10".parse().unwrap());
    options.events = EventSource::Files(dir.path().join("catalogue"));
    let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("holds no .jsonl"), "{error}");
    options.events = EventSource::Files(dir.path().join("accounts.csv"));
    let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("no event that says a user likes an artist"), "{error}");
    assert!(UserKey::new(b"short").unwrap_err().to_string().contains("at least 16"));
}

pub(super) fn small_world() -> WorldOptions {
    let dirt = Dirt { malformed: 0.05, duplicate: 0.05, late: 0.05, unknown_id: 0.05, clock_skew: 0.05 };
    WorldOptions { users: 1_200, artists: 150, days: 20, truth_days: 5, dirt, ..WorldOptions::default() }
}

#[test]
fn a_dirty_world_is_accounted_for_line_by_line_and_bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("world");
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let world = world::generate(&small_world(), &path, IfExists::Replace).unwrap();
            let mut options = PrepareOptions::for_world(&path, UserKey::new(b"0123456789abcdef").unwrap());
            options.held_out = HeldOut::LastDays(5);
            let out = dir.path().join(format!("dataset{threads}"));
            let summary = prepare(&options, &out, IfExists::Fail).unwrap();
            let manifests = [&path, &out].map(|dir| fs::read_to_string(dir.join(MANIFEST)).unwrap());
            (world, summary, manifests)
        })
    };
    let (world, summary, manifests) = run(1);
    let books = &summary.books;
    assert_eq!(books.lines, world.stats.lines);
    assert_eq!(books.duplicates, world.stats.duplicate);
    // An unknown item before the sign-up counts as the latter.
    let unknown = books.filtered["unknown user"] + books.filtered["unknown item"];
    assert!(unknown <= world.stats.unknown_id && unknown + books.filtered["before sign-up"] >= world.stats.unknown_id);
    assert_eq!(books.quarantined_lines(), world.stats.malformed);
    assert!(books.filtered["before sign-up"] > 0 && books.late > 0);
    assert!(world.stats.lines > 50_000, "{}", world.stats.lines);
    // Manifests hold the CRC-32 of every file.
    let others = run(2).2;
    assert!(manifests == others, "the bytes depend on the number of threads");
}

#[test]
fn the_oracle_knows_far_more_than_popularity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("world");
    let options = WorldOptions { users: 2_000, artists: 1_000, days: 40, ..WorldOptions::default() };
    world::generate(&options, &path, IfExists::Fail).unwrap();
    let out = dir.path().join("dataset");
    prepare(&PrepareOptions::for_world(&path, UserKey::new(b"0123456789abcdef").unwrap()), &out, IfExists::Fail)
        .unwrap();
    let artists = Dataset::open(&out).unwrap();
    let [by_popularity, by_oracle] = recall_of_new(&artists);
    println!("recall@10 on new artists: popularity {by_popularity:.4}, oracle {by_oracle:.4}");
    assert!(by_oracle > 0.15 && by_oracle > 2.0 * by_popularity, "{by_oracle} {by_popularity}");
    let [by_popularity, by_oracle] = recall_of_new(&artists.songs().unwrap().unwrap());
    println!("recall@10 on new songs: popularity {by_popularity:.4}, oracle {by_oracle:.4}");
    assert!(by_oracle > 0.01 && by_oracle > 2.0 * by_popularity, "{by_oracle} {by_popularity}");
}

/// Mean recall@10 of popularity and of the oracle, over the held-out items that the user had not had before.
fn recall_of_new(dataset: &Dataset) -> [f64; 2] {
    let (items, timeline, oracle) =
        (dataset.items().unwrap(), dataset.timeline().unwrap(), dataset.oracle().unwrap().unwrap());
    let mut popularity = vec![0.0_f32; items.len()];
    timeline.items.iter().for_each(|item| popularity[item.index()] += 1.0);
    let (mut sums, mut users) = ([0.0; 2], 0.0);
    for user in dataset.test().unwrap() {
        let row = user.user.unwrap();
        let seen: HashSet<u32> = timeline.items_of(row).iter().map(|item| item.0).collect();
        // Items that came out in the held-out period count: nobody could list them.
        let wanted: HashSet<&String> =
            user.items.iter().filter(|id| items.ids.get(id).is_none_or(|item| !seen.contains(&item))).collect();
        if wanted.is_empty() {
            continue;
        }
        let taste = &oracle.users[row.index() * oracle.dim..][..oracle.dim];
        let oracle_scores: Vec<f32> =
            oracle.items.chunks(oracle.dim).map(|item| item.iter().zip(taste).map(|(a, b)| a * b).sum()).collect();
        for (sum, scores) in sums.iter_mut().zip([&popularity, &oracle_scores]) {
            let mut order: Vec<u32> = (0..scores.len() as u32).filter(|item| !seen.contains(item)).collect();
            let best = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
            order.select_nth_unstable_by(9, best);
            let found = order[..10].iter().filter(|item| wanted.contains(&items.ids.ids()[**item as usize])).count();
            *sum += found as f64 / wanted.len() as f64;
        }
        users += 1.0;
    }
    sums.map(|sum| sum / users)
}

/// Every file of a dataset but the manifest and the report (which compares with the dataset before), with its bytes.
fn files(dataset: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
            match path.is_dir() {
                true => walk(&path, &format!("{name}/"), files),
                false => drop(files.insert(name, fs::read(&path).unwrap())),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dataset, "", &mut found);
    found.retain(|name, _| ![MANIFEST, QUALITY_FILE, QUALITY_PAGE].contains(&name.as_str()));
    found
}

fn assert_same_files(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(bytes == &other[name], "{name} differs");
    }
}

fn add_to_zone(zone: &Path, events: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let location = Location::parse(&zone.display().to_string()).unwrap();
        let mut zone = RawZone::create_or_open(location, ZoneOptions::default()).await.unwrap();
        ingest_files(events, &mut zone, &FilesOptions::default()).await.unwrap();
    });
}

/// All lines of the files below a directory, in order.
fn all_lines(dir: &Path) -> Vec<String> {
    files(dir)
        .values()
        .flat_map(|bytes| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn lines_in_any_order_in_any_files_give_the_same_days() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let options = WorldOptions { users: 400, artists: 60, days: 9, truth_days: 3, ..small_world() };
    world::generate(&options, &place("world"), IfExists::Fail).unwrap();
    let lines = all_lines(&place("world/events"));
    let mut prepare_options = PrepareOptions::for_world(&place("world"), UserKey::new(b"0123456789abcdef").unwrap());
    prepare_options.held_out = HeldOut::LastDays(3);
    prepare_options.memory_bytes = 64 << 20;
    prepare_options.thresholds = Thresholds::none();
    let expected = prepare(&prepare_options, &place("by-day"), IfExists::Fail).unwrap();
    // A file of all days mixed, without a line end at its end, and one of another kind of line ends.
    let half = lines.len() / 2;
    let mixed = |lines: &[String]| -> Vec<String> {
        (0..lines.len()).map(|at| lines[at * 7919 % lines.len()].clone()).collect()
    };
    assert!(!half.is_multiple_of(7919) && !(lines.len() - half).is_multiple_of(7919), "the walk reaches every line");
    fs::create_dir(place("mixed")).unwrap();
    fs::write(place("mixed/a.jsonl"), mixed(&lines[..half]).join("\n")).unwrap();
    fs::write(place("mixed/b.ndjson"), mixed(&lines[half..]).join("\r\n") + "\r\n").unwrap();
    // So mixed that the files are copied to a zone by day first: every line between two that have no time.
    let many: Vec<String> = lines.iter().map(|line| format!("{line}\n?\n")).collect();
    let copies = 140_000_usize.div_ceil(lines.len());
    fs::write(place("many.jsonl"), many.concat().repeat(copies)).unwrap();
    for (events, copies) in [("mixed", 1), ("many.jsonl", copies)] {
        prepare_options.events = EventSource::Files(place(events));
        let out = place(&format!("from-{events}"));
        let summary = prepare(&prepare_options, &out, IfExists::Fail).unwrap();
        assert_eq!(summary.books.kept, expected.books.kept, "{events}");
        let noise = if copies == 1 { 0 } else { copies * lines.len() };
        assert_eq!(summary.books.lines, (lines.len() * copies + noise) as u64, "{events}");
        assert_eq!(summary.info.split, expected.info.split);
        let (one, other) = (files(&place("by-day")), files(&out));
        for (name, bytes) in one.iter().filter(|(name, _)| name.ends_with(".parquet")) {
            assert!(bytes == &other[name], "{name} of {events} differs");
        }
        let quarantined = |files: &BTreeMap<String, Vec<u8>>| {
            let lines = files.iter().filter(|(name, _)| name.starts_with(QUARANTINE_DIR));
            lines.map(|(_, bytes)| bytes.iter().filter(|byte| **byte == b'\n').count()).sum::<usize>()
        };
        assert_eq!(quarantined(&other), quarantined(&one) * copies + noise, "{events}");
    }
}

#[test]
fn events_can_come_through_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    let lines = all_lines(&dir.path().join("events")).join("\n");
    fs::write(dir.path().join("events.jsonl"), &lines).unwrap();
    options.events = EventSource::Files(dir.path().join("events.jsonl"));
    prepare(&options, &dir.path().join("from-file"), IfExists::Fail).unwrap();
    // It can be read once only.
    let pipe = dir.path().join("pipe.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::write(&pipe, lines)
    });
    options.events = EventSource::Files(pipe);
    prepare(&options, &dir.path().join("from-pipe"), IfExists::Fail).unwrap();
    writer.join().unwrap().unwrap();
    let (one, other) = (files(&dir.path().join("from-file")), files(&dir.path().join("from-pipe")));
    for (name, bytes) in one.iter().filter(|(name, _)| name.ends_with(".parquet")) {
        assert!(bytes == &other[name], "{name} differs");
    }
}

/// A world's events moved, so many day folders a time, through a raw zone into a dataset that grows.
fn grow(days_each_time: &[usize], held_out: &str) {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let options = WorldOptions { users: 250, artists: 60, days: 9, truth_days: 3, ..small_world() };
    world::generate(&options, &place("world"), IfExists::Fail).unwrap();
    let mut folders: Vec<PathBuf> =
        fs::read_dir(place("world/events")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    fs::create_dir_all(place("arrived")).unwrap();
    fs::create_dir_all(place("zone")).unwrap();
    let mut prepare_options = PrepareOptions::for_world(&place("world"), UserKey::new(b"0123456789abcdef").unwrap());
    prepare_options.held_out = HeldOut::From(held_out.parse().unwrap());
    prepare_options.thresholds = Thresholds::none();
    prepare_options.events = EventSource::Zone(Location::parse(&place("zone").display().to_string()).unwrap());
    prepare_options.update = true;
    let mut read = 0;
    for count in days_each_time.iter().copied().chain([folders.len()]) {
        for folder in folders.drain(..count.min(folders.len())) {
            fs::rename(&folder, place("arrived").join(folder.file_name().unwrap())).unwrap();
        }
        add_to_zone(&place("zone"), &place("arrived"));
        let summary = prepare(&prepare_options, &place("grown"), IfExists::Fail).unwrap();
        read += summary.days_read;
        // Once more changes nothing.
        let before = files(&place("grown"));
        let again = prepare(&prepare_options, &place("grown"), IfExists::Fail).unwrap();
        assert_eq!((again.days_read, again.days_kept), (0, summary.days_read + summary.days_kept));
        assert_eq!(before.len(), files(&place("grown")).len());
        assert!(before == files(&place("grown")), "preparing the same again changed a byte");
    }
    prepare_options.update = false;
    let whole = prepare(&prepare_options, &place("whole"), IfExists::Fail).unwrap();
    assert_same_files(&place("grown"), &place("whole"));
    assert!(read > whole.days_read, "no late event ever touched a day again");
}

#[test]
fn days_added_one_after_the_other_give_the_bytes_of_all_at_once() {
    grow(&[4, 1], "2025-03-06");
    grow(&[3, 2, 2, 1], "2025-03-05");
}

#[test]
fn days_outside_the_range_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    let (whole, out) = (dir.path().join("whole"), dir.path().join("dataset"));
    prepare(&options, &whole, IfExists::Fail).unwrap();
    options.update = true;
    options.days.to = Some("2025-01-09".parse().unwrap());
    let first = prepare(&options, &out, IfExists::Fail).unwrap();
    assert_eq!((first.rows.test, first.days_kept), (0, 0));
    options.days = DayRange { from: Some("2025-01-10".parse().unwrap()), to: None };
    let second = prepare(&options, &out, IfExists::Fail).unwrap();
    assert_eq!(second.rows.test, 2);
    assert!(second.days_kept >= 2, "{}", second.days_kept);
    assert_same_files(&whole, &out);

    // Another key could not recognise the users who are there.
    options.user_key = UserKey::new(b"another key, as long").unwrap();
    let before = files(&out);
    let error = prepare(&options, &out, IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("index.json") && error.contains("another user key"), "{error}");
    options.days = DayRange { from: Some("2025-01-10".parse().unwrap()), to: Some("2025-01-09".parse().unwrap()) };
    assert!(prepare(&options, &out, IfExists::Fail).unwrap_err().to_string().contains("are none"));
    assert!(before == files(&out), "a failed run changed the dataset");
}

#[test]
fn robots_and_reused_ids_are_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.rate_limits = RateLimits { events_per_day: 20, actions_per_minute: 5 };
    options.thresholds = Thresholds::none();
    let mut lines: Vec<String> = (0..21)
        .map(|n| line(&format!("day{n}"), "impression", "pii-user-2", "a1", &format!("2025-01-07T{n:02}:00:00Z"), 0))
        .collect();
    lines
        .extend((0..6).map(|n| {
            line(&format!("minute{n}"), "click", "pii-user-1", "a1", &format!("2025-01-06T10:00:{n:02}Z"), 0)
        }));
    // The same id twice on a day with different content: the earlier stays, whatever the order of the lines.
    lines.push(line("reused", "click", "pii-user-1", "a2", "2025-01-05T12:00:00Z", 0));
    lines.push(line("reused", "click", "pii-user-2", "a1", "2025-01-05T11:00:00Z", 0));
    lines.push(line("other", "click", "pii-user-1", "a2", "2025-01-05T12:00:00Z", 0));
    fs::write(dir.path().join("events/zz.jsonl"), lines.join("\n")).unwrap();
    let summary = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap();
    assert_eq!(summary.books.filtered["implausible rate"], 27);
    assert_eq!(summary.books.duplicates, 3);
    // Of the three clicks of the 5th, Bob's and the other one train, beside the two rows of the miniature.
    assert_eq!(summary.rows.train, 4);
    options.rate_limits = RateLimits { events_per_day: 0, actions_per_minute: 0 };
    let summary = prepare(&options, &dir.path().join("unlimited"), IfExists::Fail).unwrap();
    assert!(!summary.books.filtered.contains_key("implausible rate"));
}

#[test]
fn a_day_larger_than_the_memory_is_sorted_on_disk() {
    const LINES: usize = 300_000;
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.rate_limits = RateLimits { events_per_day: 0, actions_per_minute: 0 };
    let before = prepare(&options, &dir.path().join("without"), IfExists::Fail).unwrap().books.lines;
    // One day of 80 MB of rows, which count twice; item ids of 200 bytes.
    let file = fs::File::create(dir.path().join("events/zz.jsonl")).unwrap();
    let mut out = std::io::BufWriter::new(file);
    for at in 0..LINES {
        let (second, item) = (at % 86_400, at * 7919 % LINES);
        let time = format!("2025-01-07T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60);
        let line =
            line(&format!("big{at}"), "click", &format!("pii-user-{}", 1 + at % 3), &format!("{item:0>200}"), &time, 0);
        writeln!(out, "{line}").unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    options.memory_bytes = 64 << 20;
    let summary = prepare(&options, &dir.path().join("little"), IfExists::Fail).unwrap();
    assert_eq!((summary.books.lines, summary.books.duplicates), (before + LINES as u64, 2));
    options.memory_bytes = 512 << 20;
    prepare(&options, &dir.path().join("usual"), IfExists::Fail).unwrap();
    assert_same_files(&dir.path().join("little"), &dir.path().join("usual"));
}

#[test]
fn a_broken_threshold_publishes_nothing_and_leaves_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.thresholds.max_quarantined_share = Some(0.01);
    let out = dir.path().join("dataset");
    let error = prepare(&options, &out, IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("dataset.refused.quality.html") && error.contains("quarantined"), "{error}");
    let refused = dir.path().join("dataset.refused.quality.json");
    assert!(!out.exists() && refused.exists());
    options.thresholds = Thresholds::none();
    prepare(&options, &out, IfExists::Fail).unwrap();
    assert!(!refused.exists(), "a refusal that no longer stands");
}

/// Most memory the process held so far, in bytes.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// `DUET_FUZZ_LINES=1000000` for the long form.
#[test]
fn broken_lines_of_every_kind_are_accounted_for() {
    let lines: u64 = std::env::var("DUET_FUZZ_LINES").ok().map_or(20_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    options.thresholds = Thresholds::none();
    let mut out = std::io::BufWriter::new(fs::File::create(dir.path().join("events/fuzz.jsonl")).unwrap());
    let mut bytes = 0;
    for line in super::fuzz::mutated_lines(7, lines as usize) {
        bytes += line.len() + 1;
        out.write_all(&line).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    let summary = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap();
    assert_eq!(summary.books.lines, lines + 16);
    summary.books.check().unwrap();
    assert!(summary.books.quarantined.len() >= 10, "{:?}", summary.books.quarantined);
    println!(
        "{lines} lines, {} MB: {}; peak memory {} MB",
        bytes >> 20,
        summary.books,
        peak_memory().unwrap_or(0) >> 20
    );
}
