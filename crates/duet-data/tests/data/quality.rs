//! The quality report as a whole: from tables and books to a verdict, JSON and a page.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use duet_core::{
    event::EventType,
    ids::IdMap,
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::quality::{
    Books, DayBooks, DriftLevel, NullShares, Report, Thresholds, UNKNOWN_DAY, Window, check, drift, summarise,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What a data source could send to whoever opens the page.
const HOSTILE: &str = "<script>document.title='owned'</script>\"'&\u{202e}\0";

fn table(columns: Vec<(&str, ColumnValues)>) -> FeatureTable {
    let ids = IdMap::new((0..columns[0].1.len()).map(|row| format!("id{row}")).collect()).unwrap();
    let columns = columns.into_iter().map(|(name, values)| Column { name: name.to_owned(), values }).collect();
    let table = FeatureTable { ids, names: Vec::new(), columns };
    table.check().unwrap();
    table
}

fn report(window: Option<Window>, days: Vec<DayBooks>) -> Report {
    let books = days.iter().map(|day| &day.books).sum();
    Report { window, ..Report::new(books, days) }
}

/// Users of a service that has moved by `shift`: younger, more active, and in a new city.
fn users(rows: usize, seed: u64, shift: f64) -> FeatureTable {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (mut age, mut city, mut tenure, mut rate) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let uniform = |random: &mut Pcg64Mcg| random.random_range(0.0..1.0_f64);
        let bucket = (uniform(&mut random) * 5.0 * (1.0 - 0.6 * shift)) as usize;
        age.push((row % 11 != 0).then(|| ["18-24", "25-34", "35-44", "45-54", "55+"][bucket].to_owned()));
        let place = (uniform(&mut random).powi(2) * 30.0) as usize;
        city.push(Some(match place {
            0 if shift > 0.0 => "Neustadt".to_owned(),
            1 => HOSTILE.to_owned(),
            place => format!("city {place}"),
        }));
        tenure.push((uniform(&mut random) * 1_500.0).floor());
        // Many users have the prior's rate to the bit.
        rate.push(if row % 3 == 0 { 100.0 / 7.0 } else { uniform(&mut random) * 20.0 });
    }
    // One user's own value: it must not be named.
    city[0] = Some("the only one here".to_owned());
    table(vec![
        ("age_bucket", ColumnValues::Text(age)),
        ("city", ColumnValues::Text(city)),
        ("click_rate", ColumnValues::Number(rate)),
        ("tenure_days", ColumnValues::Number(tenure)),
    ])
}

fn artists(rows: usize, seed: u64) -> FeatureTable {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (mut genres, mut followers, mut release, mut plays) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let mut genre = || {
            let number = random.random_range(0..40_u32);
            if number == 0 { HOSTILE.to_owned() } else { format!("genre {number}") }
        };
        genres.push(if row % 50 == 0 { Vec::new() } else { vec![genre(), genre()] });
        let exponent: f64 = random.random_range(0.0..14.0);
        followers.push(if row % 9 == 0 { f64::NAN } else { exponent.exp().floor() });
        release.push((row % 7 != 0).then(|| random.random_range(7_000..20_000)));
        plays.push(if row % 2 == 0 { 0.0 } else { f64::from(random.random_range(1..5_000_u32)) });
    }
    table(vec![
        ("first_release", ColumnValues::Day(release)),
        ("followers", ColumnValues::Number(followers)),
        ("genres", ColumnValues::TextList(genres)),
        ("plays_7d", ColumnValues::Number(plays)),
    ])
}

fn days(count: u64) -> Vec<DayBooks> {
    let first = NaiveDate::from_ymd_opt(2025, 3, 3).unwrap();
    let mut days: Vec<DayBooks> = first
        .iter_days()
        .take(count as usize)
        .enumerate()
        .map(|(at, day)| {
            let mut books = Books::default();
            let events = 300 + 100 * (at as u64 % 7);
            for event in 0..events {
                books.keep([EventType::Impression, EventType::Click, EventType::Listen][(event % 3) as usize]);
            }
            books.late = events / 50;
            for line in 0..10 + at % 5 {
                books.duplicate();
                match line % 4 {
                    0 => books.quarantine("not valid JSON", ""),
                    1 => books.quarantine("missing field", "item_id"),
                    2 => books.quarantine(HOSTILE, ""),
                    _ => books.filter("unknown user"),
                }
            }
            DayBooks { day: day.to_string(), books }
        })
        .collect();
    let mut unknown = Books::default();
    (0..25).for_each(|_| unknown.quarantine("not RFC 3339", "ts"));
    days.push(DayBooks { day: UNKNOWN_DAY.to_owned(), books: unknown });
    let mut clock = Books::default();
    clock.keep(EventType::Skip);
    days.push(DayBooks { day: "2000-01-01".to_owned(), books: clock });
    days
}

fn window(days: u64) -> Option<Window> {
    let from = NaiveDate::from_ymd_opt(2025, 3, 3).unwrap();
    Some(Window { from, to: from + chrono::Days::new(days - 1) })
}

fn reports() -> (Report, Report) {
    let (users_before, artists_before) = (users(8_000, 1, 0.0), artists(2_000, 1));
    let mut before = report(window(60), days(60));
    before.describe(&[("users", &users_before), ("items", &artists_before)]);
    let (users_now, artists_now) = (users(8_500, 2, 0.9), artists(2_100, 2));
    let tables = [("users", &users_now), ("items", &artists_now)];
    let mut now = report(window(60), days(60));
    now.describe(&tables);
    now.compare(&before, "0123456789abcdef0123456789abcdef", &tables);
    (before, now)
}

#[test]
fn a_report_comes_back_from_json_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quality.json");
    let (mut before, mut now) = reports();
    for report in [&mut before, &mut now] {
        check(report, &Thresholds { max_psi: Some(0.25), ..Thresholds::default() });
        report.write_json(&path).unwrap();
        let back = Report::read_json(&path).unwrap();
        assert_eq!((&back.books, &back.days, &back.window), (&report.books, &report.days, &report.window));
        assert_eq!((&back.previous, back.passed()), (&report.previous, report.passed()));
        // Shares and means may lose their last digit in JSON's reader; all that is not a float must be the same.
        let without_floats = |report: &Report| {
            let text = serde_json::to_string(report).unwrap();
            text.split([',', '{', '[', ']', '}']).filter(|part| !part.contains('.')).collect::<Vec<_>>().join(",")
        };
        assert_eq!(without_floats(&back), without_floats(report));
    }
    std::fs::write(&path, "{\"version\": 99}").unwrap();
    let error = Report::read_json(&path).unwrap_err().to_string();
    assert!(error.contains("quality.json") && error.contains("version 99"), "{error}");
    std::fs::write(&path, "{}").unwrap();
    assert!(Report::read_json(&path).unwrap_err().to_string().contains("not a quality report"));
}

#[test]
fn the_same_table_has_no_drift_even_after_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quality.json");
    let (report, _) = reports();
    report.write_json(&path).unwrap();
    let back = Report::read_json(&path).unwrap();
    for (name, table) in [("users", users(8_000, 1, 0.0)), ("items", artists(2_000, 1))] {
        let drifts = drift(name, &back.tables[name], &table.columns);
        assert_eq!(drifts.len(), table.columns.len());
        for drift in drifts {
            assert_eq!(drift.psi, Some(0.0), "{drift:?}");
            assert!(drift.new_categories.is_empty() && drift.vanished_categories.is_empty(), "{drift:?}");
        }
    }
}

#[test]
fn what_moved_is_found_and_what_did_not_is_not() {
    let (_, now) = reports();
    let level = |column: &str| now.drift.iter().find(|drift| drift.column == column).unwrap().level;
    assert_eq!(level("age_bucket"), DriftLevel::Large);
    assert_ne!(level("city"), DriftLevel::Stable);
    for stable in ["click_rate", "tenure_days", "followers", "first_release", "plays_7d", "genres"] {
        assert_eq!(level(stable), DriftLevel::Stable, "{stable}");
    }
    let city = now.drift.iter().find(|drift| drift.column == "city").unwrap();
    assert_eq!(city.new_categories.iter().map(|category| category.value.as_str()).collect::<Vec<_>>(), ["Neustadt"]);
    assert_eq!(city.vanished_categories.iter().map(|c| c.value.as_str()).collect::<Vec<_>>(), ["city 0"]);
    let all: f64 = city.bins.iter().map(|bin| bin.now).sum();
    assert!((all - 1.0).abs() < 1e-9, "{all}");
}

#[test]
fn columns_that_come_go_or_change_are_told() {
    let before = table(vec![
        ("constant", ColumnValues::Number(vec![5.0; 100])),
        ("gone", ColumnValues::Number(vec![1.0; 100])),
        ("kind", ColumnValues::Number(vec![1.0; 100])),
        ("nulls", ColumnValues::Number((0..100).map(f64::from).collect())),
    ]);
    let now = table(vec![
        ("constant", ColumnValues::Number(vec![6.0; 100])),
        ("kind", ColumnValues::Day(vec![Some(1); 100])),
        ("new", ColumnValues::Day(vec![None; 100])),
        ("nulls", ColumnValues::Number((0..100).map(|row| if row < 60 { f64::NAN } else { f64::from(row) }).collect())),
    ]);
    let drifts = drift("t", &summarise(&before.columns, 1), &now.columns);
    let levels: BTreeMap<&str, DriftLevel> = drifts.iter().map(|drift| (drift.column.as_str(), drift.level)).collect();
    assert_eq!(
        levels,
        BTreeMap::from([
            ("constant", DriftLevel::Large),
            ("gone", DriftLevel::Gone),
            ("kind", DriftLevel::KindChanged),
            ("new", DriftLevel::New),
            ("nulls", DriftLevel::Large),
        ])
    );
    let mut report = report(None, Vec::new());
    report.drift = drifts;
    assert!(!check(&mut report, &Thresholds { max_psi: Some(0.25), ..Thresholds::default() }));
    let failed: Vec<&str> =
        report.checks.iter().filter(|check| !check.passed()).map(|check| check.subject.as_str()).collect();
    assert_eq!(failed, ["t.constant", "t.kind", "t.nulls", "t.gone"]);
}

#[test]
fn a_few_rows_do_not_drift_by_chance() {
    let few = |seed| users(25, seed, 0.0);
    let drifts = drift("users", &summarise(&few(1).columns, 1), &few(2).columns);
    assert!(drifts.iter().any(|drift| drift.psi.unwrap() > 0.25), "{drifts:?}");
    let mut report = report(None, Vec::new());
    report.drift = drifts;
    assert!(check(&mut report, &Thresholds { max_psi: Some(0.25), ..Thresholds::default() }), "{:?}", report.checks);
}

#[test]
fn every_limit_fails_where_it_is_broken_and_passes_where_it_is_kept() {
    let (_, mut report) = reports();
    let strict = Thresholds {
        max_quarantined_share: Some(0.001),
        max_duplicate_share: Some(0.001),
        max_filtered_share: Some(0.001),
        max_late_share: Some(0.001),
        max_null_share: NullShares {
            default: Some(0.01),
            columns: BTreeMap::from([("items.followers".into(), 0.5), ("users.cty".into(), 0.1)]),
        },
        max_psi: Some(0.1),
        min_rows: BTreeMap::from([("users".into(), 9_000), ("items".into(), 2_000), ("songs".into(), 1)]),
        min_events_per_day_ratio: Some(0.9),
    };
    strict.validate().unwrap();
    assert!(!check(&mut report, &strict));
    let failures = report.checks.iter().filter(|check| !check.passed());
    let failed: Vec<String> = failures.map(|check| format!("{} {}", check.name, check.subject)).collect();
    for expected in [
        "quarantined share all lines",
        "duplicate share all lines",
        "filtered share all lines",
        "late share all valid events",
        "null share users.age_bucket",
        "null share items.first_release",
        "null share users.cty",
        "PSI users.age_bucket",
        "rows users",
        "rows songs",
        "events 2025-03-03",
    ] {
        assert!(failed.iter().any(|failed| failed == expected), "{expected} is not in {failed:?}");
    }
    for kept in ["null share items.followers", "rows items", "conservation all lines", "PSI users.tenure_days"] {
        assert!(!failed.iter().any(|failed| failed == kept), "{kept} failed");
    }
    let text = report.failures().join("; ");
    assert!(text.contains("null share of users.cty: there is no \"users.cty\"; valid: items.first_release"), "{text}");

    assert!(check(&mut report, &Thresholds::default()), "{:?}", report.checks);
    assert!(report.checks.len() >= 4);
}

#[test]
fn days_and_total_that_disagree_fail_whatever_the_limits() {
    let none = Thresholds {
        max_quarantined_share: None,
        max_duplicate_share: None,
        max_filtered_share: None,
        ..Thresholds::default()
    };
    let (_, good) = reports();
    assert!(check(&mut good.clone(), &none));
    let mut lost = good.clone();
    lost.days[5].books.lines += 1;
    assert!(!check(&mut lost, &none), "a line of a day is lost");
    let mut lost = good.clone();
    lost.books.lines += 1;
    lost.books.duplicates += 1;
    assert!(!check(&mut lost, &none), "the days do not add up");
    let mut missing = good;
    missing.days.remove(10);
    missing.books = missing.days.iter().map(|day| &day.books).sum();
    assert!(check(&mut missing, &none), "a day without lines may be right");
    let ratio = Thresholds { min_events_per_day_ratio: Some(0.1), ..none };
    assert!(!check(&mut missing, &ratio), "but not where every day must have some");
    assert_eq!(missing.failures(), ["events of 2025-03-12: 0 events, 0 % of the median day's 600; at least 10 %"]);
    // Without a window, the day of the wrong clock in the year 2000 is no first day.
    missing.window = None;
    assert!(!check(&mut missing, &ratio));
    assert_eq!(missing.failures().len(), 1, "{:?}", missing.failures());
}

/// Every element that is opened is closed in its turn, and attributes are quoted.
fn assert_well_formed(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag without its end");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "< within <{tag}>");
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match tag {
            _ if tag.starts_with('!') || tag.ends_with('/') || ["meta", "link"].contains(&name) => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "</{name}>"),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?} stay open");
}

#[test]
fn the_page_is_whole_and_nothing_in_it_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("quality.html");
    let empty = report(None, Vec::new());
    let (before, mut now) = reports();
    let strict = Thresholds { max_psi: Some(0.1), max_late_share: Some(0.0), ..Thresholds::default() };
    check(&mut now, &strict);
    let mut long = report(window(900), days(900));
    check(&mut long, &strict);
    for report in [&empty, &before, &now, &long] {
        report.write_html(&path).unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        assert_well_formed(&page);
        assert!(!page.contains("<script") && !page.contains("owned'<") && !page.contains("javascript:"));
        assert!(!page.contains(['\0', '\u{202e}']) && !page.contains("NaN") && !page.contains(">inf"));
        assert!(!page.contains("http://") && !page.contains("https://"), "something from outside");
        assert!(!page.contains("the only one here"), "a category of one user is named");
        assert_eq!(page.matches("role=\"img\"").count(), page.matches("<desc ").count());
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
    }
    now.write_html(&path).unwrap();
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains("&lt;script&gt;document"), "the hostile category is shown as text");
    assert!(
        page.contains("checks failed")
            && page.contains("Neustadt")
            && page.contains("Lines outside of the window: 1, on 1 days")
    );
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id occurs twice");
    if let Some(keep) = std::env::var_os("DUET_KEEP_REPORT") {
        now.write_html(keep.as_ref()).unwrap();
    }
}

#[test]
fn rare_categories_stay_out_of_the_json_too() {
    let (before, now) = reports();
    for report in [before, now] {
        assert!(!serde_json::to_string(&report).unwrap().contains("the only one here"));
    }
}
