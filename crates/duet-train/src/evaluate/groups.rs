//! Metrics and paired differences of groups of users, with verdicts that are corrected for all the groups asked about.

use duet_core::Result;
use duet_retrieval::{
    Evaluation,
    bootstrap::{Bootstrap, Interval},
    segments::{Division, FoldLimits, Folded, Group, ItemDivision},
    verdict::{Outcome, Verdict},
};
use serde::Serialize;

/// A mean of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupScore {
    /// Whose lists.
    pub recommender: String,
    /// E.g. `ndcg@10`.
    pub metric: String,
    /// The mean with its interval.
    #[serde(flatten)]
    pub interval: Interval,
}

/// One recommender minus another over a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupDifference {
    /// The first.
    pub of: String,
    /// The second.
    pub against: String,
    /// What the difference says of the first.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A group and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredGroup {
    /// What its users, or the items to be found, have in common.
    pub label: String,
    /// Its users; for items, the users who have some of them to find.
    pub users: usize,
    /// Means.
    pub scores: Vec<GroupScore>,
    /// Differences.
    pub differences: Vec<GroupDifference>,
}

impl MeasuredGroup {
    /// The mean of a recommender by names.
    pub fn score(&self, recommender: &str, metric: &str) -> Option<Interval> {
        let found = self.scores.iter().find(|score| score.recommender == recommender && score.metric == metric);
        found.map(|score| score.interval)
    }
}

/// What a division divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Divided {
    /// Users: metrics over the users of a group.
    Users,
    /// Items: Recall of the test items of a part, over the users who have some.
    Items,
}

/// A division with its groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeasuredDivision {
    /// By what.
    pub name: String,
    /// Of what.
    pub divides: Divided,
    /// The groups.
    pub groups: Vec<MeasuredGroup>,
    /// Groups put together for being small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folded: Option<Folded>,
    /// Groups left out for being small.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Folded>,
}

/// What is measured in each group.
#[derive(Debug, Clone)]
pub(crate) struct Measures<'a> {
    /// The recommenders, all on one panel.
    pub(crate) evaluations: Vec<&'a Evaluation>,
    /// Metrics of users; the first decides.
    pub(crate) metrics: Vec<String>,
    /// Metric of parts of the items: Recall at the first cut-off.
    pub(crate) part_metric: String,
    /// Pairs of places in `evaluations`: the first minus the second.
    pub(crate) pairs: Vec<(usize, usize)>,
}

/// The values of a recommender for a metric, over a group.
struct Column {
    evaluation: usize,
    metric: String,
    values: Vec<f32>,
}

impl Measures<'_> {
    /// Measures a division of the users.
    ///
    /// # Errors
    /// [`duet_core::Error::Input`] if a metric is unknown.
    pub(crate) fn users(&self, division: &Division) -> Result<MeasuredDivision> {
        let group = |group: &Group| -> Result<MeasuredGroup> {
            let mut columns = Vec::with_capacity(self.evaluations.len() * self.metrics.len());
            for (at, evaluation) in self.evaluations.iter().enumerate() {
                for metric in &self.metrics {
                    let all = evaluation.per_user.column(metric)?;
                    let values = group.users.iter().map(|&place| all[place as usize]).collect();
                    columns.push(Column { evaluation: at, metric: metric.clone(), values });
                }
            }
            self.group(&group.label, &columns, &self.metrics[0])
        };
        Ok(MeasuredDivision {
            name: division.name.clone(),
            divides: Divided::Users,
            groups: division.groups.iter().map(group).collect::<Result<_>>()?,
            folded: division.folded.clone(),
            left_out: division.left_out.clone(),
        })
    }

    /// Measures the parts of the items that were evaluated at place `at`; those with fewer users than the limit are left out.
    ///
    /// # Errors
    /// As [`Measures::users`].
    pub(crate) fn items(&self, at: usize, division: &ItemDivision, min_users: usize) -> Result<MeasuredDivision> {
        let Some(first) = self.evaluations.first() else {
            return Err(duet_core::Error::Internal("no recommenders to measure".into()));
        };
        let mut groups = Vec::new();
        let mut small: Vec<(String, usize)> = Vec::new();
        for (part, group) in division.groups(&first.per_user.panel).into_iter().enumerate() {
            match group.users.len() {
                0 => {}
                users if users < min_users => small.push((group.label, users)),
                _ => {
                    let column = |(place, evaluation): (usize, &&Evaluation)| Column {
                        evaluation: place,
                        metric: self.part_metric.clone(),
                        values: evaluation.per_user.part_recall[at][part].clone(),
                    };
                    let columns: Vec<Column> = self.evaluations.iter().enumerate().map(column).collect();
                    groups.push(self.group(&group.label, &columns, &self.part_metric)?);
                }
            }
        }
        let users = small.iter().map(|(_, users)| users).sum();
        let left_out =
            (!small.is_empty()).then(|| Folded { labels: small.into_iter().map(|(label, _)| label).collect(), users });
        Ok(MeasuredDivision { name: division.name.clone(), divides: Divided::Items, groups, folded: None, left_out })
    }

    fn group(&self, label: &str, columns: &[Column], decisive: &str) -> Result<MeasuredGroup> {
        let slices: Vec<&[f32]> = columns.iter().map(|column| column.values.as_slice()).collect();
        // All evaluations of a panel share resamples and seed.
        let Evaluation { resamples, seed, .. } = self.evaluations[0];
        let resampled = Bootstrap::new(&slices, *resamples, *seed)?;
        let name = |at: usize| self.evaluations[at].recommender.clone();
        let place = |evaluation: usize| {
            columns.iter().position(|column| column.evaluation == evaluation && column.metric == decisive)
        };
        let difference = |&(of, against): &(usize, usize)| {
            let paired = resampled.difference(place(of)?, place(against)?);
            let verdict = Verdict::alone(decisive, paired);
            Some(GroupDifference { of: name(of), against: name(against), verdict })
        };
        let score = |(at, column): (usize, &Column)| GroupScore {
            recommender: name(column.evaluation),
            metric: column.metric.clone(),
            interval: resampled.interval(at),
        };
        Ok(MeasuredGroup {
            label: label.to_owned(),
            users: resampled.users(),
            scores: columns.iter().enumerate().map(score).collect(),
            differences: self.pairs.iter().filter_map(difference).collect(),
        })
    }
}

/// Corrects all verdicts on a pair of recommenders over all groups of all divisions ([`duet_retrieval::verdict::holm`]).
pub(crate) fn correct(divisions: &mut [MeasuredDivision]) {
    let mut all: Vec<&mut GroupDifference> = divisions
        .iter_mut()
        .flat_map(|division| &mut division.groups)
        .flat_map(|group| &mut group.differences)
        .collect();
    let mut pairs: Vec<(String, String)> = all.iter().map(|one| (one.of.clone(), one.against.clone())).collect();
    pairs.sort();
    pairs.dedup();
    for (of, against) in pairs {
        let family: Vec<&mut &mut GroupDifference> =
            all.iter_mut().filter(|one| one.of == of && one.against == against).collect();
        let tests: Vec<_> = family.iter().map(|one| (one.verdict.metric.clone(), one.verdict.paired)).collect();
        for (one, verdict) in family.into_iter().zip(Verdict::family(tests)) {
            one.verdict = verdict;
        }
    }
}

/// The groups for which a verdict is of this outcome, the clearest first: division, group, difference.
pub(crate) fn with_outcome(
    divisions: &[MeasuredDivision],
    outcome: Outcome,
) -> Vec<(&MeasuredDivision, &MeasuredGroup, &GroupDifference)> {
    let mut found: Vec<_> = divisions
        .iter()
        .flat_map(|division| division.groups.iter().map(move |group| (division, group)))
        .flat_map(|(division, group)| group.differences.iter().map(move |one| (division, group, one)))
        .filter(|(_, _, one)| one.verdict.outcome == outcome)
        .collect();
    let p = |one: &GroupDifference| one.verdict.adjusted_p.unwrap_or(one.verdict.paired.p_value);
    found.sort_by(|a, b| p(a.2).total_cmp(&p(b.2)).then(b.1.users.cmp(&a.1.users)));
    found
}

/// How many groups were asked about.
pub(crate) fn groups_asked(divisions: &[MeasuredDivision]) -> usize {
    divisions.iter().map(|division| division.groups.len()).sum()
}

/// One line a division of what was folded or left out; empty if nothing was.
pub(crate) fn fold_notes(divisions: &[MeasuredDivision], limits: FoldLimits) -> Vec<String> {
    const NAMED: usize = 6;
    let names = |folded: &Folded| {
        let named = folded.labels.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        match folded.labels.len() {
            more if more > NAMED => format!("{named} and {} more", more - NAMED),
            _ => named,
        }
    };
    let note = |division: &MeasuredDivision| {
        let name = &division.name;
        let min = limits.min_users;
        let folded = division.folded.as_ref().map(|folded| {
            format!(
                "{name}: {} groups of few users ({}) are one, with {} users",
                folded.labels.len(),
                names(folded),
                folded.users
            )
        });
        let left_out = division.left_out.as_ref().map(|out| {
            format!("{name}: left out for having fewer than {min} users, {} in all: {}", out.users, names(out))
        });
        folded.into_iter().chain(left_out)
    };
    divisions.iter().flat_map(note).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use duet_core::{ItemIdx, UserIdx};
    use duet_retrieval::{
        EvaluationCase, EvaluationOptions, Panel, Query, Recommender, Scored,
        evaluation::{CatalogueInfo, evaluate},
    };

    use super::*;

    /// Gives every user their own list, right or wrong.
    pub(crate) struct Told {
        name: &'static str,
        is_right: fn(usize) -> bool,
    }

    impl Recommender for Told {
        fn name(&self) -> &str {
            self.name
        }

        fn is_exact(&self) -> bool {
            true
        }

        fn recommend(&self, queries: &[Query<'_>]) -> Result<Vec<Vec<Scored>>> {
            let list = |query: &Query<'_>| {
                let user = query.user.unwrap().index();
                // The item to find is 0 for even users, 1 for odd ones; 2 is never right.
                let item = if (self.is_right)(user) { user as u32 % 2 } else { 2 };
                vec![Scored { item: ItemIdx(item), score: 1.0 }]
            };
            Ok(queries.iter().map(list).collect())
        }

        fn similar(&self, _: ItemIdx, _: usize) -> Result<Vec<Scored>> {
            Ok(Vec::new())
        }
    }

    fn evaluations() -> Vec<Evaluation> {
        let case = |user: u32| EvaluationCase {
            user_id: format!("u{user}"),
            user: Some(UserIdx(user)),
            history: Vec::new(),
            exclude: Vec::new(),
            truth: vec![ItemIdx(user % 2)],
            unknown_truth: 0,
            cold: false,
        };
        let panel = Panel::new((0..400).map(case).collect()).unwrap();
        let parts = [ItemDivision {
            name: "parity".into(),
            labels: vec!["even".into(), "odd".into(), "never".into()],
            parts: vec![Some(0), Some(1), Some(2)],
        }];
        let catalogue = CatalogueInfo { divisions: &parts, ..CatalogueInfo::new(&[1, 1, 1], 1) };
        let options = EvaluationOptions { ks: vec![1], ..EvaluationOptions::default() };
        let measure = |name, is_right| evaluate(&Told { name, is_right }, &panel, catalogue, &options).unwrap();
        // The challenger loses among the first hundred users alone, and there half.
        vec![
            measure("champion", |user| user % 5 != 0),
            measure("challenger", |user| if user < 100 { user % 5 != 0 && user % 2 == 0 } else { user % 5 != 1 }),
        ]
    }

    #[test]
    fn a_planted_loss_is_named_and_nothing_else() {
        let evaluations = evaluations();
        let measures = Measures {
            evaluations: evaluations.iter().collect(),
            metrics: vec!["ndcg@1".into(), "recall@1".into()],
            part_metric: "recall@1".into(),
            pairs: vec![(1, 0)],
        };
        let groups = |size: u32| {
            (0..400 / size).map(move |at| Group {
                label: format!("{} to {}", at * size, (at + 1) * size - 1),
                users: (at * size..(at + 1) * size).collect(),
            })
        };
        let limits = FoldLimits { min_users: 50, max_groups: 30 };
        let hundreds = Division::fold("hundreds", groups(100).collect(), limits);
        let fifties = Division::fold("fifties", groups(50).collect(), limits);
        let parity = ItemDivision {
            name: "parity".into(),
            labels: vec!["even".into(), "odd".into(), "never".into()],
            parts: vec![Some(0), Some(1), Some(2)],
        };
        let mut divisions = vec![
            measures.users(&hundreds).unwrap(),
            measures.users(&fifties).unwrap(),
            measures.items(0, &parity, 50).unwrap(),
        ];
        assert_eq!(divisions[2].groups.iter().map(|group| group.users).collect::<Vec<_>>(), [200, 200]);
        correct(&mut divisions);
        assert_eq!(groups_asked(&divisions), 4 + 8 + 2);
        let worse: Vec<&str> =
            with_outcome(&divisions, Outcome::Worse).iter().map(|(_, group, _)| group.label.as_str()).collect();
        // Odd users of the first hundred lost .4 of 200 odd users' Recall .2: seen among the items too.
        assert_eq!(worse, ["0 to 99", "0 to 49", "50 to 99", "odd"]);
        let first = &divisions[0].groups[0];
        assert_eq!(first.score("champion", "recall@1").unwrap().mean.to_string(), "0.8");
        let difference = &first.differences[0];
        assert_eq!((difference.of.as_str(), difference.against.as_str()), ("challenger", "champion"));
        assert!((difference.verdict.paired.difference.mean + 0.4).abs() < 1e-6);
        assert!(difference.verdict.adjusted_p.unwrap() > difference.verdict.paired.p_value);
        let small = measures.items(0, &parity, 300).unwrap();
        assert_eq!((small.groups.len(), small.left_out.as_ref().unwrap().users), (0, 400));
        let notes = fold_notes(&[small], limits);
        assert!(notes[0].contains("even; odd") && notes[0].contains("fewer than 50"), "{notes:?}");
    }
}
