//! Which plots the page has.

use duet_retrieval::{bootstrap::Interval, verdict::Outcome};

use crate::{
    evaluate::{
        groups::MeasuredDivision,
        report::{Report, SegmentKind},
        words::{display_metric, display_name},
    },
    page::{Charts, Curve, Point, Row},
};

/// Curves of a plot at most.
const MOST_CURVES: usize = 6;

fn is_own(report: &Report, name: &str) -> bool {
    report.evaluations.first().is_some_and(|own| own.recommender == name || display_name(&own.recommender) == name)
}

fn class(report: &Report, name: &str) -> &'static str {
    if is_own(report, name) { "own" } else { "" }
}

/// The metrics of all recommenders, best first.
pub(super) fn metrics(report: &Report, charts: &mut Charts) -> Vec<String> {
    let (first, last) = report.protocol.cut_offs();
    [
        (format!("ndcg@{first}"), SegmentKind::All, "all users"),
        (format!("recall@{first}"), SegmentKind::All, "all users"),
        (format!("recall@{last}"), SegmentKind::All, "all users"),
        (format!("ndcg@{first}"), SegmentKind::Cold, "users without training events"),
    ]
    .into_iter()
    .filter_map(|(metric, segment, who)| {
        let rows: Vec<Row> = report
            .chart(&metric, segment)
            .into_iter()
            .map(|(label, interval)| Row { class: class(report, &label), label, interval })
            .collect();
        let title = format!("{}, {who}", display_metric(&metric));
        (!rows.is_empty()).then(|| charts.intervals(&title, &rows, false))
    })
    .collect()
}

/// Accuracy against coverage.
pub(super) fn plane(report: &Report, charts: &mut Charts) -> String {
    let (k, _) = report.protocol.cut_offs();
    let metric = format!("ndcg@{k}");
    let points: Vec<Point> = report
        .evaluations
        .iter()
        .filter_map(|evaluation| {
            let reach = evaluation.reach.iter().find(|reach| reach.k == k)?;
            let (x, y) = (reach.coverage, evaluation.all.metric(&metric)?.mean);
            let label = display_name(&evaluation.recommender);
            Some(Point { class: class(report, &label), label, x, y })
        })
        .collect();
    charts.plane("Accuracy and coverage", &points, (&format!("coverage@{k}"), &display_metric(&metric)))
}

/// The run minus each of the others, over all users.
pub(super) fn differences(report: &Report, charts: &mut Charts) -> Vec<String> {
    let plot = |metric: &String| {
        let rows: Vec<Row> = report
            .differences
            .iter()
            .filter(|difference| difference.segment == SegmentKind::All && difference.metric == *metric)
            .map(|difference| {
                let interval = difference.paired.difference;
                Row { label: format!("minus {}", display_name(&difference.against)), interval, class: side(interval) }
            })
            .collect();
        let title = format!("{}: difference to the others", display_metric(metric));
        (!rows.is_empty()).then(|| charts.intervals(&title, &rows, true))
    };
    report.protocol.metrics_of_interest().iter().filter_map(plot).collect()
}

/// Green where an interval lies above zero, red below.
fn side(interval: Interval) -> &'static str {
    match (interval.low > 0.0, interval.high < 0.0) {
        (true, _) => "good",
        (_, true) => "bad",
        _ => "",
    }
}

/// The first metric over the groups: the run, what it is compared with, and the best others.
pub(super) fn cold_start(report: &Report, division: &MeasuredDivision, charts: &mut Charts) -> String {
    let Some(metric) = division.groups.first().and_then(|group| group.scores.first()).map(|score| score.metric.clone())
    else {
        return String::new();
    };
    let places: Vec<String> = division.groups.iter().map(|group| group.label.clone()).collect();
    let against = report.findings.cold_start.against.as_deref();
    let (k, _) = report.protocol.cut_offs();
    let ndcg = |name: &str| {
        let found = report.evaluation(name).and_then(|evaluation| evaluation.all.metric(&format!("ndcg@{k}")));
        found.map_or(0.0, |interval| interval.mean)
    };
    let mut names: Vec<&str> = report.evaluations.iter().map(|evaluation| evaluation.recommender.as_str()).collect();
    names.sort_by(|a, b| {
        let key = |name: &str| (!is_own(report, name), Some(name) != against);
        key(a).cmp(&key(b)).then(ndcg(b).total_cmp(&ndcg(a)))
    });
    let curve = |name: &&str| Curve {
        name: display_name(name),
        values: division.groups.iter().map(|group| group.score(name, &metric).map(|interval| interval.mean)).collect(),
    };
    let curves: Vec<Curve> = names.iter().take(MOST_CURVES).map(curve).collect();
    charts.curves(&format!("{} by {}", display_metric(&metric), division.name), &places, &curves, None)
}

/// The run on what it learned from and on what it did not.
pub(super) fn fit(report: &Report, charts: &mut Charts) -> Vec<String> {
    let Some(gap) = &report.findings.fit_gap else { return Vec::new() };
    let mut parts = vec![("training sample", &gap.training), ("validation", &gap.validation)];
    parts.extend(gap.test.as_ref().map(|test| ("test", test)));
    let rows: Vec<Row> = parts
        .into_iter()
        .map(|(label, part)| Row {
            label: label.to_owned(),
            interval: part.ndcg,
            class: if gap.alarm || gap.leak { "bad" } else { "own" },
        })
        .collect();
    vec![charts.intervals("NDCG@10 of the run, by part", &rows, false)]
}

/// What the scores promise against what was clicked.
pub(super) fn calibration(report: &Report, charts: &mut Charts) -> String {
    let Some(found) = &report.findings.calibration else { return String::new() };
    let places: Vec<String> = (1..=found.bins.len()).map(|bin| bin.to_string()).collect();
    let curves = [
        Curve {
            name: "probability by the score".to_owned(),
            values: found.bins.iter().map(|bin| Some(bin.probability)).collect(),
        },
        Curve { name: "share clicked".to_owned(), values: found.bins.iter().map(|bin| Some(bin.clicked)).collect() },
    ];
    charts.curves("Impressions by tenths of the score", &places, &curves, None)
}

/// Shares of listens, of what was wanted, and of what is shown.
pub(super) fn exposure(report: &Report, charts: &mut Charts) -> String {
    let rows = &report.findings.exposure;
    let places: Vec<String> =
        rows.iter().map(|row| row.part.split(' ').next().unwrap_or_default().to_owned()).collect();
    let own = report.evaluations.first().map(|evaluation| evaluation.recommender.as_str()).unwrap_or_default();
    let shown = |name: &str| {
        let share = |row: &crate::evaluate::ExposureRow| {
            row.shown.iter().find(|shown| shown.recommender == name).map(|shown| shown.share)
        };
        Curve { name: format!("shown by {}", display_name(name)), values: rows.iter().map(share).collect() }
    };
    let mut curves = vec![
        shown(own),
        Curve { name: "listens".to_owned(), values: rows.iter().map(|row| Some(row.listens)).collect() },
        Curve { name: "wanted".to_owned(), values: rows.iter().map(|row| Some(row.wanted)).collect() },
    ];
    curves.extend(report.findings.segments.against.as_deref().map(shown));
    charts.curves("Shares by popularity of the item", &places, &curves, None)
}

/// Loss and validation by epoch.
pub(super) fn learning(report: &Report, charts: &mut Charts) -> Vec<String> {
    let points = &report.findings.learning;
    let places: Vec<String> = points.iter().map(|point| point.epoch.to_string()).collect();
    let best = points.iter().rposition(|point| point.best);
    let plots = [
        ("NDCG@10 on the validation part", points.iter().map(|point| point.validation_ndcg).collect::<Vec<_>>()),
        ("Training loss", points.iter().map(|point| point.loss).collect()),
    ];
    let has_values = |values: &[Option<f64>]| values.iter().flatten().count() > 0;
    plots
        .into_iter()
        .filter(|(_, values)| has_values(values))
        .map(|(title, values)| charts.curves(title, &places, &[Curve { name: title.to_lowercase(), values }], best))
        .collect()
}

/// The run minus the best baseline, a plot a division.
pub(super) fn segments(report: &Report, charts: &mut Charts) -> Vec<String> {
    let plot = |division: &MeasuredDivision| {
        let rows: Vec<Row> = division
            .groups
            .iter()
            .filter_map(|group| {
                let verdict = &group.differences.first()?.verdict;
                let class = match verdict.outcome {
                    Outcome::Better => "good",
                    Outcome::Worse => "bad",
                    Outcome::NoDifference => "",
                };
                let label = format!("{} ({})", group.label, group.users);
                Some(Row { label, interval: verdict.paired.difference, class })
            })
            .collect();
        let metric = division.groups.first()?.scores.first().map(|score| display_metric(&score.metric))?;
        let against = display_name(report.findings.segments.against.as_deref()?);
        let title = format!("{metric} minus {against}, by {}", division.name);
        (!rows.is_empty()).then(|| charts.intervals(&title, &rows, true))
    };
    report.findings.segments.divisions.iter().filter_map(plot).collect()
}
