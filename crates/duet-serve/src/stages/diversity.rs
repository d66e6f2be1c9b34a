//! Sixth stage: at most so many items of one group in a list.
//!
//! In the order of the candidates, each is taken unless its group is full. Where that leaves fewer than K, those passed over fill the
//! list in their order: it is never shorter for being varied. Items without a group are bound by nothing.

use std::collections::HashMap;

use duet_retrieval::Scored;

use super::Draft;
use crate::{
    engine::{Engine, NO_GROUP},
    meters::StageMeter,
};

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
            let group = |entry: &Scored| engine.groups.get(entry.item.index()).copied().unwrap_or(NO_GROUP);
            *candidates = varied(candidates, k, options.max_per_group, group);
        }
        None => candidates.truncate(k),
    }
}

fn varied(candidates: &[Scored], k: usize, most: usize, group: impl Fn(&Scored) -> u32) -> Vec<Scored> {
    let mut taken: HashMap<u32, usize> = HashMap::new();
    let (mut list, mut passed_over) = (Vec::with_capacity(k.min(candidates.len())), Vec::new());
    for entry in candidates {
        if list.len() == k {
            break;
        }
        let group = group(entry);
        let count = taken.entry(group).or_insert(0);
        if group == NO_GROUP || *count < most {
            *count += 1;
            list.push(*entry);
        } else {
            passed_over.push(*entry);
        }
    }
    let lacking = k - list.len();
    list.extend(passed_over.into_iter().take(lacking));
    list
}

#[cfg(test)]
mod tests {
    use duet_core::ItemIdx;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_are_bounded_unless_the_list_would_be_shorter(
            groups in prop::collection::vec(0_u32..5, 0..60), k in 0_usize..30, most in 1_usize..5,
        ) {
            let candidates: Vec<Scored> =
                (0..groups.len()).map(|row| Scored { item: ItemIdx::from(row), score: -(row as f32) }).collect();
            // Group 4 stands for "none".
            let of = |entry: &Scored| match groups[entry.item.index()] { 4 => NO_GROUP, group => group };
            let list = varied(&candidates, k, most, of);
            prop_assert_eq!(list.len(), k.min(candidates.len()));
            let mut items: Vec<u32> = list.iter().map(|entry| entry.item.0).collect();
            items.sort_unstable();
            items.dedup();
            prop_assert_eq!(items.len(), list.len());
            // As many as can be had without breaking the rule come first, in the candidates' order.
            let mut counts = [0; 5];
            let within: Vec<Scored> = candidates.iter().copied().filter(|entry| {
                let group = groups[entry.item.index()] as usize;
                counts[group] += 1;
                group == 4 || counts[group] <= most
            }).take(k).collect();
            prop_assert_eq!(&list[..within.len()], &within[..]);
        }
    }
}
