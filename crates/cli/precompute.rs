//! `duet precompute`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use duet_core::{Error, UserIdx, progress};
use duet_retrieval::Scored;
use duet_serve::precomputed::{ListsWriter, RedisWriter, bundle_id};
use duet_train::retriever::Retriever;

use crate::{
    Outcome,
    values::{self, grouped},
};

/// Make the lists of all known users before anybody asks, as a file or in Redis, for `duet serve`.
///
/// For users with a history; what they had in training is left out. The lists go with the very bundle: of another one the
/// service makes its lists live.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrecomputeArgs {
    /// The bundle, as `embed` made it.
    #[arg(long)]
    bundle: PathBuf,
    /// Length of a list.
    #[arg(long, short, default_value_t = 50, value_name = "K", value_parser = values::positive)]
    k: usize,
    #[command(flatten)]
    target: Target,
    /// How the keys in Redis begin; precomputed.redis_prefix of the service.
    #[arg(long, default_value = "duet:lists:", value_name = "PREFIX", requires = "redis")]
    redis_prefix: String,
    /// How long the lists stay in Redis.
    #[arg(long, default_value = "7d", value_name = "TIME", value_parser = values::duration, requires = "redis")]
    ttl: Duration,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The lists as a file; precomputed.file of the service.
    #[arg(long, value_name = "FILE.parquet")]
    out: Option<PathBuf>,
    /// The lists in Redis; precomputed.redis of the service.
    #[arg(long, value_name = "redis://HOST:PORT")]
    redis: Option<String>,
}

/// Users a tile, at most.
const TILE: usize = 4096;
/// Entries of the lists of a tile, at most: 32 MiB.
const TILE_ENTRIES: usize = 1 << 22;

/// Where lists go.
enum Lists {
    File(Box<ListsWriter>),
    Redis(Box<RedisWriter>),
}

impl Lists {
    fn push(&mut self, lists: &[(&str, &[Scored])]) -> duet_core::Result<()> {
        match self {
            Self::File(writer) => writer.push(lists),
            Self::Redis(writer) => writer.push(lists),
        }
    }

    fn finish(self) -> duet_core::Result<()> {
        match self {
            Self::File(writer) => writer.finish(),
            Self::Redis(_) => Ok(()),
        }
    }
}

pub(crate) fn run(args: &PrecomputeArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    if let Some(path) = &args.target.out {
        check_extension(path)?;
    }
    // A link may be turned to the next bundle while this one is read.
    let bundle = std::fs::canonicalize(&args.bundle).unwrap_or_else(|_| args.bundle.clone());
    let retriever = Retriever::from_bundle(&bundle)?;
    let id = bundle_id(&bundle)?;
    let (mut lists, place) = match (&args.target.out, &args.target.redis) {
        (Some(path), _) => {
            let writer = ListsWriter::create(path, &id, retriever.items.len())?;
            (Lists::File(Box::new(writer)), path.display().to_string())
        }
        (None, Some(url)) => {
            let writer = RedisWriter::connect(url, &args.redis_prefix, &id, args.ttl)?;
            (Lists::Redis(Box::new(writer)), format!("redis, keys {}{id}:USER", args.redis_prefix))
        }
        (None, None) => return Err(Error::input("give --out or --redis").into()),
    };
    let users = users_with_history(&retriever);
    let longest = args.k.min(retriever.items.len()).max(1);
    let bar = progress::bar("precompute", "users", users.len() as u64);
    let mut entries = 0;
    for tile in users.chunks((TILE_ENTRIES / longest).clamp(1, TILE)) {
        let made = retriever.recommend(tile, longest, true, None)?;
        let made: Vec<(&str, &[Scored])> =
            made.iter().map(|list| (list.user_id.as_str(), list.items.as_slice())).collect();
        entries += made.iter().map(|(_, list)| list.len()).sum::<usize>();
        lists.push(&made)?;
        bar.inc(tile.len() as u64);
    }
    bar.finish_and_clear();
    lists.finish()?;
    writeln!(
        out,
        "{place}: {} entries for {} of {} users, of bundle {id}, in {:.1} s",
        grouped(entries as u64),
        grouped(users.len() as u64),
        grouped(retriever.all_users().len() as u64),
        started.elapsed().as_secs_f64()
    )?;
    Ok(Outcome::Done)
}

/// The ids in ascending order, as the file wants them.
fn users_with_history(retriever: &Retriever) -> Vec<String> {
    let all = retriever.all_users().iter().enumerate();
    let mut users: Vec<String> =
        all.filter(|(row, _)| !retriever.history(UserIdx::from(*row)).is_empty()).map(|(_, id)| id.clone()).collect();
    users.sort_unstable();
    users
}

fn check_extension(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return Ok(());
    }
    Err(Error::input(format!("{}: the name must end in .parquet", path.display())).into())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_parquet_is_written() {
        check_extension(Path::new("lists.parquet")).unwrap();
        check_extension(Path::new("a.b/LISTS.PARQUET")).unwrap();
        for name in ["lists.csv", "lists", ".parquet"] {
            let error = check_extension(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("end in .parquet"), "{error}");
        }
    }
}
