//! BPR-MF: factors that rank what was played above what was not (Rendle, Freudenthaler, Gantner & Schmidt-Thieme 2009).
//!
//! For a played item i and an item j that the user did not play, stochastic gradient steps on
//! `ln sigmoid(x_u . (y_i - y_j) + b_i - b_j)` with L2 regularisation; j is uniform. One iteration draws as many triples
//! as there are pairs.
//!
//! Threads work on disjoint blocks (Gemulla et al. 2011), so that there are neither locks nor races and their number does
//! not matter: users and items are dealt into blocks, block u meets block (u + turn) of the items, and in a meeting only
//! pairs and negatives of the two blocks are drawn. Blocks are dealt anew for each iteration, which keeps negatives uniform.

use duet_core::{Error, ItemIdx, Result};
use pulp::NullaryFnOnce;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Interactions,
    lanes::{dispatch, dot, padded},
    latent::Latent,
    rows::Rows,
};
use crate::{
    recommender::{Query, Recommender, Scored},
    vectors::Vectors,
};

/// The most blocks a side.
const MAX_BLOCKS: usize = 16;

/// The fewest items and users of a block on average: of fewer, negatives are hardly random.
const MIN_BLOCK: usize = 16;

/// What to fit; the defaults of the Python package `implicit` 0.7.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BprOptions {
    /// Components of a vector, beside the item's bias.
    pub factors: usize,
    /// Step of the gradient.
    pub learning_rate: f64,
    /// Weight of the squared lengths.
    pub regularization: f64,
    /// Passes over the pairs.
    pub iterations: usize,
    /// Seed of the first vectors and of all draws.
    pub seed: u64,
}

impl Default for BprOptions {
    fn default() -> Self {
        Self { factors: 100, learning_rate: 0.01, regularization: 0.01, iterations: 100, seed: 1 }
    }
}

impl BprOptions {
    fn check(&self) -> Result<()> {
        for (name, value) in [("factors", self.factors), ("iterations", self.iterations)] {
            if value == 0 {
                return Err(Error::input(format!("bpr: {name} is 0; it must be at least 1")));
            }
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            let rate = self.learning_rate;
            return Err(Error::input(format!("bpr: learning_rate is {rate}; it must be a positive number")));
        }
        if !(self.regularization.is_finite() && self.regularization >= 0.0) {
            let weight = self.regularization;
            return Err(Error::input(format!("bpr: regularization is {weight}; it must be 0 or a positive number")));
        }
        Ok(())
    }
}

/// The fitted factorisation.
pub struct Bpr {
    latent: Latent,
    options: BprOptions,
}

impl Bpr {
    /// Fits on the distinct pairs of the interactions.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range, or that made the factors diverge.
    pub fn new(interactions: &Interactions<'_>, options: BprOptions) -> Result<Self> {
        options.check()?;
        let pairs = interactions.distinct();
        // One component more: 1 in a user's vector, the bias in an item's.
        let width = padded(options.factors + 1);
        let mut rng = Pcg64Mcg::seed_from_u64(options.seed);
        let mut users = random_rows(pairs.len(), options.factors, width, &mut rng);
        let mut items = random_rows(pairs.n_columns(), options.factors, width, &mut rng);
        for row in users.chunks_exact_mut(width) {
            row[options.factors] = 1.0;
        }
        for _ in 0..options.iterations {
            iterate(&mut users, &mut items, &pairs, width, &options, &mut rng);
        }
        if users.iter().chain(&items).any(|value| !value.is_finite()) {
            let rate = options.learning_rate;
            return Err(Error::input(format!("bpr: the factors diverged at learning_rate {rate}; try a lower one")));
        }
        let latent = Latent::new(interactions, Vectors::new(width, users)?, Vectors::new(width, items)?)?;
        Ok(Self { latent, options })
    }

    /// The mean of the items' vectors, as good as any guess without a gradient step.
    fn fold_in(&self, history: &[u32]) -> Vec<f32> {
        let items = self.latent.items();
        let mut vector = vec![0.0; items.dim];
        let share = 1.0 / history.len().max(1) as f32;
        for &item in history {
            for (sum, value) in vector.iter_mut().zip(items.row(item as usize)) {
                *sum += share * value;
            }
        }
        vector[self.options.factors] = 1.0;
        vector
    }
}

fn random_rows(rows: usize, factors: usize, width: usize, rng: &mut Pcg64Mcg) -> Vec<f32> {
    let mut data = vec![0.0; rows * width];
    let half = 0.5 / factors as f32;
    for row in data.chunks_exact_mut(width) {
        row[..factors].fill_with(|| rng.random_range(-half..half));
    }
    data
}

/// Rows dealt into blocks: where each row is, and which rows each block holds.
struct Deal {
    block: Vec<u32>,
    place: Vec<u32>,
    members: Vec<Vec<u32>>,
}

impl Deal {
    fn new(rows: usize, blocks: usize, rng: &mut Pcg64Mcg) -> Self {
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.shuffle(rng);
        let (mut block, mut place) = (vec![0; rows], vec![0; rows]);
        let members: Vec<Vec<u32>> = order.chunks(rows.div_ceil(blocks).max(1)).map(<[u32]>::to_vec).collect();
        for (at, members) in members.iter().enumerate() {
            for (rank, &row) in members.iter().enumerate() {
                (block[row as usize], place[row as usize]) = (at as u32, rank as u32);
            }
        }
        Self { block, place, members }
    }

    fn take(&self, data: &[f32], width: usize) -> Vec<Vec<f32>> {
        let copy = |members: &Vec<u32>| {
            members.iter().flat_map(|&row| &data[row as usize * width..(row as usize + 1) * width]).copied().collect()
        };
        self.members.par_iter().map(copy).collect()
    }

    fn put_back(&self, blocks: &[Vec<f32>], data: &mut [f32], width: usize) {
        for (members, block) in self.members.iter().zip(blocks) {
            for (&row, values) in members.iter().zip(block.chunks_exact(width)) {
                data[row as usize * width..(row as usize + 1) * width].copy_from_slice(values);
            }
        }
    }
}

/// One pass over all pairs.
fn iterate(users: &mut [f32], items: &mut [f32], pairs: &Rows, width: usize, options: &BprOptions, rng: &mut Pcg64Mcg) {
    let blocks = (pairs.n_columns().min(pairs.len()) / MIN_BLOCK).clamp(1, MAX_BLOCKS);
    let (user_deal, item_deal) = (Deal::new(pairs.len(), blocks, rng), Deal::new(pairs.n_columns(), blocks, rng));
    let mut user_blocks = user_deal.take(users, width);
    let mut item_blocks = item_deal.take(items, width);
    // The last block may be missing where rows do not divide evenly.
    user_blocks.resize(blocks, Vec::new());
    item_blocks.resize(blocks, Vec::new());
    let mut meetings: Vec<Vec<(u32, u32)>> = vec![Vec::new(); blocks * blocks];
    for user in 0..pairs.len() {
        for &item in pairs.of(user) {
            let meeting = user_deal.block[user] as usize * blocks + item_deal.block[item as usize] as usize;
            meetings[meeting].push((user as u32, item));
        }
    }
    let seed = rng.random::<u64>();
    for turn in 0..blocks {
        user_blocks.par_iter_mut().zip(item_blocks.par_iter_mut()).enumerate().for_each(|(at, (users, items))| {
            let partner = (at + turn) % blocks;
            let meeting = at * blocks + partner;
            dispatch(Meeting {
                users,
                items,
                played: &meetings[meeting],
                candidates: item_deal.members.get(partner).map_or(&[], Vec::as_slice),
                pairs,
                deals: (&user_deal, &item_deal),
                width,
                options,
                rng: Pcg64Mcg::seed_from_u64(seed.wrapping_add(meeting as u64)),
            });
        });
        item_blocks.rotate_left(1);
    }
    user_deal.put_back(&user_blocks, users, width);
    item_deal.put_back(&item_blocks, items, width);
}

/// A block of users with a block of items.
struct Meeting<'a> {
    users: &'a mut [f32],
    items: &'a mut [f32],
    played: &'a [(u32, u32)],
    /// The items of the block.
    candidates: &'a [u32],
    pairs: &'a Rows,
    deals: (&'a Deal, &'a Deal),
    width: usize,
    options: &'a BprOptions,
    rng: Pcg64Mcg,
}

impl NullaryFnOnce for Meeting<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { users, items, played, candidates, pairs, deals, width, options, mut rng } = self;
        let BprOptions { factors, learning_rate, regularization, .. } = *options;
        let (rate, regularization) = (learning_rate as f32, regularization as f32);
        let mut difference = vec![0.0_f32; width];
        for _ in 0..played.len() {
            let (user, positive) = played[rng.random_range(0..played.len())];
            let negative = candidates[rng.random_range(0..candidates.len())];
            if pairs.of(user as usize).binary_search(&negative).is_ok() {
                continue;
            }
            let user = deals.0.place[user as usize] as usize * width;
            let (i, j) = (deals.1.place[positive as usize] as usize, deals.1.place[negative as usize] as usize);
            let x = &mut users[user..user + width];
            // Two rows of one block, which are not the same: the negative was not played.
            let (before, after) = items.split_at_mut(i.max(j) * width);
            let (low, high) = (&mut before[i.min(j) * width..][..width], &mut after[..width]);
            let (y_i, y_j) = if i < j { (low, high) } else { (high, low) };
            for at in 0..width {
                difference[at] = y_i[at] - y_j[at];
            }
            let gain = 1.0 / (1.0 + dot(x, &difference).exp());
            for at in 0..width {
                let own = x[at];
                x[at] += rate * (gain * difference[at] - regularization * own);
                y_i[at] += rate * (gain * own - regularization * y_i[at]);
                y_j[at] -= rate * (gain * own + regularization * y_j[at]);
            }
            x[factors] = 1.0;
        }
    }
}

impl Recommender for Bpr {
    fn name(&self) -> &str {
        "bpr"
    }

    fn is_exact(&self) -> bool {
        true
    }

    /// Known users by their vector, others by the mean of their items' vectors; without a history, the most popular items.
    fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.latent.recommend(queries, |items| self.fold_in(items))
    }

    fn similar(&self, item: ItemIdx, k: usize) -> Result<Vec<Scored>> {
        self.latent.similar(item, k, self.options.factors)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::UserIdx;

    use super::*;
    use crate::{
        baselines::Popularity,
        evaluation::{CatalogueInfo, EvaluationCase, EvaluationOptions, Panel, evaluate},
    };

    const ITEMS: usize = 120;

    /// 200 users in four blocks of taste; 12 of the 30 items of their block in training, 3 others to be found.
    fn world() -> (Vec<usize>, Vec<ItemIdx>, Vec<EvaluationCase>) {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let (mut offsets, mut items, mut cases) = (vec![0], Vec::new(), Vec::new());
        for user in 0..200_u32 {
            let mut block: Vec<ItemIdx> = (0..30).map(|item| ItemIdx(user % 4 * 30 + item)).collect();
            block.shuffle(&mut rng);
            let mut seen = block[..12].to_vec();
            items.extend_from_slice(&seen);
            offsets.push(items.len());
            seen.sort_unstable();
            cases.push(EvaluationCase {
                user_id: format!("u{user}"),
                user: Some(UserIdx(user)),
                history: seen.clone(),
                exclude: seen,
                truth: block[12..15].to_vec(),
                unknown_truth: 0,
                cold: false,
            });
        }
        (offsets, items, cases)
    }

    #[test]
    fn beats_popularity_where_taste_comes_in_blocks() {
        let (offsets, items, cases) = world();
        let interactions = Interactions::new(&offsets, &items, &[], ITEMS).unwrap();
        let counts = interactions.popularity(i64::MIN);
        let catalogue = CatalogueInfo::new(&counts, 200);
        let panel = Panel::new(cases).unwrap();
        let ndcg = |recommender: &dyn Recommender| {
            let evaluation = evaluate(recommender, &panel, catalogue, &EvaluationOptions::default()).unwrap();
            evaluation.all.metric("ndcg@10").unwrap().mean
        };
        let options = BprOptions { factors: 16, learning_rate: 0.05, ..BprOptions::default() };
        let (bpr, popularity) =
            (ndcg(&Bpr::new(&interactions, options).unwrap()), ndcg(&Popularity::new(&interactions)));
        // A list of the right block finds 3 of its 18 others by chance: about .34 at best.
        assert!(bpr > 0.25 && bpr > 3.0 * popularity, "bpr {bpr}, popularity {popularity}");
    }

    #[test]
    fn threads_do_not_matter_and_options_are_checked() {
        let (offsets, items, _) = world();
        let interactions = Interactions::new(&offsets, &items, &[], ITEMS).unwrap();
        let options = BprOptions { factors: 8, iterations: 4, ..BprOptions::default() };
        let fit = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let bpr = Bpr::new(&interactions, options).unwrap();
                (bpr.latent.users().clone(), bpr.latent.items().clone())
            })
        };
        let (one, three) = (fit(1), fit(3));
        assert_eq!(one, three);
        let (users, items) = one;
        assert!((0..200).all(|user| users.row(user)[8] == 1.0 && users.row(user)[9..].iter().all(|v| *v == 0.0)));
        assert!((0..ITEMS).any(|item| items.row(item)[8] != 0.0), "a bias must be learnt");
        let refused = |options| Bpr::new(&interactions, options).err().unwrap().to_string();
        assert!(refused(BprOptions { iterations: 0, ..options }).contains("iterations is 0"));
        assert!(refused(BprOptions { learning_rate: 0.0, ..options }).contains("learning_rate is 0"));
        assert!(refused(BprOptions { regularization: -1.0, ..options }).contains("regularization is -1"));
    }
}
