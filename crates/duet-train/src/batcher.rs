//! Training events to batches.
//!
//! Every batch is a function of (seed, epoch, batch number) alone, so that a resumed run sees what the stopped one would have.

use duet_core::{
    UserIdx,
    config::{CandidateSource, Config, Objective},
};
use duet_model::{
    batch::{Batch, Candidates},
    feature_bags::FeatureRows,
    loss::Targets,
    unique::Unique,
};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;

use crate::{
    examples::Examples,
    windows::{Window, WindowsBuilder, history_weight},
};

const DAY_MS: f64 = 86_400_000.0;

/// Items up to which `auto` takes the whole catalogue: a step of 2,048 rows then costs about as much as one with 4,096 sampled
/// columns, times five at most, and needs no correction.
const CATALOGUE_UP_TO: usize = 20_000;

/// Whether a step ranks every trained item.
pub(crate) fn ranks_catalogue(candidates: CandidateSource, trained_items: usize) -> bool {
    match candidates {
        CandidateSource::Catalogue => true,
        CandidateSource::Sampled => false,
        CandidateSource::Auto => trained_items <= CATALOGUE_UP_TO,
    }
}

/// Windows are sorted by length within groups of this many batches, so that little is padding.
const SORTED_BATCHES: usize = 8;

/// A piece of a user's events: `start..end` of them, the loss from position `loss_from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    user: u32,
    start: u32,
    end: u32,
    loss_from: u32,
}

/// Makes batches.
#[derive(Debug)]
pub struct Batcher<'a> {
    config: &'a Config,
    examples: &'a Examples,
    spans: Vec<Span>,
    /// Candidate numbering, then history numbering.
    items: Unique,
    history: Unique,
    features: Unique,
    /// Column of every item when all trained items are candidates.
    catalogue: Option<Catalogue>,
    seed: u64,
    shared: bool,
}

#[derive(Debug)]
struct Catalogue {
    column: Vec<u32>,
    features: FeatureRows,
}

/// One row before its columns are known.
struct Row {
    targets: Vec<u32>,
    weight: f32,
    window: u32,
    prefix: u32,
}

impl<'a> Batcher<'a> {
    /// `shared`: whether the model has one table for items as history and as candidates; `seed`: of this fit.
    pub fn new(config: &'a Config, examples: &'a Examples, shared: bool, seed: u64) -> Self {
        let n_items = examples.counts.len();
        let vocabulary =
            |table: &duet_core::encoding::EncodedTable| table.bag_ids.iter().max().map_or(0, |&id| id as usize + 1);
        let mut features = Unique::new(vocabulary(&examples.users).max(vocabulary(&examples.items)));
        let catalogue = ranks_catalogue(config.loss.candidates, examples.trained.len()).then(|| {
            let mut column = vec![u32::MAX; n_items];
            for (number, &item) in examples.trained.iter().enumerate() {
                column[item as usize] = number as u32;
            }
            let features = FeatureRows::collect(&examples.items, examples.trained.iter().copied(), &mut features);
            Catalogue { column, features }
        });
        Self {
            config,
            examples,
            spans: spans(config, examples),
            items: Unique::new(n_items),
            history: Unique::new(n_items),
            features,
            catalogue,
            seed,
            shared,
        }
    }

    /// Batches an epoch.
    pub fn batches(&self) -> usize {
        self.spans.len().div_ceil(self.config.train.batch_windows)
    }

    /// The order of an epoch: windows shuffled, then grouped so that those of a batch are about as long.
    pub fn order(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut rng = self.rng(epoch, u64::MAX);
        let mut order: Vec<usize> = (0..self.spans.len()).collect();
        order.shuffle(&mut rng);
        let size = self.config.train.batch_windows;
        for group in order.chunks_mut(size * SORTED_BATCHES) {
            group.sort_by_key(|&span| self.spans[span].end - self.spans[span].start);
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
        batches.shuffle(&mut rng);
        batches
    }

    fn rng(&self, epoch: usize, number: u64) -> Pcg64Mcg {
        let mixed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ ((epoch as u64) << 40)
            ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d);
        Pcg64Mcg::seed_from_u64(mixed)
    }

    /// The batch of the given windows. It may hold no row at all (nothing to predict in any window).
    pub fn batch(&mut self, epoch: usize, number: usize, windows: &[usize]) -> Batch {
        let mut rng = self.rng(epoch, number as u64);
        let mut rows = Vec::new();
        let mut drawn = Vec::with_capacity(windows.len());
        for &span in windows {
            let span = self.spans[span];
            let window = drawn.len() as u32;
            let draw = match self.config.data.objective {
                Objective::Next => self.draw_next(span, window, &mut rows, &mut rng),
                Objective::Masked => self.draw_masked(span, window, &mut rows, &mut rng),
            };
            drawn.push(draw);
        }
        let candidates = self.candidates(&rows, &mut rng);
        let targets = self.targets(&rows, &drawn, &candidates);
        let config = self.config;
        let mut builder = WindowsBuilder::new(config);
        self.history.clear();
        if self.shared {
            for &item in &candidates.items {
                self.history.index(item);
            }
        }
        let mut prefixes = vec![Vec::new(); drawn.len()];
        for row in &rows {
            prefixes[row.window as usize].push(row.prefix as usize);
        }
        for (draw, prefixes) in drawn.iter().zip(prefixes) {
            let window = Window {
                user: draw.user,
                user_row: draw.span.user,
                items: &draw.items,
                weights: &draw.weights,
                before: draw.before,
            };
            builder.push(&window, prefixes, |item| self.history.index(item));
        }
        let windows = builder.finish(self.history.ids().to_vec(), &self.examples.users, &mut self.features);
        Batch { windows, candidates, targets }
    }

    fn events(&self, span: Span) -> usize {
        self.examples.timeline.offsets[span.user as usize]
    }

    fn weights(&self, events: std::ops::Range<usize>, rng: &mut Pcg64Mcg) -> Vec<f32> {
        let data = &self.config.data;
        let timeline = &self.examples.timeline;
        events
            .map(|event| {
                let dropped = data.history_dropout > 0.0 && rng.random::<f64>() < data.history_dropout;
                if dropped { 0.0 } else { history_weight(data, timeline.weights.get(event).copied()) }
            })
            .collect()
    }

    /// `next`: rows at a sample of the window's positions, each with the items that follow.
    fn draw_next(&self, span: Span, window: u32, rows: &mut Vec<Row>, rng: &mut Pcg64Mcg) -> Draw {
        let data = &self.config.data;
        let first = self.events(span);
        let last = self.examples.timeline.offsets[span.user as usize + 1];
        let (start, end) = (first + span.start as usize, first + span.end as usize);
        let timeline = &self.examples.timeline;
        let positions: Vec<usize> = (start + span.loss_from as usize..end)
            .filter(|&position| {
                // A user's very first position is always trained on: it is all that new users have.
                position == first || data.position_fraction >= 1.0 || rng.random::<f64>() < data.position_fraction
            })
            .collect();
        for position in positions {
            let mut targets: Vec<u32> = Vec::with_capacity(data.future_items);
            for event in position..last {
                let item = timeline.items[event].0;
                let wanted = if data.new_items_only { self.examples.is_first[event] } else { !targets.contains(&item) };
                if wanted {
                    targets.push(item);
                }
                let full = if data.new_items_only { targets.len() } else { event + 1 - position };
                if full >= data.future_items {
                    break;
                }
            }
            if !targets.is_empty() {
                let weight = self.recency(position);
                rows.push(Row { targets, weight, window, prefix: (position - start) as u32 });
            }
        }
        Draw {
            span,
            user: self.feature_row(span, rng),
            items: timeline.items[start..end].to_vec(),
            weights: self.weights(start..end, rng),
            before: span.start as usize,
            known: first..end,
            start,
        }
    }

    fn feature_row(&self, span: Span, rng: &mut Pcg64Mcg) -> u32 {
        let dropout = self.config.model.feature_dropout;
        let dropped = dropout > 0.0 && rng.random::<f64>() < dropout;
        if dropped { self.examples.n_users() as u32 } else { span.user }
    }

    fn recency(&self, event: usize) -> f32 {
        let half_life = self.config.data.recency_half_life_days;
        match (self.examples.timeline.timestamps_ms.get(event), self.examples.last_ms) {
            (Some(&at), Some(last)) if half_life > 0.0 => (-((last - at) as f64 / DAY_MS) / half_life).exp2() as f32,
            _ => 1.0,
        }
    }

    /// `masked`: one row, a random part of the items as history, the rest as targets.
    fn draw_masked(&self, span: Span, window: u32, rows: &mut Vec<Row>, rng: &mut Pcg64Mcg) -> Draw {
        let data = &self.config.data;
        let first = self.events(span);
        let timeline = &self.examples.timeline;
        let mut events: Vec<usize> = (first + span.start as usize..first + span.end as usize)
            .filter(|&event| self.examples.is_first[event])
            .collect();
        if events.len() > data.window {
            events.shuffle(rng);
            events.truncate(data.window);
        }
        let [least, greatest] = data.keep_fraction;
        let keep = least + (greatest - least) * rng.random::<f64>();
        let (history, targets): (Vec<usize>, Vec<usize>) = events.into_iter().partition(|_| rng.random::<f64>() < keep);
        let weight_of = |event: usize| {
            let dropped = data.history_dropout > 0.0 && rng.random::<f64>() < data.history_dropout;
            if dropped { 0.0 } else { history_weight(data, timeline.weights.get(event).copied()) }
        };
        let weights: Vec<f32> = history.iter().copied().map(weight_of).collect();
        let items = history.iter().map(|&event| timeline.items[event]).collect::<Vec<_>>();
        if !targets.is_empty() {
            rows.push(Row {
                weight: targets.len() as f32,
                targets: targets.iter().map(|&event| timeline.items[event].0).collect(),
                window,
                prefix: items.len() as u32,
            });
        }
        Draw { span, user: self.feature_row(span, rng), items, weights, before: 0, known: 0..0, start: 0 }
    }

    fn candidates(&mut self, rows: &[Row], rng: &mut Pcg64Mcg) -> Candidates {
        let examples = self.examples;
        let (items, features) = match &self.catalogue {
            Some(catalogue) => (examples.trained.clone(), catalogue.features.clone()),
            None => {
                self.items.clear();
                for &target in rows.iter().flat_map(|row| &row.targets) {
                    self.items.index(target);
                }
                for _ in 0..self.config.loss.uniform_negatives {
                    let at = rng.random_range(0..examples.trained.len());
                    self.items.index(examples.trained[at]);
                }
                for _ in 0..self.config.loss.popularity_negatives {
                    self.items.index(examples.draw_popular(rng));
                }
                let items = self.items.ids().to_vec();
                let features = FeatureRows::collect(&examples.items, items.iter().copied(), &mut self.features);
                (items, features)
            }
        };
        let dropout = self.config.model.id_dropout;
        let keep_id = items.iter().map(|_| dropout == 0.0 || rng.random::<f64>() >= dropout).collect();
        Candidates { items, keep_id, features }
    }

    fn column(&self, item: u32) -> Option<u32> {
        match &self.catalogue {
            Some(catalogue) => catalogue.column.get(item as usize).copied(),
            None => self.items.get(item),
        }
    }

    fn targets(&self, rows: &[Row], drawn: &[Draw], candidates: &Candidates) -> Targets {
        let mut out = Targets { offsets: vec![0], ..Targets::default() };
        for row in rows {
            let share = 1.0 / row.targets.len() as f32;
            for &target in &row.targets {
                out.columns.extend(self.column(target));
                out.shares.push(share);
            }
            out.offsets.push(out.columns.len() as u32);
            out.row_weights.push(row.weight);
            out.windows.push(row.window);
            out.prefixes.push(row.prefix);
        }
        if self.config.loss.mask_history {
            self.mask(drawn, &mut out);
        }
        out.log_inclusion = self.log_inclusion(rows, candidates);
        out.corrects_positives = self.config.loss.logq_positives;
        out
    }

    fn mask(&self, drawn: &[Draw], out: &mut Targets) {
        let timeline = &self.examples.timeline;
        out.seen_offsets.push(0);
        for draw in drawn {
            let mut know = |item: u32, place: usize| {
                if let Some(column) = self.column(item) {
                    out.seen_columns.push(column);
                    out.seen_places.push(place as u32);
                }
            };
            if draw.known.is_empty() {
                for item in &draw.items {
                    know(item.0, 0);
                }
            }
            for event in draw.known.clone().filter(|&event| self.examples.is_first[event]) {
                know(timeline.items[event].0, event.saturating_sub(draw.start));
            }
            out.seen_offsets.push(out.seen_columns.len() as u32);
        }
    }

    /// `ln` of the probability that a column is in the batch: as a target of one of its rows, or drawn as a negative.
    fn log_inclusion(&self, rows: &[Row], candidates: &Candidates) -> Vec<f32> {
        let loss = &self.config.loss;
        if self.catalogue.is_some() || !loss.logq {
            return vec![0.0; candidates.items.len()];
        }
        let draws = rows.iter().map(|row| row.targets.len()).sum::<usize>() as f64;
        let events = self.examples.timeline.items.len() as f64;
        let uniform = 1.0 / self.examples.trained.len() as f64;
        let absent = |probability: f64, draws: f64| draws * (-probability).ln_1p();
        candidates
            .items
            .iter()
            .map(|&item| {
                let frequency = (f64::from(self.examples.counts[item as usize]) / events).min(1.0 - 1e-9);
                let log_absent = absent(frequency, draws)
                    + absent(uniform.min(1.0 - 1e-9), loss.uniform_negatives as f64)
                    + absent(self.examples.popular_probability(item).min(1.0 - 1e-9), loss.popularity_negatives as f64);
                (-log_absent.exp_m1()).max(1e-12).ln() as f32
            })
            .collect()
    }
}

/// A window as drawn for one batch.
struct Draw {
    span: Span,
    /// Row of the encoded user features: the user's, or the one in which everything is missing.
    user: u32,
    items: Vec<duet_core::ItemIdx>,
    weights: Vec<f32>,
    before: usize,
    /// Events that say what the user knows; empty when just the window's own items do.
    known: std::ops::Range<usize>,
    /// First event of the window.
    start: usize,
}

/// Windows of all users. Histories longer than a window are cut from the end, overlapping by half; the loss is taken on the
/// half that has context, except in a user's first window.
fn spans(config: &Config, examples: &Examples) -> Vec<Span> {
    let length = config.data.window as u32;
    let mut spans = Vec::new();
    for user in 0..examples.n_users() {
        let events = examples.timeline.range(UserIdx::from(user)).len() as u32;
        let user = user as u32;
        if events == 0 {
            continue;
        }
        if config.data.objective == Objective::Masked || events <= length {
            spans.push(Span { user, start: 0, end: events, loss_from: 0 });
            continue;
        }
        let stride = (length / 2).max(1);
        let mut end = events;
        loop {
            let start = end.saturating_sub(length);
            let loss_from = if start == 0 { 0 } else { length - stride };
            spans.push(Span { user, start, end, loss_from });
            if start == 0 {
                break;
            }
            end = start + length - stride;
        }
    }
    spans
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, encoding::EncodedTable};
    use duet_data::dataset::Timeline;

    use super::*;

    fn examples(histories: &[&[u32]], n_items: usize) -> Examples {
        let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
        for history in histories {
            timeline.items.extend(history.iter().copied().map(ItemIdx));
            timeline.offsets.push(timeline.items.len());
        }
        let table = |rows: usize| EncodedTable { rows, bag_offsets: vec![0], ..EncodedTable::default() };
        Examples::new(timeline, table(histories.len()), table(n_items), n_items).unwrap()
    }

    fn config(settings: &[&str]) -> Config {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        Config::resolve(&[], &settings).unwrap()
    }

    #[test]
    fn every_position_is_predicted_once_from_what_came_before() {
        for length in [1, 3, 4, 5, 8, 11, 30] {
            let history: Vec<u32> = (0..length).collect();
            let examples = examples(&[&history], 40);
            let config = config(&["data.window=4", "loss.candidates=sampled", "loss.uniform_negatives=3"]);
            let mut batcher = Batcher::new(&config, &examples, true, 1);
            let mut predicted = Vec::new();
            for (number, windows) in batcher.order(0).into_iter().enumerate() {
                let batch = batcher.batch(0, number, &windows);
                for row in 0..batch.rows() {
                    let targets = &batch.targets;
                    let column = targets.columns[targets.offsets[row] as usize];
                    let target = batch.candidates.items[column as usize];
                    predicted.push(target);
                    // With items numbered by time, everything the row may see is smaller than its target.
                    let (window, prefix) =
                        (batch.windows.row_windows[row] as usize, batch.windows.row_prefixes[row] as usize);
                    let tokens = &batch.windows.tokens[window * batch.windows.slots..][..prefix];
                    assert!(tokens.iter().all(|&token| batch.windows.history[token as usize] < target));
                    assert_eq!(prefix == 0, target == 0);
                    // What is masked for the row is exactly what the user had before.
                    let range = targets.seen_offsets[window] as usize..targets.seen_offsets[window + 1] as usize;
                    let masked = range.filter(|&at| targets.seen_places[at] < targets.prefixes[row]);
                    assert!(
                        masked.clone().all(|at| batch.candidates.items[targets.seen_columns[at] as usize] < target)
                    );
                }
                assert!(batch.windows.history.starts_with(&batch.candidates.items));
            }
            predicted.sort_unstable();
            assert_eq!(predicted, history, "length {length}");
        }
    }

    #[test]
    fn batches_depend_on_seed_epoch_and_number_alone() {
        let histories: Vec<Vec<u32>> =
            (0..50).map(|user| (0..10).map(|at| (user * 7 + at * 3) % 40).collect()).collect();
        let views: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        let examples = examples(&views, 40);
        let config = config(&[
            "data.window=6",
            "data.history_dropout=0.3",
            "data.position_fraction=0.5",
            "train.batch_windows=8",
        ]);
        let draw = |seed: u64, epoch: usize, warm: bool| {
            let mut batcher = Batcher::new(&config, &examples, false, seed);
            let order = batcher.order(epoch);
            if warm {
                batcher.batch(epoch, 0, &order[0]);
            }
            let batch = batcher.batch(epoch, 3, &order[3]);
            (batch.windows.tokens, batch.candidates.items, batch.targets.columns)
        };
        assert_eq!(draw(1, 2, false), draw(1, 2, true));
        assert_ne!(draw(1, 2, false), draw(1, 3, false));
        assert_ne!(draw(1, 2, false), draw(2, 2, false));
    }

    #[test]
    fn masked_targets_are_not_in_the_history_and_repeats_count_once() {
        let examples = examples(&[&[1, 2, 3, 1, 2, 4, 5, 6]], 10);
        let config = config(&["data.objective=masked", "loss.candidates=catalogue"]);
        let mut batcher = Batcher::new(&config, &examples, true, 5);
        for epoch in 0..20 {
            let batch = batcher.batch(epoch, 0, &[0]);
            let history: Vec<u32> = batch
                .windows
                .tokens
                .iter()
                .filter_map(|&token| batch.windows.history.get(token as usize).copied())
                .collect();
            let targets: Vec<u32> =
                batch.targets.columns.iter().map(|&column| batch.candidates.items[column as usize]).collect();
            let mut all = [history, targets].concat();
            all.sort_unstable();
            assert!(batch.rows() == 0 || all == [1, 2, 3, 4, 5, 6], "{all:?}");
        }
    }

    #[test]
    fn inclusion_probability_agrees_with_counting() {
        let histories: Vec<Vec<u32>> = (0..200).map(|user| vec![user % 3, 3 + user % 20]).collect();
        let views: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        let examples = examples(&views, 23);
        let config = config(&[
            "loss.candidates=sampled",
            "loss.uniform_negatives=4",
            "loss.popularity_negatives=2",
            "train.batch_windows=4",
        ]);
        let mut batcher = Batcher::new(&config, &examples, true, 9);
        let (mut seen, mut expected, mut batches) = (0.0, 0.0, 0.0);
        for epoch in 0..40 {
            for (number, windows) in batcher.order(epoch).into_iter().enumerate() {
                let batch = batcher.batch(epoch, number, &windows);
                // Items 3 to 22 are all alike.
                for (at, _) in batch.candidates.items.iter().enumerate().filter(|(_, item)| **item >= 3) {
                    seen += 1.0 / 20.0;
                    expected = f64::from(batch.targets.log_inclusion[at].exp());
                }
                batches += 1.0;
            }
        }
        let frequency: f64 = seen / batches;
        assert!((frequency - expected).abs() < 0.01, "{frequency} counted, {expected} computed");
    }
}
