//! What the features know of one listener, worked out once for all candidates.

use std::collections::HashMap;

use duet_core::{ItemIdx, UserIdx};

use super::{
    DAY_MS,
    knowledge::{Instant, ItemColumn, Knowledge},
};

/// Events of the history that shares are taken over.
const HISTORY: usize = 200;
/// Last items whose vectors a candidate is compared with.
const RECENT: usize = 10;

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct RerankListener<'a> {
    /// The row of the users table, if there is one.
    pub user: Option<UserIdx>,
    /// Everything the listener played, oldest first. Empty: the user's own events of the dataset. What stands beyond those counts as
    /// played today.
    pub history: &'a [ItemIdx],
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: i64,
}

/// Counts over a listener's last events.
#[derive(Debug)]
pub(super) struct Listener {
    /// Events behind the shares.
    pub(super) window: usize,
    /// Times each item stands among them.
    pub(super) items: HashMap<u32, u32>,
    /// For every column of the items: times each value stands among them.
    pub(super) values: Vec<HashMap<u32, u32>>,
    /// The day of the last event with an item.
    pub(super) last_days: HashMap<u32, i32>,
    /// Sum and number of `ln(weight)` above the mean, by item.
    pub(super) item_strength: HashMap<u32, (f32, u32)>,
    /// The same by value of the first column of the items.
    pub(super) value_strength: HashMap<u32, (f32, u32)>,
    /// The last items, the newest first.
    pub(super) recent: Vec<u32>,
    /// The mean of their directions.
    pub(super) direction: Vec<f32>,
    pub(super) events: usize,
    pub(super) tenure: f32,
    pub(super) idle: f32,
}

impl Listener {
    pub(super) fn new(knowledge: &Knowledge, user: Option<UserIdx>, history: &[ItemIdx], instant: Instant) -> Self {
        let timeline = &knowledge.timeline;
        let user = user.filter(|user| user.index() + 1 < timeline.offsets.len());
        let own = user.map_or(0..0, |user| timeline.range(user));
        // Nothing of a later day than the one that is asked about.
        let own = match timeline.timestamps_ms.get(own.clone()) {
            Some(times) => {
                let known = times.partition_point(|time| time.div_euclid(DAY_MS) <= i64::from(instant.today));
                own.start..own.start + known
            }
            None => own,
        };
        let own_items = &timeline.items[own.clone()];
        let history = if history.is_empty() { own_items } else { history };
        let mut listener = Self {
            window: history.len().min(HISTORY),
            items: HashMap::new(),
            values: vec![HashMap::new(); knowledge.item_columns.len()],
            last_days: HashMap::new(),
            item_strength: HashMap::new(),
            value_strength: HashMap::new(),
            recent: history.iter().rev().take(RECENT).map(|item| item.0).collect(),
            direction: vec![0.0; knowledge.width],
            events: history.len().max(own_items.len()),
            tenure: f32::NAN,
            idle: f32::NAN,
        };
        for item in &history[history.len() - listener.window..] {
            *listener.items.entry(item.0).or_default() += 1;
            for (counts, column) in listener.values.iter_mut().zip(&knowledge.item_columns) {
                for value in column.of(item.index()) {
                    *counts.entry(*value).or_default() += 1;
                }
            }
        }
        for &item in &listener.recent {
            for (sum, value) in listener.direction.iter_mut().zip(knowledge.direction(item as usize)) {
                *sum += value / listener.recent.len() as f32;
            }
        }
        listener.times(knowledge, user, own.clone(), history, instant);
        listener.strengths(knowledge.item_columns.first(), own_items, timeline.weights.get(own).unwrap_or(&[]));
        listener
    }

    fn times(
        &mut self,
        knowledge: &Knowledge,
        user: Option<UserIdx>,
        own: std::ops::Range<usize>,
        history: &[ItemIdx],
        instant: Instant,
    ) {
        let timeline = &knowledge.timeline;
        let days: Vec<i32> = match timeline.timestamps_ms.get(own.clone()) {
            Some(times) => times.iter().map(|time| time.div_euclid(DAY_MS) as i32).collect(),
            None => Vec::new(),
        };
        if !days.is_empty() {
            for (item, day) in timeline.items[own.clone()].iter().zip(&days) {
                self.last_days.insert(item.0, *day);
            }
        }
        if knowledge.has_time {
            // Events after the dataset: their times are not handed over, and they are of these days.
            if history.len() > own.len() && (own.is_empty() || history.starts_with(&timeline.items[own.clone()])) {
                for item in &history[own.len()..] {
                    self.last_days.insert(item.0, instant.today);
                }
                if user.is_some() {
                    self.idle = 0.0;
                }
            } else if let Some(last) = days.last() {
                self.idle = (instant.today - last).max(0) as f32;
            }
        }
        self.tenure = match (user.and_then(|user| knowledge.tenure(user)), days.first()) {
            (Some(sign_up), _) => (instant.today - sign_up).max(0) as f32,
            (None, Some(first)) => (instant.today - first).max(0) as f32,
            (None, None) => f32::NAN,
        };
    }

    fn strengths(&mut self, column: Option<&ItemColumn>, items: &[ItemIdx], weights: &[f32]) {
        if weights.is_empty() || weights.len() != items.len() {
            return;
        }
        let logs: Vec<f32> = weights.iter().map(|weight| weight.max(f32::MIN_POSITIVE).ln()).collect();
        let mean = logs.iter().sum::<f32>() / logs.len() as f32;
        let add = |(sum, count): &mut (f32, u32), log: f32| {
            *sum += log - mean;
            *count += 1;
        };
        for (item, log) in items.iter().zip(logs) {
            add(self.item_strength.entry(item.0).or_default(), log);
            for value in column.map_or(&[][..], |column| column.of(item.index())) {
                add(self.value_strength.entry(*value).or_default(), log);
            }
        }
    }
}
