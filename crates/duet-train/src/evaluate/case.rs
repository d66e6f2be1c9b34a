//! Held-out events to test users.

use duet_core::{ItemIdx, ids::IdMap};
use duet_data::dataset::{TestUser, Timeline};
use duet_retrieval::EvaluationCase;

/// One case for every user that has something left to find.
///
/// * The truth is the set of the user's held-out items, without those of their own training part unless `keep_seen`.
/// * Held-out items outside the catalogue can't be recommended but were wanted: they count in the denominators.
/// * A user whose truth is empty is left out; a user without training events is cold.
pub fn test_cases(test: &[TestUser], timeline: &Timeline, items: &IdMap, keep_seen: bool) -> Vec<EvaluationCase> {
    let mut cases = Vec::with_capacity(test.len());
    for user in test {
        let history = user.user.map_or(&[][..], |row| timeline.items_of(row));
        let mut seen = history.to_vec();
        seen.sort_unstable();
        seen.dedup();
        let mut wanted: Vec<&str> = user.items.iter().map(String::as_str).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut truth: Vec<ItemIdx> = wanted.iter().filter_map(|id| items.get(id)).map(ItemIdx).collect();
        let unknown_truth = wanted.len() - truth.len();
        if !keep_seen {
            truth.retain(|item| seen.binary_search(item).is_err());
        }
        if truth.is_empty() && unknown_truth == 0 {
            continue;
        }
        cases.push(EvaluationCase {
            user_id: user.id.clone(),
            user: user.user,
            history: history.to_vec(),
            exclude: if keep_seen { Vec::new() } else { seen },
            truth,
            unknown_truth,
            cold: history.is_empty(),
        });
    }
    cases
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::UserIdx;

    use super::*;

    #[test]
    fn truth_is_what_is_left_to_find() {
        let items = IdMap::new(["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
        // u0 had b twice and a; u1 is known but had nothing.
        let timeline =
            Timeline { offsets: vec![0, 3, 3], items: [1, 0, 1].map(ItemIdx).to_vec(), ..Timeline::default() };
        let user = |id: &str, row: Option<u32>, items: &[&str]| TestUser {
            id: id.to_owned(),
            user: row.map(UserIdx),
            items: items.iter().map(|&item| item.to_owned()).collect(),
        };
        let test = [
            user("u0", Some(0), &["c", "b", "c", "new", "new"]),
            user("only-seen", Some(0), &["a"]),
            user("u1", Some(1), &["a"]),
            user("stranger", None, &["new"]),
        ];
        let cases = test_cases(&test, &timeline, &items, false);
        let of = |cases: &[EvaluationCase]| -> Vec<(String, Vec<u32>, usize, bool)> {
            let row = |case: &EvaluationCase| {
                let truth = case.truth.iter().map(|item| item.0).collect();
                (case.user_id.clone(), truth, case.unknown_truth, case.cold)
            };
            cases.iter().map(row).collect()
        };
        let expected = [
            ("u0".to_owned(), vec![2], 1, false),
            ("u1".to_owned(), vec![0], 0, true),
            ("stranger".to_owned(), vec![], 1, true),
        ];
        assert_eq!(of(&cases), expected);
        assert_eq!(cases[0].exclude, [ItemIdx(0), ItemIdx(1)]);
        assert_eq!(cases[0].history, [ItemIdx(1), ItemIdx(0), ItemIdx(1)]);
        let kept = test_cases(&test, &timeline, &items, true);
        assert_eq!(kept.len(), 4);
        assert_eq!((of(&kept)[0].1.clone(), kept[0].exclude.len()), (vec![1, 2], 0));
    }
}
