//! Last stage: K items with their scores and, where they were asked for, reasons.

use super::{Draft, reasons, user_vector::Towers};
use crate::{
    engine::Engine,
    meters::StageMeter,
    request::{AnswerItem, Source},
};

static METER: StageMeter = StageMeter::new("answer");

/// Without `towers` there are no reasons.
pub(crate) fn run(engine: &Engine, mut towers: Option<&mut Towers>, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("answer", lists = drafts.len()).entered();
    let _timer = METER.start();
    for draft in drafts {
        draft.candidates.truncate(draft.request.k);
        let mut reasons = match &mut towers {
            Some(towers) if draft.request.explain && draft.source == Source::Personal => {
                reasons::of(engine, towers, draft).into_iter()
            }
            _ => Vec::new().into_iter(),
        };
        draft.items = draft
            .candidates
            .iter()
            .map(|entry| AnswerItem {
                item: entry.item,
                score: entry.score,
                reasons: reasons.next().unwrap_or_default(),
            })
            .collect();
    }
}
