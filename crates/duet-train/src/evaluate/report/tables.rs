//! What was measured, as tables.

use duet_retrieval::evaluation::Segment;

use super::{BaselineFacts, Report, SegmentKind};
use crate::{
    evaluate::{
        groups::{MeasuredDivision, MeasuredGroup},
        table::Table,
        words::{display_metric, display_name, number, show, show_paired},
    },
    served::TWO_TOWER,
};

impl Report {
    /// One row a recommender.
    pub fn table(&self) -> Table {
        let (first, last) = self.protocol.cut_offs();
        let (ndcg, recall, deep_recall) =
            (format!("ndcg@{first}"), format!("recall@{first}"), format!("recall@{last}"));
        let reciprocal = format!("mrr@{first}");
        let mut table = Table::new()
            .text("recommender")
            .number(format!("NDCG@{first} [95 %]"))
            .number(format!("Recall@{first} [95 %]"))
            .number(format!("Recall@{last}"))
            .number(format!("MRR@{first}"))
            .number("NDCG warm")
            .number("NDCG cold")
            .number("seconds");
        for evaluation in &self.evaluations {
            let mean =
                |segment: &Segment, metric: &str| number(segment.metric(metric).map(|interval| interval.mean), 4);
            let with_interval = |metric: &str| evaluation.all.metric(metric).map_or_else(|| "-".to_owned(), show);
            table.push([
                display_name(&evaluation.recommender),
                with_interval(&ndcg),
                with_interval(&recall),
                mean(&evaluation.all, &deep_recall),
                mean(&evaluation.all, &reciprocal),
                mean(&evaluation.warm, &ndcg),
                mean(&evaluation.cold, &ndcg),
                format!("{:.2}", evaluation.seconds),
            ]);
        }
        table
    }

    /// One row a recommender: coverage, concentration, popularity, novelty, diversity at the first cut-off.
    pub fn beyond_table(&self) -> Table {
        let (k, _) = self.protocol.cut_offs();
        let mut table = Table::new().text("recommender");
        for name in ["coverage", "Gini", "popularity", "popularity lift", "novelty, bits", "diversity"] {
            table = table.number(format!("{name}@{k}"));
        }
        for evaluation in &self.evaluations {
            let Some(reach) = evaluation.reach.iter().find(|reach| reach.k == k) else { continue };
            table.push([
                display_name(&evaluation.recommender),
                number(Some(reach.coverage), 3),
                number(Some(reach.gini), 3),
                number(Some(reach.popularity), 0),
                reach.popularity_lift.map_or_else(|| "-".to_owned(), |lift| format!("{lift:+.2}")),
                number(Some(reach.novelty), 2),
                number(reach.diversity, 3),
            ]);
        }
        table
    }

    /// One row for every recommender and segment the two-tower is compared with.
    pub fn difference_table(&self) -> Table {
        let mut table = Table::new().text(format!("{} minus", display_name(TWO_TOWER))).text("users");
        let metrics = self.protocol.metrics_of_interest();
        for metric in &metrics {
            table = table.number(format!("{} [95 %]", display_metric(metric)));
        }
        let mut rows: Vec<(&str, SegmentKind)> =
            self.differences.iter().map(|difference| (difference.against.as_str(), difference.segment)).collect();
        rows.dedup();
        let mut last = "";
        for (against, segment) in rows {
            let of = |metric: &String| {
                self.differences.iter().find(|difference| {
                    difference.against == against && difference.segment == segment && difference.metric == *metric
                })
            };
            let users = of(&metrics[0]).map_or(0, |difference| difference.paired.users);
            let cells =
                metrics.iter().map(|metric| of(metric).map_or_else(String::new, |row| show_paired(&row.paired)));
            let name = if against == last { String::new() } else { display_name(against) };
            last = against;
            table.push([name, format!("{} ({users})", segment.as_str())].into_iter().chain(cells));
        }
        table
    }

    /// One row a baseline: what it was fitted with.
    pub fn baseline_table(&self) -> Table {
        let is_tuned = self.baselines.iter().any(|facts| facts.tuned.is_some());
        let mut table = Table::new().text("baseline").text("parameters").number("fit, s");
        if is_tuned {
            table = table.number("tried").number("validation NDCG@10").number("of the defaults");
        }
        for BaselineFacts { name, parameters, tuned, fit_seconds } in &self.baselines {
            let found = tuned.iter().flat_map(|tuned| {
                [tuned.tried.to_string(), format!("{:.4}", tuned.ndcg), format!("{:.4}", tuned.default_ndcg)]
            });
            let row = [(*name).to_owned(), parameters.to_string(), format!("{fit_seconds:.2}")];
            table.push(row.into_iter().chain(found));
        }
        table
    }

    /// New users, or new items: one row a recommender, one column a number of training events.
    pub fn cold_start_table(&self, division: &MeasuredDivision) -> Table {
        let metric = division.groups.first().and_then(|group| group.scores.first()).map(|score| score.metric.as_str());
        let metric = metric.unwrap_or_default();
        let mut table = Table::new().text(format!("{} by {}", display_metric(metric), division.name));
        for group in &division.groups {
            table = table.number(format!("{} ({})", group.label, group.users));
        }
        for evaluation in &self.evaluations {
            let name = evaluation.recommender.as_str();
            let cell = |group: &MeasuredGroup| {
                let mark = group.differences.iter().find(|difference| difference.of == name);
                let mark = mark.map_or("  ", |difference| {
                    let paired = &difference.verdict.paired;
                    match (paired.is_significant(), paired.difference.mean > 0.0) {
                        (true, true) => " +",
                        (true, false) => " -",
                        (false, _) => "  ",
                    }
                });
                number(group.score(name, metric).map(|interval| interval.mean), 4) + mark
            };
            let cells: Vec<String> = division.groups.iter().map(cell).collect();
            table.push([display_name(name)].into_iter().chain(cells));
        }
        table
    }

    /// One row a part of the items by popularity, one column a recommender.
    pub fn exposure_table(&self) -> Table {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let mut table = Table::new().text("items by popularity").number("items").number("listens").number("wanted");
        for evaluation in &self.evaluations {
            table = table.number(display_name(&evaluation.recommender));
        }
        for row in &self.findings.exposure {
            let cells = [row.part.clone(), row.items.to_string(), percent(row.listens), percent(row.wanted)];
            table.push(cells.into_iter().chain(row.shown.iter().map(|shown| percent(shown.share))));
        }
        table
    }

    /// One row a segment: the two-tower, what it is compared with, and the difference.
    pub fn segment_table(&self) -> Table {
        let own = self.evaluations.first().map_or(TWO_TOWER, |evaluation| evaluation.recommender.as_str());
        let against = self.findings.segments.against.as_deref();
        let mut table =
            Table::new().text("by").text("segment").number("users").text("metric").number(display_name(own));
        if let Some(against) = against {
            table = table.number(display_name(against)).number("difference [95 %]").text("verdict, corrected");
        }
        for division in &self.findings.segments.divisions {
            for (at, group) in division.groups.iter().enumerate() {
                let Some(metric) = group.scores.first().map(|score| score.metric.as_str()) else { continue };
                let mean = |name: &str| group.score(name, metric).map_or_else(|| "-".to_owned(), show);
                let compared = against.into_iter().flat_map(|against| {
                    let found = group.differences.iter().find(|difference| difference.against == against);
                    let difference = found.map_or_else(String::new, |found| show_paired(&found.verdict.paired));
                    let verdict = found.map_or("", |found| found.verdict.outcome.as_str());
                    [mean(against), difference, verdict.to_owned()]
                });
                let name = if at == 0 { division.name.clone() } else { String::new() };
                let row = [name, group.label.clone(), group.users.to_string(), display_metric(metric), mean(own)];
                table.push(row.into_iter().chain(compared));
            }
        }
        table
    }
}
