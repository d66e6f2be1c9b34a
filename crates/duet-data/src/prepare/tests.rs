//! A miniature whose every value is computed by hand, the world at one and two threads, planted personal data, a
//! planted future, and inputs that are not what they must be.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use duet_core::{
    artifact::{IfExists, MANIFEST},
    table::{ColumnValues, FeatureTable},
};
use fs_err as fs;

use super::*;
use crate::{
    dataset::Dataset,
    split::SplitSpec,
    world::{self, Dirt, WorldOptions},
};

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

#[test]
fn the_miniature_is_right_value_by_value() {
    let dir = tempfile::tempdir().unwrap();
    let options = miniature(dir.path());
    let out = dir.path().join("dataset");
    let summary = prepare(&options, &out, IfExists::Fail).unwrap();

    let quality = &summary.quality;
    assert_eq!((quality.lines, quality.kept, quality.duplicates), (16, 11, 2));
    let reasons: Vec<(&str, u64)> = quality.quarantined.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(reasons, [("not valid JSON", 1), ("unknown id: user_id", 1)]);
    assert_eq!(quality.filtered["before sign-up"], 1);
    let rows = Rows { positive_events: 7, train: 2, test: 2, seen_before: 1, outside: 0, not_yet_listed: 0 };
    assert_eq!(quality.rows, rows);
    // e1 happened on the 8th where its user was, and lies in the file of the 9th.
    assert_eq!(quality.late, 1);
    let quarantine = fs::read_to_string(out.join(QUARANTINE_FILE)).unwrap();
    let file = "date=2025-01-09/part-0000.jsonl";
    assert_eq!(
        quarantine,
        format!(
            "{{\"field\":\"\",\"file\":\"{file}\",\"line\":9,\"reason\":\"not valid JSON\"}}\n\
             {{\"field\":\"user_id\",\"file\":\"{file}\",\"line\":11,\"reason\":\"unknown id\"}}\n"
        )
    );

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
}

#[test]
fn a_gap_is_dropped_and_nothing_held_out_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = miniature(dir.path());
    (options.held_out, options.gap_days) =
        HeldOut::from_split(&SplitSpec::parse("global-time:2025-01-10,gap=1d").unwrap().0).unwrap();
    let with_gap = prepare(&options, &dir.path().join("gap"), IfExists::Fail).unwrap();
    // Only Bob's listen of the 8th trains; Ada's row of the 9th lies in the gap, and a1 is no discovery after it.
    let rows = Rows { positive_events: 7, train: 1, test: 2, seen_before: 1, outside: 1, not_yet_listed: 0 };
    assert_eq!(with_gap.quality.rows, rows);
    assert_eq!(with_gap.info.reference_day, Some(20_096));
    let items = Dataset::open(&dir.path().join("gap")).unwrap().items().unwrap();
    assert_eq!((number(&items, "plays_7d", 0), number(&items, "followers", 0)), (0.0, 10.0));

    (options.held_out, options.gap_days) = HeldOut::from_split(&SplitSpec::None).unwrap();
    let whole = prepare(&options, &dir.path().join("whole"), IfExists::Fail).unwrap();
    // a3 joined on the 10th and the last day with rows is the 11th: all five rows train.
    assert_eq!((whole.quality.rows.train, whole.quality.rows.test), (5, 0));
    assert_eq!(whole.info.split.cutoff_ms, None);
    for bad in ["random", "global-time:2025-01-10T12:00:00Z", "global-time:0.5,gap=5h"] {
        assert!(HeldOut::from_split(&SplitSpec::parse(bad).unwrap().0).is_err(), "{bad}");
    }
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
    for entry in fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        places.push((path.display().to_string(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
    }
    assert!(places.len() >= 9, "{}", places.len());
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
        ["users.parquet", "items.parquet", "timeline.parquet"].map(|name| fs::read(out.join(name)).unwrap())
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
    assert_eq!(after.quality.kept, 15);
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
    options.events = dir.path().join("catalogue");
    let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("holds no .jsonl"), "{error}");
    options.events = dir.path().join("accounts.csv");
    let error = prepare(&options, &dir.path().join("dataset"), IfExists::Fail).unwrap_err().to_string();
    assert!(error.contains("no event that says a user likes an artist"), "{error}");
    assert!(UserKey::new(b"short").unwrap_err().to_string().contains("at least 16"));
}

fn small_world() -> WorldOptions {
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
    let quality = &summary.quality;
    assert_eq!(quality.lines, world.stats.lines);
    assert_eq!(quality.duplicates, world.stats.duplicate);
    let unknown = quality.quarantined["unknown id: user_id"] + quality.quarantined["unknown id: item_id"];
    assert_eq!(unknown, world.stats.unknown_id);
    assert_eq!(quality.quarantined_lines() - unknown, world.stats.malformed);
    assert!(quality.filtered["before sign-up"] > 0 && quality.late > 0);
    assert!(world.stats.lines > 50_000, "{}", world.stats.lines);
    // Manifests hold the CRC-32 of every file.
    assert_eq!(manifests, run(2).2);
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
    let dataset = Dataset::open(&out).unwrap();
    let (items, timeline, oracle) =
        (dataset.items().unwrap(), dataset.timeline().unwrap(), dataset.oracle().unwrap().unwrap());
    let mut popularity = vec![0.0_f32; items.len()];
    timeline.items.iter().for_each(|item| popularity[item.index()] += 1.0);
    let (mut by_popularity, mut by_oracle, mut users) = (0.0, 0.0, 0.0);
    for user in dataset.test().unwrap() {
        let row = user.user.unwrap();
        let truth: Vec<u32> = user.items.iter().filter_map(|id| items.ids.get(id)).collect();
        let taste = &oracle.users[row.index() * oracle.dim..][..oracle.dim];
        let oracle_scores: Vec<f32> =
            oracle.items.chunks(oracle.dim).map(|item| item.iter().zip(taste).map(|(a, b)| a * b).sum()).collect();
        let recall = |scores: &[f32]| {
            let seen = timeline.items_of(row);
            let mut order: Vec<u32> =
                (0..scores.len() as u32).filter(|&item| !seen.contains(&duet_core::ItemIdx(item))).collect();
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            truth.iter().filter(|&item| order[..10].contains(item)).count() as f64 / user.items.len() as f64
        };
        by_popularity += recall(&popularity);
        by_oracle += recall(&oracle_scores);
        users += 1.0;
    }
    let (by_popularity, by_oracle) = (by_popularity / users, by_oracle / users);
    println!("recall@10 on new artists: popularity {by_popularity:.4}, oracle {by_oracle:.4}, {users} users");
    assert!(by_oracle > 0.15 && by_oracle > 2.0 * by_popularity, "{by_oracle} {by_popularity}");
}
