//! Fairness to artists: who is shown, against who is listened to.

use duet_retrieval::{Evaluation, segments::ItemDivision};
use serde::Serialize;

/// The share of what is shown that a recommender gives to a part of the items.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownShare {
    /// Whose lists.
    pub recommender: String,
    /// Share of all places within the first cut-off.
    pub share: f64,
}

/// A part of the items and its shares.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExposureRow {
    /// The part, by popularity.
    pub part: String,
    /// Items in it.
    pub items: usize,
    /// Its share of the training listens (distinct listeners of each item).
    pub listens: f64,
    /// Its share of the test items.
    pub wanted: f64,
    /// Its share of each recommender's lists.
    pub shown: Vec<ShownShare>,
}

/// One row a part. `popularity`: training listeners of each item.
pub(super) fn exposure(division: &ItemDivision, popularity: &[u32], evaluations: &[Evaluation]) -> Vec<ExposureRow> {
    let mut wanted = vec![0_u32; popularity.len()];
    if let Some(first) = evaluations.first() {
        for item in first.per_user.panel.cases().iter().flat_map(|case| &case.truth) {
            wanted[item.index()] += 1;
        }
    }
    let (listens, wanted) = (division.shares(popularity), division.shares(&wanted));
    let shown: Vec<(&str, Vec<f64>)> = evaluations
        .iter()
        .map(|evaluation| (evaluation.recommender.as_str(), division.shares(&evaluation.exposure)))
        .collect();
    let row = |(part, label): (usize, &String)| ExposureRow {
        part: label.clone(),
        items: division.parts.iter().filter(|of| **of == Some(part as u8)).count(),
        listens: listens[part],
        wanted: wanted[part],
        shown: shown
            .iter()
            .map(|(name, shares)| ShownShare { recommender: (*name).to_owned(), share: shares[part] })
            .collect(),
    };
    division.labels.iter().enumerate().map(row).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, UserIdx};
    use duet_retrieval::{
        EvaluationCase, EvaluationOptions, Panel,
        baselines::Popularity,
        evaluation::{CatalogueInfo, evaluate},
        segments::popularity_parts,
    };

    use super::*;

    #[test]
    fn popularity_shows_the_head_alone() {
        let counts = [20, 20, 20, 20, 10, 10];
        let case = |user: u32| EvaluationCase {
            user_id: format!("u{user}"),
            user: Some(UserIdx(user)),
            history: Vec::new(),
            exclude: Vec::new(),
            truth: vec![ItemIdx(user), ItemIdx(5)],
            unknown_truth: 0,
            cold: true,
        };
        let panel = Panel::new((0..4).map(case).collect()).unwrap();
        let options = EvaluationOptions { ks: vec![2], ..EvaluationOptions::default() };
        let popular = Popularity::from_counts(&counts);
        let evaluation = evaluate(&popular, &panel, CatalogueInfo::new(&counts, 50), &options).unwrap();
        let rows = exposure(&popularity_parts(&counts), &counts, &[evaluation]);
        let shares: Vec<(usize, f64, f64, f64)> =
            rows.iter().map(|row| (row.items, row.listens, row.wanted, row.shown[0].share)).collect();
        // Lists are 0 1; wanted are 0, 1, 2, 3 and four times 5.
        assert_eq!(shares, [(1, 0.2, 0.125, 0.5), (3, 0.6, 0.375, 0.5), (2, 0.2, 0.5, 0.0), (0, 0.0, 0.0, 0.0)]);
        assert_eq!(rows[0].shown[0].recommender, "popularity");
    }
}
