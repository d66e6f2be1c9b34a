//! What the tests share: running the binaries, a small world that is prepared and trained once.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

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
        let shop = Workshop { dir: tempfile::tempdir().expect("a temporary directory") };
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
