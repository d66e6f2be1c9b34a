//! What the tests share: running the binaries, a small world that is prepared and trained once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
    time::Duration,
};

use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

/// A finished command.
pub(crate) struct Done {
    /// Exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A command of duet, ready to be changed or run.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let path = match program {
        "duet" => env!("CARGO_BIN_EXE_duet"),
        "train" => env!("CARGO_BIN_EXE_train"),
        "embed" => env!("CARGO_BIN_EXE_embed"),
        other => panic!("no binary {other}"),
    };
    let mut command = Command::new(path);
    command.args(args).env_remove("RUST_LOG");
    command
}

/// Runs a binary to its end, whatever comes of it.
pub(crate) fn run(program: &str, args: &[&str]) -> Done {
    command(program, args).output().expect("the binary starts").into()
}

/// Runs `duet` and insists on success.
pub(crate) fn duet(args: &[&str]) -> String {
    succeed("duet", args)
}

/// Runs a binary and insists on success.
pub(crate) fn succeed(program: &str, args: &[&str]) -> String {
    let done = run(program, args);
    assert_eq!(done.code, 0, "{program} {args:?}\n{}\n{}", done.out, done.err);
    done.out
}

/// Runs a binary and insists on an orderly failure: the exit code, every part in the message, no panic.
pub(crate) fn fail(program: &str, args: &[&str], code: i32, parts: &[&str]) -> String {
    let done = run(program, args);
    assert_eq!(done.code, code, "{program} {args:?}\n{}\n{}", done.out, done.err);
    assert!(!done.err.contains("panicked"), "{program} {args:?}\n{}", done.err);
    for part in parts {
        assert!(done.err.contains(part), "{program} {args:?}: no {part:?} in\n{}", done.err);
    }
    done.err
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// Settings that make a training of the shared world take about a second.
pub(crate) const TINY: [&str; 8] =
    ["--device", "cpu", "--set", "train.epochs=3", "--set", "model.dim=16", "--set", "model.hidden=16"];

/// A world, its dataset, a run and a bundle, made once for all tests that only read them.
pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    /// `world`, `key`, `data`, `run` or `bundle`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The shared world and what was made of it.
pub(crate) fn workshop() -> &'static Workshop {
    static WORKSHOP: OnceLock<Workshop> = OnceLock::new();
    WORKSHOP.get_or_init(|| {
        let shop = Workshop { dir: kept_until_the_next_run() };
        let path = |name: &str| text(&shop.path(name)).to_owned();
        let (world, key, data, run, bundle) = (path("world"), path("key"), path("data"), path("run"), path("bundle"));
        duet(&["world", "--out", &world, "--users", "1500", "--artists", "400", "--days", "40", "--seed", "7"]);
        duet(&["prepare", "--world", &world, "--user-key", &key, "--create-key", "--out", &data]);
        let train = [&["--data", &data, "--out", &run], &TINY[..]].concat();
        succeed("train", &train);
        succeed("embed", &["--run", &run, "--out", &bundle, "--device", "cpu"]);
        shop
    })
}

/// A directory for the shared world. Statics are never dropped, so each process clears away what an earlier one left, once that is
/// old enough to belong to nobody.
fn kept_until_the_next_run() -> TempDir {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(place).expect("cargo makes the directory").flatten() {
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(WORKSHOP) && age.is_some_and(|age| age > ABANDONED) {
            // Another process may be at it too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new().prefix(WORKSHOP).tempdir_in(place).expect("a temporary directory")
}

const WORKSHOP: &str = "workshop-";
const ABANDONED: Duration = Duration::from_secs(600);

/// The lists of `recommend --out`: per user the items and scores, best first. Insists on ranks 1, 2, ... and falling
/// scores.
pub(crate) fn lists(path: &Path) -> BTreeMap<String, Vec<(String, f32)>> {
    let rows: Vec<[String; 4]> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => parquet_rows(path),
        _ => {
            let mut reader = csv::Reader::from_path(path).expect("the lists open");
            assert_eq!(reader.headers().expect("a header"), vec!["user_id", "item_id", "rank", "score"]);
            reader.deserialize().map(|row| row.expect("four cells")).collect()
        }
    };
    let mut lists: BTreeMap<String, Vec<(String, f32)>> = BTreeMap::new();
    for [user, item, rank, score] in rows {
        let list = lists.entry(user).or_default();
        let score = score.parse().expect("a score");
        assert_eq!(rank.parse(), Ok(list.len() + 1), "{}", path.display());
        assert!(list.last().is_none_or(|(_, above)| *above >= score), "{}: a score rises", path.display());
        assert!(list.iter().all(|(other, _)| *other != item), "{}: {item} twice", path.display());
        list.push((item, score));
    }
    lists
}

fn parquet_rows(path: &Path) -> Vec<[String; 4]> {
    let file = std::fs::File::open(path).expect("the lists open");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    let mut rows = Vec::new();
    for batch in reader.expect("Parquet") {
        let batch = batch.expect("a batch");
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["user_id", "item_id", "rank", "score"]);
        let cell = |column: usize, row| array_value_to_string(batch.column(column), row).expect("a printable cell");
        rows.extend((0..batch.num_rows()).map(|row| std::array::from_fn(|column| cell(column, row))));
    }
    rows
}

/// Users of [`clicks`].
pub(crate) const CLICK_USERS: usize = 120;
/// Items of [`clicks`].
pub(crate) const CLICK_ITEMS: usize = 60;
/// Clicks of a user of [`clicks`].
pub(crate) const CLICKS_EACH: usize = 12;

/// Clicks of people of two tastes, in time order: user and item number, seconds since 1970. No pair comes twice.
pub(crate) fn clicks() -> Vec<(usize, usize, i64)> {
    let half = CLICK_ITEMS / 2;
    let mut rows = Vec::new();
    for turn in 0..CLICKS_EACH {
        for user in 0..CLICK_USERS {
            let item = (user * user / 3 + turn * 7) % half + user % 2 * half;
            rows.push((user, item, 1_700_000_000 + (turn * CLICK_USERS + user) as i64 * 3600));
        }
    }
    rows
}

/// [`clicks`] as CSV with ids `100 + user` and `5000 + item`.
pub(crate) fn click_csv(path: &Path, with_time: bool) {
    let mut text = String::from(if with_time { "user_id,item_id,timestamp\n" } else { "user_id,item_id\n" });
    for (user, item, seconds) in clicks() {
        let time = if with_time { format!(",{seconds}") } else { String::new() };
        text.push_str(&format!("{},{}{time}\n", 100 + user, 5000 + item));
    }
    std::fs::write(path, text).expect("the clicks are written");
}

/// Rounds of a test that is made as long as one likes: those of a variable, else a few.
pub(crate) fn rounds(variable: &str, few: usize) -> usize {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(few)
}

/// Numbers that look random and are the same every time (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `end`, which is above 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Every path under `dir`, relative to it, sorted; hidden ones too.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(text(path.strip_prefix(dir).expect("it lies under dir")).to_owned());
        }
    }
    found.sort();
    found
}

/// Interactions with times as CSV: `users` users with ten items each, their own fifth of 120 items.
pub(crate) fn interactions(users: usize, seed: u64) -> String {
    let mut random = Random(seed);
    let mut csv = "user_id,item_id,timestamp\n".to_owned();
    for user in 0..users {
        for _ in 0..10 {
            let item = random.below(24) as usize * 5 + user % 5;
            csv.push_str(&format!("u{user},i{item},{}\n", 1_600_000_000 + random.below(10_000_000)));
        }
    }
    csv
}
