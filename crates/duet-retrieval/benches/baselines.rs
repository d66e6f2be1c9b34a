//! Fit time and quality of the baselines on pairs from CSV files, beside `benches/peers/als_implicit.py`, which does the same.
//!
//! `cargo bench -p duet-retrieval --bench baselines -- DIR NAME [KEY=VALUE ...]`, NAME one of als, bpr, ease, item-knn,
//! popularity. DIR holds `interactions_train.csv` and `test.csv` with columns user_id and item_id. Fitting is timed, reading and
//! ranking are not. RAYON_NUM_THREADS sets the threads. Without arguments: made-up pairs, to see that it runs.

use std::{collections::HashMap, path::Path, time::Instant};

use duet_core::{Error, ItemIdx, Result, UserIdx};
use duet_retrieval::{
    EvaluationCase, EvaluationOptions, Recommender,
    baselines::{Als, AlsOptions, Bpr, BprOptions, Ease, Interactions, ItemKnn, ItemKnnOptions, Popularity},
    evaluation::{CatalogueInfo, Panel, evaluate},
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Pairs of rows.
struct Pairs {
    train: Vec<(u32, u32)>,
    test: Vec<(u32, u32)>,
    n_users: usize,
    n_items: usize,
}

impl Pairs {
    fn read(dir: &Path) -> Result<Self> {
        let (mut users, mut items) = (HashMap::new(), HashMap::new());
        let mut read = |name: &str| -> Result<Vec<(u32, u32)>> {
            let path = dir.join(name);
            let text = fs_err::read_to_string(&path).map_err(Error::io(&path))?;
            let mut lines = text.lines();
            let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
            let place = |column: &str| {
                header
                    .iter()
                    .position(|name| *name == column)
                    .ok_or_else(|| Error::data(&path, format!("no column {column}")))
            };
            let (user_at, item_at) = (place("user_id")?, place("item_id")?);
            let mut row = |line: &str| -> Option<(u32, u32)> {
                let cells: Vec<&str> = line.split(',').collect();
                let (next_user, next_item) = (users.len() as u32, items.len() as u32);
                let user = *users.entry((*cells.get(user_at)?).to_owned()).or_insert(next_user);
                Some((user, *items.entry((*cells.get(item_at)?).to_owned()).or_insert(next_item)))
            };
            lines
                .enumerate()
                .map(|(at, line)| row(line).ok_or_else(|| Error::data_row(&path, at as u64 + 2, "too few columns")))
                .collect()
        };
        let (train, test) = (read("interactions_train.csv")?, read("test.csv")?);
        Ok(Self { train, test, n_users: users.len(), n_items: items.len() })
    }

    fn made_up() -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut draw = |pairs: usize| -> Vec<(u32, u32)> {
            let pair = |_| {
                let user = rng.random_range(0..500_u32);
                (user, user % 5 * 40 + rng.random_range(0..40_u32))
            };
            (0..pairs).map(pair).collect()
        };
        Self { train: draw(5000), test: draw(1000), n_users: 500, n_items: 200 }
    }

    /// Rows of users, in the order of the pairs.
    fn by_user(&self, pairs: &[(u32, u32)]) -> Vec<Vec<ItemIdx>> {
        let mut rows = vec![Vec::new(); self.n_users];
        for &(user, item) in pairs {
            rows[user as usize].push(ItemIdx(item));
        }
        rows
    }
}

/// `KEY=VALUE` arguments, all of which must be asked for.
struct Settings(HashMap<String, String>);

impl Settings {
    fn take<T: std::str::FromStr>(&mut self, key: &str, default: T) -> Result<T> {
        match self.0.remove(key) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| Error::input(format!("{key}={text}: not a number of the right kind")))
            }
        }
    }
}

fn fit(name: &str, interactions: &Interactions<'_>, settings: &mut Settings) -> Result<Box<dyn Recommender>> {
    Ok(match name {
        "als" => {
            let AlsOptions { factors, alpha, regularization, iterations, cg_steps, seed } = AlsOptions::default();
            let options = AlsOptions {
                factors: settings.take("factors", factors)?,
                alpha: settings.take("alpha", alpha)?,
                regularization: settings.take("regularization", regularization)?,
                iterations: settings.take("iterations", iterations)?,
                cg_steps: settings.take("cg_steps", cg_steps)?,
                seed: settings.take("seed", seed)?,
            };
            Box::new(Als::new(interactions, options)?)
        }
        "bpr" => {
            let BprOptions { factors, learning_rate, regularization, iterations, seed } = BprOptions::default();
            let options = BprOptions {
                factors: settings.take("factors", factors)?,
                learning_rate: settings.take("learning_rate", learning_rate)?,
                regularization: settings.take("regularization", regularization)?,
                iterations: settings.take("iterations", iterations)?,
                seed: settings.take("seed", seed)?,
            };
            Box::new(Bpr::new(interactions, options)?)
        }
        "ease" => Box::new(Ease::new(interactions, settings.take("lambda", 500.0)?)?),
        "item-knn" => {
            let neighbours = settings.take("neighbours", 200)?;
            Box::new(ItemKnn::new(interactions, ItemKnnOptions { neighbours, ..ItemKnnOptions::default() })?)
        }
        "popularity" => Box::new(Popularity::new(interactions)),
        _ => return Err(Error::unknown("baseline", name, ["als", "bpr", "ease", "item-knn", "popularity"])),
    })
}

fn main() -> Result<()> {
    // cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (pairs, rest) = match arguments.split_first() {
        None => (Pairs::made_up(), &[][..]),
        Some((dir, rest)) => (Pairs::read(Path::new(dir))?, rest),
    };
    let (name, rest) = rest.split_first().map_or(("als", &[][..]), |(name, rest)| (name.as_str(), rest));
    let mut settings = Settings(HashMap::new());
    for argument in rest {
        let Some((key, value)) = argument.split_once('=') else {
            return Err(Error::input(format!("{argument}: expected KEY=VALUE")));
        };
        settings.0.insert(key.to_owned(), value.to_owned());
    }
    let histories = pairs.by_user(&pairs.train);
    let mut offsets = vec![0];
    let mut items = Vec::with_capacity(pairs.train.len());
    for history in &histories {
        items.extend_from_slice(history);
        offsets.push(items.len());
    }
    let interactions = Interactions::new(&offsets, &items, &[], pairs.n_items)?;
    let started = Instant::now();
    let recommender = fit(name, &interactions, &mut settings)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(key) = settings.0.keys().next() {
        return Err(Error::input(format!("{name} has no setting {key}")));
    }
    let truths = pairs.by_user(&pairs.test);
    let cases: Vec<EvaluationCase> = histories
        .into_iter()
        .zip(truths)
        .enumerate()
        .map(|(user, (history, mut truth))| {
            let mut exclude = history.clone();
            exclude.sort_unstable();
            exclude.dedup();
            truth.sort_unstable();
            truth.dedup();
            truth.retain(|item| exclude.binary_search(item).is_err());
            EvaluationCase {
                user_id: user.to_string(),
                user: Some(UserIdx::from(user)),
                cold: history.is_empty(),
                history,
                exclude,
                truth,
                unknown_truth: 0,
            }
        })
        .collect();
    let popularity = interactions.popularity(i64::MIN);
    let catalogue = CatalogueInfo::new(&popularity, pairs.n_users);
    let evaluation = evaluate(recommender.as_ref(), &Panel::new(cases)?, catalogue, &EvaluationOptions::default())?;
    let mean = |metric: &str| evaluation.all.metric(metric).map_or(f64::NAN, |interval| interval.mean);
    println!(
        "{name} users {} items {} pairs {} threads {} fit {seconds:.3} s NDCG@10 {:.4} Recall@10 {:.4} ranking {:.2} s",
        pairs.n_users,
        pairs.n_items,
        pairs.train.len(),
        rayon::current_num_threads(),
        mean("ndcg@10"),
        mean("recall@10"),
        evaluation.seconds
    );
    Ok(())
}
