//! Sixth stage: at most so many items of one group in a list ([`duet_retrieval::diversity`]).

use duet_retrieval::{
    Scored,
    diversity::{GroupBound, varied},
};

use super::Draft;
use crate::{engine::Engine, meters::StageMeter};

static METER: StageMeter = StageMeter::new("diversity");

pub(crate) fn run(engine: &Engine, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("diversity", lists = drafts.len()).entered();
    let _timer = METER.start();
    for draft in drafts {
        choose(engine, &mut draft.candidates, draft.request.k);
    }
}

/// Leaves `k` of the candidates, varied where the engine is to.
pub(crate) fn choose(engine: &Engine, candidates: &mut Vec<Scored>, k: usize) {
    match &engine.options.diversity {
        Some(options) => {
            let bound = GroupBound { groups: &engine.groups, most: options.max_per_group };
            *candidates = varied(candidates, k, Some(bound), None);
        }
        None => candidates.truncate(k),
    }
}
