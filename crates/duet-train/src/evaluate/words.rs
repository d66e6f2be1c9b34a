//! How names, numbers and verdicts are written.

use duet_retrieval::{
    bootstrap::{Interval, PairedDifference},
    verdict::Outcome,
};

use super::groups::{Divided, MeasuredDivision, groups_asked, with_outcome};

/// `two_tower` as it is read.
pub(crate) fn display_name(recommender: &str) -> String {
    recommender.replace('_', "-")
}

/// `ndcg@10` as it is read.
pub(crate) fn display_metric(metric: &str) -> String {
    match metric.split_once('@') {
        Some(("ndcg", k)) => format!("NDCG@{k}"),
        Some(("mrr", k)) => format!("MRR@{k}"),
        Some(("map", k)) => format!("MAP@{k}"),
        Some(("recall", k)) => format!("Recall@{k}"),
        Some(("hit_rate", k)) => format!("HitRate@{k}"),
        _ => metric.to_owned(),
    }
}

/// A mean with its interval.
pub(crate) fn show(interval: Interval) -> String {
    format!("{:.4} [{:.4}, {:.4}]", interval.mean, interval.low, interval.high)
}

/// A difference with its interval, starred where that leaves zero out.
pub(crate) fn show_paired(paired: &PairedDifference) -> String {
    let Interval { mean, low, high } = paired.difference;
    format!("{mean:+.4} [{low:+.4}, {high:+.4}]{}", if paired.is_significant() { " *" } else { "  " })
}

/// A number, or a dash.
pub(crate) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Whom a challenger is shown to be worse for, and better: one line a group, the clearest first.
pub(crate) fn segment_lines(divisions: &[MeasuredDivision]) -> Vec<String> {
    let asked = groups_asked(divisions);
    let mut lines = Vec::new();
    for (outcome, word) in [(Outcome::Worse, "worse"), (Outcome::Better, "better")] {
        let found = with_outcome(divisions, outcome);
        if found.is_empty() {
            lines.push(format!("shown to be {word} for none of {asked} segments"));
            continue;
        }
        lines.push(format!("shown to be {word} for {} of {asked} segments:", found.len()));
        lines.extend(found.iter().map(|(division, group, difference)| {
            let whom = match division.divides {
                Divided::Users => format!("{} users", group.users),
                Divided::Items => format!("such items, {} users", group.users),
            };
            let metric = display_metric(&difference.verdict.metric);
            format!("  {} = {} ({whom}): {metric} {}", division.name, group.label, difference.verdict)
        }));
    }
    lines
}
