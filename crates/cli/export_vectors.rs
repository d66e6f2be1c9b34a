//! `duet export-vectors`.

use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use duet_core::{
    UserIdx,
    condition::Condition,
    progress,
    table::{ColumnValues, FeatureTable},
};
use duet_data::{
    accounts::{Connection, TableName},
    vector_store::{self, SearchFailure, SearcherOptions, TableContents, TableQuery, TableSearcher, VectorTable},
};
use duet_retrieval::{
    ItemFilter, Scored, Vectors,
    search::{Index, SearchRequest, VectorSearch, brute_force},
};
use duet_serve::precomputed::bundle_id;
use duet_train::{bundle, evaluate::Table, retriever::item_filter};

use crate::{
    Outcome,
    values::{self, grouped},
};

/// Put the item vectors of a bundle into a Postgres table with pgvector, with the items' features beside them.
///
/// The table appears whole, under its name, or not at all, and says in its comment which bundle it is of; `duet serve --retriever`
/// searches it. One of the same bundle is left as it is. The database needs the extension `vector`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportVectorsArgs {
    /// The bundle, as `embed` made it.
    #[arg(long)]
    bundle: PathBuf,
    /// The database; what the URL leaves open comes from PGHOST, PGUSER, PGPASSWORD and so on.
    #[arg(long, value_name = "postgres://HOST/DATABASE")]
    to: String,
    /// The table.
    #[arg(long, default_value = "duet_items", value_name = "[SCHEMA.]TABLE")]
    table: TableName,
    /// Replace a table of another bundle.
    #[arg(long)]
    overwrite: bool,
    /// Then search for so many of the bundle's users, in the table and in the bundle's own index, and compare: recall@10 and time.
    #[arg(long, value_name = "USERS", value_parser = values::positive)]
    check: Option<usize>,
    /// What the table's index keeps in view in these searches; engine.retriever_ef_search of the service.
    #[arg(long, default_value_t = 100, value_name = "ROWS", value_parser = clap::value_parser!(u16).range(1..=1000), requires = "check")]
    ef_search: u16,
}

/// Items looked for in a check.
const K: usize = 10;
/// The share of items that the filter of a check should let through.
const SELECTIVE: f64 = 0.01;
/// A column with more different values than this is no filter of anybody's.
const VALUES: usize = 100_000;

pub(crate) fn run(args: &ExportVectorsArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    let target = VectorTable { connection: Connection::new(Some(&args.to))?, table: args.table.clone() };
    // A link may be turned to the next bundle while this one is read.
    let dir = std::fs::canonicalize(&args.bundle).unwrap_or_else(|_| args.bundle.clone());
    let opened = bundle::open(&dir)?;
    let id = bundle_id(&dir)?;
    let items = opened.dataset.items()?;
    let vectors = opened.index.vectors();
    let contents = TableContents { bundle: &id, items: &items, dim: vectors.dim, vectors: &vectors.data };
    let written = vector_store::write(&target, &contents, args.overwrite)?;
    let (place, count, columns) = (target.place(), grouped(written.items as u64), items.columns.len());
    let version = &written.pgvector;
    match written.is_new {
        true => writeln!(
            out,
            "{}: {count} items of {} components and {columns} features, of bundle {id}, in {:.1} s (pgvector {version})",
            place.display(),
            vectors.dim,
            started.elapsed().as_secs_f64()
        )?,
        false => writeln!(out, "{}: holds bundle {id} already, {count} items (pgvector {version})", place.display())?,
    }
    if let Some(users) = args.check {
        out.flush()?;
        let ef_search = usize::from(args.ef_search);
        let options = SearcherOptions { ef_search, statement_timeout: Some(Duration::from_secs(60)) };
        let searcher = TableSearcher::new(&target, &id, options)?;
        let check = Check { items: &items, index: &opened.index, users: &opened.users, searcher };
        write!(out, "\n{}", check.run(users)?)?;
    }
    Ok(Outcome::Done)
}

/// Searches side by side.
struct Check<'a> {
    items: &'a FeatureTable,
    index: &'a Index,
    users: &'a Vectors,
    searcher: TableSearcher,
}

impl Check<'_> {
    fn run(mut self, users: usize) -> Result<String> {
        let rows = spread(self.users.len(), users);
        let version = self.searcher.connect().map_err(SearchFailure::into_error)?.to_owned();
        let filter = selective_filter(self.items)?;
        let mut table = Table::new()
            .text("search")
            .text("filter")
            .number("recall@10")
            .number("worst")
            .number("p50, ms")
            .number("p99, ms");
        let mut cases = vec![("none".to_owned(), None)];
        if let Some((expression, filter)) = filter {
            let condition = Condition::parse(self.items, &expression)?;
            let share = 100.0 * filter.count() as f64 / self.items.len() as f64;
            cases.push((format!("{expression} ({share:.1} % of the items)"), Some((filter, vec![condition]))));
        }
        let bar = progress::bar("check", "searches", (rows.len() * cases.len()) as u64);
        for (name, filter) in &cases {
            let (allowed, conditions) = match filter {
                Some((filter, conditions)) => (Some(filter), conditions.as_slice()),
                None => (None, &[][..]),
            };
            let (mut embedded, mut database) = (Measured::default(), Measured::default());
            for &row in &rows {
                let vector = self.users.row(row.index());
                let request = SearchRequest { k: K, filter: allowed, exclude: &[] };
                let exact = first(brute_force(self.index.vectors(), vector, &[request])?);
                let began = Instant::now();
                let found = first(self.index.search(vector, &[request])?);
                embedded.push(began.elapsed(), &exact, found.iter().map(|entry| entry.item.0));
                let query = TableQuery {
                    vector,
                    k: K,
                    conditions,
                    exclude: &[],
                    allowed: allowed.map_or(self.items.len(), ItemFilter::count),
                };
                let began = Instant::now();
                let found = self.searcher.search(self.items, &query).map_err(SearchFailure::into_error)?;
                database.push(began.elapsed(), &exact, found.iter().map(|(item, _)| *item));
                bar.inc(1);
            }
            for (search, measured) in [(self.index.name(), embedded), ("table", database)] {
                table.push([search.to_owned(), name.clone()].into_iter().chain(measured.cells()));
            }
        }
        bar.finish_and_clear();
        let mut text = table.to_text();
        text += &format!("{} users, one search at a time, pgvector {version}", grouped(rows.len() as u64));
        if !self.searcher.is_iterative() {
            text += "; before 0.8 an index can't go on where a filter takes its rows away, so the table is scanned for filters";
        }
        text += "\n";
        Ok(text)
    }
}

fn first(mut lists: Vec<Vec<Scored>>) -> Vec<Scored> {
    lists.pop().unwrap_or_default()
}

/// Up to `count` users, evenly over the table.
fn spread(users: usize, count: usize) -> Vec<UserIdx> {
    let count = count.min(users);
    (0..count).map(|at| UserIdx::from(at * users / count)).collect()
}

/// Searches of one kind.
#[derive(Debug, Default)]
struct Measured {
    times: Vec<Duration>,
    recalls: Vec<f64>,
}

impl Measured {
    fn push(&mut self, time: Duration, exact: &[Scored], found: impl Iterator<Item = u32>) {
        let found: Vec<u32> = found.collect();
        let hits = exact.iter().filter(|entry| found.contains(&entry.item.0)).count();
        self.times.push(time);
        self.recalls.push(if exact.is_empty() { 1.0 } else { hits as f64 / exact.len() as f64 });
    }

    fn cells(mut self) -> [String; 4] {
        self.times.sort_unstable();
        let at = |share: f64| {
            let place = (share * self.times.len() as f64) as usize;
            self.times.get(place.min(self.times.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let milliseconds = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        let mean = self.recalls.iter().sum::<f64>() / self.recalls.len().max(1) as f64;
        let worst = self.recalls.iter().copied().fold(1.0, f64::min);
        [format!("{mean:.4}"), format!("{worst:.1}"), milliseconds(at(0.5)), milliseconds(at(0.99))]
    }
}

/// The filter on one column that lets the share nearest to a hundredth through; nothing where no column has one that lets through
/// between a fifth and five times of that.
fn selective_filter(items: &FeatureTable) -> Result<Option<(String, ItemFilter)>> {
    let mut best: Option<(f64, String)> = None;
    let mut offer = |count: usize, expression: String| {
        let away = (count as f64 / (items.len() as f64 * SELECTIVE)).ln().abs();
        if count > 0 && away <= 5.0_f64.ln() && best.as_ref().is_none_or(|(least, _)| away < *least) {
            best = Some((away, expression));
        }
    };
    for column in &items.columns {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        match &column.values {
            ColumnValues::Text(values) => {
                values.iter().flatten().for_each(|value| *counts.entry(value).or_default() += 1);
            }
            ColumnValues::TextList(values) => {
                values.iter().flatten().for_each(|value| *counts.entry(value).or_default() += 1);
            }
            ColumnValues::Number(values) => {
                let mut known: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
                known.sort_unstable_by(f64::total_cmp);
                let allowed = ((items.len() as f64 * SELECTIVE) as usize).clamp(1, known.len().max(1));
                if let Some(&least) = known.get(known.len().wrapping_sub(allowed)) {
                    let count = known.iter().filter(|value| **value >= least).count();
                    offer(count, format!("{}>={least}", column.name));
                }
            }
            ColumnValues::Day(_) => {}
        }
        if counts.len() <= VALUES {
            let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
            counts.sort_unstable();
            // A value that reads like another form, or has blanks around it, could not be asked for.
            let plain = counts.into_iter().filter(|(value, _)| !value.is_empty() && value.trim() == *value);
            plain.for_each(|(value, count)| offer(count, format!("{}={value}", column.name)));
        }
    }
    let Some((_, expression)) = best else { return Ok(None) };
    let filter = item_filter(items, &expression)?;
    Ok(Some((expression, filter)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, ids::IdMap, table::Column};

    use super::*;

    fn items(values: ColumnValues) -> FeatureTable {
        let ids = (0..values.len()).map(|row| row.to_string()).collect();
        FeatureTable {
            columns: vec![Column { name: "followers".to_owned(), values }],
            ..FeatureTable::from_ids(IdMap::new(ids).unwrap())
        }
    }

    #[test]
    fn the_filter_lets_about_a_hundredth_through() {
        let numbers = items(ColumnValues::Number((0..1_000).map(f64::from).collect()));
        let (expression, filter) = selective_filter(&numbers).unwrap().unwrap();
        assert_eq!((expression.as_str(), filter.count()), ("followers>=990", 10));
        let text = (0..1_000).map(|row| Some(if row % 80 == 0 { "rare" } else { "common" }.to_owned()));
        let (expression, filter) = selective_filter(&items(ColumnValues::Text(text.collect()))).unwrap().unwrap();
        assert_eq!((expression.as_str(), filter.count()), ("followers=rare", 13));
        let same = items(ColumnValues::Number(vec![1.0; 1_000]));
        assert!(selective_filter(&same).unwrap().is_none());
    }

    #[test]
    fn users_are_taken_from_everywhere() {
        let rows: Vec<u32> = spread(10, 3).iter().map(|row| row.0).collect();
        assert_eq!(rows, [0, 3, 6]);
        assert_eq!((spread(2, 100).len(), spread(0, 5).len()), (2, 0));
    }

    #[test]
    fn recall_and_times() {
        let exact = [3, 4].map(|item| Scored { item: ItemIdx(item), score: 1.0 });
        let mut measured = Measured::default();
        measured.push(Duration::from_millis(2), &exact, [4, 9].into_iter());
        measured.push(Duration::from_millis(1), &exact, [4, 3].into_iter());
        assert_eq!(measured.cells(), ["0.7500", "0.5", "2.000", "2.000"]);
    }
}
