//! Made-up work of a given shape: events by a power law, batches, a model to train on them.

use std::time::{Duration, Instant};

use duet_core::{
    Error, ItemIdx, Result,
    config::Config,
    encoding::EncodedTable,
    mixing::{GOLDEN, splitmix64},
};
use duet_data::dataset::Timeline;
use duet_model::{
    batch::Batch,
    device::OpenDevice,
    embedding::to_host,
    model::{DataShape, TwoTower},
    step::{Learner, Rates},
};
use duet_train::{batcher::Batcher, examples::Examples};

/// The shape of a step.
const CONFIG: &str = include_str!("../../../configs/bench.toml");
const SEED: u64 = 20_261_124;
/// Values of the three features of a user: an age bucket, a city, a country, say.
const FEATURE_VALUES: [u32; 3] = [10, 3000, 200];
/// Items where only one number is wanted.
pub(super) const ITEMS: usize = 200_000;
/// Users where only batches are wanted.
pub(super) const USERS: usize = 20_000;

/// `configs/bench.toml` with some settings changed.
pub(super) fn config(settings: &[String]) -> Result<Config> {
    Config::resolve(&[("configs/bench.toml", CONFIG)], settings)
}

/// SplitMix64 (Steele et al., 2014): enough for made-up data.
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(salt: u64) -> Self {
        Self(SEED ^ salt)
    }

    fn next(&mut self) -> u64 {
        let draw = splitmix64(self.0);
        self.0 = self.0.wrapping_add(GOLDEN);
        draw
    }

    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }
}

/// Full windows of items of rank `n^u` (Zipf's law with exponent 1), popular ranks scattered over the table.
pub(super) fn examples(config: &Config, users: usize, items: usize) -> Result<Examples> {
    let mut draws = Draws::new(0);
    let window = config.data.window;
    let mut timeline = Timeline { offsets: (0..=users).map(|user| user * window).collect(), ..Timeline::default() };
    timeline.items = (0..users * window)
        .map(|_| {
            let rank = (((items + 1) as f64).powf(draws.unit()) as usize).clamp(1, items) - 1;
            // A prime above every size used here: a permutation.
            ItemIdx::from((rank as u64 * 2_147_483_647 % items as u64) as usize)
        })
        .collect();
    let mut features =
        EncodedTable { rows: users, slots: FEATURE_VALUES.len(), bag_offsets: vec![0], ..EncodedTable::default() };
    for _ in 0..users {
        let mut start = 0;
        for values in FEATURE_VALUES {
            features.bag_ids.push(start + draws.below(values as usize) as u32);
            features.bag_offsets.push(features.bag_ids.len() as u32);
            start += values;
        }
    }
    let no_features = EncodedTable { rows: items, bag_offsets: vec![0], ..EncodedTable::default() };
    Examples::new(timeline, features, no_features, items)
}

/// Batches in the order of training, epoch after epoch.
pub(super) struct Source<'a> {
    batcher: Batcher<'a>,
    epoch: usize,
    number: usize,
    order: Vec<Vec<usize>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(config: &'a Config, examples: &'a Examples) -> Self {
        let batcher = Batcher::new(config, examples, config.model.shared_table, SEED);
        let order = batcher.order(0);
        Self { batcher, epoch: 0, number: 0, order }
    }

    pub(super) fn draw(&mut self) -> Batch {
        if self.number == self.order.len() {
            (self.epoch, self.number) = (self.epoch + 1, 0);
            self.order = self.batcher.order(self.epoch);
        }
        self.number += 1;
        self.batcher.batch(self.epoch, self.number - 1, &self.order[self.number - 1])
    }

    pub(super) fn draw_many(&mut self, count: usize) -> Vec<Batch> {
        (0..count).map(|_| self.draw()).collect()
    }
}

/// A fresh model for [`examples`].
pub(super) fn model(config: &Config, device: &OpenDevice, users: usize, items: usize) -> TwoTower {
    let user_vocabulary = FEATURE_VALUES.iter().sum::<u32>() as usize;
    let shape = DataShape { users, items, user_vocabulary, ..DataShape::default() };
    TwoTower::new(&config.model, &config.loss, shape, device, SEED)
}

/// [`model`] with its optimisers.
pub(super) fn learner(config: &Config, device: &OpenDevice, items: usize) -> Learner {
    Learner::new(model(config, device, USERS, items), config)
}

/// Seconds of the parts of some steps.
#[derive(Default)]
pub(super) struct Times {
    pub(super) forward: Vec<f64>,
    pub(super) loss: Vec<f64>,
    pub(super) backward: Vec<f64>,
    pub(super) update: Vec<f64>,
    pub(super) step: Vec<f64>,
    seed: u64,
}

impl Times {
    /// One step. The loss is read, so that nothing is left to be computed.
    pub(super) fn step(&mut self, learner: &mut Learner, config: &Config, batch: &Batch) -> Result<()> {
        self.seed += 1;
        let started = Instant::now();
        let train = &config.train;
        let rates = Rates { towers: train.tower_rate, tables: train.table_rate, features: train.feature_rate };
        let output = learner.step(batch, rates, self.seed)?;
        let loss = to_host(output.loss)?[0];
        self.step.push(started.elapsed().as_secs_f64());
        let times = output.times;
        let parts = [times.forward, times.loss, times.backward, times.update].map(|time: Duration| time.as_secs_f64());
        for (values, seconds) in
            [&mut self.forward, &mut self.loss, &mut self.backward, &mut self.update].into_iter().zip(parts)
        {
            values.push(seconds);
        }
        if loss.is_finite() { Ok(()) } else { Err(Error::Internal(format!("the loss is {loss}"))) }
    }

    pub(super) fn clear(&mut self) {
        let seed = self.seed;
        *self = Self { seed, ..Self::default() };
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = usize>) -> f64 {
    let count = values.len() as f64;
    values.sum::<usize>() as f64 / count
}
