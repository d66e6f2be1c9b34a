//! Second stage: the listener's vector.
//!
//! Whoever did nothing since the export has it in the bundle already. All others of a batch go through the user tower together. A tower
//! that fails costs the news and not the list: the vector of the export serves once more, where there is one.

use std::sync::Arc;

use duet_model::model::TwoTower;
use duet_train::embedding_pass::UserEmbedder;

use super::Draft;
use crate::{engine::Engine, meters::StageMeter, request::Source, variants::Arm};

static METER: StageMeter = StageMeter::new("user_vector");

/// The towers of a worker.
pub(crate) type Towers = UserEmbedder<Arc<TwoTower>>;

/// What is told where the tower gives no vector, or the making of a list panicked.
pub(crate) const TOWER_FAILED: &str = "tower_failed";

pub(crate) fn run(engine: &Engine, towers: &mut Towers, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("user_vector", lists = drafts.len()).entered();
    let _timer = METER.start();
    for draft in drafts.iter_mut().filter(|draft| draft.request.variant.recommender == Arm::TwoTower) {
        draft.vector = stored(engine, draft);
        if draft.vector.is_some() || draft.history.is_news {
            draft.source = Source::Personal;
        }
    }
    let mut live: Vec<&mut Draft<'_>> =
        drafts.iter_mut().filter(|draft| draft.source == Source::Personal && draft.history.is_news).collect();
    if live.is_empty() {
        return;
    }
    let vectors = towers.embed(&engine.config, &engine.user_features, live.iter().map(|draft| draft.history.input()));
    let width = towers.width();
    let vectors = vectors.unwrap_or_else(|error| {
        tracing::error!(%error, "the user tower failed");
        Vec::new()
    });
    for (at, draft) in live.iter_mut().enumerate() {
        match vectors.get(at * width..(at + 1) * width) {
            Some(vector) if vector.iter().all(|value| value.is_finite()) => draft.vector = Some(vector.to_vec()),
            _ => {
                draft.degraded.push(TOWER_FAILED);
                if draft.vector.is_none() {
                    draft.source = Source::Trending;
                }
            }
        }
    }
}

fn stored(engine: &Engine, draft: &Draft<'_>) -> Option<Vec<f32>> {
    let row = draft.request.listener.row().filter(|&row| engine.knows(row))?;
    Some(engine.user_vectors.row(row.index()).to_vec())
}
