//! From the published files to a dataset, by the protocol of the set.
//!
//! * MovieLens-1M: every rating is an interaction, whatever its stars; `leave-last-out` orders by time, equal times by line.
//! * LightGCN's splits hold no time: users are sets of items, and only the last items of very long sets (beyond the window of the
//!   model) depend on the order of the file.
//! * Items are those of the training part. A test item beyond them can't be found, and counts as wanted.

use std::path::Path;

use anyhow::{Result, bail};
use duet_core::artifact::IfExists;
use duet_data::{
    dataset::DatasetKind,
    import::{Columns, Delimiter, Format, ImportOptions, ImportSummary, Layout, import},
    split::SplitSpec,
};

use super::catalogue::{FileNeed, Form, Set, list};

/// What is held out of a set that is published whole, and by which seed.
const HETREC_FRACTION: f64 = 0.3;
const HETREC_SEED: u64 = 1;

/// Which of a set's two lists of files is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The files as published.
    Published,
    /// A ready split.
    Instead,
}

/// Looks for the files.
///
/// # Errors
/// Lists what is missing and where it is published.
pub(super) fn find(set: &Set, dir: &Path) -> Result<Found> {
    if !set.instead.is_empty() && missing(&set.instead, dir).is_empty() {
        return Ok(Found::Instead);
    }
    let lacking = missing(&set.files, dir);
    if lacking.is_empty() {
        return Ok(Found::Published);
    }
    bail!("{} lacks files of {}:\n{}{}", dir.display(), set.name, list(lacking), set.wants(Some(dir)));
}

fn missing<'a>(needs: &'a [FileNeed], dir: &Path) -> Vec<&'a FileNeed> {
    needs.iter().filter(|need| !dir.join(&need.name).is_file()).collect()
}

/// Imports the files as the protocol says, in place of an older dataset.
///
/// # Errors
/// Those of [`import`], which name file and row.
pub(super) fn read(form: Form, found: Found, dir: &Path, out: &Path) -> Result<ImportSummary> {
    Ok(import(&options(form, found, dir), out, IfExists::Replace)?)
}

/// What the data of a form is like.
pub(super) fn kind(form: Form) -> DatasetKind {
    match form {
        Form::MovieLens1m => DatasetKind::Sequences,
        Form::LightGcn | Form::HetRec => DatasetKind::Sets,
    }
}

fn options(form: Form, found: Found, dir: &Path) -> ImportOptions {
    let file = |name: &str| dir.join(name);
    match (form, found) {
        (Form::MovieLens1m, _) => ImportOptions {
            columns: Columns { ignore_weight: true, ..Columns::default() },
            layout: Layout {
                delimiter: Some(Delimiter::DoubleColon),
                header: Some(["user_id", "item_id", "rating", "timestamp"].map(str::to_owned).to_vec()),
                latin1: false,
            },
            split: SplitSpec::LeaveLastOut { n: 1 },
            item_kind: "film".to_owned(),
            ..ImportOptions::new(file("ratings.dat"))
        },
        (Form::LightGcn, _) => ImportOptions {
            format: Format::LightGcn,
            split: SplitSpec::Given,
            test: Some(file("test.txt")),
            ..ImportOptions::new(file("train.txt"))
        },
        (Form::HetRec, Found::Published) => ImportOptions {
            split: SplitSpec::Random { fraction: HETREC_FRACTION, seed: HETREC_SEED },
            item_kind: "artist".to_owned(),
            ..ImportOptions::new(file("user_artists.dat"))
        },
        (Form::HetRec, Found::Instead) => ImportOptions {
            split: SplitSpec::Given,
            test: Some(file("test.csv")),
            item_kind: "artist".to_owned(),
            ..ImportOptions::new(file("interactions_train.csv"))
        },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{fmt::Write, fs, path::PathBuf};

    use duet_core::ItemIdx;
    use duet_data::{dataset::Dataset, split::validation_split};
    use duet_retrieval::{
        EvaluationCase,
        metrics::{columns, user_metrics},
    };
    use duet_train::evaluate::test_cases;

    use super::{super::catalogue::Catalogue, *};

    const USERS: usize = 12;

    fn imported(form: Form, found: Found, dir: &Path) -> Dataset {
        let out = dir.join("dataset");
        read(form, found, dir, &out).unwrap();
        let dataset = Dataset::open(&out).unwrap();
        assert_eq!(dataset.info.kind, kind(form));
        dataset
    }

    fn cases(dataset: &Dataset) -> Vec<EvaluationCase> {
        let (items, timeline) = (dataset.items().unwrap(), dataset.timeline().unwrap());
        test_cases(&dataset.test().unwrap(), &timeline, &items.ids, false)
    }

    /// Recall, NDCG and hit rate at `k` of the list that ranks all unseen items by their rows.
    fn by_row(case: &EvaluationCase, items: usize, k: usize) -> [f64; 3] {
        let list: Vec<ItemIdx> = (0..items).map(ItemIdx::from).filter(|item| !case.exclude.contains(item)).collect();
        let values = user_metrics(&list, &case.truth, case.unknown_truth, &[k]);
        let names = columns(&[k]);
        ["recall", "ndcg", "hit_rate"].map(|name| {
            let at = names.iter().position(|column| *column == format!("{name}@{k}")).unwrap();
            values[at]
        })
    }

    fn close(values: [f64; 3], expected: [f64; 3]) {
        for (value, expected) in values.into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{values:?} instead of {expected}");
        }
    }

    /// User u rates the films u, u + 2, u + 1, u + 3 (of twelve, in a circle) in the order of the file, the second and the last at the
    /// same time, the third before them.
    fn ratings() -> String {
        let mut text = String::new();
        for user in 0..USERS {
            for (step, seconds) in [(0, 100), (2, 300), (1, 200), (3, 300)] {
                let film = (user + step) % USERS + 1;
                writeln!(text, "{}::{film}::{}::{}", user + 1, step + 1, 978_300_000 + seconds).unwrap();
            }
        }
        text
    }

    #[test]
    fn movielens_leaves_out_the_last_by_time_and_then_by_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ratings.dat"), ratings()).unwrap();
        let dataset = imported(Form::MovieLens1m, Found::Published, dir.path());
        assert!(dataset.info.has_time && !dataset.info.has_weight);
        let (items, timeline, test) = (dataset.items().unwrap(), dataset.timeline().unwrap(), dataset.test().unwrap());
        assert_eq!((test.len(), items.len(), timeline.items.len()), (USERS, USERS, 3 * USERS));
        for user in &test {
            let number: usize = user.id.parse().unwrap();
            assert_eq!(user.items, [((number - 1 + 3) % USERS + 1).to_string()], "the last at the last time");
        }
        let (_, validation) = validation_split(&timeline, &SplitSpec::LeaveLastOut { n: 1 }).unwrap();
        assert_eq!(validation.len(), USERS);
        let users = dataset.users().unwrap();
        for (user, held_out) in &validation {
            let number: usize = users.ids.id(user.index()).parse().unwrap();
            let names: Vec<&str> = held_out.iter().map(|item| items.ids.id(item.index())).collect();
            assert_eq!(names, [((number - 1 + 2) % USERS + 1).to_string()], "the one before it");
        }
        // User 1 has seen films 1, 2, 3 and wants 4: the first of what is left. User 12 has seen 12, 1, 2 and wants 3. User 9 has
        // seen 9, 10, 11 and wants 12, the last of nine.
        let cases = cases(&dataset);
        let of = |id: &str| cases.iter().find(|case| case.user_id == id).unwrap();
        close(by_row(of("1"), USERS, 10), [1.0; 3]);
        close(by_row(of("12"), USERS, 10), [1.0; 3]);
        close(by_row(of("9"), USERS, 10), [1.0, 1.0 / 10_f64.log2(), 1.0]);
        close(by_row(of("9"), USERS, 8), [0.0; 3]);
    }

    /// User u has items 3u, 3u + 1, 3u + 2 in training, and 3u + 3 and 3u + 6 (of 36, in a circle) for the test; user 0 wants an
    /// unknown item too, the last user wants nothing: a line with the user alone, as the published files have them.
    fn write_lightgcn(dir: &Path) {
        let (mut train, mut test) = (String::new(), String::new());
        for user in 0..USERS {
            let first = 3 * user;
            writeln!(train, "{user} {first} {} {}", first + 1, first + 2).unwrap();
            let wanted = format!(" {} {}", (first + 3) % 36, (first + 6) % 36);
            let more = if user == 0 { " 99" } else { "" };
            writeln!(test, "{user}{}{more}", if user + 1 == USERS { "" } else { wanted.as_str() }).unwrap();
        }
        fs::write(dir.join("train.txt"), train).unwrap();
        fs::write(dir.join("test.txt"), test).unwrap();
    }

    #[test]
    fn lightgcn_metrics_are_those_computed_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        write_lightgcn(dir.path());
        let dataset = imported(Form::LightGcn, Found::Published, dir.path());
        assert!(!dataset.info.has_time);
        let items = dataset.items().unwrap().len();
        let cases = cases(&dataset);
        assert_eq!((items, cases.len()), (36, USERS - 1));
        let of = |id: &str| cases.iter().find(|case| case.user_id == id).unwrap();
        // Items 3, 4, 5, 6, ...: hits at the ranks 1 and 4, of three wanted items.
        assert_eq!(of("0").unknown_truth, 1);
        close(by_row(of("0"), items, 20), [2.0 / 3.0, 0.671_386_072_523_304_1, 1.0]);
        // Items 0, 1, ...: of 33 and 0, one at rank 1 and one beyond rank 20.
        close(by_row(of("10"), items, 20), [0.5, 0.613_147_192_765_458_4, 1.0]);
        close(by_row(of("7"), items, 20), [0.0; 3]);
        close(by_row(of("7"), items, 36), {
            let gain = 1.0 / 23_f64.log2() + 1.0 / 26_f64.log2();
            [1.0, gain / (1.0 + 1.0 / 3_f64.log2()), 1.0]
        });
    }

    #[test]
    fn hetrec_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let mut text = "userID\tartistID\tweight\r\n".to_owned();
        for user in 0..USERS {
            for artist in 0..10 {
                write!(text, "{}\t{}\t{}\r\n", user + 2, 51 + (user + artist) % 20, 10 + artist).unwrap();
            }
        }
        fs::write(dir.path().join("user_artists.dat"), text).unwrap();
        let dataset = imported(Form::HetRec, Found::Published, dir.path());
        let counts = dataset.info.counts;
        assert_eq!(counts.events + counts.test_events, 10 * USERS as u64);
        assert!(dataset.info.has_weight && counts.test_events > 0);

        let train = "user_id,item_id,weight\n2,51,5\n2,52,1\n3,51,7\n";
        fs::write(dir.path().join("interactions_train.csv"), train).unwrap();
        fs::write(dir.path().join("test.csv"), "user_id,item_id\n3,52\n").unwrap();
        let set = Catalogue::shipped().unwrap().set("hetrec-lastfm").unwrap().clone();
        assert_eq!(find(&set, dir.path()).unwrap(), Found::Instead);
        let dataset = imported(Form::HetRec, Found::Instead, dir.path());
        assert_eq!((dataset.info.counts.events, dataset.info.counts.test_events), (3, 1));
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let catalogue = Catalogue::shipped().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let lacks = |name: &str| find(catalogue.set(name).unwrap(), path).unwrap_err().to_string();
        let error = lacks("gowalla");
        for part in ["train.txt", "test.txt", "Data/gowalla", "user item item"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(lacks("hetrec-lastfm").contains("or\n  interactions_train.csv"), "{}", lacks("hetrec-lastfm"));

        let fails = |form| read(form, Found::Published, path, &path.join("dataset")).unwrap_err().to_string();
        write_lightgcn(path);
        fs::write(path.join("train.txt"), "0 1 2\n1 2 three\n").unwrap();
        let error = fails(Form::LightGcn);
        assert!(error.contains("train.txt, row 2") && error.contains("user item item"), "{error}");
        fs::write(path.join("ratings.dat"), "1::2::5::978300760\n1::3::5\n").unwrap();
        let error = fails(Form::MovieLens1m);
        assert!(error.contains("ratings.dat, row 2") && error.contains("3 cells"), "{error}");
        assert!(!path.join("dataset").exists());
    }

    #[test]
    fn the_real_listeners_fit_where_they_are_at_hand() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let data = std::env::var_os("DUET_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
        let place = data.join("hetrec2011-lastfm-2k");
        let set = Catalogue::shipped().unwrap().set("hetrec-lastfm").unwrap().clone();
        if find(&set, &place).is_err() {
            println!("skipped: no {} (DUET_DATA says where the public data lies)", place.display());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let found = find(&set, &place).unwrap();
        let counts = read(set.form, found, &place, &dir.path().join("dataset")).unwrap().counts;
        assert_eq!(counts.events + counts.test_events, 92_834);
        let share = counts.test_events as f64 / 92_834.0;
        assert!((share - HETREC_FRACTION).abs() < 0.01, "{share}");
    }
}
