//! First stage: what the listener played, from the bundle and since.
//!
//! Items that the model never learned anything of are seen like all others, but the towers don't get them: their rows in the tables are
//! noise.

use duet_core::ItemIdx;
use duet_train::embedding_pass::UserInput;

use super::Draft;
use crate::{engine::Engine, meters::StageMeter, request::ListRequest};

static METER: StageMeter = StageMeter::new("history");

/// A listener's history, as the later stages need it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    /// All of it, oldest first.
    pub(crate) items: Vec<ItemIdx>,
    /// The last items that the model knows: what the towers read.
    pub(crate) window: Vec<ItemIdx>,
    /// Their weights, or nothing.
    pub(crate) weights: Vec<f32>,
    /// Items that the model knows before the window.
    pub(crate) before: usize,
    /// Whether the model can read something that the bundle's vectors don't say.
    pub(crate) is_news: bool,
    /// Items that must not be shown; ascending, each once.
    pub(crate) exclude: Vec<ItemIdx>,
    /// Row of the encoded user features.
    pub(crate) features: u32,
    /// Row of the model's user table.
    pub(crate) trained_row: Option<u32>,
}

impl History {
    /// What the towers read.
    pub(crate) fn input(&self) -> UserInput<'_> {
        UserInput {
            features: self.features,
            trained_row: self.trained_row,
            items: &self.window,
            weights: &self.weights,
            before: self.before,
        }
    }
}

pub(crate) fn run(engine: &Engine, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("history", lists = drafts.len()).entered();
    let _timer = METER.start();
    for draft in drafts {
        draft.history = gather(engine, draft.request);
    }
}

fn gather(engine: &Engine, request: &ListRequest) -> History {
    let row = request.listener.row();
    let mut stored = match row {
        Some(row) => engine.stored_input(row),
        None => {
            UserInput { features: engine.feature_row(None), trained_row: None, items: &[], weights: &[], before: 0 }
        }
    };
    let live = request.listener.live();
    let items = [stored.items, live].concat();
    let read: Vec<ItemIdx> = live.iter().copied().filter(|&item| engine.is_trained(item)).collect();
    let size = engine.config.data.window;
    // The window is the end of both together; the bundle's part of it is what the live part leaves room for.
    let from_live = read.len().min(size);
    let from_stored = stored.items.len().min(size - from_live);
    let before = stored.items.len() - from_stored + read.len() - from_live;
    stored.items = &stored.items[stored.items.len() - from_stored..];
    stored.weights = &stored.weights[stored.weights.len().saturating_sub(from_stored)..];
    let window = [stored.items, &read[read.len() - from_live..]].concat();
    let weights = match engine.live_weight() {
        Some(weight) => [stored.weights, &vec![weight; from_live]].concat(),
        None => Vec::new(),
    };
    let mut exclude = Vec::new();
    if request.exclude_seen {
        exclude.clone_from(&items);
        exclude.sort_unstable();
        exclude.dedup();
    }
    History {
        items,
        window,
        weights,
        before,
        is_news: !read.is_empty(),
        exclude,
        features: stored.features,
        trained_row: stored.trained_row,
    }
}
