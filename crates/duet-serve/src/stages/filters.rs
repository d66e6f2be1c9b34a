//! Fourth stage: the last word on what may be shown, and K of it.
//!
//! The search was given filter and exclusions already. This holds for whatever made the candidates, and where they are too few, what is
//! played now fills the list: K items come back whenever K are allowed.

use duet_core::ItemIdx;
use duet_retrieval::Scored;

use super::Draft;
use crate::{
    engine::{Engine, rankings::Allowed},
    meters::StageMeter,
};

static METER: StageMeter = StageMeter::new("filters");

pub(crate) fn run(engine: &Engine, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("filters", lists = drafts.len()).entered();
    let _timer = METER.start();
    for draft in drafts {
        let mut candidates = std::mem::take(&mut draft.candidates);
        let allowed = draft.allowed();
        keep(&mut candidates, allowed);
        engine.rankings.fill(&mut candidates, draft.request.k, allowed);
        draft.candidates = candidates;
    }
}

/// Keeps what is allowed, has a score, and was not there before.
pub(crate) fn keep(candidates: &mut Vec<Scored>, allowed: Allowed<'_>) {
    let mut seen: Vec<ItemIdx> = candidates.iter().map(|entry| entry.item).collect();
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        let mut met = std::collections::HashSet::new();
        candidates.retain(|entry| met.insert(entry.item));
    }
    candidates.retain(|entry| entry.score.is_finite() && allowed.contains(entry.item));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_retrieval::ItemFilter;

    use super::*;

    #[test]
    fn what_is_not_allowed_goes_whoever_proposed_it() {
        let scored = |item, score| Scored { item: ItemIdx(item), score };
        let mut candidates =
            vec![scored(4, 9.0), scored(1, 8.0), scored(4, 7.0), scored(2, f32::NAN), scored(3, 6.0), scored(0, 5.0)];
        let filter = ItemFilter::from_items(5, [0, 2, 3, 4].map(ItemIdx)).unwrap();
        keep(&mut candidates, Allowed { filter: Some(&filter), exclude: &[ItemIdx(3)] });
        assert_eq!(candidates, [scored(4, 9.0), scored(0, 5.0)]);
    }
}
