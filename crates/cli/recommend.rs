//! `duet recommend`.

use std::{
    borrow::Cow,
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Args;
use duet_core::{Error, progress};
use duet_data::accounts::UserKey;
use duet_retrieval::{ItemFilter, diversity};
use duet_train::{
    evaluate::Table,
    retriever::{ListSource, Retriever, UserList, Variety},
};
use fs_err as fs;

use crate::{
    Outcome,
    lists::{self, IdType, ListWriter},
    source::SourceArgs,
    values::{self, grouped},
};

/// Write or print the top K for one user, some or all.
///
/// Whoever the model knows nothing about gets what is trending, and the output says so.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecommendArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    listeners: Listeners,
    /// Length of a list.
    #[arg(long, short, default_value_t = 10, value_name = "K", value_parser = values::positive)]
    k: usize,
    /// Leave out what the user had in training.
    #[arg(long)]
    exclude_seen: bool,
    /// Put the model's best items in the order of the boosted trees (see `rerank`).
    #[arg(long)]
    rerank: bool,
    /// Only items with this feature, e.g. genre=rock. Repeatable: all must hold.
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = values::filter)]
    filter: Vec<String>,
    /// At most M items of a list share the first value of a column, e.g. artist=2 of songs or genres=3 of artists.
    #[arg(long, value_name = "COLUMN=M", value_parser = values::group_bound)]
    max_per: Option<(String, usize)>,
    /// Maximal marginal relevance: 1 is the order of the scores, less prefers items unlike those already in the list.
    #[arg(long, value_name = "0..1", value_parser = values::share)]
    mmr: Option<f32>,
    /// The lists as a file (user_id, item_id, rank, score); without it they are printed.
    #[arg(long, value_name = "FILE.csv|FILE.parquet")]
    out: Option<PathBuf>,
    /// Prepared event data knows users by pseudonym: translates the given ids with the key of `prepare`.
    #[arg(long, value_name = "FILE")]
    user_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct Listeners {
    /// all, an id (repeatable), or @FILE with one id a line.
    #[arg(long, alias = "user", value_name = "all|ID|@FILE")]
    users: Vec<String>,
    /// A list for somebody new, by the items they name: ids or names, the newest last. Repeatable, or with commas.
    #[arg(long, value_name = "ITEM,...", value_delimiter = ',', conflicts_with_all = ["user_key", "rerank"])]
    history: Vec<String>,
}

/// What the output calls whoever is known by a history alone.
const NEWCOMER: &str = "new listener";
/// Users a tile, at most.
const TILE: usize = 4096;
/// Entries of the lists of a tile, at most: 32 MiB.
const TILE_ENTRIES: usize = 1 << 22;
/// Unknown ids named in the note.
const NAMED: usize = 5;

/// The people asked for.
struct Asked<'a> {
    /// As given: what the output says.
    ids: Cow<'a, [String]>,
    /// As the model knows them, where that differs.
    pseudonyms: Option<Vec<String>>,
}

impl Asked<'_> {
    fn model_ids(&self) -> &[String] {
        self.pseudonyms.as_deref().unwrap_or(&self.ids)
    }
}

pub(crate) fn run(args: &RecommendArgs, out: &mut dyn Write) -> Result<Outcome> {
    // Before the model is loaded: mistakes in the command should not cost a minute.
    if let Some(path) = &args.out {
        lists::check_extension(path)?;
    }
    let given = if args.listeners.history.is_empty() {
        given_ids(&args.listeners.users)?
    } else {
        Some(vec![NEWCOMER.to_owned()])
    };
    let key = args.user_key.as_deref().map(UserKey::from_file).transpose()?;
    let (retriever, newcomers) = if args.rerank {
        (args.source.open_reranked()?, None)
    } else if args.listeners.history.is_empty() {
        (args.source.open()?, None)
    } else {
        let (retriever, newcomers) = args.source.open_for_newcomers()?;
        (retriever, Some(newcomers))
    };
    let history =
        args.listeners.history.iter().map(|item| retriever.find_item(item.trim())).collect::<Result<Vec<_>, _>>()?;
    let filter = joined_filter(&retriever, &args.filter)?;
    let groups =
        |(column, most): &(String, usize)| Ok::<_, Error>((diversity::groups(&retriever.items, column)?, *most));
    let variety = Variety { groups: args.max_per.as_ref().map(groups).transpose()?, lambda: args.mmr };
    let asked = match given {
        Some(ids) => {
            let pseudonyms = key.map(|key| ids.iter().map(|id| key.pseudonym(id)).collect()).transpose()?;
            Asked { ids: Cow::Owned(ids), pseudonyms }
        }
        None => {
            if key.is_some() {
                eprintln!("note: with --users all the lists carry pseudonyms: the key leads to them, not back");
            }
            Asked { ids: Cow::Borrowed(retriever.all_users()), pseudonyms: None }
        }
    };
    let tile = |range: std::ops::Range<usize>| {
        let (ids, candidates) = (&asked.model_ids()[range], variety.candidates(args.k));
        let mut lists = match &newcomers {
            Some(towers) => {
                let (source, filter) = (ListSource::Personal, filter.as_ref());
                let items = retriever.recommend_by_history(towers, &history, candidates, args.exclude_seen, filter)?;
                vec![UserList { user_id: NEWCOMER.to_owned(), source, items }]
            }
            None => retriever.recommend(ids, candidates, args.exclude_seen, filter.as_ref())?,
        };
        for list in &mut lists {
            list.items = retriever.varied(&list.items, args.k, &variety)?;
        }
        Ok(lists)
    };
    match &args.out {
        Some(path) => {
            let longest = variety.candidates(args.k).min(retriever.items.len()).max(1);
            let size = (TILE_ENTRIES / longest).clamp(1, TILE);
            write_file(path, &retriever, &asked, size, tile, out)?;
        }
        None => print(&retriever, &asked, tile, out)?,
    }
    Ok(Outcome::Done)
}

fn write_file(
    path: &Path,
    retriever: &Retriever,
    asked: &Asked<'_>,
    size: usize,
    tile: impl Fn(std::ops::Range<usize>) -> duet_core::Result<Vec<UserList>>,
    out: &mut dyn Write,
) -> Result<()> {
    let started = Instant::now();
    // Over all users of the model, so that the type does not hang on who was asked for.
    let user_ids = IdType::of(retriever.all_users().iter().chain(asked.ids.iter()));
    let mut writer = ListWriter::create(path, user_ids, IdType::of(retriever.items.ids.ids()))?;
    let mut fallback = Fallback::default();
    let mut rows = 0;
    let users = asked.ids.len();
    let bar = progress::bar("recommend", "users", users as u64);
    for first in (0..users).step_by(size) {
        let range = first..users.min(first + size);
        let lists = tile(range.clone())?;
        fallback.count(&asked.ids[range.clone()], &lists);
        for (id, list) in asked.ids[range.clone()].iter().zip(&lists) {
            rows += list.items.len();
            writer.push(
                list.items
                    .iter()
                    .zip(1..)
                    .map(|(entry, rank)| (id.as_str(), retriever.items.ids.id(entry.item.index()), rank, entry.score)),
            )?;
        }
        bar.inc(range.len() as u64);
    }
    bar.finish_and_clear();
    writer.finish()?;
    fallback.note();
    let seconds = started.elapsed().as_secs_f64();
    let (rows, users) = (grouped(rows as u64), grouped(users as u64));
    Ok(writeln!(out, "{}: {rows} rows for {users} users, in {seconds:.1} s", path.display())?)
}

fn print(
    retriever: &Retriever,
    asked: &Asked<'_>,
    tile: impl Fn(std::ops::Range<usize>) -> duet_core::Result<Vec<UserList>>,
    out: &mut dyn Write,
) -> Result<()> {
    // Smaller tiles: the first lists should appear at once.
    const PRINTED_TILE: usize = 64;
    let mut fallback = Fallback::default();
    let users = asked.ids.len();
    for first in (0..users).step_by(PRINTED_TILE) {
        let range = first..users.min(first + PRINTED_TILE);
        let lists = tile(range.clone())?;
        fallback.count(&asked.ids[range.clone()], &lists);
        let mut table =
            Table::new().text("user").number("rank").text("name").text("item").number("score").text("source");
        for (id, list) in asked.ids[range].iter().zip(&lists) {
            for (entry, rank) in list.items.iter().zip(1..) {
                let row = entry.item.index();
                table.push([
                    id.clone(),
                    format!("{rank}"),
                    retriever.items.name(row).to_owned(),
                    retriever.items.ids.id(row).to_owned(),
                    format!("{:.4}", entry.score),
                    list.source.to_string(),
                ]);
            }
        }
        writeln!(out, "{}", table.to_text())?;
    }
    fallback.note();
    Ok(())
}

/// Who got the fallback.
#[derive(Default)]
struct Fallback {
    users: usize,
    first: Vec<String>,
}

impl Fallback {
    fn count(&mut self, ids: &[String], lists: &[UserList]) {
        for (id, list) in ids.iter().zip(lists) {
            if matches!(list.source, ListSource::Trending) {
                self.users += 1;
                if self.first.len() < NAMED {
                    self.first.push(id.clone());
                }
            }
        }
    }

    fn note(&self) {
        if self.users > 0 {
            let more = if self.users > self.first.len() { ", ..." } else { "" };
            let users = if self.users == 1 { "user" } else { "users" };
            eprintln!(
                "note: nothing is known of {} {users}, who got what is trending: {}{more}",
                grouped(self.users as u64),
                self.first.join(", ")
            );
        }
    }
}

/// The ids of the command line without repeats; `None` for all users.
pub(crate) fn given_ids(users: &[String]) -> Result<Option<Vec<String>>> {
    if users.iter().any(|user| user == "all") {
        if users.len() > 1 {
            return Err(Error::input("--users all goes with no other --users").into());
        }
        return Ok(None);
    }
    let mut ids = Vec::new();
    for user in users {
        match user.strip_prefix('@') {
            None if user.trim().is_empty() => return Err(Error::input("--users: an empty id").into()),
            None => ids.push(user.clone()),
            Some(file) => {
                let text = fs::read_to_string(file).with_context(|| format!("--users @{file}"))?;
                let before = ids.len();
                ids.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
                if ids.len() == before {
                    return Err(Error::data(file, "no user id in it; expected one a line").into());
                }
            }
        }
    }
    let mut known = HashSet::new();
    ids.retain(|id| known.insert(id.clone()));
    Ok(Some(ids))
}

fn joined_filter(retriever: &Retriever, expressions: &[String]) -> Result<Option<ItemFilter>> {
    let mut joined: Option<ItemFilter> = None;
    for expression in expressions {
        let filter = retriever.filter(expression)?;
        joined = Some(match joined {
            Some(joined) => joined.intersection(&filter)?,
            None => filter,
        });
    }
    if joined.as_ref().is_some_and(|filter| filter.count() == 0) {
        eprintln!("note: no item passes the filter, so every list is empty");
    }
    Ok(joined)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ids(users: &[&str]) -> Result<Option<Vec<String>>> {
        given_ids(&users.iter().map(|&user| user.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn ids_come_from_the_line_and_from_files_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ids.txt");
        fs::write(&file, "b\r\n\n a b \nc\n").unwrap();
        let at = format!("@{}", file.display());
        assert_eq!(ids(&["c", &at, "c"]).unwrap().unwrap(), ["c", "b", "a b"]);
        assert!(ids(&["all"]).unwrap().is_none());
        assert!(ids(&["all", "c"]).is_err());
        assert!(ids(&[""]).unwrap_err().to_string().contains("empty"));
        fs::write(&file, "\n").unwrap();
        assert!(ids(&[&at]).unwrap_err().to_string().contains("ids.txt"));
        assert!(format!("{:#}", ids(&["@no/such/file"]).unwrap_err()).contains("no/such/file"));
    }
}
