//! The report as one page with plots.

use std::fmt::Write;

use duet_core::markup::escape;

use super::{MonitorReport, Rate, Retention, SliceReport};
use crate::page::{Charts, Curve, Row, document, escape_lines, row, scroll};

/// Curves of a plot at most: there are no more colours.
const MOST_CURVES: usize = 6;
/// Slices by which the model is served, not by who is served.
const SERVING: [&str; 5] = ["all", "variant", "bundle", "source", "degraded"];
const POSITION: &str = "position";

/// The whole page.
pub(super) fn page(report: &MonitorReport) -> String {
    let mut charts = Charts::default();
    let mut body = format!("<h1>Monitoring of served lists</h1>\n<p>{}</p>\n", escape(&report.headline()));
    body += &alarms(report);
    let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(&report.guarantee()));

    body += "<section>\n<h2>Clicks, completion, follows</h2>\n";
    body += &row(&[
        daily(report, &mut charts, "Clicks of 100 impressions, by day", |figures| figures.clicks_per_100),
        daily(report, &mut charts, "Completion in percent, by day", |figures| figures.completion_percent),
        daily(report, &mut charts, "Follows of 100 impressions, by day", |figures| figures.follows_per_100),
    ]);
    body += &scroll(&report.slice_table(|by| SERVING.contains(&by)));
    body += "</section>\n<section>\n<h2>Positions</h2>\n";
    body += &row(&[rates(report, &mut charts, "Clicks of 100 impressions, by position", |by| by == POSITION)]);
    body += "</section>\n";
    body += &segments(report, &mut charts);
    body += &retention(report, &mut charts);

    body += "<section>\n<h2>Champion and challengers</h2>\n";
    let verdicts: Vec<String> = report.verdicts.iter().map(super::OnlineVerdict::sentence).collect();
    body += &match verdicts.is_empty() {
        true => "<p class=\"note\">Nothing to compare.</p>\n".to_owned(),
        false => format!("<pre>{}</pre>\n", escape_lines(&verdicts.join("\n"))),
    };
    if !report.verdicts.is_empty() {
        let rows: Vec<Row> = report
            .verdicts
            .iter()
            .map(|verdict| Row {
                label: verdict.variant.clone(),
                interval: verdict.difference,
                class: match verdict.outcome {
                    duet_retrieval::verdict::Outcome::Better => "good",
                    duet_retrieval::verdict::Outcome::Worse => "bad",
                    duet_retrieval::verdict::Outcome::NoDifference => "",
                },
            })
            .collect();
        let title = format!("Difference to {}, clicks of 100 impressions", report.control);
        body += &row(&[charts.intervals(&title, &rows, true)]);
    }
    let _ = write!(
        body,
        "</section>\n<section>\n<h2>Watched for drops</h2>\n<details><summary>All series</summary>\n{}</details>\n</section>\n",
        scroll(&report.watch_table())
    );
    if !report.shifts.is_empty() {
        let _ = write!(body, "<section>\n<h2>Drift from training</h2>\n{}</section>\n", scroll(&report.shift_table()));
    }
    if let Some(found) = &report.over_fit {
        let _ = write!(body, "<section>\n<h2>Over-fitting</h2>\n<p>{}.</p>\n</section>\n", escape(&found.sentence()));
    }
    body += "<section>\n<h2>What was read</h2>\n<ul>\n";
    for line in report.input_lines().iter().chain(&report.notes).chain(&report.fold_lines()) {
        let _ = writeln!(body, "<li>{}</li>", escape(line));
    }
    let _ = write!(body, "</ul>\n<p class=\"note\">Made {}.</p>\n</section>\n", escape(&report.made_at));
    document("duet: monitoring", &body)
}

fn alarms(report: &MonitorReport) -> String {
    if report.alarms.is_empty() {
        return String::new();
    }
    let lines: String = report.alarms.iter().map(|alarm| format!("<li>{}</li>\n", escape(&alarm.message))).collect();
    format!("<section aria-label=\"Alarms\">\n<h2>Alarms</h2>\n<ul>\n{lines}</ul>\n</section>\n")
}

/// A rate of all lists, or of each variant where there are several, by day.
fn daily(
    report: &MonitorReport,
    charts: &mut Charts,
    title: &str,
    rate: impl Fn(&super::Figures) -> Option<Rate>,
) -> String {
    let mut places: Vec<String> =
        report.slices.first().map(|all| all.days.iter().map(|day| day.day.clone()).collect()).unwrap_or_default();
    let variants: Vec<&SliceReport> = report.slices.iter().filter(|slice| slice.by == "variant").collect();
    let drawn: Vec<&SliceReport> = match variants.len() {
        0 | 1 => report.slices.iter().take(1).collect(),
        _ => variants.into_iter().take(MOST_CURVES).collect(),
    };
    let curve = |slice: &&SliceReport| Curve {
        name: slice.value.clone(),
        values: places
            .iter()
            .map(|place| {
                let at = slice.days.binary_search_by(|day| day.day.as_str().cmp(place)).ok()?;
                Some(rate(&slice.days[at].figures)?.value)
            })
            .collect(),
    };
    let curves: Vec<Curve> = drawn.iter().map(curve).filter(|curve| curve.values.iter().any(Option::is_some)).collect();
    if curves.is_empty() {
        return String::new();
    }
    // The year is the same nearly everywhere, and the title of the page has it.
    places.iter_mut().for_each(|place| *place = place.get(5..).unwrap_or_default().to_owned());
    charts.curves(title, &places, &curves, None)
}

/// Click rates of slices with their intervals.
fn rates(report: &MonitorReport, charts: &mut Charts, title: &str, by: impl Fn(&str) -> bool) -> String {
    let rows: Vec<Row> = report
        .slices
        .iter()
        .filter(|slice| by(&slice.by))
        .filter_map(|slice| {
            let rate = slice.overall.clicks_per_100?;
            Some(Row { label: slice.value.clone(), interval: rate.interval(), class: "own" })
        })
        .collect();
    if rows.is_empty() { String::new() } else { charts.intervals(title, &rows, false) }
}

fn segments(report: &MonitorReport, charts: &mut Charts) -> String {
    let is_segment = |by: &str| by != POSITION && !SERVING.contains(&by);
    let mut columns: Vec<&str> =
        report.slices.iter().map(|slice| slice.by.as_str()).filter(|by| is_segment(by)).collect();
    columns.dedup();
    if columns.is_empty() {
        return String::new();
    }
    let plots: Vec<String> = columns
        .iter()
        .map(|column| rates(report, charts, &format!("Clicks of 100 impressions, by {column}"), |by| by == *column))
        .collect();
    format!(
        "<section>\n<h2>Segments</h2>\n{}<details><summary>All segments</summary>\n{}</details>\n</section>\n",
        row(&plots),
        scroll(&report.slice_table(is_segment))
    )
}

fn retention(report: &MonitorReport, charts: &mut Charts) -> String {
    let mut gaps: Vec<u32> = report.retention.iter().map(|found| found.silent_days).collect();
    gaps.dedup();
    let mut plots = Vec::new();
    for gap in gaps {
        let of = |by: &str| -> Vec<&Retention> {
            let is_drawn = |found: &&Retention| found.silent_days == gap && found.by == by && !found.curve.is_empty();
            report.retention.iter().filter(is_drawn).take(MOST_CURVES).collect()
        };
        let variants = of("variant");
        let drawn = if variants.len() > 1 { variants } else { of("all") };
        let longest = drawn.iter().map(|found| found.curve.len()).max().unwrap_or(0);
        if longest == 0 {
            continue;
        }
        let places: Vec<String> = (0..longest).map(|day| day.to_string()).collect();
        let curves: Vec<Curve> = drawn
            .iter()
            .map(|found| Curve {
                name: found.value.clone(),
                values: (0..longest).map(|day| Some(found.curve.get(day)?.survival)).collect(),
            })
            .collect();
        let title = format!("Share of users still there, by days since the first list ({gap} silent days are churn)");
        plots.push(charts.curves(&title, &places, &curves, None));
    }
    let none = if plots.is_empty() { "<p class=\"note\">The data are too short for a curve.</p>\n" } else { "" };
    format!(
        "<section>\n<h2>Churn and retention</h2>\n{none}{}<details><summary>All groups</summary>\n{}</details>\n</section>\n",
        row(&plots),
        scroll(&report.retention_table())
    )
}
