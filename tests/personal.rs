//! Personal data planted everywhere upstream: not one byte of it in anything that comes out, logs and errors included.

use std::{collections::BTreeSet, fs, path::Path};

use crate::workshop::{TINY, command, duet, fail, run, succeed, text};

/// Columns of the accounts whose values nobody downstream may know.
const PERSONAL: [&str; 7] = ["user_id", "email", "full_name", "birth_date", "lat", "lon", "phone"];

/// Every personal value of the accounts that could not come from elsewhere.
fn planted(world: &Path) -> BTreeSet<String> {
    let mut reader = csv::Reader::from_path(world.join("accounts.csv")).expect("accounts");
    let header = reader.headers().expect("a header").clone();
    let columns: Vec<usize> =
        PERSONAL.iter().map(|name| header.iter().position(|column| column == *name).expect("the column")).collect();
    let catalogue: String = ["artists.csv", "songs.csv"]
        .iter()
        .map(|name| fs::read_to_string(world.join("catalogue").join(name)).expect("catalogue"))
        .collect();
    let mut values = BTreeSet::new();
    for record in reader.records() {
        let record = record.expect("a row");
        values.extend(columns.iter().map(|column| record[*column].to_owned()));
    }
    // Dates and invented names may be in the catalogue too, where they are nobody's.
    // A coordinate below one degree has the digits of some metric.
    let is_small = |value: &str| value.parse::<f64>().is_ok_and(|number| number.abs() < 1.0);
    values.retain(|value| value.len() >= 6 && !catalogue.contains(value.as_str()) && !is_small(value));
    values
}

/// Puts personal data where it does not belong: into fields that nobody reads, and into lines that are broken.
fn dirty(world: &Path, planted: &BTreeSet<String>) {
    let mut values = planted.iter().cycle();
    let mut next = || values.next().expect("a value").clone();
    for folder in fs::read_dir(world.join("events")).expect("events") {
        for file in fs::read_dir(folder.expect("a folder").path()).expect("files") {
            let path = file.expect("a file").path();
            let lines = fs::read_to_string(&path).expect("lines");
            let mut out = String::new();
            for (number, line) in lines.lines().enumerate() {
                match number % 20 {
                    3 => out.push_str(&line.replacen('{', &format!("{{\"email\":\"{}\",", next()), 1)),
                    7 => out.push_str(&format!("{{\"user_id\":\"{}\",\"note\":\"{}", next(), next())),
                    11 => out.push_str(&line.replacen("\"type\":", &format!("\"type\":\"{}\",\"was\":", next()), 1)),
                    _ => out.push_str(line),
                }
                out.push('\n');
            }
            fs::write(&path, out).expect("lines are written");
        }
    }
}

#[test]
fn nothing_personal_comes_through() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| text(&dir.path().join(name)).to_owned();
    let [world, out, key, planted_file] = ["world", "out", "key", "planted.txt"].map(path);
    duet(&["world", "--out", &world, "--users", "600", "--artists", "150", "--days", "20", "--truth-days", "5"]);
    let values = planted(Path::new(&world));
    assert!(values.len() > 3_000, "{}", values.len());
    fs::write(&planted_file, values.iter().map(|value| value.clone() + "\n").collect::<String>()).expect("a list");
    dirty(Path::new(&world), &values);
    fs::create_dir(&out).expect("a directory");

    let [data, model, bundle] = ["data", "run", "bundle"].map(|name| format!("{out}/{name}"));
    let catalogue = format!("{world}/catalogue");
    let steps: Vec<(&str, Vec<&str>)> = vec![
        ("duet", vec!["prepare", "--world", &world, "--user-key", &key, "--create-key", "--out", &data]),
        ("train", [&["--data", data.as_str(), "--out", &model], &TINY[..]].concat()),
        ("duet", vec!["evaluate", "--run", &model, "--device", "cpu"]),
        ("embed", vec!["--run", &model, "--out", &bundle, "--device", "cpu"]),
        ("duet", vec!["recommend", "--bundle", &bundle, "--users", "all"]),
        ("duet", vec!["inspect", &data]),
        // Failures speak too: another key, a column that is not what it must be.
        ("duet", vec!["prepare", "--world", &world, "--user-key", &planted_file, "--update", "--out", &data]),
        ("duet", vec!["prepare", "--events", &planted_file, "--accounts", &planted_file, "--catalogue", &catalogue]),
    ];
    let mut settings: Vec<Vec<&str>> = vec![Vec::new(); steps.len()];
    settings[0] = vec!["--set", "quality.max_quarantined_share=1.0", "--set", "privacy.min_users_per_place=5"];
    settings[6] = settings[0].clone();
    for (number, ((program, args), more)) in steps.iter().zip(&settings).enumerate() {
        let mut child = command(program, &[&args[..], more, &["-vvv"]].concat());
        let done = child.env("RUST_BACKTRACE", "full").output().expect("the binary starts");
        assert_eq!(done.status.success(), number < 6, "{args:?}\n{}", String::from_utf8_lossy(&done.stderr));
        fs::write(format!("{out}/step-{number}.out"), &done.stdout).expect("output");
        fs::write(format!("{out}/step-{number}.err"), &done.stderr).expect("output");
    }
    let quarantined = fs::read_dir(format!("{data}/quarantine")).expect("lines put aside").count();
    assert!(quarantined > 5, "{quarantined}");
    let found = run("duet", &["privacy", "scan", &out, "--planted", &planted_file]);
    assert_eq!(found.code, 0, "{}\n{}", found.out, found.err);

    // The scan can fail: one value, in a compressed column or in plain text.
    let value = values.iter().find(|value| value.contains('@')).expect("an address");
    let leak = format!("{out}/leak.txt");
    fs::write(&leak, format!("somewhere in a log: {value}")).expect("a leak");
    fail("duet", &["privacy", "scan", &out, "--planted", &planted_file], 1, &[]);
    fs::remove_file(&leak).expect("the leak goes");

    // A user who leaves is gone from everything, and what was made before is named.
    let user = values.iter().find(|value| value.starts_with('u') && value.len() == 9).expect("a user");
    let said = succeed("duet", &["forget", "--user", user, "--data", &data, "--user-key", &key, "--runs", &out]);
    assert!(said.contains(&model) && said.contains(&bundle), "{said}");
    let again = ["prepare", "--world", &world, "--user-key", &key, "--update", "--out", &data];
    let said = succeed("duet", &[&again[..], &settings[0]].concat());
    assert!(said.contains("forgotten user"), "{said}");
    assert!(said.contains("599 users"), "{said}");
}
