//! Lists of a few users, with names: what the numbers look like.

use duet_core::{ItemIdx, Result, table::FeatureTable};
use duet_retrieval::{EvaluationCase, Panel, Query, Recommender};

use super::report::ExampleList;

/// Length of the lists shown.
const SHOWN: usize = 10;
/// Names of the history that are shown.
const LATELY: usize = 5;
/// Fewer events say next to nothing about a taste.
const LEAST_EVENTS: usize = 3;

/// Lists for the user with most training events, one with few and one with none, where there are such.
///
/// # Errors
/// The errors of the recommender.
pub(super) fn examples(recommender: &dyn Recommender, panel: &Panel, items: &FeatureTable) -> Result<Vec<ExampleList>> {
    let cases = panel.cases();
    let heavy = cases.iter().max_by_key(|case| case.history.len()).filter(|case| !case.cold);
    let light = cases
        .iter()
        .filter(|case| case.history.len() >= LEAST_EVENTS)
        .min_by_key(|case| case.history.len())
        .filter(|light| heavy.is_some_and(|heavy| heavy.user_id != light.user_id));
    // Of the new ones the one who found most afterwards says most about the list.
    let new = cases.iter().filter(|case| case.cold).max_by_key(|case| case.truth.len());
    let chosen = [("most events", heavy), ("few events", light), ("no events", new)];
    let example = |(title, case): (&str, &EvaluationCase)| -> Result<ExampleList> {
        let EvaluationCase { user, history, exclude, truth, .. } = case;
        let query = Query { user: *user, history, k: SHOWN, filter: None, exclude };
        let list = recommender.recommend(&[query])?.pop().unwrap_or_default();
        let name = |item: ItemIdx| items.name(item.index()).to_owned();
        let mut lately: Vec<ItemIdx> = Vec::new();
        for &item in history.iter().rev() {
            if lately.len() < LATELY && !lately.contains(&item) {
                lately.push(item);
            }
        }
        Ok(ExampleList {
            title: title.to_owned(),
            events: history.len(),
            lately: lately.into_iter().map(name).collect(),
            list: list.iter().map(|entry| (name(entry.item), truth.contains(&entry.item))).collect(),
        })
    };
    chosen.into_iter().filter_map(|(title, case)| Some((title, case?))).map(example).collect()
}
