//! "Because you listened to ...": which items of the history moved a score most.
//!
//! Method: leaving one out. The user tower runs once more, as one batch, on the history without each of its last [`MOST_LEFT_OUT`]
//! different items; what an item's score (the dot product of the two towers) falls by is what the left-out item did for it. That holds
//! for every history encoder, the residual network on top included. The falls are divided by their sum, items that spoke against are
//! left away, and the strongest [`MOST_REASONS`] are told. Shares do not say that the items caused anything in people, and what two items
//! of the history say alike is credited to neither. A re-ranker's part is not explained.

use duet_core::ItemIdx;
use duet_retrieval::search::VectorSearch;
use duet_train::embedding_pass::UserInput;

use super::{Draft, user_vector::Towers};
use crate::{engine::Engine, request::Reason};

/// Items of the history that are left out in turn: the last of them, for they weigh most.
const MOST_LEFT_OUT: usize = 20;
/// Reasons of an item.
const MOST_REASONS: usize = 3;

/// The reasons of every candidate; nothing at all if the tower fails.
pub(crate) fn of(engine: &Engine, towers: &mut Towers, draft: &Draft<'_>) -> Vec<Vec<Reason>> {
    let Some(vector) = &draft.vector else { return Vec::new() };
    let history = &draft.history;
    let mut left_out: Vec<ItemIdx> = Vec::new();
    for &item in history.window.iter().rev() {
        if left_out.len() < MOST_LEFT_OUT && !left_out.contains(&item) {
            left_out.push(item);
        }
    }
    if left_out.is_empty() {
        return Vec::new();
    }
    let rests: Vec<(Vec<ItemIdx>, Vec<f32>)> = left_out.iter().map(|&item| without(history, item)).collect();
    let inputs = rests.iter().map(|(items, weights)| UserInput {
        items,
        weights,
        // The history is as long as before: only what the item says is missing.
        before: history.before + history.window.len() - items.len(),
        ..history.input()
    });
    let vectors = match towers.embed(&engine.config, &engine.user_features, inputs) {
        Ok(vectors) => vectors,
        Err(error) => {
            tracing::error!(%error, "no reasons: the user tower failed");
            return Vec::new();
        }
    };
    let width = towers.width();
    let items = engine.index.vectors();
    draft
        .candidates
        .iter()
        .map(|entry| {
            let item = items.row(entry.item.index());
            let score = dot(vector, item);
            let falls = left_out
                .iter()
                .zip(vectors.chunks_exact(width))
                .map(|(&left_out, vector)| Reason { item: left_out, share: score - dot(vector, item) });
            shares(falls.collect())
        })
        .collect()
}

fn without(history: &super::history::History, item: ItemIdx) -> (Vec<ItemIdx>, Vec<f32>) {
    let kept = |at: &usize| history.window[*at] != item;
    let places = || (0..history.window.len()).filter(kept);
    let weights = places().filter_map(|at| history.weights.get(at).copied());
    (places().map(|at| history.window[at]).collect(), weights.collect())
}

/// Falls of a score to shares of what spoke for it, the strongest first.
fn shares(mut falls: Vec<Reason>) -> Vec<Reason> {
    falls.retain(|fall| fall.share > 0.0 && fall.share.is_finite());
    let total: f32 = falls.iter().map(|fall| fall.share).sum();
    falls.sort_by(|left, right| right.share.total_cmp(&left.share).then(left.item.cmp(&right.item)));
    falls.truncate(MOST_REASONS);
    falls.into_iter().map(|fall| Reason { share: fall.share / total, ..fall }).collect()
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_what_spoke_for_the_item() {
        let fall = |item, share| Reason { item: ItemIdx(item), share };
        let falls = vec![fall(1, 0.1), fall(2, -5.0), fall(3, 0.6), fall(4, 0.2), fall(5, 0.1), fall(6, f32::NAN)];
        let told = shares(falls);
        let expected = [(3, 0.6), (4, 0.2), (1, 0.1)];
        assert_eq!(told.len(), 3);
        for (reason, (item, share)) in told.iter().zip(expected) {
            assert!(reason.item.0 == item && (reason.share - share).abs() < 1e-6, "{told:?}");
        }
        assert!(shares(vec![fall(1, -1.0)]).is_empty());
    }
}
