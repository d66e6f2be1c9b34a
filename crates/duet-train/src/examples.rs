//! What the model learns from, in memory: training events, encoded features, popularity.

use duet_core::{Result, encoding::EncodedTable};
use duet_data::dataset::Timeline;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::prior::item_counts;

/// Training events with everything the batches need to know about users and items.
#[derive(Debug)]
pub struct Examples {
    /// Training events.
    pub timeline: Timeline,
    /// For every event: whether it is the user's first with that item.
    pub is_first: Vec<bool>,
    /// Encoded user features, one row a user.
    pub users: EncodedTable,
    /// Encoded item features, one row an item.
    pub items: EncodedTable,
    /// Training events of each item.
    pub counts: Vec<u32>,
    /// Items with at least one training event, ascending: only these are ever candidates in training.
    pub trained: Vec<u32>,
    /// Cumulative `count^0.75` over `trained`.
    popularity: Vec<f64>,
    /// Last event, if events have time.
    pub last_ms: Option<i64>,
}

impl Examples {
    /// Prepares the training events.
    ///
    /// # Errors
    /// [`duet_core::Error::Input`] if there is no event at all.
    pub fn new(timeline: Timeline, users: EncodedTable, items: EncodedTable, n_items: usize) -> Result<Self> {
        let counts = item_counts(&timeline, n_items);
        let trained: Vec<u32> = (0..n_items as u32).filter(|&item| counts[item as usize] > 0).collect();
        if trained.is_empty() {
            return Err(duet_core::Error::input("the dataset holds no training event"));
        }
        let popularity = trained
            .iter()
            .scan(0.0, |total, &item| {
                *total += f64::from(counts[item as usize]).powf(0.75);
                Some(*total)
            })
            .collect();
        let is_first = first_occurrences(&timeline, n_items);
        let last_ms = timeline.timestamps_ms.iter().copied().max();
        Ok(Self { timeline, is_first, users, items, counts, trained, popularity, last_ms })
    }

    /// Users, known by events or by features alone.
    pub fn n_users(&self) -> usize {
        self.timeline.offsets.len() - 1
    }

    /// A trained item drawn by popularity^0.75.
    pub fn draw_popular(&self, rng: &mut Pcg64Mcg) -> u32 {
        let total = self.popularity.last().copied().unwrap_or(1.0);
        let mass = rng.random::<f64>() * total;
        let at = self.popularity.partition_point(|&sum| sum <= mass);
        self.trained[at.min(self.trained.len() - 1)]
    }

    /// Probability that one draw of [`Examples::draw_popular`] gives `item`.
    pub fn popular_probability(&self, item: u32) -> f64 {
        let total = self.popularity.last().copied().unwrap_or(1.0);
        f64::from(self.counts[item as usize]).powf(0.75) / total
    }
}

fn first_occurrences(timeline: &Timeline, n_items: usize) -> Vec<bool> {
    let mut last_user = vec![usize::MAX; n_items];
    let mut is_first = Vec::with_capacity(timeline.items.len());
    for (user, range) in timeline.offsets.windows(2).enumerate() {
        for item in &timeline.items[range[0]..range[1]] {
            is_first.push(last_user[item.index()] != user);
            last_user[item.index()] = user;
        }
    }
    is_first
}
